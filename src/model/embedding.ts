/**
 * From rows of the residual stream to one vector a text: pooling, normalising, and storing in few bits. Everything in f64
 * and in a fixed order, rounded once at the end, so that the batch has no say in the bits.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { roundHalfEven } from '../numeric/exp.ts';
import { pow } from '../numeric/log.ts';
import type { PoolingType } from './config.ts';

/** `cls` is the first token, in the language of the models that begin with one of that name. */
export type Pooling = Exclude<PoolingType, 'none' | 'rank'>;
export const POOLINGS_HERE: readonly Pooling[] = ['mean', 'cls', 'last'];

/** Takes the rows of a text as they come, chunk by chunk, in order. */
export class Pooler {
  readonly #pooling: Pooling;
  readonly #nRows: number;
  readonly #sums: Float64Array;
  #seen = 0;

  constructor(pooling: Pooling, hidden: number, nRows: number) {
    this.#pooling = pooling;
    this.#nRows = nRows;
    this.#sums = new Float64Array(hidden);
  }

  /** rows: (count, hidden). */
  add(rows: Float32Array): void {
    const hidden = this.#sums.length;
    for (let at = 0; at < rows.length; at += hidden, this.#seen++) {
      const counts = this.#pooling === 'mean' || this.#seen === (this.#pooling === 'cls' ? 0 : this.#nRows - 1) ? 1 : 0;
      if (counts === 1) for (let i = 0; i < hidden; i++) this.#sums[i] += rows[at + i];
    }
  }

  get done(): boolean {
    return this.#seen === this.#nRows;
  }

