/**
 * Dense weights: `Backend.embed` and `Backend.denseMatmul`. Rows lie in their file type and are decoded exactly to f32,
 * a row at a time, into the thread's scratch; products follow in dot16 order.
 *
 * Layouts are drawn in `src/tensors/{floats,q8_0,q6_k}.ts`. Weights are finite: loading checks them.
 */

import { F16_MASK, F16_SCALE, HIGH_PAIRS, LOW_NIBBLES } from './layout';
import { f16ToF32, f16ToF32x4 } from './math';
import { dot16, fold16 } from './sums';

export const DENSE_F32: i32 = 0;
export const DENSE_F16: i32 = 1;
export const DENSE_BF16: i32 = 2;
export const DENSE_Q8_0: i32 = 3;
export const DENSE_Q6_K: i32 = 4;

/** Writes `columns` f32 values to `target`. */
export function decodeRow(type: i32, target: usize, source: usize, columns: i32): void {
  switch (type) {
    case DENSE_F32:
      memory.copy(target, source, <usize>columns << 2);
      return;
    case DENSE_F16:
      return decodeF16(target, source, columns);
    case DENSE_BF16:
      return decodeBf16(target, source, columns);
    case DENSE_Q8_0:
      return decodeQ8_0(target, source, columns);
    case DENSE_Q6_K:
      return decodeQ6_K(target, source, columns);
    default:
      unreachable(); // the owner knows no other type
  }
}

export function decodeF16(target: usize, source: usize, length: i32): void {
  const mask = v128.load(F16_MASK);
  const rebias = v128.load(F16_SCALE);
  let i = 0;
  for (; i + 8 <= length; i += 8, source += 16, target += 32) {
    const h = v128.load(source);
    v128.store(target, f16ToF32x4(i32x4.extend_low_i16x8_s(h), mask, rebias));
    v128.store(target, f16ToF32x4(i32x4.extend_high_i16x8_s(h), mask, rebias), 16);
  }
  for (; i < length; i++, source += 2, target += 4) store<f32>(target, f16ToF32(load<i16>(source)));
}

export function decodeBf16(target: usize, source: usize, length: i32): void {
  let i = 0;
  for (; i + 8 <= length; i += 8, source += 16, target += 32) {
    const h = v128.load(source);
    v128.store(target, i32x4.shl(i32x4.extend_low_i16x8_u(h), 16));
    v128.store(target, i32x4.shl(i32x4.extend_high_i16x8_u(h), 16), 16);
  }
  for (; i < length; i++, source += 2, target += 4) store<u32>(target, <u32>load<u16>(source) << 16);
}

/** Eight i16 integers times d, as f32. */
// @ts-ignore: decorator
@inline
function storeScaled(target: usize, d: v128, q: v128): void {
  v128.store(target, f32x4.mul(d, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(q))));
  v128.store(target, f32x4.mul(d, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(q))), 16);
}

export function decodeQ8_0(target: usize, source: usize, length: i32): void {
  for (let i = 0; i < length; i += 32, source += 34, target += 128) {
    const d = f32x4.splat(f16ToF32(load<i16>(source)));
    for (let j: usize = 0; j < 32; j += 8) storeScaled(target + (j << 2), d, v128.load8x8_s(source + 2 + j));
  }
}

/** d * (scale * q): the integers have 12 bits, d has 11, so nothing is ever rounded. */
export function decodeQ6_K(target: usize, source: usize, length: i32): void {
  const low4 = v128.load(LOW_NIBBLES);
  const high2 = v128.load(HIGH_PAIRS);
  const offset = i8x16.splat(32);
  for (let block = 0; block < length; block += 256, source += 210, target += 1024) {
    const d = f32x4.splat(f16ToF32(load<i16>(source, 208)));
    // Sixteen values at a time; they share a scale. Half h, group g as drawn in q6_k.ts.
    for (let h: usize = 0; h < 2; h++) {
      for (let i: usize = 0; i < 32; i += 16) {
        const a = v128.load(source + 64 * h + i);
        const b = v128.load(source + 64 * h + 32 + i);
        const high = v128.load(source + 128 + 32 * h + i);
        const scales = source + 192 + 8 * h + (i >> 4);
        const at = target + ((128 * h + i) << 2);
        // High bits of group g are at 2g: moved to bits 4 and 5. Shifts of 16-bit lanes, masked after: x86 has none of bytes.
        const q0 = v128.or(v128.and(a, low4), v128.and(i16x8.shl(high, 4), high2));
        const q1 = v128.or(v128.and(b, low4), v128.and(i16x8.shl(high, 2), high2));
        const q2 = v128.or(v128.and(i16x8.shr_u(a, 4), low4), v128.and(high, high2));
        const q3 = v128.or(v128.and(i16x8.shr_u(b, 4), low4), v128.and(i16x8.shr_u(high, 2), high2));
        storeGroup(at, d, i8x16.sub(q0, offset), load<i8>(scales));
        storeGroup(at + 128, d, i8x16.sub(q1, offset), load<i8>(scales, 2));
        storeGroup(at + 256, d, i8x16.sub(q2, offset), load<i8>(scales, 4));
        storeGroup(at + 384, d, i8x16.sub(q3, offset), load<i8>(scales, 6));
      }
    }
  }
}

