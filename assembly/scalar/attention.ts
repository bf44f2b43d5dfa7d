/** The KV cache and attention of one row and one head; layout as in `assembly/attention.ts`. */

import { f32ToF16 } from '../math';
import { decodeRow } from './dense';
import { DENSE_F16 } from '../dense';
import { expF32, f16ToF32 } from './math';
import { add8d, clear8d, dot16, fold8d } from './sums';

export function kvStore(
  base: usize,
  isF16: i32,
  x: usize,
  nKvHeads: i32,
  headDim: i32,
  contextSize: i32,
  position: i32,
): void {
  const shift: usize = isF16 ? 1 : 2;
  for (let head = 0; head < nKvHeads; head++, x += <usize>headDim << 2) {
    const at = base + (((<usize>head * <usize>contextSize + <usize>position) * <usize>headDim) << shift);
    if (isF16) {
      for (let i: usize = 0; i < <usize>headDim; i++) store<u16>(at + (i << 1), <u16>f32ToF16(load<f32>(x + (i << 2))));
    } else memory.copy(at, x, <usize>headDim << 2);
  }
}

/** Where the weights stand in scratch: behind a decoded key or the sums, as ATTENTION_HEAD_ROOM of `assembly/index.ts`. */
const WEIGHTS: usize = 106496;

export function attend(
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
): void {
  const weights = scratch + WEIGHTS;
  const highest = scores(weights, q, keys, kF16, headDim, visible, scale, scratch);
  const total = exponentials(weights, visible, highest, scratch);
  weightedSum(out, weights, values, vF16, headDim, visible, total);
}

/** weights[j] = q . k_j * scale; returns the greatest, NaN never being it. */
export function scores(
  weights: usize,
  q: usize,
  keys: usize,
  kF16: i32,
  headDim: i32,
  visible: i32,
  scale: f32,
  scratch: usize,
): f32 {
  let highest: f32 = -Infinity;
  for (let j = 0; j < visible; j++, keys += <usize>headDim << (kF16 ? 1 : 2), weights += 4) {
    let key = keys;
    if (kF16) {
      decodeRow(DENSE_F16, scratch, keys, headDim);
      key = scratch;
    }
    const score = dot16(q, key, headDim) * scale;
    store<f32>(weights, score);
    if (score > highest) highest = score;
  }
  return highest;
}

export function exponentials(weights: usize, count: i32, highest: f32, scratch: usize): f32 {
  clear8d(scratch);
  for (let j = 0; j < count; j++, weights += 4) {
    const e = expF32(load<f32>(weights) - highest);
    store<f32>(weights, e);
    add8d(scratch, j, e);
  }
  return f32(fold8d(scratch));
}

/** j ascends for every d: the sums stand in `out` until all values have been added. */
export function weightedSum(
  out: usize,
  weights: usize,
  values: usize,
  vF16: i32,
  headDim: i32,
  visible: i32,
  total: f32,
): void {
  const bytes = <usize>headDim << 2;
  memory.fill(out, 0, bytes);
  for (let j = 0; j < visible; j++, weights += 4) {
    const w = load<f32>(weights);
    if (vF16) {
      for (let d: usize = 0; d < bytes; d += 4, values += 2) {
        store<f32>(out + d, load<f32>(out + d) + w * f16ToF32(load<i16>(values)));
      }
    } else {
      for (let d: usize = 0; d < bytes; d += 4, values += 4) {
        store<f32>(out + d, load<f32>(out + d) + w * load<f32>(values));
      }
    }
  }
  for (let d: usize = 0; d < bytes; d += 4) store<f32>(out + d, load<f32>(out + d) / total);
}
