/**
 * What dense weights of each file type are in memory. Kernels know six forms; every other type becomes one of them, block by block
 * while it is read, with no bit of any weight changed:
 *
 *     F32 F16 BF16 Q8_0 Q6_K         themselves
 *     Q4_0 Q5_0                 ->   Q8_0     the same d; codes of 4 and 5 bits fit 8
 *     TQ1_0 TQ2_0               ->   Q8_0     eight blocks with the same d; codes -1, 0, 1. Here scales of blocks may differ
 *     Q3_K                      ->   Q6_K     the same d and groups; scales -32 .. 31 and codes -4 .. 3 fit i8 and -32 .. 31
 *     Q4_1 Q5_1 Q4_K Q5_K       ->   AFFINE   see `affine.ts`
 *     I2_S                      ->   AFFINE   a = b = scale, codes 0, 1, 2: a * q - b is exactly -scale, 0 or scale. F32 where rows
 *                                             are no multiple of 32
 *     Q2_K                      ->   F32      its offsets change every 16 values: no form is worth having for it
 *
 * Ternary types are here for tables (embeddings, heads), whose activations are floats; projections are packed (`packed.ts`).
 * @module
 */

import { want } from '../errors.ts';
import { AFFINE_BYTES, AFFINE_ELEMENTS, toAffine } from './affine.ts';
import { decodeInto, findNotFinite } from './decode.ts';
import { type DType, type DTypeName, dtypeByName } from './dtype.ts';
import { encodeF32 } from './floats.ts';
import { decodeTritsI2S, scaleOfI2S, wantNoCode3, wantScale } from './i2s.ts';
import { inPieces, type ReadTensor } from './load.ts';
import { codesQ3_K, Q3_K_BYTES, Q3_K_D, scalesQ3_K } from './q2_q3_k.ts';
import { type CentredBlocks, Q4_0, Q4_1, Q5_0, Q5_1 } from './q4_q5.ts';
import { Q4_K, Q5_K } from './q4_q5_k.ts';
import type { TernaryBlocks } from './tq.ts';
import { digitTableTQ1, TQ1_0, wantBytesTQ1 } from './tq1.ts';
import { TQ2_0, wantCodesTQ2 } from './tq2.ts';

/** Types in which dense weights lie in memory: file types and AFFINE. */
export type MemoryType = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q6_K' | 'AFFINE';

interface Form {
  readonly memory: MemoryType;
  /** Writes whole blocks to the begin of `out`; absent where memory holds the file's bytes. */
  readonly transcode?: (bytes: Uint8Array, out: Uint8Array) => void;
}

const itself = (memory: MemoryType): Form => ({ memory });

const forms: Partial<Record<DTypeName, Form>> = {
  F32: itself('F32'),
  F16: itself('F16'),
  BF16: itself('BF16'),
  Q8_0: itself('Q8_0'),
  Q6_K: itself('Q6_K'),
  Q4_0: { memory: 'Q8_0', transcode: (bytes, out) => centredToQ8_0(Q4_0, bytes, out) },
  Q5_0: { memory: 'Q8_0', transcode: (bytes, out) => centredToQ8_0(Q5_0, bytes, out) },
  TQ1_0: { memory: 'Q8_0', transcode: (bytes, out) => ternaryToQ8_0(TQ1_0, bytes, out) },
  TQ2_0: { memory: 'Q8_0', transcode: (bytes, out) => ternaryToQ8_0(TQ2_0, bytes, out) },
  Q3_K: { memory: 'Q6_K', transcode: q3ToQ6 },
  Q4_1: { memory: 'AFFINE', transcode: (bytes, out) => toAffine(Q4_1, bytes, out) },
  Q5_1: { memory: 'AFFINE', transcode: (bytes, out) => toAffine(Q5_1, bytes, out) },
  Q4_K: { memory: 'AFFINE', transcode: (bytes, out) => toAffine(Q4_K, bytes, out) },
  Q5_K: { memory: 'AFFINE', transcode: (bytes, out) => toAffine(Q5_K, bytes, out) },
  Q2_K: { memory: 'F32', transcode: (bytes, out) => toF32(dtypeByName('Q2_K'), bytes, out) },
};

