/**
 * Runs the built program as a user would. Builds nothing: `npm test` has done so.
 * @module
 */

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

export interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

export interface RunOptions {
  readonly stdin?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Called with the process once it runs, e.g. to send signals. */
  readonly meanwhile?: (child: ChildProcessWithoutNullStreams) => void;
}

/** Runs `bitnet ...args`; rejects if it does not end. */
export function bitnet(
  args: readonly string[],
  { stdin = '', env = {}, meanwhile }: RunOptions = {},
): Promise<Outcome> {
  if (!existsSync(MAIN)) throw new Error(`${MAIN} is missing: npm run build`);
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('BITNET_')));
  const child = spawn(process.execPath, [MAIN, ...args], { env: { ...clean, ...env } });
  let [out, err] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    err += text;
  });
  child.stdin.on('error', () => {}); // it may end without reading
  child.stdin.end(stdin);
  meanwhile?.(child);
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`bitnet ${args.join(' ')} did not end\n${out}\n${err}`));
    }, 60_000);
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ code, out, err });
    });
  });
}
