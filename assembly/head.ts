/**
 * `Backend.denseTopK`: the k greatest products of a tall matrix, without computing the others exactly.
 *
 *   score   every row's product is estimated with integers. An estimate is wrong by at most E (below), so the k-th greatest
 *           of (estimate - E) is a value that k rows are known to reach
 *   exact   a row whose estimate + E lies below that value is not among the k greatest; the others are computed as
 *           `denseMatmul` computes them
 *
 * Q6_K and Q8_0 rows are estimated from their own codes: only x is rounded. Other rows have a copy in int8 codes with one scale a
 * row, the plane: half or a quarter of the bytes of floats, four fifths of those of AFFINE.
 *
 *   E = |w| * (|x - x'| + c * |x|) + |w - w'| * |x'|        Cauchy and Schwarz; |.| is the Euclidean norm
 *
 * x' and w' are what the codes stand for. c = (K + 256) * 2^-25 is for the rounding of f32 sums: those of dot16 are wrong by at
 * most (K/16 + 6) * 2^-24 * |w| * |x|, those of estimates, of which every term is a product of w' and x' (no sum that is taken off
 * again), by at most (K/32 + 10) * 2^-24 * |w'| * |x'|, and |w'| and |x'| are at most 1.5 |w| and 2 |x|; the rest is for
 * estimate - E and estimate + E. All norms are rounded up.
 *
 * Very small and very large: a norm is at least 2^-60, because squares may vanish, so E is at least 2^-120, more than
 * all that vanishes in products. A norm above 2^63 counts as infinite: of smaller ones no product, estimate or sum on the way
 * overflows. Where a number is infinite or not a number, so is E, and the row is computed.
 */

import { DENSE_AFFINE, DENSE_F16, DENSE_Q6_K, DENSE_Q8_0, decodeRow, dotAffine, dotF16, rebias } from './dense';
import { f16ToF32 } from './math';
import { absmax } from './quantize';
import { dot16 } from './sums';
import { scoreQ6_K, X_BLOCK, X_SCALE, X_SUMS, zipHigh, zipLow } from './q6_k';
import { sumLanes } from './ternary-matmul';

/** Enlarges a norm by more than rounding can have taken from it: K/16 * 2^-24 for K up to 2^18. */
const UP: f32 = 1.002;

/** 2^-120, more than the squares of 16384 numbers can lose by falling below the least f32, 2^-149. */
const LOST_SQUARES: f32 = 7.52316384526264e-37;

/** Distance of two threads' thresholds: no two in a cache line. */
const THRESHOLD_STRIDE: usize = 64;

export function thresholdOf(thresholds: usize, thread: i32): usize {
  return thresholds + <usize>thread * THRESHOLD_STRIDE;
}

/** Largest |code| of x for planes and Q8_0: 2^31 > 127 * X16_MAX * K/4 up to K = 16384, and 13 bits are plenty. */
const X16_MAX: f32 = 4095;

// What is kept of a matrix: norms (rows) f32; for a plane also errors |w - w'| (rows) f32, scales (rows) f32, and codes
// (rows, columns) i8.
// @ts-ignore: decorator
@inline
function planeCodes(index: usize, rows: i32): usize {
  return index + <usize>((rows * 12 + 63) & ~63);
}

// @ts-ignore: decorator
@inline
function isPlane(type: i32): bool {
  return type != DENSE_Q6_K && type != DENSE_Q8_0;
}

/** Norms, and for floats the plane, of rows first..last-1. Done once for a matrix. Columns are a multiple of 16 here and below. */
export function indexRows(
  index: usize,
  type: i32,
  weight: usize,
  rowBytes: usize,
  rows: i32,
  columns: i32,
  first: i32,
  last: i32,
  scratch: usize,
): void {
  for (let row = first; row < last; row++) {
    const at = <usize>row << 2;
    decodeRow(type, scratch, weight + <usize>row * rowBytes, columns);
    store<f32>(index + at, norm(scratch, columns));
    if (isPlane(type)) {
      const scale = largest(scratch, columns) / 127;
      roundTo8(planeCodes(index, rows) + <usize>row * <usize>columns, scratch, columns, scale);
      store<f32>(index + at + (<usize>rows << 2), norm(scratch, columns));
      store<f32>(index + at + (<usize>rows << 3), scale);
    }
  }
}

