/**
 * Exponentials that give the same bits on every engine. `Math.exp` may differ in the last place between
 * V8 and JavaScriptCore, and does; these use only + - * / and exponent bits.
 * @module
 */

const f = Math.fround;

// Range reduction x = n ln2 + r with ln2 in two parts (Cody and Waite): n * LN2_HI is exact for |n| < 2^10.
const LOG2E = f(1.4426950408889634);
const LN2_HI = f(0.693359375);
const LN2_LO = f(-0.00021219444005469057);
// Minimax polynomial of (exp(r) - 1 - r) / r^2 on [-ln2/2, ln2/2]: coefficients of Cephes expf (S. Moshier).
const P0 = f(1.98756915e-4);
const P1 = f(1.39819995e-3);
const P2 = f(8.33345191e-3);
const P3 = f(4.16657959e-2);
const P4 = f(1.66666655e-1);
const P5 = f(5.00000012e-1);
/** Below this the result is 0 (the true value is at most 1.7e-38, the edge of the normal numbers). */
export const EXP_F32_MIN = -87;
/** Above this the result is infinity: 2^n must stay a normal number. */
export const EXP_F32_MAX = 88;

/**
 * 2^-1022 .. 2^1023. A table, because putting a double together from two words stalls the processor at every call
 * (the load waits for two smaller stores): measured, 34 ns an exp against 9.
 */
const POWERS = powers();

function powers(): Float64Array {
  const table = new Float64Array(2046);
  table[1022] = 1;
  for (let i = 1023; i < table.length; i++) table[i] = table[i - 1] * 2;
  for (let i = 1021; i >= 0; i--) table[i] = table[i + 1] / 2;
  return table;
}

/**
 * exp(x) in f32 arithmetic; the definition for attention and SiLU. At most 1.5 ulp off on [-87, 88].
 * Mirrored lane for lane in `assembly/math.ts`: rounding after every operation, in this order.
 */
export function expF32(x: number): number {
  if (x < EXP_F32_MIN) return 0;
  if (x > EXP_F32_MAX) return Infinity;
  if (Number.isNaN(x)) return Number.NaN;
  const n = roundHalfEven(f(x * LOG2E));
  let r = f(x - f(n * LN2_HI));
  r = f(r - f(n * LN2_LO));
  let y = P0;
  y = f(f(y * r) + P1);
  y = f(f(y * r) + P2);
  y = f(f(y * r) + P3);
  y = f(f(y * r) + P4);
  y = f(f(y * r) + P5);
  y = f(f(f(f(y * r) * r) + r) + 1);
  return f(y * pow2(n));
}

/** Nearest integer, ties to even, as `f32.nearest` of WebAssembly (`Math.round` rounds ties up); its zero is +0. |x| < 2^51. */
export function roundHalfEven(x: number): number {
  // Adding 1.5 * 2^52 leaves no fraction bits, so the hardware's own ties-to-even does the work.
  return x + 6755399441055744 - 6755399441055744;
}

/** 2^n for -1022 <= n <= 1023, exact. */
export function pow2(n: number): number {
  return POWERS[n + 1022];
}

// Coefficients of fdlibm e_exp.c (Sun Microsystems, 1993): R(r^2) such that exp(r) = 1 + 2r / (R - r).
const Q1 = 0.16666666666666602;
const Q2 = -0.0027777777777015593;
const Q3 = 6.613756321437934e-5;
const Q4 = -1.6533902205465252e-6;
const Q5 = 4.1381367970572385e-8;
const LN2_HI_F64 = 0.6931471803691238;
const LN2_LO_F64 = 1.9082149292705877e-10;

/** exp(x) in f64, below 1 ulp; for sampling, perplexity and rope frequencies. */
export function exp(x: number): number {
  if (Number.isNaN(x)) return Number.NaN;
  if (x > 709.782712893384) return Infinity;
  if (x < -745.1332191019411) return 0;
  const n = roundHalfEven(x * 1.4426950408889634);
  const hi = x - n * LN2_HI_F64;
  const lo = n * LN2_LO_F64;
  const r = hi - lo;
  const t = r * r;
  const c = r - t * (Q1 + t * (Q2 + t * (Q3 + t * (Q4 + t * Q5))));
  const y = 1 - (lo - (r * c) / (2 - c) - hi);
  // Two steps, so that results near the ends of the range neither overflow nor lose their last bits early.
  const half = n >> 1;
  return y * pow2(half) * pow2(n - half);
}
