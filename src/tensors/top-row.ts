/**
 * Rows of which only some elements were computed; the others are minus infinity.
 * @module
 */

/** Elements of a row that can be among its greatest: (count) each. */
export interface TopRow {
  /** Where in the row they are, ascending. */
  readonly ids: Int32Array;
  readonly values: Float32Array;
}

/** Everything in a row that is not minus infinity, NaN included. */
export function topRowOf(row: Float32Array): TopRow {
  let count = 0;
  for (let id = 0; id < row.length; id++) if (row[id] !== -Infinity) count++;
  const ids = new Int32Array(count);
  const values = new Float32Array(count);
  let at = 0;
  for (let id = 0; at < count; id++) {
    if (row[id] === -Infinity) continue;
    ids[at] = id;
    values[at++] = row[id];
  }
  return { ids, values };
}

/** The row again, as long as it was. */
export function wholeRow({ ids, values }: TopRow, length: number): Float32Array {
  const row = new Float32Array(length).fill(-Infinity);
  for (let at = 0; at < ids.length; at++) row[ids[at]] = values[at];
  return row;
}
