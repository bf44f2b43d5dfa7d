/**
 * Vectors of the ops of graphs, computed by the plain TypeScript kernels, which are their definition.
 *
 * Sizes leave remainders for every vector width; kinds of numbers are those of the conformance suite: ties of rounding, zeros of
 * both signs, exponents from end to end, NaN and infinities.
 * @module
 */

import { boundOf, ofSum } from '../../kernels/conformance/tolerance.ts';
import { type ValueKind, values } from '../../kernels/conformance/values.ts';
import { add, gatedGelu, gatedRelu2, gatedSilu, scale } from '../../kernels/ts/activation.ts';
import { attention, softmaxTerms } from '../../kernels/ts/attention.ts';
import { rmsNorm } from '../../kernels/ts/norm.ts';
import { quantizeRows } from '../../kernels/ts/quantize.ts';
import { rope } from '../../kernels/ts/rope.ts';
import { dot16, sum8d } from '../../kernels/ts/sums.ts';
import { createRopeAngles } from '../../model/rope-angles.ts';
import { decodeF16s, encodeF16s } from '../../numeric/f16.ts';
import { array } from './array.ts';
import type { Vector } from './types.ts';

const f = Math.fround;
const KINDS: readonly ValueKind[] = ['normal', 'ties', 'zeros', 'extreme', 'special'];
/** Of these a bound says something whatever the order of sums; the others are for who follows it. */
const TAME: readonly ValueKind[] = ['normal', 'ties', 'zeros', 'equal', 'negative'];

export function* kernelVectors(): Generator<Vector> {
  yield* quantisation();
  yield* norms();
  yield* products();
  yield* rotations();
  yield* softmaxes();
  yield* attentions();
  yield* activations();
}

function* quantisation(): Generator<Vector> {
  const one = (name: string, x: Float32Array, n: number): Vector => {
    const columns = x.length / n;
    const [codes, scales] = [new Int8Array(x.length), new Float32Array(n)];
    quantizeRows(codes, scales, x, columns, n);
    return {
      name: `quantizeRows/${name}`,
      op: 'quantizeRows',
      parameters: {},
      inputs: { x: array(x, n, columns) },
      outputs: { codes: array(codes, n, columns), scales: array(scales, n) },
    };
  };
  for (const kind of [...KINDS, 'equal', 'negative'] as const) yield one(kind, values(kind, 3 * 203, 100), 3);
  // All magnitudes below 1e-5: the scale is 127 / 1e-5, not 127 / max.
  yield one('below-epsilon', scaled(values('normal', 2 * 203, 101), 2 ** -20), 2);
  yield one('long-rows', values('normal', 2 * 6912, 102), 2);
  // Rows of one value: x * (127 / x) is not always 127 before it is rounded.
  yield one('single-values', values('extreme', 500, 103), 500);
}

function* norms(): Generator<Vector> {
  const one = (name: string, kind: ValueKind, n: number, columns: number, eps: number): Vector => {
    const x = values(kind, n * columns, 200);
    const gain = values('normal', columns, 201);
    const out = new Float32Array(x.length);
    rmsNorm(out, x, gain, eps, columns, n);
    return {
      name: `rmsNorm/${name}`,
      op: 'rmsNorm',
      parameters: { eps },
      inputs: { x: array(x, n, columns), gain: array(gain, columns) },
      outputs: { out: array(out, n, columns) },
      bound: TAME.includes(kind) ? boundOf({ op: 'rmsNorm', seed: 0, n, columns, kind }) : undefined,
    };
  };
  for (const kind of KINDS) yield one(kind, kind, 2, 77, 1e-5);
  for (const columns of [1, 7, 256]) yield one(`columns-${columns}`, 'normal', 3, columns, 1e-6);
  yield one('columns-6912', 'normal', 1, 6912, 1e-5);
}

/** Products of floats; those of trits are in `packed.ts`. */
function* products(): Generator<Vector> {
  const one = (name: string, kind: ValueKind, n: number, rows: number, columns: number): Vector => {
    const x = values(kind, n * columns, 300);
    const weight = values('normal', rows * columns, 301);
    const out = new Float32Array(n * rows);
    for (let i = 0; i < out.length; i++) {
      out[i] = dot16(weight, (i % rows) * columns, x, Math.floor(i / rows) * columns, columns);
    }
    const bound = boundOf({ op: 'denseMatmul', seed: 0, n, rows, columns, dtype: 'F32', kind });
    return {
      name: `denseMatmul/${name}`,
      op: 'denseMatmul',
      parameters: {},
      inputs: { x: array(x, n, columns), weight: array(weight, rows, columns) },
      outputs: { out: array(out, n, rows) },
      bound: TAME.includes(kind) ? bound : undefined,
    };
  };
  for (const columns of [1, 15, 16, 31, 256]) yield one(`columns-${columns}`, 'normal', 2, 9, columns);
  yield one('columns-2560', 'normal', 1, 8, 2560);
  for (const kind of KINDS.slice(1)) yield one(kind, kind, 1, 6, 100);
}

