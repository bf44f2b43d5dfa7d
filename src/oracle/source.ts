/**
 * Where traces come from, all alike: dumps of ours, folders of .npy files, logs of llama-eval-callback, or a model that is
 * running.
 * @module
 */

import type { TraceData } from '../engine/types.ts';

/** What is known about the run behind a trace; foreign dumps know little. */
export interface TraceOrigin {
  /** SHA-256 of the model's file, hex. */
  readonly modelSha256?: string | undefined;
  readonly modelName?: string | undefined;
  readonly architecture?: string | undefined;
  /** Token ids from position 0 on. */
  readonly tokens?: readonly number[] | undefined;
  readonly numericsVersion?: number | undefined;
  /** What computed, e.g. `bitnet-ts 0.1.0 wasm dot+threads`. */
  readonly producer?: string | undefined;
  /** Types of cached keys and values. */
  readonly kv?: { readonly k: string; readonly v: string } | undefined;
}

/** A tensor of a source under the names of `engine/trace/types.ts`, whatever the source calls it. */
export interface SourceTensor {
  readonly name: string;
  readonly type: 'f32' | 'i8' | 'i32';
  /** Position of the first row. */
  readonly position: number;
  readonly rows: number;
  readonly columns: number;
}

export interface SourceRows {
  /** (rows, columns) */
  readonly data: TraceData;
  /** 1 where a value is known, 0 where not, for sources that print only some; absent: all are. */
  readonly known?: Uint8Array | undefined;
  /** How far a printed value may be from the computed one. Absent or 0: exact. */
  readonly resolution?: number | undefined;
}

export interface TraceSource {
  /** For messages: a path. */
  readonly label: string;
  readonly origin: TraceOrigin;
  /** In the order of the graph as far as the source tells. */
  readonly tensors: ReadonlyMap<string, SourceTensor>;
  /** Files of the source that have no name of a tensor, and are not looked at. */
  readonly unread?: readonly string[] | undefined;
  /** Rows of positions `position` .. `position + rows`, all of which the source has. */
  read(name: string, position: number, rows: number): Promise<SourceRows>;
  close(): Promise<void>;
}