  vector(): Float32Array {
    const by = this.#pooling === 'mean' ? this.#nRows : 1;
    return Float32Array.from(this.#sums, (sum) => sum / by);
  }
}

/** Greatest p of `normalizeVector`: beyond it the norm is the maximum in all the digits of f32. */
const MAX_P = 64;

/**
 * As `--embd-normalize` of llama-embedding: -1 leaves the vector alone, 0 makes its largest magnitude 32760 (for int16), 2 is
 * the Euclidean norm, any other p the p-norm. A vector of zeros stays one.
 */
export function normalizeVector(vector: Float32Array, p: number): Float32Array {
  want(Number.isInteger(p) && p >= -1 && p <= MAX_P, 'bad-argument', 'not a way to normalise', () => ({
    where: 'normalize',
    expected: `true, false, or an integer of -1 to ${MAX_P}`,
    got: show(p),
  }));
  if (p === -1) return vector;
  const largest = vector.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
  if (largest === 0) return vector;
  const factor = 1 / (p === 0 ? largest / 32760 : normOf(vector, p, largest));
  return vector.map((x) => x * factor);
}

/** Of magnitudes divided by the largest: their powers neither overflow nor vanish together. */
function normOf(vector: Float32Array, p: number, largest: number): number {
  let sum = 0;
  for (const x of vector) {
    const part = Math.abs(x) / largest;
    if (part > 0) sum += p === 1 ? part : p === 2 ? part * part : pow(part, p);
  }
  return largest * (p === 1 ? sum : p === 2 ? Math.sqrt(sum) : pow(sum, 1 / p));
}

/** How an embedding is stored. */
export type EmbeddingFormat = 'float' | QuantizedFormat;
export type QuantizedFormat = keyof typeof BITS;
const BITS = { int8: 8, int4: 4, int2: 2, binary: 1 } as const;
export const EMBEDDING_FORMATS = ['float', ...(Object.keys(BITS) as QuantizedFormat[])] as const;

/**
 * A vector in 8, 4, 2 or 1 bits a value: value i is about `scale * code i`.
 *
 * Codes are whole numbers in two's complement from -L to L, where L is 127, 7, 1: code = clamp(roundHalfEven(x / scale)). The
 * scale is absmax / L, or absmax * k / (32 L) for that k of 1 .. 31 which makes the sum of squared errors smaller still: one
 * large component, as embeddings often have, would otherwise round all others to zero. Of equals the largest scale wins.
 * `binary` has one bit: set for x > 0, the code is +1, else -1; the scale is the mean magnitude, which again makes the sum of
 * squared errors smallest.
 *
 * Packed with value 0 in the highest bits of byte 0, as numpy.packbits does, the last byte filled up with zeros:
 *
 *     int4     byte 0   7 6 5 4  3 2 1 0        int2   7 6  5 4  3 2  1 0        binary   7 6 5 4 3 2 1 0
 *              value    0        1                     0    1    2    3                   0 1 2 3 4 5 6 7
 */
export interface QuantizedEmbedding {
  readonly format: QuantizedFormat;
  /** Values of the vector. */
  readonly length: number;
  readonly scale: number;
  readonly bytes: Uint8Array;
}

const CLIPS = 32;

export function quantizeEmbedding(vector: Float32Array, format: QuantizedFormat): QuantizedEmbedding {
  const bits = bitsOf(format);
  const scale = Math.fround(format === 'binary' ? meanMagnitude(vector) : bestScale(vector, levelsOf(bits)));
  const perByte = 8 / bits;
  const bytes = new Uint8Array(Math.ceil(vector.length / perByte));
  const mask = (1 << bits) - 1;
  for (let i = 0; i < vector.length; i++) {
    const code = format === 'binary' ? (vector[i] > 0 ? 1 : 0) : codeOf(vector[i], scale, levelsOf(bits));
    bytes[Math.floor(i / perByte)] |= (code & mask) << (8 - bits - (i % perByte) * bits);
  }
  return { format, length: vector.length, scale, bytes };
}

/** The codes, unpacked: -L .. L, or -1 and +1. */
export function embeddingCodes({ format, length, bytes }: QuantizedEmbedding): Int8Array {
  const bits = bitsOf(format);
  const perByte = 8 / bits;
  const needed = Math.ceil(length / perByte);
  want(bytes.length === needed, 'bad-argument', 'not so many bytes as the vector takes', () => ({
    where: `embedding of ${length} values in ${format}`,
    expected: `${needed}`,
    got: `${bytes.length}`,
  }));
  return Int8Array.from({ length }, (_, i) => {
    const field = bytes[Math.floor(i / perByte)] << (24 + (i % perByte) * bits);
    // An arithmetic shift brings the sign along.
    return format === 'binary' ? (field < 0 ? 1 : -1) : field >> (32 - bits);
  });
}

/** The inverse of `quantizeEmbedding`, but for what rounding took. */
export function dequantizeEmbedding(embedding: QuantizedEmbedding): Float32Array {
  return Float32Array.from(embeddingCodes(embedding), (code) => code * embedding.scale);
}

/** The cosine of the angle between two vectors; 0 where one of them is all zeros, as in llama-embedding, and 1 where both are. */
export function cosineSimilarity(a: ArrayLike<number>, b: ArrayLike<number>): number {
  want(a.length === b.length, 'bad-argument', 'vectors of different lengths', () => ({
    expected: `${a.length}`,
    got: `${b.length}`,
  }));
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  if (aa === 0 || bb === 0) return aa === bb ? 1 : 0;
  return ab / (Math.sqrt(aa) * Math.sqrt(bb));
}

function bitsOf(format: QuantizedFormat): number {
  if (Object.hasOwn(BITS, format)) return BITS[format];
  throw new BitnetError('bad-argument', 'no such format of embeddings', {
    where: 'quantize',
    expected: EMBEDDING_FORMATS.join(', '),
    got: show(format),
  });
}

function levelsOf(bits: number): number {
  return 2 ** (bits - 1) - 1;
}

function codeOf(x: number, scale: number, levels: number): number {
  return scale === 0 ? 0 : Math.max(-levels, Math.min(levels, roundHalfEven(x / scale)));
}

function meanMagnitude(vector: Float32Array): number {
  return vector.reduce((sum, x) => sum + Math.abs(x), 0) / Math.max(1, vector.length);
}

function bestScale(vector: Float32Array, levels: number): number {
  const largest = vector.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
  let [best, least] = [0, Infinity];
  for (let k = CLIPS; k > 0; k--) {
    const scale = Math.fround((largest * k) / (CLIPS * levels));
    let error = 0;
    for (const x of vector) error += (x - codeOf(x, scale, levels) * scale) ** 2;
    if (error < least) [best, least] = [scale, error];
  }
  return best;
}
