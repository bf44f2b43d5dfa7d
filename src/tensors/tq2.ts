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

import { code3, findCode3 } from './i2s.ts';
import { encodeTernary, type TernaryBlocks } from './tq.ts';

export const TQ2_0: TernaryBlocks = {
  name: 'TQ2_0',
  bytes: 66,
  scaleAt: 64,
  decodeBlock(bytes, at, out, outAt) {
    for (let j = 0; j < 256; j++) {
      const byte = bytes[at + 32 * (j >> 7) + (j & 31)];
      out[outAt + j] = ((byte >> (2 * ((j >> 5) & 3))) & 3) - 1;
    }
  },
  encodeBlock(trits, out, outAt) {
    for (let j = 0; j < 256; j++) {
      out[outAt + 32 * (j >> 7) + (j & 31)] |= (trits[j] + 1) << (2 * ((j >> 5) & 3));
    }
  },
};

export function encodeTQ2(trits: Int8Array, scale: number): Uint8Array<ArrayBuffer> {
  return encodeTernary(TQ2_0, trits, scale);
}

/** Refuses whole blocks with code 3, naming the value; `first` is the index of their first one. */
export function wantCodesTQ2(bytes: Uint8Array, first: number, where: string): void {
  for (let at = 0; at < bytes.length; at += TQ2_0.bytes) {
    const i = findCode3(bytes.subarray(at, at + TQ2_0.scaleAt));
    if (i < 0) continue;
    const byte = bytes[at + i];
    const plane = [0, 2, 4, 6].findIndex((shift) => ((byte >> shift) & 3) === 3);
    const value = first + (at / TQ2_0.bytes) * 256 + 128 * (i >> 5) + 32 * plane + (i & 31);
    throw code3(`${where} value ${value}`, byte, 'the file is damaged');
  }
}
