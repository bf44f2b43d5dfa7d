/**
 * What the kit's manifest says. Whoever changes a shape here, the vectors or a definition raises `KIT_VERSION`.
 * @module
 */

import type { Bound } from '../../kernels/conformance/tolerance.ts';
import type { KitArray } from './array.ts';

export type { Bound };

export const KIT_FORMAT = 'bitnet-kit';
/** Of the kit's files and their meaning. What the numbers are is said by `numericsVersion`. */
export const KIT_VERSION = 1;

/** An op, what goes in, what comes out. */
export interface Vector {
  /** `OP/CASE`, also its folder under `kernels`. */
  readonly name: string;
  /** What README.md defines under that name. */
  readonly op: string;
  readonly parameters: Readonly<Record<string, number | string | readonly number[]>>;
  readonly inputs: Readonly<Record<string, KitArray>>;
  readonly outputs: Readonly<Record<string, KitArray>>;
  /**
   * For floats of implementations that sum in another order. Absent: the outputs are exact for everybody. Integers are exact
   * always.
   */
  readonly bound?: Bound | undefined;
}

/** A vector as the manifest has it: arrays by the paths of their files. */
export interface ListedVector extends Omit<Vector, 'inputs' | 'outputs'> {
  readonly inputs: Readonly<Record<string, string>>;
  readonly outputs: Readonly<Record<string, string>>;
}

/** A file that holds a model, and its expected answers. */
export interface ListedModel {
  readonly name: string;
  readonly architecture: string;
  /** Of the ternary matrices; of I2_S with the order of its values. */
  readonly type: string;
  readonly i2sLayout?: string | undefined;
  readonly file: string;
  /** Token ids from position 0 on. */
  readonly tokens: readonly number[];
  /** All that is computed, in this order: each node from nodes before it. */
  readonly graph: readonly ListedSite[];
  /** Logits of every token (tokens, vocabulary), by the types of the cached keys and values. */
  readonly logits: readonly ListedLogits[];
  readonly traces: readonly ListedTrace[];
}

export interface ListedLogits {
  readonly kType: 'f32' | 'f16';
  readonly vType: 'f32' | 'f16';
  readonly file: string;
  /** Of the values in the file, little-endian, without its header: what `bitnet oracle logits` prints. */
  readonly sha256: string;
}

export interface ListedTrace {
  readonly kType: 'f32' | 'f16';
  readonly vType: 'f32' | 'f16';
  /** Holds NAME.npy of every node of the graph, (tokens, columns). */
  readonly folder: string;
}

export interface ListedSite {
  readonly name: string;
  readonly op: string;
  readonly inputs: readonly string[];
  readonly weight?: string | undefined;
  readonly facts: Readonly<Record<string, number | string>>;
}

export interface ListedFile {
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface KitManifest {
  readonly format: typeof KIT_FORMAT;
  readonly version: number;
  readonly numericsVersion: number;
  readonly kernels: readonly ListedVector[];
  readonly models: readonly ListedModel[];
  readonly tokenizers: readonly { readonly name: string; readonly file: string; readonly vectors: string }[];
  readonly samplers: readonly ListedVector[];
  /** All files but the manifest, by path. */
  readonly files: readonly ListedFile[];
}

export interface KitFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}
