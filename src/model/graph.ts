/**
 * What the graphs of all architectures share: the loaded weights, the scratch of one step, and the step itself.
 * A graph sees a `Backend` value, never a particular one.
 * @module
 */

import type { Backend, Buf, QuantizedBuf, Segment, Weight } from '../kernels/interface.ts';
import type { ArchitectureFacts, ModelConfig } from './config.ts';
import type { TensorRule } from './tensors.ts';

/** All that is known about an architecture: what a file of `architectures/` holds. */
export interface Architecture extends ArchitectureFacts {
  /** Why the activation is what it is, for `inspect`. */
  readonly activationReason: string;
  readonly forward: Forward;
  tensors(config: ModelConfig): TensorRule[];
}

/** One transformer layer. Vectors are gains in f32. */
export interface LayerWeights {
  readonly attnNorm: Buf; // (hidden)
  readonly q: Weight; // (nHeads * headDim, hidden)
  readonly k: Weight; // (nKvHeads * headDim, hidden)
  readonly v: Weight; // (nKvHeads * headDim, hidden)
  readonly o: Weight; // (hidden, nHeads * headDim)
  readonly ffnNorm: Buf; // (hidden)
  readonly gate: Weight; // (ffn, hidden)
  readonly up: Weight; // (ffn, hidden)
  readonly down: Weight; // (hidden, ffn)
  /** Gains that only some architectures have, by their names in its table: `attn_sub_norm`. Those absent from the file are undefined. */
  readonly gains: Readonly<Record<string, Buf | undefined>>;
}

/** Immutable after loading; shared by all sessions. */
export interface ModelWeights {
  readonly config: ModelConfig;
  readonly embedding: Weight; // (vocabulary, hidden)
  readonly layers: readonly LayerWeights[];
  readonly outputNorm: Buf; // (hidden)
  readonly head: Weight; // (vocabulary, hidden), the embedding itself when tied
  /** Divisors of the rope frequencies (headDim / 2), where the file has them. */
  readonly ropeFactors: Float32Array | undefined;
}

/** Memory for one step of up to `maxRows` tokens; allocated once. */
export interface Scratch {
  readonly maxHeadRows: number;
  readonly ids: Buf; // i32 (rows)
  readonly angles: Buf; // (rows, headDim)
  readonly x: Buf; // residual stream (rows, hidden)
  readonly h: Buf; // (rows, hidden)
  readonly hq: QuantizedBuf; // (rows, hidden)
  readonly p: Buf; // (rows, hidden): the input of one projection, where each has a norm of its own
  readonly q: Buf; // (rows, nHeads * headDim)
  readonly k: Buf; // (rows, nKvHeads * headDim)
  readonly v: Buf; // (rows, nKvHeads * headDim)
  readonly a: Buf; // (rows, nHeads * headDim)
  readonly aq: QuantizedBuf; // (rows, nHeads * headDim)
  readonly gate: Buf; // (rows, ffn)
  readonly up: Buf; // (rows, ffn)
  readonly fq: QuantizedBuf; // (rows, ffn)
  readonly headX: Buf; // rows that go through the head (headRows, hidden)
  readonly logits: Buf; // (headRows, vocabulary)
}

/** Rows that pass the output head at once unless the backend wants others; 16 rows of 128256 logits are 8 MB. */
const HEAD_ROWS = 16;

export function createScratch(
  backend: Pick<Backend, 'alloc' | 'allocQuantized' | 'headRows'>,
  c: ModelConfig,
  maxRows: number,
): Scratch {
  const rows = (columns: number) => backend.alloc('f32', [maxRows, columns]);
  const qDim = c.nHeads * c.headDim;
  const kvDim = c.nKvHeads * c.headDim;
  const maxHeadRows = Math.min(maxRows, backend.headRows ?? HEAD_ROWS);
  return {
    maxHeadRows,
    ids: backend.alloc('i32', [maxRows]),
    angles: rows(c.headDim),
    x: rows(c.hidden),
    h: rows(c.hidden),
    hq: backend.allocQuantized(maxRows, c.hidden),
    p: rows(c.hidden),
    q: rows(qDim),
    k: rows(kvDim),
    v: rows(kvDim),
    a: rows(qDim),
    aq: backend.allocQuantized(maxRows, qDim),
    gate: rows(c.ffn),
    up: rows(c.ffn),
    fq: backend.allocQuantized(maxRows, c.ffn),
    headX: backend.alloc('f32', [maxHeadRows, c.hidden]),
    logits: backend.alloc('f32', [maxHeadRows, c.vocabulary]),
  };
}

