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

/** From this many tokens on, tables are faster than unpacking and multiplying. Measured: bench/kernels. */
export const LOOKUP_TOKENS: i32 = 8;

const PASS_BYTES: usize = 8;
/** Bytes of a row between two widenings: 7 passes, 224 channels. */
const FLUSH_BYTES: usize = 56;
const BLOCK_ROWS: i32 = 2048;
/** Room of a table: 171 entries for 32 tokens, and one so that tables do not begin at multiples of a power of two. */
const TABLE_BYTES: usize = 172 * 64;

/** As many matrices with the same input use the same tables: q, k and v, gate and up. */
export const MAX_SHARERS: i32 = 4;
/** What `shareTables` notes of a matrix. */
const MATRIX_BYTES: usize = 32;

// Scratch: tables, 4 transposed channels, the matrices, i16 sums, i32 sums. LOOKUP_SCRATCH of src/kernels/wasm/backend.ts
// is the total.
const CHANNELS_AT: usize = 8 * TABLE_BYTES;
const MATRICES_AT: usize = CHANNELS_AT + 4 * 64;
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
      for (let byte: usize = 0; byte < PASS_BYTES; byte++) {
        transpose(scratch + CHANNELS_AT, entryBytes, q, stride, nTokens, at + byte);
        buildTable(scratch + byte * TABLE_BYTES, scratch + CHANNELS_AT, entryBytes);
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
 * The four channels of one byte as i16 (4, tile). Byte p of block b holds channels 128 b + p, + 32, + 64, + 96. Tokens
 * beyond the last are zero.
 */
export function transpose(target: usize, entryBytes: usize, q: usize, stride: usize, nTokens: i32, byte: usize): void {
  let from = q + (byte >> 5) * 128 + (byte & 31);
  memory.fill(target, 0, 4 * entryBytes);
  for (const end = target + (<usize>nTokens << 1); target < end; target += 2, from += stride) {
    store<i16>(target, load<i8>(from));
    store<i16>(target + entryBytes, load<i8>(from, 32));
    store<i16>(target + 2 * entryBytes, load<i8>(from, 64));
    store<i16>(target + 3 * entryBytes, load<i8>(from, 96));
  }
}

/** Entry c0 << 6 | c1 << 4 | c2 << 2 | c3 = sum of (c - 1) * x, for eight tokens at a time. */
export function buildTable(table: usize, channels: usize, entryBytes: usize): void {
  for (let column: usize = 0; column < entryBytes; column += 16) {
    const x0 = v128.load(channels + column);
    const x1 = v128.load(channels + column + entryBytes);
    const x2 = v128.load(channels + column + 2 * entryBytes);
    const x3 = v128.load(channels + column + 3 * entryBytes);
    let a = i16x8.neg(x0);
    for (let c0: usize = 0; c0 < 3; c0++) {
      let b = i16x8.sub(a, x1);
      for (let c1: usize = 0; c1 < 3; c1++) {
        let at = table + column + ((c0 << 6) | (c1 << 4)) * entryBytes;
        storeThree(at, entryBytes, i16x8.sub(b, x2), x3);
        at += 4 * entryBytes;
        storeThree(at, entryBytes, b, x3);
        storeThree(at + 4 * entryBytes, entryBytes, i16x8.add(b, x2), x3);
        b = i16x8.add(b, x1);
      }
      a = i16x8.add(a, x0);
    }
  }
}

// @ts-ignore: decorator
@inline
function storeThree(at: usize, entryBytes: usize, sum: v128, x: v128): void {
  v128.store(at, i16x8.sub(sum, x));
  v128.store(at + entryBytes, sum);
  v128.store(at + 2 * entryBytes, i16x8.add(sum, x));
}

// The three widths of a pass: each adds the eight entries that a row's eight bytes name to the row's i16 sums. A byte times
// the size of an entry is one shift and one mask. Written out, because that is what keeps the sums in registers.

export function addPass32(tables: usize, sums: usize, weights: usize, rowBytes: usize, nRows: i32): void {
  for (const end = sums + (<usize>nRows << 6); sums < end; sums += 64, weights += rowBytes) {
    const w = load<u64>(weights);
    let a = v128.load(sums);
    let b = v128.load(sums, 16);
    let c = v128.load(sums, 32);
    let d = v128.load(sums, 48);
    let t = tables + (<usize>(w << 6) & 0x3fc0);
    a = i16x8.add(a, v128.load(t));
    b = i16x8.add(b, v128.load(t, 16));
    c = i16x8.add(c, v128.load(t, 32));
    d = i16x8.add(d, v128.load(t, 48));
    t = tables + (<usize>(w >> 2) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, TABLE_BYTES + 48));
    t = tables + (<usize>(w >> 10) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 2 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 2 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 2 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 2 * TABLE_BYTES + 48));
    t = tables + (<usize>(w >> 18) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 3 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 3 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 3 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 3 * TABLE_BYTES + 48));
    t = tables + (<usize>(w >> 26) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 4 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 4 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 4 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 4 * TABLE_BYTES + 48));
    t = tables + (<usize>(w >> 34) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 5 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 5 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 5 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 5 * TABLE_BYTES + 48));
    t = tables + (<usize>(w >> 42) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 6 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 6 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 6 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 6 * TABLE_BYTES + 48));
    t = tables + (<usize>(w >> 50) & 0x3fc0);
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
    const w = load<u64>(weights);
    let a = v128.load(sums);
    let b = v128.load(sums, 16);
    let t = tables + (<usize>(w << 5) & 0x1fe0);
    a = i16x8.add(a, v128.load(t));
    b = i16x8.add(b, v128.load(t, 16));
    t = tables + (<usize>(w >> 3) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, TABLE_BYTES + 16));
    t = tables + (<usize>(w >> 11) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 2 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 2 * TABLE_BYTES + 16));
    t = tables + (<usize>(w >> 19) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 3 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 3 * TABLE_BYTES + 16));
    t = tables + (<usize>(w >> 27) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 4 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 4 * TABLE_BYTES + 16));
    t = tables + (<usize>(w >> 35) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 5 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 5 * TABLE_BYTES + 16));
    t = tables + (<usize>(w >> 43) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 6 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 6 * TABLE_BYTES + 16));
    t = tables + (<usize>(w >> 51) & 0x1fe0);
    a = i16x8.add(a, v128.load(t, 7 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 7 * TABLE_BYTES + 16));
    v128.store(sums, a);
    v128.store(sums, b, 16);
  }
}

export function addPass8(tables: usize, sums: usize, weights: usize, rowBytes: usize, nRows: i32): void {
  for (const end = sums + (<usize>nRows << 4); sums < end; sums += 16, weights += rowBytes) {
    const w = load<u64>(weights);
    let a = v128.load(sums);
    let b = v128.load(tables + (<usize>(w << 4) & 0xff0));
    a = i16x8.add(a, v128.load(tables + (<usize>(w >> 4) & 0xff0), TABLE_BYTES));
    b = i16x8.add(b, v128.load(tables + (<usize>(w >> 12) & 0xff0), 2 * TABLE_BYTES));
    a = i16x8.add(a, v128.load(tables + (<usize>(w >> 20) & 0xff0), 3 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(tables + (<usize>(w >> 28) & 0xff0), 4 * TABLE_BYTES));
    a = i16x8.add(a, v128.load(tables + (<usize>(w >> 36) & 0xff0), 5 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(tables + (<usize>(w >> 44) & 0xff0), 6 * TABLE_BYTES));
    a = i16x8.add(a, v128.load(tables + (<usize>(w >> 52) & 0xff0), 7 * TABLE_BYTES));
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
