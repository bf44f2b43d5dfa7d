/**
 * `Backend.ternaryMatmul`: rows of two-bit codes (weight + 1, drawn in `src/tensors/packed.ts`) times int8 activations.
 *
 * The codes 0, 1, 2 are the unsigned operand, so one row's sum is sum(code * q) - sum(q), the second term known from
 * quantisation. Products are summed in i16 lanes and widened before they can overflow: one step adds at most
 * 2 * 2 * 128 = 512 to a lane, and 64 steps at most 32768 with a minus sign (which i16 holds) or 64 * 2 * 2 * 127 =
 * 32512 with a plus sign. 64 steps are 1024 weights, eight blocks of 128.
 */

import { CODE_MASK, CODE_MASK_FOURS } from './layout';

/** Blocks of 128 weights between two widenings. */
const FLUSH_BLOCKS: i32 = 8;
/** The same where codes count four times: 16 steps of 4 * 512. */
const FLUSH_BLOCKS_FOURS: i32 = 4;

// True in the build `dot` (asconfig.json): sums of four products are added to i32 lanes by one instruction. Processors with
// VNNI or SDOT have it, others emulate it in three, and then the builds with i16 sums are faster.
// @ts-ignore: decorator; DOT_ADD is an alias that the option "use" makes
@inline
export const HAS_DOT_ADD: bool = DOT_ADD;

/** Products of 16 unsigned 7-bit codes with 16 signed bytes, added in pairs: i16 lanes. */
// @ts-ignore: decorator
@inline
export function dotPairs(codes: v128, q: v128): v128 {
  // The second operand has 7 bits, so every engine computes the same: the instruction is only "relaxed" beyond that.
  if (ASC_FEATURE_RELAXED_SIMD) return i16x8.relaxed_dot_i8x16_i7x16_s(q, codes);
  return i16x8.add(i16x8.extmul_low_i8x16_s(codes, q), i16x8.extmul_high_i8x16_s(codes, q));
}

// @ts-ignore: decorator
@inline
function dotStep(acc: v128, codes: v128, q: v128): v128 {
  return i16x8.add(acc, dotPairs(codes, q));
}

// @ts-ignore: decorator
@inline
export function sumLanes(v: v128): i32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}

// @ts-ignore: decorator
@inline
function finish(out: usize, sum: i32, codeSum: i32, scale: f32, weightScale: f32): void {
  store<f32>(out, (f32(sum - codeSum) / scale) * weightScale);
}

/**
 * One token, rows first..last-1. `out` points at the token's row.
 *
 * Several rows at a time, each from its own quarter (or half) of the rows: long streams through memory, which the
 * processor's prefetchers follow. Neighbouring rows are short streams in one page, and are not followed (measured from
 * memory, one thread: 47 against 62 GMAC/s; from cache the same).
 */
export function ternaryMatvec(
  out: usize,
  packed: usize,
  rowBytes: usize,
  weightScale: f32,
  codes: usize,
  meta: usize,
  first: i32,
  last: i32,
): void {
  const blocks = i32(rowBytes >> 5);
  const nStreams = HAS_DOT_ADD ? 2 : 4;
  const part = (last - first) / nStreams;
  const apart = <usize>part * rowBytes;
  const end = first + part;
  let row = first;
  for (; row < end; row++) {
    const target = out + (<usize>row << 2);
    const w = packed + <usize>row * rowBytes;
    if (HAS_DOT_ADD) matvec2(target, <usize>part << 2, w, apart, codes, rowBytes);
    else matvec4(target, <usize>part << 2, w, apart, codes, blocks);
  }
  for (row = first + nStreams * part; row < last; row++) {
    matvec1(out + (<usize>row << 2), packed + <usize>row * rowBytes, codes, blocks);
  }
  finishRows(out + (<usize>first << 2), last - first, load<i32>(meta, 4), load<f32>(meta), weightScale);
}

/**
 * Sums to results, in place: f32(sum - codeSum) / scale * weightScale. Apart from the loops above, in which the factors would
 * take registers that the sums need.
 */
export function finishRows(out: usize, count: i32, codeSum: i32, scale: f32, weightScale: f32): void {
  const c = i32x4.splat(codeSum);
  const s = f32x4.splat(scale);
  const w = f32x4.splat(weightScale);
  let i = 0;
  for (; i + 4 <= count; i += 4, out += 16) {
    v128.store(out, f32x4.mul(f32x4.div(f32x4.convert_i32x4_s(i32x4.sub(v128.load(out), c)), s), w));
  }
  for (; i < count; i++, out += 4) finish(out, load<i32>(out), codeSum, scale, weightScale);
}

