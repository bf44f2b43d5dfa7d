/**
 * `denseTopK` against `denseMatmul` of the same backend, on data made to mislead the estimates by which it leaves rows out.
 * The conformance suite compares with the definition; here is the promise itself: none of the k greatest is ever missing.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend, DenseType } from '../../src/kernels/interface.ts';
import type { VariantName } from '../../src/kernels/wasm/host.ts';
import { createWasmBackend } from '../../src/kernels/wasm/open.ts';
import { createNodeHost } from '../../src/platform/host-node.ts';
import { checkTopK, type Dense, denseOf, everyType, type Fill, Noise, q6kOf, vectors } from './top-k.ts';

/** Node 20 computes another thing in `dot`, which its self-test finds out. */
const isNode20 = /^v2[01]\./.test(process.version);
const builds: readonly VariantName[] = isNode20 ? ['simd', 'relaxed'] : ['simd', 'relaxed', 'dot'];

const backends: Backend[] = [];
beforeAll(async () => {
  const host = await createNodeHost();
  for (const kernels of builds) {
    for (const threads of [1, 3]) backends.push(await createWasmBackend({ threads, kernels }, host));
  }
});
afterAll(async () => {
  for (const backend of backends) await backend.dispose();
});

/** On every build, with one thread and with three. Returns the least share that one of them left out, for each k. */
async function check(matrix: Dense, x: Float32Array, ks: readonly number[] = [1, 40], what = ''): Promise<number[]> {
  const shares: number[][] = [];
  for (const backend of backends) shares.push(await checkTopK(backend, matrix, x, ks, what));
  return ks.map((_, i) => Math.min(...shares.map((share) => share[i])));
}

const floats: readonly DenseType[] = ['F32', 'F16', 'BF16'];
const ROWS = 1033;

describe.each(everyType)('%s', (dtype) => {
  const noise = new Noise(everyType.indexOf(dtype) + 1);
  const { bell, uniform, below } = noise;

  it('computes fewer than a tenth of ordinary rows', async () => {
    const [one, forty] = await check(denseOf(dtype, 6000, 256, bell), vectors(1, 256, bell), [1, 40]);
    expect(one).toBeGreaterThan(0.97);
    expect(forty).toBeGreaterThan(0.9);
  });

  it('with any k, several rows of x and other widths', async () => {
    await check(denseOf(dtype, 1500, 512, bell), vectors(3, 512, bell), [1, 2, 40, 300, 1024]);
    const [share] = await check(denseOf(dtype, 1025, 2560, bell), vectors(2, 2560, bell), [40]);
    expect(share).toBeGreaterThan(0.6);
  });

  it('rows that differ by less than the estimate can tell, duplicates, and rows all equal', async () => {
    const base = vectors(1, 256, bell);
    const near: Fill = (row, column) => base[column] + (column === row % 256 ? bell() * 2e-3 : 0);
    const bit: Fill = (row, column) => base[column] * (column === row % 256 ? 1 + 2 ** -10 : 1);
    const twins: Fill = (row, column) => base[column] * (1 + (row % 5) / 5);
    const x = vectors(2, 256, bell);
    // Products of one sign and of the other: the greatest are those of largest and of smallest size.
    x.set(base, 0);
    x.set(
      base.map((value) => -value),
      256,
    );
    for (const fill of [near, bit, twins]) await check(denseOf(dtype, ROWS, 256, fill), x, [1, 40]);
    await check(
      denseOf(dtype, ROWS, 256, (_, column) => base[column]),
      x,
      [1, 300],
    );
    await check(
      denseOf(dtype, ROWS, 256, () => 0.75),
      vectors(1, 256, () => 1),
      [1, 300],
    );
  });

  it('rows of zeros among negative ones', async () => {
    const fill: Fill = (row) => (row % 3 === 0 ? (row % 2 === 0 ? 0 : -0) : -Math.abs(bell()));
    await check(
      denseOf(dtype, ROWS, 256, fill),
      vectors(1, 256, () => Math.abs(bell())),
      [1, 40, 400],
    );
    await check(
      denseOf(dtype, ROWS, 256, () => 0),
      vectors(1, 256, bell),
      [1, 40],
    );
  });

  it('only negative products', async () => {
    await check(
      denseOf(dtype, ROWS, 256, () => -Math.abs(bell()) - 0.1),
      vectors(1, 256, () => Math.abs(bell())),
      [1, 40],
    );
  });

  it('awkward x: an outlier, zeros, subnormals, tiny, huge, not numbers', async () => {
    const matrix = denseOf(dtype, ROWS, 256, bell);
    const one =
      (at: number, value: number): Fill =>
      (_, column) =>
        column === at ? value : bell();
    const kinds: Record<string, Fill> = {
      outlier: one(77, 1e6),
      'outlier of 1e30': one(255, -1e30),
      zeros: (_, column) => (column % 2 === 0 ? 0 : -0),
      subnormal: () => bell() * 1e-40,
      'one subnormal': (_, column) => (column === 3 ? 1e-40 : 0),
      'below the floor of the scale': () => bell() * 1e-9,
      'at the floor': () => bell() * 1e-5,
      'squares vanish': () => bell() * 1e-24,
      'from 1e-30 to 1e3': (_, column) => bell() * 10 ** ((column % 34) - 30),
      'squares overflow': () => bell() * 1e25,
      'products overflow': () => bell() * 3e37,
      NaN: one(200, Number.NaN),
      Infinity: one(0, Infinity),
      'both infinities': (_, column) => (column === 9 ? Infinity : column === 90 ? -Infinity : bell()),
    };
    const fills = Object.values(kinds);
    // All at once, as the rows of one x.
    const x = vectors(fills.length, 256, (row, column) => fills[row](row, column));
    await check(matrix, x, [1, 40], Object.keys(kinds).join(', '));
  });

  it('rows of very different sizes', async () => {
    const sizes: Record<DenseType, readonly number[]> = {
      F32: [1, 1e-5, 1e-20, 1e-23, 1e-30, 1e-39, 1e-44, 1e10, 1e18, 1e20, 8e37],
      BF16: [1, 1e-5, 1e-20, 1e-23, 1e-30, 1e-39, 1e10, 1e18, 1e20, 8e37],
      F16: [1, 1e-3, 1e-6, 6e-8, 1e3, 16000],
      Q8_0: [1, 1e-3, 1e-5, 1e4, 2e6],
      Q6_K: [1, 1e-3, 1e-4, 1e4, 6e7],
      AFFINE: [1, 1e-5, 1e-20, 1e-30, 1e-36, 1e10, 1e18, 1e20, 1e37],
    };
    for (const size of sizes[dtype]) {
      const x = vectors(3, 256, (row) => bell() * [1, 1e-7, 1e19][row]);
      await check(
        denseOf(dtype, ROWS, 256, () => bell() * size),
        x,
        [1, 40],
        `${size}`,
      );
    }
    const mixed = denseOf(dtype, ROWS, 256, (row) => bell() * sizes[dtype][row % sizes[dtype].length]);
    const x = vectors(2, 256, (row) => (row === 0 ? bell() : -Math.abs(uniform())));
    await check(mixed, x, [1, 40, 600], 'mixed');
  });

  it('rows and x with one outlier each, the rest in the middle between two codes', async () => {
    for (let round = 0; round < 2; round++) {
      const [i, j] = [1 + below(12), 1 + below(400)];
      const fill: Fill = (row, column) => (column === 0 ? 127 : i - 0.4999 - (row % 40) * 0.004);
      const x = vectors(1, 512, (_, column) => (column === 1 ? 4095 : j - 0.4999));
      await check(denseOf(dtype, ROWS, 512, fill), x, [1, 40], `codes ${i} and ${j}`);
    }
  });
});

