/**
 * What the wasm backend's opaque values really are: addresses in its memory.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import type {
  Buf,
  BufType,
  DenseType,
  KvCache,
  KvShape,
  KvType,
  QuantizedBuf,
  Weight,
  WeightShape,
} from '../interface.ts';

/** Order as in `assembly/dense.ts`. */
export const DENSE_CODE: Record<DenseType, number> = { F32: 0, F16: 1, BF16: 2, Q8_0: 3, Q6_K: 4, AFFINE: 8 };

export class WasmBuf implements Buf {
  readonly type: BufType;
  readonly shape: readonly number[];
  readonly address: number;

  constructor(type: BufType, shape: readonly number[], address: number) {
    this.type = type;
    this.shape = shape;
    this.address = address;
  }

  get length(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }
}

export class WasmQuantized implements QuantizedBuf {
  readonly type = 'q8';
  readonly rows: number;
  readonly columns: number;
  /** Bytes of codes per row. */
  readonly stride: number;
  readonly codes: number;
  readonly meta: number;

  constructor(rows: number, columns: number, codes: number, meta: number) {
    this.rows = rows;
    this.columns = columns;
    this.stride = paddedColumns(columns);
    this.codes = codes;
    this.meta = meta;
  }
}

export class WasmKv implements KvCache {
  readonly type = 'kv';
  readonly shape: KvShape;
  readonly keys: number;
  readonly values: number;

  constructor(shape: KvShape, keys: number, values: number) {
    this.shape = shape;
    this.keys = keys;
    this.values = values;
  }

  /** Addresses of the blocks of one layer, behind their headers. */
  layer(layer: number): { keys: number; values: number } {
    const { kType, vType } = this.shape;
    const start = (base: number, type: KvType) => base + layer * kvBlockBytes(this.shape, type) + KV_BLOCK_HEADER;
    return { keys: start(this.keys, kType), values: start(this.values, vType) };
  }
}

/** BLOCK_HEADER of `assembly/attention.ts`. */
const KV_BLOCK_HEADER = 64;

/** One layer's keys or values (kvHead, position, headDim) and their header, to the next multiple of 64. */
function kvBlockBytes({ nKvHeads, contextSize, headDim }: KvShape, type: KvType): number {
  return KV_BLOCK_HEADER + Math.ceil((nKvHeads * contextSize * headDim * bytesOf(type)) / 64) * 64;
}

/** All layers' keys or values. */
export function kvBytes(shape: KvShape, type: KvType): number {
  return shape.nLayers * kvBlockBytes(shape, type);
}

export class WasmWeight implements Weight {
  readonly kind: 'ternary' | 'dense';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly address: number;
  readonly rowBytes: number;
  readonly scale: number;
  readonly code: number;
  /** Address of what `denseTopK` needs besides the rows (`assembly/head.ts`), once it was asked for. */
  index: number | undefined;

  constructor(source: WeightShape, address: number, scale: number) {
    this.kind = source.kind;
    this.name = source.name;
    this.rows = source.rows;
    this.columns = source.columns;
    this.address = address;
    this.rowBytes = source.byteLength / source.rows;
    this.scale = scale;
    this.code = source.kind === 'dense' ? DENSE_CODE[source.dtype] : -1;
  }
}

export function paddedColumns(columns: number): number {
  return Math.ceil(columns / 128) * 128;
}

export function bytesOf(type: 'f32' | 'f16'): number {
  return type === 'f32' ? 4 : 2;
}

/**
 * Bytes that `denseTopK` needs besides the rows: a norm for each; for floats also an error, a scale and int8 codes, the plane.
 */
export function headIndexBytes(w: Pick<WasmWeight, 'code' | 'rows' | 'columns'>): { bytes: number; isPlane: boolean } {
  const isPlane = w.code !== DENSE_CODE.Q8_0 && w.code !== DENSE_CODE.Q6_K;
  return { bytes: isPlane ? Math.ceil((w.rows * 12) / 64) * 64 + w.rows * w.columns : w.rows * 4, isPlane };
}

export function wasmBuf(buf: Buf): WasmBuf {
  if (buf instanceof WasmBuf) return buf;
  throw foreign('buffer');
}

export function wasmQuantized(buf: QuantizedBuf): WasmQuantized {
  if (buf instanceof WasmQuantized) return buf;
  throw foreign('quantised buffer');
}

export function wasmKv(kv: KvCache): WasmKv {
  if (kv instanceof WasmKv) return kv;
  throw foreign('KV cache');
}

export function wasmWeight(weight: Weight): WasmWeight {
  if (weight instanceof WasmWeight) return weight;
  throw foreign('weight');
}

function foreign(what: string): BitnetError {
  return new BitnetError('bad-argument', `${what} of another backend`, { where: 'backend wasm' });
}
