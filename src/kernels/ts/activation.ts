import { expF32 } from '../../numeric/exp.ts';

const f = Math.fround;

/** `Backend.gatedRelu2` over `length` elements. */
export function gatedRelu2(out: Float32Array, gate: Float32Array, up: Float32Array, length: number): void {
  for (let i = 0; i < length; i++) {
    const r = gate[i] > 0 ? gate[i] : Number.isNaN(gate[i]) ? Number.NaN : 0;
    out[i] = f(f(r * r) * up[i]);
  }
}

/** `Backend.gatedSilu` over `length` elements. */
export function gatedSilu(out: Float32Array, gate: Float32Array, up: Float32Array, length: number): void {
  for (let i = 0; i < length; i++) out[i] = f(f(gate[i] / f(1 + expF32(-gate[i]))) * up[i]);
}

/** `Backend.add` over `length` elements. */
export function add(out: Float32Array, a: Float32Array, b: Float32Array, length: number): void {
  for (let i = 0; i < length; i++) out[i] = f(a[i] + b[i]);
}
