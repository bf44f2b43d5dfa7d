/**
 * TQ1_0: 256 ternary values in 54 bytes, five to a byte, and a half-precision scale: 1.69 bits a value.
 *
 *     byte 0                     32                       48                       52
 *          qs: values 0 .. 159   qs: values 160 .. 239    qh: values 240 .. 255    d f16
 *
 *     byte m       m = 0..31    trit n (n = 0..4) is value       32n + m
 *     byte 32 + m  m = 0..15    trit n (n = 0..4) is value 160 + 16n + m
 *     byte 48 + m  m = 0..3     trit n (n = 0..3) is value 240 +  4n + m
 *
 * Five digits t = trit + 1 in base 3, t0 most significant, make q = 81 t0 + 27 t1 + 9 t2 + 3 t3 + t4 (0 .. 242). Stored is
 * the fixed-point fraction q/243 in eighths of a byte: byte = ceil(256 q / 243). Digits come off the top by
 * multiplication: times 3^n modulo 256 drops the first n, times 3 and shift by 8 gives the next. qh has t4 = 0.
 *
 * Examples: (1,0,-1,1,-1) -> digits 2,1,0,2,0 -> q 195 -> byte 206. All zero: q 121 -> 128. All +1: 242 -> 255.
 * All -1: 0. Of the 256 bytes 13 encode nothing; of the qh bytes 175 do not: both are refused as damage.
 *
 * Upstream: quantize_row_tq1_0_ref and dequantize_row_tq1_0 in ggml-quants.c; a block of zeros has d = 0.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { encodeTernary, type TernaryBlocks } from './tq.ts';

const QS2 = 32;
const QH = 48;

/** Digit n (0 .. 4) of a byte: trit + 1. */
export function digitTQ1(byte: number, n: number): number {
  return (((byte * POWERS[n]) & 0xff) * 3) >> 8;
}
const POWERS: readonly number[] = [1, 3, 9, 27, 81];

/** The byte of q = 0 .. 242. */
export function byteTQ1(q: number): number {
  return Math.ceil((256 * q) / 243);
}

/**
 * For each byte its five digits as two-bit codes, t0 in bits 9:8 .. t4 in bits 1:0; -1 for the 13 bytes that encode
 * nothing. 1 KiB, built in microseconds by whoever transcodes.
 */
export function digitTableTQ1(): Int16Array {
  const table = new Int16Array(256).fill(-1);
  for (let q = 0; q < 243; q++) {
    const byte = byteTQ1(q);
    let codes = 0;
    for (let n = 0; n < 5; n++) codes = (codes << 2) | digitTQ1(byte, n);
    table[byte] = codes;
  }
  return table;
}

/** Where value j of a block is: byte offset and digit. */
function placeOf(j: number): { at: number; n: number } {
  if (j < 160) return { at: j & 31, n: j >> 5 };
  if (j < 240) return { at: QS2 + (j & 15), n: (j - 160) >> 4 };
  return { at: QH + (j & 3), n: (j - 240) >> 2 };
}

export const TQ1_0: TernaryBlocks = {
  name: 'TQ1_0',
  bytes: 54,
  scaleAt: 52,
  decodeBlock(bytes, block, out, outAt) {
    for (let j = 0; j < 256; j++) {
      const { at, n } = placeOf(j);
      out[outAt + j] = digitTQ1(bytes[block + at], n) - 1;
    }
  },
  encodeBlock(trits, out, outAt) {
    const q = new Uint8Array(TQ1_0.scaleAt);
    for (let j = 0; j < 256; j++) {
      const { at, n } = placeOf(j);
      q[at] += (trits[j] + 1) * POWERS[4 - n];
    }
    for (let i = 0; i < q.length; i++) out[outAt + i] = byteTQ1(q[i]);
  },
};

export function encodeTQ1(trits: Int8Array, scale: number): Uint8Array<ArrayBuffer> {
  return encodeTernary(TQ1_0, trits, scale);
}

/** Refuses blocks with bytes that no encoder writes. `table` is `digitTableTQ1()`, `firstBlock` counts from the tensor's begin. */
export function wantBytesTQ1(bytes: Uint8Array, firstBlock: number, table: Int16Array, where: string): void {
  for (let block = 0; block + TQ1_0.bytes <= bytes.length; block += TQ1_0.bytes) {
    for (let i = 0; i < TQ1_0.scaleAt; i++) {
      const codes = table[bytes[block + i]];
      // In qh the fifth digit is always 0.
      if (codes >= 0 && (i < QH || (codes & 3) === 0)) continue;
      throw new BitnetError('bad-tensor', 'a byte that encodes no five trits', {
        where: `${where} block ${firstBlock + block / TQ1_0.bytes} byte ${i}`,
        got: `0x${bytes[block + i].toString(16).padStart(2, '0')}`,
        hint: 'the file is damaged',
      });
    }
  }
}
