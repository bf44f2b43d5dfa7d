/**
 * The cuda backend: every op becomes a command; whatever waits, reads or writes has the list run on the device first.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import { f16ToNumber } from '../../numeric/f16.ts';
import { type TopRow, topRowOf, wholeRow } from '../../tensors/top-row.ts';
import { createTurns } from '../../tensors/turns.ts';
import type {
  Backend,
  BackendInfo,
  Buf,
  BufType,
  KvCache,
  KvShape,
  KvType,
  QuantizedBuf,
  Rehearsal,
  RopeStyle,
  Segment,
  Weight,
  WeightSource,
} from '../interface.ts';
import { Op } from './abi.ts';
import { BATCH_ROWS, CudaRehearsal, capacityOf, HEAD_ROWS, noRoomFor, reserveOf, STAGING_BYTES } from './books.ts';
import { CommandList } from './commands.ts';
import { type Device, WHERE } from './device.ts';
import {
  bufBytes,
  bytesOf,
  CudaBuf,
  CudaKv,
  CudaQuantized,
  CudaWeight,
  codeStride,
  codesOfRow,
  cudaBuf,
  cudaKv,
  cudaQuantized,
  cudaWeight,
  kvBytes,
  quantizedBytes,
} from './memory.ts';
import { indexLength, screens } from './screen.ts';
import { hostBytes, Store } from './store.ts';
import { rowWords, Tops } from './top.ts';

/** Matrices that are made ready in the host's memory at a time. */
const LANES = 2;
/** Room of TOP_K beyond k: with it, only rows full of equal numbers have to be read whole. */
const TOP_ROOM = 256;

export class CudaBackend implements Backend {
  readonly info: BackendInfo;
  readonly batchRows = BATCH_ROWS;
  readonly headRows = HEAD_ROWS;
  readonly #device: Device;
  readonly #list = new CommandList();
  readonly #store: Store;
  readonly #turn = createTurns(LANES);
  readonly #indexes = new Map<CudaWeight, number>();
  readonly #tops: Tops;
  /** Where TOP_K writes. */
  #topBuf: CudaBuf | undefined;

  /** Matrices that the device rearranges get there in pieces of about `stagingBytes`. */
  constructor(info: BackendInfo, device: Device, stagingBytes = STAGING_BYTES) {
    this.info = info;
    this.#device = device;
    this.#store = new Store(device, stagingBytes);
    this.#tops = new Tops(device);
  }

  alloc(type: BufType, shape: readonly number[]): Buf {
    const handle = this.#store.take(bufBytes(shape), `buffer (${shape.join(', ')})`);
    return new CudaBuf(type, shape, this, handle);
  }

  allocQuantized(rows: number, columns: number): QuantizedBuf {
    const { codes, meta } = quantizedBytes(rows, columns);
    const [codesAt, metaAt] = this.#store.takeBoth(codes, meta, `codes (${rows}, ${columns})`);
    return new CudaQuantized(rows, columns, this, codesAt, metaAt);
  }

