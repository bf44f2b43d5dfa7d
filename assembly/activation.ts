import { expF32x4 } from './math';

/** `Backend.gatedRelu2` for elements first..last-1. */
export function gatedRelu2(out: usize, gate: usize, up: usize, first: i32, last: i32): void {
  let i = first;
  for (; i + 4 <= last; i += 4) {
    const at = <usize>i << 2;
    const r = f32x4.max(v128.load(gate + at), f32x4.splat(0)); // max lets NaN through
    v128.store(out + at, f32x4.mul(f32x4.mul(r, r), v128.load(up + at)));
  }
  for (; i < last; i++) {
    const at = <usize>i << 2;
    const r = max<f32>(load<f32>(gate + at), 0);
    store<f32>(out + at, r * r * load<f32>(up + at));
  }
}

// @ts-ignore: decorator
@inline
function silu(g: v128): v128 {
  return f32x4.div(g, f32x4.add(f32x4.splat(1), expF32x4(f32x4.neg(g))));
}

/** `Backend.gatedSilu` for elements first..last-1. */
export function gatedSilu(out: usize, gate: usize, up: usize, first: i32, last: i32): void {
  let i = first;
  for (; i + 4 <= last; i += 4) {
    const at = <usize>i << 2;
    v128.store(out + at, f32x4.mul(silu(v128.load(gate + at)), v128.load(up + at)));
  }
  for (; i < last; i++) {
    const at = <usize>i << 2;
    const s = f32x4.extract_lane(silu(v128.load32_splat(gate + at)), 0);
    store<f32>(out + at, s * load<f32>(up + at));
  }
}

/** As in `src/kernels/ts/activation.ts`; a test compares. */
export const GELU_SLOPE: f32 = 1.5957691216057308;
export const GELU_CUBIC: f32 = 0.044715;

// @ts-ignore: decorator
@inline
function gelu(g: v128): v128 {
  const bend = f32x4.add(f32x4.splat(1), f32x4.mul(f32x4.mul(f32x4.splat(GELU_CUBIC), g), g));
  const t = f32x4.mul(f32x4.mul(f32x4.splat(GELU_SLOPE), g), bend);
  return f32x4.div(g, f32x4.add(f32x4.splat(1), expF32x4(f32x4.neg(t))));
}

/** `Backend.gatedGelu` for elements first..last-1. */
export function gatedGelu(out: usize, gate: usize, up: usize, first: i32, last: i32): void {
  let i = first;
  for (; i + 4 <= last; i += 4) {
    const at = <usize>i << 2;
    v128.store(out + at, f32x4.mul(gelu(v128.load(gate + at)), v128.load(up + at)));
  }
  for (; i < last; i++) {
    const at = <usize>i << 2;
    const y = f32x4.extract_lane(gelu(v128.load32_splat(gate + at)), 0);
    store<f32>(out + at, y * load<f32>(up + at));
  }
}

/** `Backend.scale` for elements first..last-1. */
export function scale(out: usize, x: usize, factor: f32, first: i32, last: i32): void {
  let i = first;
  for (; i + 4 <= last; i += 4) {
    const at = <usize>i << 2;
    v128.store(out + at, f32x4.mul(v128.load(x + at), f32x4.splat(factor)));
  }
  for (; i < last; i++) {
    const at = <usize>i << 2;
    store<f32>(out + at, load<f32>(x + at) * factor);
  }
}

/** `Backend.add` for elements first..last-1. */
export function add(out: usize, a: usize, b: usize, first: i32, last: i32): void {
  let i = first;
  for (; i + 4 <= last; i += 4) {
    const at = <usize>i << 2;
    v128.store(out + at, f32x4.add(v128.load(a + at), v128.load(b + at)));
  }
  for (; i < last; i++) {
    const at = <usize>i << 2;
    store<f32>(out + at, load<f32>(a + at) + load<f32>(b + at));
  }
}
