/**
 * TQ2_0: 256 ternary values in 66 bytes, two bits each and a half-precision scale.
 *
 *     byte 0                     32                     64
 *          qs: values 0 .. 127   qs: values 128 .. 255  d f16
 *
 *     bits of byte 32h + m    1 0          3 2           5 4           7 6           h = 0, 1   m = 0 .. 31
 *     hold value 128h +       m            32 + m        64 + m        96 + m
 *
 *     code  0 -> -1    1 -> 0    2 -> +1    3 never written                value = d * trit
 *
 * Trap: the low bits hold the first values, the opposite of I2_S.
 * Example: byte 0x92 = 10 01 00 10b: value m = +1, 32 + m = -1, 64 + m = 0, 96 + m = +1.
 * Upstream: quantize_row_tq2_0_ref and dequantize_row_tq2_0 in ggml-quants.c; a block of zeros has d = 0.
 * @module
 */

import { f16ToNumber, numberToF16 } from '../numeric/f16.ts';
import { blockCount, firstBlock, readF16, ternaryBlocks, writeF16 } from './blocks.ts';
import { wantScale, wantTrit } from './i2s.ts';

const ELEMENTS = 256;
export const TQ2_BLOCK_BYTES = 66;
/** Offset of the scale in a block. */
export const TQ2_SCALE = 64;

/**
 * Trits first .. first + count (multiples of 256) and the scale of each of their blocks into `scales`. The codes are
 * taken as they are; whoever wants zeros for blocks of scale 0 looks at the scale.
 */
export function decodeTritsTQ2(
  bytes: Uint8Array,
  first: number,
  count: number,
  out: Int8Array,
  scales: Float32Array,
  outAt = 0,
): void {
  const block0 = firstBlock(first, count, ELEMENTS);
  for (let b = 0; b < count / ELEMENTS; b++) {
    const at = (block0 + b) * TQ2_BLOCK_BYTES;
    const to = outAt + b * ELEMENTS;
    for (let j = 0; j < ELEMENTS; j++) {
      const byte = bytes[at + 32 * (j >> 7) + (j & 31)];
      out[to + j] = ((byte >> (2 * ((j >> 5) & 3))) & 3) - 1;
    }
    scales[b] = readF16(bytes, at + TQ2_SCALE);
  }
}

/** Values first .. first + count, both multiples of 256. */
export function decodeTQ2(bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt = 0): void {
  const trits = new Int8Array(count);
  const scales = new Float32Array(count / ELEMENTS);
  decodeTritsTQ2(bytes, first, count, trits, scales);
  for (let i = 0; i < count; i++) out[outAt + i] = scales[i >> 8] * trits[i];
}

/** A whole tensor from trits and one scale, which is rounded to half precision. Blocks of zeros get d = 0. */
export function encodeTQ2(trits: Int8Array, scale: number): Uint8Array<ArrayBuffer> {
  const nBlocks = blockCount(trits.length, ELEMENTS);
  // As stored: a scale below half of 2^-24 would turn the whole tensor into zeros.
  wantScale(f16ToNumber(numberToF16(scale)), 'TQ2_0');
  const out = new Uint8Array(nBlocks * TQ2_BLOCK_BYTES);
  for (let b = 0; b < nBlocks; b++) {
    const at = b * TQ2_BLOCK_BYTES;
    let any = false;
    for (let j = 0; j < ELEMENTS; j++) {
      const trit = wantTrit(trits, b * ELEMENTS + j);
      any ||= trit !== 0;
      out[at + 32 * (j >> 7) + (j & 31)] |= (trit + 1) << (2 * ((j >> 5) & 3));
    }
    writeF16(out, at + TQ2_SCALE, any ? scale : 0);
  }
  return out;
}

/** Floats as `ternaryBlocks` takes them. */
export function quantizeTQ2(values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(blockCount(values.length, ELEMENTS) * TQ2_BLOCK_BYTES);
  for (const { block, trits, scale } of ternaryBlocks(values)) {
    out.set(encodeTQ2(trits, 1), block * TQ2_BLOCK_BYTES);
    writeF16(out, block * TQ2_BLOCK_BYTES + TQ2_SCALE, scale);
  }
  return out;
}
