/**
 * Q6_K in memory. The file's blocks (drawn in `src/tensors/q6_k.ts`) are made for storing: a code's lower four and upper two bits
 * lie apart, and sixteen codes that share a scale lie together. When a matrix has been read its blocks are arranged for
 * multiplying, in place and without loss:
 *
 *   byte 0            96           192          208   209
 *        half 0       half 1       scales i8    d f16           scales and d as in the file
 *
 *   a half    six vectors of 16 bytes: A B C of its "low" codes, A B C of its "high" ones
 *   low       of a group of 32 codes f0..f15 s0..s15 (two scales): f0 f1 s0 s1 f2 f3 s2 s3 ... s6 s7; high: f8 f9 s8 s9 ...
 *   A B C     bits 5:0 are the codes of groups 0, 1, 2; bits 7:6 the bits 1:0, 3:2, 5:4 of group 3's
 *
 * So eleven instructions unpack 64 codes, and products of neighbouring pairs belong to one scale by turns, as dot products want
 * them. Scoring a head of 128256 x 2560, one thread, Node 26: 16.1 -> 13.2 ms.
 */

import { CODE_MASK, CODE_MASK_FOURS, HIGH_PAIRS, SIX_BITS } from './layout';
import { f16ToF32, storeScaled } from './math';
import { dotPairs, sumLanes } from './ternary-matmul';

export const Q6_K_BYTES: usize = 210;
const HALF: usize = 96;
const SCALES: usize = 192;
const D: usize = 208;

// @ts-ignore: decorator
@inline
export function zipLow(a: v128, b: v128): v128 {
  return i16x8.shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}

