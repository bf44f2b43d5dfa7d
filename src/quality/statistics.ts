/**
 * Means with what is not known about them, as llama-perplexity computes them, and intervals of shares.
 * @module
 */

/** A figure and its standard error. */
export interface Estimate {
  readonly value: number;
  readonly error: number;
}

/** Mean of `count` values from their sum and the sum of their squares. Of ten values or fewer llama.cpp gives no error: 0. */
export function meanOf(sum: number, squares: number, count: number): Estimate {
  if (count < 1) return { value: 0, error: 0 };
  const value = sum / count;
  const variance = squares / count - value * value;
  return { value, error: variance > 0 && count > 10 ? Math.sqrt(variance / (count - 1)) : 0 };
}

/** Covariance of two means, from the sums of a, b and a b. */
export function covarianceOf(sumA: number, sumB: number, sumAB: number, count: number): number {
  if (count < 10) return 0;
  return (sumAB / count - (sumA / count) * (sumB / count)) / (count - 1);
}

/** Share of `hits` among `count`, with the error of a binomial in its normal approximation. */
export function shareOf(hits: number, count: number): Estimate {
  if (count < 1) return { value: 0, error: 0 };
  const value = hits / count;
  return { value, error: count > 1 ? Math.sqrt((value * (1 - value)) / (count - 1)) : 0 };
}

/** Two-sided 95% of a normal distribution. */
const Z95 = 1.959963984540054;

/**
 * Where the true share lies with 95% confidence: E. B. Wilson's score interval (1927), which later versions of
 * llama-perplexity print for HellaSwag. Unlike value +/- 1.96 error it stays within 0 and 1 and holds for few tasks.
 */
export function wilsonInterval(hits: number, count: number): readonly [low: number, high: number] {
  if (count < 1) return [0, 1];
  const p = hits / count;
  const z = (Z95 * Z95) / count;
  const middle = p + z / 2;
  const half = Z95 * Math.sqrt((p * (1 - p)) / count + z / (4 * count));
  return [Math.max(0, (middle - half) / (1 + z)), Math.min(1, (middle + half) / (1 + z))];
}

/** The value below which `fraction` of the ascending `sorted` lie, linear between neighbours; there is at least one. */
export function percentileOf(sorted: ArrayLike<number>, fraction: number): number {
  const at = Math.min(1, Math.max(0, fraction)) * (sorted.length - 1);
  const below = Math.floor(at);
  const part = at - below;
  return (1 - part) * sorted[below] + part * sorted[Math.min(below + 1, sorted.length - 1)];
}
