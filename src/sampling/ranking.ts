/**
 * Tokens in order of likelihood: logit descending, id ascending among equals. Every sum over candidates runs
 * in this order, which is why the same seed gives the same tokens on every runtime.
 *
 * The order is total, so the first k are the same however they were found: by a bounded heap for few, by
 * a bucketed sort for many.
 * @module
 */

import { notANumber, wantFinite } from './greedy.ts';

/** Up to this many a heap beats the sort: most logits fail the first comparison and never touch it. */
const HEAP_LIMIT = 1024;

/** Ids and sort keys share the 53 bits of an integer f64: 32 for the key, 21 for the id. */
export const MAX_VOCABULARY = 2 ** 21;

/** Upper halves of keys. */
const BUCKETS = 2 ** 16;

/** The most likely tokens of one row of logits. Buffers are reused from row to row. */
export class Ranking {
  /** (size) Token ids, most likely first. */
  ids = new Int32Array(0);
  /** (size) Their logits. */
  logits = new Float32Array(0);
  size = 0;
  #keys: Float64Array | undefined;
  #buckets: Int32Array | undefined;

  /** Ranks the `k` most likely tokens (all, if there are fewer). Refuses NaN and rows without a finite maximum. */
  take(row: Float32Array, k: number): void {
    const size = Math.min(k, row.length);
    if (this.ids.length < size) {
      this.ids = new Int32Array(size);
      this.logits = new Float32Array(size);
    }
    this.size = size;
    if (size <= HEAP_LIMIT) this.#takeByHeap(row);
    else this.#takeBySort(row);
    wantFinite(this.logits[0]);
  }

  #takeByHeap(row: Float32Array): void {
    const { ids, logits, size } = this;
    for (let id = 0; id < size; id++) {
      const logit = row[id];
      if (Number.isNaN(logit)) throw notANumber(id);
      ids[id] = id;
      logits[id] = logit;
    }
    for (let at = (size >> 1) - 1; at >= 0; at--) sink(ids, logits, at, size);
    // The root is the least likely candidate. A later id with an equal logit ranks below it, so `<=` skips it.
    let worst = logits[0];
    for (let id = size; id < row.length; id++) {
      const logit = row[id];
      if (logit <= worst) continue;
      if (Number.isNaN(logit)) throw notANumber(id);
      ids[0] = id;
      logits[0] = logit;
      sink(ids, logits, 0, size);
      worst = logits[0];
    }
    // Second half of heapsort: the worst goes to the end, again and again.
    for (let end = size - 1; end > 0; end--) {
      swap(ids, logits, 0, end);
      sink(ids, logits, 0, end);
    }
  }

  /**
   * Counts the keys by their upper half, finds the bucket in which rank `size` falls, and sorts only what lies in
   * the buckets up to there.
   */
  #takeBySort(row: Float32Array): void {
    this.#keys ??= new Float64Array(row.length);
    this.#buckets ??= new Int32Array(BUCKETS);
    const keys = this.#keys;
    const buckets = this.#buckets.fill(0);
    const bits = new Int32Array(row.buffer, row.byteOffset, row.length);
    for (let id = 0; id < row.length; id++) {
      if (Number.isNaN(row[id])) throw notANumber(id);
      buckets[descendingKey(bits[id]) >>> 16]++;
    }
    let last = 0;
    for (let found = buckets[0]; found < this.size; found += buckets[last]) last++;
    let n = 0;
    for (let id = 0; id < row.length; id++) {
      const key = descendingKey(bits[id]);
      if (key >>> 16 <= last) keys[n++] = key * MAX_VOCABULARY + id;
    }
    keys.subarray(0, n).sort();
    for (let rank = 0; rank < this.size; rank++) {
      const id = keys[rank] % MAX_VOCABULARY;
      this.ids[rank] = id;
      this.logits[rank] = row[id];
    }
  }
}

/** The bits of an f32 as an unsigned integer that grows as the number falls; one key for 0 and -0. */
function descendingKey(bits: number): number {
  return bits < 0 && bits !== -0x80000000 ? bits >>> 0 : 0x7fffffff - (bits & 0x7fffffff);
}

/** Restores the heap below `at`: a parent ranks after its children. */
function sink(ids: Int32Array, logits: Float32Array, at: number, size: number): void {
  for (;;) {
    let child = 2 * at + 1;
    if (child >= size) return;
    if (child + 1 < size && after(ids, logits, child + 1, child)) child++;
    if (!after(ids, logits, child, at)) return;
    swap(ids, logits, child, at);
    at = child;
  }
}

/** Does the entry at `a` rank after the one at `b`? */
function after(ids: Int32Array, logits: Float32Array, a: number, b: number): boolean {
  return logits[a] < logits[b] || (logits[a] === logits[b] && ids[a] > ids[b]);
}

function swap(ids: Int32Array, logits: Float32Array, a: number, b: number): void {
  const id = ids[a];
  ids[a] = ids[b];
  ids[b] = id;
  const logit = logits[a];
  logits[a] = logits[b];
  logits[b] = logit;
}
