/**
 * GGUF writer: version 3, little-endian, the same bytes for the same input. Tensor data streams through and is never
 * held: sizes follow from types and shapes, so the whole header is written before the first tensor is produced.
 *
 * Reading a file and writing what was read gives the identical file, if that file was laid out as usual: tensors in
 * the order of their records, padded with zeros, the last one too.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import { type DType, type DTypeName, dtypeByName, elementCount, tensorByteLength } from '../../tensors/dtype.ts';
import type { ByteSink } from '../sink.ts';
import { DEFAULT_ALIGNMENT, isAlignment, roundUp } from './align.ts';
import { MAX_DIMENSIONS } from './limits.ts';
import {
  GgufString,
  type GgufTensor,
  type GgufValue,
  type GgufValueType,
  StringArray,
  valueTypeNames,
} from './types.ts';
import { valueBytes } from './values.ts';

/** Pieces of one tensor's bytes, in order. */
export type TensorChunks = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

export interface TensorToWrite {
  readonly name: string;
  readonly dtype: DType | DTypeName;
  /** In ne order: shape[0] = K. */
  readonly shape: readonly number[];
  /** Called once, when it is this tensor's turn; must give exactly the bytes that type and shape say. */
  readonly data: () => TensorChunks;
}

export interface GgufToWrite {
  /** In the order to be written; `general.alignment` among them is obeyed, 32 otherwise. */
  readonly metadata: Iterable<readonly [key: string, value: GgufValue]>;
  readonly tensors: readonly TensorToWrite[];
}

/**
 * Writes a file and closes the sink; on failure aborts it.
 * @returns the number of bytes written
 */
export async function writeGguf(sink: ByteSink, file: GgufToWrite): Promise<number> {
  try {
    const written = await writeAll(sink, file);
    await sink.close();
    return written;
  } catch (error) {
    await sink.abort();
    throw error;
  }
}

async function writeAll(sink: ByteSink, { metadata, tensors }: GgufToWrite): Promise<number> {
  const entries = new Map(metadata);
  const alignment = alignmentOf(entries);
  const sized = tensors.map(sizeTensor);
  const header = new Encoder();
  header.raw(new TextEncoder().encode('GGUF'));
  header.u32(3);
  header.u64(tensors.length);
  header.u64(entries.size);
  for (const [key, value] of entries) {
    header.string(new TextEncoder().encode(key));
    encodeValue(header, value);
  }
  let offset = 0;
  const names = new Set<string>();
  for (const { name, dtype, shape, byteLength } of sized) {
    want(!names.has(name), 'bad-argument', 'tensor given twice', () => ({ where: name }));
    names.add(name);
    header.string(new TextEncoder().encode(name));
    header.u32(shape.length);
    for (const extent of shape) header.u64(extent);
    header.u32(dtype.id);
    header.u64(offset);
    offset += roundUp(byteLength, alignment);
  }
  if (sized.length > 0) header.raw(new Uint8Array(roundUp(header.length, alignment) - header.length));
  for (const chunk of header.chunks()) await sink.write(chunk);
  for (const tensor of sized) {
    await writeTensor(sink, tensor);
    await sink.write(new Uint8Array(roundUp(tensor.byteLength, alignment) - tensor.byteLength));
  }
  return header.length + offset;
}

function alignmentOf(entries: ReadonlyMap<string, GgufValue>): number {
  const value = entries.get('general.alignment');
  if (value === undefined) return DEFAULT_ALIGNMENT;
  const alignment = value.type === 'u32' ? value.value : 0;
  want(isAlignment(alignment), 'bad-argument', 'bad alignment', () => ({
    where: 'general.alignment',
    expected: 'a u32 that is a power of two',
  }));
  return alignment;
}

interface SizedTensor extends TensorToWrite {
  readonly dtype: DType;
  readonly byteLength: number;
}

function sizeTensor(tensor: TensorToWrite): SizedTensor {
  const { name, shape } = tensor;
  const dtype = typeof tensor.dtype === 'string' ? dtypeByName(tensor.dtype) : tensor.dtype;
  want(shape.length <= MAX_DIMENSIONS, 'bad-argument', 'too many dimensions', () => ({ where: name }));
  elementCount(shape, name);
  const byteLength = tensorByteLength(dtype, shape, name);
  if (byteLength === undefined) {
    throw new BitnetError('unsupported-type', `the size of type ${dtype.name} is not known`, { where: name });
  }
  return { ...tensor, dtype, byteLength };
}

async function writeTensor(sink: ByteSink, { name, data, byteLength }: SizedTensor): Promise<void> {
  let written = 0;
  const wrongLength = () => ({ where: name, expected: `${byteLength} bytes`, got: `${written}` });
  for await (const chunk of data()) {
    written += chunk.length;
    want(written <= byteLength, 'bad-argument', 'tensor data too long', wrongLength);
    await sink.write(chunk);
  }
  want(written === byteLength, 'bad-argument', 'tensor data too short', wrongLength);
}

