/**
 * What a safetensors checkpoint says, as data.
 * @module
 */

import type { ByteSource } from '../source.ts';

/** Element types and their bytes. Types of less than a byte (F4, F6) exist by now; no BitNet checkpoint has them. */
export const elementBytes = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const;
export type SafetensorsDType = keyof typeof elementBytes;

export interface SafetensorsTensor {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  /** Row-major: (out, in) for a linear layer, the reverse of GGUF's order. Extents may be 0. */
  readonly shape: readonly number[];
  readonly source: ByteSource;
  /** From the start of `source`. */
  readonly offsetBytes: number;
  readonly byteLength: number;
}

/** One file, or all files of an index. */
export interface SafetensorsFile {
  readonly label: string;
  /** `__metadata__`; with an index, of all files together, the first winning. */
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order of their bytes, file after file. */
  readonly tensors: readonly SafetensorsTensor[];
  readonly sources: readonly ByteSource[];
  /** The tensor of that name; throws `missing-tensor`. */
  tensor(name: string): SafetensorsTensor;
  findTensor(name: string): SafetensorsTensor | undefined;
  /** Closes all sources, the one it was opened from included. */
  close(): Promise<void>;
}
