/**
 * The KV cache and attention. A cache is a block of memory per kind (keys, values) and layer, laid out
 * (kvHead, position, headDim) in f32 or f16 behind a header.
 *
 * The query heads of a group share their keys and values: each is decoded once and meets all of them.
 */

import { decodeF16, rebias } from './dense';
import { F16_MASK, F16_SCALE } from './layout';
import { expF32, expF32x4, f16ToF32, f16ToF32x4, f32ToF16, placeHigh, placeLow } from './math';
import { addToSum, dot16, dot16x2, fold8d, highPair, lowPair } from './sums';

/** Bytes before a layer's block of keys or values: an i32 that is 1 if an f16 in the block was ever infinite or not a number. */
export const BLOCK_HEADER: usize = 64;

/** Stores one row (nKvHeads * headDim) of keys or values at `position`. `base` is the layer's block. */
export function kvStore(
  base: usize,
  isF16: i32,
  x: usize,
  nKvHeads: i32,
  headDim: i32,
  contextSize: i32,
  position: i32,
): void {
  const elementShift: usize = isF16 ? 1 : 2;
  for (let head = 0; head < nKvHeads; head++) {
    const at = base + (((<usize>head * <usize>contextSize + <usize>position) * <usize>headDim) << elementShift);
    const from = x + ((<usize>head * <usize>headDim) << 2);
    if (isF16) {
      let special = false;
      for (let i: usize = 0; i < <usize>headDim; i++) {
        const half = f32ToF16(load<f32>(from + (i << 2)));
        special = special || (half & 0x7c00) == 0x7c00;
        store<u16>(at + (i << 1), <u16>half);
      }
      if (special) store<i32>(base - BLOCK_HEADER, 1);
    } else memory.copy(at, from, <usize>headDim << 2);
  }
}

/**
 * `Backend.attention` for one row and the `group` query heads of one key/value head. `q` and `out` point at the first of
 * them, `keys` and `values` at the head's blocks, of which `keysFit` and `valuesFit` say that they are f16 and all finite.
 * Scratch holds eight f64 sums and a key, the sums of the heads, and the queries times 2^112; `weights` has room for
 * group * weightStride f32.
 *
 * Finite halves are used as they stand, their exponent in f32's place, which makes them 2^112 too small; the other
 * factor, a query or weight, is made 2^112 larger. Both are exact and so is their product before it is rounded.
 */
export function attendGroup(
  out: usize,
  q: usize,
  group: i32,
  keys: usize,
  kF16: i32,
  keysFit: bool,
  values: usize,
  vF16: i32,
  valuesFit: bool,
  headDim: i32,
  visible: i32,
  scale: f32,
  scratch: usize,
  weights: usize,
  weightStride: usize,
): void {
  const headBytes = <usize>headDim << 2;
  const keyBytes = <usize>headDim << (kF16 ? 1 : 2);
  let queries = q;
  if (keysFit && (headDim & 15) == 0 && rebias(scratch + QUERIES, q, group * headDim)) queries = scratch + QUERIES;
  for (let j = 0; j < visible; j++) {
    let key = keys + <usize>j * keyBytes;
    if (kF16) {
      if (queries != q) placeF16(scratch, key, headDim);
      else decodeF16(scratch, key, headDim);
      key = scratch;
    }
    let at = weights + (<usize>j << 2);
    let query = queries;
    let head = 0;
    if ((headDim & 15) == 0) {
      for (; head + 2 <= group; head += 2, at += 2 * weightStride, query += 2 * headBytes) {
        dot16x2(at, weightStride, query, headBytes, key, headDim);
      }
    }
    for (; head < group; head++, at += weightStride, query += headBytes) store<f32>(at, dot16(query, key, headDim));
  }
  const totals = scratch + TOTALS;
  const placed = valuesFit && (headDim & 7) == 0;
  for (let head = 0; head < group; head++) {
    const row = weights + <usize>head * weightStride;
    multiply(row, visible, scale);
    store<f32>(totals + (<usize>head << 2), exponentials(row, visible, largest(row, visible), scratch));
    if (placed) multiply(row, visible, f32x4.extract_lane(v128.load(F16_SCALE), 0));
  }
  let head = 0;
  for (; head + 4 <= group; head += 4) {
    const target = out + <usize>head * headBytes;
    const row = weights + <usize>head * weightStride;
    const total = totals + (<usize>head << 2);
    if (placed) weightedSumPlaced4(target, headBytes, row, weightStride, values, headDim, visible, total);
    else weightedSum4(target, headBytes, row, weightStride, values, vF16, headDim, visible, total);
  }
  for (; head < group; head++) {
    const target = out + <usize>head * headBytes;
    const row = weights + <usize>head * weightStride;
    const total = load<f32>(totals + (<usize>head << 2));
    if (placed) weightedSumPlaced(target, row, values, headDim, visible, total);
    else weightedSum(target, row, values, vF16, headDim, visible, total);
  }
}