/** Sixteen i8 values times an integer scale times d. */
// @ts-ignore: decorator
@inline
function storeGroup(target: usize, d: v128, q: v128, scale: i16): void {
  const s = i16x8.splat(scale);
  storeScaled(target, d, i16x8.mul(i16x8.extend_low_i8x16_s(q), s));
  storeScaled(target + 32, d, i16x8.mul(i16x8.extend_high_i8x16_s(q), s));
}

/** `Backend.embed` for tokens first..last-1. */
export function embed(
  out: usize,
  type: i32,
  table: usize,
  rowBytes: usize,
  columns: i32,
  ids: usize,
  first: i32,
  last: i32,
): void {
  for (let token = first; token < last; token++) {
    const id = load<i32>(ids + (<usize>token << 2));
    decodeRow(type, out + ((<usize>token * <usize>columns) << 2), table + <usize>id * rowBytes, columns);
  }
}

/** `Backend.denseMatmul` for rows first..last-1 and all tokens. */
export function denseMatmul(
  out: usize,
  outStride: i32,
  type: i32,
  weight: usize,
  rowBytes: usize,
  x: usize,
  columns: i32,
  n: i32,
  first: i32,
  last: i32,
  scratch: usize,
): void {
  const inStride = <usize>columns << 2;
  let row = first;
  if (type == DENSE_F16 && n == 1 && (columns & 15) == 0 && rebias(scratch, x, columns)) {
    for (; row < last; row++) {
      store<f32>(out + (<usize>row << 2), dotF16(weight + <usize>row * rowBytes, scratch, columns));
    }
    return;
  }
  for (; row < last; row++) {
    let w = weight + <usize>row * rowBytes;
    if (type != DENSE_F32) {
      decodeRow(type, scratch, w, columns);
      w = scratch;
    }
    for (let token = 0; token < n; token++) {
      const sum = dot16(w, x + <usize>token * inStride, columns);
      store<f32>(out + ((<usize>token * <usize>outStride + <usize>row) << 2), sum);
    }
  }
}

/** Largest |x| that `dotF16` takes: 2^15 * 2^112 is still finite. */
const F16_DOT_MAX: f32 = 32768;

/** x * 2^112 into `target`; false if an |x| is too large, or not a number. */
export function rebias(target: usize, x: usize, length: i32): bool {
  const factor = v128.load(F16_SCALE);
  let small = i32x4.splat(-1);
  for (let i = 0; i < length; i += 4, x += 16, target += 16) {
    const v = v128.load(x);
    small = v128.and(small, f32x4.lt(f32x4.abs(v), f32x4.splat(F16_DOT_MAX)));
    v128.store(target, f32x4.mul(v, factor));
  }
  return i32x4.all_true(small);
}

/** Four f16 in the upper halves of 32-bit lanes to f32 * 2^-112: sign, exponent and fraction put in place, nothing else. */
// @ts-ignore: decorator
@inline
function place(h: v128, mask: v128): v128 {
  return v128.and(i32x4.shr_s(h, 3), mask);
}

/**
 * dot16 of an f16 row with activations that come multiplied by 2^112 (`rebias`): the weights are used as they stand, with
 * f16's exponent in f32's place, 2^112 too small. Both factors are exact and so is their product before it is rounded, so
 * this is (w * x) rounded, as the contract says.
 *
 * One row after the other: two at a time would load x half as often, but the processor's prefetcher follows one stream
 * through memory better than two that take turns (measured on the 2B head, one thread: 9 against 20 GB/s).
 */
export function dotF16(w: usize, x: usize, length: i32): f32 {
  const mask = v128.load(F16_MASK);
  const zero = i32x4.splat(0);
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  for (const end = w + (<usize>length << 1); w < end; w += 32, x += 64) {
    const a = v128.load(w);
    const b = v128.load(w, 16);
    s0 = f32x4.add(s0, f32x4.mul(place(i16x8.shuffle(zero, a, 0, 8, 1, 9, 2, 10, 3, 11), mask), v128.load(x)));
    s1 = f32x4.add(s1, f32x4.mul(place(i16x8.shuffle(zero, a, 4, 12, 5, 13, 6, 14, 7, 15), mask), v128.load(x, 16)));
    s2 = f32x4.add(s2, f32x4.mul(place(i16x8.shuffle(zero, b, 0, 8, 1, 9, 2, 10, 3, 11), mask), v128.load(x, 32)));
    s3 = f32x4.add(s3, f32x4.mul(place(i16x8.shuffle(zero, b, 4, 12, 5, 13, 6, 14, 7, 15), mask), v128.load(x, 48)));
  }
  return fold16(s0, s1, s2, s3);
}
