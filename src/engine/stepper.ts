/**
 * Runs tokens through a model: fills the scratch, calls the architecture's graph, reads logits. One stepper per model;
 * steps of several sessions take turns.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { Backend, KvCache, Segment, TopRow } from '../kernels/interface.ts';
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
  /** Only this many of the greatest logits are wanted. Default: all. */
  readonly top?: number | undefined;
}

/** Logits of an item: (ids, vocabulary) for 'all', (vocabulary) for 'last', empty for 'none'. */
export interface Logits {
  readonly values: Float32Array;
  /** Where only the greatest of a row were wanted: which tokens `values` are of, ascending. All others are smaller. */
  readonly ids?: Int32Array | undefined;
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
   * Computes at most `maxRows` tokens in one pass and resolves to the logits of each item. Where one item wants all of a row, all
   * get them. Throws `not-finite` when a logit is NaN or infinite.
   */
  step(items: readonly StepItem[]): Promise<Logits[]> {
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

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#queue.then(act);
    this.#queue = turn.catch(() => undefined);
    return turn;
  }

  /** Resolves when all steps so far have ended. */
  async idle(): Promise<void> {
    await this.#queue;
  }

  async #run(items: readonly StepItem[]): Promise<Logits[]> {
    const { segments } = this.#pass(items);
    const counts = items.map(({ logits, ids }) => (logits === 'all' ? ids.length : logits === 'last' ? 1 : 0));
    // The last rows of each segment.
    const rows = segments.flatMap(({ row, count }, i) =>
      Array.from({ length: counts[i] }, (_, j) => row + count - counts[i] + j),
    );
    const top = Math.max(0, ...items.map((item) => (item.logits === 'none' ? 0 : (item.top ?? Infinity))));
    const { vocabulary } = this.#weights.config;
    if (rows.length > 0 && top < vocabulary && items.every(({ logits }) => logits !== 'all')) {
      const tops = await this.#topHead(rows, top);
      let at = 0;
      return counts.map((count) => (count === 0 ? NO_LOGITS : tops[at++]));
    }
    const logits = await this.#head(rows);
    let at = 0;
    return counts.map((count) => {
      const values = logits.subarray(at, at + count * vocabulary);
      at += values.length;
      return { values };
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
  async #head(rows: readonly number[]): Promise<Float32Array> {
    const { vocabulary } = this.#weights.config;
    const pass = async (first: number, some: readonly number[]) => {
      this.#normalise(some);
      this.#backend.denseMatmul(this.#scratch.logits, this.#weights.head, this.#scratch.h, some.length);
      const values = await this.#backend.read(this.#scratch.logits, some.length * vocabulary);
      wantFinite(values, (at) => `token row ${first + Math.floor(at / vocabulary)}, logit ${at % vocabulary}`);
      return values;
    };
    const { maxHeadRows } = this.#scratch;
    // Nothing to report, but the step must have run.
    if (rows.length === 0) return this.#backend.read(this.#scratch.x, 0);
    // The usual case, one row a token, needs no second copy of the vocabulary.
    if (rows.length <= maxHeadRows) return pass(0, rows);
    const out = new Float32Array(rows.length * vocabulary);
    for (let first = 0; first < rows.length; first += maxHeadRows) {
      out.set(await pass(first, rows.slice(first, first + maxHeadRows)), first * vocabulary);
    }
    return out;
  }

  /** What of each row can be among its `top` greatest logits. */
  async #topHead(rows: readonly number[], top: number): Promise<TopRow[]> {
    const { maxHeadRows, h, logits } = this.#scratch;
    const out: TopRow[] = [];
    for (let first = 0; first < rows.length; first += maxHeadRows) {
      const some = rows.slice(first, first + maxHeadRows);
      this.#normalise(some);
      this.#backend.denseTopK(logits, this.#weights.head, h, top, some.length);
      const tops = await this.#backend.readTop(logits, some.length);
      tops.forEach(({ ids, values }, i) => {
        wantFinite(values, (at) => `token row ${first + i}, logit ${ids[at]}`);
        // The rest of the row is minus infinity, which is no logit of a sound model either.
        if (ids.length < top) throw notFinite(`token row ${first + i}`, -Infinity);
      });
      out.push(...tops);
    }
    return out;
  }

  /** The final norm of some rows, one after the other in `h`. */
  #normalise(rows: readonly number[]): void {
    const { config, outputNorm } = this.#weights;
    const { x, headX, h } = this.#scratch;
    rows.forEach((row, i) => {
      this.#backend.copyRows(headX, i, x, row, 1);
    });
    this.#backend.rmsNorm(h, headX, outputNorm, config.rmsEps, rows.length);
  }
}

const NO_LOGITS: Logits = { values: new Float32Array(0) };

/** Two comparisons a logit: there can be 128 thousand of them for every token. NaN passes neither. */
function wantFinite(logits: Float32Array, where: (at: number) => string): void {
  for (let at = 0; at < logits.length; at++) {
    if (logits[at] >= -Number.MAX_VALUE && logits[at] <= Number.MAX_VALUE) continue;
    throw notFinite(where(at), logits[at]);
  }
}

function notFinite(where: string, logit: number): BitnetError {
  return new BitnetError('not-finite', 'the model produced a logit that is not a number', {
    where,
    got: `${logit}`,
    hint: 'the file is damaged or was converted with the wrong layout or scales',
  });
}
