/**
 * Runs tokens through a model with a look at every intermediate: the graph is recorded, then its calls are made one by one.
 * The memory is its own, so that other sessions may compute while somebody looks.
 * @module
 */

import { want } from '../../errors.ts';
import type { Backend, Buf, KvCache, KvShape, QuantizedBuf, Segment } from '../../kernels/interface.ts';
import { architectureOf } from '../../model/architectures.ts';
import { createScratch, type ModelWeights, type Scratch } from '../../model/graph.ts';
import { createRopeAngles } from '../../model/rope-angles.ts';
import { type Call, ON_REQUEST, Recorder } from './recorder.ts';
import type { TraceOptions, TraceSite, TraceTensor } from './types.ts';

/** Tokens of one pass. All of them go through the head, so this is also the number of rows of logits in memory. */
export const TRACE_ROWS = 16;

type Memory = Pick<Backend, 'alloc' | 'allocQuantized'>;

/** All sites of the graph for a sequence of `positions` tokens, in its order. Computes and allocates nothing. */
export function traceSites(backend: Backend, weights: ModelWeights, kvShape: KvShape, positions: number): TraceSite[] {
  const nothing: Memory = {
    alloc: (type, shape) => ({ type, shape }),
    allocQuantized: (rows, columns) => ({ type: 'q8', rows, columns }),
  };
  const segment = { kv: { type: 'kv', shape: kvShape }, row: 0, count: 1, position: 0 } as const;
  const scratch = createScratch(nothing, weights.config, 1);
  const rowsOf = (columns: number) => nothing.alloc('f32', [1, columns]);
  const calls = record(backend, weights, scratch, segment, positions, rowsOf);
  return calls.flatMap(({ shown }) => shown.map(({ site }) => site));
}

export class Tracer {
  readonly maxRows: number;
  readonly #backend: Backend;
  readonly #weights: ModelWeights;
  readonly #scratch: Scratch;
  readonly #taken: (Buf | QuantizedBuf)[] = [];
  readonly #rows = new Map<number, Buf>();
  readonly #angles: (out: Float32Array, row: number, position: number) => void;

  constructor(backend: Backend, weights: ModelWeights, maxRows: number) {
    this.maxRows = maxRows;
    this.#backend = backend;
    this.#weights = weights;
    try {
      this.#scratch = createScratch(this.#memory(), weights.config, maxRows);
    } catch (error) {
      this.free();
      throw error;
    }
    this.#angles = createRopeAngles(weights.config, weights.ropeFactors);
  }

  /** At most `maxRows` tokens at `position` of a sequence; `positions` is where the trace will end. */
  async *run(
    kv: KvCache,
    position: number,
    ids: readonly number[],
    positions: number,
    { select, signal }: TraceOptions,
  ): AsyncGenerator<TraceTensor> {
    const { headDim } = this.#weights.config;
    const rows = ids.length;
    const angles = new Float32Array(rows * headDim);
    for (let row = 0; row < rows; row++) this.#angles(angles, row, position + row);
    const segment = { kv, row: 0, count: rows, position };
    const rowsOf = (columns: number) => this.#rowsOf(columns);
    const calls = record(this.#backend, this.#weights, this.#scratch, segment, positions, rowsOf);
    this.#backend.write(this.#scratch.ids, Int32Array.from(ids));
    this.#backend.write(this.#scratch.angles, angles);
    for (const { run, shown } of calls) {
      signal?.throwIfAborted();
      run();
      for (const { site, read, extras } of shown) {
        if (!(select?.(site) ?? !ON_REQUEST.includes(site.op))) continue;
        const values = await read();
        const { replace } = extras;
        const whole: NonNullable<TraceTensor['replace']> = async (given) => {
          want(given.length === values.data.length, 'bad-argument', 'not as many values as the tensor has', () => ({
            where: `replace ${site.name}`,
            expected: `${values.data.length}`,
            got: `${given.length}`,
          }));
          await replace?.(given);
        };
        yield { ...site, position, rows, ...values, ...extras, ...(replace === undefined ? {} : { replace: whole }) };
      }
    }
    await this.#backend.read(this.#scratch.x, 0); // whether anybody looked or not, it has run
  }

  /** Gives the memory back. */
  free(): void {
    for (const memory of this.#taken.splice(0)) this.#backend.free(memory);
  }

  #memory(): Memory {
    const keep = <T extends Buf | QuantizedBuf>(memory: T): T => {
      this.#taken.push(memory);
      return memory;
    };
    return {
      alloc: (type, shape) => keep(this.#backend.alloc(type, shape)),
      allocQuantized: (rows, columns) => keep(this.#backend.allocQuantized(rows, columns)),
    };
  }

  #rowsOf(columns: number): Buf {
    const known = this.#rows.get(columns) ?? this.#memory().alloc('f32', [this.maxRows, columns]);
    this.#rows.set(columns, known);
    return known;
  }
}

/** The calls of one pass: the graph, and the head for every row. */
function record(
  backend: Backend,
  weights: ModelWeights,
  scratch: Scratch,
  segment: Segment,
  positions: number,
  rowsOf: (columns: number) => Buf,
): Call[] {
  const { config, outputNorm, head } = weights;
  const n = segment.count;
  const recorder = new Recorder({ backend, weights, n, positions, rowsOf });
  const { forward } = architectureOf(config.architecture);
  forward({ backend: recorder, scratch, n, segments: [segment] }, weights);
  recorder.rmsNorm(scratch.h, scratch.x, outputNorm, config.rmsEps, n);
  recorder.denseMatmul(scratch.logits, head, scratch.h, n);
  return recorder.calls;
}
