/**
 * `Backend.ternaryMatmul` for many tokens, without multiplications: lookup tables over tokens.
 *
 * A byte of packed weights holds four trits of one row. For a tile of tokens and one byte position there are only 81
 * different sums -x0-x1-x2-x3 ... +x0+x1+x2+x3, each a row of i16 over the tokens; they are built once and serve every row of
 * a block, of one matrix or of several with the same input, which costs one vector load and add per four weights and eight tokens. The byte itself is the index: a table
 * has 171 places (0xaa is the largest byte without a code of 3), 81 of them in use.
 *
 *   tile     32 tokens (an entry is a cache line); 16 or 8 where fewer are left
 *   pass     8 neighbouring bytes of a row = 32 channels = 8 tables (for 32 tokens 88 KB, of which 41 KB are touched)
 *   i16      sums of 7 passes: 224 channels * 128 = 28672 at most; 256 channels would reach 32768, which i16 does not hold
 *   i32      then widened; rows go in blocks so that their sums and weights stay in the second-level cache
 *
 * Sums are integers, so the result is that of `ternary-matmul.ts` exactly.
 */

import { beat } from './sync';
import { HAS_DOT_ADD } from './ternary-matmul';

/** From this many tokens on, tables are faster than multiplying. Measured: bench/kernels. */
export const LOOKUP_TOKENS: i32 = HAS_DOT_ADD ? 12 : 8;

const PASS_BYTES: usize = 8;
/** Bytes of a row between two widenings: 7 passes, 224 channels. */
const FLUSH_BYTES: usize = 56;
const BLOCK_ROWS: i32 = 4096;
/** Room of a table: 171 entries for 32 tokens, and one so that tables do not begin at multiples of a power of two. */
const TABLE_BYTES: usize = 172 * 64;

/** As many matrices with the same input use the same tables: q, k and v, gate and up. */
export const MAX_SHARERS: i32 = 4;
/** What `shareTables` notes of a matrix. */
const MATRIX_BYTES: usize = 32;

// Scratch: tables, 32 transposed channels, the matrices, i16 sums, i32 sums. LOOKUP_SCRATCH of src/kernels/wasm/backend.ts
// is the total.
const CHANNELS_AT: usize = 8 * TABLE_BYTES;
const MATRICES_AT: usize = CHANNELS_AT + 32 * 64;
const SUMS16_AT: usize = MATRICES_AT + <usize>MAX_SHARERS * MATRIX_BYTES;
const SUMS32_AT: usize = SUMS16_AT + <usize>BLOCK_ROWS * 64;

/** Before `ternaryLookup`: `count` rows at `packed` are number `index`; token 0's result of the first goes to `out`. */
export function shareTables(
  scratch: usize,
  index: i32,
  packed: usize,
  count: i32,
  out: usize,
  outStride: i32,
  weightScale: f32,
): void {
  const matrix = matrixAt(scratch, index);
  store<usize>(matrix, packed);
  store<i32>(matrix, count, 4);
  store<usize>(matrix, out, 8);
  store<i32>(matrix, outStride, 12);
  store<f32>(matrix, weightScale, 16);
}

// @ts-ignore: decorator
@inline
function matrixAt(scratch: usize, index: i32): usize {
  return scratch + MATRICES_AT + <usize>index * MATRIX_BYTES;
}

/**
 * The products of the rows told to `shareTables` with the first tokens; returns how many tokens are done. The others are
 * fewer than LOOKUP_TOKENS.
 *
 * A block takes its rows from all the matrices, one after the other. Building the tables costs what some 110 rows do, and of
 * k a thread may have only 160: measured for q, k and v of 2560, 640 and 640 rows, with 32 tokens or 128, 5% less time for
 * one thread, 10% for two, 17% for four.
 */
