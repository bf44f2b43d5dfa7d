/**
 * byte string -> number, for ranges of a larger buffer.
 *
 * A `Map` would need a JS string for each lookup, and token texts are not always UTF-8. Here keys lie end to end in
 * one arena and a lookup hashes the range where it stands: nothing is allocated after building.
 * @module
 */

import { BitnetError } from '../errors.ts';

/**
 * The longest walk through occupied slots we accept. Natural vocabularies stay below 100 in a half-full table; FNV
 * collisions can be forged, and a file full of them would take hours to load.
 */
const MAX_PROBES = 4096;

/** FNV-1a, 32 bits. Can be continued: hash(b, hash(a)) is the hash of a followed by b. */
export function fnv1a(bytes: Uint8Array, start: number, end: number, seed = 0x811c9dc5): number {
  let hash = seed;
  for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i], 0x01000193);
  return hash;
}

/**
 * FNV's multiplication carries upwards only, so its low bits see only the low bits of the input: fold the high ones
 * in before masking.
 */
function slotOf(hash: number, mask: number): number {
  const mixed = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return (mixed ^ (mixed >>> 13)) & mask;
}

/** Open addressing with linear probing, at most half full. Keys are numbered 0, 1, 2 ... in order of insertion. */
export class ByteIndex {
  #arena: Uint8Array;
  #used = 0;
  /** Key k is arena[starts[k] .. starts[k + 1]). */
  #starts: Int32Array;
  #values: Int32Array;
  #count = 0;
  /** key + 1, or 0 for a free slot. */
  #slots: Int32Array;
  #mask: number;
  #longest = 0;

  constructor(expectedKeys: number, expectedBytes: number) {
    let capacity = 16;
    while (capacity < expectedKeys * 2) capacity *= 2;
    this.#slots = new Int32Array(capacity);
    this.#mask = capacity - 1;
    this.#arena = new Uint8Array(expectedBytes + 16);
    this.#starts = new Int32Array(expectedKeys + 2);
    this.#values = new Int32Array(expectedKeys + 1);
  }

  /** Length of the longest key in bytes: nothing longer can be found. */
  get longest(): number {
    return this.#longest;
  }

  /** The value of bytes[start..end), or -1. */
  find(bytes: Uint8Array, start: number, end: number): number {
    const length = end - start;
    if (length > this.#longest) return -1;
    const slots = this.#slots;
    const mask = this.#mask;
    for (let slot = slotOf(fnv1a(bytes, start, end), mask); ; slot = (slot + 1) & mask) {
      const key = slots[slot] - 1;
      if (key < 0) return -1;
      if (this.#equals(key, bytes, start, length)) return this.#values[key];
    }
  }

  /** Adds or replaces. Values are numbers of 0 or more. */
  set(bytes: Uint8Array, start: number, end: number, value: number): void {
    const length = end - start;
    let slot = slotOf(fnv1a(bytes, start, end), this.#mask);
    for (let probes = 0; this.#slots[slot] !== 0; slot = (slot + 1) & this.#mask) {
      if (++probes > MAX_PROBES) {
        throw new BitnetError('bad-tokenizer', 'vocabulary made to collide in hash tables', {
          got: `more than ${MAX_PROBES} keys in a row`,
        });
      }
      const key = this.#slots[slot] - 1;
      if (this.#equals(key, bytes, start, length)) {
        this.#values[key] = value;
        return;
      }
    }
    if ((this.#count + 1) * 2 > this.#slots.length) {
      this.#rehash();
      slot = this.#freeSlot(fnv1a(bytes, start, end));
    }
    const key = this.#append(bytes, start, end, value);
    this.#slots[slot] = key + 1;
  }

  #append(bytes: Uint8Array, start: number, end: number, value: number): number {
    const key = this.#count++;
    const used = this.#used + (end - start);
    if (used > this.#arena.length) {
      const arena = new Uint8Array(used * 2);
      arena.set(this.#arena);
      this.#arena = arena;
    }
    if (key + 2 > this.#starts.length) {
      this.#starts = grown(this.#starts);
      this.#values = grown(this.#values);
    }
    for (let i = start, to = this.#used; i < end; i++) this.#arena[to++] = bytes[i];
    this.#values[key] = value;
    this.#starts[key + 1] = used;
    this.#used = used;
    this.#longest = Math.max(this.#longest, end - start);
    return key;
  }

  #equals(key: number, bytes: Uint8Array, start: number, length: number): boolean {
    const from = this.#starts[key];
    if (this.#starts[key + 1] - from !== length) return false;
    const arena = this.#arena;
    for (let i = 0; i < length; i++) if (arena[from + i] !== bytes[start + i]) return false;
    return true;
  }

  #freeSlot(hash: number): number {
    let slot = slotOf(hash, this.#mask);
    while (this.#slots[slot] !== 0) slot = (slot + 1) & this.#mask;
    return slot;
  }

  #rehash(): void {
    this.#slots = new Int32Array(this.#slots.length * 2);
    this.#mask = this.#slots.length - 1;
    for (let key = 0; key < this.#count; key++) {
      this.#slots[this.#freeSlot(fnv1a(this.#arena, this.#starts[key], this.#starts[key + 1]))] = key + 1;
    }
  }
}

function grown(array: Int32Array): Int32Array {
  const bigger = new Int32Array(array.length * 2 + 2);
  bigger.set(array);
  return bigger;
}
