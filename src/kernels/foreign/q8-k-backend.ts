/**
 * The arithmetic of Q8_K over any backend. The integers are the inner backend's, as fast as it is; what is done in TypeScript
 * are the codes and the sums of floats, 1/256 of the work.
 *
 * A matrix is kept as its blocks of columns, each a ternary matrix (M, 256) of scale 1. The codes of a block are given to the
 * inner backend as numbers, which it quantises again: a block that is not zero has a code of magnitude 127, so its scale is
 * 127 / 127 and every code comes out as it went in. `ternaryMatmul` then gives f32(sum) / 1 * 1: the sum itself, which is exact.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import { packedRowBytes } from '../../tensors/packed.ts';
import type { Backend, Buf, QuantizedBuf, Rehearsal, Weight, WeightShape, WeightSource } from '../interface.ts';
import { DeferredBackend } from './deferred.ts';
import { addBlock, Q8_K_BLOCK, quantizeQ8K } from './q8-k.ts';

const NOTE =
  'activations q8_k: ternary products are computed as llama.cpp does for TQ1_0 and TQ2_0 (activations in blocks of 256), ' +
  'not as in training; logits are not those of int8';

const BLOCK_BYTES = packedRowBytes(Q8_K_BLOCK);

/** What a quantised buffer has in the inner backend's memory. */
interface QuantizedParts {
  /** Normalised rows (rows, columns). */
  readonly normed: Buf;
  /** Codes of each block as numbers, (rows, 256), and quantised. */
  readonly numbers: readonly Buf[];
  readonly blocks: readonly QuantizedBuf[];
}

class Q8KBuf implements QuantizedBuf {
  readonly type = 'q8';
  readonly rows: number;
  readonly columns: number;
  readonly codes: Int8Array;
  /** i and d of each block (rows, blocks). */
  readonly factors: Float32Array;
  readonly d: Float32Array;
  readonly parts: QuantizedParts;

  constructor(rows: number, columns: number, parts: QuantizedParts) {
    this.rows = rows;
    this.columns = columns;
    this.codes = new Int8Array(rows * columns);
    this.factors = new Float32Array(rows * parts.blocks.length);
    this.d = new Float32Array(rows * parts.blocks.length);
    this.parts = parts;
  }
}

class Q8KWeight implements Weight {
  readonly kind = 'ternary';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly blocks: readonly Weight[];
  readonly scale: number;

  constructor({ name, rows, columns }: WeightShape, blocks: readonly Weight[], scale: number) {
    this.name = name;
    this.rows = rows;
    this.columns = columns;
    this.blocks = blocks;
    this.scale = scale;
  }
}

export class Q8KBackend extends DeferredBackend {
  readonly #rooms: Rooms;

  constructor(inner: Backend) {
    super(inner, 'q8_k', NOTE, Q8_K_BLOCK);
    this.#rooms = new Rooms(inner);
  }

  async upload(source: WeightSource): Promise<Weight> {
    if (source.kind === 'dense') return this.inner.upload(source);
    const shapes = blockShapes(source);
    const packed = new Uint8Array(source.byteLength);
    const scale = Math.fround(await source.fill(packed));
    const blocks: Weight[] = [];
    for (const [i, shape] of shapes.entries()) {
      const fill = async (target: Uint8Array) => {
        for (let row = 0; row < source.rows; row++) {
          const at = (row * shapes.length + i) * BLOCK_BYTES;
          target.set(packed.subarray(at, at + BLOCK_BYTES), row * BLOCK_BYTES);
        }
        return 1;
      };
      blocks.push(await this.inner.upload({ ...shape, fill }));
    }
    this.#rooms.placed(source);
    return new Q8KWeight(source, blocks, scale);
  }

  allocQuantized(rows: number, columns: number): QuantizedBuf {
    return new Q8KBuf(rows, columns, this.#rooms.quantized(rows, columns));
  }

  protected rehearseIn(inner: Rehearsal): Rehearsal {
    const rooms = new Rooms(inner);
    return {
      alloc: (type, shape) => inner.alloc(type, shape),
      allocKv: (shape) => inner.allocKv(shape),
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
        for (const part of shape.kind === 'dense' ? [shape] : blockShapes(shape)) inner.place(part);
        rooms.placed(shape);
      },
      allocQuantized: (rows, columns) => rooms.quantized(rows, columns).blocks[0],
    };
  }

  protected release(memory: QuantizedBuf): void {
    const { normed, numbers, blocks } = ownBuf(memory).parts;
    for (const part of [normed, ...numbers, ...blocks]) this.inner.free(part);
  }

  /** The codes as llama.cpp has them, and in `scales` what each block was multiplied by: (n, columns / 256), 0 for zeros. */
  async readQuantized(from: QuantizedBuf, n: number): Promise<{ codes: Int8Array; scales: Float32Array }> {
    await this.played();
    const { codes, factors, columns, parts } = ownBuf(from);
    return { codes: codes.slice(0, n * columns), scales: factors.slice(0, n * parts.blocks.length) };
  }