/** max |x|. Unlike the quantiser's it has no floor, which would be a coarse step for tiny rows. */
function largest(x: usize, length: i32): f32 {
  let m = f32x4.splat(0);
  for (const end = x + (<usize>length << 2); x < end; x += 16) m = f32x4.pmax(m, f32x4.abs(v128.load(x)));
  return max<f32>(
    max<f32>(f32x4.extract_lane(m, 0), f32x4.extract_lane(m, 1)),
    max<f32>(f32x4.extract_lane(m, 2), f32x4.extract_lane(m, 3)),
  );
}

/** Four codes, the integers nearest to x * inverse; leaves x - scale * code at `rest`. */
// @ts-ignore: decorator
@inline
function round4(x: usize, rest: usize, scale: v128, inverse: v128): v128 {
  const value = v128.load(x);
  const code = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(value, inverse)));
  v128.store(rest, f32x4.sub(value, f32x4.mul(scale, f32x4.convert_i32x4_s(code))));
  return code;
}

// @ts-ignore: decorator
@inline
function round8(x: usize, rest: usize, scale: v128, inverse: v128): v128 {
  return i16x8.narrow_i32x4_s(round4(x, rest, scale, inverse), round4(x + 16, rest + 16, scale, inverse));
}

/** i8 codes of x in units of `scale`; leaves the differences in x (themselves rounded, which c allows for). */
export function roundTo8(codes: usize, x: usize, length: i32, scale: f32): void {
  const s = f32x4.splat(scale);
  const inverse = f32x4.splat(<f32>1 / scale);
  for (const end = x + (<usize>length << 2); x < end; x += 64, codes += 16) {
    v128.store(codes, i8x16.narrow_i16x8_s(round8(x, x, s, inverse), round8(x + 32, x + 32, s, inverse)));
  }
}

/** An upper bound of the Euclidean norm; infinity above 2^63: times 4 the square then overflows. */
export function norm(x: usize, length: i32): f32 {
  return sqrt<f32>((dot16(x, x, length) + LOST_SQUARES) * 4) * (UP / 2);
}

// Scratch of the two steps: head of x, then codes, scales and sums of x, then a row decoded or x times 2^112, then the heap.
//   0 error factor for |w|, 4 for |w - w'|, 8 scale of x (i16 codes only), 16 sums of four rows
const SUMS: usize = 16;
const X_AT: usize = 64;

// @ts-ignore: decorator
@inline
function rowAt(columns: i32): usize {
  return X_AT + (<usize>columns << 2) + 256;
}
// @ts-ignore: decorator
@inline
function heapAt(columns: i32): usize {
  return rowAt(columns) + (<usize>columns << 2) + 64;
}

/** Estimates rows first..last-1 into `out` and stores this thread's threshold. */
export function scoreRows(
  out: usize,
  type: i32,
  weight: usize,
  rowBytes: usize,
  rows: i32,
  x: usize,
  columns: i32,
  index: usize,
  k: i32,
  threshold: usize,
  first: i32,
  last: i32,
  scratch: usize,
): void {
  prepare(type, x, columns, scratch);
  const heap = scratch + heapAt(columns);
  for (let i = 0; i < k; i++) store<f32>(heap + (<usize>i << 2), -Infinity);
  const xs = scratch + X_AT;
  if (type == DENSE_Q6_K) {
    for (let row = first; row < last; row++) {
      store<f32>(out + (<usize>row << 2), scoreQ6_K(weight + <usize>row * rowBytes, xs, columns));
    }
  } else if (type == DENSE_Q8_0) {
    const scale = load<f32>(scratch, 8);
    for (let row = first; row < last; row++) {
      store<f32>(out + (<usize>row << 2), scoreQ8_0(weight + <usize>row * rowBytes, xs, columns) * scale);
    }
  } else scorePlane(out, index, rows, columns, first, last, scratch);
  let least: f32 = -Infinity;
  for (let row = first; row < last; row++) {
    const lower = load<f32>(out + (<usize>row << 2)) - errorOf(type, index, rows, row, scratch);
    if (lower > least) least = replaceLeast(heap, k, lower);
  }
  store<f32>(threshold, least);
}

/** E of a row. */
// @ts-ignore: decorator
@inline
function errorOf(type: i32, index: usize, rows: i32, row: i32, scratch: usize): f32 {
  const at = index + (<usize>row << 2);
  const bound = load<f32>(at) * load<f32>(scratch);
  return isPlane(type) ? bound + load<f32>(at + (<usize>rows << 2)) * load<f32>(scratch, 4) : bound;
}