export function ternaryLookup(
  nMatrices: i32,
  rowBytes: usize,
  codes: usize,
  stride: i32,
  meta: usize,
  n: i32,
  thread: i32,
  scratch: usize,
): i32 {
  let nRows = 0;
  for (let i = 0; i < nMatrices; i++) nRows += load<i32>(matrixAt(scratch, i), 4);
  let token = 0;
  for (let first = 0; first < nRows; first += BLOCK_ROWS) {
    const last = min(first + BLOCK_ROWS, nRows);
    token = 0;
    while (n - token >= LOOKUP_TOKENS) {
      beat(thread);
      const left = n - token;
      // A tile costs the same however full it is: 25 tokens are worth one of 32, 12 one of 16.
      const tile = left > 24 ? 32 : left > 11 ? 16 : 8;
      const nTokens = min(tile, left);
      const entryBytes = <usize>tile << 1;
      const q = codes + <usize>token * <usize>stride;
      sumBlock(nMatrices, first, last, rowBytes, q, <usize>stride, nTokens, entryBytes, scratch);
      let before = 0;
      for (let i = 0; i < nMatrices; i++) {
        const matrix = matrixAt(scratch, i);
        const count = load<i32>(matrix, 4);
        const start = max(first - before, 0);
        const end = min(last - before, count);
        if (start < end) {
          const outStride = load<i32>(matrix, 12);
          finishBlock(
            load<usize>(matrix, 8) + ((<usize>token * <usize>outStride + <usize>start) << 2),
            outStride,
            end - start,
            meta + (<usize>token << 3),
            nTokens,
            entryBytes << 1,
            load<f32>(matrix, 16),
            scratch + SUMS32_AT + <usize>(before + start - first) * (entryBytes << 1),
          );
        }
        before += count;
      }
      token += nTokens;
    }
  }
  return token;
}

/** i32 sums (rows, tile) of all channels, for rows first..last-1 of the matrices put together. */
function sumBlock(
  nMatrices: i32,
  first: i32,
  last: i32,
  rowBytes: usize,
  q: usize,
  stride: usize,
  nTokens: i32,
  entryBytes: usize,
  scratch: usize,
): void {
  const sums = scratch + SUMS16_AT;
  const sumBytes = <usize>(last - first) * entryBytes;
  memory.fill(scratch + SUMS32_AT, 0, sumBytes << 1);
  for (let flush: usize = 0; flush < rowBytes; flush += FLUSH_BYTES) {
    const flushEnd = min(flush + FLUSH_BYTES, rowBytes);
    memory.fill(sums, 0, sumBytes);
    for (let at = flush; at < flushEnd; at += PASS_BYTES) {
      transpose(scratch + CHANNELS_AT, entryBytes, q + (at >> 5) * 128 + (at & 31), stride, nTokens);
      for (let byte: usize = 0; byte < PASS_BYTES; byte++) {
        const channels = scratch + CHANNELS_AT + byte * 4 * entryBytes;
        if (entryBytes == 16) buildTable8(scratch + byte * TABLE_BYTES, channels);
        else buildTable(scratch + byte * TABLE_BYTES, channels, entryBytes);
      }
      let before = 0;
      for (let i = 0; i < nMatrices; i++) {
        const matrix = matrixAt(scratch, i);
        const count = load<i32>(matrix, 4);
        const start = max(first - before, 0);
        const end = min(last - before, count);
        if (start < end) {
          const weights = load<usize>(matrix) + <usize>start * rowBytes + at;
          const target = sums + <usize>(before + start - first) * entryBytes;
          if (entryBytes == 64) addPass32(scratch, target, weights, rowBytes, end - start);
          else if (entryBytes == 32) addPass16(scratch, target, weights, rowBytes, end - start);
          else addPass8(scratch, target, weights, rowBytes, end - start);
        }
        before += count;
      }
    }
    widen(scratch + SUMS32_AT, sums, sumBytes);
  }
}

/**
 * The channels of a pass as i16 (8 bytes, 4, tile): byte p of block b holds channels 128 b + p, + 32, + 64, + 96. `q` is the
 * first token's first one. Tokens beyond the last are zero.
 */
export function transpose(target: usize, entryBytes: usize, q: usize, stride: usize, nTokens: i32): void {
  for (let quarter: usize = 0; quarter < 4; quarter++) {
    for (let token = 0; (<usize>token << 1) < entryBytes; token += 8) {
      const to = target + quarter * entryBytes + (<usize>token << 1);
      transpose8(to, 4 * entryBytes, q + 32 * quarter + <usize>token * stride, stride, nTokens - token);
    }
  }
}

// @ts-ignore: decorator
@inline
function channelsOf(q: usize, present: bool): v128 {
  return present ? v128.load8x8_s(q) : i16x8.splat(0);
}