  allocKv(shape: KvShape): KvCache {
    const [keys, values] = [kvBytes(shape, shape.kType), kvBytes(shape, shape.vType)];
    const bytes = keys + values;
    const { freeBytes, totalBytes } = this.#device.info();
    // Sessions up to the last byte would leave none of them the room for its first token. Half: what the driver rounds up is no plan's.
    if (bytes > freeBytes - reserveOf(totalBytes) / 2) throw noRoomFor(shape, bytes, this.#device.info());
    try {
      return new CudaKv(
        shape,
        this,
        ...this.#store.takeBoth(keys, values, `KV cache of ${shape.contextSize} positions`),
      );
    } catch (error) {
      if (!(error instanceof BitnetError) || error.code !== 'out-of-memory') throw error;
      throw noRoomFor(shape, bytes, this.#device.info(), error);
    }
  }

  free(memory: Buf | QuantizedBuf | KvCache): void {
    if (!this.#device.isOpen) return; // it is all gone
    const owned =
      memory.type === 'kv'
        ? cudaKv(this, memory)
        : memory.type === 'q8'
          ? cudaQuantized(this, memory)
          : cudaBuf(this, memory);
    this.#flush();
    this.#tops.forget(owned);
    for (const handle of owned.handles) this.#device.free(handle);
    this.#store.books.give(owned.bytes);
  }

  upload(source: WeightSource): Promise<Weight> {
    return this.#turn(async () => {
      const bytes = hostBytes(source);
      const scale = Math.fround(await source.fill(bytes));
      this.#flush();
      return new CudaWeight(source, this, this.#store.send(source, bytes), scale);
    });
  }

  rehearse(): Rehearsal {
    const { freeBytes, totalBytes } = this.#device.info();
    const capacity = this.#store.books.usedBytes + capacityOf(freeBytes, totalBytes);
    return new CudaRehearsal(capacity, (dtype, rows, columns) => this.#device.denseBytes(dtype, rows, columns));
  }

  memory(): { usedBytes: number; peakBytes: number } {
    const { usedBytes, peakBytes } = this.#store.books;
    return { usedBytes, peakBytes };
  }

  write(to: Buf, data: Float32Array | Int32Array): void {
    const handle = this.#out(to);
    const { length, type } = cudaBuf(this, to);
    want(
      data.length <= length && data instanceof Float32Array === (type === 'f32'),
      'bad-argument',
      'data that do not fit the buffer',
      () => ({
        where: WHERE,
        expected: `at most ${length} values for a buffer of ${type}`,
        got: `${data.length} of ${data instanceof Float32Array ? 'f32' : 'i32'}`,
      }),
    );
    this.#flush(); // an enqueued op may still need what is there
    this.#device.write(handle, data);
  }

  async read(from: Buf, count: number): Promise<Float32Array> {
    this.#flush();
    const buf = this.#floats(from, count);
    const columns = buf.shape[1] ?? 1;
    const out = new Float32Array(count);
    const known = Math.min(count, this.#tops.rowsOf(buf) * columns);
    if (count > known) this.#device.read(buf.handle, out.subarray(known), known * 4);
    this.#tops.read(Math.ceil(known / columns)).forEach((row, i) => {
      out.set(wholeRow(row, columns).subarray(0, known - i * columns), i * columns);
    });
    return out;
  }

  async readTop(from: Buf, n: number): Promise<TopRow[]> {
    this.#flush();
    const columns = from.shape[1] ?? 1;
    const buf = this.#floats(from, n * columns);
    if (n <= this.#tops.rowsOf(buf)) return this.#tops.read(n);
    const all = this.#device.read(buf.handle, new Float32Array(n * columns));
    return Array.from({ length: n }, (_, row) => topRowOf(all.subarray(row * columns, (row + 1) * columns)));
  }

  #floats(from: Buf, count: number): CudaBuf {
    const buf = cudaBuf(this, from);
    want(buf.type === 'f32' && count <= buf.length, 'bad-argument', 'cannot be read', () => ({
      where: WHERE,
      expected: `at most ${buf.length} values of an f32 buffer`,
      got: `${count} of ${buf.type}`,
    }));
    return buf;
  }

  async readQuantized(from: QuantizedBuf, n: number): Promise<{ codes: Int8Array; scales: Float32Array }> {
    this.#flush();
    const { codes: codesAt, meta: metaAt, columns } = cudaQuantized(this, from);
    const stride = codeStride(columns);
    const planes = this.#device.read(codesAt, new Int8Array(n * stride));
    const meta = this.#device.read(metaAt, new Float32Array(n * 2));
    const codes = new Int8Array(n * columns);
    const scales = new Float32Array(n);
    for (let row = 0; row < n; row++) {
      const out = codes.subarray(row * columns, (row + 1) * columns);
      codesOfRow(planes.subarray(row * stride, (row + 1) * stride), out);
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
    const { keys, values, shape } = cudaKv(this, from);
    return {
      k: this.#readHeads(keys, shape, shape.kType, layer, position, count),
      v: this.#readHeads(values, shape, shape.vType, layer, position, count),
    };
  }

  #readHeads(handle: number, shape: KvShape, type: KvType, layer: number, position: number, count: number) {
    const { nKvHeads, headDim, contextSize } = shape;
    const size = count * headDim;
    const out = new Float32Array(nKvHeads * size);
    for (let head = 0; head < nKvHeads; head++) {
      const first = ((layer * nKvHeads + head) * contextSize + position) * headDim * bytesOf(type);
      const rows = out.subarray(head * size, (head + 1) * size);
      if (type === 'f32') this.#device.read(handle, rows, first);
      else rows.set(Float32Array.from(this.#device.read(handle, new Uint16Array(size), first), f16ToNumber));
    }
    return out;
  }

  async dispose(): Promise<void> {
    this.#device.close();
  }

  embed(out: Buf, table: Weight, ids: Buf, n: number): void {
    const { dtype, handle, rows, columns } = cudaWeight(this, table);
    this.#push(Op.EMBED, this.#out(out), 0, dtype, handle, rows, columns, this.#in(ids), 0, n);
  }

  rmsNorm(out: Buf, x: Buf, gain: Buf, eps: number, n: number): void {
    const columns = cudaBuf(this, gain).length;
    const e = this.#list.float(eps);
    this.#push(Op.RMS_NORM, this.#out(out), 0, this.#in(x), 0, this.#in(gain), 0, e, columns, n);
  }

  quantizeRows(out: QuantizedBuf, x: Buf, n: number): void {
    const { codes, meta, columns } = cudaQuantized(this, out);
    this.#push(Op.QUANTIZE_ROWS, codes, 0, meta, 0, this.#in(x), 0, columns, n);
  }

  rmsNormQuantize(out: QuantizedBuf, x: Buf, gain: Buf, eps: number, n: number): void {
    const { codes, meta, columns } = cudaQuantized(this, out);
    const e = this.#list.float(eps);
    this.#push(Op.RMS_NORM_QUANTIZE, codes, 0, meta, 0, this.#in(x), 0, this.#in(gain), 0, e, columns, n);
  }

  ternaryMatmul(out: Buf, weight: Weight, x: QuantizedBuf, n: number): void {
    const { name, handle, scale, rows, columns } = cudaWeight(this, weight);
    const q = cudaQuantized(this, x);
    want(q.columns === columns, 'bad-argument', 'activations do not fit the weight', () => ({
      where: name,
      expected: `${columns} columns`,
      got: `${q.columns}`,
    }));
    const s = this.#list.float(scale);
    this.#push(Op.TERNARY_MATMUL, this.#out(out), 0, handle, s, rows, columns, q.codes, 0, q.meta, 0, n);
  }

  denseMatmul(out: Buf, weight: Weight, x: Buf, n: number): void {
    const { dtype, handle, rows, columns } = cudaWeight(this, weight);
    this.#push(Op.DENSE_MATMUL, this.#out(out), 0, dtype, handle, rows, columns, this.#in(x), 0, n);
  }

  /**
   * All products are made, or of several rows estimated, and those that can matter made; only these are sent when the rows are read.
   * Where the library sets flags, whole rows are in `out` either way.
   */
  denseTopK(out: Buf, weight: Weight, x: Buf, k: number, n: number): void {
    const head = cudaWeight(this, weight);
    const { dtype, handle, rows, columns } = head;
    const room = k + TOP_ROOM;
    if (k < 1 || rowWords(room) >= rows) {
      this.denseMatmul(out, weight, x, n); // the whole row is no longer than its part
      return;
    }
    const top = this.#needTop(n * rowWords(room));
    if (screens(head, n)) {
      const refs = [this.#out(out), 0, top.handle, 0, dtype, handle, this.#needIndex(head)];
      this.#push(Op.DENSE_TOP_K, ...refs, rows, columns, this.#in(x), 0, k, room, n);
    } else {
      this.denseMatmul(out, weight, x, n);
      this.#push(Op.TOP_K, top.handle, 0, this.#in(out), 0, rows, k, room, n);
    }
    this.#tops.keep({ of: cudaBuf(this, out), at: top, rows: n, room });
  }

  /** The index of a matrix, made when it is first asked for; it lives as long as the matrix. */
  #needIndex(weight: CudaWeight): number {
    const known = this.#indexes.get(weight);
    if (known !== undefined) return known;
    this.#flush();
    const bytes = indexLength(weight) * 4;
    const index = this.#store.take(bytes, `norms of ${weight.name}`);
    // A list of its own: where a longer one found no memory the index would stay zeros, by which no product is ever left out.
    this.#store.giveOnError(index, bytes, () => {
      this.#push(Op.DENSE_INDEX, index, weight.dtype, weight.handle, weight.rows, weight.columns);
      this.#flush();
    });
    this.#indexes.set(weight, index);
    return index;
  }

  #needTop(words: number): CudaBuf {
    const before = this.#topBuf;
    if (before !== undefined && before.length >= words) return before;
    this.#topBuf = undefined;
    if (before !== undefined) this.free(before);
    const made = cudaBuf(this, this.alloc('i32', [words]));
    this.#topBuf = made;
    return made;
  }

  rope(x: Buf, angles: Buf, nHeads: number, headDim: number, style: RopeStyle, n: number): void {
    this.#push(Op.ROPE, this.#out(x), 0, this.#in(angles), 0, nHeads, headDim, style === 'neox' ? 1 : 0, n);
  }

  kvAppend(segment: Segment, layer: number, k: Buf, v: Buf): void {
    const { row, count, position } = segment;
    const { shape, keys, values } = cudaKv(this, segment.kv);
    const { nKvHeads, headDim, contextSize } = shape;
    want(position + count <= contextSize, 'context-full', 'beyond the KV cache', () => ({
      expected: `at most ${contextSize} positions`,
      got: `${position + count}`,
    }));
    const first = row * nKvHeads * headDim;
    const [kType, vType] = typesOf(shape);
    const facts = [nKvHeads, headDim, layer, count, kType, vType, contextSize];
    this.#push(Op.KV_APPEND, this.#in(k), first, this.#in(v), first, ...facts, keys, values, position);
  }

  attention(out: Buf, q: Buf, segment: Segment, layer: number, scale: number): void {
    const { row, count, position } = segment;
    const { shape, keys, values } = cudaKv(this, segment.kv);
    const { nHeads, nKvHeads, headDim, contextSize } = shape;
    const first = row * nHeads * headDim;
    const [kType, vType] = typesOf(shape);
    const facts = [nHeads, nKvHeads, headDim, layer, count, kType, vType, contextSize, this.#list.float(scale)];
    this.#push(Op.ATTENTION, this.#out(out), first, this.#in(q), first, ...facts, keys, values, position);
  }

  gatedRelu2(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#elements(Op.GATED_RELU2, out, gate, up, n);
  }

  gatedSilu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#elements(Op.GATED_SILU, out, gate, up, n);
  }

  gatedGelu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#elements(Op.GATED_GELU, out, gate, up, n);
  }

