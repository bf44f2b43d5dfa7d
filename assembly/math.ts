/**
 * exp in f32, four lanes at a time: the same steps and constants as `expF32` of `src/numeric/exp.ts` (a test compares
 * the constants), so the same bits. f16 conversions, exact both ways.
 */

import { F16_BEYOND, F16_MASK, F16_SCALE, F32_INFINITY } from './layout';

export const LOG2E: f32 = 1.4426950408889634;
export const LN2_HI: f32 = 0.693359375;
export const LN2_LO: f32 = -0.00021219444005469057;
export const P0: f32 = 1.98756915e-4;
export const P1: f32 = 1.39819995e-3;
export const P2: f32 = 8.33345191e-3;
export const P3: f32 = 4.16657959e-2;
export const P4: f32 = 1.66666655e-1;
export const P5: f32 = 5.00000012e-1;
export const EXP_F32_MIN: f32 = -87;
export const EXP_F32_MAX: f32 = 88;

// @ts-ignore: decorator
@inline
export function expF32x4(x: v128): v128 {
  const n = f32x4.nearest(f32x4.mul(x, f32x4.splat(LOG2E)));
  let r = f32x4.sub(x, f32x4.mul(n, f32x4.splat(LN2_HI)));
  r = f32x4.sub(r, f32x4.mul(n, f32x4.splat(LN2_LO)));
  let y = f32x4.splat(P0);
  y = f32x4.add(f32x4.mul(y, r), f32x4.splat(P1));
  y = f32x4.add(f32x4.mul(y, r), f32x4.splat(P2));
  y = f32x4.add(f32x4.mul(y, r), f32x4.splat(P3));
  y = f32x4.add(f32x4.mul(y, r), f32x4.splat(P4));
  y = f32x4.add(f32x4.mul(y, r), f32x4.splat(P5));
  y = f32x4.add(f32x4.add(f32x4.mul(f32x4.mul(y, r), r), r), f32x4.splat(1));
  const exponent = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23);
  y = f32x4.mul(y, exponent);
  y = v128.bitselect(f32x4.splat(0), y, f32x4.lt(x, f32x4.splat(EXP_F32_MIN)));
  y = v128.bitselect(f32x4.splat(Infinity), y, f32x4.gt(x, f32x4.splat(EXP_F32_MAX)));
  return v128.bitselect(f32x4.splat(NaN), y, f32x4.ne(x, x));
}

// @ts-ignore: decorator
@inline
export function expF32(x: f32): f32 {
  return f32x4.extract_lane(expF32x4(f32x4.splat(x)), 0);
}

/**
 * Four f16 values, sign-extended to 32 bits, to f32: the shift puts sign, exponent and fraction in place, the mask removes
 * the copies of the sign, the product rebiases the exponent (2^112, exact). Infinity and NaN come out as 65536 and more, which
 * no finite half reaches: an `or` with infinity's exponent puts them right. `mask` and `rebias` are F16_MASK and F16_SCALE of
 * layout.ts, held in registers.
 */
// @ts-ignore: decorator
@inline
export function f16ToF32x4(h: v128, mask: v128, rebias: v128): v128 {
  const y = f32x4.mul(v128.and(i32x4.shl(h, 13), mask), rebias);
  const special = f32x4.ge(f32x4.abs(y), v128.load(F16_BEYOND));
  return v128.or(y, v128.and(special, v128.load(F32_INFINITY)));
}

/**
 * The bits of one f16 to f32. Not by the product above: the small scales of blocks are subnormal halves, and a product of a
 * subnormal f32 takes processors twenty times as long (measured: the scores of a Q6_K head, 41 instead of 15 ms).
 */
// @ts-ignore: decorator
@inline
export function f16ToF32(h: i32): f32 {
  const sign = (h & 0x8000) << 16;
  const exponent = h & 0x7c00;
  if (exponent == 0) return reinterpret<f32>(sign | reinterpret<i32>(f32(h & 0x3ff) * <f32>5.9604644775390625e-8)); // 2^-24
  const rebias = exponent == 0x7c00 ? 0x70000000 : 0x38000000;
  return reinterpret<f32>(sign | (((h & 0x7fff) << 13) + rebias));
}

/**
 * The lower (upper) four of eight finite f16 to f32 * 2^-112: sign, exponent and fraction put in place, nothing else. `mask` is
 * F16_MASK.
 */
// @ts-ignore: decorator
@inline
export function placeLow(h: v128, mask: v128): v128 {
  return v128.and(i32x4.shr_s(i16x8.shuffle(i16x8.splat(0), h, 0, 8, 1, 9, 2, 10, 3, 11), 3), mask);
}

// @ts-ignore: decorator
@inline
export function placeHigh(h: v128, mask: v128): v128 {
  return v128.and(i32x4.shr_s(i16x8.shuffle(i16x8.splat(0), h, 4, 12, 5, 13, 6, 14, 7, 15), 3), mask);
}

/** Eight i16 integers times d, as f32. */
// @ts-ignore: decorator
@inline
export function storeScaled(target: usize, d: v128, q: v128): void {
  v128.store(target, f32x4.mul(d, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(q))));
  v128.store(target, f32x4.mul(d, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(q))), 16);
}

/** f32 to f16, to nearest, ties to even; overflow gives infinity, NaN stays NaN. */
export function f32ToF16(x: f32): u32 {
  const bits = reinterpret<u32>(x);
  const sign = (bits >> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14: adding 0.5 leaves the hardware to round at bit 2^-24.
    return sign | (reinterpret<u32>(reinterpret<f32>(magnitude) + <f32>0.5) - 0x3f000000);
  }
  const odd = (magnitude >> 13) & 1;
  return sign | ((magnitude - (112 << 23) + 0xfff + odd) >> 13);
}