/** Eight channels of eight tokens, of which `left` are there; a channel's row goes to every `apart` bytes of `target`. */
export function transpose8(target: usize, apart: usize, q: usize, stride: usize, left: i32): void {
  const r0 = channelsOf(q, left > 0);
  const r1 = channelsOf(q + stride, left > 1);
  const r2 = channelsOf(q + 2 * stride, left > 2);
  const r3 = channelsOf(q + 3 * stride, left > 3);
  const r4 = channelsOf(q + 4 * stride, left > 4);
  const r5 = channelsOf(q + 5 * stride, left > 5);
  const r6 = channelsOf(q + 6 * stride, left > 6);
  const r7 = channelsOf(q + 7 * stride, left > 7);
  // Neighbouring tokens, then pairs, then fours come together: 16, 32, 64 bits.
  const a0 = i16x8.shuffle(r0, r1, 0, 8, 1, 9, 2, 10, 3, 11);
  const a1 = i16x8.shuffle(r0, r1, 4, 12, 5, 13, 6, 14, 7, 15);
  const a2 = i16x8.shuffle(r2, r3, 0, 8, 1, 9, 2, 10, 3, 11);
  const a3 = i16x8.shuffle(r2, r3, 4, 12, 5, 13, 6, 14, 7, 15);
  const a4 = i16x8.shuffle(r4, r5, 0, 8, 1, 9, 2, 10, 3, 11);
  const a5 = i16x8.shuffle(r4, r5, 4, 12, 5, 13, 6, 14, 7, 15);
  const a6 = i16x8.shuffle(r6, r7, 0, 8, 1, 9, 2, 10, 3, 11);
  const a7 = i16x8.shuffle(r6, r7, 4, 12, 5, 13, 6, 14, 7, 15);
  const b0 = i32x4.shuffle(a0, a2, 0, 4, 1, 5);
  const b1 = i32x4.shuffle(a0, a2, 2, 6, 3, 7);
  const b2 = i32x4.shuffle(a1, a3, 0, 4, 1, 5);
  const b3 = i32x4.shuffle(a1, a3, 2, 6, 3, 7);
  const b4 = i32x4.shuffle(a4, a6, 0, 4, 1, 5);
  const b5 = i32x4.shuffle(a4, a6, 2, 6, 3, 7);
  const b6 = i32x4.shuffle(a5, a7, 0, 4, 1, 5);
  const b7 = i32x4.shuffle(a5, a7, 2, 6, 3, 7);
  v128.store(target, i64x2.shuffle(b0, b4, 0, 2));
  v128.store(target + apart, i64x2.shuffle(b0, b4, 1, 3));
  v128.store(target + 2 * apart, i64x2.shuffle(b1, b5, 0, 2));
  v128.store(target + 3 * apart, i64x2.shuffle(b1, b5, 1, 3));
  v128.store(target + 4 * apart, i64x2.shuffle(b2, b6, 0, 2));
  v128.store(target + 5 * apart, i64x2.shuffle(b2, b6, 1, 3));
  v128.store(target + 6 * apart, i64x2.shuffle(b3, b7, 0, 2));
  v128.store(target + 7 * apart, i64x2.shuffle(b3, b7, 1, 3));
}

/**
 * Entry c0 << 6 | c1 << 4 | c2 << 2 | c3 = sum of (c - 1) * x, for sixteen tokens at a time: two vectors side by side, which a
 * runtime may join into one of 256 bits.
 */
export function buildTable(table: usize, channels: usize, entryBytes: usize): void {
  for (let column: usize = 0; column < entryBytes; column += 32) {
    const x = channels + column;
    const y = x + entryBytes;
    const z2 = x + 2 * entryBytes;
    const z3 = x + 3 * entryBytes;
    let a0 = i16x8.neg(v128.load(x));
    let a1 = i16x8.neg(v128.load(x, 16));
    for (let c0: usize = 0; c0 < 3; c0++) {
      let b0 = i16x8.sub(a0, v128.load(y));
      let b1 = i16x8.sub(a1, v128.load(y, 16));
      for (let c1: usize = 0; c1 < 3; c1++) {
        const x2 = v128.load(z2);
        const y2 = v128.load(z2, 16);
        const x3 = v128.load(z3);
        const y3 = v128.load(z3, 16);
        const at = table + column + ((c0 << 6) | (c1 << 4)) * entryBytes;
        storeThree(at, entryBytes, i16x8.sub(b0, x2), i16x8.sub(b1, y2), x3, y3);
        storeThree(at + 4 * entryBytes, entryBytes, b0, b1, x3, y3);
        storeThree(at + 8 * entryBytes, entryBytes, i16x8.add(b0, x2), i16x8.add(b1, y2), x3, y3);
        b0 = i16x8.add(b0, v128.load(y));
        b1 = i16x8.add(b1, v128.load(y, 16));
      }
      a0 = i16x8.add(a0, v128.load(x));
      a1 = i16x8.add(a1, v128.load(x, 16));
    }
  }
}

