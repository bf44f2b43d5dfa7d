/**
 * Dense weights: `Backend.embed` and `Backend.denseMatmul`. Rows lie in their file type and are decoded exactly to f32,
 * a row at a time, into the thread's scratch; products follow in dot16 order.
 *
 * Layouts are drawn in `src/tensors/{floats,q8_0,q6_k,affine}.ts`. Weights are finite: loading checks them.
 */

import { F16_MASK, F16_SCALE } from './layout';
import { f16ToF32, f16ToF32x4, placeHigh, placeLow, storeScaled } from './math';
import { decodeQ6_K } from './q6_k';
import { dot16, fold16 } from './sums';

export const DENSE_F32: i32 = 0;
export const DENSE_F16: i32 = 1;
export const DENSE_BF16: i32 = 2;
export const DENSE_Q8_0: i32 = 3;
export const DENSE_Q6_K: i32 = 4;
/** 5 to 7 are the ternary types of `repack.ts`. */
export const DENSE_AFFINE: i32 = 8;

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
    case DENSE_AFFINE:
      return decodeAffine(target, source, columns);
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

export function decodeQ8_0(target: usize, source: usize, length: i32): void {
  for (let i = 0; i < length; i += 32, source += 34, target += 128) {
    const d = f32x4.splat(f16ToF32(load<i16>(source)));
    for (let j: usize = 0; j < 32; j += 8) storeScaled(target + (j << 2), d, v128.load8x8_s(source + 2 + j));
  }
}

// Four values a * q - b, product and difference rounded, of the lower (upper) four of eight codes.
// @ts-ignore: decorator
@inline
function affineLow(codes: v128, a: v128, b: v128): v128 {
  return f32x4.sub(f32x4.mul(f32x4.convert_i32x4_u(i32x4.extend_low_i16x8_u(codes)), a), b);
}

// @ts-ignore: decorator
@inline
function affineHigh(codes: v128, a: v128, b: v128): v128 {
  return f32x4.sub(f32x4.mul(f32x4.convert_i32x4_u(i32x4.extend_high_i16x8_u(codes)), a), b);
}

export const AFFINE_BYTES: usize = 40;

export function decodeAffine(target: usize, source: usize, length: i32): void {
  for (let i = 0; i < length; i += 32, source += AFFINE_BYTES, target += 128) {
    const a = v128.load32_splat(source);
    const b = v128.load32_splat(source, 4);
    for (let j: usize = 0; j < 32; j += 8) {
      const codes = v128.load8x8_u(source + j, 8);
      v128.store(target + (j << 2), affineLow(codes, a, b));
      v128.store(target + (j << 2), affineHigh(codes, a, b), 16);
    }
  }
}

/** dot16 of a row with x, without a decoded row in between: 52 -> 43 ms for 128256 x 2560, one thread, Node 26. */
export function dotAffine(w: usize, x: usize, length: i32): f32 {
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  for (const end = x + (<usize>length << 2); x < end; w += AFFINE_BYTES, x += 128) {
    const a = v128.load32_splat(w);
    const b = v128.load32_splat(w, 4);
    const c0 = v128.load8x8_u(w, 8);
    const c1 = v128.load8x8_u(w, 16);
    const c2 = v128.load8x8_u(w, 24);
    const c3 = v128.load8x8_u(w, 32);
    s0 = f32x4.add(s0, f32x4.mul(affineLow(c0, a, b), v128.load(x)));
    s1 = f32x4.add(s1, f32x4.mul(affineHigh(c0, a, b), v128.load(x, 16)));
    s2 = f32x4.add(s2, f32x4.mul(affineLow(c1, a, b), v128.load(x, 32)));
    s3 = f32x4.add(s3, f32x4.mul(affineHigh(c1, a, b), v128.load(x, 48)));
    s0 = f32x4.add(s0, f32x4.mul(affineLow(c2, a, b), v128.load(x, 64)));
    s1 = f32x4.add(s1, f32x4.mul(affineHigh(c2, a, b), v128.load(x, 80)));
    s2 = f32x4.add(s2, f32x4.mul(affineLow(c3, a, b), v128.load(x, 96)));
    s3 = f32x4.add(s3, f32x4.mul(affineHigh(c3, a, b), v128.load(x, 112)));
  }
  return fold16(s0, s1, s2, s3);
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
  if (type == DENSE_AFFINE && n == 1) {
    for (; row < last; row++) {
      store<f32>(out + (<usize>row << 2), dotAffine(weight + <usize>row * rowBytes, x, columns));
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
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  for (const end = w + (<usize>length << 1); w < end; w += 32, x += 64) {
    const a = v128.load(w);
    const b = v128.load(w, 16);
    s0 = f32x4.add(s0, f32x4.mul(placeLow(a, mask), v128.load(x)));
    s1 = f32x4.add(s1, f32x4.mul(placeHigh(a, mask), v128.load(x, 16)));
    s2 = f32x4.add(s2, f32x4.mul(placeLow(b, mask), v128.load(x, 32)));
    s3 = f32x4.add(s3, f32x4.mul(placeHigh(b, mask), v128.load(x, 48)));
  }
  return fold16(s0, s1, s2, s3);
}
