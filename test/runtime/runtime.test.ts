/**
 * The package as it is shipped (dist/), in Node 20 or whatever runs the tests, Node 26, Deno and Bun: the same digest, the same
 * story and the same files from the command line. Logits under every setting: `matrix.test.ts`.
 */
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { root, runIn, runtimes, wantRuntime } from './runtimes.ts';

const numerics = JSON.parse(readFileSync(join(root, 'test/runtime/matrix/numerics.json'), 'utf8'));
const stories = numerics.models.find(({ name }: { name: string }) => name === 'stories');
const tokens = Array.from({ length: stories.tokens.count }, (_, i) => (i * 53 + 259) % stories.tokens.below);
const scratch = mkdtempSync(join(tmpdir(), 'bitnet-runtime-'));

/** The story of the first runtime. */
const told: string[] = [];
/** Figures of the built-in model and the digest of the base it saved, by runtime. */
const measured: string[] = [];
/** Digests of synthetic models, by runtime. */
const models: Record<string, string>[] = [];

describe.each(runtimes)('$name', (runtime) => {
  const main = join(root, 'dist/cli/main.js');

  it('prints the digest by `bitnet oracle logits`, and writes the logits', async () => {
    wantRuntime(runtime);
    for (const extra of [
      ['--backend', 'ts'],
      ['-t', '2', '--batch', '7'],
    ]) {
      const out = join(scratch, `${runtime.name.replaceAll(/\W/g, '')}.npy`);
      const args = ['oracle', 'logits', '--tokens', tokens.join(','), '-o', out, ...extra];
      const { stdout } = await runIn(runtime, main, args);
      expect(stdout).toContain(stories.sha256);
      expect(readFileSync(out).subarray(0, 6).toString('latin1')).toBe('\x93NUMPY');
    }
  }, 120_000);

  it('tells the same story for the same seed', async () => {
    wantRuntime(runtime);
    const args = ['run', '-p', 'Once upon a time', '-n', '40', '--seed', '7', '--temp', '0.7'];
    // The first runtime tells it twice: to be compared with itself.
    if (told.length === 0) told.push((await runIn(runtimes[0], main, args)).stdout);
    const { stdout } = await runIn(runtime, main, args);
    expect(stdout.length).toBeGreaterThan(80);
    expect(stdout).toBe(told[0]);
  }, 120_000);

  it('measures the same perplexity, to the last bit, and saves the same base', async () => {
    wantRuntime(runtime);
    const text = join(scratch, 'measured.txt');
    writeFileSync(text, 'Once upon a time there was a little girl named Lily. She had a big red ball. '.repeat(4));
    const base = join(scratch, `${runtime.name.replaceAll(/\W/g, '')}.kld`);
    const args = ['perplexity', '-f', text, '-c', '32', '--kl-divergence-base', base, '--json', '-q'];
    const { stdout } = await runIn(runtime, main, args);
    const { runtime: measuredBy, ...figures } = JSON.parse(stdout);
    expect(runtime.name).toContain(measuredBy.split(' ')[0]);
    delete figures.model.backend; // its notes may differ
    measured.push(`${JSON.stringify(figures)} ${createHash('sha256').update(readFileSync(base)).digest('hex')}`);
    expect(measured.at(-1)).toBe(measured[0]);
  }, 120_000);

  it('writes the same synthetic models, byte for byte', async () => {
    wantRuntime(runtime);
    const { stdout } = await runIn(runtime, 'test/runtime/synth.mjs');
    const digests = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Record<string, string>;
    expect(Object.keys(digests).length).toBe(66);
    expect(new Set(Object.values(digests)).size).toBe(66);
    models.push(digests);
    expect(digests).toEqual(models[0]);
  }, 120_000);

  it('ends by itself when nobody disposes of the model', async () => {
    wantRuntime(runtime);
    const script = join(scratch, 'forgetful.mjs');
    writeFileSync(
      script,
      `import { loadModel } from ${JSON.stringify(pathToFileURL(join(root, 'dist/index.js')).href)};
       const model = await loadModel(${JSON.stringify(join(root, 'fixtures/models/stories.gguf.gz'))}, { threads: 3 });
       await model.createSession().prefill([1, 2, 3]);
       console.log('done');`,
    );
    const { stdout } = await runIn(runtime, script);
    expect(stdout).toContain('done');
  }, 60_000);
});

describe('the conformance suite', () => {
  const [node20, node26, deno, bun] = runtimes;
  const all = ['dot', 'relaxed', 'simd', 'scalar'];
  it.each([
    { name: 'this node', runtime: node20, args: all.slice(/^v2[01]\./.test(process.version) ? 1 : 0) },
    { name: 'node 26', runtime: node26, args: all },
    // Optimised at once: the switch changes nothing in code from the quick compiler.
    {
      name: 'node 26 with wide vectors',
      runtime: { ...node26, args: ['--no-liftoff'] },
      args: ['wide', 'dot', 'relaxed', 'simd'],
    },
    { name: 'deno', runtime: deno, args: all },
    { name: 'bun', runtime: bun, args: all },
  ])(
    'is passed by every build on $name',
    async ({ runtime, args }) => {
      wantRuntime(runtime);
      const { stdout } = await runIn(runtime, 'test/runtime/conform.mjs', args);
      const failures = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Record<string, unknown[]>;
      const wide = args[0] === 'wide';
      const variants = args.slice(wide ? 1 : 0).map((name) => `${name}${wide ? '+wide' : ''}+threads`);
      expect(failures).toEqual(Object.fromEntries(variants.map((name) => [name, []])));
    },
    300_000,
  );
});