// @ts-ignore: decorator
@inline
function storeThree(at: usize, entryBytes: usize, sum0: v128, sum1: v128, x: v128, y: v128): void {
  v128.store(at, i16x8.sub(sum0, x));
  v128.store(at, i16x8.sub(sum1, y), 16);
  v128.store(at + entryBytes, sum0);
  v128.store(at + entryBytes, sum1, 16);
  v128.store(at + 2 * entryBytes, i16x8.add(sum0, x));
  v128.store(at + 2 * entryBytes, i16x8.add(sum1, y), 16);
}

/** The same for a tile of eight tokens. */
export function buildTable8(table: usize, channels: usize): void {
  const x0 = v128.load(channels);
  const x1 = v128.load(channels, 16);
  const x2 = v128.load(channels, 32);
  const x3 = v128.load(channels, 48);
  let a = i16x8.neg(x0);
  for (let c0: usize = 0; c0 < 3; c0++) {
    let b = i16x8.sub(a, x1);
    for (let c1: usize = 0; c1 < 3; c1++) {
      let sum = i16x8.sub(b, x2);
      for (let c2: usize = 0; c2 < 3; c2++) {
        const at = table + (((c0 << 6) | (c1 << 4) | (c2 << 2)) << 4);
        v128.store(at, i16x8.sub(sum, x3));
        v128.store(at, sum, 16);
        v128.store(at, i16x8.add(sum, x3), 32);
        sum = i16x8.add(sum, x2);
      }
      b = i16x8.add(b, x1);
    }
    a = i16x8.add(a, x0);
  }
}

// The three widths of a pass: each adds the eight entries that a row's eight bytes name to the row's i16 sums. A byte times
// the size of an entry is one shift and one mask. Written out, because that is what keeps the sums in registers.

export function addPass32(tables: usize, sums: usize, weights: usize, rowBytes: usize, nRows: i32): void {
  for (const end = sums + (<usize>nRows << 6); sums < end; sums += 64, weights += rowBytes) {
    let w = load<u32>(weights);
    let a = v128.load(sums);
    let b = v128.load(sums, 16);
    let c = v128.load(sums, 32);
    let d = v128.load(sums, 48);
    let t = tables + ((w << 6) & 0x3fc0);
    a = i16x8.add(a, v128.load(t));
    b = i16x8.add(b, v128.load(t, 16));
    c = i16x8.add(c, v128.load(t, 32));
    d = i16x8.add(d, v128.load(t, 48));
    t = tables + ((w >> 2) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, TABLE_BYTES + 48));
    t = tables + ((w >> 10) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 2 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 2 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 2 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 2 * TABLE_BYTES + 48));
    t = tables + ((w >> 18) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 3 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 3 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 3 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 3 * TABLE_BYTES + 48));
    w = load<u32>(weights, 4);
    t = tables + ((w << 6) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 4 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 4 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 4 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 4 * TABLE_BYTES + 48));
    t = tables + ((w >> 2) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 5 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 5 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 5 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 5 * TABLE_BYTES + 48));
    t = tables + ((w >> 10) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 6 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 6 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 6 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 6 * TABLE_BYTES + 48));
    t = tables + ((w >> 18) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 7 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 7 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 7 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 7 * TABLE_BYTES + 48));
    v128.store(sums, a);
    v128.store(sums, b, 16);
    v128.store(sums, c, 32);
    v128.store(sums, d, 48);
  }
}

