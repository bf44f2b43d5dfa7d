/** What the command line says of the cuda backend where nothing goes wrong: its memory, comparisons, the suite on a device. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type Conformance, conformanceTable, conforms } from '../../src/cli/kernels.ts';
import { surveyBackend, wasm } from '../../src/engine/backends.ts';
import type { Backend } from '../../src/kernels/interface.ts';
import { ARCHITECTURES } from '../../src/model/architectures.ts';
import { synthesized } from '../../src/oracle/kit/models.ts';
import { root } from '../runtime/runtimes.ts';
import { shimPath } from './shim.ts';

// The whole suite, on a CPU that plays a GPU.
vi.setConfig({ testTimeout: 400_000 });

const shim = shimPath;
const scratch = mkdtempSync(join(tmpdir(), 'bitnet-cuda-'));
const tiny = join(scratch, 'tiny.gguf');
const text = join(scratch, 'text.txt');

beforeAll(async () => {
  writeFileSync(tiny, await synthesized({ preset: 'tiny', architecture: 'bitnet-b1.58' }));
  writeFileSync(text, 'One day a cat and a dog went to the park to see a bird. '.repeat(8));
});
afterAll(() => rmSync(scratch, { recursive: true }));

interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** `bitnet ...args` with knobs of the shim. */
function bitnet(args: readonly string[], knobs = ''): Promise<Outcome> {
  const env = { ...process.env, BITNET_CUDA_LIBRARY: shim, BITNET_SHIM_KNOBS: knobs, NO_COLOR: '1' };
  const all = ['--import', join(root, 'test/cuda/knobs.mjs'), join(root, 'dist/cli/main.js'), ...args];
  return new Promise((resolve) => {
    execFile(process.execPath, all, { env, maxBuffer: 64 << 20 }, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, err });
    });
  });
}

const SIZE = String.raw`[\d.]+ [KMG]iB`;
const PLAN = new RegExp(
  `^memory: ${SIZE} = weights ${SIZE} \\+ keys and values ${SIZE} for ([\\d,]+) positions \\+ scratch ${SIZE}, of 15\\.\\d GiB free on CPU shim, sm_90$`,
  'gm',
);

/** Contexts that were planned for, a run each. */
function planned(err: string): string[] {
  return [...err.matchAll(PLAN)].map(([, positions]) => positions);
}

describe.skipIf(shim === undefined)('the memory plan', () => {
  it.each([
    ['run', ['-p', 'x', '-n', '2', '-c', '64'], '64'],
    ['perplexity', ['-f', text, '-c', '32', '--chunks', '1'], '32'],
    ['embed', ['-p', 'x'], '2,048'],
    ['bench', ['-p', '6', '-n', '2', '-d', '0,4', '-r', '1', '-ctk', 'f16,f32'], '10'],
    ['oracle logits', ['--tokens', '1,2'], '2,048'],
    ['oracle trace', ['--tokens', '1,2', '-o', join(scratch, 'trace.npz')], '2,048'],
  ])('is a line of %s on stderr, unless it is to be quiet', async (name, args, positions) => {
    const whole = [...name.split(' '), '-m', tiny, ...args, '--backend', 'cuda', '--device', '0'];
    const { code, out, err } = await bitnet(whole);
    expect(code, err).toBe(0);
    expect(planned(err)).toEqual([positions]);
    expect(out).not.toContain('memory:');
    if (name !== 'run') return;
    expect((await bitnet([...whole, '-q'])).err).toBe('');
    expect((await bitnet([...whole.slice(0, -4), '-t', '1'])).err).not.toContain('memory:');
    expect((await bitnet([...whole, '--stats'])).err).toMatch(/^planned +[\d.]+ [KM]iB = weights/m);
  });

  it('adds up, in the JSON of run and of inspect', async () => {
    const run = JSON.parse((await bitnet(['run', '-m', tiny, '-n', '1', '--backend', 'cuda', '--json'])).out);
    const inspected = JSON.parse((await bitnet(['inspect', tiny, '--backend', 'cuda', '--json'])).out);
    const plan = run.model.memoryPlan;
    expect(inspected.fit.parts).toEqual(plan);
    expect(plan.weightBytes + plan.kvBytes + plan.scratchBytes).toBe(plan.totalBytes);
    expect(plan).toMatchObject({ kvBytes: 2 * 2 * 2 * 64 * 2048 * 2, contextSize: 2048 });
    expect(plan.totalBytes).toBeLessThan(plan.capacityBytes);
  });
});

