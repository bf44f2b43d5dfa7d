/**
 * What the cuda backend's opaque values really are: handles of buffers in device memory.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import type { Buf, BufType, KvCache, KvShape, KvType, QuantizedBuf, Weight, WeightShape } from '../interface.ts';
import { DENSE_CODE } from './abi.ts';

/** Something that lies on a device. Another backend of the same card has handles of its own, which look alike. */
interface Owned {
  readonly owner: object;
  /** All its buffers, to be freed. */
  readonly handles: readonly number[];
  readonly bytes: number;
}

export class CudaBuf implements Buf, Owned {
  readonly type: BufType;
  readonly shape: readonly number[];
  readonly owner: object;
  readonly handle: number;

  constructor(type: BufType, shape: readonly number[], owner: object, handle: number) {
    this.type = type;
    this.shape = shape;
    this.owner = owner;
    this.handle = handle;
  }

  get length(): number {
    return lengthOf(this.shape);
  }

  get handles(): readonly number[] {
    return [this.handle];
  }

  get bytes(): number {
    return bufBytes(this.shape);
  }
}

export class CudaQuantized implements QuantizedBuf, Owned {
  readonly type = 'q8';
  readonly rows: number;
  readonly columns: number;
  readonly owner: object;
  readonly codes: number;
  /** For each row its scale (f32) and the sum of its codes (i32). */
  readonly meta: number;

  constructor(rows: number, columns: number, owner: object, codes: number, meta: number) {
    this.rows = rows;
    this.columns = columns;
    this.owner = owner;
    this.codes = codes;
    this.meta = meta;
  }

  get handles(): readonly number[] {
    return [this.codes, this.meta];
  }

  get bytes(): number {
    const { codes, meta } = quantizedBytes(this.rows, this.columns);
    return codes + meta;
  }
}

export class CudaKv implements KvCache, Owned {
  readonly type = 'kv';
  readonly shape: KvShape;
  readonly owner: object;
  readonly keys: number;
  readonly values: number;

  constructor(shape: KvShape, owner: object, keys: number, values: number) {
    this.shape = shape;
    this.owner = owner;
    this.keys = keys;
    this.values = values;
  }

  get handles(): readonly number[] {
    return [this.keys, this.values];
  }

  get bytes(): number {
    return kvBytes(this.shape, this.shape.kType) + kvBytes(this.shape, this.shape.vType);
  }
}

export class CudaWeight implements Weight {
  readonly kind: 'ternary' | 'dense';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly scale: number;
  readonly owner: object;
  readonly handle: number;
  /** Type of a dense one, -1 of others. */
  readonly dtype: number;

  constructor(source: WeightShape, owner: object, handle: number, scale: number) {
    this.kind = source.kind;
    this.name = source.name;
    this.rows = source.rows;
    this.columns = source.columns;
    this.scale = scale;
    this.owner = owner;
    this.handle = handle;
    this.dtype = source.kind === 'dense' ? DENSE_CODE[source.dtype] : -1;
  }
}

export function lengthOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** The library knows no buffers of nothing. */
export function bufBytes(shape: readonly number[]): number {
  return Math.max(1, lengthOf(shape)) * 4;
}

/** Bytes of a row of codes. */
export function codeStride(columns: number): number {
  return Math.ceil(columns / 128) * 128;
}

export function quantizedBytes(rows: number, columns: number): { readonly codes: number; readonly meta: number } {
  return { codes: Math.max(1, rows) * codeStride(columns), meta: Math.max(1, rows) * 8 };
}

export function bytesOf(type: KvType): number {
  return type === 'f32' ? 4 : 2;
}

/** All layers' keys or values (layer, kvHead, position, headDim). */
export function kvBytes({ nLayers, nKvHeads, contextSize, headDim }: KvShape, type: KvType): number {
  return nLayers * nKvHeads * contextSize * headDim * bytesOf(type);
}

/**
 * Codes of one row in their order. In device memory the four quarters of each 128 columns lie in four planes:
 * column c is byte (c / 32 % 4) * stride / 4 + c / 128 * 32 + c % 32.
 */
export function codesOfRow(row: Int8Array, out: Int8Array): void {
  const plane = row.length / 4;
  for (let c = 0; c < out.length; c++) out[c] = row[((c >> 5) & 3) * plane + (c >> 7) * 32 + (c & 31)];
}

export function cudaBuf(owner: object, buf: Buf): CudaBuf {
  if (buf instanceof CudaBuf && buf.owner === owner) return buf;
  throw foreign('buffer');
}

export function cudaQuantized(owner: object, buf: QuantizedBuf): CudaQuantized {
  if (buf instanceof CudaQuantized && buf.owner === owner) return buf;
  throw foreign('quantised buffer');
}

export function cudaKv(owner: object, kv: KvCache): CudaKv {
  if (kv instanceof CudaKv && kv.owner === owner) return kv;
  throw foreign('KV cache');
}

export function cudaWeight(owner: object, weight: Weight): CudaWeight {
  if (weight instanceof CudaWeight && weight.owner === owner) return weight;
  throw foreign('weight');
}

function foreign(what: string): BitnetError {
  return new BitnetError('bad-argument', `${what} of another backend`, { where: 'backend cuda' });
}
