/**
 * The native library behind the kernel interface, as plainly as can be: for proving its kernels with the conformance suite. Every
 * op is a command of `src/kernels/cuda/commands.md`; lists are run when something is read or written.
 * @module
 */

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
} from '../../src/kernels/interface.ts';
import { f16ToNumber } from '../../src/numeric/f16.ts';
import { type TopRow, topRowOf } from '../../src/tensors/top-row.ts';
import type { Context } from './library.ts';

const DTYPES: readonly DenseType[] = ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K', 'AFFINE'];
const TOP_ROOM = 256;

interface CudaBuf extends Buf {
  readonly handle: number;
}
interface CudaQuantized extends QuantizedBuf {
  readonly codes: number;
  readonly meta: number;
}
interface CudaKv extends KvCache {
  readonly keys: number;
  readonly values: number;
}
interface CudaWeight extends Weight {
  readonly handle: number;
  readonly dtype: number;
}

const strideOf = (columns: number) => Math.ceil(columns / 128) * 128;
const cells = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const buf = (b: Buf) => b as CudaBuf;
const quantized = (q: QuantizedBuf) => q as CudaQuantized;

export class TestBackend implements Backend {
  readonly info: BackendInfo = { name: 'cuda', variant: 'test', nThreads: 1, exact: true, notes: [] };
  readonly context: Context;
  #words: number[] = [];
  readonly #bits = new DataView(new ArrayBuffer(4));

  constructor(context: Context) {
    this.context = context;
  }

  alloc(type: BufType, shape: readonly number[]): Buf {
    return { type, shape, handle: this.context.alloc(Math.max(1, cells(shape)) * 4) } as CudaBuf;
  }

  allocQuantized(rows: number, columns: number): QuantizedBuf {
    const codes = this.context.alloc(rows * strideOf(columns));
    return { type: 'q8', rows, columns, codes, meta: this.context.alloc(rows * 8) } as CudaQuantized;
  }

  allocKv(shape: KvShape): KvCache {
    const elements = shape.nLayers * shape.nKvHeads * shape.contextSize * shape.headDim;
    const [keys, values] = [shape.kType, shape.vType].map((type) =>
      this.context.alloc(elements * (type === 'f16' ? 2 : 4)),
    );
    return { type: 'kv', shape, keys, values } as CudaKv;
  }

  free(memory: Buf | QuantizedBuf | KvCache): void {
    this.flush();
    const { handle, codes, meta, keys, values } = memory as unknown as Record<string, number | undefined>;
    for (const one of [handle, codes, meta, keys, values]) if (one !== undefined) this.context.free(one);
  }

  async upload(source: WeightSource): Promise<Weight> {
    const bytes = new Uint8Array(source.byteLength);
    const scale = Math.fround(await source.fill(bytes));
    const { kind, name, rows, columns } = source;
    const dtype = source.kind === 'dense' ? DTYPES.indexOf(source.dtype) : -1;
    const raw = this.context.alloc(bytes.length);
    this.context.write(raw, bytes);
    let handle = raw;
    if (dtype >= 3) {
      handle = this.context.alloc(this.context.denseBytes(dtype, rows, columns));
      // In two pieces, as a file that does not fit at once is.
      const half = rows >> 1;
      this.context.packDense(dtype, raw, handle, rows, columns, 0, half);
      this.context.write(raw, bytes.subarray((bytes.length / rows) * half));
      this.context.packDense(dtype, raw, handle, rows, columns, half, rows - half);
      this.context.free(raw);
    }
    return { kind, name, rows, columns, scale, handle, dtype } as CudaWeight;
  }

  memory(): { usedBytes: number; peakBytes: number } {
    return { usedBytes: 0, peakBytes: 0 };
  }

  write(to: Buf, data: Float32Array | Int32Array): void {
    this.flush();
    if (data.length > 0) this.context.write(buf(to).handle, data);
  }

  async read(from: Buf, count: number): Promise<Float32Array> {
    this.flush();
    return this.context.read(buf(from).handle, new Float32Array(count));
  }

