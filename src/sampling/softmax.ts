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

/** Natural logarithm of the probability the model itself gives a token: log-softmax of the raw row, ids ascending. */
export function logProbability(logits: Float32Array, token: number): number {
  let max = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id];
    if (!(logit <= max)) max = logit;
    if (Number.isNaN(max)) break;
  }
  if (!Number.isFinite(max)) throw new BitnetError('not-finite', 'no distribution', { where: 'logits', got: `${max}` });
  return logits[token] - max - log(sumExp(logits, logits.length, max, 1));
}
