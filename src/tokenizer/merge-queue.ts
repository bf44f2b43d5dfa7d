/**
 * The queue of possible merges, best first: lowest priority number, ties to the leftmost. Both tokenizers use it, BPE
 * with ranks, SPM with negated scores. A binary heap in three typed arrays: no object per entry.
 * @module
 */
export class MergeQueue {
  /** (capacity) */
  #priority = new Float64Array(64);
  /** (capacity) Index of the left symbol. */
  #left = new Int32Array(64);
  /** (capacity) What the pair was when queued; whoever pops compares it with what the pair is now. */
  #stamp = new Int32Array(64);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  get left(): number {
    return this.#left[0];
  }

  get stamp(): number {
    return this.#stamp[0];
  }

  clear(): void {
    this.#length = 0;
  }

  push(priority: number, left: number, stamp: number): void {
    if (this.#length === this.#left.length) this.#grow();
    const priorities = this.#priority;
    const lefts = this.#left;
    const stamps = this.#stamp;
    let at = this.#length++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(priority, left, priorities[parent], lefts[parent])) break;
      priorities[at] = priorities[parent];
      lefts[at] = lefts[parent];
      stamps[at] = stamps[parent];
      at = parent;
    }
    priorities[at] = priority;
    lefts[at] = left;
    stamps[at] = stamp;
  }

  /** Drops the first entry; read `left` and `stamp` before. */
  pop(): void {
    const priorities = this.#priority;
    const lefts = this.#left;
    const stamps = this.#stamp;
    const length = --this.#length;
    const priority = priorities[length];
    const left = lefts[length];
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      if (child + 1 < length && before(priorities[child + 1], lefts[child + 1], priorities[child], lefts[child]))
        child++;
      if (!before(priorities[child], lefts[child], priority, left)) break;
      priorities[at] = priorities[child];
      lefts[at] = lefts[child];
      stamps[at] = stamps[child];
      at = child;
    }
    priorities[at] = priority;
    lefts[at] = left;
    stamps[at] = stamps[length];
  }

  #grow(): void {
    const capacity = this.#left.length * 2;
    const priority = new Float64Array(capacity);
    const left = new Int32Array(capacity);
    const stamp = new Int32Array(capacity);
    priority.set(this.#priority);
    left.set(this.#left);
    stamp.set(this.#stamp);
    this.#priority = priority;
    this.#left = left;
    this.#stamp = stamp;
  }
}

function before(priorityA: number, leftA: number, priorityB: number, leftB: number): boolean {
  return priorityA < priorityB || (priorityA === priorityB && leftA < leftB);
}
