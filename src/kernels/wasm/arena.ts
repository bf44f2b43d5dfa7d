/**
 * Memory of the wasm backend: one growing WebAssembly memory, cut into blocks by a first-fit free list.
 *
 * All bookkeeping is here, in TypeScript; the kernels only ever see addresses. Blocks begin at multiples of 64, a cache
 * line, so that no two threads write to one line of different buffers, and every vector load is aligned.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import { ARENA_START, PAGE_BYTES } from './layout.ts';

const ALIGN = 64;

interface Hole {
  start: number;
  bytes: number;
}

export class Arena {
  readonly memory: WebAssembly.Memory;
  readonly maxBytes: number;
  /** Holes below `#top`, ascending, never adjacent. */
  readonly #holes: Hole[] = [];
  readonly #sizes = new Map<number, number>();
  readonly #imaginary: boolean;
  #top = ARENA_START;
  /** The highest `#top` so far: bytes from here on were never given out, so they are zero. */
  #highest = ARENA_START;
  #usedBytes = 0;
  #peakBytes = 0;

  /**
   * The memory never grows beyond `maxBytes`. An `imaginary` arena keeps books only: it neither grows nor clears the memory.
   */
  constructor(memory: WebAssembly.Memory, maxBytes: number, imaginary = false) {
    this.memory = memory;
    this.maxBytes = maxBytes;
    this.#imaginary = imaginary;
  }

  /** What lies above everything that was taken, whether the runtime gives it or not. */
  get roomBytes(): number {
    return this.maxBytes - this.#top;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** How long the memory must be for everything so far. */
  get spanBytes(): number {
    return this.#highest;
  }

  /** Whether a block of `bytes` fits without growing the memory. */
  fits(bytes: number): boolean {
    const rounded = roundUp(bytes);
    return this.#top + rounded <= this.memory.buffer.byteLength || this.#holes.some((hole) => hole.bytes >= rounded);
  }

  /** Grows the memory to at least `bytes`. */
  reserve(bytes: number): void {
    this.#grow(bytes, bytes, 'the whole model');
  }

  /** Returns the address of a block whose bytes are zero. */
  alloc(bytes: number, what: string): number {
    const highest = this.#highest;
    const address = this.take(bytes, what);
    const end = Math.min(address + roundUp(bytes), highest);
    if (!this.#imaginary && address < end) new Uint8Array(this.memory.buffer, address, end - address).fill(0);
    return address;
  }

  /** Returns the address of a block whose bytes may be anything, for whoever writes all of them. */
  take(bytes: number, what: string): number {
    want(Number.isSafeInteger(bytes) && bytes >= 0, 'bad-argument', 'not a number of bytes', () => ({
      where: what,
      got: `${bytes}`,
    }));
    const rounded = roundUp(bytes);
    const address = this.#fromHole(rounded) ?? this.#fromTop(rounded, what);
    this.#sizes.set(address, rounded);
    this.#usedBytes += rounded;
    this.#peakBytes = Math.max(this.#peakBytes, this.#usedBytes);
    return address;
  }

  free(address: number): void {
    const bytes = this.#sizes.get(address);
    if (bytes === undefined) return;
    this.#sizes.delete(address);
    this.#usedBytes -= bytes;
    let at = this.#holes.findIndex((hole) => hole.start > address);
    if (at < 0) at = this.#holes.length;
    this.#holes.splice(at, 0, { start: address, bytes });
    this.#join(at);
    if (at > 0) this.#join(at - 1);
    const last = this.#holes.at(-1);
    if (last !== undefined && last.start + last.bytes === this.#top) {
      this.#top = last.start;
      this.#holes.pop();
    }
  }

  /** Joins the hole at `at` with its right neighbour where they touch. */
  #join(at: number): void {
    const hole = this.#holes[at];
    const next = this.#holes[at + 1];
    if (hole === undefined || next === undefined || hole.start + hole.bytes !== next.start) return;
    hole.bytes += next.bytes;
    this.#holes.splice(at + 1, 1);
  }

  #fromHole(bytes: number): number | undefined {
    const at = this.#holes.findIndex((hole) => hole.bytes >= bytes);
    const hole = this.#holes[at];
    if (hole === undefined) return undefined;
    const address = hole.start;
    hole.start += bytes;
    hole.bytes -= bytes;
    if (hole.bytes === 0) this.#holes.splice(at, 1);
    return address;
  }

  #fromTop(bytes: number, what: string): number {
    const address = this.#top;
    if (!this.#imaginary) this.#grow(address + bytes, bytes, what);
    this.#top = address + bytes;
    this.#highest = Math.max(this.#highest, this.#top);
    return address;
  }

  /** Makes the memory `end` bytes long, for `bytes` more of `what`. */
  #grow(end: number, bytes: number, what: string): void {
    const have = this.memory.buffer.byteLength;
    if (end <= have) return;
    try {
      if (end > this.maxBytes) throw new RangeError('beyond the limit');
      this.memory.grow(Math.ceil((end - have) / PAGE_BYTES));
    } catch (cause) {
      const facts = {
        where: what,
        expected: `${bytes} bytes`,
        got: `${this.#usedBytes} bytes in use, of at most ${this.maxBytes}${end > this.maxBytes ? '' : ', and no more from the runtime'}`,
        hint: 'a smaller context or batch, or a smaller model',
      };
      throw new BitnetError('out-of-memory', 'WebAssembly memory cannot grow', facts, cause);
    }
  }
}

function roundUp(bytes: number): number {
  return Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
}
