/**
 * Attention for the usual case, an f16 cache whose entries are all finite: several rows of a prompt, or one, with the query heads
 * of one key/value head. Keys and values are decoded a block of positions at a time, once for all rows and heads.
 *
 * Finite halves are used as they stand, their exponent in f32's place, which makes them 2^112 too small; the other
 * factor, a query or weight, is made 2^112 larger. Both are exact and so is their product before it is rounded.
 *
 * Loops work on pairs of vectors side by side in memory, from load to store, which V8 joins into vectors of 256 bits where it
 * was told to (`widenVectors` in src/platform/host-node.ts).
 */

import { exponentials, largest, multiply } from './attention';
import { rebias } from './dense';
import { F16_MASK, F16_SCALE } from './layout';
import { placeHigh, placeLow } from './math';

/** Rows taken together. */
export const ROWS: i32 = 4;

// A thread's scratch: sums of exponentials, then two keys' partial sums, then the queries, then a block of keys or values; the
// weights (rows * group, weightStride) follow at ATTENTION_HEAD_ROOM (index.ts).
const TOTALS: usize = 64;
const PARTS: usize = 4096;
const QUERIES: usize = 8192;
const BLOCK: usize = 73728;

/**
 * Most values of the queries of all rows, and of a block: small, so that memory is read ahead while the block before is worked on
 * (measured from memory, 512 positions: 5.5 ms a token; with blocks four times as large 7.8).
 */
const MAX_QUERY_VALUES: i32 = 16384;
const BLOCK_VALUES: i32 = 2048;

/** Whether shapes fit into the scratch and the vectors. The sums of `rows * group` heads must, too. */
export function canAttendRows(rows: i32, group: i32, headDim: i32): bool {
  return (headDim & 15) == 0 && headDim <= 1024 && rows * group * headDim <= MAX_QUERY_VALUES && rows * group <= 512;
}

/**
 * Rows at consecutive positions; the first sees `visible` positions. `q` and `out` point at the first row's first head,
 * rows are `rowBytes` apart. Returns false, with nothing done, when a query is too large for its exponent to be moved.
 */
export function attendRows(
  out: usize,
  q: usize,
  rowBytes: usize,
  rows: i32,
  group: i32,
  keys: usize,
  values: usize,
  headDim: i32,
  visible: i32,
  scale: f32,
  scratch: usize,
  weights: usize,
  weightStride: usize,
): bool {
  const headBytes = <usize>headDim << 2;
  const groupBytes = <usize>group * headBytes;
  for (let row: usize = 0; row < <usize>rows; row++) {
    if (!rebias(scratch + QUERIES + row * groupBytes, q + row * rowBytes, group * headDim)) return false;
  }
  const block = BLOCK_VALUES / headDim;
  const decoded = scratch + BLOCK;
  const last = visible + rows - 1;
  const heads = rows * group;
  for (let first = 0; first < last; first += block) {
    const count = min(block, last - first);
    placeF16(decoded, keys + <usize>first * (headBytes >> 1), count * headDim);
    for (let i = 0; i < heads; i++) {
      // A row sees one position more than the row before; the first rows may see nothing of the last block.
      const seen = max(0, min(count, visible + i / group - first));
      const at = weights + <usize>i * weightStride + (<usize>first << 2);
      scoreKeys(at, scratch + QUERIES + <usize>i * headBytes, decoded, headBytes, seen, scratch + PARTS);
    }
  }
  const two112 = f32x4.extract_lane(v128.load(F16_SCALE), 0);
  for (let i = 0; i < heads; i++) {
    const row = weights + <usize>i * weightStride;
    const seen = visible + i / group;
    multiply(row, seen, scale);
    store<f32>(scratch + TOTALS + (<usize>i << 2), exponentials(row, seen, largest(row, seen), scratch));
    multiply(row, seen, two112);
  }
  for (let row: usize = 0; row < <usize>rows; row++) memory.fill(out + row * rowBytes, 0, groupBytes);
  for (let first = 0; first < last; first += block) {
    const count = min(block, last - first);
    placeF16(decoded, values + <usize>first * (headBytes >> 1), count * headDim);
    for (let row = 0; row < rows; row++) {
      const seen = max(0, min(count, visible + row - first));
      const w = weights + <usize>(row * group) * weightStride + (<usize>first << 2);
      const target = out + <usize>row * rowBytes;
      let head = 0;
      for (; head + 4 <= group; head += 4) {
        addValues4(target + <usize>head * headBytes, headBytes, w + <usize>head * weightStride, weightStride, decoded, seen);
      }
      for (; head < group; head++) {
        addValues(target + <usize>head * headBytes, headBytes, w + <usize>head * weightStride, decoded, seen);
      }
    }
  }
  for (let i = 0; i < heads; i++) {
    const at = out + <usize>(i / group) * rowBytes + <usize>(i % group) * headBytes;
    divide(at, headBytes, v128.load32_splat(scratch + TOTALS + (<usize>i << 2)));
  }
  return true;
}

