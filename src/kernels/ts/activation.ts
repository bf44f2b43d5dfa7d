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

/** 2 sqrt(2 / pi), and the coefficient of the cube. The same in `assembly/activation.ts`. */
const GELU_SLOPE = f(1.5957691216057308);
const GELU_CUBIC = f(0.044715);

/**
 * `Backend.gatedGelu` over `length` elements. gelu alone is off by at most 2e-7 * max(1, |gate|) where the gate is finite,
 * and where it is positive by at most 4 ulp (`test/unit/gelu.test.ts`).
 */
export function gatedGelu(out: Float32Array, gate: Float32Array, up: Float32Array, length: number): void {
  for (let i = 0; i < length; i++) {
    const g = gate[i];
    const t = f(f(GELU_SLOPE * g) * f(1 + f(f(GELU_CUBIC * g) * g)));
    out[i] = f(f(g / f(1 + expF32(-t))) * up[i]);
  }
}

/** `Backend.scale` over `length` elements. */
export function scale(out: Float32Array, x: Float32Array, factor: number, length: number): void {
  const by = f(factor);
  for (let i = 0; i < length; i++) out[i] = f(x[i] * by);
}

/** `Backend.add` over `length` elements. */
export function add(out: Float32Array, a: Float32Array, b: Float32Array, length: number): void {
  for (let i = 0; i < length; i++) out[i] = f(a[i] + b[i]);
}
