/**
 * IEEE 754 half precision, exact in both directions and without `Float16Array` (which Node 20 lacks).
 *
 *     15   14..10    9..0
 *     sign exponent  fraction        bias 15, smallest normal 2^-14, smallest subnormal 2^-24, largest 65504
 *
 * Everything is computed with integers and with multiplications by powers of two, which do not round, so no bit
 * patterns are needed on the way: the scalar functions work without scratch memory.
 * @module
 */

import { roundHalfEven } from './exp.ts';

/** The value of 16 bits; every half is exactly a float32. */
export function f16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 0x3ff;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  // Value = significand * 2^(exponent - 25); a subnormal has no leading one and the exponent of the smallest normal.
  const significand = exponent === 0 ? fraction : fraction | 0x400;
  const shift = (exponent === 0 ? 1 : exponent) - 25;
  return sign * (shift >= 0 ? significand * (1 << shift) : significand / (1 << -shift));
}

/**
 * The nearest half, ties to even; beyond 65519.99.. infinity. `x` may be any double: it is rounded once. All NaNs
 * become 0x7e00, because JavaScript does not promise to keep their payload.
 */
export function numberToF16(x: number): number {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(x);
  // 65520 lies in the middle of 65504 and the would-be 65536; the tie goes to the even one, which is infinity.
  if (magnitude >= 65520) return sign | 0x7c00;
  // Below the smallest normal the step is 2^-24 everywhere. A carry to 1024 gives the smallest normal by itself.
  if (magnitude < 2 ** -14) return sign | roundHalfEven(magnitude * 2 ** 24);
  // magnitude * 2^14 lies in 1 .. 2^30: its integer part fits an int32, whose bit length is the exponent.
  const exponent = 31 - Math.clz32(magnitude * 2 ** 14) - 14;
  const scaled = exponent <= 10 ? magnitude * (1 << (10 - exponent)) : magnitude / (1 << (exponent - 10));
  const significand = roundHalfEven(scaled); // 1024 .. 2048
  // 2048 carries into the exponent, which is what it should do.
  return sign | (((exponent + 15) << 10) + (significand - 0x400));
}

/**
 * Decodes `count` little-endian halves from byte `offsetBytes` on. Goes through integer bit patterns: a half becomes a
 * float32 by moving its fields and re-biasing the exponent by 127 - 15 = 112.
 */
export function decodeF16s(bytes: Uint8Array, offsetBytes: number, count: number, out: Float32Array, outAt = 0): void {
  const outBits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < count; i++) {
    const at = offsetBytes + 2 * i;
    const half = bytes[at] | (bytes[at + 1] << 8);
    outBits[outAt + i] = f16ToF32Bits(half);
  }
}

/** The float32 bit pattern of a half, NaN payloads included. May be negative: store it in a Uint32Array. */
function f16ToF32Bits(half: number): number {
  const sign = (half & 0x8000) << 16;
  const magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return sign | 0x7f800000 | ((magnitude & 0x3ff) << 13);
  if (magnitude >= 0x400) return sign | ((magnitude << 13) + (112 << 23));
  if (magnitude === 0) return sign;
  // Subnormal, magnitude * 2^-24: float32 has room to normalise it. Shifting the leading one from bit p to bit 23
  // takes 23 - p steps; the exponent p - 24 is stored as p - 24 + 127 = 126 - shift.
  const shift = Math.clz32(magnitude) - 8;
  return sign | ((magnitude << shift) & 0x7fffff) | ((126 - shift) << 23);
}

/** Encodes `count` values from `values[at]` on as little-endian halves. */
export function encodeF16s(values: Float32Array, at: number, count: number, out: Uint8Array, outOffsetBytes = 0): void {
  for (let i = 0; i < count; i++) {
    const half = numberToF16(values[at + i]);
    out[outOffsetBytes + 2 * i] = half;
    out[outOffsetBytes + 2 * i + 1] = half >> 8;
  }
}
