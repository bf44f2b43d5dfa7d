/**
 * Sine and cosine in f64, the same bits on every engine; for rope angles.
 * @module
 */

import { roundHalfEven } from './exp.ts';

// pi/2 in three parts of 33 bits each, so that n * part is exact for |n| < 2^20 (fdlibm e_rem_pio2.c).
const PIO2_1 = 1.5707963267341256;
const PIO2_2 = 6.077100506303966e-11;
const PIO2_3 = 2.0222662487959506e-21;

/** Largest |x| accepted: beyond it the three-part reduction would lose bits. A position of 10^6 is inside. */
export const TRIG_MAX = 1_600_000;

/**
 * Returns sin(x) and cos(x) in `out[0]` and `out[1]`, below 1 ulp for |x| <= TRIG_MAX; NaN beyond.
 * Polynomials of fdlibm k_sin.c and k_cos.c (Sun Microsystems, 1993).
 */
export function sinCos(x: number, out: Float64Array): void {
  if (!(Math.abs(x) <= TRIG_MAX)) {
    out[0] = NaN;
    out[1] = NaN;
    return;
  }
  const n = roundHalfEven(x * 0.6366197723675814);
  const a = x - n * PIO2_1;
  const b = n * PIO2_2;
  // r + tail = a - b - n * PIO2_3, kept in two parts.
  let r = a - b;
  const tail = a - r - b - n * PIO2_3;
  const sum = r + tail;
  const rest = r - sum + tail;
  r = sum;
  const z = r * r;
  const sinPart =
    -0.16666666666666632 +
    z *
      (0.00833333333332249 +
        z *
          (-0.0001984126982985795 +
            z * (2.7557313707070068e-6 + z * (-2.5050760253406863e-8 + z * 1.58969099521155e-10))));
  const sin = r + (z * r * sinPart + rest);
  const cosPart =
    0.0416666666666666 +
    z *
      (-0.001388888888887411 +
        z *
          (2.480158728947673e-5 +
            z * (-2.7557314351390663e-7 + z * (2.087572321298175e-9 + z * -1.1359647557788195e-11))));
  const half = 0.5 * z;
  const w = 1 - half;
  const cos = w + (1 - w - half + (z * z * cosPart - r * rest));
  // Quadrant by n mod 4; n is a small integer, so the bit operations are exact.
  switch (n & 3) {
    case 0:
      out[0] = sin;
      out[1] = cos;
      break;
    case 1:
      out[0] = cos;
      out[1] = -sin;
      break;
    case 2:
      out[0] = -sin;
      out[1] = -cos;
      break;
    default:
      out[0] = -cos;
      out[1] = sin;
  }
}
