/**
 * Weights on their way in: checks of what was read straight into place, and the file types that are turned into others.
 * Layouts are drawn in `src/tensors/`. Nothing here says what is wrong with a file: an answer of 1 makes the owner load the
 * matrix again by TypeScript, which does. A type is a `DENSE_` code or one of the three below.
 */

import { decodeRow, DENSE_BF16, DENSE_F16, DENSE_F32, DENSE_Q8_0 } from './dense';
import { f16ToF32, f32ToF16 } from './math';
import { share } from './sync';

const TYPE_I2_S: i32 = 5;
const TYPE_TQ1_0: i32 = 6;
const TYPE_TQ2_0: i32 = 7;

/** Answers of the threads lie so far apart. */
const ANSWER_SHIFT: usize = 6;

/** Says whether all weights of a piece are in order, each thread for its share: 0, or 1 where one is not. */
export function checkWeights(answers: usize, type: i32, from: usize, bytes: i32, thread: i32, nThreads: i32): void {
  // A unit is what must not be cut in two: a block, or vectors.
  const unit = type == DENSE_Q8_0 ? 34 : type > DENSE_Q8_0 && type < TYPE_I2_S ? 210 : 64;
  const first = from + <usize>share(bytes, unit, thread, nThreads);
  const last = from + <usize>share(bytes, unit, thread + 1, nThreads);
  let bad: bool;
  if (type == TYPE_I2_S) bad = hasCode3(first, last);
  else if (type == DENSE_F32) bad = hasExponent32(first, last);
  else if (type == DENSE_F16) bad = hasExponent16(first, last, 0x7c00);
  else if (type == DENSE_BF16) bad = hasExponent16(first, last, 0x7f80);
  else if (type == DENSE_Q8_0) bad = hasBlockExponent(first, last, 34, 0);
  else bad = hasBlockExponent(first, last, 210, 208);
  store<i32>(answers + (<usize>thread << ANSWER_SHIFT), bad ? 1 : 0);
}

/** Whether a two-bit code is 3: the upper bit moved onto the lower. What a shift carries over a byte's border is masked. */
export function hasCode3(at: usize, end: usize): bool {
  let found = i32x4.splat(0);
  for (; at < end; at += 16) {
    const w = v128.load(at);
    found = v128.or(found, v128.and(w, i32x4.shr_u(w, 1)));
  }
  return v128.any_true(v128.and(found, i8x16.splat(0x55)));
}

export function hasExponent16(at: usize, end: usize, exponent: i32): bool {
  const mask = i16x8.splat(<i16>exponent);
  let found = i16x8.splat(0);
  for (; at + 16 <= end; at += 16) found = v128.or(found, i16x8.eq(v128.and(v128.load(at), mask), mask));
  let rest = false;
  for (; at < end; at += 2) rest = rest || (<i32>load<u16>(at) & exponent) == exponent;
  return rest || v128.any_true(found);
}

export function hasExponent32(at: usize, end: usize): bool {
  const mask = i32x4.splat(0x7f800000);
  let found = i32x4.splat(0);
  for (; at + 16 <= end; at += 16) found = v128.or(found, i32x4.eq(v128.and(v128.load(at), mask), mask));
  let rest = false;
  for (; at < end; at += 4) rest = rest || (load<i32>(at) & 0x7f800000) == 0x7f800000;
  return rest || v128.any_true(found);
}

/** Whether a block's f16 scale is infinite or NaN. */
function hasBlockExponent(at: usize, end: usize, blockBytes: usize, scaleAt: usize): bool {
  let found = false;
  for (; at < end; at += blockBytes) found = found || (load<u16>(at + scaleAt) & 0x7c00) == 0x7c00;
  return found;
}

/**
 * Ternary rows into packed ones. `detail`: for I2_S how many values lie before the first row, in the block in which it
 * begins; for TQ types the bits of the one scale that a block may have besides 0.
 */
export function repack(
  answers: usize,
  type: i32,
  from: usize,
  to: usize,
  rows: i32,
  columns: i32,
  detail: i32,
  thread: i32,
  nThreads: i32,
): void {
  const first = share(rows, 1, thread, nThreads);
  const last = share(rows, 1, thread + 1, nThreads);
  const blocks = columns >> 8;
  const begin = <usize>(first * blocks);
  const count = (last - first) * blocks;
  let bad: bool;
  if (type == TYPE_TQ2_0) bad = repackTQ2(from + begin * 66, to + (begin << 6), count, detail);
  else if (type == TYPE_TQ1_0) bad = repackTQ1(from + begin * 54, to + (begin << 6), count, detail);
  else bad = recutI2S(from, to, first, last, columns, detail);
  store<i32>(answers + (<usize>thread << ANSWER_SHIFT), bad ? 1 : 0);
}

