import { roundHalfEven } from '../../numeric/exp.ts';

const f = Math.fround;

/** Smallest absmax: a row of zeros gets scale 127 / 1e-5 instead of infinity (formats of bitnet.cpp, `quantize_row_i8_s`). */
export const QUANTIZE_EPS = f(1e-5);

/** `Backend.quantizeRows`. x: (n, columns) f32; codes: (n, columns) i8; scales: (n) f32, the factor 127 / absmax. */
export function quantizeRows(
  codes: Int8Array,
  scales: Float32Array,
  x: Float32Array,
  columns: number,
  n: number,
): void {
  for (let row = 0; row < n; row++) {
    const start = row * columns;
    let absmax = QUANTIZE_EPS;
    for (let i = 0; i < columns; i++) {
      const magnitude = Math.abs(x[start + i]);
      if (magnitude > absmax) absmax = magnitude; // false for NaN, so NaN does not win
    }
    const scale = f(127 / absmax);
    for (let i = 0; i < columns; i++) {
      const code = roundHalfEven(f(x[start + i] * scale));
      codes[start + i] = Number.isNaN(code) ? 0 : Math.max(-128, Math.min(127, code));
    }
    scales[row] = scale;
  }
}
