/**
 * `Backend.ternaryMatmul` for many tokens, without multiplications: lookup tables over tokens.
 *
 * A byte of packed weights holds four trits of one row. For a tile of 32 tokens and one byte position there are only 81
 * different sums -x0-x1-x2-x3 ... +x0+x1+x2+x3, each a vector over the tokens; they are built once and serve every row of the
 * matrix, which costs one vector load and add per four weights and eight tokens. The byte itself is the index: the table
 * has 171 places of 64 bytes (0xaa is the largest byte without a code of 3), 81 of them in use.
 *
 *   pass     8 neighbouring bytes of a row = 32 channels = 8 tables (88 KB, of which 41 KB are touched)
 *   i16      sums of 8 passes: 256 channels * 128 = 32768 with a minus sign at most, which i16 just holds
 *   i32      then widened; rows go in blocks so that their sums and weights stay in the second-level cache
 *
 * Sums are integers, so the result is that of `ternary-matmul.ts` exactly.
 */

const TOKENS: i32 = 32;
const ENTRY_BYTES: usize = 64;
/** 171 entries, and one so that tables do not begin at multiples of a power of two. */
const TABLE_BYTES: usize = 172 * 64;
const PASS_BYTES: usize = 8;
/** Bytes of a row between two widenings: 8 passes. */
const FLUSH_BYTES: usize = 64;
const BLOCK_ROWS: i32 = 2048;

// Scratch: tables, 4 transposed channels, i16 sums, i32 sums. LOOKUP_SCRATCH of src/kernels/wasm/backend.ts is the total.
const CHANNELS_AT: usize = 8 * TABLE_BYTES;
const SUMS16_AT: usize = CHANNELS_AT + 4 * ENTRY_BYTES;
const SUMS32_AT: usize = SUMS16_AT + <usize>BLOCK_ROWS * 64;

export function ternaryLookup(
  out: usize,
  outStride: i32,
  packed: usize,
  rowBytes: usize,
  weightScale: f32,
  codes: usize,
  stride: i32,
  meta: usize,
  n: i32,
  first: i32,
  last: i32,
  scratch: usize,
): void {
  for (let row = first; row < last; row += BLOCK_ROWS) {
    const nRows = min(BLOCK_ROWS, last - row);
    for (let token = 0; token < n; token += TOKENS) {
      const nTokens = min(TOKENS, n - token);
      const q = codes + <usize>token * <usize>stride;
      sumBlock(packed + <usize>row * rowBytes, rowBytes, nRows, q, <usize>stride, nTokens, scratch);
      finishBlock(
        out + ((<usize>token * <usize>outStride + <usize>row) << 2),
        outStride,
        nRows,
        meta + (<usize>token << 3),
        nTokens,
        weightScale,
        scratch + SUMS32_AT,
      );
    }
  }
}

/** i32 sums (rows, 32 tokens) of all channels. */
function sumBlock(
  packed: usize,
  rowBytes: usize,
  nRows: i32,
  q: usize,
  stride: usize,
  nTokens: i32,
  scratch: usize,
): void {
  for (let flush: usize = 0; flush < rowBytes; flush += FLUSH_BYTES) {
    const end = min(flush + FLUSH_BYTES, rowBytes);
    for (let at = flush; at < end; at += PASS_BYTES) {
      for (let byte: usize = 0; byte < PASS_BYTES; byte++) {
        transpose(scratch + CHANNELS_AT, q, stride, nTokens, at + byte);
        buildTable(scratch + byte * TABLE_BYTES, scratch + CHANNELS_AT);
      }
      addPass(scratch, packed + at, rowBytes, nRows, at == flush);
    }
    widen(scratch + SUMS32_AT, scratch + SUMS16_AT, nRows, flush == 0);
  }
}

/**
 * The four channels of one byte as i16 (4, 32 tokens). Byte p of block b holds channels 128 b + p, + 32, + 64, + 96.
 * Tokens beyond the last are zero.
 */
function transpose(target: usize, q: usize, stride: usize, nTokens: i32, byte: usize): void {
  const channel = (byte >> 5) * 128 + (byte & 31);
  if (nTokens < TOKENS) memory.fill(target, 0, 4 * ENTRY_BYTES);
  let from = q + channel;
  for (const end = target + (<usize>nTokens << 1); target < end; target += 2, from += stride) {
    store<i16>(target, load<i8>(from));
    store<i16>(target, load<i8>(from, 32), 64);
    store<i16>(target, load<i8>(from, 64), 128);
    store<i16>(target, load<i8>(from, 96), 192);
  }
}

