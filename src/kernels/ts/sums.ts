/**
 * The two summation orders of the kernel contract (`kernels/interface.ts`), written for reading.
 * @module
 */

const f = Math.fround;

/** Sixteen f32 running sums, folded in halves: see "dot16" in the contract. */
export function dot16(a: Float32Array, aStart: number, b: Float32Array, bStart: number, length: number): number {
  const s = new Float32Array(16);
  for (let i = 0; i < length; i++) {
    const lane = i & 15;
    s[lane] = f(s[lane] + f(a[aStart + i] * b[bStart + i]));
  }
  for (let lane = 0; lane < 8; lane++) s[lane] = f(s[lane] + s[lane + 8]);
  for (let lane = 0; lane < 4; lane++) s[lane] = f(s[lane] + s[lane + 4]);
  return f(f(s[0] + s[2]) + f(s[1] + s[3]));
}

/** Eight f64 running sums, folded in halves: see "sum8d" in the contract. `term(i)` must be an f32 value. */
export function sum8d(length: number, term: (i: number) => number): number {
  const s = new Float64Array(8);
  for (let i = 0; i < length; i++) s[i & 7] += term(i);
  for (let lane = 0; lane < 4; lane++) s[lane] += s[lane + 4];
  return s[0] + s[2] + (s[1] + s[3]);
}
