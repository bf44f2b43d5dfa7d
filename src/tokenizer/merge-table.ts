/**
 * (left symbol, right symbol) -> rank and merged symbol, for 280 thousand merges without an object or a string each.
 * @module
 */

const SLOT_WORDS = 4;
const FREE = -1;

export class MergeTable {
  /** (slots, 4) left, right, rank, merged; left is FREE in empty slots. */
  readonly #slots: Int32Array;
  readonly #mask: number;

  constructor(nMerges: number) {
    let capacity = 16;
    while (capacity < nMerges * 1.5) capacity *= 2;
    this.#slots = new Int32Array(capacity * SLOT_WORDS).fill(FREE);
    this.#mask = capacity - 1;
  }

  /** Keeps the first rank given to a pair, as llama.cpp does. */
  add(left: number, right: number, rank: number, merged: number): void {
    const at = this.#seek(left, right);
    const slots = this.#slots;
    if (slots[at] !== FREE) return;
    slots[at] = left;
    slots[at + 1] = right;
    slots[at + 2] = rank;
    slots[at + 3] = merged;
  }

  /** Where the pair stands, or -1; the place is good for `rankAt` and `mergedAt`. */
  find(left: number, right: number): number {
    const at = this.#seek(left, right);
    return this.#slots[at] === FREE ? -1 : at;
  }

  rankAt(at: number): number {
    return this.#slots[at + 2];
  }

  mergedAt(at: number): number {
    return this.#slots[at + 3];
  }

  #seek(left: number, right: number): number {
    const slots = this.#slots;
    const mask = this.#mask;
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    let slot = (hash ^ (hash >>> 13)) & mask;
    for (;;) {
      const at = slot * SLOT_WORDS;
      if (slots[at] === FREE || (slots[at] === left && slots[at + 1] === right)) return at;
      slot = (slot + 1) & mask;
    }
  }
}