function divide(at: usize, bytes: usize, total: v128): void {
  for (const end = at + bytes; at < end; at += 16) v128.store(at, f32x4.div(v128.load(at), total));
}

/** f16 to f32 * 2^-112; length is a multiple of 16. */
export function placeF16(target: usize, source: usize, length: i32): void {
  const mask = v128.load(F16_MASK);
  for (const end = source + (<usize>length << 1); source < end; source += 16, target += 32) {
    const h = v128.load(source);
    v128.store(target, placeLow(h, mask));
    v128.store(target, placeHigh(h, mask), 16);
  }
}

/** scores[j] = dot16(query, key j) for `count` keys one after the other, two at a time. */
export function scoreKeys(scores: usize, query: usize, keys: usize, keyBytes: usize, count: i32, parts: usize): void {
  for (let j = 0; j < count; j += 2, scores += 8, keys += 2 * keyBytes) {
    // The second of a last pair is not there: the first stands in, and its result is not stored.
    const both = j + 1 < count;
    const r = dotPair(query, keys, both ? keyBytes : 0, keyBytes, parts);
    if (both) v128.store64_lane(scores, r, 0);
    else v128.store32_lane(scores, r, 0);
  }
}

/** dot16 of a query with two keys, in lanes 0 and 1. */
export function dotPair(query: usize, key: usize, apart: usize, bytes: usize, parts: usize): v128 {
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  let t0 = f32x4.splat(0);
  let t1 = f32x4.splat(0);
  let t2 = f32x4.splat(0);
  let t3 = f32x4.splat(0);
  const other = key + apart;
  for (let i: usize = 0; i < bytes; i += 64) {
    const q0 = v128.load(query + i);
    const q1 = v128.load(query + i, 16);
    const q2 = v128.load(query + i, 32);
    const q3 = v128.load(query + i, 48);
    s0 = f32x4.add(s0, f32x4.mul(q0, v128.load(key + i)));
    s1 = f32x4.add(s1, f32x4.mul(q1, v128.load(key + i, 16)));
    s2 = f32x4.add(s2, f32x4.mul(q2, v128.load(key + i, 32)));
    s3 = f32x4.add(s3, f32x4.mul(q3, v128.load(key + i, 48)));
    t0 = f32x4.add(t0, f32x4.mul(q0, v128.load(other + i)));
    t1 = f32x4.add(t1, f32x4.mul(q1, v128.load(other + i, 16)));
    t2 = f32x4.add(t2, f32x4.mul(q2, v128.load(other + i, 32)));
    t3 = f32x4.add(t3, f32x4.mul(q3, v128.load(other + i, 48)));
  }
  v128.store(parts, s0);
  v128.store(parts, s1, 16);
  v128.store(parts, s2, 32);
  v128.store(parts, s3, 48);
  v128.store(parts, t0, 64);
  v128.store(parts, t1, 80);
  v128.store(parts, t2, 96);
  v128.store(parts, t3, 112);
  const s = fold(parts);
  const t = fold(parts + 64);
  // (l0 + l2) + (l1 + l3) of both.
  const pairs = f32x4.add(i32x4.shuffle(s, t, 0, 4, 1, 5), i32x4.shuffle(s, t, 2, 6, 3, 7));
  return f32x4.add(pairs, i32x4.shuffle(pairs, pairs, 2, 3, 2, 3));
}

