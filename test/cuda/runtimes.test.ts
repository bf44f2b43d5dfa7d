/**
 * The package as it is shipped (dist/) with the cuda backend on the CPU shim, in Node 20 or whatever runs the tests, Node 26, Deno
 * and Bun; and what it says where koffi is not installed.
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, runIn, runtimes, wantRuntime } from '../runtime/runtimes.ts';
import { shimPath as shim } from './shim.ts';

const scratch = mkdtempSync(join(tmpdir(), 'bitnet-cuda-'));
const main = join(root, 'dist/cli/main.js');
const stories: unknown[] = [];

beforeAll(() => {
  if (shim !== undefined) process.env.BITNET_CUDA_LIBRARY = shim;
});
afterAll(() => {
  delete process.env.BITNET_CUDA_LIBRARY;
  rmSync(scratch, { recursive: true });
});

describe.skipIf(shim === undefined).each(runtimes)('the cuda backend in $name', (runtime) => {
  it('tells the same story, and ends by itself when nobody disposes of the model', async () => {
    wantRuntime(runtime);
    for (const what of ['dispose', 'forget']) {
      const { stdout } = await runIn(runtime, 'test/cuda/story.mjs', [shim ?? '', what]);
      stories.push(JSON.parse(stdout));
      expect(stories.at(-1)).toMatchObject({ backend: 'cuda', variant: 'CPU shim, sm_90' });
      expect(stories.at(-1)).toEqual(stories[0]);
    }
  }, 120_000);

  it('says that koffi is not installed', async () => {
    wantRuntime(runtime);
    // The package elsewhere: its files, and nothing beside it.
    const elsewhere = join(scratch, runtime.name.replaceAll(/\W/g, ''));
    for (const part of ['dist', 'fixtures/models', 'test/cuda/story.mjs', 'package.json']) {
      mkdirSync(join(elsewhere, 'test/cuda'), { recursive: true });
      cpSync(join(root, part), join(elsewhere, part), { recursive: true });
    }
    const { stdout } = await runIn(runtime, join(elsewhere, 'test/cuda/story.mjs'), [shim ?? '']);
    expect(JSON.parse(stdout)).toMatchObject({
      code: 'backend-unavailable',
      message: expect.stringMatching(
        /^backend cuda: the package koffi, which calls the library, cannot be loaded, got .*koffi.* \(npm install koffi\)$/,
      ),
    });
  }, 60_000);
});

describe.skipIf(shim === undefined)('bitnet --backend cuda', () => {
  const [node] = runtimes;
  const tell = ['run', '-p', 'Once upon a time', '-n', '8', '--temp', '0'];

  it('tells the story of the wasm backend', async () => {
    for (const more of [[], ['--temp', '0.9', '--seed', '7']]) {
      const on = async (args: readonly string[]) =>
        JSON.parse((await runIn(node, main, [...tell, ...more, '--json', ...args])).stdout);
      const ours = await on(['--backend', 'cuda', '--device', '0']);
      expect(ours.model.backend).toMatchObject({ name: 'cuda', variant: 'CPU shim, sm_90' });
      expect(ours.tokens.length).toBe(8);
      expect(ours.tokens).toEqual((await on(['-t', '1'])).tokens);
    }
  }, 120_000);

  it('replays a receipt of the wasm backend, and names both', async () => {
    const receipt = join(scratch, 'receipt.json');
    await runIn(node, main, [...tell, '-t', '1', '--receipt', receipt]);
    const { stdout } = await runIn(node, main, ['replay', receipt, '--backend', 'cuda']);
    expect(stdout).toMatch(/^same: 8 tokens and their logits, bit for bit$/m);
    expect(stdout).toMatch(/^ +backend: wasm .+ then, cuda CPU shim, sm_90 now$/m);
  }, 120_000);

  it('refuses in one line', async () => {
    const refused = async (args: readonly string[]) => {
      const failed = await runIn(node, main, [...tell, ...args]).catch((error) => error);
      return [failed.code, failed.stderr.trim().split('\n').at(-1)];
    };
    expect(await refused(['--backend', 'cuda', '--device', '5'])).toEqual([
      1,
      expect.stringMatching(/backend-unavailable: backend cuda: no device 5, expected 0 to 0/),
    ]);
    expect(await refused(['--device', '0'])).toEqual([1, expect.stringContaining('only the cuda backend has devices')]);
    process.env.BITNET_CUDA_LIBRARY = '/nowhere.so';
    expect(await refused(['--backend', 'cuda'])).toEqual([1, expect.stringContaining('(bitnet build-cuda makes it')]);
    process.env.BITNET_CUDA_LIBRARY = shim;
  }, 60_000);

  it('is reckoned with by inspect', async () => {
    const inspect = async (args: readonly string[]) => (await runIn(node, main, ['inspect', ...args])).stdout;
    expect(await inspect(['--backend', 'cuda'])).toMatch(
      /^fits: +yes, \d+\.\d+ MiB of the 15\.\d+ GiB of free memory of CPU shim, sm_90, scratch included/m,
    );
    expect(await inspect(['--backend', 'cuda', '--device', '2'])).toMatch(/^fits: +no: backend cuda: no device 2/m);
    expect(JSON.parse(await inspect(['--backend', 'cuda', '--json'])).fit.of).toContain('CPU shim');
  }, 60_000);

  it('is what -ngl points to', async () => {
    const { stderr } = await runIn(node, main, [...tell, '-ngl', '99', '-t', '1']);
    expect(stderr).toContain('note: -ngl is ignored: --backend cuda runs all layers on a GPU');
    const cuda = await runIn(node, main, [...tell, '-ngl', '99', '--backend', 'cuda']);
    expect(cuda.stderr).not.toContain('-ngl');
  }, 60_000);
});