/** Rows of four quarters at a time, as in `ternaryMatvec`; the few left over alone. */
function scorePlane(out: usize, index: usize, rows: i32, columns: i32, first: i32, last: i32, scratch: usize): void {
  const codes = planeCodes(index, rows);
  const sums = scratch + SUMS;
  const quarter = (last - first) >> 2;
  const rowBytes = <usize>columns;
  for (let row = first; row < first + quarter; row++) {
    scorePlane4(sums, codes + <usize>row * rowBytes, <usize>quarter * rowBytes, scratch + X_AT, rowBytes);
    for (let i = 0; i < 4; i++) storeScore(out, index, rows, row + i * quarter, sums + (<usize>i << 2), scratch);
  }
  for (let row = first + 4 * quarter; row < last; row++) {
    scorePlane4(sums, codes + <usize>row * rowBytes, 0, scratch + X_AT, rowBytes);
    storeScore(out, index, rows, row, sums, scratch);
  }
}

function storeScore(out: usize, index: usize, rows: i32, row: i32, sum: usize, scratch: usize): void {
  const at = <usize>row << 2;
  // In this order: the product of two small scales would lose more bits than E allows for.
  store<f32>(out + at, load<f32>(sum) * load<f32>(index + (<usize>rows << 3) + at) * load<f32>(scratch, 8));
}

/** Rows first..last-1 of `out`: the exact product where it can be among the k greatest, else minus infinity. */
export function exactRows(
  out: usize,
  type: i32,
  weight: usize,
  rowBytes: usize,
  rows: i32,
  x: usize,
  columns: i32,
  index: usize,
  thresholds: usize,
  nThreads: i32,
  first: i32,
  last: i32,
  scratch: usize,
): void {
  // Each thread's own k-th greatest is a bound; the best of them serves all.
  let least: f32 = -Infinity;
  for (let thread = 0; thread < nThreads; thread++) least = max<f32>(least, load<f32>(thresholdOf(thresholds, thread)));
  const decoded = scratch + rowAt(columns);
  const isF16 = type == DENSE_F16 && rebias(decoded, x, columns);
  for (let row = first; row < last; row++) {
    const at = <usize>row << 2;
    if (load<f32>(out + at) + errorOf(type, index, rows, row, scratch) < least) {
      store<f32>(out + at, -Infinity);
      continue;
    }
    const w = weight + <usize>row * rowBytes;
    if (isF16) store<f32>(out + at, dotF16(w, decoded, columns));
    else if (type == DENSE_AFFINE) store<f32>(out + at, dotAffine(w, x, columns));
    else {
      decodeRow(type, decoded, w, columns);
      store<f32>(out + at, dot16(decoded, x, columns));
    }
  }
}

/** Puts `value` in the place of the least of k values in a heap; returns the new least. */
export function replaceLeast(heap: usize, k: i32, value: f32): f32 {
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= k) break;
    let least = load<f32>(heap + (<usize>child << 2));
    if (child + 1 < k && load<f32>(heap + (<usize>child << 2), 4) < least) {
      child++;
      least = load<f32>(heap + (<usize>child << 2));
    }
    if (least >= value) break;
    store<f32>(heap + (<usize>at << 2), least);
    at = child;
  }
  store<f32>(heap + (<usize>at << 2), value);
  return load<f32>(heap);
}

/** Rounds x to integers and works out the factors of E. */
function prepare(type: i32, x: usize, columns: i32, scratch: usize): void {
  const difference = scratch + rowAt(columns);
  const length = norm(x, columns);
  if (type == DENSE_Q6_K) roundBlocks(scratch + X_AT, x, columns, difference);
  else store<f32>(scratch, roundTo16(scratch + X_AT, x, columns, difference), 8);
  const rest = norm(difference, columns);
  const c = f32(columns + 256) * (<f32>1 / 33554432);
  store<f32>(scratch, (rest + c * length) * UP);
  store<f32>(scratch, (length + rest) * UP, 4); // at least |x'|
}

/** i16 codes with one scale; returns it. */
function roundTo16(codes: usize, x: usize, columns: i32, rest: usize): f32 {
  const m = absmax(x, columns);
  const scale = m / X16_MAX;
  const s = f32x4.splat(scale);
  const inverse = f32x4.splat(X16_MAX / m);
  for (const end = x + (<usize>columns << 2); x < end; x += 32, rest += 32, codes += 16) {
    v128.store(codes, round8(x, rest, s, inverse));
  }
  return scale;
}

