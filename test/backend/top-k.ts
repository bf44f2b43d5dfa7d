/** Matrices for the tests of `denseTopK`, and what its answer must keep to. */
import { expect } from 'vitest';
import type { Backend, DenseType } from '../../src/kernels/interface.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { encodeAffine } from '../../src/tensors/affine.ts';
import { encodeBF16, encodeF16, encodeF32 } from '../../src/tensors/floats.ts';
import { encodeQ6_K } from '../../src/tensors/q6_k.ts';
import { encodeQ8_0 } from '../../src/tensors/q8_0.ts';

export const everyType: readonly DenseType[] = ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K', 'AFFINE'];

const ENCODERS: Record<DenseType, (data: Float32Array) => Uint8Array> = {
  F32: encodeF32,
  F16: encodeF16,
  BF16: encodeBF16,
  Q8_0: encodeQ8_0,
  Q6_K: encodeQ6_K,
  AFFINE: encodeAffine,
};

/** A matrix as a backend takes it. */
export interface Dense {
  readonly dtype: DenseType;
  readonly rows: number;
  readonly columns: number;
  readonly bytes: Uint8Array;
}

/** One value for each row and column. */
export type Fill = (row: number, column: number) => number;

export function denseOf(dtype: DenseType, rows: number, columns: number, fill: Fill): Dense {
  return { dtype, rows, columns, bytes: ENCODERS[dtype](vectors(rows, columns, fill)) };
}

/** A matrix of Q6_K that its encoder would not make: codes, signed scales and d of every block as they are given. */
export function q6kOf(rows: number, columns: number, block: (row: number) => Block): Dense {
  const perRow = columns / 256;
  const bytes = new Uint8Array(rows * perRow * 210);
  for (let b = 0; b < rows * perRow; b++) {
    const { code, scale, d } = block(Math.floor(b / perRow));
    const at = b * 210;
    for (let i = 0; i < 128; i++) bytes[at + i] = (code() & 15) | ((code() & 15) << 4);
    for (let i = 0; i < 64; i++) {
      for (let shift = 0; shift < 8; shift += 2) bytes[at + 128 + i] |= (code() >> 4) << shift;
    }
    for (let i = 0; i < 16; i++) bytes[at + 192 + i] = scale();
    bytes.set(encodeF16(Float32Array.of(d())), at + 208);
  }
  return { dtype: 'Q6_K', rows, columns, bytes };
}

/** Where the numbers of a block come from; a code of 32 stands for 0. Low and high bits are asked for one by one. */
export interface Block {
  readonly code: () => number;
  readonly scale: () => number;
  readonly d: () => number;
}

/** Rows (n, columns) of x. */
export function vectors(n: number, columns: number, fill: Fill): Float32Array {
  const out = new Float32Array(n * columns);
  for (let i = 0; i < out.length; i++) out[i] = fill(Math.floor(i / columns), i % columns);
  return out;
}

/** Random numbers from a seed, picked from a table: matrices take millions. */
export class Noise {
  readonly #table: Float32Array;
  #state: number;

  constructor(seed: number) {
    const rng = Rng.fromSeed(seed);
    this.#state = rng.nextUint32();
    this.#table = Float32Array.from({ length: 4099 }, () => rng.nextFloat() * 2 - 1);
  }

  /** An integer from 0 to below `end`. */
  readonly below = (end: number) => {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return (this.#state >>> 8) % end;
  };
  /** From -1 to 1. */
  readonly uniform = () => this.#table[this.below(this.#table.length)];
  /** Bell-shaped, deviation about 1. */
  readonly bell = () => this.uniform() + this.uniform() + this.uniform();
}

/** Both ops for every row of x and every k; fails where the answer breaks the promise. Returns the share left out, for each k. */
export async function checkTopK(backend: Backend, matrix: Dense, x: Float32Array, ks: readonly number[], what = '') {
  const { rows, columns, bytes, dtype } = matrix;
  const n = x.length / columns;
  const weight = await backend.upload({
    kind: 'dense',
    name: `dense ${dtype}`,
    dtype,
    rows,
    columns,
    byteLength: bytes.length,
    fill: async (to) => {
      to.set(bytes);
      return 1;
    },
  });
  const [source, out] = [backend.alloc('f32', [n, columns]), backend.alloc('f32', [n, rows])];
  backend.write(source, x);
  backend.denseMatmul(out, weight, source, n);
  const products = await backend.read(out, n * rows);
  const shares: number[] = [];
  for (const k of ks) {
    backend.denseTopK(out, weight, source, k, n);
    const got = await backend.read(out, n * rows);
    let leftOut = 0;
    for (let i = 0; i < n; i++) {
      const part = [i * rows, (i + 1) * rows] as const;
      const where = `${what} ${dtype} (${rows}, ${columns}) k ${k} row ${i} of ${n}, ${variantOf(backend)}`;
      leftOut += checkRow(got.subarray(...part), products.subarray(...part), k, where);
    }
    shares.push(leftOut / (n * rows));
  }
  backend.free(source);
  backend.free(out);
  return shares;
}

function checkRow(got: Float32Array, products: Float32Array, k: number, where: string): number {
  const known = products.filter((value) => !Number.isNaN(value)).sort();
  // With fewer than k numbers nothing is certain, so nothing may be missing.
  const least = known.length >= k ? known[known.length - k] : -Infinity;
  let leftOut = 0;
  for (let i = 0; i < got.length; i++) {
    if (Object.is(got[i], products[i])) continue; // all NaN are one
    if (got[i] !== -Infinity || !(products[i] < least)) {
      expect.fail(`${where}: element ${i} is ${got[i]}, the product ${products[i]}, the k-th greatest ${least}`);
    }
    leftOut++;
  }
  return leftOut;
}

function variantOf({ info }: Backend): string {
  return `${info.variant} ${info.nThreads}`;
}
