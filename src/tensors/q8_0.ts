/**
 * Q8_0: 32 values in 34 bytes, one half-precision scale and 32 signed bytes.
 *
 *     byte 0      2                                   33
 *          d f16  q0  q1  q2  ...                     q31        value j = d * q[j]
 *
 * Example: d = 0.5 (00 38), q0 = 0xfe = -2 -> value 0 = -1.
 * The product of an 11-bit and an 8-bit significand has at most 19 bits: decoding to float32 is exact.
 *
 * Upstream: quantize_row_q8_0_ref and dequantize_row_q8_0 in ggml-quants.c.
 * @module
 */

import { blockCount, firstBlock, readF16, roundAway, wantFinite, writeF16 } from './blocks.ts';

const ELEMENTS = 32;
const BYTES = 34;

/** Values first .. first + count, both multiples of 32. */
export function decodeQ8_0(bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt = 0): void {
  let at = firstBlock(first, count, ELEMENTS) * BYTES;
  for (let i = 0; i < count; i += ELEMENTS, at += BYTES) {
    const d = readF16(bytes, at);
    for (let j = 0; j < ELEMENTS; j++) out[outAt + i + j] = d * ((bytes[at + 2 + j] << 24) >> 24);
  }
}

/**
 * Nearest multiples of absmax / 127, with the float32 steps of upstream so that equal input gives equal bytes. The
 * scale is rounded to half precision after the codes are chosen. Error bound per value: half a step plus 127 times
 * the scale's rounding, d/2 + absmax * 2^-11 (for d in the normal range of halves).
 */
export function encodeQ8_0(values: Float32Array): Uint8Array<ArrayBuffer> {
  const nBlocks = blockCount(values.length, ELEMENTS);
  wantFinite(values);
  const out = new Uint8Array(nBlocks * BYTES);
  for (let b = 0, at = 0; b < nBlocks; b++, at += BYTES) {
    const block = values.subarray(b * ELEMENTS, (b + 1) * ELEMENTS);
    let max = 0;
    for (const x of block) max = Math.max(max, Math.abs(x));
    const d = Math.fround(max / 127);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    writeF16(out, at, d);
    // Clamped: for subnormal scales 1/d overflows or max/d rounds past 127, which upstream lets wrap.
    for (let j = 0; j < ELEMENTS; j++) {
      const q = roundAway(Math.fround(block[j] * inverse));
      out[at + 2 + j] = Math.max(-127, Math.min(127, Number.isNaN(q) ? 0 : q));
    }
  }
  return out;
}