describe.skipIf(shim === undefined)('oracle compare', () => {
  const compare = async (args: readonly string[], knobs?: string) => {
    const { code, out, err } = await bitnet(['oracle', 'compare', '-m', tiny, '--tokens', '1,2,3', ...args], knobs);
    const sides = [...out.matchAll(/^[AB] {2}.*\(bitnet-ts, (\w+) /gm)].map(([, name]) => name);
    return { code, sides, same: out.includes('the same, bit for bit'), err };
  };
  const backends = ['wasm', 'ts', 'cuda'] as const;

  it.each(
    backends.flatMap((a) => backends.map((b) => [a, b] as const)).filter(([a, b]) => a === 'cuda' || b === 'cuda'),
  )('A %s, B %s', async (a, b) => {
    const { code, sides, same, err } = await compare(['--backend', a, '--backend-b', b, '--device', '0']);
    expect([code, sides, same], err).toEqual([0, [a, b], true]);
    expect(planned(err)).toHaveLength(Number(a === 'cuda') + Number(b === 'cuda'));
  });

  it('takes two devices, and gives what only one side knows to that side', async () => {
    const two = await compare(['--backend', 'cuda', '--device', '0', '--device-b', '1'], 'devices=2');
    expect([two.code, two.sides, two.same], two.err).toEqual([0, ['cuda', 'cuda'], true]);
    const kernels = await compare(['--backend', 'cuda', '--backend-b', 'wasm', '--kernels', 'simd', '--device', '0']);
    expect([kernels.code, kernels.sides], kernels.err).toEqual([0, ['cuda', 'wasm']]);
    for (const args of [
      ['--backend-b', 'cuda', '--device', '1'],
      ['--backend', 'cuda', '--device-b', '1'],
    ]) {
      expect(await compare(args)).toMatchObject({
        code: 1,
        err: expect.stringContaining('no device 1, expected 0 to 0'),
      });
    }
    const nobody = await compare(['--backend', 'ts', '--backend-b', 'wasm', '--device', '0']);
    expect(nobody).toMatchObject({ code: 1, err: expect.stringContaining('only the cuda backend has devices') });
  });
});

describe.skipIf(shim === undefined)('inspect --kernels --backend cuda', () => {
  const inspect = ['inspect', '--kernels', '--backend', 'cuda'];

  it('names the kernel that computes something else', async () => {
    // A backend that is fast, with a mistake.
    const survey = await surveyBackend(async () => {
      const backend = await wasm({ threads: 1 })();
      const scale: Backend['scale'] = (out, x, factor, n) => backend.scale(out, x, -factor, n);
      return new Proxy(backend, {
        get: (of, name) => {
          if (name === 'scale') return scale;
          const value = Reflect.get(of, name);
          return typeof value === 'function' ? value.bind(of) : value;
        },
      });
    });
    const bad: Conformance = { ...survey, models: [] };
    expect(conforms(bad)).toBe(false);
    expect(bad.kernels.filter(({ fault }) => fault !== undefined).map(({ op }) => op)).toEqual(['scale']);
    const good = { ...bad, kernels: bad.kernels.map((kernel) => ({ ...kernel, fault: undefined })) };
    expect(conforms(good)).toBe(true);
    expect(conformanceTable(good)).toMatch(
      /\n\nthe same as the definition, bit for bit: \d\d kernels in \d{3} cases, 0 checks/,
    );
    const whole = { ...good, models: [{ name: 'model x', ok: false, detail: 'logits[3]' }] };
    expect([conforms(whole), conformanceTable(whole)]).toEqual([
      false,
      expect.stringContaining('model x is wrong: logits[3]'),
    ]);
  });

  it('says what is wrong on a device, goes on, and ends with 1', async () => {
    // It fails once, in some op; the contexts after that are good.
    const { code, out } = await bitnet(inspect, 'failWith=700,failAfter=200');
    expect(code).toBe(1);
    expect(out).toMatch(/^\w+, \d+ cases +WRONG$/m);
    expect(out).toMatch(/^attention, \d+ cases +passed$/m);
    expect(out).toMatch(/^\w+ is wrong: backend cuda: the device failed, .*cudaErrorIllegalAddress/m);
    const graphs = new Set(ARCHITECTURES.values()).size;
    const verdict = /^NOT THE SAME as the definition: 1 of \d+ kernels, 0 of (\d+) checks of whole models$/;
    // Of every graph two traces, splits, cache, top and memory; of one of them, types.
    expect(verdict.exec(out.trim().split('\n').at(-1) ?? '')?.[1], out).toBe(String(6 * graphs + 1));
  });

  it('refuses a device that is not there, and one without a backend for it', async () => {
    expect(await bitnet([...inspect, '--device', '3'])).toMatchObject({
      code: 1,
      out: '',
      err: expect.stringContaining('backend-unavailable: backend cuda: no device 3'),
    });
    expect(await bitnet(['inspect', '--device', '0'])).toMatchObject({
      code: 2,
      err: expect.stringContaining('--device needs --backend cuda'),
    });
  });
});

describe('build-cuda', () => {
  it('is the script of the sources: it says what is missing, and ends with 1', async () => {
    const { NVCC: before } = process.env;
    process.env.NVCC = '/nowhere/nvcc';
    try {
      const run = (args: readonly string[]) =>
        new Promise<Outcome>((resolve) => {
          execFile(process.execPath, [join(root, 'dist/cli/main.js'), 'build-cuda', ...args], (error, out, err) => {
            resolve({ code: error === null ? 0 : Number(error.code), out, err });
          });
        });
      const refused = await run([]);
      expect([refused.code, refused.out]).toEqual([1, '']);
      expect(refused.err).toMatch(/^build:cuda: no nvcc at \/nowhere\/nvcc\./m);
      expect((await run(['--jobs', '0'])).code).toBe(2);
    } finally {
      if (before === undefined) delete process.env.NVCC;
      else process.env.NVCC = before;
    }
  });
});
