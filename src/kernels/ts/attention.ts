import { expF32 } from '../../numeric/exp.ts';
import { dot16, sum8d } from './sums.ts';

const f = Math.fround;

/** What `attention` needs of one layer of a KV cache: f32 views of one key/value head at a time. */
export interface HeadReader {
  /** Keys of positions 0..count-1 as (count, headDim) f32. */
  keys(kvHead: number, count: number): Float32Array;
  values(kvHead: number, count: number): Float32Array;
}

/** `Backend.attention`. q, out: (rows, nHeads * headDim) f32, the segment's rows starting at `row`. */
export function attention(
  out: Float32Array,
  q: Float32Array,
  cache: HeadReader,
  segment: { readonly row: number; readonly count: number; readonly position: number },
  nHeads: number,
  nKvHeads: number,
  headDim: number,
  scale: number,
): void {
  const groupSize = nHeads / nKvHeads;
  const context = segment.position + segment.count;
  const weights = new Float32Array(context);
  for (let kvHead = 0; kvHead < nKvHeads; kvHead++) {
    const keys = cache.keys(kvHead, context);
    const values = cache.values(kvHead, context);
    for (let i = 0; i < segment.count; i++) {
      const visible = segment.position + i + 1;
      for (let head = kvHead * groupSize; head < (kvHead + 1) * groupSize; head++) {
        const start = ((segment.row + i) * nHeads + head) * headDim;
        const total = softmaxTerms(weights, q, start, keys, visible, headDim, scale);
        for (let d = 0; d < headDim; d++) {
          let sum = 0;
          for (let j = 0; j < visible; j++) sum = f(sum + f(weights[j] * values[j * headDim + d]));
          out[start + d] = f(sum / total);
        }
      }
    }
  }
}

/**
 * Writes e_j of the query at `q[start ..]` for the first `visible` keys of one head (positions, headDim) into `weights`;
 * returns their sum t. The probability of position j is e_j / t.
 */
export function softmaxTerms(
  weights: Float32Array,
  q: Float32Array,
  start: number,
  keys: Float32Array,
  visible: number,
  headDim: number,
  scale: number,
): number {
  let max = -Infinity;
  for (let j = 0; j < visible; j++) {
    const score = f(dot16(q, start, keys, j * headDim, headDim) * f(scale));
    weights[j] = score;
    if (score > max) max = score;
  }
  for (let j = 0; j < visible; j++) weights[j] = expF32(f(weights[j] - max));
  return f(sum8d(visible, (j) => weights[j]));
}