// Where in scratch the sums of the heads stand, behind a decoded key of at most 1024 values; and the queries.
const TOTALS: usize = 4096;
const QUERIES: usize = 8192;

/** f16 to f32 * 2^-112; length is a multiple of 16. */
export function placeF16(target: usize, source: usize, length: i32): void {
  const mask = v128.load(F16_MASK);
  for (const end = source + (<usize>length << 1); source < end; source += 16, target += 32) {
    const h = v128.load(source);
    v128.store(target, placeLow(h, mask));
    v128.store(target, placeHigh(h, mask), 16);
  }
}

function multiply(values: usize, count: i32, factor: f32): void {
  const f = f32x4.splat(factor);
  let j = 0;
  for (; j + 4 <= count; j += 4, values += 16) v128.store(values, f32x4.mul(v128.load(values), f));
  for (; j < count; j++, values += 4) store<f32>(values, load<f32>(values) * factor);
}

/** Greatest score; NaN never wins. */
export function largest(scores: usize, count: i32): f32 {
  let m = f32x4.splat(-Infinity);
  let j = 0;
  for (; j + 4 <= count; j += 4, scores += 16) m = f32x4.pmax(m, v128.load(scores));
  let highest = f32x4.extract_lane(m, 0);
  if (f32x4.extract_lane(m, 1) > highest) highest = f32x4.extract_lane(m, 1);
  if (f32x4.extract_lane(m, 2) > highest) highest = f32x4.extract_lane(m, 2);
  if (f32x4.extract_lane(m, 3) > highest) highest = f32x4.extract_lane(m, 3);
  for (; j < count; j++, scores += 4) {
    const score = load<f32>(scores);
    if (score > highest) highest = score;
  }
  return highest;
}

/** weights[j] = exp(weights[j] - highest); returns their sum, sum8d rounded to f32. */
export function exponentials(weights: usize, count: i32, highest: f32, scratch: usize): f32 {
  const m = f32x4.splat(highest);
  let s0 = f64x2.splat(0);
  let s1 = f64x2.splat(0);
  let s2 = f64x2.splat(0);
  let s3 = f64x2.splat(0);
  let j = 0;
  for (; j + 8 <= count; j += 8, weights += 32) {
    const a = expF32x4(f32x4.sub(v128.load(weights), m));
    const b = expF32x4(f32x4.sub(v128.load(weights, 16), m));
    v128.store(weights, a);
    v128.store(weights, b, 16);
    s0 = f64x2.add(s0, lowPair(a));
    s1 = f64x2.add(s1, highPair(a));
    s2 = f64x2.add(s2, lowPair(b));
    s3 = f64x2.add(s3, highPair(b));
  }
  v128.store(scratch, s0);
  v128.store(scratch, s1, 16);
  v128.store(scratch, s2, 32);
  v128.store(scratch, s3, 48);
  for (let lane = 0; j < count; j++, lane++, weights += 4) {
    const e = expF32(load<f32>(weights) - highest);
    store<f32>(weights, e);
    addToSum(scratch, lane, e);
  }
  return f32(fold8d(v128.load(scratch), v128.load(scratch, 16), v128.load(scratch, 32), v128.load(scratch, 48)));
}

// Four values of a row from column d on, whatever the type.
// @ts-ignore: decorator
@inline
function load4(value: usize, vF16: i32, mask: v128, rebias: v128): v128 {
  return vF16 ? f16ToF32x4(v128.load16x4_s(value), mask, rebias) : v128.load(value);
}

/**
 * out_hd = (sum over j of weights_h[j] * value_jd) / total_h for four heads; j ascends for every d, eight d at a time, so
 * that eight sums stay in registers and each value is decoded once for four heads.
 */
