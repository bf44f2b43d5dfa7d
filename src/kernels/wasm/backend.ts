/**
 * The wasm backend: every op becomes a command in shared memory; `read` runs the list on all threads.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import { f16ToNumber } from '../../numeric/f16.ts';
import { type TopRow, topRowOf } from '../../tensors/top-row.ts';
import type {
  Backend,
  BackendInfo,
  Buf,
  BufType,
  KvCache,
  KvShape,
  QuantizedBuf,
  Rehearsal,
  RopeStyle,
  Segment,
  Weight,
  WeightShape,
  WeightSource,
} from '../interface.ts';
import { Arena } from './arena.ts';
import { CommandList, MAX_COMMANDS, Op, type Rows } from './commands.ts';
import { CAPACITY_BYTES, COMMAND_BYTES, PAGE_BYTES, SCRATCH_BASE, SCRATCH_STRIDE, word } from './layout.ts';
import {
  bytesOf,
  DENSE_CODE,
  headIndexBytes,
  kvBytes,
  paddedColumns,
  WasmBuf,
  WasmKv,
  WasmQuantized,
  WasmWeight,
  wasmBuf,
  wasmKv,
  wasmQuantized,
  wasmWeight,
} from './memory.ts';
import type { Pool } from './pool.ts';
import { Uploads } from './uploads.ts';

/** What `assembly/ternary-lookup.ts` needs: 8 tables, 32 channels, 4 matrices, i16 and i32 sums of a block of 4096 rows. */
const LOOKUP_SCRATCH = 8 * 172 * 64 + 32 * 64 + 4 * 32 + 4096 * (64 + 128);

/** As ATTENTION_HEAD_ROOM in `assembly/index.ts`. */
const ATTENTION_HEAD_ROOM = 106496;
/** As ROWS in `assembly/attention-rows.ts`. */
const ATTENTION_ROWS = 4;

/** Below this many rows computing all of them costs less than finding out which matter. */
const TOP_MIN_ROWS = 1024;
/** X16_MAX of `assembly/head.ts` is made for this many. */
const TOP_MAX_COLUMNS = 16384;
const TOP_MAX_K = 1024;
/** As in `assembly/head.ts`. */
const THRESHOLD_STRIDE = 64;

/** Bytes of a cache of `positions`, and of the scratch that each thread needs to read it. */
function cacheBytes(shape: KvShape, positions: number) {
  const cut = { ...shape, contextSize: positions };
  return {
    keys: kvBytes(cut, shape.kType),
    values: kvBytes(cut, shape.vType),
    scratch: ATTENTION_HEAD_ROOM + ATTENTION_ROWS * (shape.nHeads / shape.nKvHeads) * positions * 4,
  };
}

/** Scratch of `denseTopK` for each thread. */
function topScratchBytes(columns: number, k: number): number {
  return columns * 8 + 1024 + k * 4;
}

export class WasmBackend implements Backend, Rehearsal {
  readonly info: BackendInfo;
  readonly #memory: WebAssembly.Memory;
  readonly #arena: Arena;
  readonly #pool: Pool;
  readonly #list: CommandList;
  readonly #uploads: Uploads;
  readonly #thresholds: number;
  #scratchBytes = 0;
  #disposed = false;

  constructor(
    info: BackendInfo,
    memory: WebAssembly.Memory,
    pool: Pool,
    { maxBytes = CAPACITY_BYTES, imaginary = false } = {},
  ) {
    this.info = info;
    this.#memory = memory;
    this.#arena = new Arena(memory, maxBytes, imaginary);
    this.#pool = pool;
    this.#list = new CommandList(memory, this.#arena.alloc(MAX_COMMANDS * COMMAND_BYTES, 'command list'));
    this.#thresholds = this.#arena.alloc(THRESHOLD_STRIDE * info.nThreads, 'thresholds');
    this.#needScratch(4096);
    const run = (op: Op, args: readonly number[]) => {
      this.#push(op, [], [], [...args]);
      this.#flush();
    };
    this.#uploads = new Uploads({ memory, arena: this.#arena, nThreads: info.nThreads, run });
  }

