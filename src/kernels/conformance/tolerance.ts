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

/** A value may be off by relative * |expected| + absolute. */
export interface Bound {
  readonly relative: number;
  readonly absolute: number;
}

const EXACT: Bound = { relative: 0, absolute: 0 };

/** Returns the bound for a value, given what was expected. */
export function toleranceOf(c: ConformanceCase): (expected: number) => number {
  const { relative, absolute } = boundOf(c);
  const bound = (expected: number) => relative * Math.abs(expected) + absolute;
  if (c.op !== 'rmsNormQuantize') return bound;
  // A product near a half may round to the code beside.
  return (expected) => (Number.isInteger(expected) ? 1 : bound(expected));
}

/** The bound of an op's floats. */
export function boundOf(c: ConformanceCase): Bound {
  switch (c.op) {
    case 'quantizeRows':
    case 'embed':
    case 'requantize':
    case 'copyRows':
      return EXACT;
    case 'repack':
    case 'ternaryGroup':
    case 'ternaryMatmul': // integers exactly, then one conversion, one division, one product
    case 'add':
    case 'scale':
    case 'gatedRelu2':
      return ofRoundings(4);
    case 'gatedSilu':
    case 'gatedGelu':
    case 'headNorm':
    case 'rmsNorm':
      return ofRoundings(16);
    case 'rmsNormQuantize':
      return ofRoundings(32);
    case 'rope':
      return ofSum(2);
    case 'denseMatmul':
    case 'denseTopK':
      return ofSum(c.columns);
    case 'attention':
      return ofSum(c.headDim + c.before + c.n);
  }
}

export function ofRoundings(count: number): Bound {
  return { relative: count * EPSILON, absolute: 0 };
}

/** A sum of that many products of numbers of order 1. */
export function ofSum(terms: number): Bound {
  return { relative: 8 * EPSILON, absolute: EPSILON * Math.sqrt(terms) * 16 };
}