  quantizeRows(out: QuantizedBuf, x: Buf, n: number): void {
    const q = ownBuf(out);
    wantBlocks('activations', q.columns);
    this.later(() => this.#quantize(q, x, n));
  }

  rmsNormQuantize(out: QuantizedBuf, x: Buf, gain: Buf, eps: number, n: number): void {
    const q = ownBuf(out);
    wantBlocks('activations', q.columns);
    this.later(() => {
      this.inner.rmsNorm(q.parts.normed, x, gain, eps, n);
      return this.#quantize(q, q.parts.normed, n);
    });
  }

  ternaryMatmul(out: Buf, weight: Weight, x: QuantizedBuf, n: number): void {
    const [w, q] = [ownWeight(weight), ownBuf(x)];
    want(q.columns === w.columns, 'bad-argument', 'activations do not fit the weight', () => ({
      where: w.name,
      expected: `${w.columns} columns`,
      got: `${q.columns}`,
    }));
    this.later(() => this.#multiply(out, w, q, n));
  }

  async #quantize(q: Q8KBuf, x: Buf, n: number): Promise<void> {
    const { codes, factors, d, columns } = q;
    const { numbers, blocks } = q.parts;
    quantizeQ8K(codes, factors, d, await this.inner.read(x, n * columns), columns, n);
    const values = new Float32Array(n * Q8_K_BLOCK);
    for (const [i, buf] of numbers.entries()) {
      for (let row = 0; row < n; row++) {
        const at = row * columns + i * Q8_K_BLOCK;
        values.set(codes.subarray(at, at + Q8_K_BLOCK), row * Q8_K_BLOCK);
      }
      this.inner.write(buf, values);
    }
    for (const [i, block] of blocks.entries()) this.inner.quantizeRows(block, numbers[i], n);
  }

  async #multiply(out: Buf, w: Q8KWeight, q: Q8KBuf, n: number): Promise<void> {
    const sums = this.#rooms.sums(n, w.rows, w.blocks.length);
    const total = new Float32Array(n * w.rows);
    for (let first = 0; first < w.blocks.length; first += sums.length) {
      const group = w.blocks.slice(first, first + sums.length);
      for (const [i, block] of group.entries()) this.inner.ternaryMatmul(sums[i], block, q.parts.blocks[first + i], n);
      for (let i = 0; i < group.length; i++) {
        const part = await this.inner.read(sums[i], total.length);
        addBlock(total, part, q.d, first + i, w.blocks.length, w.scale, w.rows, n);
      }
    }
    this.inner.write(out, total);
  }
}

/** Tokens of a step of which all blocks are multiplied at once; of more, one block at a time, which is work enough. */
const FEW = 4;

type Memory = Pick<Backend, 'alloc' | 'allocQuantized' | 'free'>;

/** What is taken of the inner backend's memory besides the matrices: the same of the backend and of its rehearsal. */
class Rooms {
  readonly #memory: Memory;
  /** Of ternary matrices: the most rows and blocks. */
  #maxRows = 0;
  #maxBlocks = 0;
  /** One block's sums each: the first for all tokens of a step, the others for a few. */
  readonly #sums: Buf[] = [];

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  placed({ kind, rows, columns }: WeightShape): void {
    if (kind !== 'ternary') return;
    this.#maxRows = Math.max(this.#maxRows, rows);
    this.#maxBlocks = Math.max(this.#maxBlocks, columns / Q8_K_BLOCK);
  }

  quantized(n: number, columns: number): QuantizedParts {
    const all = Array.from({ length: Math.ceil(columns / Q8_K_BLOCK) });
    const normed = this.#memory.alloc('f32', [n, columns]);
    const numbers = all.map(() => this.#memory.alloc('f32', [n, Q8_K_BLOCK]));
    const blocks = all.map(() => this.#memory.allocQuantized(n, Q8_K_BLOCK));
    // Now, and not in the first step: what a model takes is known when it is loaded.
    this.sums(n, this.#maxRows, this.#maxBlocks);
    this.sums(Math.min(n, FEW), this.#maxRows, this.#maxBlocks);
    return { normed, numbers, blocks };
  }

  /** Where the sums of some blocks go: as many as are multiplied at once. */
  sums(n: number, rows: number, nBlocks: number): readonly Buf[] {
    const count = n <= FEW ? nBlocks : 1;
    for (let i = 0; i < count; i++) {
      const known = this.#sums[i];
      if (known !== undefined && known.shape[0] >= n * rows) continue;
      if (known !== undefined) this.#memory.free(known);
      this.#sums[i] = this.#memory.alloc('f32', [n * rows]);
    }
    return this.#sums.slice(0, count);
  }
}

/** A ternary matrix cut into blocks of columns. */
function blockShapes({ name, rows, columns }: WeightShape): WeightShape[] {
  wantBlocks(name, columns);
  return Array.from({ length: columns / Q8_K_BLOCK }, (_, i) => ({
    name: `${name} columns ${i * Q8_K_BLOCK}`,
    rows,
    columns: Q8_K_BLOCK,
    kind: 'ternary',
    byteLength: rows * BLOCK_BYTES,
  }));
}

function wantBlocks(where: string, columns: number): void {
  want(columns % Q8_K_BLOCK === 0, 'bad-argument', 'activations q8_k come in blocks of 256', () => ({
    where,
    expected: 'a multiple of 256 columns',
    got: `${columns}`,
    hint: 'llama.cpp has no such matrix in TQ1_0 or TQ2_0 either; --activations int8',
  }));
}

function ownBuf(buf: QuantizedBuf): Q8KBuf {
  if (buf instanceof Q8KBuf) return buf;
  throw new BitnetError('bad-argument', 'quantised buffer of another backend', { where: 'activations q8_k' });
}

function ownWeight(weight: Weight): Q8KWeight {
  if (weight instanceof Q8KWeight) return weight;
  throw new BitnetError('bad-argument', 'weight of another backend', { where: 'activations q8_k' });
}
