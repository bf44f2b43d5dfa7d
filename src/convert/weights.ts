/**
 * Numbers of a Hugging Face checkpoint, piece by piece, as trits or floats.
 *
 * Packed matrices, shape (M/4, K), four rows to a byte:
 *
 *     byte [r][c]     bits 1:0       3:2         5:4          7:6          r = 0 .. M/4 - 1
 *     holds row       r              r + M/4     r + 2 M/4    r + 3 M/4    of column c
 *     code            trit + 1; 3 is never written
 *
 * Example, M = 8, K = 1: trits 1 0 -1 1 0 0 1 -1 are the bytes 0x92 (rows 0 2 4 6) and 0x19 (rows 1 3 5 7).
 *
 * Master weights are quantised as the forward pass of training does (`WeightQuant` of transformers):
 *
 *     s = 1 / max(mean |W|, 1e-5)     trit = clamp(round(W s), -1, 1), halves to even     value = trit / s
 *
 * The mean is taken over the whole matrix: |W| summed in double precision in the order of the file, divided by their
 * number, rounded once to float32. torch adds in float32 by a tree of its own, so its mean may differ in the last bits;
 * s and W s are float32 as there. Halves go to even, so |W s| = 0.5 becomes 0, and only larger ones become 1.
 *
 * Floats that are ternary already (a checkpoint saved after dequantising) keep their scale: the mean of -s, 0, s would be
 * smaller than s by the share of zeros.
 * @module
 */

import { want } from '../errors.ts';
import type { SafetensorsTensor } from '../formats/safetensors/types.ts';
import { decodeInto, findNotFinite } from '../tensors/decode.ts';
import { dtypeByName } from '../tensors/dtype.ts';
import { code3, findCode3, wantScale } from '../tensors/i2s.ts';
import { NEARLY_TERNARY, type Ternariness, ternarinessOf } from '../tensors/ternariness.ts';
import { rowsPerPiece, type TritMatrix } from './linear.ts';

/** Row r of the result is row order(r) of the checkpoint. */
export type RowOrder = (row: number) => number;

/**
 * Rows of q or k of one llama layer from HF's order to llama.cpp's: HF rotates component i with i + d/2, llama.cpp 2i
 * with 2i + 1. New row (head, 2i + j) is old row (head, j d/2 + i).
 */
export function rotaryOrder(headDim: number): RowOrder {
  return (row) => {
    const inHead = row % headDim;
    return row - inHead + (inHead & 1) * (headDim / 2) + (inHead >> 1);
  };
}

/** The way back: row (head, j d/2 + i) of HF is row (head, 2i + j) of llama.cpp. */
export function inverseRotaryOrder(headDim: number): RowOrder {
  const half = headDim / 2;
  return (row) => {
    const inHead = row % headDim;
    return row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
  };
}

/** A packed matrix. It is read whole: it is at most a few ten MB, and every row of it is spread over a quarter. */
export async function packedTrits(
  tensor: SafetensorsTensor,
  scale: SafetensorsTensor,
  direction: 'packed, multiply' | 'packed, divide',
  order: RowOrder | undefined,
): Promise<TritMatrix> {
  const factor = (await readFloats(scale))[0];
  wantScale(factor, scale.name);
  const [quarter, columns] = tensor.shape;
  const bytes = new Uint8Array(tensor.byteLength);
  await tensor.source.readInto(bytes, tensor.offsetBytes);
  wantTernary(bytes, tensor);
  const own = direction === 'packed, divide' ? Math.fround(1 / factor) : factor;
  // A denormal factor has no finite inverse.
  wantScale(own, scale.name);
  const rows = 4 * quarter;
  return {
    rows,
    columns,
    scale: own,
    *pieces() {
      const perPiece = rowsPerPiece(columns);
      const trits = new Int8Array(Math.min(perPiece, rows) * columns);
      for (let first = 0; first < rows; first += perPiece) {
        const count = Math.min(perPiece, rows - first);
        for (let r = 0; r < count; r++) {
          const row = order === undefined ? first + r : order(first + r);
          const from = (row % quarter) * columns;
          const shift = 2 * Math.floor(row / quarter);
          for (let c = 0; c < columns; c++) trits[r * columns + c] = ((bytes[from + c] >> shift) & 3) - 1;
        }
        yield trits.subarray(0, count * columns);
      }
    },
  };
}

/** All values of a matrix in whole rows; each call reads them again. */
export type FloatPieces = () => AsyncIterable<Float32Array>;

/**
 * What floats are. `ternary`: -s, 0, s already. `rounded`: the same with noise. `master`: as trained, to be quantised.
 */
export type FloatKind = 'ternary' | 'rounded' | 'master';

export interface FloatSurvey {
  readonly kind: FloatKind;
  /** Of all values, or of the first piece where that is far enough from ternary to tell. */
  readonly ternariness: Ternariness;
  /** Of |W|. */
  readonly mean: number;
}