  async readTop(from: Buf, n: number): Promise<TopRow[]> {
    const columns = from.shape[1] ?? 1;
    const all = await this.read(from, n * columns);
    return Array.from({ length: n }, (_, row) => topRowOf(all.subarray(row * columns, (row + 1) * columns)));
  }

  async readQuantized(from: QuantizedBuf, n: number): Promise<{ codes: Int8Array; scales: Float32Array }> {
    this.flush();
    const { codes: codesAt, meta, columns } = quantized(from);
    const stride = strideOf(columns);
    const planes = this.context.read(codesAt, new Int8Array(n * stride));
    const rows = this.context.read(meta, new Int32Array(n * 2));
    const codes = new Int8Array(n * columns);
    for (let row = 0; row < n; row++) {
      let sum = 0;
      for (let c = 0; c < stride; c++) {
        const code = planes[row * stride + ((c >> 5) & 3) * (stride / 4) + (c >> 7) * 32 + (c & 31)];
        sum += code;
        if (c < columns) codes[row * columns + c] = code;
      }
      if (sum !== rows[2 * row + 1]) throw new Error(`row ${row}: sum ${rows[2 * row + 1]}, expected ${sum}`);
    }
    const scales = new Float32Array(rows.buffer).filter((_, i) => i % 2 === 0);
    return { codes, scales };
  }

  async readKv(from: KvCache, layer: number, position: number, count: number) {
    this.flush();
    const { keys, values, shape } = from as CudaKv;
    return {
      k: this.#readHeads(keys, shape, shape.kType === 'f16', layer, position, count),
      v: this.#readHeads(values, shape, shape.vType === 'f16', layer, position, count),
    };
  }