/** File types of dense weights and tables, for messages. */
export const DENSE_FILE_TYPES: readonly string[] = [...Object.keys(forms), 'I2_S'];

/** What a dense matrix of this type and row length is in memory; undefined where it cannot be one. */
export function memoryTypeOf(dtype: DType, columns: number): MemoryType | undefined {
  if (dtype.name === 'I2_S') return columns % AFFINE_ELEMENTS === 0 ? 'AFFINE' : 'F32';
  return formOf(dtype)?.memory;
}

/** Bytes of `elements` values, which fill whole blocks, in memory. */
export function memoryBytes(type: MemoryType, elements: number): number {
  if (type === 'AFFINE') return (elements / AFFINE_ELEMENTS) * AFFINE_BYTES;
  const { blockBytes, blockElements } = dtypeByName(type);
  return (elements / blockElements) * blockBytes;
}

function formOf({ name }: DType): Form | undefined {
  return Object.hasOwn(forms, name) ? forms[name as DTypeName] : undefined;
}

/** A dense matrix in a file. */
export interface DenseMatrix {
  /** For error messages: file and tensor. */
  readonly where: string;
  readonly dtype: DType;
  readonly rows: number;
  readonly columns: number;
}

/** Values of one piece, a multiple of every block. */
const PIECE_VALUES = 1 << 20;

/**
 * Reads a matrix piece by piece and writes it in its memory type into `out`, which has `memoryBytes` of room. Every weight must
 * be finite, every ternary code one.
 */
export async function loadDense(
  matrix: DenseMatrix,
  read: ReadTensor,
  out: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  const { where, dtype, rows, columns } = matrix;
  const elements = rows * columns;
  const memory = memoryTypeOf(dtype, columns);
  want(memory !== undefined, 'unsupported-type', 'not a type for a dense matrix', () => ({
    where,
    expected: DENSE_FILE_TYPES.join(', '),
    got: dtype.name,
  }));
  want(out.length === memoryBytes(memory, elements), 'bad-argument', 'wrong room for a dense matrix', () => ({
    where,
    expected: `${memoryBytes(memory, elements)} bytes`,
    got: `${out.length}`,
  }));
  const { blockBytes, blockElements } = dtype;
  const bytesOf = (values: number) => (values / blockElements) * blockBytes;
  const transcode = dtype.name === 'I2_S' ? await i2sTranscoder(matrix, read, memory) : formOf(dtype)?.transcode;
  // Without anything to change the file's bytes are read where they stay; else two buffers, one to read into, one to take from.
  const longest = Math.min(elements, PIECE_VALUES);
  const buffers = transcode === undefined ? [] : [0, 1].map(() => new Uint8Array(bytesOf(longest)));
  const placeOf = (at: number, n: number) => out.subarray(memoryBytes(memory, at), memoryBytes(memory, at + n));
  const pieceOf = (at: number, n: number) =>
    transcode === undefined ? placeOf(at, n) : buffers[(at / PIECE_VALUES) & 1].subarray(0, bytesOf(n));
  await inPieces(elements, PIECE_VALUES, signal, {
    read: (at, n) => read(pieceOf(at, n), bytesOf(at)),
    use: (at, n) => {
      const bytes = pieceOf(at, n);
      wantWeights(dtype, bytes, at, where);
      transcode?.(bytes, placeOf(at, n));
    },
  });
}

const Q8_BYTES = 34;

function centredToQ8_0({ bytes: blockBytes, middle, codes }: CentredBlocks, bytes: Uint8Array, out: Uint8Array): void {
  const signed = new Int8Array(out.buffer, out.byteOffset, out.byteLength);
  for (let at = 0, to = 0; at < bytes.length; at += blockBytes, to += Q8_BYTES) {
    out[to] = bytes[at];
    out[to + 1] = bytes[at + 1];
    codes(bytes, at, signed, to + 2);
    for (let j = to + 2; j < to + Q8_BYTES; j++) signed[j] -= middle;
  }
}