// @ts-ignore: decorator
@inline
function zeros(to: usize): void {
  for (let i: usize = 0; i < 64; i += 16) v128.store(to + i, i8x16.splat(0x55));
}

/** Fields 3 2 1 0 of each byte become 0 1 2 3. */
export function repackTQ2(from: usize, to: usize, blocks: i32, scale: i32): bool {
  const low = i8x16.splat(3);
  const second = i8x16.splat(12);
  let threes = i32x4.splat(0);
  let bad = false;
  for (let b = 0; b < blocks; b++, from += 66, to += 64) {
    const d = <i32>load<u16>(from, 64);
    bad = bad || (d != 0 && d != scale);
    for (let i: usize = 0; i < 64; i += 16) {
      const x = v128.load(from + i);
      threes = v128.or(threes, v128.and(x, i16x8.shr_u(x, 1)));
      const left = v128.or(i16x8.shl(v128.and(x, low), 6), i16x8.shl(v128.and(x, second), 2));
      const right = v128.or(v128.and(i16x8.shr_u(x, 2), second), v128.and(i16x8.shr_u(x, 6), low));
      v128.store(to + i, v128.or(left, right));
    }
    if (d == 0) zeros(to);
  }
  return bad || v128.any_true(v128.and(threes, i8x16.splat(0x55)));
}

/** Digit of eight bytes (as i16) that `power` = 3^n brings to the top. */
// @ts-ignore: decorator
@inline
function digit(bytes: v128, power: i16): v128 {
  const q = v128.and(i16x8.mul(bytes, i16x8.splat(power)), i16x8.splat(255));
  return i16x8.shr_u(i16x8.mul(q, i16x8.splat(3)), 8);
}

/** Four digits as the fields of a byte, the first in the upper bits. */
// @ts-ignore: decorator
@inline
function fields(a: v128, b: v128, c: v128, d: v128): v128 {
  return v128.or(v128.or(i16x8.shl(a, 6), i16x8.shl(b, 4)), v128.or(i16x8.shl(c, 2), d));
}

/**
 * Lanes that are no encoding of five digits. A byte is ceil(256 q / 243) for a q of 0..242, which then is
 * floor(243 byte / 256): so 243 byte mod 256, the rest of that division, is below 243, and for other bytes it is not.
 */
// @ts-ignore: decorator
@inline
function impossible(bytes: v128): v128 {
  return i16x8.ge_u(v128.and(i16x8.mul(bytes, i16x8.splat(243)), i16x8.splat(255)), i16x8.splat(243));
}

/** How digits fall into two packed blocks is drawn above `tq1Transcoder` in `src/tensors/transcode.ts`. */
export function repackTQ1(from: usize, to: usize, blocks: i32, scale: i32): bool {
  let wrong = i16x8.splat(0);
  let bad = false;
  for (let b = 0; b < blocks; b++, from += 54, to += 64) {
    const d = <i32>load<u16>(from, 52);
    bad = bad || (d != 0 && d != scale);
    // Byte 48 + m % 4 holds the last value of column m, as its digit m / 4; a fifth digit of it is none.
    const tail = load32Lanes(from + 48);
    wrong = v128.or(wrong, v128.or(impossible(tail), i16x8.ne(digit(tail, 81), i16x8.splat(0))));
    for (let half: usize = 0; half < 16; half += 8) {
      const low = v128.load8x8_u(from + half);
      const high = v128.load8x8_u(from + 16 + half);
      const middle = v128.load8x8_u(from + 32 + half);
      wrong = v128.or(wrong, v128.or(v128.or(impossible(low), impossible(high)), impossible(middle)));
      const a0 = fields(digit(low, 1), digit(low, 3), digit(low, 9), digit(low, 27));
      const a1 = fields(digit(high, 1), digit(high, 3), digit(high, 9), digit(high, 27));
      const last = half == 0 ? tailDigits(tail, 1, 3) : tailDigits(tail, 9, 27);
      const b0 = fields(digit(low, 81), digit(middle, 1), digit(middle, 9), digit(middle, 81));
      const b1 = fields(digit(high, 81), digit(middle, 3), digit(middle, 27), last);
      v128.store64_lane(to + half, i8x16.narrow_i16x8_u(a0, a0), 0);
      v128.store64_lane(to + 16 + half, i8x16.narrow_i16x8_u(a1, a1), 0);
      v128.store64_lane(to + 32 + half, i8x16.narrow_i16x8_u(b0, b0), 0);
      v128.store64_lane(to + 48 + half, i8x16.narrow_i16x8_u(b1, b1), 0);
    }
    if (d == 0) zeros(to);
  }
  return bad || v128.any_true(wrong);
}

/** Four bytes, twice, as eight i16. */
// @ts-ignore: decorator
@inline
function load32Lanes(at: usize): v128 {
  return i16x8.extend_low_i8x16_u(v128.load32_splat(at));
}