/** Reads a matrix once, and a second time if it may be ternary with noise. */
export async function surveyFloats(pieces: FloatPieces, signal?: AbortSignal): Promise<FloatSurvey> {
  let sum = 0;
  let n = 0;
  let magnitude = 0;
  let isExact = true;
  let first: Ternariness | undefined;
  for await (const values of pieces()) {
    signal?.throwIfAborted();
    for (let i = 0; i < values.length; i++) {
      const a = Math.abs(values[i]);
      sum += a;
      if (a === magnitude || a === 0) continue;
      if (magnitude === 0) magnitude = a;
      else isExact = false;
    }
    n += values.length;
    first ??= ternarinessOf(values);
  }
  const mean = sum / n;
  // Zeros say nothing about their scale; quantising gives them the one of training.
  if (magnitude === 0) return { kind: 'master', mean, ternariness: { distance: 0, scale: 0, isExact } };
  if (isExact) return { kind: 'ternary', mean, ternariness: { distance: 0, scale: magnitude, isExact } };
  const ternariness = first!.distance > NEARLY_TERNARY ? first! : await wholeTernariness(pieces, mean);
  return { kind: ternariness.distance > NEARLY_TERNARY ? 'master' : 'rounded', mean, ternariness };
}

/** `ternarinessOf` of a matrix that is not exactly ternary, piece by piece. */
async function wholeTernariness(pieces: FloatPieces, mean: number): Promise<Ternariness> {
  let sumSquares = 0;
  let projected = 0;
  let nonzero = 0;
  for await (const values of pieces()) {
    for (let i = 0; i < values.length; i++) {
      const a = Math.abs(values[i]);
      sumSquares += a * a;
      if (a <= mean / 2) continue;
      projected += a;
      nonzero++;
    }
  }
  const rest = Math.max(0, sumSquares - (projected * projected) / nonzero);
  return { distance: Math.sqrt(rest / sumSquares), scale: projected / nonzero, isExact: false };
}

/** Trits of floats: those that are there already, or the ones that training computed with. */
export function floatTrits(
  { kind, mean, ternariness }: FloatSurvey,
  [columns, rows]: readonly [columns: number, rows: number],
  pieces: FloatPieces,
): TritMatrix {
  const inverse = kind === 'master' ? Math.fround(1 / Math.max(Math.fround(mean), Math.fround(1e-5))) : 1;
  // The rounded product decides, as in training: |W s| just above a half may become one.
  const half = kind === 'master' ? 0.5 : mean / 2;
  return {
    rows,
    columns,
    scale: Math.fround(kind === 'master' ? 1 / inverse : ternariness.scale),
    async *pieces() {
      let trits = new Int8Array(0);
      for await (const values of pieces()) {
        if (trits.length < values.length) trits = new Int8Array(values.length);
        for (let i = 0; i < values.length; i++) {
          const scaled = Math.fround(values[i] * inverse);
          trits[i] = scaled > half ? 1 : scaled < -half ? -1 : 0;
        }
        yield trits.subarray(0, values.length);
      }
    },
  };
}

/** Floats of a tensor in whole rows, checked. The buffer of a piece is used again for the next. */
export async function* floatPieces(tensor: SafetensorsTensor, order?: RowOrder): AsyncGenerator<Float32Array> {
  const dtype = dtypeByName(tensor.dtype as 'F32' | 'F16' | 'BF16'); // `pairTensors` has checked
  const columns = tensor.shape.at(-1) ?? 1;
  const rows = tensor.shape.length < 2 ? 1 : tensor.shape[0];
  const perPiece = Math.min(rows, rowsPerPiece(columns));
  const rowBytes = columns * dtype.blockBytes;
  const buffer = new Uint8Array(perPiece * rowBytes);
  const values = new Float32Array(perPiece * columns);
  for (let first = 0; first < rows; first += perPiece) {
    const count = Math.min(perPiece, rows - first);
    const piece = buffer.subarray(0, count * rowBytes);
    if (order === undefined) await tensor.source.readInto(piece, tensor.offsetBytes + first * rowBytes);
    else {
      for (let r = 0; r < count; r++) {
        const row = piece.subarray(r * rowBytes, (r + 1) * rowBytes);
        await tensor.source.readInto(row, tensor.offsetBytes + order(first + r) * rowBytes);
      }
    }
    const bad = findNotFinite(dtype, piece);
    want(bad < 0, 'bad-tensor', 'a weight is not a finite number', () => {
      const row = first + Math.floor(bad / columns);
      return { where: `${tensor.name} value ${(order?.(row) ?? row) * columns + (bad % columns)}` };
    });
    decodeInto(dtype, piece, 0, count * columns, values);
    yield values.subarray(0, count * columns);
  }
}

/** Values of some rows all over a matrix: enough to tell master weights from ternary ones. */
export async function sampleOf(tensor: SafetensorsTensor): Promise<Float32Array> {
  const [rows, columns] = tensor.shape;
  const count = Math.min(rows, rowsPerPiece(columns));
  const spread: SafetensorsTensor = { ...tensor, shape: [count, columns] };
  // One piece: as many rows as it has.
  for await (const values of floatPieces(spread, (row) => Math.floor((row * rows) / count))) return values;
  return new Float32Array(0);
}

/** A small tensor as a whole. */
export async function readFloats(tensor: SafetensorsTensor): Promise<Float32Array> {
  const pieces: Float32Array[] = [];
  for await (const piece of floatPieces(tensor)) pieces.push(piece.slice());
  const whole = new Float32Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

function wantTernary(bytes: Uint8Array, { name, shape }: SafetensorsTensor): void {
  const at = findCode3(bytes);
  if (at < 0) return;
  const plane = [0, 1, 2, 3].findIndex((p) => ((bytes[at] >> (2 * p)) & 3) === 3);
  const [quarter, columns] = shape;
  const place = `${name} row ${Math.floor(at / columns) + plane * quarter} column ${at % columns}`;
  throw code3(place, bytes[at], 'the file is damaged, or packed in another way');
}