// @ts-ignore: decorator
@inline
export function zipHigh(a: v128, b: v128): v128 {
  return i16x8.shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

/** Blocks first..last-1 at `blocks`, from the file's form to that of memory. Scratch holds the codes of a block. */
export function arrangeBlocks(blocks: usize, first: i32, last: i32, scratch: usize): void {
  const low4 = i8x16.splat(15);
  const high2 = i8x16.splat(0x30);
  for (let i = first; i < last; i++) {
    const block = blocks + <usize>i * Q6_K_BYTES;
    for (let h: usize = 0; h < 2; h++) {
      const ql = block + 64 * h;
      const h0 = v128.load(block + 32 * h, 128);
      const h1 = v128.load(block + 32 * h, 144);
      const a0 = v128.load(ql);
      const a1 = v128.load(ql, 16);
      const b0 = v128.load(ql, 32);
      const b1 = v128.load(ql, 48);
      for (let high: usize = 0; high < 2; high++) {
        const a = high ? zipHigh(a0, a1) : zipLow(a0, a1);
        const b = high ? zipHigh(b0, b1) : zipLow(b0, b1);
        const t = high ? zipHigh(h0, h1) : zipLow(h0, h1);
        const g0 = v128.or(v128.and(a, low4), v128.and(i16x8.shl(t, 4), high2));
        const g1 = v128.or(v128.and(b, low4), v128.and(i16x8.shl(t, 2), high2));
        const g2 = v128.or(v128.and(i16x8.shr_u(a, 4), low4), v128.and(t, high2));
        const g3 = v128.or(v128.and(i16x8.shr_u(b, 4), low4), v128.and(i16x8.shr_u(t, 2), high2));
        const to = scratch + HALF * h + 48 * high;
        v128.store(to, v128.or(g0, i8x16.shl(g3, 6)));
        v128.store(to, v128.or(g1, v128.and(i8x16.shl(g3, 4), i8x16.splat(-64))), 16);
        v128.store(to, v128.or(g2, v128.and(i8x16.shl(g3, 2), i8x16.splat(-64))), 32);
      }
    }
    memory.copy(block, scratch, 2 * HALF);
  }
}

// The codes of group 3, whose bits lie at 7:6 of the vectors of the others. Shifts of 16-bit lanes, masked after: x86 has none
// of bytes.
// @ts-ignore: decorator
@inline
function fourth(a: v128, b: v128, c: v128, ones: v128, fours: v128, pairs: v128): v128 {
  return v128.or(
    v128.or(v128.and(i16x8.shr_u(a, 6), ones), v128.and(i16x8.shr_u(b, 4), fours)),
    v128.and(i16x8.shr_u(c, 2), pairs),
  );
}

/** Decodes `length` values: d * (scale * q). The integers have 12 bits, d has 11, so nothing is ever rounded. */
export function decodeQ6_K(target: usize, source: usize, length: i32): void {
  const six = v128.load(SIX_BITS);
  const ones = v128.load(CODE_MASK);
  const fours = v128.load(CODE_MASK_FOURS);
  const pairs = v128.load(HIGH_PAIRS);
  for (let block = 0; block < length; block += 256, source += Q6_K_BYTES, target += 1024) {
    const d = f32x4.splat(f16ToF32(load<i16>(source, D)));
    for (let h: usize = 0; h < 2; h++) {
      const at = source + HALF * h;
      const a0 = v128.load(at);
      const b0 = v128.load(at, 16);
      const c0 = v128.load(at, 32);
      const a1 = v128.load(at, 48);
      const b1 = v128.load(at, 64);
      const c1 = v128.load(at, 80);
      const out = target + 512 * h;
      const scales = source + SCALES + 8 * h;
      storeGroup(out, d, v128.and(a0, six), v128.and(a1, six), scales);
      storeGroup(out + 128, d, v128.and(b0, six), v128.and(b1, six), scales + 2);
      storeGroup(out + 256, d, v128.and(c0, six), v128.and(c1, six), scales + 4);
      const low = fourth(a0, b0, c0, ones, fours, pairs);
      storeGroup(out + 384, d, low, fourth(a1, b1, c1, ones, fours, pairs), scales + 6);
    }
  }
}

/** 32 values of a group, whose two scales are neighbours. */
// @ts-ignore: decorator
@inline
function storeGroup(target: usize, d: v128, low: v128, high: v128, scales: usize): void {
  storeHalf(target, d, i16x8.shuffle(low, high, 0, 2, 4, 6, 8, 10, 12, 14), load<i8>(scales));
  storeHalf(target + 64, d, i16x8.shuffle(low, high, 1, 3, 5, 7, 9, 11, 13, 15), load<i8>(scales, 1));
}

// @ts-ignore: decorator
@inline
function storeHalf(target: usize, d: v128, codes: v128, scale: i16): void {
  const q = i8x16.sub(codes, i8x16.splat(32));
  const s = i16x8.splat(scale);
  storeScaled(target, d, i16x8.mul(i16x8.extend_low_i8x16_s(q), s));
  storeScaled(target + 32, d, i16x8.mul(i16x8.extend_high_i8x16_s(q), s));
}

// x as a row is scored with it. For every 256 values: i8 codes (256), each group of 32 zipped as above; the sums (16) i16 of every
// 16 of them; the scale f32.
export const X_SUMS: usize = 256;
export const X_SCALE: usize = 288;
export const X_BLOCK: usize = 304;

/** i16 lanes: code 2i times q 2i + code 2i+1 times q 2i+1. Unlike `dotPairs`, it is fixed which products share a lane. */
// @ts-ignore: decorator
@inline
function neighbours(codes: v128, q: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return dotPairs(codes, q);
  const even = i16x8.mul(i16x8.shr_u(i16x8.shl(codes, 8), 8), i16x8.shr_s(i16x8.shl(q, 8), 8));
  return i16x8.add(even, i16x8.mul(i16x8.shr_u(codes, 8), i16x8.shr_s(q, 8)));
}

/**
 * Sum over the blocks of a row of d times scales times codes times x. Codes are used without their offset, as 0..63; what
 * that adds, 32 times scale times sum of x, is taken off once a block, in integers. A group's low and high products are
 * added before they are scaled: 4 * 63 * 128 at most in an i16 lane.
 */
export function scoreQ6_K(row: usize, x: usize, columns: i32): f32 {
  const six = v128.load(SIX_BITS);
  const ones = v128.load(CODE_MASK);
  const fours = v128.load(CODE_MASK_FOURS);
  const pairs = v128.load(HIGH_PAIRS);
  let total: f32 = 0;
  for (let block = 0; block < columns; block += 256, row += Q6_K_BYTES, x += X_BLOCK) {
    const scales = v128.load(row, SCALES);
    const scales0 = i16x8.extend_low_i8x16_s(scales);
    const scales1 = i16x8.extend_high_i8x16_s(scales);
    let sum = i32x4.dot_i16x8_s(scales0, v128.load(x, X_SUMS));
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(scales1, v128.load(x, X_SUMS + 16)));
    sum = i32x4.shl(i32x4.neg(sum), 5);
    for (let h: usize = 0; h < 2; h++) {
      const codes = row + HALF * h;
      const at = x + 128 * h;
      const s = h ? scales1 : scales0;
      let a = v128.load(codes);
      let b = v128.load(codes, 16);
      let c = v128.load(codes, 32);
      let p0 = neighbours(v128.and(a, six), v128.load(at));
      let p1 = neighbours(v128.and(b, six), v128.load(at, 32));
      let p2 = neighbours(v128.and(c, six), v128.load(at, 64));
      let p3 = neighbours(fourth(a, b, c, ones, fours, pairs), v128.load(at, 96));
      a = v128.load(codes, 48);
      b = v128.load(codes, 64);
      c = v128.load(codes, 80);
      p0 = i16x8.add(p0, neighbours(v128.and(a, six), v128.load(at, 16)));
      p1 = i16x8.add(p1, neighbours(v128.and(b, six), v128.load(at, 48)));
      p2 = i16x8.add(p2, neighbours(v128.and(c, six), v128.load(at, 80)));
      p3 = i16x8.add(p3, neighbours(fourth(a, b, c, ones, fours, pairs), v128.load(at, 112)));
      sum = i32x4.add(sum, i32x4.dot_i16x8_s(p0, i32x4.shuffle(s, s, 0, 0, 0, 0)));
      sum = i32x4.add(sum, i32x4.dot_i16x8_s(p1, i32x4.shuffle(s, s, 1, 1, 1, 1)));
      sum = i32x4.add(sum, i32x4.dot_i16x8_s(p2, i32x4.shuffle(s, s, 2, 2, 2, 2)));
      sum = i32x4.add(sum, i32x4.dot_i16x8_s(p3, i32x4.shuffle(s, s, 3, 3, 3, 3)));
    }
    const scale = f16ToF32(load<i16>(row, D)) * load<f32>(x, X_SCALE);
    total += f32(sumLanes(sum)) * scale;
  }
  return total;
}
