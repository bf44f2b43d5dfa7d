/**
 * What TOP_K leaves of a row (`commands.md`): its greatest elements as pairs of id and value.
 * @module
 */

import type { TopRow } from '../interface.ts';

/** More than there are pairs of a row; an id and a place make one integer below 2^53. */
const PLACES = 2 ** 22;

/** Pairs of an id and a value, which come in no order; for 64 sequences as many times a token, so a comparator would cost too much. */
export function sortedPairs(words: Int32Array): TopRow {
  const count = words.length / 2;
  const keys = new Float64Array(count);
  for (let i = 0; i < count; i++) keys[i] = words[2 * i] * PLACES + i;
  keys.sort();
  const floats = new Float32Array(words.buffer, words.byteOffset, words.length);
  const ids = new Int32Array(count);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const place = keys[i] % PLACES;
    ids[i] = words[2 * place];
    values[i] = floats[2 * place + 1];
  }
  return { ids, values };
}
