/** Dense weights, decoded as drawn in `src/tensors/{floats,q8_0,q6_k,affine}.ts`. */

import { AFFINE_BYTES, DENSE_AFFINE, DENSE_BF16, DENSE_F16, DENSE_F32, DENSE_Q6_K, DENSE_Q8_0 } from '../dense';
import { f16ToF32 } from './math';
import { dot16 } from './sums';

/** Writes `columns` f32 values to `target`. */
export function decodeRow(type: i32, target: usize, source: usize, columns: i32): void {
  const end = target + (<usize>columns << 2);
  switch (type) {
    case DENSE_F32:
      memory.copy(target, source, <usize>columns << 2);
      return;
    case DENSE_F16:
      for (; target < end; target += 4, source += 2) store<f32>(target, f16ToF32(load<i16>(source)));
      return;
    case DENSE_BF16:
      for (; target < end; target += 4, source += 2) store<u32>(target, <u32>load<u16>(source) << 16);
      return;
    case DENSE_Q8_0:
      for (; target < end; target += 128, source += 34) {
        const d = f16ToF32(load<i16>(source));
        for (let j: usize = 0; j < 32; j++) store<f32>(target + (j << 2), d * f32(load<i8>(source + j, 2)));
      }
      return;
    case DENSE_Q6_K:
      for (; target < end; target += 1024, source += 210) decodeQ6_K(target, source);
      return;
    case DENSE_AFFINE:
      for (; target < end; target += 128, source += AFFINE_BYTES) {
        const a = load<f32>(source);
        const b = load<f32>(source, 4);
        for (let j: usize = 0; j < 32; j++) store<f32>(target + (j << 2), a * f32(load<u8>(source + j, 8)) - b);
      }
      return;
    default:
      unreachable(); // the owner knows no other type
  }
}

/** One block: half h, group g, value i as drawn in `q6_k.ts`. */
function decodeQ6_K(target: usize, source: usize): void {
  const d = f16ToF32(load<i16>(source, 208));
  for (let at: usize = 0; at < 256; at++, target += 4) {
    const h = at >> 7;
    const g = (at >> 5) & 3;
    const i = at & 31;
    const low = (load<u8>(source + 64 * h + 32 * (g & 1) + i) >> <u8>(4 * (g >> 1))) & 15;
    const high = (load<u8>(source + 128 + 32 * h + i) >> <u8>(2 * g)) & 3;
    const scale = <i32>load<i8>(source + 192 + (at >> 4));
    store<f32>(target, d * f32(scale * ((<i32>low | (<i32>high << 4)) - 32)));
  }
}

/** One row of the matrix and all tokens; `out` points at the first token's result, the others are `outStride` apart. */
export function denseMatmul(
  out: usize,
  outStride: i32,
  type: i32,
  weight: usize,
  x: usize,
  columns: i32,
  n: i32,
  scratch: usize,
): void {
  if (type != DENSE_F32) {
    decodeRow(type, scratch, weight, columns);
    weight = scratch;
  }
  for (; n > 0; n--, out += <usize>outStride << 2, x += <usize>columns << 2) store<f32>(out, dot16(weight, x, columns));
}