/** One digit of the first four lanes, another of the other four, which hold the same bytes. */
// @ts-ignore: decorator
@inline
function tailDigits(tail: v128, first: i16, second: i16): v128 {
  return v128.shuffle<i64>(digit(tail, first), digit(tail, second), 0, 3);
}

/** Rows that begin inside blocks, but at a multiple of 32: planes of 32 columns move to other fields and other blocks. */
export function recutI2S(from: usize, to: usize, first: i32, last: i32, columns: i32, before: i32): bool {
  const low = i8x16.splat(3);
  const padded = (columns + 127) & ~127;
  let bad = false;
  for (let row = first; row < last; row++) {
    let target = to + <usize>row * <usize>(padded >> 2);
    const begin = before + row * columns;
    for (let c = 0; c < padded; c += 128, target += 32) {
      let left = i8x16.splat(0);
      let right = i8x16.splat(0);
      for (let plane = c; plane < c + 128; plane += 32) {
        left = i16x8.shl(left, 2);
        right = i16x8.shl(right, 2);
        if (plane < columns) {
          const e = begin + plane;
          const source = from + (<usize>(e >> 7) << 5);
          const shift = 6 - 2 * ((e >> 5) & 3);
          left = v128.or(left, v128.and(i16x8.shr_u(v128.load(source), shift), low));
          right = v128.or(right, v128.and(i16x8.shr_u(v128.load(source, 16), shift), low));
        } else {
          left = v128.or(left, i8x16.splat(1));
          right = v128.or(right, i8x16.splat(1));
        }
      }
      v128.store(target, left);
      v128.store(target, right, 16);
    }
    const begun = to + <usize>row * <usize>(padded >> 2);
    bad = bad || hasCode3(begun, target);
  }
  return bad;
}

/** Floats into blocks of Q8_0 or Q6_K: the steps of `encodeQ8_0` and `encodeQ6_K`, so the same bytes. */
export function requantize(
  answers: usize,
  type: i32,
  toType: i32,
  from: usize,
  to: usize,
  values: i32,
  thread: i32,
  nThreads: i32,
  scratch: usize,
): void {
  const isQ8 = toType == DENSE_Q8_0;
  const unit = isQ8 ? 32 : 256;
  const unitBytes: usize = isQ8 ? 34 : 210;
  const sourceBytes: usize = type == DENSE_F32 ? 4 : 2;
  const last = share(values, unit, thread + 1, nThreads);
  let bad = false;
  for (let i = share(values, unit, thread, nThreads); i < last; i += unit) {
    const target = to + <usize>(i / unit) * unitBytes;
    decodeRow(type, scratch, from + <usize>i * sourceBytes, unit);
    const failed = isQ8 ? encodeQ8(scratch, target) : encodeQ6(scratch, target);
    bad = bad || failed;
  }
  store<i32>(answers + (<usize>thread << ANSWER_SHIFT), bad ? 1 : 0);
}

/** One block; true where a value is not finite or the scale is too large for a half. */
export function encodeQ8(values: usize, out: usize): bool {
  // The lanes' maximum keeps NaN.
  let most = f32x4.splat(0);
  for (let i: usize = 0; i < 128; i += 16) most = f32x4.max(most, f32x4.abs(v128.load(values + i)));
  most = f32x4.max(most, v128.shuffle<i32>(most, most, 2, 3, 0, 1));
  most = f32x4.max(most, v128.shuffle<i32>(most, most, 1, 0, 3, 2));
  const d = f32x4.extract_lane(most, 0) / <f32>127;
  const inverse = f32x4.splat(d == 0 ? 0 : <f32>1 / d);
  const half = f32ToF16(d);
  store<u16>(out, <u16>half);
  for (let i: usize = 0; i < 32; i += 16) {
    const at = values + (i << 2);
    const low = i16x8.narrow_i32x4_s(rounded(at, inverse), rounded(at + 16, inverse));
    const high = i16x8.narrow_i32x4_s(rounded(at + 32, inverse), rounded(at + 48, inverse));
    v128.store(out + 2 + i, i8x16.narrow_i16x8_s(low, high));
  }
  return (half & 0x7c00) == 0x7c00;
}

/** Four products, rounded with halves away from zero (which needs no f64 this way: the rest is exact), -127..127, NaN to 0. */
// @ts-ignore: decorator
@inline
function rounded(at: usize, inverse: v128): v128 {
  const x = f32x4.mul(v128.load(at), inverse);
  const magnitude = f32x4.abs(x);
  const whole = f32x4.trunc(magnitude);
  const up = f32x4.ge(f32x4.sub(magnitude, whole), f32x4.splat(0.5));
  const q = f32x4.min(f32x4.add(whole, v128.and(up, f32x4.splat(1))), f32x4.splat(127));
  return i32x4.trunc_sat_f32x4_s(v128.or(q, v128.and(x, f32x4.splat(-0))));
}

