/**
 * How far another implementation of an op may be off, given what went in. Two cases.
 *
 * The inputs were the same bits. Integers are exact. A float is off by the roundings of the op: e = 2^-24 a rounding, in any
 * order of summation. A sum of K products is off by about sqrt(K) e of its size when f32 sums run through the row, the worst
 * case K e never occurs; bounds take eight times that. Angles of rope that were made in f32 by repeated products are off by
 * some e a step, times the position.
 *
 * The inputs were not seen, or in print only. Then each op is taken to have passed on the noise u of its inputs, relative RMS:
 *
 *     products, norms, rope      u
 *     activation(gate) * up      2 u(gate) + u(up)
 *     attention                  u(v) + s (u(q) + u(k)),   s the size of the scores: the softmax passes on their differences
 *     a + b                      root of the squares, each with its size
 *     int8 codes                 sqrt(max(u^2, 0.8 u / c)),   c the RMS of the row's codes
 *
 * The last is what makes traces part: a value moved by the fraction t of a step rounds to another code with the probability t
 * and is then off by a whole step, so that the mean square error is E|t|, not E(t^2); of normal differences E|t| is 0.8 of
 * their RMS. With c = 30, 1e-7 becomes 5e-5 behind the first codes, 1e-3 behind the second, and comes to rest at 0.8 / c,
 * which is near 3%. Four times u is allowed for, since rows differ in size.
 * @module
 */

import type { TraceData, TraceTensor } from '../../engine/types.ts';
import { type RowBound, rms } from './measure.ts';
import { headDimOf, type Scene } from './scene.ts';

const EPSILON = 2 ** -24;
/** What is allowed for, in units of the noise expected; and at most: beyond that nothing would be said. */
const MARGIN = 4;
const MOST_NOISE = 0.33;

/** The bounds of these rows of `expected`, (rows, columns) of `tensor`. */
export function boundsOf(
  tensor: TraceTensor,
  scene: Scene,
  expected: TraceData,
  rows: readonly number[],
  noise: number,
): RowBound[] {
  const spread = noise === 0 ? undefined : spreadOf(tensor, scene, expected);
  return rows.map((row) => ({
    element: elementBound(tensor, scene, expected, row),
    noise: Math.min(MARGIN * noise, MOST_NOISE),
    spread: spread && ((column) => spread[row * tensor.columns + column]),
  }));
}

/**
 * By how much noise of 1 moves each value, where that is not the same for all of a row: act(gate) * up is moved by its factors,
 * so that what is small stays so; and a norm keeps that.
 */
function spreadOf(tensor: TraceTensor, scene: Scene, expected: TraceData): Float32Array | undefined {
  const { op, columns, inputs } = tensor;
  const [x, y] = inputs.map((name) => scene.get(name));
  if (op === 'rmsNorm' && x !== undefined) {
    const spread = spreadOf(x.tensor, scene, x.rows);
    return spread?.map((value, i) => (x.rows[i] === 0 ? 0 : value * Math.abs(expected[i] / x.rows[i])));
  }
  if (!op.startsWith('gated') || x === undefined || y === undefined) return undefined;
  const size = (rows: TraceData) => rms({ data: rows, start: 0, columns: rows.length });
  const [gateSize, upSize] = [size(x.rows), size(y.rows)];
  const out = new Float32Array(expected.length - (expected.length % columns));
  for (let i = 0; i < out.length; i++) {
    const [gate, up] = [x.rows[i], Math.abs(y.rows[i])];
    if (op === 'gatedRelu2') {
      const open = Math.max(gate, 0) + 0.05 * gateSize;
      out[i] = open * up * gateSize + open * open * upSize;
    } else out[i] = up * gateSize + Math.abs(gate) * upSize;
  }
  return out;
}

/** Bits. */
export const EXACT: RowBound = { element: () => 0, noise: 0 };

