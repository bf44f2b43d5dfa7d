/** The kit and the conformance of whole models, from the built package, in every runtime. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { runIn, runtimes, wantRuntime } from './runtimes.ts';

const scratch = mkdtempSync(join(tmpdir(), 'bitnet-kit-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

it('the kit is the same bytes, and checked to be', async () => {
  const digests: Record<string, string> = {};
  for (const [i, runtime] of runtimes.entries()) {
    wantRuntime(runtime);
    const folder = join(scratch, String(i));
    const written = await runIn(runtime, 'dist/cli/main.js', ['oracle', 'kit', '-q', '-o', folder]);
    const checked = await runIn(runtime, 'dist/cli/main.js', ['oracle', 'kit', '-q', '--check', folder]);
    digests[runtime.name] = written.stdout.slice(0, 71);
    expect(checked.stdout.slice(0, 71)).toBe(digests[runtime.name]);
    rmSync(folder, { recursive: true });
  }
  expect(Object.values(digests)[0]).toMatch(/^sha256 [0-9a-f]{64}$/);
  expect(new Set(Object.values(digests)).size, JSON.stringify(digests)).toBe(1);
}, 300_000);

it.each(runtimes)(
  'whole models conform in $name',
  async (runtime) => {
    wantRuntime(runtime);
    const { stdout } = await runIn(runtime, 'test/runtime/kit.mjs');
    expect(JSON.parse(stdout)).toEqual({ count: 15, failed: [] });
  },
  120_000,
);
