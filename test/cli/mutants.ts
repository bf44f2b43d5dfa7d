/**
 * Model files changed in one place: opened, altered as data, written again.
 * @module
 */

import { readFile } from 'node:fs/promises';
import { gunzipSync } from 'fflate';
import { type GgufValue, memorySink, memorySource, openGguf, stringValue, writeGguf } from '../../src/formats/index.ts';
import { type DTypeName, dtypeByName } from '../../src/tensors/dtype.ts';
import { decodeTritsI2S, encodeI2S, scaleOfI2S } from '../../src/tensors/i2s.ts';

export interface LooseTensor {
  name: string;
  dtype: DTypeName;
  shape: number[];
  bytes: Uint8Array;
}

/** A file taken apart. */
export class Loose {
  readonly metadata: Map<string, GgufValue>;
  readonly tensors: LooseTensor[];

  constructor(metadata: Map<string, GgufValue>, tensors: LooseTensor[]) {
    this.metadata = metadata;
    this.tensors = tensors;
  }

  tensor(name: string): LooseTensor {
    const found = this.tensors.find((tensor) => tensor.name === name);
    if (found === undefined) throw new Error(`no ${name}`);
    return found;
  }

  remove(name: string): void {
    this.tensors.splice(this.tensors.indexOf(this.tensor(name)), 1);
  }

  /** Tensors whose name contains `part`. */
  like(part: string): LooseTensor[] {
    const found = this.tensors.filter(({ name }) => name.includes(part));
    if (found.length === 0) throw new Error(`none like ${part}`);
    return found;
  }

  setFloats(name: string, next: (i: number) => number): void {
    const tensor = this.tensor(name);
    const count = tensor.shape.reduce((a, b) => a * b, 1);
    tensor.dtype = 'F32';
    tensor.bytes = new Uint8Array(Float32Array.from({ length: count }, (_, i) => next(i)).buffer);
  }

  /** New trits for an I2_S tensor, from the old. */
  setTrits(name: string, next: (i: number, old: Int8Array) => number): void {
    const tensor = this.tensor(name);
    if (tensor.dtype !== 'I2_S') throw new Error(`${name} is ${tensor.dtype}`);
    const count = tensor.shape[0] * tensor.shape[1];
    const old = new Int8Array(count);
    decodeTritsI2S(tensor.bytes, 0, count, old);
    const trits = Int8Array.from({ length: count }, (_, i) => next(i, old));
    tensor.bytes = encodeI2S(trits, scaleOfI2S(tensor.bytes, count / 4));
  }

  /** A new scale for an I2_S tensor. */
  setScale(tensor: LooseTensor, next: (old: number) => number): void {
    const at = (tensor.shape[0] * tensor.shape[1]) / 4;
    const view = new DataView(tensor.bytes.buffer, tensor.bytes.byteOffset);
    view.setFloat32(at, next(scaleOfI2S(tensor.bytes, at)), true);
  }

  /** Another `general.architecture`, and its keys renamed. */
  relabel(architecture: string): void {
    const old = this.metadata.get('general.architecture');
    if (old?.type !== 'string') throw new Error('no architecture');
    const entries = [...this.metadata];
    this.metadata.clear();
    for (const [key, value] of entries) this.metadata.set(key.replace(`${old.text}.`, `${architecture}.`), value);
    this.metadata.set('general.architecture', text(architecture));
  }
}

/** A string value. */
export const text = stringValue;
export const u32 = (value: number): GgufValue => ({ type: 'u32', value });
export const f32 = (value: number): GgufValue => ({ type: 'f32', value: Math.fround(value) });

/** The embedded model, unpacked. */
export async function stories(): Promise<Uint8Array> {
  return gunzipSync(await readFile(new URL('../../fixtures/models/stories.gguf.gz', import.meta.url)));
}

/** The same file but for what `change` does to it. */
export async function changed(file: Uint8Array, change: (loose: Loose) => void): Promise<Uint8Array> {
  const gguf = await openGguf(memorySource(file));
  const tensors: LooseTensor[] = [];
  for (const { name, dtype, shape, source, offsetBytes, byteLength } of gguf.tensors) {
    const bytes = new Uint8Array(byteLength);
    await source.readInto(bytes, offsetBytes);
    tensors.push({ name, dtype: dtype.name as DTypeName, shape: [...shape], bytes });
  }
  const loose = new Loose(new Map(gguf.metadata), tensors);
  change(loose);
  const sink = memorySink();
  await writeGguf(sink, {
    metadata: loose.metadata,
    tensors: loose.tensors.map(({ name, dtype, shape, bytes }) => {
      return { name, dtype: dtypeByName(dtype), shape, data: () => [bytes] };
    }),
  });
  return sink.bytes();
}