/**
 * The i32 sums of four rows `apart` bytes from each other, stored `outApart` bytes from each other. Each load of activations serves all four.
 *
 * Of the four codes in a byte two are used where they stand, times 1 and times 4, and after one shift the other two: three
 * instructions in sixteen saved. The sums of the fourfold codes are kept apart and divided at the end.
 */
export function matvec4(
  out: usize,
  outApart: usize,
  w0: usize,
  apart: usize,
  codes: usize,
  blocks: i32,
): void {
  const ones = v128.load(CODE_MASK);
  const fours = v128.load(CODE_MASK_FOURS);
  const w1 = w0 + apart;
  const w2 = w1 + apart;
  const w3 = w2 + apart;
  let t0 = i32x4.splat(0);
  let t1 = i32x4.splat(0);
  let t2 = i32x4.splat(0);
  let t3 = i32x4.splat(0);
  let u0 = i32x4.splat(0);
  let u1 = i32x4.splat(0);
  let u2 = i32x4.splat(0);
  let u3 = i32x4.splat(0);
  let at: usize = 0;
  let q = codes;
  while (blocks > 0) {
    const end = at + (<usize>min(blocks, FLUSH_BLOCKS_FOURS) << 5);
    blocks -= FLUSH_BLOCKS_FOURS;
    let a0 = i16x8.splat(0);
    let a1 = i16x8.splat(0);
    let a2 = i16x8.splat(0);
    let a3 = i16x8.splat(0);
    let b0 = i16x8.splat(0);
    let b1 = i16x8.splat(0);
    let b2 = i16x8.splat(0);
    let b3 = i16x8.splat(0);
    for (; at < end; at += 32, q += 128) {
      for (let half: usize = 0; half < 32; half += 16) {
        const q0 = v128.load(q + half);
        const q1 = v128.load(q + half, 32);
        const q2 = v128.load(q + half, 64);
        const q3 = v128.load(q + half, 96);
        let v = v128.load(w0 + at + half);
        let high = i16x8.shr_u(v, 4);
        a0 = dotStep(dotStep(a0, v128.and(v, ones), q3), v128.and(high, ones), q1);
        b0 = dotStep(dotStep(b0, v128.and(v, fours), q2), v128.and(high, fours), q0);
        v = v128.load(w1 + at + half);
        high = i16x8.shr_u(v, 4);
        a1 = dotStep(dotStep(a1, v128.and(v, ones), q3), v128.and(high, ones), q1);
        b1 = dotStep(dotStep(b1, v128.and(v, fours), q2), v128.and(high, fours), q0);
        v = v128.load(w2 + at + half);
        high = i16x8.shr_u(v, 4);
        a2 = dotStep(dotStep(a2, v128.and(v, ones), q3), v128.and(high, ones), q1);
        b2 = dotStep(dotStep(b2, v128.and(v, fours), q2), v128.and(high, fours), q0);
        v = v128.load(w3 + at + half);
        high = i16x8.shr_u(v, 4);
        a3 = dotStep(dotStep(a3, v128.and(v, ones), q3), v128.and(high, ones), q1);
        b3 = dotStep(dotStep(b3, v128.and(v, fours), q2), v128.and(high, fours), q0);
      }
    }
    t0 = i32x4.add(t0, i32x4.extadd_pairwise_i16x8_s(a0));
    t1 = i32x4.add(t1, i32x4.extadd_pairwise_i16x8_s(a1));
    t2 = i32x4.add(t2, i32x4.extadd_pairwise_i16x8_s(a2));
    t3 = i32x4.add(t3, i32x4.extadd_pairwise_i16x8_s(a3));
    u0 = i32x4.add(u0, i32x4.extadd_pairwise_i16x8_s(b0));
    u1 = i32x4.add(u1, i32x4.extadd_pairwise_i16x8_s(b1));
    u2 = i32x4.add(u2, i32x4.extadd_pairwise_i16x8_s(b2));
    u3 = i32x4.add(u3, i32x4.extadd_pairwise_i16x8_s(b3));
  }
  // Each sum of fourfold products is a multiple of 4: the shift is exact.
  store<i32>(out, sumLanes(t0) + (sumLanes(u0) >> 2));
  store<i32>(out + outApart, sumLanes(t1) + (sumLanes(u1) >> 2));
  store<i32>(out + 2 * outApart, sumLanes(t2) + (sumLanes(u2) >> 2));
  store<i32>(out + 3 * outApart, sumLanes(t3) + (sumLanes(u3) >> 2));
}

