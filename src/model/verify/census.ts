/**
 * What is in the tensors of a file: each is read once, counted and let go. Memory is bounded by the packed rows of the
 * largest ternary tensor.
 *
 * Ternary tensors go through the loader's own `loadPacked`, so whatever loading would refuse is refused here in the same
 * words, and a type that can be loaded can be counted.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import type { GgufFile, GgufTensor } from '../../formats/gguf/types.ts';
import { decodeInto } from '../../tensors/decode.ts';
import { wantWeights } from '../../tensors/dense-forms.ts';
import { isTernary } from '../../tensors/dtype.ts';
import { inPieces, loadPacked } from '../../tensors/load.ts';
import { packedBytes, packedRowBytes } from '../../tensors/packed.ts';
import { ternarinessOf } from '../../tensors/ternariness.ts';
import type { TernaryMatrix } from '../../tensors/transcode.ts';
import { hasBlockScales } from '../forms.ts';

interface Counted {
  readonly tensor: GgufTensor;
}

export interface TernaryCensus extends Counted {
  readonly kind: 'ternary';
  readonly minus: number;
  readonly zero: number;
  readonly plus: number;
  readonly scale: number;
}

export interface DenseCensus extends Counted {
  readonly kind: 'dense';
  /** See `ternarinessOf`: the largest of the samples. */
  readonly distance: number;
  /** Rows of nothing but zeros. */
  readonly zeroRows: number;
  /** A ternary type with a scale for each block, which loading keeps as Q8_0: `distance` says nothing then. */
  readonly hasBlockScales: boolean;
}

export interface VectorCensus extends Counted {
  readonly kind: 'vector';
  readonly least: number;
  readonly greatest: number;
}

/** A tensor that loading would refuse. */
export interface BadCensus extends Counted {
  readonly kind: 'bad';
  readonly why: string;
}

export type TensorCensus = TernaryCensus | DenseCensus | VectorCensus | BadCensus;

export interface CensusOptions {
  readonly onProgress?: ((progress: { doneBytes: number; totalBytes: number; tensor: string }) => void) | undefined;
  /** Gets every ternary tensor as packed rows, in the order of their names: the same for all lossless containers. */
  readonly onTrits?: ((name: string, packed: Uint8Array) => void) | undefined;
  /** What else is known of how ternary tensors lie in this file. */
  readonly matrix?: Partial<TernaryMatrix> | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Ceiling for what is held of one tensor: its packed rows, one row of floats, or a gain. The largest published matrix has 18 MB
 * packed; narrow matrices grow by packing, up to 128 times, so the file's length alone is no bound.
 */
const MAX_HELD_BYTES = 1 << 28;
const PIECE_BYTES = 4 << 20;
/** Values of one look at how ternary floats are, and looks per tensor. */
const SAMPLE_VALUES = 1 << 16;
const SAMPLES = 8;

/** Counts every tensor of `gguf`. */
export async function takeCensus(gguf: GgufFile, options: CensusOptions = {}): Promise<TensorCensus[]> {
  const totalBytes = gguf.tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const found: TensorCensus[] = [];
  const counter = new Counter(options, totalBytes);
  const byName = gguf.tensors.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  for (const tensor of byName) found.push(await counter.count(tensor));
  return found;
}

class Counter {
  readonly #options: CensusOptions;
  readonly #totalBytes: number;
  #doneBytes = 0;
  /** Packed rows of one tensor at a time. */
  #packed = new Uint8Array(0);
  readonly #pairs = new Uint32Array(1 << 16);

  constructor(options: CensusOptions, totalBytes: number) {
    this.#options = options;
    this.#totalBytes = totalBytes;
  }

  async count(tensor: GgufTensor): Promise<TensorCensus> {
    const before = this.#doneBytes;
    try {
      if (!tensor.dtype.readable) return { kind: 'bad', tensor, why: tensor.dtype.why ?? 'cannot be read' };
      // A table may have a scale for each block, and so may projections: then loading does not pack them either.
      const isProjection = tensor.name.startsWith('blk.');
      const inBlocks = isProjection && (await hasBlockScales(tensor));
      const isPacked = isTernary(tensor.dtype) && (tensor.dtype.size !== 'rows' || (isProjection && !inBlocks));
      if (isPacked) return await this.#ternary(tensor);
      return tensor.shape.length < 2 ? await this.#vector(tensor) : await this.#dense(tensor, inBlocks);
    } catch (error) {
      if (!(error instanceof BitnetError)) throw error;
      return { kind: 'bad', tensor, why: error.message };
    } finally {
      this.#doneBytes = before + tensor.byteLength;
    }
  }

  async #ternary(tensor: GgufTensor): Promise<TernaryCensus> {
    const [columns, rows] = [tensor.shape[0] ?? 1, tensor.elements / (tensor.shape[0] ?? 1)];
    const length = packedBytes(rows, columns);
    wantHoldable(tensor, length);
    if (this.#packed.length < length) this.#packed = new Uint8Array(length);
    const packed = this.#packed.subarray(0, length);
    const { signal, onTrits } = this.#options;
    const matrix = { ...this.#options.matrix, where: tensor.name, dtype: tensor.dtype.name as 'I2_S', rows, columns };
    const read = (piece: Uint8Array, at: number) => this.#read(tensor, piece, at);
    const scale = await loadPacked(matrix, read, packed, signal === undefined ? {} : { signal });
    onTrits?.(tensor.name, packed);
    const [minus, zero, plus] = this.#histogram(packed);
    // Rows are padded with zeros.
    const padding = rows * (packedRowBytes(columns) * 4 - columns);
    return { kind: 'ternary', tensor, minus, zero: zero - padding, plus, scale };
  }

  /** How often each code occurs. Two bytes are counted at a time, and taken apart only in the end. */
  #histogram(packed: Uint8Array): [number, number, number] {
    const pairs = this.#pairs.fill(0);
    const words = new Uint16Array(packed.buffer, packed.byteOffset, packed.length / 2);
    for (let i = 0; i < words.length; i++) pairs[words[i]]++;
    const codes: [number, number, number, number] = [0, 0, 0, 0];
    for (let word = 0; word < pairs.length; word++) {
      const n = pairs[word];
      if (n === 0) continue;
      for (let bit = 0; bit < 16; bit += 2) codes[(word >> bit) & 3] += n;
    }
    return [codes[0], codes[1], codes[2]];
  }