describe('errors as large as the bound allows', () => {
  // The estimates have the order wrong, by so much that 0.9 of E would not see it.
  it.each(everyType)('%s: x rounded all in one direction, along the row', async (dtype) => {
    // The product of rows of +1 is -2.5 and estimated at 123, that of rows of -1 is 2.5 and estimated at -123; E is 126.
    // x[0] sets the step of the codes.
    const x = vectors(1, 256, (_, column) => {
      return column === 0 ? (dtype === 'Q6_K' ? 127 : 4095) : column % 2 === 1 && column > 3 ? 1.508 : -1.492;
    });
    const fill: Fill = (row, column) => (column === 0 ? 0 : row % 2 === 0 ? 1 : -1);
    await check(denseOf(dtype, ROWS, 256, fill), x, [1, 40]);
  });

  it.each(floats)('%s: rows rounded up beside rows rounded down', async (dtype) => {
    // The greatest products are those of even rows, estimated at 256 + 132, beside odd ones, estimated at 512 + 127.
    const fill: Fill = (row, column) => {
      if (column === 0) return 127;
      return row % 2 === 1 ? 1.5078125 : column === 1 ? 6 : 1.4921875;
    };
    const [share] = await check(
      denseOf(dtype, ROWS, 256, fill),
      vectors(1, 256, () => 1),
      [1, 40],
    );
    expect(share).toBe(0);
  });

  it.each(['Q8_0', 'Q6_K'] as const)('%s: nothing but the rounding of sums', async (dtype) => {
    // All rows hold the same blocks in another order: one product, but for its last bits, and x is what its codes stand for.
    const { bell, below } = new Noise(15);
    const size = dtype === 'Q8_0' ? 34 : 210;
    const { bytes, ...rest } = denseOf(dtype, ROWS, 2560, (row) => (row === 0 ? bell() : 0));
    const rowBytes = bytes.length / ROWS;
    for (let at = rowBytes; at < bytes.length; at += rowBytes) {
      bytes.copyWithin(at, at - rowBytes, at);
      for (let block = rowBytes / size - 1; block > 0; block--) {
        const [one, other] = [at + block * size, at + below(block + 1) * size];
        const kept = bytes.slice(one, one + size);
        bytes.copyWithin(one, other, other + size);
        bytes.set(kept, other);
      }
    }
    await check(
      { ...rest, bytes },
      vectors(1, 2560, () => 1),
      [1, 40],
    );
  });

  it('F32: nothing but the rounding of products', async () => {
    // Rows of integers between -127 and 127 times what makes all products the same.
    const { below } = new Noise(16);
    const data = vectors(ROWS, 256, (_, column) => (column === 0 ? 127 : below(247) - 119));
    for (let row = 0; row < ROWS; row++) {
      const part = data.subarray(row * 256, (row + 1) * 256);
      const scale = Math.fround(1 / part.reduce((a, b) => a + b, 0));
      part.forEach((value, i) => {
        part[i] = value * scale;
      });
    }
    await check(
      denseOf('F32', ROWS, 256, (row, column) => data[row * 256 + column]),
      vectors(1, 256, () => 4095),
      [1, 40],
    );
  });
});