/** The value of largest magnitude among sixteen, with its sign; the first of several. */
// @ts-ignore: decorator
@inline
function largest(values: usize): f32 {
  let found: f32 = 0;
  let magnitude: f32 = 0;
  for (let i: usize = 0; i < 64; i += 4) {
    const x = load<f32>(values + i);
    if (Mathf.abs(x) > magnitude) {
      found = x;
      magnitude = Mathf.abs(x);
    }
  }
  return found;
}

// @ts-ignore: decorator
@inline
function roundAway(x: f64): f64 {
  return x < 0 ? -Math.floor(0.5 - x) : Math.floor(x + 0.5);
}

/** Two values as integers in the lower i32 lanes: x / step as f64, rounded like `roundAway`, -32..31. */
// @ts-ignore: decorator
@inline
function codes2(x: v128, step: v128): v128 {
  const y = f64x2.div(f64x2.promote_low_f32x4(x), step);
  const magnitude = f64x2.floor(f64x2.add(f64x2.abs(y), f64x2.splat(0.5)));
  const q = v128.or(magnitude, v128.and(y, f64x2.splat(-0)));
  return i32x4.trunc_sat_f64x2_s_zero(f64x2.max(f64x2.splat(-32), f64x2.min(f64x2.splat(31), q)));
}

// @ts-ignore: decorator
@inline
function codes4(at: usize, step: v128): v128 {
  const x = v128.load(at);
  return v128.shuffle<i64>(codes2(x, step), codes2(v128.shuffle<i64>(x, x, 1, 0), step), 0, 2);
}

/** One block; `values` has 336 bytes of room behind it. True where a value is not finite or the scale is too large. */
export function encodeQ6(values: usize, out: usize): bool {
  if (hasExponent32(values, values + 1024)) return true;
  const codes = values + 1024;
  const steps = codes + 256;
  let most: f32 = 0;
  for (let k: usize = 0; k < 16; k++) {
    const x = largest(values + (k << 6));
    store<f32>(steps + (k << 2), x);
    if (Mathf.abs(x) > Mathf.abs(most)) most = x;
  }
  // The largest step, most / -32, becomes -128 * d. Exact but where it is far below what a half holds.
  const half = f32ToF16(most == 0 ? 0 : most / <f32>4096);
  store<u16>(out, <u16>half, 208);
  if ((half & 0x7c00) == 0x7c00) return true;
  const d = <f64>f16ToF32(<i32>(<i16>half));
  for (let k: usize = 0; k < 16; k++) {
    const wanted = <f64>load<f32>(steps + (k << 2)) / -32;
    const scale = d == 0 ? 0 : Math.max(-128, Math.min(127, roundAway(wanted / d)));
    store<i8>(out + 192 + k, <i8>(<i32>scale));
    let q = i8x16.splat(0);
    if (scale != 0) {
      const step = f64x2.splat(d * scale);
      const at = values + (k << 6);
      const low = i16x8.narrow_i32x4_s(codes4(at, step), codes4(at + 16, step));
      const high = i16x8.narrow_i32x4_s(codes4(at + 32, step), codes4(at + 48, step));
      q = i8x16.narrow_i16x8_s(low, high);
    }
    v128.store(codes + (k << 4), i8x16.add(q, i8x16.splat(32)));
  }
  // Groups 0 and 2 share bytes of ql, as 1 and 3 do; all four share those of qh. Drawn in `src/tensors/q6_k.ts`.
  const low4 = i8x16.splat(15);
  for (let h: usize = 0; h < 2; h++) {
    for (let i: usize = 0; i < 32; i += 16) {
      const at = codes + (h << 7) + i;
      const g0 = v128.load(at);
      const g1 = v128.load(at, 32);
      const g2 = v128.load(at, 64);
      const g3 = v128.load(at, 96);
      const ql = out + (h << 6) + i;
      v128.store(ql, v128.or(v128.and(g0, low4), i16x8.shl(v128.and(g2, low4), 4)));
      v128.store(ql, v128.or(v128.and(g1, low4), i16x8.shl(v128.and(g3, low4), 4)), 32);
      const high01 = v128.or(highBits(g0), i16x8.shl(highBits(g1), 2));
      const high23 = v128.or(highBits(g2), i16x8.shl(highBits(g3), 2));
      v128.store(out + 128 + (h << 5) + i, v128.or(high01, i16x8.shl(high23, 4)));
    }
  }
  return false;
}

/** Bits 5:4 of each byte, moved to 1:0. */
// @ts-ignore: decorator
@inline
function highBits(codes: v128): v128 {
  return v128.and(i16x8.shr_u(codes, 4), i8x16.splat(3));
}
