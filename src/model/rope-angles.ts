/**
 * The angles of rotary position embedding, in f64 by our own pow, sin and cos, rounded once to f32: the cheaper ways
 * (repeated multiplication in f32) drift with the position.
 * @module
 */

import { pow } from '../numeric/log.ts';
import { sinCos } from '../numeric/trig.ts';
import type { ModelConfig } from './config.ts';

/** Writes rows of `Backend.rope`'s angle table: headDim/2 cosines, then as many sines, for each position. */
export function createRopeAngles(
  c: Pick<ModelConfig, 'headDim' | 'ropeBase' | 'ropeFactor'>,
  factors: Float32Array | undefined,
) {
  const half = c.headDim / 2;
  const frequencies = new Float64Array(half);
  for (let i = 0; i < half; i++) {
    frequencies[i] = pow(c.ropeBase, (-2 * i) / c.headDim) / c.ropeFactor / (factors?.[i] ?? 1);
  }
  const pair = new Float64Array(2);
  return (out: Float32Array, row: number, position: number): void => {
    for (let i = 0; i < half; i++) {
      sinCos(position * frequencies[i], pair);
      out[row * c.headDim + i] = pair[1];
      out[row * c.headDim + half + i] = pair[0];
    }
  };
}
