/**
 * The terminal as commands see it: text out, notes aside, Ctrl-C as an abort signal.
 *
 * stdout carries only what was asked for, so that it can be piped; everything about the run goes to stderr.
 * @module
 */

import process from 'node:process';
import { BitnetError } from '../errors.ts';

export interface Io {
  /** Writes to stdout; resolves when the reader keeps up. Quietly does nothing once the reader has gone. */
  write(text: string): Promise<void>;
  /** A line on stderr. */
  note(text: string): void;
  /** Replaces the last line of stderr, if that is a terminal; `''` clears it. */
  status(text: string): void;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly inIsTerminal: boolean;
  readonly outIsTerminal: boolean;
  readonly errIsTerminal: boolean;
  /** Aborted by Ctrl-C and when nobody reads stdout any more. */
  readonly signal: AbortSignal;
  /** Sends Ctrl-C to `handler` instead, until the returned function is called. */
  interceptInterrupt(handler: () => void): () => void;
  /** All of stdin as text. */
  readAll(): Promise<string>;
}

const STATUS_INTERVAL_MS = 50;

/** Why `signal` was aborted. */
export class Interrupted extends Error {
  override readonly name = 'AbortError';
  readonly exitCode: number;

  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** The real terminal. Call `close` when done, or listeners keep the process alive on some runtimes. */
export function openIo(): Io & { close(): void } {
  const { stdin, stdout, stderr, env } = process;
  const controller = new AbortController();
  let gone = false;
  let statusShown = false;
  let statusMs = -Infinity;

  let interrupt = (): void => {
    // The second Ctrl-C does not wait for anything.
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new Interrupted('interrupted', 130));
  };
  const onInterrupt = (): void => interrupt();
  process.on('SIGINT', onInterrupt);
  // What a shell or a supervisor sends: unfinished files go, as after Ctrl-C. The numbers are those that shells give.
  const terminations = (
    [
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const
  ).map(([name, code]) => {
    const stop = (): void => {
      if (controller.signal.aborted) process.exit(code);
      controller.abort(new Interrupted('terminated', code));
    };
    process.on(name, stop);
    return () => void process.off(name, stop);
  });

  // `bitnet run | head`: the reader leaving early is no failure.
  const onOutError = (error: NodeJS.ErrnoException): void => {
    gone = true;
    if (controller.signal.aborted) return;
    // `head` leaving early is no failure; a full disk is.
    if (error.code === 'EPIPE') controller.abort(new Interrupted('nobody reads stdout', 0));
    else controller.abort(new BitnetError('io', error.message, { where: 'stdout' }, error));
  };
  const onErrError = (): void => {};
  stdout.on('error', onOutError);
  stderr.on('error', onErrError);

  const status = (text: string): void => {
    if (stderr.isTTY !== true || (text === '' && !statusShown)) return;
    // Faster than anybody reads; a terminal should not be what takes the time.
    const now = performance.now();
    if (text !== '' && now - statusMs < STATUS_INTERVAL_MS) return;
    statusMs = now;
    statusShown = text !== '';
    stderr.write(`\r\x1b[K${text}`);
  };

  return {
    async write(text) {
      if (gone || text === '') return;
      if (stdout.write(text)) return;
      await new Promise<void>((resolve) => {
        const done = (): void => {
          stdout.off('drain', done).off('error', done).off('close', done);
          resolve();
        };
        stdout.on('drain', done).on('error', done).on('close', done);
      });
    },
    note(text) {
      status('');
      stderr.write(`${text}\n`);
    },
    status,
    env,
    inIsTerminal: stdin.isTTY === true,
    outIsTerminal: stdout.isTTY === true,
    errIsTerminal: stderr.isTTY === true,
    signal: controller.signal,
    interceptInterrupt(handler) {
      const before = interrupt;
      interrupt = handler;
      return () => {
        interrupt = before;
      };
    },
    async readAll() {
      const chunks: Uint8Array[] = [];
      for await (const chunk of stdin) chunks.push(chunk as Uint8Array);
      return new TextDecoder().decode(Buffer.concat(chunks));
    },
    close() {
      process.off('SIGINT', onInterrupt);
      for (const remove of terminations) remove();
      // The error listeners stay: an EPIPE may still be on its way while the process ends.
    },
  };
}