/** Small fields are collected in a growing block; large bodies are kept as they are. */
class Encoder {
  length = 0;
  readonly #chunks: Uint8Array[] = [];

  raw(bytes: Uint8Array): void {
    this.#chunks.push(bytes);
    this.length += bytes.length;
  }
  u32(value: number): void {
    encodeScalars(this, 'u32', [value]);
  }
  u64(value: number): void {
    encodeScalars(this, 'u64', [value]);
  }
  string(bytes: Uint8Array): void {
    this.u64(bytes.length);
    this.raw(bytes);
  }
  /** In one piece up to 1 MiB, so that a sink is not called for every field. */
  *chunks(): Generator<Uint8Array> {
    const block = new Uint8Array(Math.min(this.length, 1 << 20));
    let filled = 0;
    for (const chunk of this.#chunks) {
      if (filled + chunk.length > block.length) {
        yield block.subarray(0, filled);
        filled = 0;
      }
      if (chunk.length > block.length) {
        yield chunk;
      } else {
        block.set(chunk, filled);
        filled += chunk.length;
      }
    }
    yield block.subarray(0, filled);
  }
}

function encodeValue(out: Encoder, value: GgufValue): void {
  out.u32(valueTypeNames.indexOf(value.type));
  switch (value.type) {
    case 'string':
      out.string(value.bytes);
      return;
    case 'array':
      out.u32(valueTypeNames.indexOf(value.of));
      out.u64(value.values.length);
      if (value.of === 'string') out.raw(value.values.body);
      else encodeScalars(out, value.of, value.values);
      return;
    case 'bool':
      encodeScalars(out, 'bool', [value.value ? 1 : 0]);
      return;
    default:
      encodeScalars(out, value.type, [value.value]);
  }
}

/** One value, or all elements of an array, in one piece. */
function encodeScalars(out: Encoder, type: ScalarType, values: ArrayLike<number | bigint>): void {
  const bytesEach = valueBytes[type];
  const view = new DataView(new ArrayBuffer(bytesEach * values.length));
  const set = setters[type];
  for (let i = 0; i < values.length; i++) set(view, i * bytesEach, values[i]);
  out.raw(new Uint8Array(view.buffer));
}

type ScalarType = Exclude<GgufValueType, 'string' | 'array'>;

const setters: Record<ScalarType, (view: DataView, at: number, value: number | bigint) => void> = {
  u8: (view, at, value) => view.setUint8(at, Number(value)),
  i8: (view, at, value) => view.setInt8(at, Number(value)),
  bool: (view, at, value) => view.setUint8(at, Number(value)),
  u16: (view, at, value) => view.setUint16(at, Number(value), true),
  i16: (view, at, value) => view.setInt16(at, Number(value), true),
  u32: (view, at, value) => view.setUint32(at, Number(value), true),
  i32: (view, at, value) => view.setInt32(at, Number(value), true),
  f32: (view, at, value) => view.setFloat32(at, Number(value), true),
  f64: (view, at, value) => view.setFloat64(at, Number(value), true),
  u64: (view, at, value) => view.setBigUint64(at, BigInt(value), true),
  i64: (view, at, value) => view.setBigInt64(at, BigInt(value), true),
};

/** A string value from text. */
export function stringValue(text: string): GgufValue {
  return new GgufString(new TextEncoder().encode(text));
}

/** A string array from texts or bytes. */
export function stringsValue(strings: readonly (string | Uint8Array)[]): GgufValue {
  const encoded = strings.map((text) => (typeof text === 'string' ? new TextEncoder().encode(text) : text));
  const body = new Uint8Array(encoded.reduce((sum, bytes) => sum + 8 + bytes.length, 0));
  const view = new DataView(body.buffer);
  const starts = new Uint32Array(encoded.length + 1);
  let at = 0;
  encoded.forEach((bytes, i) => {
    view.setBigUint64(at, BigInt(bytes.length), true);
    body.set(bytes, at + 8);
    starts[i] = at + 8;
    at += 8 + bytes.length;
  });
  starts[encoded.length] = at + 8;
  return { type: 'array', of: 'string', values: new StringArray(body, starts) };
}

/** A tensor of an opened file as one to be written, its bytes copied through pieces of `pieceBytes`. */
export function copyOf(tensor: GgufTensor, pieceBytes = 4 << 20): TensorToWrite {
  const { name, dtype, shape, source, offsetBytes, byteLength } = tensor;
  return {
    name,
    dtype,
    shape,
    async *data() {
      const buffer = new Uint8Array(Math.min(pieceBytes, byteLength));
      for (let at = 0; at < byteLength; at += buffer.length) {
        const piece = buffer.subarray(0, Math.min(buffer.length, byteLength - at));
        await source.readInto(piece, offsetBytes + at);
        yield piece;
      }
    },
  };
}
