/**
 * Q4_0, Q4_1, Q5_0, Q5_1: 32 values with four or five bits each and one half-precision step, in 18, 20, 22 and 24 bytes.
 *
 *     Q4_0   d f16 | q u8[16]                          value = d * (code - 8)
 *     Q4_1   d f16 | m f16 | q u8[16]                  value = d * code + m
 *     Q5_0   d f16 | h u32 | q u8[16]                  value = d * (code - 16)
 *     Q5_1   d f16 | m f16 | h u32 | q u8[16]          value = d * code + m
 *
 *     q byte j   bits 3:0 = low bits of code j,  7:4 = of code 16 + j        j = 0 .. 15
 *     h          bit i = bit 4 of code i, i = 0 .. 31; little-endian
 *
 * Example, Q5_0: d = 0.5 (00 38), h = 00 00 01 00 (bit 16), q0 = 0x31: code 0 = 1, value -7.5; code 16 = 3 + 16, value 1.5.
 * d * code has at most 16 bits and is exact; the sum with m is rounded once.
 *
 * Encoders do what upstream's reference ones do, f32 step for f32 step, and give the same bytes: for _0 types the value of
 * largest magnitude becomes the lowest code (d has the opposite sign of it; a block of zeros stores d = -0), for _1 types codes
 * cover least to greatest. Error per value: half a step, up to a whole one for _0 at the other end, plus the rounding of d and m.
 * Upstream: quantize_row_q4_0_ref ... and dequantize_row_q5_1 in ggml-quants.c.
 * @module
 */

import type { AffineBlocks } from './affine.ts';
import { blockCount, firstBlock, readF16, wantFinite, writeF16 } from './blocks.ts';

const ELEMENTS = 32;
const HALF = 16;

/** 32 codes of four bits out of 16 bytes. */
function unpackFours(bytes: Uint8Array, at: number, out: Uint8Array | Int8Array, to: number): void {
  for (let j = 0; j < HALF; j++) {
    const byte = bytes[at + j];
    out[to + j] = byte & 15;
    out[to + HALF + j] = byte >> 4;
  }
}

/** 32 codes of five bits: h, then 16 bytes. */
function unpackFives(bytes: Uint8Array, at: number, out: Uint8Array | Int8Array, to: number): void {
  const low = bytes[at] | (bytes[at + 1] << 8);
  const high = bytes[at + 2] | (bytes[at + 3] << 8);
  for (let j = 0; j < HALF; j++) {
    const byte = bytes[at + 4 + j];
    out[to + j] = (byte & 15) | (((low >> j) & 1) << 4);
    out[to + HALF + j] = (byte >> 4) | (((high >> j) & 1) << 4);
  }
}

/** A type whose weights are d * (code - middle): d, then the codes. */
export interface CentredBlocks {
  readonly bytes: number;
  readonly middle: number;
  /** Codes of the block at byte `at`, not yet centred. */
  codes(bytes: Uint8Array, at: number, out: Int8Array, to: number): void;
}

export const Q4_0: CentredBlocks = {
  bytes: 18,
  middle: 8,
  codes: (bytes, at, out, to) => unpackFours(bytes, at + 2, out, to),
};

export const Q5_0: CentredBlocks = {
  bytes: 22,
  middle: 16,
  codes: (bytes, at, out, to) => unpackFives(bytes, at + 2, out, to),
};

/** d and -m: values are step * code - offset. */
function scales(bytes: Uint8Array, at: number, steps: Float32Array, offsets: Float32Array): void {
  steps[0] = readF16(bytes, at);
  offsets[0] = -readF16(bytes, at + 2);
}

export const Q4_1: AffineBlocks = {
  elements: ELEMENTS,
  bytes: 20,
  group: ELEMENTS,
  scales,
  codes: (bytes, at, out, to) => unpackFours(bytes, at + 4, out, to),
};

export const Q5_1: AffineBlocks = {
  elements: ELEMENTS,
  bytes: 24,
  group: ELEMENTS,
  scales,
  codes: (bytes, at, out, to) => unpackFives(bytes, at + 4, out, to),
};

/** Values first .. first + count of Q4_0 or Q5_0, both multiples of 32. */
export function decodeCentred(
  { bytes: blockBytes, middle, codes }: CentredBlocks,
  bytes: Uint8Array,
  first: number,
  count: number,
  out: Float32Array,
  outAt = 0,
): void {
  const block = new Int8Array(ELEMENTS);
  let at = firstBlock(first, count, ELEMENTS) * blockBytes;
  for (let base = outAt; base < outAt + count; base += ELEMENTS, at += blockBytes) {
    const d = readF16(bytes, at);
    codes(bytes, at, block, 0);
    for (let j = 0; j < ELEMENTS; j++) out[base + j] = d * (block[j] - middle);
  }
}

export function encodeQ4_0(values: Float32Array): Uint8Array<ArrayBuffer> {
  return encodeCentred(Q4_0, values);
}

export function encodeQ5_0(values: Float32Array): Uint8Array<ArrayBuffer> {
  return encodeCentred(Q5_0, values);
}

export function encodeQ4_1(values: Float32Array): Uint8Array<ArrayBuffer> {
  return encodeShifted(Q4_1, 15, values);
}

export function encodeQ5_1(values: Float32Array): Uint8Array<ArrayBuffer> {
  return encodeShifted(Q5_1, 31, values);
}

const f = Math.fround;

function encodeCentred({ bytes: blockBytes, middle }: CentredBlocks, values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(blockCount(values.length, ELEMENTS) * blockBytes);
  wantFinite(values);
  for (let base = 0, at = 0; base < values.length; base += ELEMENTS, at += blockBytes) {
    let largest = 0;
    for (let j = 0; j < ELEMENTS; j++) {
      if (Math.abs(values[base + j]) > Math.abs(largest)) largest = values[base + j];
    }
    const d = f(largest / -middle);
    const inverse = d === 0 ? 0 : f(1 / d);
    writeF16(out, at, d);
    pack(out, at + 2, middle === 16, (j) => f(f(values[base + j] * inverse) + middle + 0.5));
  }
  return out;
}

function encodeShifted(
  { bytes: blockBytes }: AffineBlocks,
  top: 15 | 31,
  values: Float32Array,
): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(blockCount(values.length, ELEMENTS) * blockBytes);
  wantFinite(values);
  for (let base = 0, at = 0; base < values.length; base += ELEMENTS, at += blockBytes) {
    let least = values[base];
    let greatest = least;
    for (let j = 1; j < ELEMENTS; j++) {
      const x = values[base + j];
      if (x < least) least = x;
      if (x > greatest) greatest = x;
    }
    const d = f(f(greatest - least) / top);
    const inverse = d === 0 ? 0 : f(1 / d);
    writeF16(out, at, d);
    writeF16(out, at + 2, least);
    pack(out, at + 4, top === 31, (j) => f(f(f(values[base + j] - least) * inverse) + 0.5));
  }
  return out;
}

/** Writes the integer parts as codes. Clamped: for subnormal steps 1/d overflows, where upstream's casts are undefined. */
function pack(out: Uint8Array, at: number, isFive: boolean, code: (j: number) => number): void {
  const top = isFive ? 31 : 15;
  const q = isFive ? at + 4 : at;
  for (let i = 0; i < ELEMENTS; i++) {
    const value = code(i);
    const c = Number.isNaN(value) ? 0 : Math.max(0, Math.min(top, Math.trunc(value)));
    out[q + (i & 15)] |= (c & 15) << (i < HALF ? 0 : 4);
    if (isFive) out[at + (i >> 3)] |= (c >> 4) << (i & 7);
  }
}
