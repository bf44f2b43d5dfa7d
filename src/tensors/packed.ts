/**
 * Packed rows: the one form of a ternary matrix that every kernel reads.
 *
 * M rows of K trits. Each row is padded with zeros (code 1) to a multiple of 128 and cut into blocks of 32 bytes that
 * are laid out as in I2_S; a row begins with a block of its own:
 *
 *     row r      at byte r * rowBytes,  rowBytes = ceil(K / 128) * 32
 *     block b    at byte 32 b of the row, columns 128 b .. 128 b + 127
 *     byte p     bits 7:6 column p, 5:4 column 32 + p, 3:2 column 64 + p, 1:0 column 96 + p     (of the block)
 *     code       trit + 1: 0, 1, 2; never 3
 *
 * For K a multiple of 128 these are the bytes of an I2_S file, so weights stream from disk into place unchanged. Why
 * this and not four neighbours to a byte: one vector load of 16 bytes gives, by shift and mask, four vectors of 16
 * consecutive columns each.
 *
 * Padding is zero trits rather than zero bytes (which would be -1): a kernel may run over the whole padded row as long as
 * its activations are padded with anything finite.
 * @module
 */

import { want } from '../errors.ts';
import { decodeTritsI2S, wantTrit } from './i2s.ts';

export const PACK_COLUMNS = 128;
export const PACK_BYTES = 32;
/** Four times code 1: four zero trits. */
export const ZERO_BYTE = 0x55;

/** Bytes of one packed row of `columns` trits. */
export function packedRowBytes(columns: number): number {
  return Math.ceil(columns / PACK_COLUMNS) * PACK_BYTES;
}

/** Bytes of a whole packed matrix. */
export function packedBytes(rows: number, columns: number): number {
  return rows * packedRowBytes(columns);
}

/** Packs trits[at .. at + columns) as one row at out[outAt ..). */
export function packRow(trits: Int8Array, at: number, columns: number, out: Uint8Array, outAt: number): void {
  out.fill(ZERO_BYTE, outAt, outAt + packedRowBytes(columns));
  for (let c = 0; c < columns; c++) {
    const byte = outAt + (c >> 7) * PACK_BYTES + (c & 31);
    const shift = 6 - 2 * ((c >> 5) & 3);
    // The field holds 01 and becomes trit + 1: the exclusive or with the difference of the two.
    out[byte] ^= (1 ^ (wantTrit(trits, at + c) + 1)) << shift;
  }
}

/** Packs a whole matrix of trits (rows, columns). */
export function packRows(trits: Int8Array, rows: number, columns: number): Uint8Array<ArrayBuffer> {
  want(trits.length === rows * columns, 'bad-argument', 'wrong number of trits', () => ({
    expected: `${rows} x ${columns}`,
    got: `${trits.length}`,
  }));
  const out = new Uint8Array(packedBytes(rows, columns));
  const rowBytes = packedRowBytes(columns);
  for (let r = 0; r < rows; r++) packRow(trits, r * columns, columns, out, r * rowBytes);
  return out;
}

/**
 * Rows of codes (trit + 1), a byte each, on their way to packed rows: for sources that are not in the order of columns. Rows are
 * padded to whole blocks with code 1. Four codes are packed at a time: bytes keep their places within words of any order.
 */
export class CodeRows {
  /** Words of one row. */
  readonly strideWords: number;
  /** Row r at r * strideWords. */
  readonly words: Uint32Array;
  /** The same: column c of row r at 4 * strideWords * r + c. */
  readonly codes: Uint8Array;
  readonly #packed: Uint32Array;

  constructor(rows: number, columns: number) {
    this.strideWords = Math.ceil(columns / PACK_COLUMNS) * (PACK_COLUMNS / 4);
    this.words = new Uint32Array(rows * this.strideWords).fill(0x01010101);
    this.codes = new Uint8Array(this.words.buffer);
    this.#packed = new Uint32Array((rows * this.strideWords) / 4);
  }

  /** Writes the first `nRows` packed to the begin of `out`. */
  pack(nRows: number, out: Uint8Array): void {
    const { words } = this;
    const packed = this.#packed;
    const nBlocks = (nRows * this.strideWords) / 32;
    for (let block = 0; block < nBlocks; block++) {
      for (let w = 0; w < 8; w++) {
        const at = 32 * block + w;
        packed[8 * block + w] = (words[at] << 6) | (words[at + 8] << 4) | (words[at + 16] << 2) | words[at + 24];
      }
    }
    out.set(new Uint8Array(packed.buffer, 0, nBlocks * PACK_BYTES));
  }
}

/** The trits of one row. */
export function unpackRow(packed: Uint8Array, row: number, columns: number, out: Int8Array, outAt = 0): void {
  const rowBytes = packedRowBytes(columns);
  decodeTritsI2S(packed.subarray(row * rowBytes, (row + 1) * rowBytes), 0, columns, out, outAt);
}

/** The trits of a whole matrix (rows, columns). */
export function unpackRows(packed: Uint8Array, rows: number, columns: number): Int8Array<ArrayBuffer> {
  const out = new Int8Array(rows * columns);
  for (let r = 0; r < rows; r++) unpackRow(packed, r, columns, out, r * columns);
  return out;
}
