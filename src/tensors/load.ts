/**
 * Reads a ternary tensor from wherever it is into packed rows in the caller's memory, in bounded pieces.
 * @module
 */

import { want } from '../errors.ts';
import { I2S_BLOCK_ELEMENTS, scaleOfI2S, wantNoCode3, wantScale } from './i2s.ts';
import { packedBytes, packedRowBytes } from './packed.ts';
import { type ByteRange, createTranscoder, type TernaryMatrix, type Transcoder } from './transcode.ts';

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
 * Goes through `count` items, `step` at a time: reads the next piece while the present one is used. When it ends, well or
 * not, no read is under way any more, so the memory may be given back.
 */
export async function inPieces(
  count: number,
  step: number,
  signal: AbortSignal | undefined,
  { read, use }: { read(at: number, n: number): Promise<void>; use(at: number, n: number): void },
): Promise<void> {
  const size = (at: number) => Math.min(step, count - at);
  let reading: Promise<void> | undefined;
  try {
    for (let at = 0; at < count; at += step) {
      signal?.throwIfAborted();
      await (reading ?? read(at, size(at)));
      const next = at + step;
      reading = next < count ? read(next, size(next)) : undefined;
      use(at, size(at));
    }
  } finally {
    await reading?.catch(() => undefined);
  }
}

/**
 * Loads the matrix into `out` (packedBytes(rows, columns) bytes, possibly shared memory) and gives its scale.
 * I2_S of x86 with K a multiple of 128 goes straight into place; everything else through a buffer of one piece.
 * Every code and every scale is checked; see `transcode.ts` for what is refused.
 */
export async function loadPacked(
  matrix: TernaryMatrix,
  read: ReadTensor,
  out: Uint8Array,
  { pieceBytes = PIECE_BYTES, signal }: LoadPackedOptions = {},
): Promise<number> {
  const { rows, columns, where, dtype, layout = 'x86' } = matrix;
  const transcoder = createTranscoder(matrix);
  want(out.length === packedBytes(rows, columns), 'bad-argument', 'wrong room for packed rows', () => ({
    where,
    expected: `${packedBytes(rows, columns)} bytes`,
    got: `${out.length}`,
  }));
  const inPlace = dtype === 'I2_S' && layout === 'x86' && columns % I2S_BLOCK_ELEMENTS === 0;
  const rowBytes = packedRowBytes(columns);
  const sourceRowBytes = bytesOf(transcoder.ranges(0, rows)) / rows;
  const { rowsTogether } = transcoder;
  const groupsPerPiece = Math.max(1, Math.floor(pieceBytes / (sourceRowBytes * rowsTogether)));
  const rowsPerPiece = Math.min(rows, groupsPerPiece * rowsTogether);
  const rowsOf = (row: number, nRows: number) => out.subarray(row * rowBytes, (row + nRows) * rowBytes);
  if (inPlace) {
    await inPieces(rows, rowsPerPiece, signal, {
      read: (row, nRows) => read(rowsOf(row, nRows), transcoder.ranges(row, nRows)[0].offsetBytes),
      use: (row, nRows) => wantNoCode3(rowsOf(row, nRows), row * columns, where),
    });
  } else {
    // Two buffers: one is read into while the other is transcoded.
    const buffers = [new Uint8Array(0), new Uint8Array(0)];
    const pieceOf = (row: number, nRows: number) => {
      const byteLength = bytesOf(transcoder.ranges(row, nRows));
      const which = (row / rowsPerPiece) & 1;
      // Ranges of rows that begin inside blocks differ by a block from piece to piece.
      if (buffers[which].length < byteLength) buffers[which] = new Uint8Array(byteLength);
      return buffers[which].subarray(0, byteLength);
    };
    await inPieces(rows, rowsPerPiece, signal, {
      read: (row, nRows) => readRanges(read, transcoder.ranges(row, nRows), pieceOf(row, nRows)),
      use: (row, nRows) => transcoder.transcode(pieceOf(row, nRows), row, nRows, rowsOf(row, nRows)),
    });
  }
  if (transcoder.fill !== undefined) {
    const { range, check } = transcoder.fill;
    const bytes = new Uint8Array(range.byteLength);
    await read(bytes, range.offsetBytes);
    check(bytes);
  }
  if (transcoder.scaleAt === undefined) return transcoder.scales.scale;
  const tail = new Uint8Array(4);
  await read(tail, transcoder.scaleAt);
  const scale = scaleOfI2S(tail, 0);
  wantScale(scale, where);
  return scale;
}

/** Packed rows first .. first + count, whole groups of `rowsTogether`: a sample of a matrix, checked like all of it. */
export async function readPackedRows(
  transcoder: Transcoder,
  columns: number,
  read: ReadTensor,
  first: number,
  count: number,
): Promise<Uint8Array> {
  const ranges = transcoder.ranges(first, count);
  const bytes = new Uint8Array(bytesOf(ranges));
  await readRanges(read, ranges, bytes);
  const out = new Uint8Array(packedBytes(count, columns));
  transcoder.transcode(bytes, first, count, out);
  return out;
}

function bytesOf(ranges: readonly ByteRange[]): number {
  return ranges.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

async function readRanges(read: ReadTensor, ranges: readonly ByteRange[], target: Uint8Array): Promise<void> {
  let at = 0;
  for (const { offsetBytes, byteLength } of ranges) {
    await read(target.subarray(at, at + byteLength), offsetBytes);
    at += byteLength;
  }
}
