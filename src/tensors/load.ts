/**
 * Reads a ternary tensor from wherever it is into packed rows in the caller's memory, in bounded pieces.
 * @module
 */

import { want } from '../errors.ts';
import { I2S_BLOCK_ELEMENTS, scaleOfI2S, wantNoCode3, wantScale } from './i2s.ts';
import { packedBytes, packedRowBytes } from './packed.ts';
import { createTranscoder, type TernaryMatrix } from './transcode.ts';

/** Fills `target` from byte `offsetBytes` of the tensor on. */
export type ReadTensor = (target: Uint8Array, offsetBytes: number) => Promise<void>;

export interface LoadPackedOptions {
  /** Bytes read at a time; a single longer row is still read whole. */
  readonly pieceBytes?: number;
  /** Checked between pieces; its reason is thrown. */
  readonly signal?: AbortSignal;
}

/** Large enough to keep a disk busy, small enough to be checked while still in cache and to abort soon. */
const PIECE_BYTES = 4 << 20;

/**
 * Loads the matrix into `out` (packedBytes(rows, columns) bytes, possibly shared memory) and gives its scale.
 * I2_S with K a multiple of 128 goes straight into place; other types through a buffer of one piece.
 * Every code and every scale is checked; see `transcode.ts` for what is refused.
 */
export async function loadPacked(
  matrix: TernaryMatrix,
  read: ReadTensor,
  out: Uint8Array,
  { pieceBytes = PIECE_BYTES, signal }: LoadPackedOptions = {},
): Promise<number> {
  const { rows, columns, where, dtype } = matrix;
  const transcoder = createTranscoder(matrix);
  want(out.length === packedBytes(rows, columns), 'bad-argument', 'wrong room for packed rows', () => ({
    where,
    expected: `${packedBytes(rows, columns)} bytes`,
    got: `${out.length}`,
  }));
  const inPlace = dtype === 'I2_S' && columns % I2S_BLOCK_ELEMENTS === 0;
  const rowBytes = packedRowBytes(columns);
  const sourceRowBytes = transcoder.range(0, rows).byteLength / rows;
  const rowsPerPiece = Math.max(1, Math.min(rows, Math.floor(pieceBytes / sourceRowBytes)));
  let buffer = new Uint8Array(0);
  for (let row = 0; row < rows; row += rowsPerPiece) {
    signal?.throwIfAborted();
    const nRows = Math.min(rowsPerPiece, rows - row);
    const { offsetBytes, byteLength } = transcoder.range(row, nRows);
    const target = out.subarray(row * rowBytes, (row + nRows) * rowBytes);
    if (inPlace) {
      await read(target, offsetBytes);
      wantNoCode3(target, row * columns, where);
      continue;
    }
    // Ranges of rows that begin inside blocks differ by a block from piece to piece.
    if (buffer.length < byteLength) buffer = new Uint8Array(byteLength);
    const piece = buffer.subarray(0, byteLength);
    await read(piece, offsetBytes);
    transcoder.transcode(piece, row, nRows, target);
  }
  if (dtype !== 'I2_S') return transcoder.scales.scale;
  const tail = new Uint8Array(4);
  await read(tail, (rows * columns) / 4);
  const scale = scaleOfI2S(tail, 0);
  wantScale(scale, where);
  return scale;
}
