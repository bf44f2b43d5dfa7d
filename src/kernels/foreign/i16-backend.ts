/**
 * Products as native I2_S kernels give them, where their 16-bit sums overflow, over any backend; and a record of where that was.
 *
 * Every product is computed by the inner backend, exactly. From the codes alone it is seen whether any trits could overflow with
 * them, which for the activations of real models is nearly never so; only then the sums of all rows are computed here, in
 * TypeScript, from a copy of the trits.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import type { Backend, Buf, QuantizedBuf, Rehearsal, Weight, WeightShape, WeightSource } from '../interface.ts';
import { DeferredBackend } from './deferred.ts';
import { canOverflow, countSums, type I16Kernel, nativeDots, nativeOutput, sumsOfColumns } from './i16.ts';

/** One element of a product that overflowed. */
export interface OverflowedOutput {
  /** Which of all the tokens that were computed, from 0. */
  readonly token: number;
  /** Of the matrix. */
  readonly row: number;
  /** What it is. */
  readonly exact: number;
  /** What a native kernel makes of it. */
  readonly native: number;
}

/** What happened in the products with one tensor. */
export interface TensorOverflows {
  readonly tensor: string;
  /** Elements that a native kernel gets wrong. */
  readonly outputs: number;
  readonly first: OverflowedOutput;
  /** The one furthest from what it is. */
  readonly worst: OverflowedOutput;
}

export interface OverflowReport {
  readonly kernel: I16Kernel['name'];
  /** Elements of products so far, all of them examined. */
  readonly outputs: number;
  /** Tokens times products whose activations were large enough that it took a look at every row. */
  readonly suspects: number;
  /** In the order in which they overflowed first. */
  readonly tensors: readonly TensorOverflows[];
}

class I16Buf implements QuantizedBuf {
  readonly type = 'q8';
  readonly rows: number;
  readonly columns: number;
  readonly inner: QuantizedBuf;
  /** Rows that were quantised last. */
  n = 0;
  /** What is in it, once somebody has looked. */
  seen: Promise<Seen> | undefined;

  constructor(inner: QuantizedBuf) {
    this.rows = inner.rows;
    this.columns = inner.columns;
    this.inner = inner;
  }
}

/** Codes (n, columns) and scales (n), and the rows that some trits would overflow. */
interface Seen {
  readonly codes: Int8Array;
  readonly scales: Float32Array;
  readonly suspects: readonly number[];
}

class I16Weight implements Weight {
  readonly kind = 'ternary';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly inner: Weight;
  readonly packed: Uint8Array;
  readonly scale: number;

  constructor(inner: Weight, packed: Uint8Array, scale: number) {
    this.name = inner.name;
    this.rows = inner.rows;
    this.columns = inner.columns;
    this.inner = inner;
    this.packed = packed;
    this.scale = scale;
  }
}

export class I16Backend extends DeferredBackend {
  readonly #kernel: I16Kernel;
  readonly #found = new Map<string, { outputs: number; first: OverflowedOutput; worst: OverflowedOutput }>();
  readonly #columns = new Map<number, Uint16Array>();
  #outputs = 0;
  #suspects = 0;
  /** Tokens before this pass, and with it. */
  #firstToken = 0;
  #tokens = 0;

  constructor(inner: Backend, kernel: I16Kernel) {
    const { name } = kernel;
    const note = `16-bit sums as in native I2_S kernels (${name}): where they overflow, products are those of native, not exact`;
    super(inner, `i16-${name}`, note);
    this.#kernel = kernel;
  }

