/**
 * `Backend.quantizeRows`. A quantised row is laid out for the matrix kernels:
 *   codes: i8, `stride` bytes a row (columns rounded up to 128; the rest stays 0)
 *   meta:  8 bytes a row: f32 scale (127 / absmax), i32 sum of the codes
 */
const QUANTIZE_EPS: f32 = 1e-5;

export function quantizeRows(
  codes: usize,
  meta: usize,
  x: usize,
  columns: i32,
  stride: i32,
  first: i32,
  last: i32,
): void {
  const rowBytes = (<usize>columns) << 2;
  for (let row = first; row < last; row++) {
    const source = x + <usize>row * rowBytes;
    const target = codes + <usize>row * <usize>stride;
    const scale: f32 = <f32>127 / absmax(source, columns);
    const sum = quantizeRow(target, source, columns, scale);
    store<f32>(meta + ((<usize>row) << 3), scale);
    store<i32>(meta + ((<usize>row) << 3), sum, 4);
  }
}

/** max(1e-5, max |x|); NaN never wins: pmax(a, b) is `a < b ? b : a`. */
export function absmax(x: usize, length: i32): f32 {
  let m = f32x4.splat(QUANTIZE_EPS);
  let i = 0;
  for (; i + 4 <= length; i += 4, x += 16) m = f32x4.pmax(m, f32x4.abs(v128.load(x)));
  let result = f32x4.extract_lane(m, 0);
  if (f32x4.extract_lane(m, 1) > result) result = f32x4.extract_lane(m, 1);
  if (f32x4.extract_lane(m, 2) > result) result = f32x4.extract_lane(m, 2);
  if (f32x4.extract_lane(m, 3) > result) result = f32x4.extract_lane(m, 3);
  for (; i < length; i++, x += 4) {
    const magnitude = abs<f32>(load<f32>(x));
    if (magnitude > result) result = magnitude;
  }
  return result;
}

/** Writes the codes and returns their sum. The narrowing instructions clamp to [-128, 127]; NaN converts to 0. */
export function quantizeRow(target: usize, x: usize, length: i32, scale: f32): i32 {
  const s = f32x4.splat(scale);
  let sums = i32x4.splat(0);
  let i = 0;
  for (; i + 16 <= length; i += 16, x += 64, target += 16) {
    const a = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x), s)));
    const b = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x, 16), s)));
    const c = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x, 32), s)));
    const d = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x, 48), s)));
    const q = i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
    v128.store(target, q);
    sums = i32x4.add(sums, i32x4.extadd_pairwise_i16x8_s(i16x8.extadd_pairwise_i8x16_s(q)));
  }
  let sum =
    i32x4.extract_lane(sums, 0) +
    i32x4.extract_lane(sums, 1) +
    i32x4.extract_lane(sums, 2) +
    i32x4.extract_lane(sums, 3);
  for (; i < length; i++, x += 4, target++) {
    const v = nearest<f32>(load<f32>(x) * scale);
    const q: i32 = v != v ? 0 : v < -128 ? -128 : v > 127 ? 127 : <i32>v;
    store<i8>(target, <i8>q);
    sum += q;
  }
  return sum;
}
