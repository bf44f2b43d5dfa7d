/**
 * The most likely token: what temperature 0 means.
 * @module
 */

import { BitnetError } from '../errors.ts';

/** Index of the largest logit; the lowest id wins ties. Refuses NaN, +Infinity and a row of nothing but -Infinity. */
export function greedy(logits: Float32Array): number {
  let best = -Infinity;
  let token = -1;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id];
    // Not `logit > best`: written this way a NaN enters the branch instead of slipping by.
    if (!(logit <= best)) {
      if (Number.isNaN(logit)) throw notANumber(id);
      best = logit;
      token = id;
    }
  }
  wantFinite(best);
  return token;
}

export function notANumber(id: number): BitnetError {
  return new BitnetError('not-finite', 'a logit is NaN', { where: `logits[${id}]` });
}

/** The largest logit decides whether there is a distribution at all. */
export function wantFinite(max: number): void {
  if (max === Infinity) throw new BitnetError('not-finite', 'a logit is infinite', { where: 'logits' });
  if (max === -Infinity) throw new BitnetError('not-finite', 'no token is possible', { where: 'logits' });
}
