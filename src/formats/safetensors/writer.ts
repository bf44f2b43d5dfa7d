/**
 * safetensors writer, streaming: sizes follow from types and shapes, so the header goes out before the first tensor.
 * @module
 */

import { want } from '../../errors.ts';
import type { ByteSink } from '../sink.ts';
import { elementBytes, type SafetensorsDType } from './types.ts';

export interface SafetensorsTensorToWrite {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  /** Row-major. */
  readonly shape: readonly number[];
  /** Called once, when it is this tensor's turn. */
  readonly data: () => AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

/** Writes a file and closes the sink; on failure aborts it. Tensors are written in the order given. */
export async function writeSafetensors(
  sink: ByteSink,
  tensors: readonly SafetensorsTensorToWrite[],
  metadata: ReadonlyMap<string, string> = new Map(),
): Promise<void> {
  try {
    await sink.write(encodeHeader(tensors, metadata));
    for (const tensor of tensors) {
      const byteLength = bytesOf(tensor);
      let written = 0;
      const wrongLength = () => ({ where: tensor.name, expected: `${byteLength} bytes`, got: `${written}` });
      for await (const chunk of tensor.data()) {
        written += chunk.length;
        want(written <= byteLength, 'bad-argument', 'tensor data too long', wrongLength);
        await sink.write(chunk);
      }
      want(written === byteLength, 'bad-argument', 'tensor data too short', wrongLength);
    }
    await sink.close();
  } catch (error) {
    await sink.abort();
    throw error;
  }
}

function bytesOf({ name, dtype, shape }: SafetensorsTensorToWrite): number {
  const bytes = shape.reduce((product, extent) => product * extent, elementBytes[dtype]);
  want(Number.isSafeInteger(bytes) && bytes >= 0, 'bad-argument', 'bad shape', () => ({ where: name }));
  return bytes;
}

function encodeHeader(
  tensors: readonly SafetensorsTensorToWrite[],
  metadata: ReadonlyMap<string, string>,
): Uint8Array<ArrayBuffer> {
  const entries = new Map<string, unknown>();
  if (metadata.size > 0) entries.set('__metadata__', Object.fromEntries(metadata));
  let begin = 0;
  for (const tensor of tensors) {
    const { name, dtype, shape } = tensor;
    want(!entries.has(name) && name !== '__metadata__', 'bad-argument', 'tensor given twice', () => ({ where: name }));
    const end = begin + bytesOf(tensor);
    entries.set(name, { dtype, shape, data_offsets: [begin, end] });
    begin = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  // Spaces up to a multiple of 8, so that the data are aligned for whoever maps the file.
  const length = Math.ceil(json.length / 8) * 8;
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, 8);
  return header;
}
