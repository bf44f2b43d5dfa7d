/**
 * How far a backend that is not bit-exact may be off, case by case. Integers are exact, but for
 * codes made of rows that were normalised in floats on the way.
 *
 * A sum of K products in f32, in any order, is off by at most about K * 2^-24 * (sum of magnitudes); the inputs of the
 * cases are of order 1, so the sum of magnitudes is at most K. A fixed factor covers the few roundings around it.
 * @module
 */

import type { ConformanceCase } from './cases.ts';

const EPSILON = 2 ** -24;

/** Returns the bound for a value, given what was expected. */
export function toleranceOf(c: ConformanceCase): (expected: number) => number {
  const relative = (factor: number) => (expected: number) => factor * EPSILON * Math.abs(expected);
  const absolute = (terms: number) => (expected: number) => EPSILON * (8 * Math.abs(expected) + Math.sqrt(terms) * 16);
  switch (c.op) {
    case 'quantizeRows':
    case 'embed':
    case 'requantize':
    case 'copyRows':
      return () => 0;
    case 'repack':
    case 'ternaryGroup':
    case 'ternaryMatmul': // integers exactly, then one conversion, one division, one product
    case 'add':
    case 'scale':
    case 'gatedRelu2':
      return relative(4);
    case 'gatedSilu':
    case 'gatedGelu':
    case 'headNorm':
    case 'rmsNorm':
      return relative(16);
    case 'rmsNormQuantize': // a product near a half may round to the code beside
      return (expected) => (Number.isInteger(expected) ? 1 : relative(32)(expected));
    case 'rope':
      return absolute(2);
    case 'denseMatmul':
    case 'denseTopK':
      return absolute(c.columns);
    case 'attention':
      return absolute(c.headDim + c.before + c.n);
  }
}
