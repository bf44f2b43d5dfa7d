/**
 * I2_S: ternary values of two bits, one scale for the whole tensor.
 *
 * The tensor is one long list of n values (row after row, n a multiple of 128); every 128 of them take 32 bytes:
 *
 *     bit of byte p    7 6          5 4             3 2             1 0             p = 0 .. 31
 *     holds value      p            32 + p          64 + p          96 + p          of the block
 *
 *     code  0 -> -1    1 -> 0    2 -> +1    3 never written
 *
 *     byte 0                         n/4       n/4 + 4                n/4 + 32
 *          blocks                    scale f32 28 bytes of anything   end
 *
 * Example: +1, 0, -1, +1 at positions 0, 32, 64, 96 give byte 0 = 10 01 00 10b = 0x92.
 * Value = scale * trit. Upstream leaves uninitialised memory behind the scale; we write zeros.
 *
 * Traps. Blocks do not restart with a row: when K is no multiple of 128 (1bitLLM's 3B model has K = 8640), odd rows
 * begin in the middle of a block; upstream's kernels get that wrong. Builds for ARM since November 2025, and builds with other
 * options, write the same type id with another order of the values: see `i2s-layouts.ts`; what is here is the order of x86. A
 * quantiser run with more than one thread writes files full of code 3 with absurd scales: hence the checks here.
 *
 * Upstream: quantize_i2_s in src/ggml-bitnet-mad.cpp of microsoft/BitNet, as built for x86; the layout of every
 * published file.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { TAIL_BYTES } from './dtype.ts';

export const I2S_BLOCK_ELEMENTS = 128;
export const I2S_BLOCK_BYTES = 32;

/** Trits first .. first + count of the flat list; any range. `bytes` begins at a block border, value 0 with it. */
export function decodeTritsI2S(bytes: Uint8Array, first: number, count: number, out: Int8Array, outAt = 0): void {
  for (let i = 0; i < count; i++) {
    const e = first + i;
    const byte = bytes[Math.floor(e / I2S_BLOCK_ELEMENTS) * I2S_BLOCK_BYTES + (e & 31)];
    out[outAt + i] = ((byte >> (6 - 2 * ((e >> 5) & 3))) & 3) - 1;
  }
}

/** Values first .. first + count of a tensor of n values; `bytes` is the whole tensor, scale included. */
export function decodeI2S(
  bytes: Uint8Array,
  n: number,
  first: number,
  count: number,
  out: Float32Array,
  outAt = 0,
): void {
  const scale = scaleOfI2S(bytes, n / 4);
  const trits = new Int8Array(count);
  decodeTritsI2S(bytes, first, count, trits);
  for (let i = 0; i < count; i++) out[outAt + i] = scale * trits[i];
}

/** The float32 at byte `at`; a tensor's own is at n/4. */
export function scaleOfI2S(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getFloat32(at, true);
}

/** A scale must be a positive finite number; anything else comes from a broken quantiser or a wrong offset. */
export function wantScale(scale: number, where: string): void {
  want(Number.isFinite(scale) && scale > 0, 'bad-tensor', 'bad scale', () => ({
    where,
    expected: 'a positive finite number',
    got: `${scale}`,
    hint: 'files quantised with more than one thread are broken like this; quantise again with one',
  }));
}

/** A whole tensor from trits. The padding behind the scale is zero, so equal input gives equal bytes. */
export function encodeI2S(trits: Int8Array, scale: number): Uint8Array<ArrayBuffer> {
  const n = trits.length;
  want(n % I2S_BLOCK_ELEMENTS === 0, 'bad-argument', 'I2_S holds whole blocks', () => ({
    expected: `a multiple of ${I2S_BLOCK_ELEMENTS} values`,
    got: `${n}`,
  }));
  wantScale(Math.fround(scale), 'I2_S');
  const out = new Uint8Array(n / 4 + TAIL_BYTES);
  for (let e = 0; e < n; e++) {
    const code = wantTrit(trits, e) + 1;
    out[Math.floor(e / I2S_BLOCK_ELEMENTS) * I2S_BLOCK_BYTES + (e & 31)] |= code << (6 - 2 * ((e >> 5) & 3));
  }
  new DataView(out.buffer).setFloat32(n / 4, scale, true);
  return out;
}

/** trits[i], checked. */
export function wantTrit(trits: Int8Array, i: number): number {
  const trit = trits[i];
  if (trit < -1 || trit > 1) {
    throw new BitnetError('bad-argument', 'not a trit', {
      where: `value ${i}`,
      expected: '-1, 0 or 1',
      got: `${trit}`,
    });
  }
  return trit;
}

/**
 * Index of the first byte in `bytes` that has code 3 in one of its four fields, or -1. A field is 3 when both its
 * bits are set: `w & w >> 1` brings the upper bit down onto the lower, 0x55.. keeps one bit a field. Words of 32 bits
 * do four bytes at once; bits that the shift carries over a byte border land on masked places.
 */
export function findCode3(bytes: Uint8Array): number {
  const head = Math.min(bytes.length, (4 - (bytes.byteOffset & 3)) & 3);
  const at = findCode3ByByte(bytes, 0, head);
  if (at >= 0) return at;
  const nWords = (bytes.length - head) >> 2;
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + head, nWords);
  for (let i = 0; i < nWords; i++) {
    const w = words[i];
    if ((w & (w >>> 1) & 0x55555555) !== 0) return findCode3ByByte(bytes, head + 4 * i, head + 4 * i + 4);
  }
  return findCode3ByByte(bytes, head + 4 * nWords, bytes.length);
}

function findCode3ByByte(bytes: Uint8Array, from: number, to: number): number {
  for (let i = from; i < to; i++) if ((bytes[i] & (bytes[i] >> 1) & 0x55) !== 0) return i;
  return -1;
}

/**
 * Refuses blocks with code 3, naming the value. `bytes` are whole blocks; `firstElement` is the flat index of their
 * first value.
 */
export function wantNoCode3(bytes: Uint8Array, firstElement: number, where: string): void {
  const at = findCode3(bytes);
  if (at < 0) return;
  const plane = [6, 4, 2, 0].findIndex((shift) => ((bytes[at] >> shift) & 3) === 3);
  const element =
    firstElement + Math.floor(at / I2S_BLOCK_BYTES) * I2S_BLOCK_ELEMENTS + 32 * plane + (at % I2S_BLOCK_BYTES);
  throw code3(
    `${where} value ${element}`,
    bytes[at],
    'the file is damaged, or was quantised with more than one thread',
  );
}

/** Code 3 in a byte of whatever type keeps four codes in one. */
export function code3(where: string, byte: number, hint: string): BitnetError {
  return new BitnetError('bad-tensor', 'code 3 where only 0, 1, 2 are ternary', {
    where,
    got: `byte 0x${byte.toString(16).padStart(2, '0')}`,
    hint,
  });
}