export function weightedSum4(
  out: usize,
  headBytes: usize,
  weights: usize,
  weightStride: usize,
  values: usize,
  vF16: i32,
  headDim: i32,
  visible: i32,
  totals: usize,
): void {
  const shift: usize = vF16 ? 1 : 2;
  const valueBytes = <usize>headDim << shift;
  const w1 = weights + weightStride;
  const w2 = w1 + weightStride;
  const w3 = w2 + weightStride;
  const mask = v128.load(F16_MASK);
  const rebias = v128.load(F16_SCALE);
  let d = 0;
  for (; d + 8 <= headDim; d += 8) {
    let a0 = f32x4.splat(0);
    let a1 = f32x4.splat(0);
    let b0 = f32x4.splat(0);
    let b1 = f32x4.splat(0);
    let c0 = f32x4.splat(0);
    let c1 = f32x4.splat(0);
    let e0 = f32x4.splat(0);
    let e1 = f32x4.splat(0);
    let v = values + (<usize>d << shift);
    const end = <usize>visible << 2;
    for (let j: usize = 0; j < end; j += 4, v += valueBytes) {
      const x = load4(v, vF16, mask, rebias);
      const y = load4(v + (<usize>4 << shift), vF16, mask, rebias);
      const wa = v128.load32_splat(weights + j);
      a0 = f32x4.add(a0, f32x4.mul(wa, x));
      a1 = f32x4.add(a1, f32x4.mul(wa, y));
      const wb = v128.load32_splat(w1 + j);
      b0 = f32x4.add(b0, f32x4.mul(wb, x));
      b1 = f32x4.add(b1, f32x4.mul(wb, y));
      const wc = v128.load32_splat(w2 + j);
      c0 = f32x4.add(c0, f32x4.mul(wc, x));
      c1 = f32x4.add(c1, f32x4.mul(wc, y));
      const wd = v128.load32_splat(w3 + j);
      e0 = f32x4.add(e0, f32x4.mul(wd, x));
      e1 = f32x4.add(e1, f32x4.mul(wd, y));
    }
    const target = out + (<usize>d << 2);
    divide8(target, a0, a1, totals);
    divide8(target + headBytes, b0, b1, totals + 4);
    divide8(target + 2 * headBytes, c0, c1, totals + 8);
    divide8(target + 3 * headBytes, e0, e1, totals + 12);
  }
  for (let head: usize = 0; head < 4; head++) {
    const total = load<f32>(totals + (head << 2));
    restOfSum(out + head * headBytes, weights + head * weightStride, values, vF16, headDim, visible, total, d);
  }
}

/**
 * `weightedSum4` for finite f16 values used as they stand; the weights come multiplied by 2^112. headDim is a multiple of 8.
 * Positions go in blocks, whose values are read from memory once and then found in the cache; sums wait in `out`.
 */
export function weightedSumPlaced4(
  out: usize,
  headBytes: usize,
  weights: usize,
  weightStride: usize,
  values: usize,
  headDim: i32,
  visible: i32,
  totals: usize,
): void {
  memory.fill(out, 0, 4 * headBytes);
  for (let first = 0; first < visible; first += POSITIONS) {
    const count = min(POSITIONS, visible - first);
    const w = weights + (<usize>first << 2);
    addValues4(out, headBytes, w, weightStride, values + <usize>first * (headBytes >> 1), headDim, count);
  }
  for (let d: usize = 0; d < headBytes; d += 16) {
    for (let head: usize = 0; head < 4; head++) {
      const at = out + head * headBytes + d;
      v128.store(at, f32x4.div(v128.load(at), v128.load32_splat(totals + (head << 2))));
    }
  }
}

/** Positions of a block: 64 values of 128 halves are 16 KB. */
const POSITIONS: i32 = 64;

/** Adds `count` weighted values to the sums of four heads in `out`, eight columns at a time. */
export function addValues4(
  out: usize,
  headBytes: usize,
  weights: usize,
  weightStride: usize,
  values: usize,
  headDim: i32,
  count: i32,
): void {
  const valueBytes = <usize>headDim << 1;
  const w1 = weights + weightStride;
  const w2 = w1 + weightStride;
  const w3 = w2 + weightStride;
  const mask = v128.load(F16_MASK);
  const end = <usize>count << 2;
  for (let d: usize = 0; d < valueBytes; d += 16) {
    const target = out + (d << 1);
    let a0 = v128.load(target);
    let a1 = v128.load(target, 16);
    let b0 = v128.load(target + headBytes);
    let b1 = v128.load(target + headBytes, 16);
    let c0 = v128.load(target + 2 * headBytes);
    let c1 = v128.load(target + 2 * headBytes, 16);
    let e0 = v128.load(target + 3 * headBytes);
    let e1 = v128.load(target + 3 * headBytes, 16);
    let v = values + d;
    for (let j: usize = 0; j < end; j += 4, v += valueBytes) {
      const h = v128.load(v);
      const x = placeLow(h, mask);
      const y = placeHigh(h, mask);
      let w = v128.load32_splat(weights + j);
      a0 = f32x4.add(a0, f32x4.mul(w, x));
      a1 = f32x4.add(a1, f32x4.mul(w, y));
      w = v128.load32_splat(w1 + j);
      b0 = f32x4.add(b0, f32x4.mul(w, x));
      b1 = f32x4.add(b1, f32x4.mul(w, y));
      w = v128.load32_splat(w2 + j);
      c0 = f32x4.add(c0, f32x4.mul(w, x));
      c1 = f32x4.add(c1, f32x4.mul(w, y));
      w = v128.load32_splat(w3 + j);
      e0 = f32x4.add(e0, f32x4.mul(w, x));
      e1 = f32x4.add(e1, f32x4.mul(w, y));
    }
    v128.store(target, a0);
    v128.store(target, a1, 16);
    v128.store(target + headBytes, b0);
    v128.store(target + headBytes, b1, 16);
    v128.store(target + 2 * headBytes, c0);
    v128.store(target + 2 * headBytes, c1, 16);
    v128.store(target + 3 * headBytes, e0);
    v128.store(target + 3 * headBytes, e1, 16);
  }
}

