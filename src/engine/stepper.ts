/**
 * Runs tokens through a model: fills the scratch, calls the architecture's graph, reads logits. One stepper per model;
 * steps of several sessions take turns.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { Backend, KvCache, Segment } from '../kernels/interface.ts';
import { architectureOf } from '../model/architectures.ts';
import { createScratch, type Forward, type ModelWeights, type Scratch } from '../model/graph.ts';
import { createRopeAngles } from '../model/rope-angles.ts';

/** Consecutive tokens of one sequence. */
export interface StepItem {
  readonly kv: KvCache;
  /** Position of the first token. */
  readonly position: number;
  readonly ids: readonly number[];
  /** Logits after every token, after the last one only, or none. */
  readonly logits: 'all' | 'last' | 'none';
  /** Only this many of the greatest logits are wanted; others may be minus infinity. Default: all. */
  readonly top?: number | undefined;
}

export class Stepper {
  readonly maxRows: number;
  readonly #backend: Backend;
  readonly #weights: ModelWeights;
  readonly #forward: Forward;
  readonly #scratch: Scratch;
  readonly #angles: (out: Float32Array, row: number, position: number) => void;
  readonly #angleRows: Float32Array;
  readonly #idRows: Int32Array;
  /** The end of the queue: a step begins when the one before has ended, well or not. */
  #queue: Promise<unknown> = Promise.resolve();

  constructor(backend: Backend, weights: ModelWeights, maxRows: number) {
    this.maxRows = maxRows;
    this.#backend = backend;
    this.#weights = weights;
    this.#forward = architectureOf(weights.config.architecture).forward;
    this.#scratch = createScratch(backend, weights.config, maxRows);
    this.#angles = createRopeAngles(weights.config, weights.ropeFactors);
    this.#angleRows = new Float32Array(maxRows * weights.config.headDim);
    this.#idRows = new Int32Array(maxRows);
  }

  /**
   * Computes at most `maxRows` tokens in one pass. For each item resolves to its logits: (ids, vocabulary) for 'all',
   * (vocabulary) for 'last', empty for 'none'. Where one item wants all logits, all get them. Throws `not-finite` when a
   * logit is NaN or infinite.
   */
  step(items: readonly StepItem[]): Promise<Float32Array[]> {
    return this.#inTurn(() => this.#run(items));
  }

  /** As `step`, for embeddings: for each item the rows after the final norm, (ids, hidden), instead of logits. */
  hidden(items: readonly Omit<StepItem, 'logits' | 'top'>[]): Promise<Float32Array[]> {
    return this.#inTurn(async () => {
      const { segments, n } = this.#pass(items);
      const { config, outputNorm } = this.#weights;
      const { x, h } = this.#scratch;
      this.#backend.rmsNorm(h, x, outputNorm, config.rmsEps, n);
      const rows = await this.#backend.read(h, n * config.hidden);
      return segments.map(({ row, count }) => rows.subarray(row * config.hidden, (row + count) * config.hidden));
    });
  }

  #inTurn(act: () => Promise<Float32Array[]>): Promise<Float32Array[]> {
    const turn = this.#queue.then(act);
    this.#queue = turn.catch(() => undefined);
    return turn;
  }

  /** Resolves when all steps so far have ended. */
  async idle(): Promise<void> {
    await this.#queue;
  }

  async #run(items: readonly StepItem[]): Promise<Float32Array[]> {
    const { segments } = this.#pass(items);
    const rows = items.flatMap((item, i) => {
      const first = segments[i].row;
      if (item.logits === 'all') return item.ids.map((_, j) => first + j);
      return item.logits === 'last' ? [first + item.ids.length - 1] : [];
    });
    const top = Math.max(0, ...items.map((item) => (item.logits === 'none' ? 0 : (item.top ?? Infinity))));
    const logits = await this.#head(rows, top);
    let at = 0;
    return items.map((item) => {
      const count = item.logits === 'all' ? item.ids.length : item.logits === 'last' ? 1 : 0;
      const mine = logits.subarray(at, at + count * this.#weights.config.vocabulary);
      at += mine.length;
      return mine;
    });
  }

  /** Runs the graph, which leaves the residual stream of `n` rows in the scratch. */
  #pass(items: readonly Omit<StepItem, 'logits' | 'top'>[]): { segments: Segment[]; n: number } {
    const segments = this.#fill(items);
    const n = segments.reduce((sum, segment) => sum + segment.count, 0);
    this.#forward({ backend: this.#backend, scratch: this.#scratch, n, segments }, this.#weights);
    return { segments, n };
  }

  /** Writes ids and angles; returns which rows belong to whom. */
  #fill(items: readonly Omit<StepItem, 'logits' | 'top'>[]): Segment[] {
    const { headDim } = this.#weights.config;
    let row = 0;
    const segments = items.map(({ kv, position, ids }) => {
      const segment = { kv, row, count: ids.length, position };
      for (const id of ids) {
        this.#idRows[row] = id;
        this.#angles(this.#angleRows, row, position + row - segment.row);
        row++;
      }
      return segment;
    });
    if (row > this.maxRows) throw new Error(`${row} rows in a step of ${this.maxRows}`);
    this.#backend.write(this.#scratch.ids, this.#idRows.subarray(0, row));
    this.#backend.write(this.#scratch.angles, this.#angleRows.subarray(0, row * headDim));
    return segments;
  }

  /** Logits of the given rows of the residual stream (rows, vocabulary), as many at a time as the scratch holds. */
  async #head(rows: readonly number[], top: number): Promise<Float32Array> {
    const { maxHeadRows } = this.#scratch;
    // The usual case, one row a token, needs no second copy of the vocabulary.
    if (rows.length <= maxHeadRows) return this.#headPass(rows, 0, top);
    const out = new Float32Array(rows.length * this.#weights.config.vocabulary);
    for (let first = 0; first < rows.length; first += maxHeadRows) {
      const logits = await this.#headPass(rows.slice(first, first + maxHeadRows), first, top);
      out.set(logits, first * this.#weights.config.vocabulary);
    }
    return out;
  }

  /** Final norm and output matrix. `first` is the number of the first row among all, for the error message. */
  async #headPass(rows: readonly number[], first: number, top: number): Promise<Float32Array> {
    const { config, outputNorm, head } = this.#weights;
    const { x, headX, h, logits } = this.#scratch;
    const backend = this.#backend;
    if (rows.length === 0) return backend.read(x, 0); // nothing to report, but the step must have run
    rows.forEach((row, i) => {
      backend.copyRows(headX, i, x, row, 1);
    });
    backend.rmsNorm(h, headX, outputNorm, config.rmsEps, rows.length);
    const isPart = top < config.vocabulary;
    if (isPart) backend.denseTopK(logits, head, h, top, rows.length);
    else backend.denseMatmul(logits, head, h, rows.length);
    const values = await backend.read(logits, rows.length * config.vocabulary);
    // Two comparisons a logit: there are 128 thousand of them for every token. NaN passes neither.
    const least = isPart ? -Infinity : -Number.MAX_VALUE;
    for (let i = 0; i < values.length; i++) {
      if (values[i] >= least && values[i] <= Number.MAX_VALUE) continue;
      throw new BitnetError('not-finite', 'the model produced a logit that is not a number', {
        where: `token row ${first + Math.floor(i / config.vocabulary)}, logit ${i % config.vocabulary}`,
        got: `${values[i]}`,
        hint: 'the file is damaged or was converted with the wrong layout or scales',
      });
    }
    return values;
  }
}
