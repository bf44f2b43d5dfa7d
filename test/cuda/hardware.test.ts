/**
 * What cards differ in, played by the CPU shim: how much shared memory a block gets, which code the driver made of the library, and
 * streams that do their work later than it was ordered.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { conformanceCases, expectedOutputs, runConformance } from '../../src/kernels/conformance/run.ts';
import { Library } from './library.ts';
import { open, shim, shimPath } from './shim.ts';

/** Of a block of compute capability 8.6, 8.9 and 12.0, and of 9.0. */
const LITTLE_SHARED = 99 * 1024;
const MUCH_SHARED = 232448;

function once<T>(make: () => T): () => T {
  let made: { readonly it: T } | undefined;
  return () => {
    made ??= { it: make() };
    return made.it;
  };
}

const library = shimPath === undefined ? undefined : new Library(shimPath);

describe.skipIf(shimPath === undefined)('the CUDA library on other cards', () => {
  const cases = conformanceCases();

  afterEach(() => {
    shim('shared', MUCH_SHARED);
    shim('sms', 132);
    shim('late', 0);
    shim('failAfter', -1);
  });

  /** Around the limits of little shared memory, with what they should give: once for all cards. */
  const limits = once(async () => {
    const ops = ['ternaryMatmul', 'ternaryGroup', 'denseMatmul', 'attention', 'rmsNormQuantize'];
    const some = cases.filter((one) => ops.includes(one.op));
    const ternary = { op: 'ternaryMatmul', kind: 'normal', trits: 'random', seed: 5 } as const;
    some.push({ ...ternary, n: 40, rows: 70, columns: 640 }, { ...ternary, n: 65, rows: 130, columns: 640 });
    for (const dtype of ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K', 'AFFINE'] as const) {
      for (const n of [1, 2, 4, 9])
        some.push({ op: 'denseMatmul', n, rows: 70, columns: 768, dtype, kind: 'normal', seed: n });
      // Estimates on tensor cores, and, of equal rows, all products.
      for (const kind of ['normal', 'zeros'] as const)
        some.push({ op: 'denseTopK', n: 40, rows: 700, columns: 256, dtype, kind, k: 3, seed: 9 });
    }
    // Contexts at both sides of the limits, in the kernel for prompts and in that for single rows, one head and four.
    const half = { headDim: 128, kType: 'f16', vType: 'f16' } as const;
    for (const context of [832, 836, 1020]) {
      some.push({
        op: 'attention',
        ...half,
        n: 10,
        nHeads: 4,
        nKvHeads: 2,
        before: context - 10,
        kind: 'normal',
        seed: 6,
      });
    }
    for (const context of [4144, 4160, 16990, 17000]) {
      const nHeads = context < 5000 ? 4 : 1;
      some.push({
        op: 'attention',
        ...half,
        n: 1,
        nHeads,
        nKvHeads: 1,
        before: context - 1,
        kind: 'normal',
        seed: 7,
      });
    }
    return { some, expected: await expectedOutputs(some) };
  });

  // One multiprocessor chooses the large tiles, many the small ones.
  it.each([1, 132])(
    'has kernels for 99 KiB of shared memory a block (%i multiprocessors)',
    async (sms) => {
      shim('shared', LITTLE_SHARED);
      shim('sms', sms);
      const backend = open(0);
      const { some, expected } = await limits();
      const outcomes = await runConformance(backend, some, expected);
      expect(outcomes.filter((outcome) => !outcome.ok)).toEqual([]);
      await backend.dispose();
    },
    600_000,
  );

  it('refuses a row that is longer than the shared memory of a block', () => {
    shim('shared', LITTLE_SHARED);
    const context = library!.open();
    const [columns, most] = [30000, (LITTLE_SHARED - 528) / 4];
    const [x, gain, out] = [columns, columns, columns].map((floats) => context.alloc(floats * 4));
    const RMS_NORM = (width: number) => [2, 11, out, 0, x, 0, gain, 0, 0x3727c5ac, width, 1];
    expect(() => context.run(RMS_NORM(columns))).toThrow(`columns: expected 1 to ${most}, got ${columns}`);
    context.run(RMS_NORM(most));
    expect(context.read(out, new Float32Array(most))[most - 1]).toBe(0);
    context.close();
  });

  it('needs nothing of the host that has changed before the stream comes to it', async () => {
    shim('late', 1);
    const backend = open(0);
    const some = cases.filter((one) => 'n' in one && one.n <= 3);
    const outcomes = await runConformance(backend, some, await expectedOutputs(some));
    expect(outcomes.length).toBeGreaterThan(100);
    expect(outcomes.filter((outcome) => !outcome.ok)).toEqual([]);
    await backend.dispose();
  }, 600_000);

  it('sends more between two waits than its own memory for that holds', () => {
    shim('late', 1);
    const context = library!.open();
    const [count, floats] = [40, 75_001]; // 12 MB through 4 MiB, in pieces that do not divide it
    const handles = Array.from({ length: count }, () => context.alloc(floats * 4));
    const data = new Float32Array(floats);
    for (const [i, handle] of handles.entries()) context.write(handle, data.fill(i + 1));
    const large = context.alloc(6 << 20); // goes by itself
    context.write(large, new Float32Array((6 << 20) / 4).fill(7));
    for (const [i, handle] of handles.entries()) {
      expect(context.read(handle, new Float32Array(floats)).every((value) => value === i + 1)).toBe(true);
    }
    expect(context.read(large, new Float32Array((6 << 20) / 4)).every((value) => value === 7)).toBe(true);
    context.close();
  });

  it('leaves other contexts alone when a call was refused but the device has not failed', () => {
    const [one, other] = [library!.open(), library!.open()];
    const handle = other.alloc(4);
    other.write(handle, Float32Array.of(3));
    shim('failAfter', 0);
    shim('failWith', 1); // invalid value
    expect(() => one.alloc(4)).toThrow('cudaErrorInvalidValue');
    one.close();
    expect(other.read(handle, new Float32Array(1))[0]).toBe(3);
    other.close();
  });

  it.each([
    [46, 3, 'another process may have it for itself'],
    [222, 3, 'Build it with --arch 90'],
    [209, 3, 'has no code for CPU shim: compute capability 9.0'],
    [719, 5, 'cudaErrorLaunchFailure'],
  ])('says why a device cannot be had (error %i)', (failWith, code, words) => {
    const messages: string[] = [];
    for (let after = 0; after < 9; after++) {
      shim('failAfter', after);
      shim('failWith', failWith);
      try {
        library!.open().close();
      } catch (error) {
        const refused = error as Error & { code: number };
        if (refused.code === code) messages.push(refused.message);
      }
    }
    expect(messages.filter((message) => message.includes(words)).length).toBeGreaterThan(0);
  });
});