/** The same for one head. */
export function weightedSumPlaced(out: usize, weights: usize, values: usize, headDim: i32, visible: i32, total: f32): void {
  const valueBytes = <usize>headDim << 1;
  const t = f32x4.splat(total);
  const mask = v128.load(F16_MASK);
  for (let d: usize = 0; d < valueBytes; d += 16) {
    let s0 = f32x4.splat(0);
    let s1 = f32x4.splat(0);
    let v = values + d;
    for (let j = 0; j < visible; j++, v += valueBytes) {
      const h = v128.load(v);
      const w = v128.load32_splat(weights + (<usize>j << 2));
      s0 = f32x4.add(s0, f32x4.mul(w, placeLow(h, mask)));
      s1 = f32x4.add(s1, f32x4.mul(w, placeHigh(h, mask)));
    }
    const target = out + (d << 1);
    v128.store(target, f32x4.div(s0, t));
    v128.store(target, f32x4.div(s1, t), 16);
  }
}

// @ts-ignore: decorator
@inline
function divide8(target: usize, low: v128, high: v128, total: usize): void {
  const t = v128.load32_splat(total);
  v128.store(target, f32x4.div(low, t));
  v128.store(target, f32x4.div(high, t), 16);
}

/** The same for one head, sixteen d at a time. */
export function weightedSum(
  out: usize,
  weights: usize,
  values: usize,
  vF16: i32,
  headDim: i32,
  visible: i32,
  total: f32,
): void {
  const shift: usize = vF16 ? 1 : 2;
  const valueBytes = <usize>headDim << shift;
  const step = <usize>4 << shift;
  const t = f32x4.splat(total);
  const mask = v128.load(F16_MASK);
  const rebias = v128.load(F16_SCALE);
  let d = 0;
  for (; d + 16 <= headDim; d += 16) {
    let s0 = f32x4.splat(0);
    let s1 = f32x4.splat(0);
    let s2 = f32x4.splat(0);
    let s3 = f32x4.splat(0);
    let v = values + (<usize>d << shift);
    for (let j = 0; j < visible; j++, v += valueBytes) {
      const w = v128.load32_splat(weights + (<usize>j << 2));
      s0 = f32x4.add(s0, f32x4.mul(w, load4(v, vF16, mask, rebias)));
      s1 = f32x4.add(s1, f32x4.mul(w, load4(v + step, vF16, mask, rebias)));
      s2 = f32x4.add(s2, f32x4.mul(w, load4(v + 2 * step, vF16, mask, rebias)));
      s3 = f32x4.add(s3, f32x4.mul(w, load4(v + 3 * step, vF16, mask, rebias)));
    }
    const target = out + (<usize>d << 2);
    v128.store(target, f32x4.div(s0, t));
    v128.store(target, f32x4.div(s1, t), 16);
    v128.store(target, f32x4.div(s2, t), 32);
    v128.store(target, f32x4.div(s3, t), 48);
  }
  restOfSum(out, weights, values, vF16, headDim, visible, total, d);
}

/** Columns d.. that fill no vector. */
function restOfSum(
  out: usize,
  weights: usize,
  values: usize,
  vF16: i32,
  headDim: i32,
  visible: i32,
  total: f32,
  d: i32,
): void {
  const shift: usize = vF16 ? 1 : 2;
  const valueBytes = <usize>headDim << shift;
  for (; d < headDim; d++) {
    let sum: f32 = 0;
    let v = values + (<usize>d << shift);
    for (let j = 0; j < visible; j++, v += valueBytes) {
      sum += load<f32>(weights + (<usize>j << 2)) * (vF16 ? f16ToF32(load<i16>(v)) : load<f32>(v));
    }
    store<f32>(out + (<usize>d << 2), sum / total);
  }
}