function* rotations(): Generator<Vector> {
  const positions = [0, 1, 2, 63, 2047, 4095, 131071, 1_000_000];
  const factors = Float32Array.from({ length: 32 }, (_, i) => (i < 12 ? 1 : i < 24 ? 1 + (i - 11) / 2 : 8));
  for (const [name, base, factor, divisors] of [
    ['base-10000', 10000, 1, undefined],
    ['base-500000', 500000, 1, undefined],
    ['base-1000000-linear-8', 1000000, 8, undefined],
    ['base-500000-divided', 500000, 1, factors],
  ] as const) {
    const headDim = 64;
    const angles = angleRows(positions, headDim, base, factor, divisors);
    yield {
      name: `ropeAngles/${name}`,
      op: 'ropeAngles',
      parameters: { base, factor, headDim },
      inputs: {
        positions: array(Int32Array.from(positions), positions.length),
        ...(divisors === undefined ? {} : { divisors: array(divisors, headDim / 2) }),
      },
      outputs: { angles: array(angles, positions.length, headDim) },
      // Two last places of 1: for sines of another library. Angles made by repeated products in f32 are further off.
      bound: { relative: 0, absolute: 2 ** -22 },
    };
  }
  for (const style of ['neox', 'norm'] as const) {
    for (const [nHeads, headDim] of [
      [3, 6],
      [2, 64],
      [1, 100],
    ]) {
      const n = positions.length;
      const x = values('normal', n * nHeads * headDim, 400);
      const angles = angleRows(positions, headDim, 10000, 1, undefined);
      const out = x.slice();
      rope(out, angles, nHeads, headDim, style, n);
      yield {
        name: `rope/${style}-${nHeads}x${headDim}`,
        op: 'rope',
        parameters: { style, nHeads, headDim },
        inputs: { x: array(x, n, nHeads * headDim), angles: array(angles, n, headDim) },
        outputs: { out: array(out, n, nHeads * headDim) },
        bound: boundOf({ op: 'rope', seed: 0, n, nHeads, headDim, style }),
      };
    }
  }
}

function angleRows(
  positions: readonly number[],
  headDim: number,
  ropeBase: number,
  ropeFactor: number,
  divisors: Float32Array | undefined,
): Float32Array {
  const write = createRopeAngles({ headDim, ropeBase, ropeFactor }, divisors);
  const angles = new Float32Array(positions.length * headDim);
  for (const [row, position] of positions.entries()) write(angles, row, position);
  return angles;
}

/** Rows of scores to probabilities, as attention has them inside: by queries of one value and keys that are the scores. */
function* softmaxes(): Generator<Vector> {
  const rows: readonly (readonly [name: string, scores: Float32Array])[] = [
    ['one', Float32Array.of(3.5)],
    ['equal', new Float32Array(13).fill(-2)],
    ['usual', scaled(values('normal', 100, 500), 4)],
    // exp(-87 and below) is 0.
    ['far-apart', Float32Array.of(0, -86.9, -87, -87.1, -200, 80, -7, -6.9999995, -7.0000005)],
    ['long', scaled(values('normal', 3001, 501), 4)],
  ];
  for (const [name, scores] of rows) {
    const n = scores.length;
    const terms = new Float32Array(n);
    const total = softmaxTerms(terms, Float32Array.of(1), 0, scores, n, 1, 1);
    yield {
      name: `softmax/${name}`,
      op: 'softmax',
      parameters: {},
      inputs: { scores: array(scores, n) },
      outputs: {
        terms: array(terms, n),
        total: array(Float32Array.of(total), 1),
        probabilities: array(
          terms.map((term) => f(term / total)),
          n,
        ),
      },
      bound: { relative: 2 ** -20, absolute: 2e-38 },
    };
  }
  const x = scaled(values('normal', 1000, 502), 4);
  const sums = Float64Array.from([1, 7, 8, 9, 100, 1000], (n) => sum8d(n, (i) => x[i]));
  yield {
    name: 'sum8d/lengths',
    op: 'sum8d',
    parameters: { lengths: [1, 7, 8, 9, 100, 1000] },
    inputs: { x: array(x, x.length) },
    outputs: { sums: array(sums, sums.length) },
    bound: { relative: 0, absolute: 1e-12 },
  };
}

