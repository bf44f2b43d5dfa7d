import { quantizeRows } from './quantize.ts';
import { sum8d } from './sums.ts';

const f = Math.fround;

/** `Backend.rmsNorm`. x, out: (n, columns) f32; gain: (columns) f32. */
export function rmsNorm(
  out: Float32Array,
  x: Float32Array,
  gain: Float32Array,
  eps: number,
  columns: number,
  n: number,
): void {
  for (let row = 0; row < n; row++) {
    const start = row * columns;
    const mean = f(sum8d(columns, (i) => f(x[start + i] * x[start + i])) / columns);
    const r = f(1 / f(Math.sqrt(f(mean + f(eps)))));
    for (let i = 0; i < columns; i++) out[start + i] = f(f(x[start + i] * r) * gain[i]);
  }
}

/** `Backend.rmsNormQuantize`: the two ops, row by row. x: (n, columns) f32; codes, scales: as in `quantizeRows`. */
export function rmsNormQuantize(
  codes: Int8Array,
  scales: Float32Array,
  x: Float32Array,
  gain: Float32Array,
  eps: number,
  columns: number,
  n: number,
): void {
  const normed = new Float32Array(columns);
  for (let row = 0; row < n; row++) {
    const [start, end] = [row * columns, (row + 1) * columns];
    rmsNorm(normed, x.subarray(start, end), gain, eps, columns, 1);
    quantizeRows(codes.subarray(start, end), scales.subarray(row, row + 1), normed, columns, 1);
  }
}
