/**
 * Q6_K: 256 values in 210 bytes; six bits each, a signed scale for every 16, one half-precision scale for all.
 *
 *     byte 0                  128              192             208      209
 *          ql: low 4 bits     qh: high 2 bits  sc: i8[16]      d f16
 *
 * The block has two halves h of 128 values, each with 64 bytes of ql and 32 of qh; a half has four groups g of 32:
 *
 *     ql byte 64h + i        bits 3:0 = low bits of value i of group 0,   7:4 = of group 2
 *     ql byte 64h + 32 + i   bits 3:0 =             value i of group 1,   7:4 = of group 3
 *     qh byte 32h + i        bits 1:0 group 0, 3:2 group 1, 5:4 group 2, 7:6 group 3
 *
 *     q = (low | high << 4) - 32                          -32 .. 31
 *     value 128h + 32g + i = d * sc[8h + 2g + i/16] * q
 *
 * Example: ql[0] = 0x21, qh[0] = 0x02, sc[0] = 3, d = 0.5: value 0 has low 1, high 2: q = 33 - 32 = 1, value 1.5;
 * value 64 (group 2) has low 2, high 0: q = -30.
 * d * sc * q has at most 11 + 7 + 5 = 23 significant bits: decoding to float32 is exact in any order. The integers are
 * multiplied first, as integers, so that a code of 0 under a negative scale is 0 and not -0.
 *
 * Trap: d comes last, unlike in the other formats. Upstream: dequantize_row_q6_K in ggml-quants.c.
 * @module
 */

import { blockCount, firstBlock, readF16, roundAway, wantFinite, writeF16 } from './blocks.ts';

const ELEMENTS = 256;
const BYTES = 210;
const QH = 128;
const SCALES = 192;
const D = 208;

/** Values first .. first + count, both multiples of 256. */
export function decodeQ6_K(bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt = 0): void {
  let at = firstBlock(first, count, ELEMENTS) * BYTES;
  for (let base = outAt; base < outAt + count; base += ELEMENTS, at += BYTES) {
    const d = readF16(bytes, at + D);
    for (let h = 0; h < 2; h++) {
      for (let g = 0; g < 4; g++) {
        const ql = at + 64 * h + 32 * (g & 1);
        const qh = at + QH + 32 * h;
        const sc = at + SCALES + 8 * h + 2 * g;
        const lowShift = 4 * (g >> 1);
        const highShift = 2 * g;
        for (let i = 0; i < 32; i++) {
          const low = (bytes[ql + i] >> lowShift) & 15;
          const high = (bytes[qh + i] >> highShift) & 3;
          const scale = (bytes[sc + (i >> 4)] << 24) >> 24;
          out[base + 128 * h + 32 * g + i] = d * Math.imul(scale, (low | (high << 4)) - 32);
        }
      }
    }
  }
}

/**
 * A plain encoder: each 16 values are scaled so that the one of largest magnitude becomes -32, the scales are rounded
 * to multiples of d, then the values to multiples of what was stored. Upstream searches for the least squared error
 * instead; its files are a little better, ours are legal and reproducible.
 *
 * With e = d * sc the stored step of its group, a value within -32.5 e .. 31.5 e is off by at most |e|/2; beyond that
 * it is clipped to 31 e, which costs the largest value on the other side up to one more step.
 */
export function encodeQ6_K(values: Float32Array): Uint8Array<ArrayBuffer> {
  const nBlocks = blockCount(values.length, ELEMENTS);
  wantFinite(values);
  const out = new Uint8Array(nBlocks * BYTES);
  for (let b = 0; b < nBlocks; b++) {
    encodeBlock(values.subarray(b * ELEMENTS, (b + 1) * ELEMENTS), out.subarray(b * BYTES, (b + 1) * BYTES));
  }
  return out;
}

function encodeBlock(values: Float32Array, out: Uint8Array): void {
  const steps = Array.from({ length: 16 }, (_, k) => largest(values.subarray(16 * k, 16 * k + 16)) / -32);
  const maxStep = steps.reduce((max, s) => (Math.abs(s) > Math.abs(max) ? s : max), 0);
  // The largest step becomes -128 * d: the scales' range is one longer on the negative side.
  writeF16(out, D, maxStep === 0 ? 0 : maxStep / -128); // 0 / -128 would be -0
  const d = readF16(out, D);
  for (let k = 0; k < 16; k++) {
    const scale = d === 0 ? 0 : Math.max(-128, Math.min(127, roundAway(steps[k] / d)));
    out[SCALES + k] = scale;
    const step = d * scale;
    const h = k >> 3;
    const g = (k & 7) >> 1;
    for (let j = 0; j < 16; j++) {
      const i = 16 * (k & 1) + j;
      const q = step === 0 ? 0 : Math.max(-32, Math.min(31, roundAway(values[16 * k + j] / step)));
      const code = q + 32;
      out[64 * h + 32 * (g & 1) + i] |= (code & 15) << (4 * (g >> 1));
      out[QH + 32 * h + i] |= (code >> 4) << (2 * g);
    }
  }
}

/** The value of largest magnitude, with its sign. */
function largest(values: Float32Array): number {
  return values.reduce((max, x) => (Math.abs(x) > Math.abs(max) ? x : max), 0);
}