/** acc (i32 lanes) += products of 16 codes with 16 activations, added in fours. */
// @ts-ignore: decorator
@inline
export function dotAdd(acc: v128, codes: v128, q: v128): v128 {
  if (HAS_DOT_ADD) return i32x4.relaxed_dot_i8x16_i7x16_add_s(q, codes, acc);
  return i32x4.add(acc, i32x4.extadd_pairwise_i16x8_s(dotPairs(codes, q)));
}

/**
 * Two rows with `dotAdd`, which needs no widening. The instruction takes four cycles: four sums for each row keep it busy, and
 * the order of statements lets all of them stay in registers (V8 has fifteen). Measured against `matvec4` on a processor
 * with VNNI: 63 -> 91 GMAC/s.
 */
export function matvec2(
  out: usize,
  outApart: usize,
  w: usize,
  apart: usize,
  codes: usize,
  rowBytes: usize,
): void {
  const ones = v128.load(CODE_MASK);
  const fours = v128.load(CODE_MASK_FOURS);
  let a0 = i32x4.splat(0);
  let a1 = i32x4.splat(0);
  let a2 = i32x4.splat(0);
  let a3 = i32x4.splat(0);
  let b0 = i32x4.splat(0);
  let b1 = i32x4.splat(0);
  let b2 = i32x4.splat(0);
  let b3 = i32x4.splat(0);
  const w1 = w + apart;
  let q = codes;
  for (let at: usize = 0; at < rowBytes; at += 32, q += 128) {
    for (let half: usize = 0; half < 32; half += 16) {
      let v = v128.load(w + at + half);
      let u = v128.load(w1 + at + half);
      let x = v128.load(q + half, 96);
      a3 = dotAdd(a3, v128.and(v, ones), x);
      b3 = dotAdd(b3, v128.and(u, ones), x);
      x = v128.load(q + half, 64);
      a2 = dotAdd(a2, v128.and(v, fours), x);
      b2 = dotAdd(b2, v128.and(u, fours), x);
      v = i16x8.shr_u(v, 4);
      u = i16x8.shr_u(u, 4);
      x = v128.load(q + half, 32);
      a1 = dotAdd(a1, v128.and(v, ones), x);
      b1 = dotAdd(b1, v128.and(u, ones), x);
      x = v128.load(q + half);
      a0 = dotAdd(a0, v128.and(v, fours), x);
      b0 = dotAdd(b0, v128.and(u, fours), x);
    }
  }
  store<i32>(out, sumLanes(i32x4.add(a1, a3)) + (sumLanes(i32x4.add(a0, a2)) >> 2));
  store<i32>(out + outApart, sumLanes(i32x4.add(b1, b3)) + (sumLanes(i32x4.add(b0, b2)) >> 2));
}

/** The rows that are left over. */
export function matvec1(
  out: usize,
  w: usize,
  codes: usize,
  blocks: i32,
): void {
  const mask = v128.load(CODE_MASK);
  let total = i32x4.splat(0);
  let q = codes;
  while (blocks > 0) {
    const end = w + (<usize>min(blocks, FLUSH_BLOCKS) << 5);
    blocks -= FLUSH_BLOCKS;
    let a = i16x8.splat(0);
    for (; w < end; w += 32, q += 128) {
      for (let half: usize = 0; half < 32; half += 16) {
        const v = v128.load(w + half);
        a = dotStep(a, v128.and(i16x8.shr_u(v, 6), mask), v128.load(q + half));
        a = dotStep(a, v128.and(i16x8.shr_u(v, 4), mask), v128.load(q + half, 32));
        a = dotStep(a, v128.and(i16x8.shr_u(v, 2), mask), v128.load(q + half, 64));
        a = dotStep(a, v128.and(v, mask), v128.load(q + half, 96));
      }
    }
    total = i32x4.add(total, i32x4.extadd_pairwise_i16x8_s(a));
  }
  store<i32>(out, sumLanes(total));
}

/**
 * Many tokens: four rows are unpacked to one byte a code in scratch (4 * stride bytes, which stay in L1) and then meet
 * every token. `outStride` is the number of output features.
 */
