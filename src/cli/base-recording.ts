/**
 * Saving a base for KL divergence while perplexity is measured, also over several runs: what is not complete lies under
 * another name, as long as the state file is there to go on from.
 * @module
 */

import { type FileHandle, open, rename, stat } from 'node:fs/promises';
import { want } from '../errors.ts';
import { createFileSink, ioError } from '../platform/source-node.ts';
import type { Measurement, Saved } from '../quality/index.ts';
import { sha256 } from './file-hash.ts';

/** Where windows go. */
export interface Recording {
  /** Takes up what `done` windows left behind; called before the first `append`. */
  begin(done: number): Promise<void>;
  append(rows: Uint8Array): Promise<void>;
  /** The file appears under its name. */
  finish(): Promise<void>;
  /** Gives up, unless it has finished: what a state file can go on from stays. */
  abort(): Promise<void>;
  /** Puts what must be known to go on into the state of the measurement. */
  tracked<R>(measurement: Measurement<R>): Measurement<R>;
}

/** `windowBytes` follow the header for each window. */
export function createRecording(path: string, header: Uint8Array, windowBytes: number, resumable: boolean): Recording {
  return resumable ? new PartRecording(path, header, windowBytes) : new SinkRecording(path, header);
}

class SinkRecording implements Recording {
  readonly #path: string;
  readonly #header: Uint8Array;
  #sink: Awaited<ReturnType<typeof createFileSink>> | undefined;

  constructor(path: string, header: Uint8Array) {
    this.#path = path;
    this.#header = header;
  }

  async begin(): Promise<void> {
    this.#sink = await createFileSink(this.#path);
    await this.#sink.write(this.#header);
  }

  async append(rows: Uint8Array): Promise<void> {
    await this.#sink!.write(rows);
  }

  async finish(): Promise<void> {
    await this.#sink!.close();
  }

  async abort(): Promise<void> {
    await this.#sink?.abort();
  }

  tracked<R>(measurement: Measurement<R>): Measurement<R> {
    return measurement;
  }
}

/** Appends to `PATH.part`. The state knows how many windows it has, and the digest of the last of them. */
class PartRecording implements Recording {
  readonly #path: string;
  readonly #part: string;
  readonly #header: Uint8Array;
  readonly #windowBytes: number;
  #file: FileHandle | undefined;
  #length = 0;
  #lastDigest = '';
  /** Set when an earlier run has finished the file. */
  #complete = false;

  constructor(path: string, header: Uint8Array, windowBytes: number) {
    this.#path = path;
    this.#part = `${path}.part`;
    this.#header = header;
    this.#windowBytes = windowBytes;
  }

  async begin(done: number): Promise<void> {
    if (done === 0) {
      this.#file = await this.#io('cannot create', open(this.#part, 'w'));
      await this.#write(this.#header);
      return;
    }
    this.#length = this.#header.length + done * this.#windowBytes;
    const left = await stat(this.#part).catch(() => undefined);
    const path = left === undefined ? this.#path : this.#part;
    this.#complete = left === undefined;
    const opened = open(path, this.#complete ? 'r' : 'r+');
    this.#file = await this.#io('cannot go on with what is recorded', opened, path);
    const { size } = await this.#file.stat();
    want(
      this.#complete ? size === this.#length : size >= this.#length,
      'truncated',
      'less is recorded than the state says',
      () => ({
        where: path,
        expected: `${this.#length} bytes for ${done} windows`,
        got: `${size}`,
        hint: 'remove the state file to start over',
      }),
    );
    const sound =
      (await this.#read(0, this.#header.length)).equals(this.#header) &&
      sha256(await this.#read(this.#length - this.#windowBytes, this.#windowBytes)) === this.#lastDigest;
    want(sound, 'bad-container', 'something else is recorded than the state says', () => ({
      where: path,
      hint: 'remove the state file to start over',
    }));
    // What a run that was killed wrote behind its last state is computed again.
    if (!this.#complete) await this.#io('cannot write', this.#file.truncate(this.#length));
  }

  async append(rows: Uint8Array): Promise<void> {
    await this.#write(rows);
    this.#lastDigest = sha256(rows);
  }

  async finish(): Promise<void> {
    await this.abort();
    if (!this.#complete) await this.#io('cannot rename the finished file', rename(this.#part, this.#path));
  }

  async abort(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    if (file !== undefined) await this.#io('cannot write', file.close());
  }

  tracked<R>(measurement: Measurement<R>): Measurement<R> {
    return {
      ...measurement,
      save: (): Saved => ({ ...measurement.save(), recorded: this.#lastDigest }),
      restore: (saved) => {
        measurement.restore(saved);
        this.#lastDigest = String(saved.recorded);
      },
    };
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await this.#io(
        'cannot write',
        this.#file!.write(bytes, at, bytes.length - at, this.#length + at),
      );
      at += bytesWritten;
    }
    this.#length += bytes.length;
  }

  async #read(position: number, length: number): Promise<Buffer> {
    const bytes = Buffer.alloc(length);
    for (let at = 0; at < length; ) {
      const { bytesRead } = await this.#io('cannot read', this.#file!.read(bytes, at, length - at, position + at));
      want(bytesRead > 0, 'truncated', 'the file became shorter while it was read', () => ({ where: this.#part }));
      at += bytesRead;
    }
    return bytes;
  }

  async #io<T>(what: string, pending: Promise<T>, path = this.#part): Promise<T> {
    try {
      return await pending;
    } catch (error) {
      throw ioError(path, what, error);
    }
  }
}
