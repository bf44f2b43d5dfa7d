/** exp and f16 as in `assembly/math.ts`, one value at a time. */

import { EXP_F32_MAX, EXP_F32_MIN, LN2_HI, LN2_LO, LOG2E, P0, P1, P2, P3, P4, P5 } from '../math';

export function expF32(x: f32): f32 {
  if (x < EXP_F32_MIN) return 0;
  if (x > EXP_F32_MAX) return Infinity;
  if (x != x) return NaN;
  const n = nearest<f32>(x * LOG2E);
  let r = x - n * LN2_HI;
  r = r - n * LN2_LO;
  let y = P0;
  y = y * r + P1;
  y = y * r + P2;
  y = y * r + P3;
  y = y * r + P4;
  y = y * r + P5;
  y = y * r * r + r + 1;
  return y * reinterpret<f32>((<i32>n + 127) << 23);
}

/** A half, sign-extended: shifted into place, rebiased by a product (exact), infinity and NaN put right. */
// @ts-ignore: decorator
@inline
export function f16ToF32(h: i32): f32 {
  const y = reinterpret<f32>((h << 13) & 0x8fffe000) * reinterpret<f32>(0x77800000); // 2^112
  if (abs<f32>(y) >= 65536) return reinterpret<f32>(reinterpret<i32>(y) | 0x7f800000);
  return y;
}
