// @ts-nocheck: AssemblyScript, compiled by ternary-matvec.ts
/**
 * The rungs of the ladder that are WebAssembly, slowest first. Every one computes
 *
 *     out[row] = sum over columns of (code - 1) * q[column]
 *
 * for rows of packed codes as drawn in src/tensors/packed.ts: blocks of 32 bytes hold 128 columns, and byte p of a
 * block has the codes of columns p, 32 + p, 64 + p, 96 + p, the first in its top bits. `sumQ` is the sum of q, which
 * turns sums of codes into sums of trits.
 *
 * Sums of i16 are widened after 8 blocks: 64 steps of 2 products of at most 2 * 128 (see assembly/ternary-matmul.ts).
 */

/** One weight at a time, as one would write it. */
export function scalar(out: usize, packed: usize, rows: i32, rowBytes: usize, q: usize, sumQ: i32): void {
  for (let row = 0; row < rows; row++) {
    const w = packed + row * rowBytes;
    let sum = 0;
    for (let b: usize = 0; b < rowBytes; b++) {
      const byte = i32(load<u8>(w + b));
      const x = q + (b >> 5) * 128 + (b & 31);
      sum += (byte >> 6) * i32(load<i8>(x));
      sum += ((byte >> 4) & 3) * i32(load<i8>(x, 32));
      sum += ((byte >> 2) & 3) * i32(load<i8>(x, 64));
      sum += (byte & 3) * i32(load<i8>(x, 96));
    }
    store<i32>(out + (row << 2), sum - sumQ);
  }
}

/** Products of 16 codes with 16 activations, added in pairs to 8 lanes. The module is compiled with and without. */
function dotStep(acc: v128, codes: v128, q: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return i16x8.add(acc, i16x8.relaxed_dot_i8x16_i7x16_s(q, codes));
  return i16x8.add(i16x8.add(acc, i16x8.extmul_low_i8x16_s(codes, q)), i16x8.extmul_high_i8x16_s(codes, q));
}

function sumLanes(v: v128): i32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}

/** 64 weights a turn; the mask is written where it is used, and so made anew at every use (V8). */
export function literalMask(out: usize, packed: usize, rows: i32, rowBytes: usize, q: usize, sumQ: i32): void {
  for (let row = 0; row < rows; row++) {
    const w = packed + row * rowBytes;
    let total = i32x4.splat(0);
    for (let block: usize = 0; block < rowBytes; block += 256) {
      let a = i16x8.splat(0);
      const end = min(block + 256, rowBytes);
      for (let b = block; b < end; b += 16) {
        const x = q + (b >> 5) * 128 + (b & 16);
        const v = v128.load(w + b);
        a = dotStep(a, v128.and(i16x8.shr_u(v, 6), i8x16.splat(3)), v128.load(x));
        a = dotStep(a, v128.and(i16x8.shr_u(v, 4), i8x16.splat(3)), v128.load(x, 32));
        a = dotStep(a, v128.and(i16x8.shr_u(v, 2), i8x16.splat(3)), v128.load(x, 64));
        a = dotStep(a, v128.and(v, i8x16.splat(3)), v128.load(x, 96));
      }
      total = i32x4.add(total, i32x4.extadd_pairwise_i16x8_s(a));
    }
    store<i32>(out + (row << 2), sumLanes(total) - sumQ);
  }
}

/** The mask is loaded from memory once: what came from memory stays in a register. `mask` is its address. */
export function loadedMask(
  out: usize,
  packed: usize,
  rows: i32,
  rowBytes: usize,
  q: usize,
  sumQ: i32,
  mask: usize,
): void {
  const m = v128.load(mask);
  for (let row = 0; row < rows; row++) {
    const w = packed + row * rowBytes;
    let total = i32x4.splat(0);
    for (let block: usize = 0; block < rowBytes; block += 256) {
      let a = i16x8.splat(0);
      const end = min(block + 256, rowBytes);
      for (let b = block; b < end; b += 16) {
        const x = q + (b >> 5) * 128 + (b & 16);
        const v = v128.load(w + b);
        a = dotStep(a, v128.and(i16x8.shr_u(v, 6), m), v128.load(x));
        a = dotStep(a, v128.and(i16x8.shr_u(v, 4), m), v128.load(x, 32));
        a = dotStep(a, v128.and(i16x8.shr_u(v, 2), m), v128.load(x, 64));
        a = dotStep(a, v128.and(v, m), v128.load(x, 96));
      }
      total = i32x4.add(total, i32x4.extadd_pairwise_i16x8_s(a));
    }
    store<i32>(out + (row << 2), sumLanes(total) - sumQ);
  }
}

