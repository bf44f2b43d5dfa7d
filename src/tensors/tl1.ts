/**
 * TL1: ternary values of two bits, two to a nibble, in the order in which bitnet.cpp's look-up kernels for ARM walk over them.
 *
 *     nibble = 3 a + b + 4      of two neighbours a, b of a row: 0 .. 8; 9 .. 15 are never written
 *     byte   = nibble of columns c, c + 1 in bits 7:4, of columns c + 2, c + 3 in bits 3:0
 *
 * The bytes of an M x K matrix with tiles BM/BK/bm (`tiles.ts`; by = 256 / bm), the slowest index first:
 *
 *     tm  M/BM     tiles of BM rows                   row    = tm BM + rb bm + 16 rg + rj
 *     tk  K/BK     tiles of BK columns                column = tk BK + cb by +  4 cg  (.. + 3)
 *     rb  BM/bm    inner tiles of bm rows
 *     cb  BK/by    and by columns: 256 values
 *     rg  bm/16    groups of 16 rows, one vector
 *     cg  by/4     groups of four columns
 *     rj  16       rows
 *
 *     byte 0                  M K / 4     M K / 4 + 4              M K / 4 + 32
 *          nibbles            scale f32   28 bytes of zeros        end
 *
 * Example: the four values +1, 0, -1, +1 give 3 + 0 + 4 = 7 and -3 + 1 + 4 = 2: byte 0x72. A tile of BM rows is BM K / 4
 * bytes in one piece, so a matrix is read tile by tile.
 *
 * Upstream: process_tl1 and preprocess_weights_tl1 in utils/convert-hf-to-gguf-bitnet.py of microsoft/BitNet.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { TAIL_BYTES } from './dtype.ts';
import { wantScale, wantTrit } from './i2s.ts';
import type { Tiles } from './tiles.ts';

/** Calls `visit` for every byte of one tile of rows: its place in the tile, its row there, its first column. */
export function walkTL1(columns: number, tiles: Tiles, visit: (at: number, row: number, column: number) => void): void {
  const { rows: BM, columns: BK, innerRows: bm } = tiles;
  const by = 256 / bm;
  let at = 0;
  for (let tk = 0; tk < columns; tk += BK) {
    for (let rb = 0; rb < BM; rb += bm) {
      for (let cb = tk; cb < tk + BK; cb += by) {
        for (let rg = rb; rg < rb + bm; rg += 16) {
          for (let cg = cb; cg < cb + by; cg += 4) {
            for (let rj = 0; rj < 16; rj++) visit(at++, rg + rj, cg);
          }
        }
      }
    }
  }
}

/**
 * The four codes (trit + 1) of every byte, the first column's in the first byte of the word; words are of this machine, to be
 * stored as they are. 0xffffffff for bytes with a nibble beyond 8.
 */
export function codesTableTL1(): Uint32Array {
  const bytes = new Uint8Array(4 * 256).fill(0xff);
  for (let byte = 0; byte < 256; byte++) {
    const [high, low] = [byte >> 4, byte & 15];
    if (high <= 8 && low <= 8) bytes.set([...pairCodes(high), ...pairCodes(low)], 4 * byte);
  }
  return new Uint32Array(bytes.buffer);
}

/** 3 a + b + 4 = 3 (a + 1) + (b + 1): the codes are the two digits in base 3. */
function pairCodes(nibble: number): [number, number] {
  return [Math.floor(nibble / 3), nibble % 3];
}

/** A whole matrix of trits (rows, columns); the tiles must fit it (`tilesOf`). */
export function encodeTL1(trits: Int8Array, columns: number, scale: number, tiles: Tiles): Uint8Array<ArrayBuffer> {
  const rows = trits.length / columns;
  want(Number.isInteger(rows / tiles.rows), 'bad-argument', 'TL1 holds whole tiles', () => ({
    expected: `rows in multiples of ${tiles.rows}`,
    got: `${rows}`,
  }));
  wantScale(Math.fround(scale), 'TL1');
  const out = new Uint8Array(trits.length / 4 + TAIL_BYTES);
  const nibble = (e: number) => 3 * wantTrit(trits, e) + wantTrit(trits, e + 1) + 4;
  for (let tm = 0; tm < rows; tm += tiles.rows) {
    walkTL1(columns, tiles, (at, row, column) => {
      const e = (tm + row) * columns + column;
      out[(tm * columns) / 4 + at] = (nibble(e) << 4) | nibble(e + 2);
    });
  }
  new DataView(out.buffer).setFloat32(trits.length / 4, scale, true);
  return out;
}

/**
 * Codes of one tile of rows, a byte each, row r at out[r * stride]. `out` and `stride` are multiples of four bytes; `bytes` is
 * the tile. Refuses nibbles that no encoder writes.
 */
export function decodeCodesTL1(
  bytes: Uint8Array,
  columns: number,
  tiles: Tiles,
  out: Uint32Array,
  strideWords: number,
  table: Uint32Array,
  where: (row: number, column: number) => string,
): void {
  walkTL1(columns, tiles, (at, row, column) => {
    const codes = table[bytes[at]];
    if (codes === 0xffffffff) throw badNibble('TL1', bytes[at], '0 to 8', where(row, column));
    out[row * strideWords + (column >> 2)] = codes;
  });
}

export function badNibble(dtype: string, byte: number, expected: string, where: string): BitnetError {
  return new BitnetError('bad-tensor', `a nibble that no ${dtype} encoder writes`, {
    where,
    expected: `nibbles of ${expected}`,
    got: `byte 0x${byte.toString(16).padStart(2, '0')}`,
    hint: 'the file is damaged',
  });
}