/** Entry c0 << 6 | c1 << 4 | c2 << 2 | c3 = sum of (c - 1) * x, for eight tokens at a time. */
function buildTable(table: usize, channels: usize): void {
  for (let column: usize = 0; column < ENTRY_BYTES; column += 16) {
    const x0 = v128.load(channels + column);
    const x1 = v128.load(channels + column, 64);
    const x2 = v128.load(channels + column, 128);
    const x3 = v128.load(channels + column, 192);
    let a = i16x8.neg(x0);
    for (let c0: usize = 0; c0 < 3; c0++) {
      let b = i16x8.sub(a, x1);
      for (let c1: usize = 0; c1 < 3; c1++) {
        const at = table + column + (((c0 << 6) | (c1 << 4)) << 6);
        const low = i16x8.sub(b, x2);
        const high = i16x8.add(b, x2);
        v128.store(at, i16x8.sub(low, x3));
        v128.store(at, low, 1 * 64);
        v128.store(at, i16x8.add(low, x3), 2 * 64);
        v128.store(at, i16x8.sub(b, x3), 4 * 64);
        v128.store(at, b, 5 * 64);
        v128.store(at, i16x8.add(b, x3), 6 * 64);
        v128.store(at, i16x8.sub(high, x3), 8 * 64);
        v128.store(at, high, 9 * 64);
        v128.store(at, i16x8.add(high, x3), 10 * 64);
        b = i16x8.add(b, x1);
      }
      a = i16x8.add(a, x0);
    }
  }
}

/** Adds the eight entries that each row's eight bytes name to its i16 sums. */
function addPass(scratch: usize, weights: usize, rowBytes: usize, nRows: i32, fresh: bool): void {
  let sums = scratch + SUMS16_AT;
  const end = sums + (<usize>nRows << 6);
  if (fresh) memory.fill(sums, 0, <usize>nRows << 6);
  for (; sums < end; sums += 64, weights += rowBytes) {
    const w = load<u64>(weights);
    let a = v128.load(sums);
    let b = v128.load(sums, 16);
    let c = v128.load(sums, 32);
    let d = v128.load(sums, 48);
    // Byte k times 64, the size of an entry: one shift and one mask.
    let t = scratch + (<usize>(w << 6) & 0x3fc0);
    a = i16x8.add(a, v128.load(t));
    b = i16x8.add(b, v128.load(t, 16));
    c = i16x8.add(c, v128.load(t, 32));
    d = i16x8.add(d, v128.load(t, 48));
    t = scratch + (<usize>(w >> 2) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, TABLE_BYTES + 48));
    t = scratch + (<usize>(w >> 10) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 2 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 2 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 2 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 2 * TABLE_BYTES + 48));
    t = scratch + (<usize>(w >> 18) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 3 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 3 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 3 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 3 * TABLE_BYTES + 48));
    t = scratch + (<usize>(w >> 26) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 4 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 4 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 4 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 4 * TABLE_BYTES + 48));
    t = scratch + (<usize>(w >> 34) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 5 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 5 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 5 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 5 * TABLE_BYTES + 48));
    t = scratch + (<usize>(w >> 42) & 0x3fc0);
    a = i16x8.add(a, v128.load(t, 6 * TABLE_BYTES));
    b = i16x8.add(b, v128.load(t, 6 * TABLE_BYTES + 16));
    c = i16x8.add(c, v128.load(t, 6 * TABLE_BYTES + 32));
    d = i16x8.add(d, v128.load(t, 6 * TABLE_BYTES + 48));
    t = scratch + (<usize>(w >> 50) & 0x3fc0);
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

/** i32 sums += i16 sums, for all rows; or = for the first. */
function widen(sums32: usize, sums16: usize, nRows: i32, fresh: bool): void {
  if (fresh) memory.fill(sums32, 0, <usize>nRows << 7);
  const end = sums16 + (<usize>nRows << 6);
  for (; sums16 < end; sums16 += 16, sums32 += 32) {
    const s = v128.load(sums16);
    v128.store(sums32, i32x4.add(v128.load(sums32), i32x4.extend_low_i16x8_s(s)));
    v128.store(sums32, i32x4.add(v128.load(sums32, 16), i32x4.extend_high_i16x8_s(s)), 16);
  }
}

/** out[token][row] = f32(sum) / scale * weightScale: rounded as everywhere, four tokens at a time. */
function finishBlock(
  out: usize,
  outStride: i32,
  nRows: i32,
  meta: usize,
  nTokens: i32,
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
    for (const end = target + (<usize>nRows << 2); target < end; target += 4, sums += 128) {
      const y = f32x4.mul(f32x4.div(f32x4.convert_i32x4_s(v128.load(sums)), scales), w);
      v128.store32_lane(target, y, 0);
      if (left > 1) v128.store32_lane(target + tokenBytes, y, 1);
      if (left > 2) v128.store32_lane(target + 2 * tokenBytes, y, 2);
      if (left > 3) v128.store32_lane(target + 3 * tokenBytes, y, 3);
    }
  }
}
