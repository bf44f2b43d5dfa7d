/**
 * TL2: ternary values in 1.67 bits, three to a nibble and a sign, in the order of bitnet.cpp's look-up kernels for x86.
 *
 * Of K columns the first K3 = floor(K / BK) BK go in threes, the other K2 in pairs as in TL1. Three sections:
 *
 *     byte 0               M K3 / 6            M K3 / 6 + M K3 / 24   used                           end - 32
 *          (1) magnitudes  (2) signs           (3) pairs, M K2 / 4    zeros up to the size of the    scale f32, 28 zeros
 *                                                                     type (`dtype.ts`)
 *
 * Three neighbours a, b, c of a row are the number v = 9 a + 3 b + c, -13 .. 13. Rows go in groups of 32, whose places p are
 * row r(p) = 8 [0,2,1,3][p / 8] + p % 8 of the group. The slowest index first, with tiles BM/BK/32 (`tiles.ts`):
 *
 *     (1)  tm M/BM   tk K3/BK   rb BM/32   cb BK/6    p 32
 *          byte: |v| of columns c .. c + 2 in bits 7:4, of c + 3 .. c + 5 in bits 3:0      c = tk BK + 6 cb
 *     (2)  tm M/BM   tk K3/BK   rb BM/32   sb BK/24   j 16
 *          two bytes, little-endian, for rows j and j + 16 of the group and the eight threes from c = tk BK + 24 sb on:
 *          bit 15 - 2 t is set where three t of row j is negative, bit 14 - 2 t where that of row j + 16 is
 *     (3)  tm M/BM   tk K2/32   rb BM/32   cb 8       p 32
 *          byte as in TL1                                                                  c = K3 + 32 tk + 4 cb
 *
 * Examples: (+1, -1, 0) is 9 - 3 + 0 = 6 without a sign, (-1, +1, 0) 6 with one. 14 and 15 are never written, nor the sign of
 * a zero, nor anything but zeros between the pairs and the scale. The last is also what betrays the files of bitnet.cpp's
 * generate-dummy script, which repeats the signs there.
 *
 * Upstream: preprocess_weights_tl2 in utils/convert-hf-to-gguf-bitnet.py of microsoft/BitNet.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { dtypeByName, tensorByteLength } from './dtype.ts';
import { wantScale, wantTrit } from './i2s.ts';
import type { Tiles } from './tiles.ts';
import { badNibble } from './tl1.ts';

const GROUP = 32;
const ORDER: readonly number[] = [0, 2, 1, 3];

/** Columns that go in threes. */
export function tripleColumns(columns: number, tiles: Tiles): number {
  return columns - (columns % tiles.columns);
}

/** Where the sections of M rows begin, and how many bytes each takes for one row. Tiles of rows lie one after the other in each. */
export function sectionsTL2(rows: number, columns: number, tiles: Tiles) {
  const K3 = tripleColumns(columns, tiles);
  const magnitudes = K3 / 6;
  const signs = K3 / 24;
  const pairs = (columns - K3) / 4;
  return [
    { offsetBytes: 0, rowBytes: magnitudes },
    { offsetBytes: rows * magnitudes, rowBytes: signs },
    { offsetBytes: rows * (magnitudes + signs), rowBytes: pairs },
  ] as const;
}

/** Bytes of all sections. */
export function usedBytesTL2(rows: number, columns: number, tiles: Tiles): number {
  const [, , pairs] = sectionsTL2(rows, columns, tiles);
  return pairs.offsetBytes + rows * pairs.rowBytes;
}

/** Row of its group of 32 that place p stands for. */
export function rowOfPlace(p: number): number {
  return 8 * ORDER[p >> 3] + (p & 7);
}

/** A whole matrix of trits (rows, columns); the tiles must fit it (`tilesOf`). */
export function encodeTL2(trits: Int8Array, columns: number, scale: number, tiles: Tiles): Uint8Array<ArrayBuffer> {
  const rows = trits.length / columns;
  want(Number.isInteger(rows / tiles.rows), 'bad-argument', 'TL2 holds whole tiles', () => ({
    expected: `rows in multiples of ${tiles.rows}`,
    got: `${rows}`,
  }));
  wantScale(Math.fround(scale), 'TL2');
  // Its size is known for every shape that tiles fit.
  const out = new Uint8Array(tensorByteLength(dtypeByName('TL2'), [columns, rows])!);
  const [, signs, pairs] = sectionsTL2(rows, columns, tiles);
  const trit = (row: number, column: number) => wantTrit(trits, row * columns + column);
  const triple = (row: number, column: number) =>
    9 * trit(row, column) + 3 * trit(row, column + 1) + trit(row, column + 2);
  const pair = (row: number, column: number) => 3 * trit(row, column) + trit(row, column + 1) + 4;
  const K3 = tripleColumns(columns, tiles);
  let at = 0;
  let signAt = signs.offsetBytes;
  let pairAt = pairs.offsetBytes;
  for (let tm = 0; tm < rows; tm += tiles.rows) {
    for (let tk = 0; tk < K3; tk += tiles.columns) {
      for (let group = tm; group < tm + tiles.rows; group += GROUP) {
        for (let c = tk; c < tk + tiles.columns; c += 6) {
          for (let p = 0; p < GROUP; p++) {
            const row = group + rowOfPlace(p);
            out[at++] = (Math.abs(triple(row, c)) << 4) | Math.abs(triple(row, c + 3));
          }
        }
        for (let c = tk; c < tk + tiles.columns; c += 24) {
          for (let j = 0; j < 16; j++) {
            let bits = 0;
            for (let t = 0; t < 8; t++) {
              if (triple(group + j, c + 3 * t) < 0) bits |= 1 << (15 - 2 * t);
              if (triple(group + j + 16, c + 3 * t) < 0) bits |= 1 << (14 - 2 * t);
            }
            out[signAt++] = bits;
            out[signAt++] = bits >> 8;
          }
        }
      }
    }
    for (let tk = K3; tk < columns; tk += 32) {
      for (let group = tm; group < tm + tiles.rows; group += GROUP) {
        for (let c = tk; c < tk + 32; c += 4) {
          for (let p = 0; p < GROUP; p++) {
            const row = group + rowOfPlace(p);
            out[pairAt++] = (pair(row, c) << 4) | pair(row, c + 2);
          }
        }
      }
    }
  }
  new DataView(out.buffer).setFloat32(out.length - 32, scale, true);
  return out;
}