  /** What happened so far. */
  get overflows(): OverflowReport {
    const tensors = [...this.#found].map(([tensor, found]) => ({ tensor, ...found }));
    return { kernel: this.#kernel.name, outputs: this.#outputs, suspects: this.#suspects, tensors };
  }

  /** Begins to count anew. */
  forget(): void {
    this.#found.clear();
    this.#outputs = this.#suspects = this.#firstToken = this.#tokens = 0;
  }

  async upload(source: WeightSource): Promise<Weight> {
    wantWholeBlocks(source);
    if (source.kind === 'dense') return this.inner.upload(source);
    // `encoded` is left out: then the packed rows come by here.
    const { name, rows, columns, kind, byteLength } = source;
    let packed = new Uint8Array(0);
    let scale = 1;
    const fill = async (target: Uint8Array) => {
      scale = Math.fround(await source.fill(target));
      packed = new Uint8Array(target);
      return scale;
    };
    const inner = await this.inner.upload({ name, rows, columns, kind, byteLength, fill });
    return new I16Weight(inner, packed, scale);
  }

  allocQuantized(rows: number, columns: number): QuantizedBuf {
    return new I16Buf(this.inner.allocQuantized(rows, columns));
  }

  protected rehearseIn(inner: Rehearsal): Rehearsal {
    return {
      alloc: (type, shape) => inner.alloc(type, shape),
      allocKv: (shape) => inner.allocKv(shape),
      allocQuantized: (rows, columns) => inner.allocQuantized(rows, columns),
      free: (memory) => inner.free(memory),
      memory: () => inner.memory(),
      headRows: inner.headRows,
      get spanBytes() {
        return inner.spanBytes;
      },
      get capacityBytes() {
        return inner.capacityBytes;
      },
      place(shape) {
        wantWholeBlocks(shape);
        inner.place(shape);
      },
    };
  }

  protected release(memory: QuantizedBuf): void {
    this.inner.free(ownBuf(memory).inner);
  }

  async readQuantized(from: QuantizedBuf, n: number): Promise<{ codes: Int8Array; scales: Float32Array }> {
    await this.played();
    return this.inner.readQuantized(ownBuf(from).inner, n);
  }

  override embed(out: Buf, table: Weight, ids: Buf, n: number): void {
    this.#firstToken = this.#tokens;
    this.#tokens += n;
    super.embed(out, table, ids, n);
  }

  quantizeRows(out: QuantizedBuf, x: Buf, n: number): void {
    this.#quantize(ownBuf(out), n, (q) => this.inner.quantizeRows(q, x, n));
  }

  rmsNormQuantize(out: QuantizedBuf, x: Buf, gain: Buf, eps: number, n: number): void {
    this.#quantize(ownBuf(out), n, (q) => this.inner.rmsNormQuantize(q, x, gain, eps, n));
  }

  #quantize(q: I16Buf, n: number, act: (inner: QuantizedBuf) => void): void {
    this.inTurn(() => {
      act(q.inner);
      q.n = n;
      q.seen = undefined;
    });
  }

  ternaryMatmul(out: Buf, weight: Weight, x: QuantizedBuf, n: number): void {
    const [w, q] = [ownWeight(weight), ownBuf(x)];
    const firstToken = this.#firstToken;
    this.later(async () => {
      this.inner.ternaryMatmul(out, w.inner, q.inner, n);
      q.seen ??= this.#look(q);
      const seen = await q.seen;
      const suspects = seen.suspects.filter((token) => token < n);
      this.#outputs += n * w.rows;
      this.#suspects += suspects.length;
      if (suspects.length > 0) await this.#correct(out, w, seen, suspects, n, firstToken);
    });
  }

  async #look(q: I16Buf): Promise<Seen> {
    const { codes, scales } = await this.inner.readQuantized(q.inner, q.n);
    const sumOf = this.#sumOf(q.columns);
    const nSums = countSums(this.#kernel, q.columns);
    const suspects: number[] = [];
    for (let token = 0; token < q.n; token++) {
      const row = codes.subarray(token * q.columns, (token + 1) * q.columns);
      if (canOverflow(row, sumOf, nSums)) suspects.push(token);
    }
    return { codes, scales, suspects };
  }

  /** Replaces what native gets wrong in the rows of `suspects`. */
  async #correct(out: Buf, w: I16Weight, seen: Seen, suspects: readonly number[], n: number, firstToken: number) {
    const { columns } = w;
    const sumOf = this.#sumOf(columns);
    const nSums = countSums(this.#kernel, columns);
    const values = await this.inner.read(out, n * w.rows);
    const weights = new Uint8Array(columns);
    let isChanged = false;
    for (let row = 0; row < w.rows; row++) {
      unpackCodes(w.packed, row * (columns / 4), weights);
      for (const token of suspects) {
        const codes = seen.codes.subarray(token * columns, (token + 1) * columns);
        const dots = nativeDots(weights, codes, sumOf, nSums);
        if (dots.native - dots.codes === dots.exact) continue;
        const at = token * w.rows + row;
        const native = nativeOutput(dots, seen.scales[token], w.scale);
        this.#note(w.name, { token: firstToken + token, row, exact: values[at], native });
        values[at] = native;
        isChanged = true;
      }
    }
    if (isChanged) this.inner.write(out, values);
  }

  #note(tensor: string, output: OverflowedOutput): void {
    const found = this.#found.get(tensor);
    if (found === undefined) {
      this.#found.set(tensor, { outputs: 1, first: output, worst: output });
      return;
    }
    found.outputs++;
    const { first } = found;
    if (output.token < first.token || (output.token === first.token && output.row < first.row)) found.first = output;
    if (difference(output) > difference(found.worst)) found.worst = output;
  }

  #sumOf(columns: number): Uint16Array {
    const known = this.#columns.get(columns) ?? sumsOfColumns(this.#kernel, columns);
    this.#columns.set(columns, known);
    return known;
  }
}

/** Codes 0, 1, 2 of a packed row (`tensors/packed.ts`) of whole blocks. */
function unpackCodes(packed: Uint8Array, at: number, out: Uint8Array): void {
  for (let block = 0; block < out.length; block += 128) {
    for (let p = 0; p < 32; p++) {
      const byte = packed[at + block / 4 + p];
      out[block + p] = byte >> 6;
      out[block + 32 + p] = (byte >> 4) & 3;
      out[block + 64 + p] = (byte >> 2) & 3;
      out[block + 96 + p] = byte & 3;
    }
  }
}

function difference({ exact, native }: OverflowedOutput): number {
  return Math.abs(native - exact);
}

/** Native kernels leave out what is behind the last whole block, and begin rows in the middle of one: other mistakes than this. */
function wantWholeBlocks({ kind, name, columns }: WeightShape): void {
  want(kind === 'dense' || columns % 128 === 0, 'bad-argument', 'native I2_S kernels take whole blocks of 128', () => ({
    where: name,
    expected: 'a multiple of 128 columns',
    got: `${columns}`,
    hint: 'run it without --saturate-i16',
  }));
}

function ownBuf(buf: QuantizedBuf): I16Buf {
  if (buf instanceof I16Buf) return buf;
  throw new BitnetError('bad-argument', 'quantised buffer of another backend', { where: '16-bit sums' });
}

function ownWeight(weight: Weight): I16Weight {
  if (weight instanceof I16Weight) return weight;
  throw new BitnetError('bad-argument', 'weight of another backend', { where: '16-bit sums' });
}
