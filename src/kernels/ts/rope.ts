import type { RopeStyle } from '../interface.ts';

const f = Math.fround;

/** `Backend.rope`, in place. x: (n, nHeads * headDim) f32; angles: (n, headDim) f32, cosines then sines. */
export function rope(
  x: Float32Array,
  angles: Float32Array,
  nHeads: number,
  headDim: number,
  style: RopeStyle,
  n: number,
): void {
  const half = headDim / 2;
  for (let row = 0; row < n; row++) {
    const angleStart = row * headDim;
    for (let head = 0; head < nHeads; head++) {
      const start = (row * nHeads + head) * headDim;
      for (let i = 0; i < half; i++) {
        const first = style === 'neox' ? start + i : start + 2 * i;
        const second = style === 'neox' ? first + half : first + 1;
        const cos = angles[angleStart + i];
        const sin = angles[angleStart + half + i];
        const a = x[first];
        const b = x[second];
        x[first] = f(f(a * cos) - f(b * sin));
        x[second] = f(f(a * sin) + f(b * cos));
      }
    }
  }
}
