/**
 * AFFINE: how dense weights with a step and an offset lie in memory. Not a type of files: it takes in Q4_1, Q5_1, Q4_K and Q5_K
 * without loss, so that kernels know one type instead of four. (Q2_K is left out: its offsets change every 16 values.)
 *
 *     byte 0       4       8                             39
 *          a f32   b f32   q0  q1  q2   ...   q31  u8          32 values in 40 bytes, little-endian
 *
 *     value j = f32(f32(a * q[j]) - b)
 *
 * Example: a = 0.5, b = 3, q0 = 7 -> value 0 = 0.5.
 *
 * Why nothing is lost. In those types a weight is step * code - offset, computed in f32 in this order by
 * dequantize_row_* of ggml-quants.c. There the step is a half, or a half times an integer of at most 6 bits: 17 significant bits
 * at most, exact in f32. So is the offset. The code has at most 5 bits, so that step * code has at most 22 and is exact too, fused
 * or not. One rounding is left, that of the difference, and it is the same one. (x * d + m of Q4_1 and Q5_1 is a * q - b with
 * b = -m: IEEE 754 makes no difference between adding and subtracting the negative, not even in the sign of a zero.) Halves are
 * multiples of 2^-24 and products stay below 2^27: nothing underflows or overflows.
 * @module
 */

import { blockCount, firstBlock } from './blocks.ts';

export const AFFINE_ELEMENTS = 32;
export const AFFINE_BYTES = 40;
const CODES = 8;

/** A file type whose weights are step * code - offset: how to take its blocks apart. */
export interface AffineBlocks {
  readonly elements: number;
  readonly bytes: number;
  /** Values that share a step and an offset. */
  readonly group: number;
  /** Of each group of the block at byte `at`. */
  scales(bytes: Uint8Array, at: number, steps: Float32Array, offsets: Float32Array): void;
  /** Code i of group g goes to out[to + g * stride + i]. */
  codes(bytes: Uint8Array, at: number, out: Uint8Array, to: number, stride: number): void;
}

/** Values first .. first + count of a tensor of such a type, whole blocks. */
export function decodeAffineBlocks(
  { elements, bytes: blockBytes, group, scales, codes }: AffineBlocks,
  bytes: Uint8Array,
  first: number,
  count: number,
  out: Float32Array,
  outAt = 0,
): void {
  const steps = new Float32Array(elements / group);
  const offsets = new Float32Array(elements / group);
  const block = new Uint8Array(elements);
  let at = firstBlock(first, count, elements) * blockBytes;
  for (let base = outAt; base < outAt + count; base += elements, at += blockBytes) {
    scales(bytes, at, steps, offsets);
    codes(bytes, at, block, 0, group);
    for (let g = 0; g < steps.length; g++) {
      const step = steps[g];
      const offset = offsets[g];
      // In f64 the product is exact; the difference is rounded to f64 and then, stored, to f32, which for a sum of two f32
      // values gives what rounding once would (53 bits are more than twice 24 and two).
      for (let i = g * group; i < (g + 1) * group; i++) out[base + i] = step * block[i] - offset;
    }
  }
}

/** Whole blocks of a type with groups of 32 into the form above; `out` has 40 bytes for every group. */
export function toAffine(
  { elements, bytes: blockBytes, scales, codes }: AffineBlocks,
  bytes: Uint8Array,
  out: Uint8Array,
): void {
  const groups = elements / AFFINE_ELEMENTS;
  const steps = new Float32Array(groups);
  const offsets = new Float32Array(groups);
  const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
  let to = 0;
  for (let at = 0; at < bytes.length; at += blockBytes) {
    scales(bytes, at, steps, offsets);
    codes(bytes, at, out, to + CODES, AFFINE_BYTES);
    for (let g = 0; g < groups; g++, to += AFFINE_BYTES) {
      view.setFloat32(to, steps[g], true);
      view.setFloat32(to + 4, offsets[g], true);
    }
  }
}

/** Values first .. first + count, both multiples of 32. `a` may be any number here, so its product is rounded. */
export function decodeAffine(bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt = 0): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = firstBlock(first, count, AFFINE_ELEMENTS) * AFFINE_BYTES;
  for (let base = outAt; base < outAt + count; base += AFFINE_ELEMENTS, at += AFFINE_BYTES) {
    const a = view.getFloat32(at, true);
    const b = view.getFloat32(at + 4, true);
    for (let j = 0; j < AFFINE_ELEMENTS; j++) out[base + j] = Math.fround(a * bytes[at + CODES + j]) - b;
  }
}

/**
 * Finite floats as the nearest of 256 steps between the least and the greatest of every 32: for tests of kernels, which need more
 * than files have. Off by at most half a step and a few roundings of f32.
 */
export function encodeAffine(values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(blockCount(values.length, AFFINE_ELEMENTS) * AFFINE_BYTES);
  const view = new DataView(out.buffer);
  for (let base = 0, at = 0; base < values.length; base += AFFINE_ELEMENTS, at += AFFINE_BYTES) {
    const block = values.subarray(base, base + AFFINE_ELEMENTS);
    const least = block.reduce((a, b) => Math.min(a, b));
    const a = Math.fround((block.reduce((x, y) => Math.max(x, y)) - least) / 255);
    view.setFloat32(at, a, true);
    view.setFloat32(at + 4, -least, true);
    for (let j = 0; j < AFFINE_ELEMENTS; j++) {
      out[at + CODES + j] = a === 0 ? 0 : Math.min(255, Math.floor((block[j] - least) / a + 0.5));
    }
  }
  return out;
}
