/**
 * The `ts` backend: plain TypeScript, the definition of every op. Written for reading and for checking others against;
 * it keeps weights packed, so even a large model fits, and takes its time.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import { decodeF16s, encodeF16s } from '../../numeric/f16.ts';
import { decodeAffine } from '../../tensors/affine.ts';
import { decodeBF16, decodeF16, decodeF32 } from '../../tensors/floats.ts';
import { decodeQ6_K } from '../../tensors/q6_k.ts';
import { decodeQ8_0 } from '../../tensors/q8_0.ts';
import { type TopRow, topRowOf } from '../../tensors/top-row.ts';
import type {
  Backend,
  BackendInfo,
  Buf,
  BufType,
  DenseType,
  KvCache,
  KvShape,
  QuantizedBuf,
  RopeStyle,
  Segment,
  Weight,
  WeightSource,
} from '../interface.ts';
import { add, gatedGelu, gatedRelu2, gatedSilu, scale } from './activation.ts';
import { attention } from './attention.ts';
import { rmsNorm, rmsNormQuantize } from './norm.ts';
import { quantizeRows } from './quantize.ts';
import { rope } from './rope.ts';
import { dot16 } from './sums.ts';
import { ternaryMatmul } from './ternary-matmul.ts';

/** Decodes values first .. first + count of a tensor to f32. */
type Decoder = (bytes: Uint8Array, first: number, count: number, out: Float32Array) => void;

const DECODERS: Record<DenseType, Decoder> = {
  F32: decodeF32,
  F16: decodeF16,
  BF16: decodeBF16,
  Q8_0: decodeQ8_0,
  Q6_K: decodeQ6_K,
  AFFINE: decodeAffine,
};

class TsBuf implements Buf {
  readonly type: BufType;
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;

  constructor(type: BufType, shape: readonly number[]) {
    const length = shape.reduce((a, b) => a * b, 1);
    this.type = type;
    this.shape = shape;
    this.data = type === 'f32' ? new Float32Array(length) : new Int32Array(length);
  }
}

class TsQuantized implements QuantizedBuf {
  readonly type = 'q8';
  readonly rows: number;
  readonly columns: number;
  readonly codes: Int8Array;
  readonly scales: Float32Array;

  constructor(rows: number, columns: number) {
    this.rows = rows;
    this.columns = columns;
    this.codes = new Int8Array(rows * columns);
    this.scales = new Float32Array(rows);
  }
}

/** Keys or values (layer, kvHead, position, headDim); f16 ones are kept as bits and read back exactly. */
class TsKv implements KvCache {
  readonly type = 'kv';
  readonly shape: KvShape;
  readonly #keys: Float32Array | Uint8Array;
  readonly #values: Float32Array | Uint8Array;

  constructor(shape: KvShape) {
    this.shape = shape;
    const elements = shape.nLayers * shape.nKvHeads * shape.contextSize * shape.headDim;
    this.#keys = shape.kType === 'f32' ? new Float32Array(elements) : new Uint8Array(elements * 2);
    this.#values = shape.vType === 'f32' ? new Float32Array(elements) : new Uint8Array(elements * 2);
  }

