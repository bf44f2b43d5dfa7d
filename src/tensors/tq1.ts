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
import { f16ToNumber, numberToF16 } from '../numeric/f16.ts';
import { blockCount, firstBlock, readF16, ternaryBlocks, writeF16 } from './blocks.ts';
import { wantScale, wantTrit } from './i2s.ts';

const ELEMENTS = 256;
export const TQ1_BLOCK_BYTES = 54;
const QS2 = 32;
const QH = 48;
/** Offset of the scale in a block. */
export const TQ1_SCALE = 52;

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

/**
 * Trits first .. first + count (multiples of 256) and the scale of each of their blocks into `scales`. Any byte decodes
 * to something here; `wantBytesTQ1` tells the impossible ones.
 */
export function decodeTritsTQ1(
  bytes: Uint8Array,
  first: number,
  count: number,
  out: Int8Array,
  scales: Float32Array,
  outAt = 0,
): void {
  const block0 = firstBlock(first, count, ELEMENTS);
  for (let b = 0; b < count / ELEMENTS; b++) {
    const block = (block0 + b) * TQ1_BLOCK_BYTES;
    const to = outAt + b * ELEMENTS;
    for (let j = 0; j < ELEMENTS; j++) {
      const { at, n } = placeOf(j);
      out[to + j] = digitTQ1(bytes[block + at], n) - 1;
    }
    scales[b] = readF16(bytes, block + TQ1_SCALE);
  }
}

/** Values first .. first + count, both multiples of 256. */
export function decodeTQ1(bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt = 0): void {
  const trits = new Int8Array(count);
  const scales = new Float32Array(count / ELEMENTS);
  decodeTritsTQ1(bytes, first, count, trits, scales);
  for (let i = 0; i < count; i++) out[outAt + i] = scales[i >> 8] * trits[i];
}

/** A whole tensor from trits and one scale, which is rounded to half precision. Blocks of zeros get d = 0. */
export function encodeTQ1(trits: Int8Array, scale: number): Uint8Array<ArrayBuffer> {
  const nBlocks = blockCount(trits.length, ELEMENTS);
  // As stored: a scale below half of 2^-24 would turn the whole tensor into zeros.
  wantScale(f16ToNumber(numberToF16(scale)), 'TQ1_0');
  const out = new Uint8Array(nBlocks * TQ1_BLOCK_BYTES);
  const q = new Uint8Array(TQ1_SCALE);
  for (let b = 0; b < nBlocks; b++) {
    q.fill(0);
    let any = false;
    for (let j = 0; j < ELEMENTS; j++) {
      const { at, n } = placeOf(j);
      const trit = wantTrit(trits, b * ELEMENTS + j);
      any ||= trit !== 0;
      q[at] += (trit + 1) * POWERS[4 - n];
    }
    for (let i = 0; i < TQ1_SCALE; i++) out[b * TQ1_BLOCK_BYTES + i] = byteTQ1(q[i]);
    writeF16(out, b * TQ1_BLOCK_BYTES + TQ1_SCALE, any ? scale : 0);
  }
  return out;
}

/** Floats as `ternaryBlocks` takes them. */
export function quantizeTQ1(values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(blockCount(values.length, ELEMENTS) * TQ1_BLOCK_BYTES);
  for (const { block, trits, scale } of ternaryBlocks(values)) {
    out.set(encodeTQ1(trits, 1), block * TQ1_BLOCK_BYTES);
    writeF16(out, block * TQ1_BLOCK_BYTES + TQ1_SCALE, scale);
  }
  return out;
}

/** Refuses blocks with bytes that no encoder writes. `table` is `digitTableTQ1()`, `firstBlock` counts from the tensor's begin. */
export function wantBytesTQ1(bytes: Uint8Array, firstBlock: number, table: Int16Array, where: string): void {
  for (let block = 0; block + TQ1_BLOCK_BYTES <= bytes.length; block += TQ1_BLOCK_BYTES) {
    for (let i = 0; i < TQ1_SCALE; i++) {
      const codes = table[bytes[block + i]];
      // In qh the fifth digit is always 0.
      if (codes >= 0 && (i < QH || (codes & 3) === 0)) continue;
      throw new BitnetError('bad-tensor', 'a byte that encodes no five trits', {
        where: `${where} block ${firstBlock + block / TQ1_BLOCK_BYTES} byte ${i}`,
        got: `0x${bytes[block + i].toString(16).padStart(2, '0')}`,
        hint: 'the file is damaged',
      });
    }
  }
}