/** Eight blocks for one, all with its d, which is behind the code. */
function ternaryToQ8_0(type: TernaryBlocks, bytes: Uint8Array, out: Uint8Array): void {
  const trits = new Int8Array(256);
  for (let at = 0, to = 0; at < bytes.length; at += type.bytes, to += 8 * Q8_BYTES) {
    type.decodeBlock(bytes, at, trits, 0);
    const d = at + type.scaleAt;
    for (let b = 0; b < 8; b++) {
      const block = to + b * Q8_BYTES;
      out[block] = bytes[d];
      out[block + 1] = bytes[d + 1];
      for (let j = 0; j < 32; j++) out[block + 2 + j] = trits[32 * b + j];
    }
  }
}

/**
 * Refuses whole blocks of which a weight is not a finite number, or a ternary code none; `first` is the index of their first value.
 * So is refused what `loadPacked` refuses, but not scales of blocks that differ.
 */
export function wantWeights(dtype: DType, bytes: Uint8Array, first: number, where: string): void {
  if (dtype.name === 'I2_S') {
    wantNoCode3(bytes, first, where);
    return;
  }
  const bad = findNotFinite(dtype, bytes);
  want(bad < 0, 'bad-tensor', 'a weight is not a finite number', () => ({ where: `${where} element ${first + bad}` }));
  if (dtype.name === 'TQ1_0') wantBytesTQ1(bytes, first / 256, digitTableTQ1(), where);
  if (dtype.name === 'TQ2_0') wantCodesTQ2(bytes, first, where);
}

const Q6_BYTES = 210;
const Q6_QH = 128;
const Q6_SCALES = 192;
const Q6_D = 208;

/** Groups are the same 16 values in both; how Q6_K spreads its codes is drawn in `q6_k.ts`. */
function q3ToQ6(bytes: Uint8Array, out: Uint8Array): void {
  const codes = new Int8Array(256);
  const scales = new Int8Array(16);
  for (let at = 0, to = 0; at < bytes.length; at += Q3_K_BYTES, to += Q6_BYTES) {
    codesQ3_K(bytes, at, codes);
    scalesQ3_K(bytes, at, scales);
    for (let h = 0; h < 2; h++) {
      for (let i = 0; i < 32; i++) {
        const value = 128 * h + i;
        const [q0, q1] = [codes[value] + 32, codes[value + 32] + 32];
        const [q2, q3] = [codes[value + 64] + 32, codes[value + 96] + 32];
        out[to + 64 * h + i] = (q0 & 15) | ((q2 & 15) << 4);
        out[to + 64 * h + 32 + i] = (q1 & 15) | ((q3 & 15) << 4);
        out[to + Q6_QH + 32 * h + i] = (q0 >> 4) | ((q1 >> 4) << 2) | ((q2 >> 4) << 4) | ((q3 >> 4) << 6);
      }
    }
    out.set(scales, to + Q6_SCALES); // negative ones as their two's complement
    out[to + Q6_D] = bytes[at + Q3_K_D];
    out[to + Q6_D + 1] = bytes[at + Q3_K_D + 1];
  }
}

function toF32(dtype: DType, bytes: Uint8Array, out: Uint8Array): void {
  const values = new Float32Array(out.length / 4);
  decodeInto(dtype, bytes, 0, values.length, values);
  out.set(encodeF32(values));
}

/** The scale is behind the codes, so it is read first. */
async function i2sTranscoder({ where, rows, columns }: DenseMatrix, read: ReadTensor, memory: MemoryType) {
  const tail = new Uint8Array(4);
  await read(tail, (rows * columns) / 4);
  const scale = scaleOfI2S(tail, 0);
  wantScale(scale, where);
  want(Number.isFinite(Math.fround(2 * scale)), 'bad-tensor', 'bad scale', () => ({
    where,
    expected: 'below 2^127',
    got: `${scale}`,
  }));
  return (bytes: Uint8Array, out: Uint8Array): void => {
    const trits = new Int8Array(bytes.length * 4);
    decodeTritsI2S(bytes, 0, trits.length, trits);
    if (memory === 'F32') {
      out.set(encodeF32(Float32Array.from(trits, (trit) => scale * trit)));
      return;
    }
    const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
    for (let i = 0, to = 0; i < trits.length; i += AFFINE_ELEMENTS, to += AFFINE_BYTES) {
      view.setFloat32(to, scale, true);
      view.setFloat32(to + 4, scale, true);
      for (let j = 0; j < AFFINE_ELEMENTS; j++) out[to + 8 + j] = trits[i + j] + 1;
    }
  };
}
