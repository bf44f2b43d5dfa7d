/**
 * Sums of exponentials in f64 with the library's own `exp`; the order of each sum is part of its meaning.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { exp } from '../numeric/exp.ts';
import { log } from '../numeric/log.ts';

/** Sum of exp((logit - max) / temperature) over the first `n` entries, in the order they stand. */
export function sumExp(logits: Float32Array, n: number, max: number, temperature: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const below = (logits[i] - max) / temperature;
    if (below > -746) sum += exp(below); // exp is exactly 0 further down; most of a vocabulary can be there
  }
  return sum;
}

/** What turns a row of logits into log-probabilities: ln p(id) = logits[id] - max - logSum. */
export interface Normaliser {
  readonly max: number;
  /** The first id with the greatest logit. */
  readonly top: number;
  readonly logSum: number;
}

/** Of a whole row, ids ascending. Throws `not-finite` where a logit is NaN, or the greatest is not finite. */
export function normaliserOf(row: Float32Array): Normaliser {
  let [top, max] = [0, -Infinity];
  for (let id = 0; id < row.length; id++) {
    if (row[id] <= max) continue;
    [top, max] = [id, row[id]];
    if (Number.isNaN(max)) break; // nothing is above or below a NaN: the next logit would take its place
  }
  if (!Number.isFinite(max)) throw new BitnetError('not-finite', 'no distribution', { where: 'logits', got: `${max}` });
  return { max, top, logSum: log(sumExp(row, row.length, max, 1)) };
}

/** Natural logarithm of the probability the model itself gives a token: log-softmax of the raw row. */
export function logProbability(logits: Float32Array, token: number): number {
  const { max, logSum } = normaliserOf(logits);
  return logits[token] - max - logSum;
}
