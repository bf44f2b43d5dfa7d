/**
 * What all block formats share: ranges in whole blocks, half-precision fields, rounding as C does it.
 * @module
 */

import { want } from '../errors.ts';
import { f16ToNumber, numberToF16 } from '../numeric/f16.ts';

/** Index of the block that `first` begins; both ends of the range must be block borders. */
export function firstBlock(first: number, count: number, blockElements: number): number {
  want(
    first % blockElements === 0 && count % blockElements === 0,
    'bad-argument',
    'range cuts through a block',
    () => ({
      expected: `multiples of ${blockElements}`,
      got: `${first} + ${count}`,
    }),
  );
  return first / blockElements;
}

/** Number of blocks in a list of values, which must fill them. */
export function blockCount(nValues: number, blockElements: number): number {
  want(nValues % blockElements === 0, 'bad-argument', 'values do not fill their last block', () => ({
    expected: `a multiple of ${blockElements}`,
    got: `${nValues}`,
  }));
  return nValues / blockElements;
}

export function readF16(bytes: Uint8Array, at: number): number {
  return f16ToNumber(bytes[at] | (bytes[at + 1] << 8));
}

/** Writes a scale; values so large that it would be infinite as a half are refused. */
export function writeF16(bytes: Uint8Array, at: number, value: number): void {
  const half = numberToF16(value);
  want((half & 0x7c00) !== 0x7c00, 'not-finite', 'scale too large for half precision', () => ({ got: `${value}` }));
  bytes[at] = half;
  bytes[at + 1] = half >> 8;
}

/** C's `roundf`: halves away from zero (`Math.round` takes them up, which differs for negative ones). */
export function roundAway(x: number): number {
  return x < 0 ? -Math.floor(0.5 - x) : Math.floor(x + 0.5);
}

/** Refuses values that no scale can represent. */
export function wantFinite(values: Float32Array): void {
  for (let i = 0; i < values.length; i++) {
    want(Number.isFinite(values[i]), 'not-finite', 'cannot encode', () => ({
      where: `value ${i}`,
      got: `${values[i]}`,
    }));
  }
}
