/** Rows of which only some elements were computed. */
import { expect, it } from 'vitest';
import { topRowOf, wholeRow } from '../../src/tensors/top-row.ts';

it('everything but minus infinity is of a row, NaN and infinity included', () => {
  const [none, nan] = [-Infinity, Number.NaN];
  const row = Float32Array.of(none, nan, 0, -0, none, Infinity, 3, nan, none);
  const top = topRowOf(row);
  expect(top).toEqual({ ids: Int32Array.of(1, 2, 3, 5, 6, 7), values: Float32Array.of(nan, 0, -0, Infinity, 3, nan) });
  expect(wholeRow(top, row.length)).toEqual(row);
  expect(topRowOf(new Float32Array(3).fill(none))).toEqual({ ids: new Int32Array(0), values: new Float32Array(0) });
});
