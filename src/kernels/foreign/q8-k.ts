/**
 * Q8_K: how llama.cpp quantises the activations that meet TQ1_0 and TQ2_0, and how it sums the products.
 *
 * A row is cut into blocks of 256 values, each with a scale of its own (`quantize_row_q8_K_ref` of ggml-quants.c):
 *
 *     m       the value of the largest magnitude, with its sign; the first of several
 *     i       -127 / m, so that value becomes -127; a block without any (all zeros) has codes 0 and d = 0
 *     code    min(127, nearest_int(i * x))
 *     d       1 / i, of the opposite sign of m
 *
 * and one element of a product is, with the sum of trit * code of a block exact (`ggml_vec_dot_tq1_0_q8_K`, `_tq2_0_q8_K`),
 *
 *     s = 0; for blocks ascending: s += f32(sum) * (d * weightScale)
 *
 * every operation rounded to f32. That is the order of the portable C code and of its NEON path. The AVX2 path has the same
 * integers but eight running sums, one for every four neighbours of 32, added at the end: it differs by rounding of f32.
 * @module
 */

const f = Math.fround;

/** QK_K. */
export const Q8_K_BLOCK = 256;

/** 1.5 * 2^23: added to a number below 2^22, it leaves the nearest integer in the lowest bits, halves to even. */
const MAGIC = 12582912;

/**
 * Rows of x (n, columns) f32 to codes (n, columns); `factors` and `d` (n, columns / 256) take i and d of each block, i being 0
 * where there is none. What is not finite comes out as in C: of a NaN code 0, of an infinity d infinite, so the product is NaN.
 */
export function quantizeQ8K(
  codes: Int8Array,
  factors: Float32Array,
  d: Float32Array,
  x: Float32Array,
  columns: number,
  n: number,
): void {
  const rounded = new Float32Array(1);
  const bits = new Int32Array(rounded.buffer);
  const nBlocks = (n * columns) / Q8_K_BLOCK;
  for (let block = 0; block < nBlocks; block++) {
    const [start, end] = [block * Q8_K_BLOCK, (block + 1) * Q8_K_BLOCK];
    let max = 0;
    let absmax = 0;
    for (let i = start; i < end; i++) {
      const magnitude = Math.abs(x[i]);
      // False for NaN, and for a second one as large.
      if (magnitude > absmax) {
        absmax = magnitude;
        max = x[i];
      }
    }
    if (absmax === 0) {
      codes.fill(0, start, end);
      factors[block] = d[block] = 0;
      continue;
    }
    const factor = f(-127 / max);
    for (let i = start; i < end; i++) {
      rounded[0] = f(factor * x[i]) + MAGIC;
      codes[i] = Math.min(127, (bits[0] & 0x7fffff) - 0x400000);
    }
    factors[block] = factor;
    d[block] = 1 / factor;
  }
}

/**
 * One block's part of a product: out (n, rows) += sums (n, rows) of the block, each times the block's scale and the weight's.
 * d (n, nBlocks); the block that comes first begins from 0.
 */
export function addBlock(
  out: Float32Array,
  sums: Float32Array,
  d: Float32Array,
  block: number,
  nBlocks: number,
  weightScale: number,
  rows: number,
  n: number,
): void {
  for (let token = 0; token < n; token++) {
    const scale = f(d[token * nBlocks + block] * weightScale);
    const end = (token + 1) * rows;
    for (let i = token * rows; i < end; i++) out[i] += f(sums[i] * scale); // the store rounds
  }
}