  #readHeads(handle: number, shape: KvShape, half: boolean, layer: number, position: number, count: number) {
    const { nKvHeads, headDim, contextSize } = shape;
    const out = new Float32Array(nKvHeads * count * headDim);
    for (let head = 0; head < nKvHeads; head++) {
      const first = ((layer * nKvHeads + head) * contextSize + position) * headDim;
      const bytes = this.context.read(handle, new Uint8Array(count * headDim * (half ? 2 : 4)), first * (half ? 2 : 4));
      const rows = half
        ? Float32Array.from(new Uint16Array(bytes.buffer), f16ToNumber)
        : new Float32Array(bytes.buffer);
      out.set(rows, head * count * headDim);
    }
    return out;
  }

  async dispose(): Promise<void> {
    this.context.close();
  }

  embed(out: Buf, table: Weight, ids: Buf, n: number): void {
    const { dtype, handle, rows, columns } = table as CudaWeight;
    this.#push(1, [buf(out).handle, 0, dtype, handle, rows, columns, buf(ids).handle, 0, n]);
  }

  rmsNorm(out: Buf, x: Buf, gain: Buf, eps: number, n: number): void {
    const columns = cells(gain.shape);
    this.#push(2, [buf(out).handle, 0, buf(x).handle, 0, buf(gain).handle, 0, this.#f(eps), columns, n]);
  }

  quantizeRows(out: QuantizedBuf, x: Buf, n: number): void {
    const { codes, meta, columns } = quantized(out);
    this.#push(3, [codes, 0, meta, 0, buf(x).handle, 0, columns, n]);
  }

  rmsNormQuantize(out: QuantizedBuf, x: Buf, gain: Buf, eps: number, n: number): void {
    const { codes, meta, columns } = quantized(out);
    this.#push(16, [codes, 0, meta, 0, buf(x).handle, 0, buf(gain).handle, 0, this.#f(eps), columns, n]);
  }

  ternaryMatmul(out: Buf, weight: Weight, x: QuantizedBuf, n: number): void {
    const { handle, scale, rows, columns } = weight as CudaWeight;
    const { codes, meta } = quantized(x);
    this.#push(4, [buf(out).handle, 0, handle, this.#f(scale), rows, columns, codes, 0, meta, 0, n]);
  }

  denseMatmul(out: Buf, weight: Weight, x: Buf, n: number): void {
    const { dtype, handle, rows, columns } = weight as CudaWeight;
    this.#push(5, [buf(out).handle, 0, dtype, handle, rows, columns, buf(x).handle, 0, n]);
  }

  /** By `TOP_K`: what it leaves out comes back as minus infinity. */
  denseTopK(out: Buf, weight: Weight, x: Buf, k: number, n: number): void {
    this.denseMatmul(out, weight, x, n);
    const { rows } = weight as CudaWeight;
    const room = Math.min(k, rows) + TOP_ROOM;
    const rowWords = 2 + 2 * room;
    const top = this.context.alloc(n * rowWords * 4);
    this.#push(19, [top, 0, buf(out).handle, 0, rows, Math.min(k, rows), room, n]);
    this.flush();
    const words = this.context.read(top, new Int32Array(n * rowWords));
    this.context.free(top);
    for (let row = 0; row < n; row++) {
      const [count, flags] = words.subarray(row * rowWords, row * rowWords + 2);
      if (flags !== 0) continue;
      const values = new Float32Array(rows).fill(-Infinity);
      const floats = new Float32Array(words.buffer);
      for (let i = 0; i < count; i++) {
        const at = row * rowWords + 2 + 2 * i;
        values[words[at]] = floats[at + 1];
      }
      this.context.write(buf(out).handle, values, row * rows * 4);
    }
  }

  rope(x: Buf, angles: Buf, nHeads: number, headDim: number, style: RopeStyle, n: number): void {
    this.#push(6, [buf(x).handle, 0, buf(angles).handle, 0, nHeads, headDim, style === 'neox' ? 1 : 0, n]);
  }

  kvAppend(segment: Segment, layer: number, k: Buf, v: Buf): void {
    const { shape, keys, values } = segment.kv as CudaKv;
    const { nKvHeads, headDim, contextSize } = shape;
    const first = segment.row * nKvHeads * headDim;
    const types = [shape.kType, shape.vType].map((type) => (type === 'f16' ? 1 : 0));
    const rows = [buf(k).handle, first, buf(v).handle, first];
    const dynamic = [keys, values, segment.position];
    this.#push(7, [...rows, nKvHeads, headDim, layer, segment.count, ...types, contextSize, ...dynamic]);
  }

  attention(out: Buf, q: Buf, segment: Segment, layer: number, scale: number): void {
    const { shape, keys, values } = segment.kv as CudaKv;
    const { nHeads, nKvHeads, headDim, contextSize } = shape;
    const first = segment.row * nHeads * headDim;
    const types = [shape.kType, shape.vType].map((type) => (type === 'f16' ? 1 : 0));
    const rows = [buf(out).handle, first, buf(q).handle, first];
    const facts = [nHeads, nKvHeads, headDim, layer, segment.count, ...types, contextSize, this.#f(scale)];
    this.#push(8, [...rows, ...facts, keys, values, segment.position]);
  }

  gatedRelu2(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#elements(9, out, gate, up, n);
  }

  gatedSilu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#elements(10, out, gate, up, n);
  }

  gatedGelu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#elements(17, out, gate, up, n);
  }

  add(out: Buf, a: Buf, b: Buf, n: number): void {
    this.#elements(11, out, a, b, n);
  }

  scale(out: Buf, x: Buf, factor: number, n: number): void {
    this.#push(18, [buf(out).handle, 0, buf(x).handle, 0, this.#f(factor), n * (out.shape[1] ?? 1)]);
  }

  copyRows(out: Buf, outRow: number, from: Buf, fromRow: number, count: number): void {
    const columns = from.shape[1] ?? 1;
    this.#push(12, [buf(out).handle, outRow * columns, buf(from).handle, fromRow * columns, count * columns]);
  }

  #elements(op: number, out: Buf, a: Buf, b: Buf, n: number): void {
    this.#push(op, [buf(out).handle, 0, buf(a).handle, 0, buf(b).handle, 0, n * (out.shape[1] ?? 1)]);
  }

  #f(value: number): number {
    this.#bits.setFloat32(0, value);
    return this.#bits.getInt32(0);
  }

  #push(op: number, args: readonly number[]): void {
    this.#words.push(op, args.length + 2, ...args);
  }

  flush(): void {
    if (this.#words.length === 0) return;
    const words = Int32Array.from(this.#words);
    this.#words = [];
    this.context.run(words);
  }
}
