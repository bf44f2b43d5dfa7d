/**
 * Probabilities of a row of logits, with the library's own exp and log: the same bits on every runtime.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { exp } from '../numeric/exp.ts';
import { log } from '../numeric/log.ts';

/** What has to be subtracted from a logit for its natural log-probability. The sum runs in f64, ids ascending. */
export function logTotal(row: Float32Array): number {
  let max = -Infinity;
  for (const logit of row) if (!(logit <= max)) max = logit; // a NaN is not <= anything, and stays
  if (!Number.isFinite(max)) throw new BitnetError('not-finite', 'no distribution', { where: 'logits', got: `${max}` });
  let sum = 0;
  for (const logit of row) sum += exp(logit - max);
  return max + log(sum);
}

/** Id of the greatest logit, the lowest of equals. */
export function greatest(row: Float32Array): number {
  let best = 0;
  for (let id = 1; id < row.length; id++) if (row[id] > row[best]) best = id;
  return best;
}
