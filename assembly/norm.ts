import { quantizeRows } from './quantize';
import { fold8d, highPair, lowPair } from './sums';

/** `Backend.rmsNorm` for rows first..last-1. */
export function rmsNorm(out: usize, x: usize, gain: usize, eps: f32, columns: i32, first: i32, last: i32): void {
  const rowBytes = (<usize>columns) << 2;
  for (let row = first; row < last; row++) {
    normalizeRow(out + <usize>row * rowBytes, x + <usize>row * rowBytes, gain, eps, columns);
  }
}

/** `Backend.rmsNormQuantize` for rows first..last-1. The row in between stays in scratch (columns * 4 bytes), which is in cache. */
export function rmsNormQuantize(
  codes: usize,
  meta: usize,
  x: usize,
  gain: usize,
  eps: f32,
  columns: i32,
  stride: i32,
  first: i32,
  last: i32,
  scratch: usize,
): void {
  const rowBytes = (<usize>columns) << 2;
  for (let row = first; row < last; row++) {
    normalizeRow(scratch, x + <usize>row * rowBytes, gain, eps, columns);
    quantizeRows(codes + <usize>row * <usize>stride, meta + (<usize>row << 3), scratch, columns, stride, 0, 1);
  }
}

/** (x * r) * gain, where r is 1 / sqrt(mean of the squares + eps). */
export function normalizeRow(out: usize, x: usize, gain: usize, eps: f32, columns: i32): void {
  const rowBytes = (<usize>columns) << 2;
  const r: f32 = <f32>1 / sqrt<f32>(f32(sumOfSquares(x, columns) / f64(columns)) + eps);
  const scale = f32x4.splat(r);
  let i: usize = 0;
  for (; i + 16 <= rowBytes; i += 16) {
    v128.store(out + i, f32x4.mul(f32x4.mul(v128.load(x + i), scale), v128.load(gain + i)));
  }
  for (; i < rowBytes; i += 4) store<f32>(out + i, load<f32>(x + i) * r * load<f32>(gain + i));
}

/** sum8d of the squares, each rounded to f32 first. */
export function sumOfSquares(x: usize, length: i32): f64 {
  let s0 = f64x2.splat(0);
  let s1 = f64x2.splat(0);
  let s2 = f64x2.splat(0);
  let s3 = f64x2.splat(0);
  let i = 0;
  for (; i + 8 <= length; i += 8, x += 32) {
    const a = v128.load(x);
    const b = v128.load(x, 16);
    const aa = f32x4.mul(a, a);
    const bb = f32x4.mul(b, b);
    s0 = f64x2.add(s0, lowPair(aa));
    s1 = f64x2.add(s1, highPair(aa));
    s2 = f64x2.add(s2, lowPair(bb));
    s3 = f64x2.add(s3, highPair(bb));
  }
  // Squares are never -0 (x * x >= 0), so adding 0 to the lanes without an element changes nothing.
  for (let lane = 0; i < length; i++, lane++, x += 4) {
    const square = f64(load<f32>(x) * load<f32>(x));
    const term =
      lane & 1 ? f64x2.replace_lane(f64x2.splat(0), 1, square) : f64x2.replace_lane(f64x2.splat(0), 0, square);
    if (lane < 2) s0 = f64x2.add(s0, term);
    else if (lane < 4) s1 = f64x2.add(s1, term);
    else if (lane < 6) s2 = f64x2.add(s2, term);
    else s3 = f64x2.add(s3, term);
  }
  return fold8d(s0, s1, s2, s3);
}
