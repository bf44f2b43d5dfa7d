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
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { SafetensorsTensor } from '../formats/safetensors/types.ts';
import { decodeInto, findNotFinite } from '../tensors/decode.ts';
import { dtypeByName } from '../tensors/dtype.ts';
import { findCode3, wantScale } from '../tensors/i2s.ts';
import { RUN } from './types.ts';

/** Values handed out at a time, as long as a row is not longer. */
const PIECE_VALUES = 1 << 16;

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

/** A matrix as trits. The buffer of a piece is used again for the next. */
export interface Trits {
  readonly scale: number;
  readonly pieces: () => AsyncIterable<Int8Array>;
}

/** A packed matrix. It is read whole: it is at most a few ten MB, and every row of it is spread over a quarter. */
export async function packedTrits(
  tensor: SafetensorsTensor,
  scale: SafetensorsTensor,
  direction: 'packed, multiply' | 'packed, divide',
  order: RowOrder | undefined,
): Promise<Trits> {
  const factor = (await readFloats(scale))[0];
  wantScale(factor, scale.name);
  const [quarter, columns] = tensor.shape;
  const bytes = new Uint8Array(tensor.byteLength);
  await tensor.source.readInto(bytes, tensor.offsetBytes);
  wantTernary(bytes, tensor);
  return {
    scale: direction === 'packed, divide' ? Math.fround(1 / factor) : factor,
    async *pieces() {
      const rows = 4 * quarter;
      const perPiece = rowsPerPiece(columns);
      const trits = new Int8Array(perPiece * columns);
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

/** A matrix of master weights: read once for its mean, and again when the pieces are asked for. */
export async function masterTrits(tensor: SafetensorsTensor, order: RowOrder | undefined): Promise<Trits> {
  let sum = 0;
  let n = 0;
  for await (const values of floatPieces(tensor)) {
    for (let i = 0; i < values.length; i++) sum += Math.abs(values[i]);
    n += values.length;
  }
  const inverse = Math.fround(1 / Math.max(Math.fround(sum / n), Math.fround(1e-5)));
  return {
    scale: Math.fround(1 / inverse),
    async *pieces() {
      let trits = new Int8Array(0);
      for await (const values of floatPieces(tensor, order)) {
        if (trits.length < values.length) trits = new Int8Array(values.length);
        for (let i = 0; i < values.length; i++) {
          const scaled = Math.fround(values[i] * inverse);
          trits[i] = scaled > 0.5 ? 1 : scaled < -0.5 ? -1 : 0;
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
    want(bad < 0, 'bad-tensor', 'a weight is not a finite number', () => ({
      where: `${tensor.name} value ${first * columns + bad}`,
    }));
    decodeInto(dtype, piece, 0, count * columns, values);
    yield values.subarray(0, count * columns);
  }
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

/** As many rows as make a good piece, and together a multiple of `RUN` values, so that blocks end with pieces. */
function rowsPerPiece(columns: number): number {
  let step = 1;
  while ((step * columns) % RUN !== 0) step *= 2; // RUN is a power of two
  return Math.max(step, Math.floor(PIECE_VALUES / columns / step) * step);
}

function wantTernary(bytes: Uint8Array, { name, shape }: SafetensorsTensor): void {
  const at = findCode3(bytes);
  if (at < 0) return;
  const plane = [0, 1, 2, 3].findIndex((p) => ((bytes[at] >> (2 * p)) & 3) === 3);
  const [quarter, columns] = shape;
  throw new BitnetError('bad-tensor', 'code 3 where only 0, 1, 2 are ternary', {
    where: `${name} row ${Math.floor(at / columns) + plane * quarter} column ${at % columns}`,
    got: `byte 0x${bytes[at].toString(16).padStart(2, '0')}`,
    hint: 'the file is damaged, or packed in another way',
  });
}