function elementBound(tensor: TraceTensor, scene: Scene, expected: TraceData, row: number): RowBound['element'] {
  const { op, columns, facts, inputs } = tensor;
  const relative = (factor: number) => (value: number) => factor * EPSILON * Math.abs(value);
  switch (op) {
    case 'quantizeRows':
      return tensor.type === 'i8' ? () => 0 : relative(4);
    case 'acc':
      return () => 0;
    case 'embed':
    case 'add':
    case 'scale':
      return relative(4);
    case 'ternaryMatmul': // the scale of codes that were set may be off by its last bit
      return relative(8);
    case 'rmsNorm':
      return relative(16 + 2 * Math.sqrt(columns));
    case 'gatedRelu2':
      return relative(8);
    case 'gatedSilu':
      return relative(24);
    case 'gatedGelu': {
      // gelu itself is off by 2e-7 max(1, |gate|) where its factors cancel (kernels/ts/activation.ts).
      const [gate, up] = inputs.map((name) => scene.floats(name));
      const size = (i: number) =>
        Math.max(1, Math.abs(gate?.[row * columns + i] ?? 1)) * Math.abs(up?.[row * columns + i] ?? 1);
      return (value, i) => EPSILON * (24 * Math.abs(value) + 8 * size(i));
    }
    case 'denseMatmul': {
      const terms = scene.get(inputs[0])?.tensor.columns ?? columns;
      const size = rms({ data: expected, start: row * columns, columns });
      return (value) => EPSILON * 8 * (Math.abs(value) + Math.sqrt(terms) * size);
    }
    case 'rope': {
      const headDim = headDimOf(tensor);
      const angle = (4 + headDim / 32) * (tensor.position + row);
      const step = facts.style === 'neox' ? headDim / 2 : 1;
      const partner = (i: number) => {
        if (facts.style === undefined) return i;
        const isFirst = facts.style === 'neox' ? i % headDim < step : i % 2 === 0;
        return isFirst ? i + step : i - step;
      };
      return (value, i) => EPSILON * (8 + angle) * (Math.abs(value) + Math.abs(expected[row * columns + partner(i)]));
    }
    case 'attentionWeights': {
      const factor = 16 + scoreError(tensor, scene);
      return (value) => factor * EPSILON * Math.abs(value) + 2 ** -120;
    }
    case 'attention': {
      const { value: size } = scene.kvSize(tensor);
      const spread = 16 + scoreError(tensor, scene) + 2 * Math.sqrt(tensor.position + row + 1);
      return (value) => EPSILON * (8 * Math.abs(value) + size * spread);
    }
  }
}

/** By how many e scores may be off, and thereby, relatively, the terms of the softmax. */
function scoreError(tensor: TraceTensor, scene: Scene): number {
  return 2 * Math.sqrt(headDimOf(tensor)) * scoreSize(tensor, scene, 1);
}

/** A bound of the scores' magnitude; with `typical` < 1, what is usual. */
function scoreSize(tensor: TraceTensor, scene: Scene, typical: number): number {
  const headDim = headDimOf(tensor);
  const query = scene.get(tensor.inputs[0]);
  if (query === undefined) return 1;
  const { rows, tensor: q } = query;
  const size = rms({ data: rows, start: 0, columns: q.columns * q.rows }) * Math.sqrt(headDim);
  return Math.max(1, size * scene.kvSize(tensor).key * Number(tensor.facts.scale ?? 1 / Math.sqrt(headDim)) * typical);
}

/** RMS of codes of a row with absmax four times its RMS. */
const USUAL_CODE = 30;

/** Noise behind int8 codes with this RMS. */
function coded(noise: number, size: number): number {
  return noise === 0 ? 0 : Math.sqrt(Math.max(noise * noise, (0.8 * noise) / Math.max(size, 1)));
}

/** Noise where inputs are not in the trace: that of all before, and codes on the way. */
export function noiseAfterGap(scene: Scene, ownRoundings: boolean): number {
  let most = ownRoundings ? EPSILON : 0;
  for (const { noise } of scene.all()) most = Math.max(most, noise);
  return coded(most, USUAL_CODE);
}

/**
 * Relative RMS by which a candidate's own rows may differ from `rows`, which were computed here from inputs that may themselves
 * differ. `ownRoundings`: whether the candidate computes by rules of its own; `isPartial`: that `rows` are not all there.
 */
export function noiseAfter(
  tensor: TraceTensor,
  scene: Scene,
  rows: TraceData,
  ownRoundings: boolean,
  isPartial = false,
): number {
  const { op, columns, inputs } = tensor;
  const noises = inputs.map((name) => scene.get(name)?.noise ?? 0);
  const [first = 0, second = 0, third = 0] = noises;
  const own = ownRoundings ? EPSILON : 0;
  switch (op) {
    case 'embed':
      return own;
    case 'quantizeRows': {
      if (tensor.type !== 'i8') return first + own;
      return coded(first, isPartial ? USUAL_CODE : rms({ data: rows, start: 0, columns: rows.length }));
    }
    case 'acc':
      return first;
    case 'ternaryMatmul': // of a trace without codes they are made on the way
      return (inputs[0]?.endsWith('.codes') === true ? first : coded(first, USUAL_CODE)) + second + own;
    case 'rmsNorm':
    case 'denseMatmul':
      return first + own * Math.sqrt(scene.get(inputs[0])?.tensor.columns ?? columns);
    case 'rope':
    case 'scale':
      return first + 2 * own;
    case 'attentionWeights':
    case 'attention': {
      const score = scoreSize(tensor, scene, 1 / Math.sqrt(headDimOf(tensor)));
      return third + 2 * score * (first + second + own);
    }
    case 'gatedRelu2':
    case 'gatedSilu':
    case 'gatedGelu':
      return 2 * first + second + 4 * own;
    case 'add': {
      const size = (name: string) => {
        const seen = scene.get(name);
        return seen === undefined ? 0 : rms({ data: seen.rows, start: 0, columns: seen.rows.length });
      };
      const sum = rms({ data: rows, start: 0, columns: rows.length });
      const [a, b] = [first * size(inputs[0]), second * size(inputs[1])];
      return sum === 0 ? Math.max(first, second) : Math.sqrt(a * a + b * b) / sum + own;
    }
  }
}
