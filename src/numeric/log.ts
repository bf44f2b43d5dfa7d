/**
 * Natural logarithm and power in f64, the same bits on every engine.
 * @module
 */

import { exp, pow2 } from './exp.ts';

// Coefficients of fdlibm e_log.c (Sun Microsystems, 1993): log(1+f) = f - f^2/2 + s*(f^2/2 + R(s^2)), s = f/(2+f).
const L1 = 0.6666666666666735;
const L2 = 0.3999999999940942;
const L3 = 0.2857142874366239;
const L4 = 0.22222198432149784;
const L5 = 0.1818357216161805;
const L6 = 0.15313837699209373;
const L7 = 0.14798198605116586;
const LN2_HI = 0.6931471803691238;
const LN2_LO = 1.9082149292705877e-10;

const bits = new DataView(new ArrayBuffer(8));

/** ln(x), below 1 ulp. ln(0) = -Infinity, ln(negative) = NaN. */
export function log(x: number): number {
  if (!(x > 0)) return x === 0 ? -Infinity : NaN;
  if (x === Infinity) return Infinity;
  let k = 0;
  if (x < 2.2250738585072014e-308) {
    x *= pow2(54);
    k = -54;
  }
  bits.setFloat64(0, x);
  const high = bits.getInt32(0);
  k += (high >> 20) - 1023;
  // Mantissa in [sqrt(2)/2, sqrt(2)): the half above goes one binade down.
  const fraction = high & 0xfffff;
  const up = (fraction + 0x95f64) & 0x100000;
  bits.setInt32(0, fraction | (up ^ 0x3ff00000));
  k += up >> 20;
  const f = bits.getFloat64(0) - 1;
  const s = f / (2 + f);
  const z = s * s;
  const r = z * (L1 + z * (L2 + z * (L3 + z * (L4 + z * (L5 + z * (L6 + z * L7))))));
  const halfSquare = 0.5 * f * f;
  return k * LN2_HI - (halfSquare - (s * (halfSquare + r) + k * LN2_LO) - f);
}

/** base^y for base > 0: exp(y ln base). Relative error about |y ln base| * 2^-53. */
export function pow(base: number, y: number): number {
  return exp(y * log(base));
}