  async #vector(tensor: GgufTensor): Promise<VectorCensus> {
    wantHoldable(tensor, tensor.elements * 4);
    const bytes = new Uint8Array(tensor.byteLength);
    await this.#read(tensor, bytes, 0);
    wantWeights(tensor.dtype, bytes, 0, tensor.name);
    const values = new Float32Array(tensor.elements);
    decodeInto(tensor.dtype, bytes, 0, tensor.elements, values);
    const least = values.reduce((a, b) => Math.min(a, b), Infinity);
    const greatest = values.reduce((a, b) => Math.max(a, b), -Infinity);
    return { kind: 'vector', tensor, least, greatest };
  }

  async #dense(tensor: GgufTensor, hasBlockScales: boolean): Promise<DenseCensus> {
    const { dtype, elements } = tensor;
    const columns = tensor.shape[0];
    const rowBytes = (columns / dtype.blockElements) * dtype.blockBytes;
    const rows = elements / columns;
    wantHoldable(tensor, columns * 4);
    const rowsPerPiece = Math.max(1, Math.floor(PIECE_BYTES / rowBytes));
    const pieces = Math.ceil(rows / rowsPerPiece);
    const everyNth = Math.ceil(pieces / SAMPLES);
    const buffers = [new Uint8Array(rowsPerPiece * rowBytes), new Uint8Array(rowsPerPiece * rowBytes)];
    const bufferOf = (row: number, n: number) => buffers[(row / rowsPerPiece) & 1].subarray(0, n * rowBytes);
    let zeroRows = 0;
    let distance = 0;
    await inPieces(rows, rowsPerPiece, this.#options.signal, {
      read: (row, n) => this.#read(tensor, bufferOf(row, n), row * rowBytes),
      use: (row, n) => {
        const bytes = bufferOf(row, n);
        wantWeights(dtype, bytes, row * columns, tensor.name);
        for (let r = 0; r < n; r++) if (isZeroRow(tensor, bytes, r, columns)) zeroRows++;
        if ((row / rowsPerPiece) % everyNth !== 0) return;
        const sampled = Math.min(n, Math.max(1, Math.floor(SAMPLE_VALUES / columns)));
        const values = new Float32Array(sampled * columns);
        decodeInto(dtype, bytes, 0, values.length, values);
        distance = Math.max(distance, ternarinessOf(values).distance);
      },
    });
    return { kind: 'dense', tensor, distance, zeroRows, hasBlockScales };
  }

  async #read(tensor: GgufTensor, target: Uint8Array, at: number): Promise<void> {
    const { signal, onProgress } = this.#options;
    signal?.throwIfAborted();
    await tensor.source.readInto(target, tensor.offsetBytes + at);
    const doneBytes = this.#doneBytes + Math.min(at + target.length, tensor.byteLength);
    onProgress?.({ doneBytes, totalBytes: this.#totalBytes, tensor: tensor.name });
  }
}

function wantHoldable(tensor: GgufTensor, heldBytes: number): void {
  want(heldBytes <= MAX_HELD_BYTES, 'limit-exceeded', 'a tensor of a shape that no model has', () => ({
    where: tensor.name,
    expected: `at most ${MAX_HELD_BYTES} bytes to hold`,
    got: `(${tensor.shape.join(', ')}), ${heldBytes} bytes`,
  }));
}

/** Only rows whose first block is zero are decoded any further: in a sound table that is none. */
function isZeroRow({ dtype }: GgufTensor, bytes: Uint8Array, row: number, columns: number): boolean {
  const step = Math.max(dtype.blockElements, 1);
  const block = new Float32Array(step);
  for (let at = 0; at < columns; at += step) {
    decodeInto(dtype, bytes, row * columns + at, step, block);
    if (block.some((value) => value !== 0)) return false;
  }
  return true;
}

/** Whether two tensors hold the same bytes; undefined where types or shapes differ, so that bytes do not tell. */
export async function sameBytes(a: GgufTensor, b: GgufTensor, signal?: AbortSignal): Promise<boolean | undefined> {
  if (a.dtype !== b.dtype || a.byteLength !== b.byteLength) return undefined;
  const [left, right] = [new Uint8Array(PIECE_BYTES), new Uint8Array(PIECE_BYTES)];
  for (let at = 0; at < a.byteLength; at += PIECE_BYTES) {
    signal?.throwIfAborted();
    const n = Math.min(PIECE_BYTES, a.byteLength - at);
    const [x, y] = [left.subarray(0, n), right.subarray(0, n)];
    await Promise.all([a.source.readInto(x, a.offsetBytes + at), b.source.readInto(y, b.offsetBytes + at)]);
    // Words first: a table has hundreds of megabytes.
    const words = n >> 2;
    const [p, q] = [new Uint32Array(x.buffer, 0, words), new Uint32Array(y.buffer, 0, words)];
    for (let i = 0; i < words; i++) if (p[i] !== q[i]) return false;
    for (let i = words * 4; i < n; i++) if (x[i] !== y[i]) return false;
  }
  return true;
}