  alloc(type: BufType, shape: readonly number[]): Buf {
    const length = shape.reduce((a, b) => a * b, 1);
    return new WasmBuf(type, shape, this.#take(length * 4, `buffer (${shape.join(', ')})`));
  }

  allocQuantized(rows: number, columns: number): QuantizedBuf {
    // Four rows unpacked to bytes, or one row of f32 between its norm and its codes.
    this.#needScratch(Math.max(4 * paddedColumns(columns), rows > 1 ? LOOKUP_SCRATCH : 0));
    const [codes, meta] = this.#takeBoth(rows * paddedColumns(columns), rows * 8, `codes (${rows}, ${columns})`);
    return new WasmQuantized(rows, columns, codes, meta);
  }

  allocKv(shape: KvShape): KvCache {
    const { contextSize } = shape;
    const { keys, values, scratch } = cacheBytes(shape, contextSize);
    try {
      const [keysAt, valuesAt] = this.#takeBoth(keys, values, `KV cache of ${contextSize} positions`);
      const kv = new WasmKv(shape, keysAt, valuesAt);
      try {
        this.#needScratch(scratch);
      } catch (error) {
        this.free(kv);
        throw error;
      }
      return kv;
    } catch (error) {
      if (!(error instanceof BitnetError) || error.code !== 'out-of-memory') throw error;
      throw this.#noRoomFor(shape, error);
    }
  }

  /** What a context would take, what there is, and the longest context for which that is enough. */
  #noRoomFor(shape: KvShape, cause: BitnetError): BitnetError {
    const room = this.#arena.roomBytes;
    const bytesFor = (positions: number) => {
      const { keys, values, scratch } = cacheBytes(shape, positions);
      const moreScratch = scratch > this.#scratchBytes ? (scratch + 4096) * this.info.nThreads : 0;
      return keys + values + 128 + moreScratch; // 128: rounding up of two blocks
    };
    let [fits, tooMany] = [0, shape.contextSize];
    while (tooMany - fits > 1) {
      const middle = Math.floor((fits + tooMany) / 2);
      if (bytesFor(middle) <= room) fits = middle;
      else tooMany = middle;
    }
    // Where the limit is not ours but the machine's, nobody knows how much less would be given.
    const known = bytesFor(shape.contextSize) > room;
    return new BitnetError(
      'out-of-memory',
      `no room for the keys and values of ${shape.contextSize} positions`,
      {
        where: 'context',
        expected: `${bytesFor(shape.contextSize)} bytes`,
        got: known ? `${Math.max(0, room)} bytes free of ${this.#arena.maxBytes}` : 'no more from the runtime',
        hint: known && fits > 0 ? `a context of ${fits} fits` : 'a smaller context, batch or model',
      },
      cause,
    );
  }

  free(memory: Buf | QuantizedBuf | KvCache): void {
    this.#flush();
    if (memory instanceof WasmBuf) this.#arena.free(memory.address);
    if (memory instanceof WasmQuantized) {
      this.#arena.free(memory.codes);
      this.#arena.free(memory.meta);
    }
    if (memory instanceof WasmKv) {
      this.#arena.free(memory.keys);
      this.#arena.free(memory.values);
    }
  }

  async upload(source: WeightSource): Promise<Weight> {
    this.#flush(); // the memory may grow
    if (source.kind === 'dense') this.#needScratch(source.columns * 4);
    const { address, scale } = await this.#uploads.upload(source);
    return new WasmWeight(source, address, scale);
  }