/** x for `scoreQ6_K`; its form is told there. */
function roundBlocks(blocks: usize, x: usize, columns: i32, rest: usize): void {
  for (const end = x + (<usize>columns << 2); x < end; x += 1024, rest += 1024, blocks += X_BLOCK) {
    const m = absmax(x, 256);
    const s = f32x4.splat(m / 127);
    const inverse = f32x4.splat(<f32>127 / m);
    v128.store32_lane(blocks, s, 0, X_SCALE);
    for (let group: usize = 0; group < 8; group++) {
      const at = group << 7;
      const first = half(x + at, rest + at, s, inverse, blocks + (group << 2) + X_SUMS);
      const second = half(x + at + 64, rest + at + 64, s, inverse, blocks + (group << 2) + X_SUMS + 2);
      v128.store(blocks + (group << 5), zipLow(first, second));
      v128.store(blocks + (group << 5), zipHigh(first, second), 16);
    }
  }
}

/** Sixteen codes; their sum goes to `sum`. */
function half(x: usize, rest: usize, scale: v128, inverse: v128, sum: usize): v128 {
  const low = round8(x, rest, scale, inverse);
  const high = round8(x + 32, rest + 32, scale, inverse);
  store<i16>(sum, <i16>sumLanes(i32x4.extadd_pairwise_i16x8_s(i16x8.add(low, high))));
  return i8x16.narrow_i16x8_s(low, high);
}

/** Sums of plane codes (i8) times x codes (i16) for four rows `apart` bytes from each other; f32 (4) to `sums`. */
export function scorePlane4(sums: usize, codes: usize, apart: usize, x: usize, length: usize): void {
  let a = i32x4.splat(0);
  let b = i32x4.splat(0);
  let c = i32x4.splat(0);
  let d = i32x4.splat(0);
  const second = codes + apart;
  const third = second + apart;
  const fourth = third + apart;
  for (let i: usize = 0; i < length; i += 16, x += 32) {
    const low = v128.load(x);
    const high = v128.load(x, 16);
    a = i32x4.add(a, i32x4.dot_i16x8_s(v128.load8x8_s(codes + i), low));
    a = i32x4.add(a, i32x4.dot_i16x8_s(v128.load8x8_s(codes + i, 8), high));
    b = i32x4.add(b, i32x4.dot_i16x8_s(v128.load8x8_s(second + i), low));
    b = i32x4.add(b, i32x4.dot_i16x8_s(v128.load8x8_s(second + i, 8), high));
    c = i32x4.add(c, i32x4.dot_i16x8_s(v128.load8x8_s(third + i), low));
    c = i32x4.add(c, i32x4.dot_i16x8_s(v128.load8x8_s(third + i, 8), high));
    d = i32x4.add(d, i32x4.dot_i16x8_s(v128.load8x8_s(fourth + i), low));
    d = i32x4.add(d, i32x4.dot_i16x8_s(v128.load8x8_s(fourth + i, 8), high));
  }
  store<f32>(sums, sumWide(a));
  store<f32>(sums, sumWide(b), 4);
  store<f32>(sums, sumWide(c), 8);
  store<f32>(sums, sumWide(d), 12);
}

/** An i32 lane has room for a quarter of a row (X16_MAX), not for all of it. */
// @ts-ignore: decorator
@inline
function sumWide(v: v128): f32 {
  const pairs = i64x2.add(i64x2.extend_low_i32x4_s(v), i64x2.extend_high_i32x4_s(v));
  return f32(i64x2.extract_lane(pairs, 0) + i64x2.extract_lane(pairs, 1));
}

/** Sum over blocks of 32 of d times (codes times x codes). */
export function scoreQ8_0(row: usize, x: usize, columns: i32): f32 {
  let total = f32x4.splat(0);
  for (const end = x + (<usize>columns << 1); x < end; x += 64, row += 34) {
    const a = i32x4.add(
      i32x4.dot_i16x8_s(v128.load8x8_s(row, 2), v128.load(x)),
      i32x4.dot_i16x8_s(v128.load8x8_s(row, 10), v128.load(x, 16)),
    );
    const b = i32x4.add(
      i32x4.dot_i16x8_s(v128.load8x8_s(row, 18), v128.load(x, 32)),
      i32x4.dot_i16x8_s(v128.load8x8_s(row, 26), v128.load(x, 48)),
    );
    total = f32x4.add(total, f32x4.mul(f32x4.convert_i32x4_s(i32x4.add(a, b)), f32x4.splat(f16ToF32(load<i16>(row)))));
  }
  return sumFloats(total);
}

// @ts-ignore: decorator
@inline
function sumFloats(v: v128): f32 {
  return f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3);
}