/** For |v| = 0 .. 13 and v = -13 .. -1 at 16 + |v|: the three codes (trit + 1), four numbers apart. */
export function codesTableTL2(): Uint8Array {
  const table = new Uint8Array(4 * 32);
  for (let v = -13; v <= 13; v++) {
    // v + 13 = 9 (a + 1) + 3 (b + 1) + (c + 1): the codes are the digits in base 3.
    const digits = v + 13;
    table.set([Math.floor(digits / 9), Math.floor(digits / 3) % 3, digits % 3], 4 * (v < 0 ? 16 - v : v));
  }
  return table;
}

export interface TablesTL2 {
  readonly triples: Uint8Array;
  /** As `codesTableTL1`. */
  readonly pairs: Uint32Array;
}

/**
 * Codes of one tile of rows, a byte each, row r at out[r * stride]. `bytes` is what the three sections have of the tile, one
 * behind the other. Refuses what no encoder writes.
 */
export function decodeCodesTL2(
  bytes: Uint8Array,
  columns: number,
  tiles: Tiles,
  out: Uint8Array,
  stride: number,
  tables: TablesTL2,
  where: (row: number, column: number) => string,
): void {
  const [, signs, pairs] = sectionsTL2(tiles.rows, columns, tiles);
  const K3 = tripleColumns(columns, tiles);
  const { triples } = tables;
  // Signs of one group and 24 columns: a bit for each of the eight threes, three t at bit t.
  const negative = new Uint8Array(GROUP);
  let signAt = signs.offsetBytes;
  for (let tk = 0; tk < K3; tk += tiles.columns) {
    for (let group = 0; group < tiles.rows; group += GROUP) {
      const first = (tk * tiles.rows) / 6 + (group * tiles.columns) / 6;
      for (let c = 0; c < tiles.columns; c += 24) {
        for (let j = 0; j < 16; j++, signAt += 2) {
          const bits = bytes[signAt] | (bytes[signAt + 1] << 8);
          let [low, high] = [0, 0];
          for (let t = 0; t < 8; t++) {
            low |= ((bits >> (15 - 2 * t)) & 1) << t;
            high |= ((bits >> (14 - 2 * t)) & 1) << t;
          }
          negative[j] = low;
          negative[j + 16] = high;
        }
        for (let cb = 0; cb < 4; cb++) {
          const from = first + (c / 6 + cb) * GROUP;
          for (let p = 0; p < GROUP; p++) {
            const row = rowOfPlace(p);
            const byte = bytes[from + p];
            const bits = negative[row] >> (2 * cb);
            const [a, b] = [byte >> 4, byte & 15];
            const column = tk + c + 6 * cb;
            if (a > 13 || b > 13) throw badNibble('TL2', byte, '0 to 13', where(group + row, column));
            if ((a === 0 && (bits & 1) !== 0) || (b === 0 && (bits & 2) !== 0)) {
              throw signOfZero(where(group + row, column + (a === 0 && (bits & 1) !== 0 ? 0 : 3)));
            }
            const to = (group + row) * stride + column;
            const one = 4 * (a + 16 * (bits & 1));
            const two = 4 * (b + 8 * (bits & 2));
            out[to] = triples[one];
            out[to + 1] = triples[one + 1];
            out[to + 2] = triples[one + 2];
            out[to + 3] = triples[two];
            out[to + 4] = triples[two + 1];
            out[to + 5] = triples[two + 2];
          }
        }
      }
    }
  }
  let at = pairs.offsetBytes;
  const pairCodes = new Uint8Array(tables.pairs.buffer, tables.pairs.byteOffset, tables.pairs.byteLength);
  for (let tk = K3; tk < columns; tk += 32) {
    for (let group = 0; group < tiles.rows; group += GROUP) {
      for (let c = tk; c < tk + 32; c += 4) {
        for (let p = 0; p < GROUP; p++, at++) {
          const row = group + rowOfPlace(p);
          const byte = bytes[at];
          if (tables.pairs[byte] === 0xffffffff) throw badNibble('TL2', byte, '0 to 8', where(row, c));
          const to = row * stride + c;
          for (let i = 0; i < 4; i++) out[to + i] = pairCodes[4 * byte + i];
        }
      }
    }
  }
}

function signOfZero(where: string): BitnetError {
  return new BitnetError('bad-tensor', 'a sign where the three values are zeros', {
    where,
    expected: 'no sign',
    hint: 'the file is damaged, or has other tiles',
  });
}

/** Refuses a fill that is not zeros. `bytes` are those from `usedBytesTL2` to the scale. */
export function wantZeroFill(bytes: Uint8Array, where: string): void {
  const at = bytes.findIndex((byte) => byte !== 0);
  want(at < 0, 'bad-tensor', 'something stands where TL2 has only zeros', () => ({
    where,
    expected: `${bytes.length} zeros before the scale`,
    got: `0x${bytes[at].toString(16).padStart(2, '0')} at ${at}`,
    hint: 'the file is damaged, has other tiles, or is one of the generate-dummy script, which are for speed tests only',
  }));
}
