/**
 * What a hypothesis is: a way in which the candidate may have computed, told by the numbers that it would give.
 * @module
 */

import type { TraceData, TraceTensor } from '../../../engine/types.ts';
import type { Scene } from '../scene.ts';

/** A tensor whose rows are not what was expected. */
export interface Question {
  readonly tensor: TraceTensor;
  readonly scene: Scene;
  /** (rows, columns) */
  readonly expected: TraceData;
  /** What the candidate has, 1 in `known` where it does. */
  readonly got: TraceData;
  readonly known?: Uint8Array | undefined;
  /** Rows that are to be explained. */
  readonly rows: readonly number[];
  /** What the op was given, by the names of `scene.sources`; undefined where it has not been seen as floats. */
  readonly inputs: readonly (Float32Array | undefined)[];
  /** All token ids from position 0 on. */
  readonly tokens: readonly number[];
  /** Rows of the embedding; undefined where there is no model. */
  readonly embeddings?: ((ids: readonly number[]) => Promise<Float32Array[]>) | undefined;
  readonly vocabulary?: number | undefined;
}

/** Values (rows, columns) as the question's tensor has them; `known`: only where it is 1. */
export type Prediction = TraceData | { readonly data: TraceData; readonly known: Uint8Array };

export interface Alternative {
  readonly id: string;
  readonly says: string;
  readonly kind: 'mistake' | 'variant';
  /** Undefined where it cannot be told. Only the question's rows need be right. */
  readonly rows: () => Promise<Prediction | undefined> | Prediction | undefined;
}

/** Where the candidate is right by `kernels/ts`. */
export const DEFINITION = 'the definition: B computes it, and it is A that differs';

export function mistake(id: string, says: string, rows: Alternative['rows']): Alternative {
  return { id, says, kind: 'mistake', rows };
}

export function variant(id: string, says: string, rows: Alternative['rows']): Alternative {
  return { id, says, kind: 'variant', rows };
}

/** `count` values made one by one, each rounded. */
export function floats(count: number, at: (i: number) => number): Float32Array {
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) out[i] = at(i);
  return out;
}
