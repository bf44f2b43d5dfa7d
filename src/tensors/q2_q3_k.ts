/**
 * Q2_K and Q3_K: 256 values in 84 and 110 bytes; two or three bits each, a scale for every 16.
 *
 *     Q2_K   byte 0            16             80       82    83
 *                 s u8[16]     q u8[64]       d f16    m f16
 *     Q3_K   byte 0            32             96            108    109
 *                 h u8[32]     q u8[64]       s u8[12]      d f16
 *
 *     half of 128 values = 0, 1; plane p = 0 .. 3; i = 0 .. 31; group k = 8 half + 2 p + i/16 has 16 values
 *     q byte 32 half + i   bits 2p+1 : 2p = low bits of value 128 half + 32 p + i
 *
 *     Q2_K   s byte k      bits 3:0 = step, 7:4 = offset of group k
 *            value = d * step * low - m * offset
 *     Q3_K   h byte i      bit 4 half + p is set where nothing is subtracted, clear for low - 4: code = -4 .. 3
 *            s             six bits of group k, its scale plus 32. Low four: byte k mod 8, bits 3:0 for k < 8, 7:4 for k >= 8;
 *                          high two: byte 8 + k mod 4, bits 2(k/4)+1 : 2(k/4)
 *            value = d * scale * code
 *
 * Example, Q3_K: s[0] = 0x01, s[8] = 0x02: group 0 has 1 + (2 << 4) - 32 = 1. q[0] = 0x02 with h[0] = 0: code 0 = 2 - 4.
 * Traps: h says what is NOT subtracted; d comes last. Q2_K: step and offset have 15 bits, their difference is rounded once.
 * Q3_K: d * scale * code has 11 + 6 + 3 bits and is exact in any order; the integers are multiplied first, as in `q6_k.ts`, so
 * that a code of 0 under a negative scale is 0 and not -0, and becomes a Q6_K of the same bits.
 * Upstream: dequantize_row_q2_K and dequantize_row_q3_K in ggml-quants.c.
 * @module
 */

import type { AffineBlocks } from './affine.ts';
import { blockCount, firstBlock, readF16, roundAway, wantFinite, writeF16 } from './blocks.ts';
import { fitAffine, fitScaled, nearestCode, nearestSigned } from './fit.ts';

const ELEMENTS = 256;
const GROUP = 16;
const GROUPS = 16;

const Q2_Q = 16;
const Q2_D = 80;
const Q2_M = 82;

export const Q3_K_BYTES = 110;
const Q3_Q = 32;
const Q3_S = 96;
export const Q3_K_D = 108;

export const Q2_K: AffineBlocks = {
  elements: ELEMENTS,
  bytes: 84,
  group: GROUP,
  scales(bytes, at, steps, offsets) {
    const d = readF16(bytes, at + Q2_D);
    const m = readF16(bytes, at + Q2_M);
    for (let k = 0; k < GROUPS; k++) {
      steps[k] = d * (bytes[at + k] & 15);
      offsets[k] = m * (bytes[at + k] >> 4);
    }
  },
  codes(bytes, at, out, to, stride) {
    for (let k = 0; k < GROUPS; k++) {
      const shift = shiftOf(k);
      const from = at + Q2_Q + byteOf(k);
      for (let i = 0; i < GROUP; i++) out[to + k * stride + i] = (bytes[from + i] >> shift) & 3;
    }
  },
};

/** First q byte of group k, and the place of its bits. */
function byteOf(k: number): number {
  return 32 * (k >> 3) + 16 * (k & 1);
}
function shiftOf(k: number): number {
  return k & 6;
}

/** Signed scales of the 16 groups of a block of Q3_K. */
export function scalesQ3_K(bytes: Uint8Array, at: number, out: Int8Array): void {
  const s = at + Q3_S;
  for (let k = 0; k < GROUPS; k++) {
    const low = k < 8 ? bytes[s + k] & 15 : bytes[s + k - 8] >> 4;
    const high = (bytes[s + 8 + (k & 3)] >> (2 * (k >> 2))) & 3;
    out[k] = (low | (high << 4)) - 32;
  }
}

/** Codes -4 .. 3 of a block of Q3_K, in the order of the values. */
export function codesQ3_K(bytes: Uint8Array, at: number, out: Int8Array): void {
  for (let k = 0; k < GROUPS; k++) {
    const shift = shiftOf(k);
    const from = at + Q3_Q + byteOf(k);
    const high = at + 16 * (k & 1);
    for (let i = 0; i < GROUP; i++) {
      const low = (bytes[from + i] >> shift) & 3;
      out[GROUP * k + i] = low - (((bytes[high + i] >> (k >> 1)) & 1) === 0 ? 4 : 0);
    }
  }
}

