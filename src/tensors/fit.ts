/**
 * Which step, and which offset, a few values get that are to become small integers. Used by the encoders of K-quants.
 *
 * Both begin with what covers the range of the values and then take turns: the nearest codes for a step, the step of least
 * squared error for those codes. The best of all turns is kept, so a fit is never worse than covering the range. Everything
 * is f64 with +, -, *, / and floor, in a fixed order: the same bits everywhere.
 * @module
 */

const TURNS = 4;

export interface AffineFit {
  /** At least 0; 0 where all values are alike. */
  readonly step: number;
  /** At least 0: all these types subtract. */
  readonly offset: number;
}

/** values ~ step * code - offset with codes 0 .. top. */
export function fitAffine(values: Float32Array, top: number): AffineFit {
  const n = values.length;
  const least = values.reduce((a, b) => Math.min(a, b), 0);
  const greatest = values.reduce((a, b) => Math.max(a, b), least);
  if (greatest === least) return { step: 0, offset: 0 - least };
  let fit: AffineFit = { step: (greatest - least) / top, offset: 0 - least };
  let best = fit;
  let bestError = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn <= TURNS; turn++) {
    const { step, offset } = fit;
    let [error, sumX, sumQ, sumQQ, sumXQ] = [0, 0, 0, 0, 0];
    for (let i = 0; i < n; i++) {
      const x = values[i];
      const q = nearestCode(x, step, offset, top);
      const rest = x - (step * q - offset);
      error += rest * rest;
      sumX += x;
      sumQ += q;
      sumQQ += q * q;
      sumXQ += x * q;
    }
    if (error >= bestError) break;
    [best, bestError] = [fit, error];
    const determinant = n * sumQQ - sumQ * sumQ;
    if (determinant <= 0) break;
    const slope = (n * sumXQ - sumX * sumQ) / determinant;
    const intercept = (sumQQ * sumX - sumQ * sumXQ) / determinant;
    // Where all would like to be moved up there is no way to: then the line goes through 0.
    fit = intercept <= 0 ? { step: slope, offset: -intercept } : { step: sumXQ / sumQQ, offset: 0 };
    if (!(fit.step > 0)) break;
  }
  return best;
}

/** The code of x, for a fit or for what has become of it when it was stored. */
export function nearestCode(x: number, step: number, offset: number, top: number): number {
  if (step === 0) return 0;
  return Math.max(0, Math.min(top, Math.floor((x + offset) / step + 0.5)));
}

/** values ~ step * code with codes -size .. size - 1; the step may be negative. */
export function fitScaled(values: Float32Array, size: number): number {
  let step = values.reduce((max, x) => (Math.abs(x) > Math.abs(max) ? x : max), 0) / -size;
  let best = step;
  let bestError = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn <= TURNS && step !== 0; turn++) {
    let [error, sumQQ, sumXQ] = [0, 0, 0];
    for (const x of values) {
      const q = nearestSigned(x, step, size);
      error += (x - step * q) * (x - step * q);
      sumQQ += q * q;
      sumXQ += x * q;
    }
    if (error >= bestError) break;
    [best, bestError] = [step, error];
    step = sumQQ === 0 ? 0 : sumXQ / sumQQ;
  }
  return best;
}

export function nearestSigned(x: number, step: number, size: number): number {
  if (step === 0) return 0;
  return Math.max(-size, Math.min(size - 1, Math.floor(x / step + 0.5)));
}
