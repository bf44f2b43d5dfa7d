/** The ops that go over a row once: as in `src/kernels/ts`, where each has its own file. */

import { GELU_CUBIC, GELU_SLOPE } from '../activation';
import { expF32 } from './math';
import { add8d, clear8d, fold8d } from './sums';

export function rmsNormRow(out: usize, x: usize, gain: usize, eps: f32, columns: i32, scratch: usize): void {
  clear8d(scratch);
  for (let i = 0; i < columns; i++) {
    const value = load<f32>(x + (<usize>i << 2));
    add8d(scratch, i, value * value);
  }
  const r: f32 = <f32>1 / sqrt<f32>(f32(fold8d(scratch) / f64(columns)) + eps);
  const bytes = <usize>columns << 2;
  for (let i: usize = 0; i < bytes; i += 4) store<f32>(out + i, load<f32>(x + i) * r * load<f32>(gain + i));
}

const QUANTIZE_EPS: f32 = 1e-5;

/** Layout of codes and meta: `assembly/quantize.ts`. */
export function quantizeRow(codes: usize, meta: usize, x: usize, columns: i32): void {
  let absmax = QUANTIZE_EPS;
  for (let i = 0; i < columns; i++) {
    const magnitude = abs<f32>(load<f32>(x + (<usize>i << 2)));
    if (magnitude > absmax) absmax = magnitude; // false for NaN
  }
  const scale: f32 = <f32>127 / absmax;
  let sum = 0;
  for (let i = 0; i < columns; i++) {
    const v = nearest<f32>(load<f32>(x + (<usize>i << 2)) * scale);
    const q: i32 = v != v ? 0 : v < -128 ? -128 : v > 127 ? 127 : <i32>v;
    store<i8>(codes + <usize>i, <i8>q);
    sum += q;
  }
  store<f32>(meta, scale);
  store<i32>(meta, sum, 4);
}

export function ropeRow(x: usize, angles: usize, nHeads: i32, headDim: i32, neox: i32): void {
  const half = <usize>headDim >> 1;
  const sines = angles + (half << 2);
  for (let head = 0; head < nHeads; head++, x += <usize>headDim << 2) {
    for (let i: usize = 0; i < half; i++) {
      const first = x + (neox ? i << 2 : i << 3);
      const second = first + (neox ? half << 2 : 4);
      const cos = load<f32>(angles + (i << 2));
      const sin = load<f32>(sines + (i << 2));
      const a = load<f32>(first);
      const b = load<f32>(second);
      store<f32>(first, a * cos - b * sin);
      store<f32>(second, a * sin + b * cos);
    }
  }
}

export function gatedRelu2(out: usize, gate: usize, up: usize, first: i32, last: i32): void {
  const end = <usize>last << 2;
  for (let i = <usize>first << 2; i < end; i += 4) {
    const r = max<f32>(load<f32>(gate + i), 0); // max lets NaN through
    store<f32>(out + i, r * r * load<f32>(up + i));
  }
}

export function gatedSilu(out: usize, gate: usize, up: usize, first: i32, last: i32): void {
  const end = <usize>last << 2;
  for (let i = <usize>first << 2; i < end; i += 4) {
    const g = load<f32>(gate + i);
    store<f32>(out + i, (g / (<f32>1 + expF32(-g))) * load<f32>(up + i));
  }
}

export function gatedGelu(out: usize, gate: usize, up: usize, first: i32, last: i32): void {
  const end = <usize>last << 2;
  for (let i = <usize>first << 2; i < end; i += 4) {
    const g = load<f32>(gate + i);
    const t = GELU_SLOPE * g * (<f32>1 + GELU_CUBIC * g * g);
    store<f32>(out + i, (g / (<f32>1 + expF32(-t))) * load<f32>(up + i));
  }
}

export function scale(out: usize, x: usize, factor: f32, first: i32, last: i32): void {
  const end = <usize>last << 2;
  for (let i = <usize>first << 2; i < end; i += 4) store<f32>(out + i, load<f32>(x + i) * factor);
}

export function add(out: usize, a: usize, b: usize, first: i32, last: i32): void {
  const end = <usize>last << 2;
  for (let i = <usize>first << 2; i < end; i += 4) store<f32>(out + i, load<f32>(a + i) + load<f32>(b + i));
}
