/** The command line on Deno with the permissions that it says it needs, and no other. */

import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runtimes, wantRuntime } from './runtimes.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const deno = runtimes.find(({ name }) => name === 'deno')!;
const run = promisify(execFile);
let folder: string;

beforeAll(async () => {
  wantRuntime(deno);
  folder = await mkdtemp(join(tmpdir(), 'bitnet-deno-'));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

it('writes traces and receipts without being allowed to name the processor', async () => {
  const bitnet = (...args: string[]) =>
    run(deno.command, ['run', '--allow-read', '--allow-write', '--allow-env', '--no-lock', main, ...args]);
  const { stdout } = await bitnet(
    'oracle',
    'trace',
    '--tokens',
    '1,300',
    '--tensors',
    'logits',
    '-o',
    join(folder, 'a'),
  );
  expect(stdout).toMatch(/: 1 tensor of 2 tokens\n$/);
  const receipt = join(folder, 'run.json');
  await bitnet('run', '-p', 'Once', '-n', '2', '--receipt', receipt);
  const { environment } = JSON.parse(await readFile(receipt, 'utf8')) as { environment: { runtime: string } };
  expect(environment.runtime).toMatch(/^deno \d/);
});
