/**
 * What receipts are for: one written on any runtime is "same" on every other, with other threads and other kernels.
 */
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root, runIn, runtimes, wantRuntime } from './runtimes.ts';

const main = join(root, 'dist/cli/main.js');
const scratch = mkdtempSync(join(tmpdir(), 'bitnet-receipts-'));
const pathOf = (writer: number) => join(scratch, `${writer}.json`);
const threads = ['1', '2', '3', '2'];
const kernels = ['simd', 'relaxed', 'scalar', 'fastest'];

describe('receipts', () => {
  it.each(runtimes.map((runtime, i) => ({ ...runtime, i })))(
    'written on $name',
    async (runtime) => {
      wantRuntime(runtime);
      const prompt = ['-p', 'One day, a cat', '-n', '48', '--seed', '5', '--temp', '1', '--repeat-penalty', '1.2'];
      const args = ['run', '-q', ...prompt, '-t', threads[runtime.i], '--receipt', pathOf(runtime.i)];
      await runIn(runtime, main, args);
    },
    120_000,
  );

  it('differ in their environment only', () => {
    const read = (i: number) => JSON.parse(readFileSync(pathOf(i), 'utf8')) as Record<string, unknown>;
    const all = runtimes.map((_, i) => read(i));
    const environments = all.map(({ environment }) => environment as { runtime: string; threads: number });
    expect(new Set(environments.map(({ runtime }) => runtime)).size).toBe(runtimes.length);
    expect(new Set(all.map(({ environment: _, ...rest }) => JSON.stringify(rest))).size).toBe(1);
  });

  it.each(runtimes.map((runtime, i) => ({ ...runtime, i })))(
    'replayed on $name',
    async (runtime) => {
      for (const writer of runtimes.keys()) {
        const flags = ['-t', threads[(runtime.i + 1) % 4], '--kernels', kernels[(runtime.i + writer) % 4]];
        const { stdout } = await runIn(runtime, main, ['replay', pathOf(writer), ...flags]);
        expect(stdout).toMatch(/^same: 48 tokens and their logits, bit for bit\n/);
      }
    },
    240_000,
  );
});
