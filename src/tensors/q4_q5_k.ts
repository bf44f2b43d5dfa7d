/**
 * Q4_K and Q5_K: 256 values in 144 and 176 bytes; four or five bits each, a step and an offset of six bits for every 32.
 *
 *     Q4_K   byte 0      2       4            16
 *                 d f16  m f16   s u8[12]     q u8[128]
 *     Q5_K   byte 0      2       4            16           48
 *                 d f16  m f16   s u8[12]     h u8[32]     q u8[128]
 *
 *     group g = 0 .. 7 of 32 values, i = 0 .. 31
 *     q byte 32 (g/2) + i   bits 3:0 of the code of value 32 g + i for even g, 7:4 for odd g
 *     h byte i              bit g = bit 4 of that code
 *     s     g < 4           step = s[g] bits 5:0                                offset = s[g + 4] bits 5:0
 *           g >= 4          step = s[g + 4] bits 3:0, s[g - 4] bits 7:6 above   offset = s[g + 4] bits 7:4, s[g] bits 7:6 above
 *     value = d * step * code - m * offset
 *
 * Example: s[0] = 0x45, s[8] = 0x23: step 0 = 5, step 4 = 3 + (1 << 4) = 19; offset 4 has low bits 2, its high ones lie in s[4].
 * d * step has 17 bits, with a code of five bits 22: exact; the difference is rounded once.
 * Upstream: dequantize_row_q4_K, dequantize_row_q5_K and get_scale_min_k4 in ggml-quants.c.
 * @module
 */

import type { AffineBlocks } from './affine.ts';
import { blockCount, readF16, wantFinite, writeF16 } from './blocks.ts';
import { fitAffine, nearestCode } from './fit.ts';

const ELEMENTS = 256;
const GROUP = 32;
const GROUPS = 8;
const M = 2;
const S = 4;
const Q4_Q = 16;
const Q5_H = 16;
const Q5_Q = 48;

function scales(bytes: Uint8Array, at: number, steps: Float32Array, offsets: Float32Array): void {
  const d = readF16(bytes, at);
  const m = readF16(bytes, at + M);
  const s = at + S;
  for (let g = 0; g < 4; g++) {
    const [first, second, both] = [bytes[s + g], bytes[s + g + 4], bytes[s + g + 8]];
    steps[g] = d * (first & 63);
    offsets[g] = m * (second & 63);
    steps[g + 4] = d * ((both & 15) | ((first >> 6) << 4));
    offsets[g + 4] = m * ((both >> 4) | ((second >> 6) << 4));
  }
}

export const Q4_K: AffineBlocks = {
  elements: ELEMENTS,
  bytes: 144,
  group: GROUP,
  scales,
  codes(bytes, at, out, to, stride) {
    for (let g = 0; g < GROUPS; g += 2) {
      const q = at + Q4_Q + 16 * g;
      const even = to + g * stride;
      const odd = even + stride;
      for (let i = 0; i < GROUP; i++) {
        const byte = bytes[q + i];
        out[even + i] = byte & 15;
        out[odd + i] = byte >> 4;
      }
    }
  },
};

export const Q5_K: AffineBlocks = {
  elements: ELEMENTS,
  bytes: 176,
  group: GROUP,
  scales,
  codes(bytes, at, out, to, stride) {
    for (let g = 0; g < GROUPS; g += 2) {
      const q = at + Q5_Q + 16 * g;
      const even = to + g * stride;
      const odd = even + stride;
      for (let i = 0; i < GROUP; i++) {
        const byte = bytes[q + i];
        const high = bytes[at + Q5_H + i] >> g;
        out[even + i] = (byte & 15) | ((high & 1) << 4);
        out[odd + i] = (byte >> 4) | ((high & 2) << 3);
      }
    }
  },
};

/** See `encodeBlocks`. Relative RMS error on Gaussian values 0.071. */
export function encodeQ4_K(values: Float32Array): Uint8Array<ArrayBuffer> {
  return encodeBlocks(Q4_K, 15, values);
}

/** See `encodeBlocks`. Relative RMS error on Gaussian values 0.036. */
export function encodeQ5_K(values: Float32Array): Uint8Array<ArrayBuffer> {
  return encodeBlocks(Q5_K, 31, values);
}

/**
 * Steps and offsets of the groups by `fitAffine`, rounded to multiples of d and m, the largest of which become 63; then the nearest
 * codes for what was stored. Upstream weighs large values more; its files are legal in the same way, not the same bytes.
 */
function encodeBlocks(type: AffineBlocks, top: 15 | 31, values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(blockCount(values.length, ELEMENTS) * type.bytes);
  wantFinite(values);
  const [steps, offsets] = [new Float32Array(GROUPS), new Float32Array(GROUPS)];
  for (let base = 0, at = 0; base < values.length; base += ELEMENTS, at += type.bytes) {
    const groupOf = (g: number) => values.subarray(base + GROUP * g, base + GROUP * (g + 1));
    const fits = Array.from({ length: GROUPS }, (_, g) => fitAffine(groupOf(g), top));
    writeF16(out, at, fits.reduce((max, { step }) => Math.max(max, step), 0) / 63);
    writeF16(out, at + M, fits.reduce((max, { offset }) => Math.max(max, offset), 0) / 63);
    const [d, m, s] = [readF16(out, at), readF16(out, at + M), at + S];
    for (const [g, fit] of fits.entries()) {
      const step = nearestCode(fit.step, d, 0, 63);
      const offset = nearestCode(fit.offset, m, 0, 63);
      if (g < 4) {
        out[s + g] |= step;
        out[s + g + 4] |= offset;
      } else {
        out[s + g + 4] |= (step & 15) | ((offset & 15) << 4);
        out[s + g - 4] |= (step >> 4) << 6;
        out[s + g] |= (offset >> 4) << 6;
      }
    }
    type.scales(out, at, steps, offsets);
    for (let g = 0; g < GROUPS; g++) {
      const q = at + type.bytes - 128 + 32 * (g >> 1);
      const group = groupOf(g);
      for (let i = 0; i < GROUP; i++) {
        const code = nearestCode(group[i], steps[g], offsets[g], top);
        out[q + i] |= (code & 15) << (4 * (g & 1));
        if (code > 15) out[at + Q5_H + i] |= 1 << g;
      }
    }
  }
  return out;
}