/** Four rows at a time: each load of activations serves four rows, and four sums run side by side. */
export function fourRows(
  out: usize,
  packed: usize,
  rows: i32,
  rowBytes: usize,
  q: usize,
  sumQ: i32,
  mask: usize,
): void {
  const m = v128.load(mask);
  for (let row = 0; row + 4 <= rows; row += 4) {
    const w0 = packed + row * rowBytes;
    const w1 = w0 + rowBytes;
    const w2 = w1 + rowBytes;
    const w3 = w2 + rowBytes;
    let t0 = i32x4.splat(0);
    let t1 = i32x4.splat(0);
    let t2 = i32x4.splat(0);
    let t3 = i32x4.splat(0);
    for (let block: usize = 0; block < rowBytes; block += 256) {
      let a0 = i16x8.splat(0);
      let a1 = i16x8.splat(0);
      let a2 = i16x8.splat(0);
      let a3 = i16x8.splat(0);
      const end = min(block + 256, rowBytes);
      for (let b = block; b < end; b += 16) {
        const x = q + (b >> 5) * 128 + (b & 16);
        const q0 = v128.load(x);
        const q1 = v128.load(x, 32);
        const q2 = v128.load(x, 64);
        const q3 = v128.load(x, 96);
        const v0 = v128.load(w0 + b);
        a0 = dotStep(a0, v128.and(i16x8.shr_u(v0, 6), m), q0);
        a0 = dotStep(a0, v128.and(i16x8.shr_u(v0, 4), m), q1);
        a0 = dotStep(a0, v128.and(i16x8.shr_u(v0, 2), m), q2);
        a0 = dotStep(a0, v128.and(v0, m), q3);
        const v1 = v128.load(w1 + b);
        a1 = dotStep(a1, v128.and(i16x8.shr_u(v1, 6), m), q0);
        a1 = dotStep(a1, v128.and(i16x8.shr_u(v1, 4), m), q1);
        a1 = dotStep(a1, v128.and(i16x8.shr_u(v1, 2), m), q2);
        a1 = dotStep(a1, v128.and(v1, m), q3);
        const v2 = v128.load(w2 + b);
        a2 = dotStep(a2, v128.and(i16x8.shr_u(v2, 6), m), q0);
        a2 = dotStep(a2, v128.and(i16x8.shr_u(v2, 4), m), q1);
        a2 = dotStep(a2, v128.and(i16x8.shr_u(v2, 2), m), q2);
        a2 = dotStep(a2, v128.and(v2, m), q3);
        const v3 = v128.load(w3 + b);
        a3 = dotStep(a3, v128.and(i16x8.shr_u(v3, 6), m), q0);
        a3 = dotStep(a3, v128.and(i16x8.shr_u(v3, 4), m), q1);
        a3 = dotStep(a3, v128.and(i16x8.shr_u(v3, 2), m), q2);
        a3 = dotStep(a3, v128.and(v3, m), q3);
      }
      t0 = i32x4.add(t0, i32x4.extadd_pairwise_i16x8_s(a0));
      t1 = i32x4.add(t1, i32x4.extadd_pairwise_i16x8_s(a1));
      t2 = i32x4.add(t2, i32x4.extadd_pairwise_i16x8_s(a2));
      t3 = i32x4.add(t3, i32x4.extadd_pairwise_i16x8_s(a3));
    }
    store<i32>(out + (row << 2), sumLanes(t0) - sumQ);
    store<i32>(out + (row << 2), sumLanes(t1) - sumQ, 4);
    store<i32>(out + (row << 2), sumLanes(t2) - sumQ, 8);
    store<i32>(out + (row << 2), sumLanes(t3) - sumQ, 12);
  }
}

/**
 * Five weights a byte, 1.6 bits each: for machines on which memory is the limit. Blocks of 16 bytes hold 80 columns, byte p those
 * of p, 16 + p, ... 64 + p as a fraction of 256 in base 3; three times a byte has the first digit above its lowest 8 bits.
 */
export function fivePerByte(out: usize, packed: usize, rows: i32, rowBytes: usize, q: usize, sumQ: i32): void {
  const bytesOfRow = (rowBytes * 4) / 5;
  for (let row = 0; row < rows; row++) {
    let w = packed + row * bytesOfRow;
    let x = q;
    let total = i32x4.splat(0);
    for (const end = w + bytesOfRow; w < end; w += 16) {
      const v = v128.load(w);
      let low = i16x8.extend_low_i8x16_u(v);
      let high = i16x8.extend_high_i8x16_u(v);
      let a = i16x8.splat(0);
      for (let digit = 0; digit < 5; digit++, x += 16) {
        low = i16x8.add(low, i16x8.add(low, low));
        high = i16x8.add(high, i16x8.add(high, high));
        const codes = i8x16.narrow_i16x8_u(i16x8.shr_u(low, 8), i16x8.shr_u(high, 8));
        a = dotStep(a, codes, v128.load(x));
        low = v128.and(low, i16x8.splat(255));
        high = v128.and(high, i16x8.splat(255));
      }
      total = i32x4.add(total, i32x4.extadd_pairwise_i16x8_s(a));
    }
    store<i32>(out + (row << 2), sumLanes(total) - sumQ);
  }
}