export function addPass16(tables: usize, sums: usize, weights: usize, rowBytes: usize, nRows: i32): void {
  for (const end = sums + (<usize>nRows << 5); sums < end; sums += 32, weights += rowBytes) {
    let w = load<u32>(weights);
    let a = v128.load(sums);
    let b = v128.load(sums, 16);
    let t = tables + ((w << 5) & 0x1fe0);
    a = i16x8.add(a, v128.load(t));
    b = i16x8.add(b, v128.load(t, 16));
    t = tables + ((w >> 3) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, TABLE_BYTES + 16));
    t = tables + ((w >> 11) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 2 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 2 * TABLE_BYTES + 16));
    t = tables + ((w >> 19) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 3 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 3 * TABLE_BYTES + 16));
    w = load<u32>(weights, 4);
    t = tables + ((w << 5) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 4 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 4 * TABLE_BYTES + 16));
    t = tables + ((w >> 3) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 5 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 5 * TABLE_BYTES + 16));
    t = tables + ((w >> 11) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 6 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 6 * TABLE_BYTES + 16));
    t = tables + ((w >> 19) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 7 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 7 * TABLE_BYTES + 16));
    v128.store(sums, a);
    v128.store(sums, b, 16);
  }
}

export function addPass8(tables: usize, sums: usize, weights: usize, rowBytes: usize, nRows: i32): void {
  for (const end = sums + (<usize>nRows << 4); sums < end; sums += 16, weights += rowBytes) {
    let w = load<u32>(weights);
    let a = v128.load(sums);
    let b = v128.load(tables + ((w << 4) & 0xff0));
    a = i16x8.add(a, v128.load(tables + ((w >> 4) & 0xff0), TABLE_BYTES));
    b = i16x8.add(b, v128.load(tables + ((w >> 12) & 0xff0), 2 * TABLE_BYTES));
    a = i16x8.add(a, v128.load(tables + ((w >> 20) & 0xff0), 3 * TABLE_BYTES));
    w = load<u32>(weights, 4);
    b = i16x8.add(b, v128.load(tables + ((w << 4) & 0xff0), 4 * TABLE_BYTES));
    a = i16x8.add(a, v128.load(tables + ((w >> 4) & 0xff0), 5 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(tables + ((w >> 12) & 0xff0), 6 * TABLE_BYTES));
    a = i16x8.add(a, v128.load(tables + ((w >> 20) & 0xff0), 7 * TABLE_BYTES));
    v128.store(sums, i16x8.add(a, b));
  }
}

/** i32 sums += i16 sums. */
export function widen(sums32: usize, sums16: usize, bytes: usize): void {
  for (const end = sums16 + bytes; sums16 < end; sums16 += 16, sums32 += 32) {
    const s = v128.load(sums16);
    v128.store(sums32, i32x4.add(v128.load(sums32), i32x4.extend_low_i16x8_s(s)));
    v128.store(sums32, i32x4.add(v128.load(sums32, 16), i32x4.extend_high_i16x8_s(s)), 16);
  }
}

/**
 * out[token][row] = f32(sum) / scale * weightScale: rounded as everywhere, four tokens at a time. `sumBytes` is the distance
 * of two rows of sums.
 */
export function finishBlock(
  out: usize,
  outStride: i32,
  nRows: i32,
  meta: usize,
  nTokens: i32,
  sumBytes: usize,
  weightScale: f32,
  sums32: usize,
): void {
  const tokenBytes = <usize>outStride << 2;
  const w = f32x4.splat(weightScale);
  for (let token = 0; token < nTokens; token += 4) {
    const left = nTokens - token;
    const at = meta + (<usize>token << 3);
    let scales = f32x4.splat(load<f32>(at));
    if (left > 1) scales = f32x4.replace_lane(scales, 1, load<f32>(at, 8));
    if (left > 2) scales = f32x4.replace_lane(scales, 2, load<f32>(at, 16));
    if (left > 3) scales = f32x4.replace_lane(scales, 3, load<f32>(at, 24));
    let target = out + <usize>token * tokenBytes;
    let sums = sums32 + (<usize>token << 2);
    for (const end = target + (<usize>nRows << 2); target < end; target += 4, sums += sumBytes) {
      const y = f32x4.mul(f32x4.div(f32x4.convert_i32x4_s(v128.load(sums)), scales), w);
      v128.store32_lane(target, y, 0);
      if (left > 1) v128.store32_lane(target + tokenBytes, y, 1);
      if (left > 2) v128.store32_lane(target + 2 * tokenBytes, y, 2);
      if (left > 3) v128.store32_lane(target + 3 * tokenBytes, y, 3);
    }
  }
}
