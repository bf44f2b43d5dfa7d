/**
 * How fast a build multiplies on this machine, for comparing builds with each other.
 *
 * Runtimes begin with code from a quick compiler and replace it after some milliseconds: in its first 2 ms on Node 20 the
 * fastest build does 1 GMAC/s and a slower one with warm code 19; after 10 ms it does 50. So the budget must be some 20 ms,
 * and the best round counts.
 * @module
 */

import type { Backend } from '../interface.ts';

/** A quarter of the attention matrices of BitNet-b1.58-2B-4T: realistic rows, and small enough for any cache. */
const ROWS = 640;
const COLUMNS = 2560;

/** Billions of multiplications a second of a ternary matrix with `tokens` tokens; 1 and 8 or more take different kernels. */
export async function multiplySpeed(backend: Backend, tokens: number, budgetMs: number): Promise<number> {
  const weight = await backend.upload({
    kind: 'ternary',
    name: 'speed test',
    rows: ROWS,
    columns: COLUMNS,
    byteLength: (ROWS * COLUMNS) / 4,
    fill: async (target) => {
      for (let i = 0; i < target.length; i++) target[i] = [0x5a, 0x91, 0x06, 0x68, 0x24][i % 5];
      return 1;
    },
  });
  const x = backend.alloc('f32', [tokens, COLUMNS]);
  const q = backend.allocQuantized(tokens, COLUMNS);
  const out = backend.alloc('f32', [tokens, ROWS]);
  backend.write(
    x,
    Float32Array.from({ length: tokens * COLUMNS }, (_, i) => (i % 251) - 125),
  );
  backend.quantizeRows(q, x, tokens);
  await backend.read(out, 1);
  let bestMs = Infinity;
  const endMs = performance.now() + budgetMs;
  do {
    const startMs = performance.now();
    backend.ternaryMatmul(out, weight, q, tokens);
    await backend.read(out, 1);
    const nowMs = performance.now();
    // A clock that ticks too slowly (browsers round it) may show no time at all.
    if (nowMs > startMs) bestMs = Math.min(bestMs, nowMs - startMs);
  } while (performance.now() < endMs);
  return (tokens * ROWS * COLUMNS) / bestMs / 1e6;
}