export function ternaryMatmul(
  out: usize,
  outStride: i32,
  packed: usize,
  rowBytes: usize,
  weightScale: f32,
  codes: usize,
  stride: i32,
  meta: usize,
  n: i32,
  first: i32,
  last: i32,
  scratch: usize,
): void {
  const steps = stride >> 4;
  let row = first;
  for (; row + 4 <= last; row += 4) {
    for (let r = 0; r < 4; r++) {
      unpackRow(scratch + <usize>r * <usize>stride, packed + <usize>(row + r) * rowBytes, rowBytes);
    }
    for (let token = 0; token < n; token++) {
      dot4(
        out + ((<usize>token * <usize>outStride + <usize>row) << 2),
        scratch,
        <usize>stride,
        codes + <usize>token * <usize>stride,
        steps,
        load<f32>(meta + (<usize>token << 3)),
        load<i32>(meta + (<usize>token << 3), 4),
        weightScale,
      );
    }
  }
  for (let token = 0; token < n; token++) {
    ternaryMatvec(
      out + ((<usize>token * <usize>outStride) << 2),
      packed,
      rowBytes,
      weightScale,
      codes + <usize>token * <usize>stride,
      meta + (<usize>token << 3),
      row,
      last,
    );
  }
}

/** One byte a code, in the order of the activations. */
export function unpackRow(target: usize, packed: usize, rowBytes: usize): void {
  const mask = v128.load(CODE_MASK);
  for (const end = packed + rowBytes; packed < end; packed += 32, target += 128) {
    const a = v128.load(packed);
    const b = v128.load(packed, 16);
    v128.store(target, v128.and(i16x8.shr_u(a, 6), mask));
    v128.store(target, v128.and(i16x8.shr_u(b, 6), mask), 16);
    v128.store(target, v128.and(i16x8.shr_u(a, 4), mask), 32);
    v128.store(target, v128.and(i16x8.shr_u(b, 4), mask), 48);
    v128.store(target, v128.and(i16x8.shr_u(a, 2), mask), 64);
    v128.store(target, v128.and(i16x8.shr_u(b, 2), mask), 80);
    v128.store(target, v128.and(a, mask), 96);
    v128.store(target, v128.and(b, mask), 112);
  }
}

/** Four unpacked rows times one token. `steps` groups of 16 weights; 64 of them between two widenings. */
export function dot4(
  out: usize,
  rows: usize,
  stride: usize,
  q: usize,
  steps: i32,
  scale: f32,
  codeSum: i32,
  weightScale: f32,
): void {
  const r1 = rows + stride;
  const r2 = r1 + stride;
  const r3 = r2 + stride;
  let t0 = i32x4.splat(0);
  let t1 = i32x4.splat(0);
  let t2 = i32x4.splat(0);
  let t3 = i32x4.splat(0);
  let at: usize = 0;
  while (steps > 0) {
    const end = at + (<usize>min(steps, 64) << 4);
    steps -= 64;
    let a0 = i16x8.splat(0);
    let a1 = i16x8.splat(0);
    let a2 = i16x8.splat(0);
    let a3 = i16x8.splat(0);
    for (; at < end; at += 32) {
      const x = v128.load(q + at);
      const y = v128.load(q + at, 16);
      a0 = dotStep(dotStep(a0, v128.load(rows + at), x), v128.load(rows + at, 16), y);
      a1 = dotStep(dotStep(a1, v128.load(r1 + at), x), v128.load(r1 + at, 16), y);
      a2 = dotStep(dotStep(a2, v128.load(r2 + at), x), v128.load(r2 + at, 16), y);
      a3 = dotStep(dotStep(a3, v128.load(r3 + at), x), v128.load(r3 + at, 16), y);
    }
    t0 = i32x4.add(t0, i32x4.extadd_pairwise_i16x8_s(a0));
    t1 = i32x4.add(t1, i32x4.extadd_pairwise_i16x8_s(a1));
    t2 = i32x4.add(t2, i32x4.extadd_pairwise_i16x8_s(a2));
    t3 = i32x4.add(t3, i32x4.extadd_pairwise_i16x8_s(a3));
  }
  finish(out, sumLanes(t0), codeSum, scale, weightScale);
  finish(out + 4, sumLanes(t1), codeSum, scale, weightScale);
  finish(out + 8, sumLanes(t2), codeSum, scale, weightScale);
  finish(out + 12, sumLanes(t3), codeSum, scale, weightScale);
}