  scale(out: Buf, x: Buf, factor: number, n: number): void {
    const f = this.#list.float(factor);
    this.#push(Op.SCALE, this.#out(out), 0, this.#in(x), 0, f, n * (out.shape[1] ?? 1));
  }

  add(out: Buf, a: Buf, b: Buf, n: number): void {
    this.#elements(Op.ADD, out, a, b, n);
  }

  copyRows(out: Buf, outRow: number, from: Buf, fromRow: number, count: number): void {
    const columns = from.shape[1] ?? 1;
    this.#push(Op.COPY, this.#out(out), outRow * columns, this.#in(from), fromRow * columns, count * columns);
  }

  #elements(op: Op, out: Buf, a: Buf, b: Buf, n: number): void {
    this.#push(op, this.#out(out), 0, this.#in(a), 0, this.#in(b), 0, n * (out.shape[1] ?? 1));
  }

  #in(buf: Buf): number {
    return cudaBuf(this, buf).handle;
  }

  /** The handle of a buffer that is about to be written: what TOP_K found there holds no more. */
  #out(buf: Buf): number {
    const own = cudaBuf(this, buf);
    this.#tops.forget(own);
    return own.handle;
  }

  #push(op: Op, ...args: readonly number[]): void {
    this.#device.wantOpen();
    if (this.#list.isFull) this.#flush();
    this.#list.push(op, ...args);
  }

  #flush(): void {
    this.#device.wantOpen();
    if (this.#list.isEmpty) return;
    const { words, count } = this.#list.take();
    this.#device.run(words, count);
  }
}

function typesOf({ kType, vType }: KvShape): [number, number] {
  return [kType === 'f16' ? 1 : 0, vType === 'f16' ? 1 : 0];
}