  store(layer: number, position: number, k: Float32Array, v: Float32Array, row: number): void {
    const { nKvHeads, headDim } = this.shape;
    for (let head = 0; head < nKvHeads; head++) {
      const from = (row * nKvHeads + head) * headDim;
      const at = this.#index(layer, head, position);
      write(this.#keys, at, k.subarray(from, from + headDim));
      write(this.#values, at, v.subarray(from, from + headDim));
    }
  }

  keys(layer: number, head: number, position: number, count: number): Float32Array {
    return read(this.#keys, this.#index(layer, head, position), count * this.shape.headDim);
  }

  values(layer: number, head: number, position: number, count: number): Float32Array {
    return read(this.#values, this.#index(layer, head, position), count * this.shape.headDim);
  }

  #index(layer: number, head: number, position: number): number {
    const { nKvHeads, contextSize, headDim } = this.shape;
    return ((layer * nKvHeads + head) * contextSize + position) * headDim;
  }
}

function write(to: Float32Array | Uint8Array, at: number, values: Float32Array): void {
  if (to instanceof Float32Array) to.set(values, at);
  else encodeF16s(values, 0, values.length, to, at * 2);
}

function read(from: Float32Array | Uint8Array, at: number, count: number): Float32Array {
  if (from instanceof Float32Array) return from.subarray(at, at + count);
  const out = new Float32Array(count);
  decodeF16s(from, at * 2, count, out);
  return out;
}

class TsWeight implements Weight {
  readonly kind: 'ternary' | 'dense';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly bytes: Uint8Array;
  readonly scale: number;
  readonly #decode: Decoder | undefined;

  constructor(source: WeightSource, bytes: Uint8Array, scale: number) {
    this.kind = source.kind;
    this.name = source.name;
    this.rows = source.rows;
    this.columns = source.columns;
    this.bytes = bytes;
    this.scale = scale;
    this.#decode = source.kind === 'dense' ? DECODERS[source.dtype] : undefined;
  }

  /** Row `row` of a dense weight as f32. */
  decodeRow(row: number, out: Float32Array): void {
    want(this.#decode !== undefined, 'bad-argument', 'not a dense weight', () => ({ where: this.name }));
    this.#decode(this.bytes, row * this.columns, this.columns, out);
  }
}

/** Opens the backend. */
export function createTsBackend(): Backend {
  return new TsBackend();
}

class TsBackend implements Backend {
  readonly info: BackendInfo = { name: 'ts', variant: 'plain', nThreads: 1, exact: true, notes: [] };
  readonly #sizes = new Map<object, number>();
  #usedBytes = 0;
  #peakBytes = 0;
  #disposed = false;

  alloc(type: BufType, shape: readonly number[]): Buf {
    const bytes = shape.reduce((a, b) => a * b, 4);
    return this.#count(() => new TsBuf(type, shape), bytes);
  }

  allocQuantized(rows: number, columns: number): QuantizedBuf {
    return this.#count(() => new TsQuantized(rows, columns), rows * (columns + 4));
  }

  allocKv(shape: KvShape): KvCache {
    const elements = shape.nLayers * shape.nKvHeads * shape.contextSize * shape.headDim;
    const bytes = elements * ((shape.kType === 'f32' ? 4 : 2) + (shape.vType === 'f32' ? 4 : 2));
    return this.#count(() => new TsKv(shape), bytes);
  }

  free(memory: Buf | QuantizedBuf | KvCache): void {
    this.#usedBytes -= this.#sizes.get(memory) ?? 0;
    this.#sizes.delete(memory);
  }

  async upload(source: WeightSource): Promise<Weight> {
    const bytes = allocated(() => new Uint8Array(source.byteLength), source.byteLength);
    const scale = await source.fill(bytes);
    return this.#count(() => new TsWeight(source, bytes, Math.fround(scale)), source.byteLength);
  }

  memory(): { usedBytes: number; peakBytes: number } {
    return { usedBytes: this.#usedBytes, peakBytes: this.#peakBytes };
  }

  write(to: Buf, data: Float32Array | Int32Array): void {
    this.#buf(to).set(data);
  }

  async read(from: Buf, count: number): Promise<Float32Array> {
    const data = this.#f32(from);
    want(count <= data.length, 'bad-argument', 'cannot be read', () => ({
      expected: `at most ${data.length} values`,
      got: `${count}`,
    }));
    return data.slice(0, count);
  }

  async readTop(from: Buf, n: number): Promise<TopRow[]> {
    const data = this.#f32(from);
    const columns = from.shape[1] ?? 1;
    want(n * columns <= data.length, 'bad-argument', 'cannot be read', () => ({
      expected: `at most ${from.shape[0]} rows`,
      got: `${n}`,
    }));
    return Array.from({ length: n }, (_, row) => topRowOf(data.subarray(row * columns, (row + 1) * columns)));
  }

  async readQuantized(from: QuantizedBuf, n: number): Promise<{ codes: Int8Array; scales: Float32Array }> {
    const q = this.#quantized(from);
    return { codes: q.codes.slice(0, n * q.columns), scales: q.scales.slice(0, n) };
  }

  async readKv(
    from: KvCache,
    layer: number,
    position: number,
    count: number,
  ): Promise<{ k: Float32Array; v: Float32Array }> {
    const kv = this.#kv(from);
    const { nKvHeads, headDim } = kv.shape;
    const k = new Float32Array(nKvHeads * count * headDim);
    const v = new Float32Array(nKvHeads * count * headDim);
    for (let head = 0; head < nKvHeads; head++) {
      k.set(kv.keys(layer, head, position, count), head * count * headDim);
      v.set(kv.values(layer, head, position, count), head * count * headDim);
    }
    return { k, v };
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
  }

  embed(out: Buf, table: Weight, ids: Buf, n: number): void {
    const weight = this.#weight(table);
    const target = this.#f32(out);
    const tokens = this.#buf(ids);
    for (let i = 0; i < n; i++) {
      const id = tokens[i];
      want(id >= 0 && id < weight.rows, 'bad-token', 'token id out of range', () => ({
        where: weight.name,
        expected: `0 to ${weight.rows - 1}`,
        got: `${id}`,
      }));
      weight.decodeRow(id, target.subarray(i * weight.columns, (i + 1) * weight.columns));
    }
  }

  rmsNorm(out: Buf, x: Buf, gain: Buf, eps: number, n: number): void {
    const gains = this.#f32(gain);
    rmsNorm(this.#f32(out), this.#f32(x), gains, eps, gains.length, n);
  }

  quantizeRows(out: QuantizedBuf, x: Buf, n: number): void {
    const q = this.#quantized(out);
    quantizeRows(q.codes, q.scales, this.#f32(x), q.columns, n);
  }

  rmsNormQuantize(out: QuantizedBuf, x: Buf, gain: Buf, eps: number, n: number): void {
    const q = this.#quantized(out);
    rmsNormQuantize(q.codes, q.scales, this.#f32(x), this.#f32(gain), eps, q.columns, n);
  }

  ternaryMatmul(out: Buf, weight: Weight, x: QuantizedBuf, n: number): void {
    const w = this.#weight(weight);
    const q = this.#quantized(x);
    want(q.columns === w.columns, 'bad-argument', 'activations do not fit the weight', () => ({
      where: w.name,
      expected: `${w.columns} columns`,
      got: `${q.columns}`,
    }));
    ternaryMatmul(this.#f32(out), w.bytes, w.scale, w.rows, w.columns, q.codes, q.scales, n);
  }

  denseMatmul(out: Buf, weight: Weight, x: Buf, n: number): void {
    const w = this.#weight(weight);
    const target = this.#f32(out);
    const source = this.#f32(x);
    const decoded = new Float32Array(w.columns);
    for (let row = 0; row < w.rows; row++) {
      w.decodeRow(row, decoded);
      for (let token = 0; token < n; token++) {
        target[token * w.rows + row] = dot16(decoded, 0, source, token * w.columns, w.columns);
      }
    }
  }

  denseTopK(out: Buf, weight: Weight, x: Buf, _k: number, n: number): void {
    this.denseMatmul(out, weight, x, n);
  }

  rope(x: Buf, angles: Buf, nHeads: number, headDim: number, style: RopeStyle, n: number): void {
    rope(this.#f32(x), this.#f32(angles), nHeads, headDim, style, n);
  }

  kvAppend(segment: Segment, layer: number, k: Buf, v: Buf): void {
    const kv = this.#kv(segment.kv);
    want(segment.position + segment.count <= kv.shape.contextSize, 'context-full', 'beyond the KV cache', () => ({
      expected: `at most ${kv.shape.contextSize} positions`,
      got: `${segment.position + segment.count}`,
    }));
    for (let i = 0; i < segment.count; i++) {
      kv.store(layer, segment.position + i, this.#f32(k), this.#f32(v), segment.row + i);
    }
  }

  attention(out: Buf, q: Buf, segment: Segment, layer: number, scale: number): void {
    const kv = this.#kv(segment.kv);
    const reader = {
      keys: (head: number, count: number) => kv.keys(layer, head, 0, count),
      values: (head: number, count: number) => kv.values(layer, head, 0, count),
    };
    const { nHeads, nKvHeads, headDim } = kv.shape;
    attention(this.#f32(out), this.#f32(q), reader, segment, nHeads, nKvHeads, headDim, scale);
  }

  gatedRelu2(out: Buf, gate: Buf, up: Buf, n: number): void {
    gatedRelu2(this.#f32(out), this.#f32(gate), this.#f32(up), n * (out.shape[1] ?? 1));
  }

  gatedSilu(out: Buf, gate: Buf, up: Buf, n: number): void {
    gatedSilu(this.#f32(out), this.#f32(gate), this.#f32(up), n * (out.shape[1] ?? 1));
  }

  gatedGelu(out: Buf, gate: Buf, up: Buf, n: number): void {
    gatedGelu(this.#f32(out), this.#f32(gate), this.#f32(up), n * (out.shape[1] ?? 1));
  }

  scale(out: Buf, x: Buf, factor: number, n: number): void {
    scale(this.#f32(out), this.#f32(x), factor, n * (out.shape[1] ?? 1));
  }

  add(out: Buf, a: Buf, b: Buf, n: number): void {
    add(this.#f32(out), this.#f32(a), this.#f32(b), n * (out.shape[1] ?? 1));
  }

  copyRows(out: Buf, outRow: number, from: Buf, fromRow: number, count: number): void {
    const columns = from.shape[1] ?? 1;
    const rows = this.#f32(from).subarray(fromRow * columns, (fromRow + count) * columns);
    this.#f32(out).set(rows, outRow * columns);
  }

  #count<T extends object>(make: () => T, bytes: number): T {
    const memory = allocated(make, bytes);
    this.#sizes.set(memory, bytes);
    this.#usedBytes += bytes;
    this.#peakBytes = Math.max(this.#peakBytes, this.#usedBytes);
    return memory;
  }

  #buf(buf: Buf): Float32Array | Int32Array {
    if (this.#disposed) throw new BitnetError('disposed', 'the backend was disposed', { where: 'backend ts' });
    if (buf instanceof TsBuf) return buf.data;
    throw foreign('buffer');
  }

  #f32(buf: Buf): Float32Array {
    const data = this.#buf(buf);
    if (data instanceof Float32Array) return data;
    throw new BitnetError('bad-argument', 'wrong buffer type', { expected: 'f32', got: buf.type });
  }

  #quantized(buf: QuantizedBuf): TsQuantized {
    if (buf instanceof TsQuantized) return buf;
    throw foreign('quantised buffer');
  }

  #kv(kv: KvCache): TsKv {
    if (kv instanceof TsKv) return kv;
    throw foreign('KV cache');
  }

  #weight(weight: Weight): TsWeight {
    if (weight instanceof TsWeight) return weight;
    throw foreign('weight');
  }
}

/** What `make` makes; the engine's own complaint about too large an array becomes ours. */
function allocated<T>(make: () => T, bytes: number): T {
  try {
    return make();
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new BitnetError(
      'out-of-memory',
      'not enough memory',
      { where: 'backend ts', expected: `${bytes} bytes` },
      cause,
    );
  }
}

function foreign(what: string): BitnetError {
  return new BitnetError('bad-argument', `${what} of another backend`, { where: 'backend ts' });
}
