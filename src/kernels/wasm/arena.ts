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
  #top = ARENA_START;
  #usedBytes = 0;
  #peakBytes = 0;

  /** The memory never grows beyond `maxBytes`. */
  constructor(memory: WebAssembly.Memory, maxBytes: number) {
    this.memory = memory;
    this.maxBytes = maxBytes;
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

  /** Returns the address of a block whose bytes are zero. */
  alloc(bytes: number, what: string): number {
    want(Number.isSafeInteger(bytes) && bytes >= 0, 'bad-argument', 'not a number of bytes', () => ({
      where: what,
      got: `${bytes}`,
    }));
    const rounded = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
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
    new Uint8Array(this.memory.buffer, address, bytes).fill(0);
    return address;
  }

  #fromTop(bytes: number, what: string): number {
    const address = this.#top;
    const end = address + bytes;
    const have = this.memory.buffer.byteLength;
    if (end > have) {
      const pages = Math.ceil((end - have) / PAGE_BYTES);
      try {
        if (end > this.maxBytes) throw new RangeError('beyond the limit');
        this.memory.grow(pages);
      } catch (cause) {
        const facts = {
          where: what,
          expected: `${bytes} bytes`,
          got: `${address} bytes in use, of at most ${this.maxBytes}${end > this.maxBytes ? '' : ', and no more from the runtime'}`,
          hint: 'a smaller context or batch, or a smaller model',
        };
        throw new BitnetError('out-of-memory', 'WebAssembly memory cannot grow', facts, cause);
      }
    }
    // Pages that grew just now are zero; what lay below may have been used and given back.
    if (address < have) new Uint8Array(this.memory.buffer, address, Math.min(end, have) - address).fill(0);
    this.#top = end;
    return address;
  }
}
