/**
 * Sine and cosine in f64, the same bits on every engine; for rope angles.
 * @module
 */

import { roundHalfEven } from './exp.ts';

// pi/2 in three parts of 33 bits each, so that n * part is exact for |n| < 2^20 (fdlibm e_rem_pio2.c).
const PIO2_1 = 1.57079632673412561417;
const PIO2_2 = 6.07710050630396597660e-11;
const PIO2_3 = 2.02226624879595063154e-21;

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
    -1.66666666666666324348e-1 +
    z *
      (8.33333333332248946124e-3 +
        z *
          (-1.98412698298579493134e-4 +
            z * (2.75573137070700676789e-6 + z * (-2.50507602534068634195e-8 + z * 1.58969099521155010221e-10))));
  const sin = r + (z * r * sinPart + rest);
  const cosPart =
    4.16666666666666019037e-2 +
    z *
      (-1.38888888888741095749e-3 +
        z *
          (2.48015872894767294178e-5 +
            z * (-2.75573143513906633035e-7 + z * (2.08757232129817482790e-9 + z * -1.13596475577881948265e-11))));
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
