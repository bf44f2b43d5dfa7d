/**
 * The KV cache and attention. A cache is a block of memory per kind (keys, values) and layer, laid out
 * (kvHead, position, headDim) in f32 or f16 behind a header.
 *
 * The query heads of a group share their keys and values: each is decoded once and meets all of them.
 */

import { decodeF16 } from './dense';
import { F16_MASK, F16_SCALE } from './layout';
import { expF32, expF32x4, f16ToF32, f16ToF32x4, f32ToF16 } from './math';
import { addToSum, dot16, fold8d, highPair, lowPair } from './sums';

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
 * `Backend.attention` for one row and the `group` query heads of one key/value head, whatever the cache's types and shapes;
 * `attention-rows.ts` has the usual case. `q` and `out` point at the first of the heads, `keys` and `values` at the head's
 * blocks. Scratch holds eight f64 sums and one decoded key, then the sums of the heads; `weights` has room for
 * group * weightStride f32.
 */
export function attendGroup(
  out: usize,
  q: usize,
  group: i32,
  keys: usize,
  kF16: i32,
  values: usize,
  vF16: i32,
  headDim: i32,
  visible: i32,
  scale: f32,
  scratch: usize,
  weights: usize,
  weightStride: usize,
): void {
  const headBytes = <usize>headDim << 2;
  const keyBytes = <usize>headDim << (kF16 ? 1 : 2);
  for (let j = 0; j < visible; j++) {
    let key = keys + <usize>j * keyBytes;
    if (kF16) {
      decodeF16(scratch, key, headDim);
      key = scratch;
    }
    let at = weights + (<usize>j << 2);
    for (let head: usize = 0; head < <usize>group; head++, at += weightStride) {
      store<f32>(at, dot16(q + head * headBytes, key, headDim));
    }
  }
  const totals = scratch + TOTALS;
  for (let head = 0; head < group; head++) {
    const row = weights + <usize>head * weightStride;
    multiply(row, visible, scale);
    store<f32>(totals + (<usize>head << 2), exponentials(row, visible, largest(row, visible), scratch));
  }
  for (let head: usize = 0; head < <usize>group; head++) {
    const total = load<f32>(totals + (head << 2));
    weightedSum(out + head * headBytes, weights + head * weightStride, values, vF16, headDim, visible, total);
  }
}

/** Where in scratch the sums of the heads stand, behind a decoded key of at most 1024 values. */
const TOTALS: usize = 4096;

export function multiply(values: usize, count: i32, factor: f32): void {
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

/** out_d = (sum over j of weights[j] * value_jd) / total for one head; j ascends for every d, sixteen d at a time. */
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
