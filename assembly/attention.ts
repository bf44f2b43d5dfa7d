/**
 * The KV cache and attention. A cache is a block of memory per kind (keys, values), laid out
 * (layer, kvHead, position, headDim) in f32 or f16.
 */

import { expF32x4, expF32, f16ToF32, f16ToF32x4, f32ToF16 } from './math';
import { decodeF16 } from './dense';
import { addToSum, dot16, fold8d, highPair, lowPair } from './sums';

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
      for (let i: usize = 0; i < <usize>headDim; i++) {
        store<u16>(at + (i << 1), <u16>f32ToF16(load<f32>(from + (i << 2))));
      }
    } else memory.copy(at, from, <usize>headDim << 2);
  }
}

/**
 * `Backend.attention` for one row and one head: `keys` and `values` are the head's blocks, `visible` the number of
 * positions. Scratch holds the weights (visible f32), eight f64 sums and one decoded key.
 */
export function attendHead(
  out: usize,
  q: usize,
  keys: usize,
  kF16: i32,
  values: usize,
  vF16: i32,
  headDim: i32,
  visible: i32,
  scale: f32,
  scratch: usize,
  weights: usize,
): void {
  const keyBytes = <usize>headDim << (kF16 ? 1 : 2);
  let highest = -Infinity as f32;
  for (let j = 0; j < visible; j++) {
    let key = keys + <usize>j * keyBytes;
    if (kF16) {
      decodeF16(scratch, key, headDim);
      key = scratch;
    }
    const score = dot16(q, key, headDim) * scale;
    store<f32>(weights + (<usize>j << 2), score);
    if (score > highest) highest = score;
  }
  const total = exponentials(weights, visible, highest, scratch);
  weightedSum(out, weights, values, vF16, headDim, visible, total);
}

/** weights[j] = exp(weights[j] - highest); returns their sum, sum8d rounded to f32. */
function exponentials(weights: usize, count: i32, highest: f32, scratch: usize): f32 {
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

/** out_d = (sum over j of weights[j] * value_jd) / total; j ascends for every d, sixteen d at a time. */
function weightedSum(
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
  const t = f32x4.splat(total);
  let d = 0;
  for (; d + 16 <= headDim; d += 16) {
    let s0 = f32x4.splat(0);
    let s1 = f32x4.splat(0);
    let s2 = f32x4.splat(0);
    let s3 = f32x4.splat(0);
    let v = values + (<usize>d << shift);
    for (let j = 0; j < visible; j++, v += valueBytes) {
      const w = v128.load32_splat(weights + (<usize>j << 2));
      if (vF16) {
        const a = v128.load(v);
        const b = v128.load(v, 16);
        s0 = f32x4.add(s0, f32x4.mul(w, f16ToF32x4(i32x4.extend_low_i16x8_u(a))));
        s1 = f32x4.add(s1, f32x4.mul(w, f16ToF32x4(i32x4.extend_high_i16x8_u(a))));
        s2 = f32x4.add(s2, f32x4.mul(w, f16ToF32x4(i32x4.extend_low_i16x8_u(b))));
        s3 = f32x4.add(s3, f32x4.mul(w, f16ToF32x4(i32x4.extend_high_i16x8_u(b))));
      } else {
        s0 = f32x4.add(s0, f32x4.mul(w, v128.load(v)));
        s1 = f32x4.add(s1, f32x4.mul(w, v128.load(v, 16)));
        s2 = f32x4.add(s2, f32x4.mul(w, v128.load(v, 32)));
        s3 = f32x4.add(s3, f32x4.mul(w, v128.load(v, 48)));
      }
    }
    const target = out + (<usize>d << 2);
    v128.store(target, f32x4.div(s0, t));
    v128.store(target, f32x4.div(s1, t), 16);
    v128.store(target, f32x4.div(s2, t), 32);
    v128.store(target, f32x4.div(s3, t), 48);
  }
  for (; d < headDim; d++) {
    let sum: f32 = 0;
    let v = values + (<usize>d << shift);
    for (let j = 0; j < visible; j++, v += valueBytes) {
      sum += load<f32>(weights + (<usize>j << 2)) * (vF16 ? f16ToF32(load<u16>(v)) : load<f32>(v));
    }
    store<f32>(out + (<usize>d << 2), sum / total);
  }
}