describe('what once was missed', () => {
  it.each(floats)('%s: sums of a wide row beyond 2^31', async (dtype) => {
    // All alike, so that every code is the largest; half of the rows are smaller, and their sums have room.
    const fill: Fill = (row, column) => (row % 2 === 0 || column % 2 === 0 ? 1 + (row % 8) / 8 : 0.5);
    await check(
      denseOf(dtype, 1025, 4352, fill),
      vectors(1, 4352, () => 1),
      [1, 40, 200],
    );
  });

  it.each(['F32', 'BF16'] as const)('%s: rows whose squares vanish', async (dtype) => {
    const { bell } = new Noise(11);
    for (const size of [3e-23, 1e-24, 1e-37, 1e-39]) {
      await check(
        denseOf(dtype, ROWS, 256, () => bell() * size),
        vectors(2, 256, bell),
        [1, 40],
        `${size}`,
      );
    }
  });

  it('F32: products that only just do not overflow', async () => {
    const x = 1.15244e18;
    // The estimate of odd rows is 1/300 too large: infinite, though the product is not the greatest.
    const fill: Fill = (row, column) => x * (row % 2 === 0 ? 1 - row * 1e-7 : column === 0 ? 1.003 : 0.9995);
    await check(
      denseOf('F32', ROWS, 256, fill),
      vectors(1, 256, () => x),
      [1, 2, 40],
    );
  });

  it('Q6_K: blocks whose codes all stand for 0, under large scales of both signs', async () => {
    const { below, bell, uniform } = new Noise(12);
    const zero = q6kOf(ROWS, 2560, (row) => ({
      code: () => (row % 3 === 0 ? 32 : 0),
      scale: () => (row % 3 === 0 ? below(256) - 128 : below(127) + 1),
      d: () => Math.abs(uniform()) + 1e-3,
    }));
    await check(zero, vectors(1, 2560, bell), [1, 40, 200]);
    await check(
      zero,
      vectors(1, 2560, () => Math.abs(bell())),
      [1, 40, 200],
    );
  });
});

it('Q6_K: any bytes are a matrix', async () => {
  const { below, bell, uniform } = new Noise(13);
  const any = q6kOf(ROWS, 512, () => ({ code: () => below(64), scale: () => below(256) - 128, d: uniform }));
  const extreme = q6kOf(ROWS, 512, () => ({
    code: () => 63 * below(2),
    scale: () => (below(2) === 0 ? -128 : 127),
    d: () => 65504 * (below(2) * 2 - 1),
  }));
  for (const matrix of [any, extreme]) {
    await check(matrix, vectors(2, 512, bell), [1, 40]);
    await check(
      matrix,
      vectors(1, 512, () => (below(2) === 0 ? -1 : 1)),
      [1, 40],
    );
    await check(
      matrix,
      vectors(1, 512, () => 1),
      [1, 40],
    );
  }
});

it('Q8_0: codes of -128, which its encoder does not write', async () => {
  const { below, bell } = new Noise(14);
  const { bytes, ...rest } = denseOf('Q8_0', ROWS, 512, bell);
  for (let i = 0; i < bytes.length; i++) if (i % 34 > 1) bytes[i] = below(3) === 0 ? 128 : below(256);
  await check({ ...rest, bytes }, vectors(2, 512, bell), [1, 40]);
  await check(
    { ...rest, bytes },
    vectors(1, 512, () => -1),
    [1, 40],
  );
});
