/**
 * How far floats are from ternary. A model trained with ternary weights that was saved, converted or quantised as if it were an
 * ordinary one still runs, and speaks nonsense; this number is how it is found out.
 *
 * The values W are compared with their best ternary image s * T: T = clamp(round(W / mean |W|), -1, 1) as in training (absmean,
 * arXiv 2402.17764), s = sum W T / sum T^2 the scale that fits best. Then
 *
 *     distance = |W - s T| / |W|   in root mean squares; 0 for values that are all -s, 0 or s
 *
 * Gaussian master weights have 0.43, F16 or Q8_0 copies of ternary ones below 0.001 and 0.005.
 * @module
 */

/**
 * What a distance is taken for, by who asks. The bounds differ because a mistake costs them differently:
 *
 *     verdicts     0.05    up to here a dense copy is called ternary; a copy in Q4_0 has 0.07 and is not
 *     conversion   0.1     up to here floats are trits that lost a little on their way, and become trits again
 *     loading      0.15    up to here projections run dense as they are: copies in 4 bits and most in 3 are nearer; beyond it they
 *                          are refused: weights that were never rounded are beyond 0.3
 */
export const CLEARLY_TERNARY = 0.05;
export const NEARLY_TERNARY = 0.1;
export const FAR_FROM_TERNARY = 0.15;

export interface Ternariness {
  /** 0 to 1. */
  readonly distance: number;
  /** s above, 0 where all values are. */
  readonly scale: number;
  /** All values are exactly -a, 0 or a for one a. */
  readonly isExact: boolean;
}

/** Of the values of one tensor, or of a sample of it: one scale for all. Values are finite. */
export function ternarinessOf(values: Float32Array): Ternariness {
  let sum = 0;
  let sumSquares = 0;
  let isExact = true;
  let magnitude = 0;
  for (let i = 0; i < values.length; i++) {
    const a = Math.abs(values[i]);
    sum += a;
    sumSquares += a * a;
    if (a === 0) continue;
    if (magnitude === 0) magnitude = a;
    else if (a !== magnitude) isExact = false;
  }
  if (sum === 0) return { distance: 0, scale: 0, isExact: true };
  if (isExact) return { distance: 0, scale: magnitude, isExact };
  const half = sum / values.length / 2;
  let projected = 0;
  let nonzero = 0;
  for (let i = 0; i < values.length; i++) {
    const a = Math.abs(values[i]);
    if (a <= half) continue;
    projected += a;
    nonzero++;
  }
  // |W - sT|^2 = |W|^2 - (W.T)^2 / |T|^2; some value exceeds half the mean, so nonzero > 0.
  const rest = Math.max(0, sumSquares - (projected * projected) / nonzero);
  return { distance: Math.sqrt(rest / sumSquares), scale: projected / nonzero, isExact };
}
