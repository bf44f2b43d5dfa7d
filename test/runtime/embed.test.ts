/** The architectures that the embedded model is not: made, and embedded with, by the shipped package on every runtime. */
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root, runIn, runtimes, wantRuntime } from './runtimes.ts';

const main = join(root, 'dist/cli/main.js');
const scratch = mkdtempSync(join(tmpdir(), 'bitnet-runtime-embed-'));
const outputs = new Map<string, Set<string>>();

describe.each(['tiny-qwen3', 'tiny-gemma3'])('%s', (preset) => {
  it.each(runtimes)(
    'gives the same file and the same vectors on $name',
    async (runtime) => {
      wantRuntime(runtime);
      const file = join(scratch, `${preset}-${runtime.name.replaceAll(/\W/g, '')}.gguf`);
      await runIn(runtime, main, ['synth', '--preset', preset, '-o', file]);
      const seen = outputs.get(preset) ?? new Set();
      outputs.set(preset, seen);
      for (const threads of ['1', '2']) {
        const args = ['-t', threads, '--embd-normalize', '-1', '--embd-output-format', 'array', '-q'];
        const { stdout } = await runIn(runtime, main, ['embed', '-m', file, '-p', 'One day, a cat\nTwo dogs', ...args]);
        expect(JSON.parse(stdout).length).toBe(2);
        // Seven digits after the point of values about one: all that f32 has.
        seen.add(createHash('sha256').update(readFileSync(file)).update(stdout).digest('hex'));
      }
      expect(seen.size).toBe(1);
    },
    120_000,
  );
});