/** The ops that graphs are made of. */
export type GraphOps = Pick<
  Backend,
  | 'embed'
  | 'rmsNorm'
  | 'quantizeRows'
  | 'rmsNormQuantize'
  | 'ternaryMatmul'
  | 'denseMatmul'
  | 'rope'
  | 'kvAppend'
  | 'attention'
  | 'gatedRelu2'
  | 'gatedSilu'
  | 'gatedGelu'
  | 'scale'
  | 'add'
>;

/** One pass through the model: `n` tokens of one or more sequences. */
export interface Step {
  readonly backend: GraphOps;
  readonly scratch: Scratch;
  readonly n: number;
  readonly segments: readonly Segment[];
}

/** An architecture's graph: reads `scratch.ids` and `scratch.angles`, leaves the residual stream in `scratch.x`. */
export type Forward = (step: Step, weights: ModelWeights) => void;

/** Quantises `x` once for all the projections that share it, if any of them is ternary. */
export function quantizeFor(step: Step, quantized: QuantizedBuf, x: Buf, weights: readonly Weight[]): void {
  if (weights.some((weight) => weight.kind === 'ternary')) step.backend.quantizeRows(quantized, x, step.n);
}

/**
 * The normalised `x` for the projections `weights`, which then take `normed` and `quantized`. Where all of them are
 * ternary, nobody reads the rows in f32, and one op does both; a dense one needs them.
 */
export function normFor(
  step: Step,
  normed: Buf,
  quantized: QuantizedBuf,
  x: Buf,
  gain: Buf,
  eps: number,
  weights: readonly Weight[],
): void {
  const { backend, n } = step;
  if (weights.every((weight) => weight.kind === 'ternary')) {
    backend.rmsNormQuantize(quantized, x, gain, eps, n);
  } else {
    backend.rmsNorm(normed, x, gain, eps, n);
    quantizeFor(step, quantized, normed, weights);
  }
}

/** out = W x: BitLinear where W is ternary, a plain product where it is dense. */
export function project(step: Step, out: Buf, weight: Weight, x: Buf, quantized: QuantizedBuf): void {
  if (weight.kind === 'ternary') step.backend.ternaryMatmul(out, weight, quantized, step.n);
  else step.backend.denseMatmul(out, weight, x, step.n);
}

/**
 * out = W norm(x): a projection with a norm of its own before it, as BitNet-embedding has them, or without where the file
 * has none. `normed` and `quantized` take its input.
 */
export function normProject(
  step: Step,
  out: Buf,
  weight: Weight,
  x: Buf,
  gain: Buf | undefined,
  eps: number,
  normed: Buf,
  quantized: QuantizedBuf,
): void {
  if (gain === undefined) quantizeFor(step, quantized, x, [weight]);
  else normFor(step, normed, quantized, x, gain, eps, [weight]);
  project(step, out, weight, gain === undefined ? x : normed, quantized);
}

/** Each head of q and k by itself: rows of headDim. */
export function normHeads(step: Step, c: ModelConfig, w: LayerWeights): void {
  const { backend, scratch: s, n } = step;
  backend.rmsNorm(s.q, s.q, gain(w, 'attn_q_norm'), c.rmsEps, n * c.nHeads);
  backend.rmsNorm(s.k, s.k, gain(w, 'attn_k_norm'), c.rmsEps, n * c.nKvHeads);
}

/** Rope on q and k. */
export function rotate(step: Step, c: ModelConfig): void {
  const { backend, scratch: s, n } = step;
  backend.rope(s.q, s.angles, c.nHeads, c.headDim, c.ropeStyle, n);
  backend.rope(s.k, s.angles, c.nKvHeads, c.headDim, c.ropeStyle, n);
}

/** 1 / sqrt(headDim): what scores of attention are usually multiplied by. */
export function attentionScale(c: ModelConfig): number {
  return Math.fround(1 / Math.fround(Math.sqrt(c.headDim)));
}

/** Cache and attention for all sequences of the step: q, k, v in, `scratch.a` out. */
export function attend(step: Step, layer: number, scale: number): void {
  const { backend, scratch: s } = step;
  for (const segment of step.segments) backend.kvAppend(segment, layer, s.k, s.v);
  for (const segment of step.segments) backend.attention(s.a, s.q, segment, layer, scale);
}

/** A gain that the architecture's table requires: loading has seen to it. */
export function gain(w: LayerWeights, name: string): Buf {
  const found = w.gains[name];
  if (found === undefined) throw new Error(`${name} is not in the table of this architecture`);
  return found;
}
