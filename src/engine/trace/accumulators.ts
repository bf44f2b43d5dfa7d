/**
 * The integers inside of a ternary product, from its result.
 *
 * out = f32(f32(d / s) * w) with d the sum of trit * code. Both roundings together are off by at most 2^-23 of d, so in float64
 * out * s / w lies within 1/2 of d as long as |d| < 2^22, which holds for every input up to 33 000 columns: the integer is found
 * by rounding, and checked by computing forth again. So the sums need no op of their own, and what is seen are those of the
 * kernel that ran.
 * @module
 */

const f = Math.fround;

/** outputs (rows, columns) f32; scales (rows) f32, the factors 127 / absmax. */
export function accumulators(
  outputs: Float32Array,
  scales: Float32Array,
  weightScale: number,
  columns: number,
): { readonly sums: Int32Array; readonly unexplained: number } {
  const sums = new Int32Array(outputs.length);
  let unexplained = 0;
  for (let i = 0; i < outputs.length; i++) {
    const scale = scales[Math.floor(i / columns)];
    // A matrix with the scale 0 gives 0 whatever the sums are.
    const sum = weightScale === 0 ? 0 : Math.round((outputs[i] * scale) / weightScale);
    sums[i] = sum; // NaN and infinities become 0, and are not explained by it
    if (f(f(sums[i] / scale) * weightScale) !== outputs[i]) unexplained++;
  }
  return { sums, unexplained };
}
