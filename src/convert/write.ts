/**
 * Writing a planned model: sizes first, then one tensor after the other, with progress and a way to stop.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { type TensorChunks, writeGguf } from '../formats/gguf/writer.ts';
import type { ByteSink } from '../formats/sink.ts';
import { type DType, type DTypeName, dtypeByName, tensorByteLength } from '../tensors/dtype.ts';
import type { Metadata, PlannedTensor } from './layout.ts';

export interface WriteProgress {
  readonly tensor: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface WriteOptions {
  readonly onProgress?: ((progress: WriteProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Written {
  readonly byteLength: number;
  readonly parameters: number;
}

/** A planned tensor with its type and, when its turn comes, its bytes. */
export interface FilledTensor extends PlannedTensor {
  readonly dtype: DTypeName | DType;
  readonly pieces: () => TensorChunks;
}

/** Writes a model and closes the sink, looking at the signal before and reporting after each piece. */
export async function writeModel(
  sink: ByteSink,
  metadata: Metadata,
  tensors: readonly FilledTensor[],
  { onProgress, signal }: WriteOptions,
): Promise<Written> {
  const totalBytes = await beforeWriting(sink, () => tensors.reduce((sum, tensor) => sum + byteLengthOf(tensor), 0));
  const parameters = tensors.reduce((sum, { elements }) => sum + elements, 0);
  let doneBytes = 0;
  const byteLength = await writeGguf(sink, {
    metadata,
    tensors: tensors.map(({ name, dtype, shape, pieces }) => ({
      name,
      dtype,
      shape,
      async *data() {
        for await (const piece of pieces()) {
          signal?.throwIfAborted();
          yield piece;
          doneBytes += piece.length;
          onProgress?.({ tensor: name, doneBytes, totalBytes });
        }
      },
    })),
  });
  return { byteLength, parameters };
}

/** Throws where the shape does not fit the blocks of the type. */
export function byteLengthOf({ name, dtype: given, shape, role }: Omit<FilledTensor, 'pieces'>): number {
  const dtype = typeof given === 'string' ? dtypeByName(given) : given;
  let byteLength: number | undefined;
  try {
    byteLength = tensorByteLength(dtype, shape, name);
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    throw new BitnetError(
      'bad-argument',
      `this shape cannot be written as ${dtype.name}: ${error.message}`,
      {
        hint:
          role === 'linear'
            ? 'I2_S takes every published model'
            : 'Q8_0, Q5_1, Q5_0, Q4_1 and Q4_0 take multiples of 32; F16, BF16 and F32 take every shape',
      },
      error,
    );
  }
  // Only types that nobody here writes have no size; a copy of such a tensor would be of unknown length.
  if (byteLength !== undefined) return byteLength;
  throw new BitnetError('unsupported-type', `the size of type ${dtype.name} is not known`, { where: name });
}

/** Runs `make`; if it throws, nothing will be written, and the sink is told so. */
export async function beforeWriting<T>(sink: ByteSink, make: () => T | Promise<T>): Promise<T> {
  try {
    return await make();
  } catch (error) {
    await sink.abort();
    throw error;
  }
}
