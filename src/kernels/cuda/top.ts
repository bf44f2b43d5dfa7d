/**
 * What TOP_K leaves of a row (`commands.md`): its greatest elements as pairs of id and value.
 * @module
 */

import { type TopRow, topRowOf } from '../../tensors/top-row.ts';
import type { Device } from './device.ts';
import type { CudaBuf } from './memory.ts';

/** What TOP_K found in rows of a buffer. */
interface Top {
  readonly of: CudaBuf;
  /** The buffer that it wrote to. */
  readonly at: CudaBuf;
  readonly rows: number;
  readonly room: number;
}

/** What is known of the buffer that was asked about last, as long as nothing else is written there. */
export class Tops {
  readonly #device: Device;
  #top: Top | undefined;
  /** Where pairs are read to, again and again. */
  #words = new Int32Array(0);

  constructor(device: Device) {
    this.#device = device;
  }

  keep(top: Top): void {
    this.#top = top;
  }

  /** Something is written to `memory`, or it is freed. */
  forget(memory: object): void {
    if (this.#top?.of === memory || this.#top?.at === memory) this.#top = undefined;
  }

  /** How many rows of a buffer are known. */
  rowsOf(buf: CudaBuf): number {
    return this.#top?.of === buf ? this.#top.rows : 0;
  }

  /** The first `rows` of them: only what can be among the greatest is copied, whole rows where that is not known. */
  read(rows: number): TopRow[] {
    const top = this.#top;
    if (top === undefined || rows === 0) return [];
    const columns = top.of.shape[1] ?? 1;
    const each = rowWords(top.room);
    if (this.#words.length < rows * each) this.#words = new Int32Array(rows * each);
    const words = this.#device.read(top.at.handle, this.#words.subarray(0, rows * each));
    return Array.from({ length: rows }, (_, row) => {
      const [count, flags] = words.subarray(row * each);
      if (flags === 0) return sortedPairs(words.subarray(row * each + 2).subarray(0, 2 * count));
      return topRowOf(this.#device.read(top.of.handle, new Float32Array(columns), row * columns * 4));
    });
  }
}

/** Words of a row with room for so many pairs. */
export function rowWords(room: number): number {
  return 2 + 2 * room;
}

/** More than there are pairs of a row; an id and a place make one integer below 2^53. */
const PLACES = 2 ** 22;

/**
 * Pairs of an id and a value, which come in no order; for 64 sequences as many times a token, so a comparator would cost too much. Minus
 * infinity, which an estimate cannot rule out, is not worth telling.
 */
function sortedPairs(words: Int32Array): TopRow {
  const floats = new Float32Array(words.buffer, words.byteOffset, words.length);
  const all = new Float64Array(words.length / 2);
  let count = 0;
  for (let i = 0; i < all.length; i++) if (floats[2 * i + 1] !== -Infinity) all[count++] = words[2 * i] * PLACES + i;
  const keys = all.subarray(0, count).sort();
  const ids = new Int32Array(count);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const place = keys[i] % PLACES;
    ids[i] = words[2 * place];
    values[i] = floats[2 * place + 1];
  }
  return { ids, values };
}
