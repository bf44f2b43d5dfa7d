/**
 * F32, F16 and BF16 tensors: plain little-endian values, row after row.
 *
 *     F32    |value 0: 4 bytes|value 1| ...        F16, BF16    |value 0: 2 bytes|value 1| ...
 *
 * Example: 1.5 is 00 00 c0 3f as F32, 00 3e as F16 (0x3e00 = 1.1b * 2^0) and c0 3f as BF16 (upper half of F32).
 * All three decode to float32 exactly.
 * @module
 */

import { decodeBF16s, encodeBF16s } from '../numeric/bf16.ts';
import { decodeF16s, encodeF16s } from '../numeric/f16.ts';

/** Values first .. first + count of an F32 tensor. `bytes` begins at value 0 and need not be aligned. */
export function decodeF32(bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt = 0): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  // As integers, so that NaN payloads stay what they are.
  const outBits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < count; i++) outBits[outAt + i] = view.getUint32(4 * (first + i), true);
}

export function encodeF32(values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(4 * values.length);
  const view = new DataView(out.buffer);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) view.setUint32(4 * i, bits[i], true);
  return out;
}

/** Values first .. first + count of an F16 tensor. */
export function decodeF16(bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt = 0): void {
  decodeF16s(bytes, 2 * first, count, out, outAt);
}

export function encodeF16(values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(2 * values.length);
  encodeF16s(values, 0, values.length, out);
  return out;
}

/** Values first .. first + count of a BF16 tensor. */
export function decodeBF16(bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt = 0): void {
  decodeBF16s(bytes, 2 * first, count, out, outAt);
}

export function encodeBF16(values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(2 * values.length);
  encodeBF16s(values, 0, values.length, out);
  return out;
}
