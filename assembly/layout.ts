/**
 * Fixed places in the imported memory. The owner of the memory is `src/kernels/wasm/`; its `layout.ts` holds the
 * same numbers, and a test compares the two files.
 *
 *   0     control words, one cache line (64 bytes) each, so that spinning on one never slows another
 *   512   constants, read at function entry (see CODE_MASK)
 *   1024  static data of this module (none is expected; the linker's floor)
 *   3072  heartbeats of the threads, 4 bytes each
 *   4096  end of the reserved page
 */

// Barrier (sync.ts)
export const BARRIER_ARRIVED: usize = 0;
export const BARRIER_GENERATION: usize = 64;
export const BARRIER_SLEEPERS: usize = 128;
/** Set by whoever cannot go on, to 1, or 2 when another thread did not come to the barrier: everybody leaves. */
export const FAILED: usize = 192;
/** Bumped by the owner for every list of commands; workers wait on it. */
export const SEQUENCE: usize = 256;
/** Address and number of the commands of the current list. */
export const LIST_ADDRESS: usize = 320;
export const LIST_COUNT: usize = 324;
/** 1: workers shall end. */
export const STOP: usize = 384;
/** 1: the owner runs on a browser's main thread, which must not sleep. */
export const OWNER_SPINS: usize = 388;
/** Scratch of each thread: base + thread * stride. */
export const SCRATCH_BASE: usize = 448;
export const SCRATCH_STRIDE: usize = 452;

/**
 * Sixteen bytes of 0x03. A mask written as a literal is rebuilt at every use inside V8's loops (three
 * instructions each time); one loaded from memory stays in a register: measured 27 -> 53 GMAC/s.
 */
export const CODE_MASK: usize = 512;
/** Four words of 0x8fffe000 and four f32 of 2^112: see `f16ToF32x4` in math.ts. */
export const F16_MASK: usize = 528;
export const F16_SCALE: usize = 544;
/** Four f32 of 65536, four of infinity. */
export const F16_BEYOND: usize = 560;
export const F32_INFINITY: usize = 576;
/** Sixteen bytes of 0x0c: every second code of a byte, four times its value. */
export const CODE_MASK_FOURS: usize = 592;
/** Sixteen bytes of 0x3f, a code of Q6_K, and of 0x30, its upper two bits. */
export const SIX_BITS: usize = 608;
export const HIGH_PAIRS: usize = 624;

/** i32 for each of at most 256 threads, counted up while it gets on; see `beat` in sync.ts. */
export const BEATS: usize = 3072;

/** A command is 16 words: opcode, flags, then arguments (i32, or f32 bits). */
export const COMMAND_BYTES: usize = 64;
/** Flag: meet the other threads before this command. */
export const FLAG_BARRIER: i32 = 1;