function* attentions(): Generator<Vector> {
  for (const [kType, vType] of [
    ['f32', 'f32'],
    ['f16', 'f16'],
    ['f32', 'f16'],
  ] as const) {
    for (const [nHeads, nKvHeads, headDim, before, n] of [
      [4, 4, 16, 0, 1],
      [4, 2, 64, 0, 5],
      [5, 1, 100, 37, 3],
      [3, 3, 6, 9, 2],
    ]) {
      const kind = 'normal';
      const context = before + n;
      const q = values(kind, n * nHeads * headDim, 600);
      const k = values(kind, context * nKvHeads * headDim, 601);
      const v = values(kind, context * nKvHeads * headDim, 602);
      const cachedK = kType === 'f16' ? halves(k) : k;
      const cachedV = vType === 'f16' ? halves(v) : v;
      const keys = (head: number) => headRows(cachedK, head, nKvHeads, headDim, context);
      const cache = { keys, values: (head: number) => headRows(cachedV, head, nKvHeads, headDim, context) };
      const factor = f(1 / f(Math.sqrt(headDim)));
      const out = new Float32Array(q.length);
      attention(out, q, cache, { row: 0, count: n, position: before }, nHeads, nKvHeads, headDim, factor);
      const probabilities = new Float32Array(n * nHeads * context);
      for (let i = 0; i < n * nHeads; i++) {
        const visible = before + Math.floor(i / nHeads) + 1;
        const row = probabilities.subarray(i * context, i * context + visible);
        const kvHead = Math.floor(((i % nHeads) * nKvHeads) / nHeads);
        const total = softmaxTerms(row, q, i * headDim, keys(kvHead), visible, headDim, factor);
        for (let j = 0; j < visible; j++) row[j] /= total;
      }
      const terms = headDim + before + n;
      yield {
        name: `attention/${nHeads}-${nKvHeads}x${headDim}-at-${before}-k-${kType}-v-${vType}`,
        op: 'attention',
        parameters: { nHeads, nKvHeads, headDim, position: before, scale: factor, kType, vType },
        inputs: {
          q: array(q, n, nHeads * headDim),
          k: array(k, context, nKvHeads * headDim),
          v: array(v, context, nKvHeads * headDim),
        },
        outputs: {
          cachedK: array(cachedK, context, nKvHeads * headDim),
          cachedV: array(cachedV, context, nKvHeads * headDim),
          probabilities: array(probabilities, n, nHeads, context),
          out: array(out, n, nHeads * headDim),
        },
        bound: ofSum(terms),
      };
    }
  }
}

/** What one head has of (positions, nKvHeads * headDim). */
function headRows(rows: Float32Array, head: number, nKvHeads: number, headDim: number, count: number): Float32Array {
  const out = new Float32Array(count * headDim);
  for (let j = 0; j < count; j++) {
    const at = (j * nKvHeads + head) * headDim;
    out.set(rows.subarray(at, at + headDim), j * headDim);
  }
  return out;
}

function* activations(): Generator<Vector> {
  const gated = { gatedRelu2, gatedSilu, gatedGelu, add } as const;
  const n = 3;
  const columns = 45;
  for (const kind of KINDS) {
    const [a, b] = [values(kind, n * columns, 700), values(kind, n * columns, 701)];
    for (const op of ['gatedRelu2', 'gatedSilu', 'gatedGelu', 'add'] as const) {
      const out = new Float32Array(a.length);
      gated[op](out, a, b, a.length);
      const [first, second] = op === 'add' ? ['a', 'b'] : ['gate', 'up'];
      yield {
        name: `${op}/${kind}`,
        op,
        parameters: {},
        inputs: { [first]: array(a, n, columns), [second]: array(b, n, columns) },
        outputs: { out: array(out, n, columns) },
        bound: TAME.includes(kind) ? boundOf({ op, seed: 0, n, columns, kind }) : undefined,
      };
    }
    const factor = f(25.298221281347036);
    const out = new Float32Array(a.length);
    scale(out, a, factor, a.length);
    yield {
      name: `scale/${kind}`,
      op: 'scale',
      parameters: { factor },
      inputs: { x: array(a, n, columns) },
      outputs: { out: array(out, n, columns) },
      bound: TAME.includes(kind) ? boundOf({ op: 'scale', seed: 0, n, columns, kind, factor }) : undefined,
    };
  }
}

function scaled(x: Float32Array, factor: number): Float32Array {
  return x.map((value) => value * factor);
}

function halves(x: Float32Array): Float32Array {
  const bytes = new Uint8Array(2 * x.length);
  const out = new Float32Array(x.length);
  encodeF16s(x, 0, x.length, bytes);
  decodeF16s(bytes, 0, x.length, out);
  return out;
}
