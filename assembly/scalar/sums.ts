/** The summation orders of the kernel contract: `dot16` and `sum8d` of `src/kernels/ts/sums.ts`. */

/** Sixteen running sums, in sixteen variables: in memory each would be loaded and stored again at every product. */
export function dot16(a: usize, b: usize, length: i32): f32 {
  let s0: f32 = 0, s1: f32 = 0, s2: f32 = 0, s3: f32 = 0, s4: f32 = 0, s5: f32 = 0, s6: f32 = 0, s7: f32 = 0;
  let s8: f32 = 0, s9: f32 = 0, sa: f32 = 0, sb: f32 = 0, sc: f32 = 0, sd: f32 = 0, se: f32 = 0, sf: f32 = 0;
  for (; length >= 16; length -= 16, a += 64, b += 64) {
    s0 += load<f32>(a) * load<f32>(b);
    s1 += load<f32>(a, 4) * load<f32>(b, 4);
    s2 += load<f32>(a, 8) * load<f32>(b, 8);
    s3 += load<f32>(a, 12) * load<f32>(b, 12);
    s4 += load<f32>(a, 16) * load<f32>(b, 16);
    s5 += load<f32>(a, 20) * load<f32>(b, 20);
    s6 += load<f32>(a, 24) * load<f32>(b, 24);
    s7 += load<f32>(a, 28) * load<f32>(b, 28);
    s8 += load<f32>(a, 32) * load<f32>(b, 32);
    s9 += load<f32>(a, 36) * load<f32>(b, 36);
    sa += load<f32>(a, 40) * load<f32>(b, 40);
    sb += load<f32>(a, 44) * load<f32>(b, 44);
    sc += load<f32>(a, 48) * load<f32>(b, 48);
    sd += load<f32>(a, 52) * load<f32>(b, 52);
    se += load<f32>(a, 56) * load<f32>(b, 56);
    sf += load<f32>(a, 60) * load<f32>(b, 60);
  }
  if (length > 0) s0 += load<f32>(a) * load<f32>(b);
  if (length > 1) s1 += load<f32>(a, 4) * load<f32>(b, 4);
  if (length > 2) s2 += load<f32>(a, 8) * load<f32>(b, 8);
  if (length > 3) s3 += load<f32>(a, 12) * load<f32>(b, 12);
  if (length > 4) s4 += load<f32>(a, 16) * load<f32>(b, 16);
  if (length > 5) s5 += load<f32>(a, 20) * load<f32>(b, 20);
  if (length > 6) s6 += load<f32>(a, 24) * load<f32>(b, 24);
  if (length > 7) s7 += load<f32>(a, 28) * load<f32>(b, 28);
  if (length > 8) s8 += load<f32>(a, 32) * load<f32>(b, 32);
  if (length > 9) s9 += load<f32>(a, 36) * load<f32>(b, 36);
  if (length > 10) sa += load<f32>(a, 40) * load<f32>(b, 40);
  if (length > 11) sb += load<f32>(a, 44) * load<f32>(b, 44);
  if (length > 12) sc += load<f32>(a, 48) * load<f32>(b, 48);
  if (length > 13) sd += load<f32>(a, 52) * load<f32>(b, 52);
  if (length > 14) se += load<f32>(a, 56) * load<f32>(b, 56);
  const t0 = s0 + s8 + (s4 + sc);
  const t1 = s1 + s9 + (s5 + sd);
  const t2 = s2 + sa + (s6 + se);
  const t3 = s3 + sb + (s7 + sf);
  return t0 + t2 + (t1 + t3);
}

/** The running sums of sum8d, eight f64 at `sums`. */
export function clear8d(sums: usize): void {
  memory.fill(sums, 0, 64);
}

/** Element i goes to sum i mod 8. */
// @ts-ignore: decorator
@inline
export function add8d(sums: usize, i: i32, x: f32): void {
  const at = sums + (<usize>(i & 7) << 3);
  store<f64>(at, load<f64>(at) + f64(x));
}

export function fold8d(sums: usize): f64 {
  const t0 = load<f64>(sums) + load<f64>(sums, 32);
  const t1 = load<f64>(sums, 8) + load<f64>(sums, 40);
  const t2 = load<f64>(sums, 16) + load<f64>(sums, 48);
  const t3 = load<f64>(sums, 24) + load<f64>(sums, 56);
  return t0 + t2 + (t1 + t3);
}
