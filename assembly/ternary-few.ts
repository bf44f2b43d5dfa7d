/**
 * `Backend.ternaryMatmul` for a few tokens in the build with four-way dot products: two rows meet four tokens at a time, so that
 * a load serves two to four products and eight sums keep the instruction busy.
 */

import { CODE_MASK } from './layout';
import { dotAdd, finishRows, sumLanes, ternaryMatvec } from './ternary-matmul';

/** Rows first..last-1 of all `n` tokens. Rows go in two streams, as in `ternaryMatvec`, which takes the tokens that are left over. */
export function ternaryFew(
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
  const whole = n & ~3;
  const tokenBytes = <usize>outStride << 2;
  // An odd last row is its own partner.
  const half = (last - first + 1) >> 1;
  for (let i = 0; i < half; i++) {
    const row = first + i;
    const partner = min(row + half, last - 1);
    const w = packed + <usize>row * rowBytes;
    for (let token = 0; token < whole; token += 4) {
      dots2x4(scratch, w, <usize>(partner - row) * rowBytes, codes + <usize>token * <usize>stride, <usize>stride, rowBytes);
      let at = out + <usize>token * tokenBytes;
      for (let sums = scratch; sums < scratch + 32; sums += 8, at += tokenBytes) {
        store<i32>(at + (<usize>row << 2), load<i32>(sums));
        store<i32>(at + (<usize>partner << 2), load<i32>(sums, 4));
      }
    }
  }
  for (let token = 0; token < n; token++) {
    const at = out + <usize>token * tokenBytes;
    const m = meta + (<usize>token << 3);
    if (token < whole) finishRows(at + (<usize>first << 2), last - first, load<i32>(m, 4), load<f32>(m), weightScale);
    else ternaryMatvec(at, packed, rowBytes, weightScale, codes + <usize>token * <usize>stride, m, first, last);
  }
}

/** i32 (4 tokens, 2 rows) sums of codes times activations. */
export function dots2x4(sums: usize, w: usize, apart: usize, q0: usize, stride: usize, rowBytes: usize): void {
  const q1 = q0 + stride;
  const q2 = q1 + stride;
  const q3 = q2 + stride;
  const mask = v128.load(CODE_MASK);
  let a0 = i32x4.splat(0);
  let a1 = i32x4.splat(0);
  let a2 = i32x4.splat(0);
  let a3 = i32x4.splat(0);
  let b0 = i32x4.splat(0);
  let b1 = i32x4.splat(0);
  let b2 = i32x4.splat(0);
  let b3 = i32x4.splat(0);
  const other = w + apart;
  let p: usize = 0;
  for (let at: usize = 0; at < rowBytes; at += 16) {
    let v = v128.load(w + at);
    let u = v128.load(other + at);
    // From the lowest bits up, which are the last of the four quarters of a block.
    for (let quarter: usize = 128; quarter > 0; ) {
      quarter -= 32;
      const vCodes = v128.and(v, mask);
      const uCodes = v128.and(u, mask);
      v = i16x8.shr_u(v, 2);
      u = i16x8.shr_u(u, 2);
      let x = v128.load(q0 + p + quarter);
      a0 = dotAdd(a0, vCodes, x);
      b0 = dotAdd(b0, uCodes, x);
      x = v128.load(q1 + p + quarter);
      a1 = dotAdd(a1, vCodes, x);
      b1 = dotAdd(b1, uCodes, x);
      x = v128.load(q2 + p + quarter);
      a2 = dotAdd(a2, vCodes, x);
      b2 = dotAdd(b2, uCodes, x);
      x = v128.load(q3 + p + quarter);
      a3 = dotAdd(a3, vCodes, x);
      b3 = dotAdd(b3, uCodes, x);
    }
    // The two halves of a block of 32 bytes: activations 0..15 and 16..31 of each quarter; then the next block.
    p += at & 16 ? 112 : 16;
  }
  store<i32>(sums, sumLanes(a0));
  store<i32>(sums, sumLanes(b0), 4);
  store<i32>(sums, sumLanes(a1), 8);
  store<i32>(sums, sumLanes(b1), 12);
  store<i32>(sums, sumLanes(a2), 16);
  store<i32>(sums, sumLanes(b2), 20);
  store<i32>(sums, sumLanes(a3), 24);
  store<i32>(sums, sumLanes(b3), 28);
}