// @ts-ignore: decorator
@inline
function fold(parts: usize): v128 {
  const even = f32x4.add(v128.load(parts), v128.load(parts, 32));
  return f32x4.add(even, f32x4.add(v128.load(parts, 16), v128.load(parts, 48)));
}

/** Adds `count` weighted values to the sums of four heads in `out`, eight columns at a time; positions ascend for every sum. */
export function addValues4(
  out: usize,
  headBytes: usize,
  weights: usize,
  weightStride: usize,
  values: usize,
  count: i32,
): void {
  const w1 = weights + weightStride;
  const w2 = w1 + weightStride;
  const w3 = w2 + weightStride;
  const o1 = out + headBytes;
  const o2 = o1 + headBytes;
  const o3 = o2 + headBytes;
  const end = <usize>count << 2;
  for (let d: usize = 0; d < headBytes; d += 32) {
    let a0 = v128.load(out + d);
    let a1 = v128.load(out + d, 16);
    let b0 = v128.load(o1 + d);
    let b1 = v128.load(o1 + d, 16);
    let c0 = v128.load(o2 + d);
    let c1 = v128.load(o2 + d, 16);
    let e0 = v128.load(o3 + d);
    let e1 = v128.load(o3 + d, 16);
    let v = values + d;
    for (let j: usize = 0; j < end; j += 4, v += headBytes) {
      const x = v128.load(v);
      const y = v128.load(v, 16);
      let w = v128.load32_splat(weights + j);
      a0 = f32x4.add(a0, f32x4.mul(w, x));
      a1 = f32x4.add(a1, f32x4.mul(w, y));
      w = v128.load32_splat(w1 + j);
      b0 = f32x4.add(b0, f32x4.mul(w, x));
      b1 = f32x4.add(b1, f32x4.mul(w, y));
      w = v128.load32_splat(w2 + j);
      c0 = f32x4.add(c0, f32x4.mul(w, x));
      c1 = f32x4.add(c1, f32x4.mul(w, y));
      w = v128.load32_splat(w3 + j);
      e0 = f32x4.add(e0, f32x4.mul(w, x));
      e1 = f32x4.add(e1, f32x4.mul(w, y));
    }
    v128.store(out + d, a0);
    v128.store(out + d, a1, 16);
    v128.store(o1 + d, b0);
    v128.store(o1 + d, b1, 16);
    v128.store(o2 + d, c0);
    v128.store(o2 + d, c1, 16);
    v128.store(o3 + d, e0);
    v128.store(o3 + d, e1, 16);
  }
}

/** The same for one head. */
export function addValues(out: usize, headBytes: usize, weights: usize, values: usize, count: i32): void {
  const end = <usize>count << 2;
  for (let d: usize = 0; d < headBytes; d += 64) {
    let s0 = v128.load(out + d);
    let s1 = v128.load(out + d, 16);
    let s2 = v128.load(out + d, 32);
    let s3 = v128.load(out + d, 48);
    let v = values + d;
    for (let j: usize = 0; j < end; j += 4, v += headBytes) {
      const w = v128.load32_splat(weights + j);
      s0 = f32x4.add(s0, f32x4.mul(w, v128.load(v)));
      s1 = f32x4.add(s1, f32x4.mul(w, v128.load(v, 16)));
      s2 = f32x4.add(s2, f32x4.mul(w, v128.load(v, 32)));
      s3 = f32x4.add(s3, f32x4.mul(w, v128.load(v, 48)));
    }
    v128.store(out + d, s0);
    v128.store(out + d, s1, 16);
    v128.store(out + d, s2, 32);
    v128.store(out + d, s3, 48);
  }
}
