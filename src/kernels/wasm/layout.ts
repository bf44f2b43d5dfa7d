/**
 * Fixed places in the WebAssembly memory, the same numbers as `assembly/layout.ts` (a test compares them).
 * Addresses in bytes; `WORD` turns one into an index of an Int32Array.
 * @module
 */

export const BARRIER_ARRIVED = 0;
export const BARRIER_GENERATION = 64;
export const BARRIER_SLEEPERS = 128;
export const FAILED = 192;
export const SEQUENCE = 256;
export const LIST_ADDRESS = 320;
export const LIST_COUNT = 324;
export const STOP = 384;
export const OWNER_SPINS = 388;
export const SCRATCH_BASE = 448;
export const SCRATCH_STRIDE = 452;
export const CODE_MASK = 512;
export const F16_MASK = 528;
export const F16_SCALE = 544;
export const F16_BEYOND = 560;
export const F32_INFINITY = 576;
export const CODE_MASK_FOURS = 592;
export const SIX_BITS = 608;
export const HIGH_PAIRS = 624;
export const BEATS = 3072;
export const COMMAND_BYTES = 64;
export const FLAG_BARRIER = 1;

/** Workers count themselves in here when they are ready to run; only TypeScript uses it. */
export const READY = 900;
/** Workers count themselves out here when they have left their loop. */
export const GONE = 904;

/** First address of the arena. */
export const ARENA_START = 4096;
export const PAGE_BYTES = 65536;
/** What a 32-bit WebAssembly memory can hold: 65536 pages, 4 GiB. */
export const MAX_PAGES = 65536;
/** What we put there: one page less, so that the end of the last block is an address too and not 2^32 = 0. */
export const CAPACITY_BYTES = (MAX_PAGES - 1) * PAGE_BYTES;

/** Writes the constants that kernels read at function entry; see `assembly/layout.ts`. */
export function writeConstants(memory: WebAssembly.Memory): void {
  const bytes = new Uint8Array(memory.buffer);
  bytes.fill(3, CODE_MASK, CODE_MASK + 16);
  bytes.fill(12, CODE_MASK_FOURS, CODE_MASK_FOURS + 16);
  bytes.fill(0x3f, SIX_BITS, SIX_BITS + 16);
  bytes.fill(0x30, HIGH_PAIRS, HIGH_PAIRS + 16);
  new Uint32Array(memory.buffer).fill(0x8fffe000, word(F16_MASK), word(F16_MASK) + 4);
  const floats = new Float32Array(memory.buffer);
  floats.fill(2 ** 112, word(F16_SCALE), word(F16_SCALE) + 4);
  floats.fill(65536, word(F16_BEYOND), word(F16_BEYOND) + 4);
  floats.fill(Number.POSITIVE_INFINITY, word(F32_INFINITY), word(F32_INFINITY) + 4);
}

export function word(address: number): number {
  return address >>> 2;
}