  rehearse(): Rehearsal {
    // The same bookkeeping over an imaginary arena; a page stands for the memory in which it notes where scratch is.
    const page = { buffer: new ArrayBuffer(PAGE_BYTES) } as WebAssembly.Memory;
    return new WasmBackend(this.info, page, this.#pool, { maxBytes: this.#arena.maxBytes, imaginary: true });
  }

  place(shape: WeightShape): void {
    const { rows, columns } = shape;
    if (shape.kind === 'dense') this.#needScratch(columns * 4);
    this.#uploads.place(shape);
    if (shape.kind !== 'dense' || rows < TOP_MIN_ROWS) return;
    // It may be the head: what `denseTopK` cannot do without, which is little. A plane of codes it can.
    this.#needScratch(topScratchBytes(columns, TOP_MAX_K));
    const { bytes, isPlane } = headIndexBytes({ code: DENSE_CODE[shape.dtype], rows, columns });
    if (!isPlane) this.#take(bytes, `scores of ${shape.name}`);
  }

  get spanBytes(): number {
    return this.#arena.spanBytes;
  }

  get capacityBytes(): number {
    return this.#arena.maxBytes;
  }

  reserve(bytes: number): void {
    this.#flush();
    this.#arena.reserve(bytes);
  }

  memory(): { usedBytes: number; peakBytes: number } {
    return { usedBytes: this.#arena.usedBytes, peakBytes: this.#arena.peakBytes };
  }

  write(to: Buf, data: Float32Array | Int32Array): void {
    this.#flush(); // an enqueued op may still need what is there
    const { address, length, type } = wasmBuf(to);
    want(data.length <= length, 'bad-argument', 'too much data for the buffer', () => ({
      expected: `at most ${length}`,
      got: `${data.length}`,
    }));
    const target = type === 'f32' ? Float32Array : Int32Array;
    new target(this.#memory.buffer, address, data.length).set(data);
  }

  async read(from: Buf, count: number): Promise<Float32Array> {
    return this.#floats(from, count).slice();
  }

  async readTop(from: Buf, n: number): Promise<TopRow[]> {
    const columns = from.shape[1] ?? 1;
    const all = this.#floats(from, n * columns);
    return Array.from({ length: n }, (_, row) => topRowOf(all.subarray(row * columns, (row + 1) * columns)));
  }

  /** The first values of a buffer where they are, when everything enqueued has run. */
  #floats(from: Buf, count: number): Float32Array {
    this.#flush();
    const { address, type, length } = wasmBuf(from);
    want(type === 'f32' && count <= length, 'bad-argument', 'cannot be read', () => ({
      expected: `at most ${length} values of an f32 buffer`,
      got: `${count} of ${type}`,
    }));
    return new Float32Array(this.#memory.buffer, address, count);
  }

  async readQuantized(from: QuantizedBuf, n: number): Promise<{ codes: Int8Array; scales: Float32Array }> {
    this.#flush();
    const q = wasmQuantized(from);
    const codes = new Int8Array(n * q.columns);
    const scales = new Float32Array(n);
    const meta = new Float32Array(this.#memory.buffer, q.meta, n * 2);
    for (let row = 0; row < n; row++) {
      codes.set(new Int8Array(this.#memory.buffer, q.codes + row * q.stride, q.columns), row * q.columns);
      scales[row] = meta[row * 2];
    }
    return { codes, scales };
  }

  async readKv(
    from: KvCache,
    layer: number,
    position: number,
    count: number,
  ): Promise<{ k: Float32Array; v: Float32Array }> {
    this.#flush();
    const kv = wasmKv(from);
    const block = kv.layer(layer);
    return {
      k: this.#readHeads(kv.shape, block.keys, kv.shape.kType, position, count),
      v: this.#readHeads(kv.shape, block.values, kv.shape.vType, position, count),
    };
  }

  #readHeads(shape: KvShape, base: number, type: 'f32' | 'f16', position: number, count: number): Float32Array {
    const { nKvHeads, headDim, contextSize } = shape;
    const out = new Float32Array(nKvHeads * count * headDim);
    for (let head = 0; head < nKvHeads; head++) {
      const start = base + (head * contextSize + position) * headDim * bytesOf(type);
      const at = head * count * headDim;
      if (type === 'f32') out.set(new Float32Array(this.#memory.buffer, start, count * headDim), at);
      else {
        const halves = new Uint16Array(this.#memory.buffer, start, count * headDim);
        for (let i = 0; i < halves.length; i++) out[at + i] = f16ToNumber(halves[i]);
      }
    }
    return out;
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.#pool.stop();
  }

  embed(out: Buf, table: Weight, ids: Buf, n: number): void {
    const [o, w, i] = [wasmBuf(out).address, wasmWeight(table), wasmBuf(ids).address];
    this.#push(Op.EMBED, [o], [i], [o, w.code, w.address, w.rowBytes, w.columns, i, n]);
  }

  rmsNorm(out: Buf, x: Buf, gain: Buf, eps: number, n: number): void {
    const [o, a, g] = [wasmBuf(out).address, wasmBuf(x).address, wasmBuf(gain)];
    this.#push(Op.RMS_NORM, [o], [a, g.address], [o, a, g.address, eps, g.length, n], [3]);
  }

  quantizeRows(out: QuantizedBuf, x: Buf, n: number): void {
    const [q, a] = [wasmQuantized(out), wasmBuf(x).address];
    this.#push(Op.QUANTIZE_ROWS, [q.codes], [a], [q.codes, q.meta, a, q.columns, q.stride, n]);
  }

  rmsNormQuantize(out: QuantizedBuf, x: Buf, gain: Buf, eps: number, n: number): void {
    const [q, a, g] = [wasmQuantized(out), wasmBuf(x).address, wasmBuf(gain).address];
    const args = [q.codes, q.meta, a, g, eps, q.columns, q.stride, n];
    this.#push(Op.RMS_NORM_QUANTIZE, [q.codes], [a, g], args, [4]);
  }

  ternaryMatmul(out: Buf, weight: Weight, x: QuantizedBuf, n: number): void {
    const [o, w, q] = [wasmBuf(out).address, wasmWeight(weight), wasmQuantized(x)];
    want(q.columns === w.columns, 'bad-argument', 'activations do not fit the weight', () => ({
      where: w.name,
      expected: `${w.columns} columns`,
      got: `${q.columns}`,
    }));
    const args = [o, w.address, w.rowBytes, w.scale, w.rows, q.codes, q.stride, q.meta, n];
    this.#push(Op.TERNARY_MATMUL, [o], [q.codes], args, [3]);
  }

  denseMatmul(out: Buf, weight: Weight, x: Buf, n: number): void {
    const [o, w, a] = [wasmBuf(out).address, wasmWeight(weight), wasmBuf(x).address];
    this.#push(Op.DENSE_MATMUL, [o], [a], [o, w.code, w.address, w.rowBytes, w.rows, a, w.columns, n]);
  }

  denseTopK(out: Buf, weight: Weight, x: Buf, k: number, n: number): void {
    const [o, w, a] = [wasmBuf(out), wasmWeight(weight), wasmBuf(x)];
    const index = this.#headIndex(w, k);
    if (index === undefined) {
      this.denseMatmul(out, weight, x, n);
      return;
    }
    for (let i = 0; i < n; i++) {
      const [row, source] = [o.address + i * w.rows * 4, a.address + i * w.columns * 4];
      const args = [row, w.code, w.address, w.rowBytes, w.rows, source, w.columns, index, k, this.#thresholds];
      this.#push(Op.HEAD_SCORE, [o.address, this.#thresholds], [a.address, index], args);
      this.#push(Op.HEAD_EXACT, [o.address], [a.address, index, this.#thresholds], args);
    }
  }

  /** Where what `denseTopK` needs of a matrix is; made at the first call. Undefined where computing all rows is as good. */
  #headIndex(w: WasmWeight, k: number): number | undefined {
    if (w.rows < TOP_MIN_ROWS || w.columns % 16 !== 0 || w.columns > TOP_MAX_COLUMNS || k > TOP_MAX_K) return undefined;
    this.#needScratch(topScratchBytes(w.columns, k));
    if (w.index !== undefined) return w.index;
    const { bytes, isPlane } = headIndexBytes(w);
    try {
      w.index = this.#take(bytes, `scores of ${w.name}`);
    } catch (error) {
      if (!isPlane) throw error;
      return undefined; // no room for a copy: every row is computed, as before
    }
    this.#push(Op.HEAD_INDEX, [w.index], [], [w.index, w.code, w.address, w.rowBytes, w.rows, w.columns]);
    return w.index;
  }

  rope(x: Buf, angles: Buf, nHeads: number, headDim: number, style: RopeStyle, n: number): void {
    const [a, t] = [wasmBuf(x).address, wasmBuf(angles).address];
    this.#push(Op.ROPE, [a], [a, t], [a, t, nHeads, headDim, style === 'neox' ? 1 : 0, n]);
  }

  kvAppend(segment: Segment, layer: number, k: Buf, v: Buf): void {
    const kv = wasmKv(segment.kv);
    const { nKvHeads, headDim, contextSize, kType, vType } = kv.shape;
    want(segment.position + segment.count <= contextSize, 'context-full', 'beyond the KV cache', () => ({
      expected: `at most ${contextSize} positions`,
      got: `${segment.position + segment.count}`,
    }));
    const [ka, va, block] = [wasmBuf(k).address, wasmBuf(v).address, kv.layer(layer)];
    const types = [kType === 'f16' ? 1 : 0, vType === 'f16' ? 1 : 0];
    const shape = [nKvHeads, headDim, contextSize, segment.row, segment.count, segment.position];
    this.#push(Op.KV_APPEND, [kv.keys], [ka, va], [ka, va, block.keys, types[0], block.values, types[1], ...shape]);
  }

  attention(out: Buf, q: Buf, segment: Segment, layer: number, scale: number): void {
    const kv = wasmKv(segment.kv);
    const { nHeads, nKvHeads, headDim, contextSize, kType, vType } = kv.shape;
    const [o, a, block] = [wasmBuf(out).address, wasmBuf(q).address, kv.layer(layer)];
    const types = [kType === 'f16' ? 1 : 0, vType === 'f16' ? 1 : 0];
    const shape = [nHeads, nKvHeads, headDim, contextSize, segment.row, segment.count, segment.position, scale];
    const args = [o, a, block.keys, types[0], block.values, types[1], ...shape];
    this.#push(Op.ATTENTION, [o], [a, kv.keys], args, [13], [segment.row, segment.row + segment.count]);
  }

  gatedRelu2(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#elementwise(Op.GATED_RELU2, out, gate, up, n);
  }

  gatedSilu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#elementwise(Op.GATED_SILU, out, gate, up, n);
  }

  gatedGelu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#elementwise(Op.GATED_GELU, out, gate, up, n);
  }

  scale(out: Buf, x: Buf, factor: number, n: number): void {
    const [o, a] = [wasmBuf(out).address, wasmBuf(x).address];
    this.#push(Op.SCALE, [o], [a], [o, a, factor, n * (out.shape[1] ?? 1)], [2]);
  }

  add(out: Buf, a: Buf, b: Buf, n: number): void {
    this.#elementwise(Op.ADD, out, a, b, n);
  }

  copyRows(out: Buf, outRow: number, from: Buf, fromRow: number, count: number): void {
    const [to, source] = [wasmBuf(out), wasmBuf(from)];
    const rowBytes = (source.shape[1] ?? 1) * 4;
    const args = [to.address + outRow * rowBytes, source.address + fromRow * rowBytes, count * rowBytes];
    this.#push(Op.COPY, [to.address], [source.address], args, [], [outRow, outRow + count]);
  }

  #elementwise(op: Op, out: Buf, a: Buf, b: Buf, n: number): void {
    const [o, x, y] = [wasmBuf(out).address, wasmBuf(a).address, wasmBuf(b).address];
    this.#push(op, [o], [x, y], [o, x, y, n * (out.shape[1] ?? 1)]);
  }

  #push(op: Op, writes: number[], reads: number[], args: number[], f32Args: number[] = [], rows?: Rows): void {
    if (this.#disposed) throw new BitnetError('disposed', 'the backend was disposed', { where: 'backend wasm' });
    if (this.#list.count === MAX_COMMANDS) this.#flush();
    this.#list.push(op, writes, reads, args, f32Args, rows);
  }

  #flush(): void {
    const count = this.#list.count;
    if (count === 0) return;
    this.#list.clear();
    this.#pool.run(this.#list.address, count);
  }

  #take(bytes: number, what: string): number {
    this.#flush();
    return this.#arena.alloc(bytes, what);
  }

  /** Two blocks or none. */
  #takeBoth(firstBytes: number, secondBytes: number, what: string): [number, number] {
    const first = this.#take(firstBytes, what);
    try {
      return [first, this.#take(secondBytes, what)];
    } catch (error) {
      this.#arena.free(first);
      throw error;
    }
  }

  /** Grows the scratch of every thread to at least `bytes`. */
  #needScratch(bytes: number): void {
    const rounded = Math.ceil(bytes / 4096) * 4096;
    if (rounded <= this.#scratchBytes) return;
    const words = new Int32Array(this.#memory.buffer);
    const old = words[word(SCRATCH_BASE)] >>> 0;
    const base = this.#take(rounded * this.info.nThreads, 'scratch');
    if (this.#scratchBytes > 0) this.#arena.free(old);
    this.#scratchBytes = rounded;
    const grown = new Int32Array(this.#memory.buffer);
    grown[word(SCRATCH_BASE)] = base;
    grown[word(SCRATCH_STRIDE)] = rounded;
  }
}