/** Values first .. first + count, both multiples of 256. */
export function decodeQ3_K(bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt = 0): void {
  const scales = new Int8Array(GROUPS);
  const codes = new Int8Array(ELEMENTS);
  let at = firstBlock(first, count, ELEMENTS) * Q3_K_BYTES;
  for (let base = outAt; base < outAt + count; base += ELEMENTS, at += Q3_K_BYTES) {
    const d = readF16(bytes, at + Q3_K_D);
    scalesQ3_K(bytes, at, scales);
    codesQ3_K(bytes, at, codes);
    for (let j = 0; j < ELEMENTS; j++) out[base + j] = d * Math.imul(scales[j >> 4], codes[j]);
  }
}

/**
 * Steps and offsets of the groups by `fitAffine`, rounded to multiples of d and m, the largest of which become 15; then the nearest
 * codes for what was stored. Relative RMS error on Gaussian values 0.27.
 */
export function encodeQ2_K(values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(blockCount(values.length, ELEMENTS) * Q2_K.bytes);
  wantFinite(values);
  const [steps, offsets] = [new Float32Array(GROUPS), new Float32Array(GROUPS)];
  for (let base = 0, at = 0; base < values.length; base += ELEMENTS, at += Q2_K.bytes) {
    const groupOf = (k: number) => values.subarray(base + GROUP * k, base + GROUP * (k + 1));
    const fits = Array.from({ length: GROUPS }, (_, k) => fitAffine(groupOf(k), 3));
    writeF16(out, at + Q2_D, fits.reduce((max, { step }) => Math.max(max, step), 0) / 15);
    writeF16(out, at + Q2_M, fits.reduce((max, { offset }) => Math.max(max, offset), 0) / 15);
    const [d, m] = [readF16(out, at + Q2_D), readF16(out, at + Q2_M)];
    for (const [k, { step, offset }] of fits.entries()) {
      out[at + k] = nearestCode(step, d, 0, 15) | (nearestCode(offset, m, 0, 15) << 4);
    }
    Q2_K.scales(out, at, steps, offsets);
    for (let k = 0; k < GROUPS; k++) {
      const q = at + Q2_Q + byteOf(k);
      groupOf(k).forEach((x, i) => {
        out[q + i] |= nearestCode(x, steps[k], offsets[k], 3) << shiftOf(k);
      });
    }
  }
  return out;
}

/**
 * Scales of the groups by `fitScaled`, rounded to multiples of d, the largest of which becomes -32 d; then the nearest codes for what
 * was stored. Relative RMS error on Gaussian values 0.143.
 */
export function encodeQ3_K(values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(blockCount(values.length, ELEMENTS) * Q3_K_BYTES);
  wantFinite(values);
  for (let base = 0, at = 0; base < values.length; base += ELEMENTS, at += Q3_K_BYTES) {
    const groupOf = (k: number) => values.subarray(base + GROUP * k, base + GROUP * (k + 1));
    const steps = Array.from({ length: GROUPS }, (_, k) => fitScaled(groupOf(k), 4));
    const most = steps.reduce((max, step) => (Math.abs(step) > Math.abs(max) ? step : max), 0);
    writeF16(out, at + Q3_K_D, most === 0 ? 0 : most / -32); // 0 / -32 would be -0
    const d = readF16(out, at + Q3_K_D);
    for (let k = 0; k < GROUPS; k++) {
      const scale = d === 0 ? 0 : Math.max(-32, Math.min(31, roundAway(steps[k] / d)));
      const stored = scale + 32;
      out[at + Q3_S + (k & 7)] |= (stored & 15) << (k < 8 ? 0 : 4);
      out[at + Q3_S + 8 + (k & 3)] |= (stored >> 4) << (2 * (k >> 2));
      const [q, high] = [at + Q3_Q + byteOf(k), at + 16 * (k & 1)];
      groupOf(k).forEach((x, i) => {
        const code = nearestSigned(x, d * scale, 4) + 4;
        out[q + i] |= (code & 3) << shiftOf(k);
        out[high + i] |= (code >> 2) << (k >> 1);
      });
    }
  }
  return out;
}
