/** The runtimes under test: the Node that runs the tests, and those that `test/runtime/package.json` brings. */

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);

export const root = fileURLToPath(new URL('../..', import.meta.url));

export interface Runtime {
  readonly name: string;
  readonly command: string;
  /** Arguments before the script. */
  readonly args: readonly string[];
}

const brought = (name: string) => `${root}test/runtime/node_modules/.bin/${name}`;

export const runtimes: readonly Runtime[] = [
  { name: `node ${process.versions.node.split('.')[0]} (this one)`, command: process.execPath, args: [] },
  { name: 'node 26', command: `${root}test/runtime/node_modules/node/bin/node`, args: [] },
  { name: 'deno', command: brought('deno'), args: ['run', '--allow-all', '--no-lock'] },
  { name: 'bun', command: brought('bun'), args: [] },
];

/** Fails with the way to get a runtime that is missing: a skipped promise is no promise. */
export function wantRuntime({ name, command }: Runtime): void {
  if (!existsSync(command)) throw new Error(`${name} is missing: npm ci --prefix test/runtime`);
}

export interface Output {
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a script to its end; rejects on a non-zero exit. */
export async function runIn(runtime: Runtime, script: string, args: readonly string[] = []): Promise<Output> {
  const environment = { ...process.env, NO_COLOR: '1', DENO_NO_UPDATE_CHECK: '1' };
  return run(runtime.command, [...runtime.args, script, ...args], {
    cwd: root,
    env: environment,
    maxBuffer: 64 << 20,
    timeout: 240_000,
  });
}
