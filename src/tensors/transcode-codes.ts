/**
 * To packed rows from what is not in the order of columns, or not ternary by its type: TL1 and TL2, whose tiles are walked in
 * the order of the file, and floats that happen to be -s, 0, s.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { decodeInto } from './decode.ts';
import { dtypeByName, TAIL_BYTES, tensorByteLength } from './dtype.ts';
import { CodeRows, packedRowBytes } from './packed.ts';
import { tilesOf } from './tiles.ts';
import { codesTableTL1, decodeCodesTL1 } from './tl1.ts';
import { codesTableTL2, decodeCodesTL2, sectionsTL2, usedBytesTL2, wantZeroFill } from './tl2.ts';
import type { Scales, TernaryMatrix, Transcoder } from './transcode.ts';

/** Scales of TL types stand behind the values. */
const noScales: Scales = { scale: 1 };

export function tl1Transcoder({ where, rows, columns, tiles: choice }: TernaryMatrix): Transcoder {
  const tiles = tilesOf('TL1', rows, columns, choice, where);
  const table = codesTableTL1();
  const tile = new CodeRows(tiles.rows, columns);
  const tileBytes = (tiles.rows * columns) / 4;
  const rowBytes = packedRowBytes(columns);
  return {
    rowsTogether: tiles.rows,
    scaleAt: (rows * columns) / 4,
    scales: noScales,
    ranges: (firstRow, nRows) => [{ offsetBytes: (firstRow * columns) / 4, byteLength: (nRows * columns) / 4 }],
    transcode(bytes, firstRow, nRows, out) {
      for (let r = 0; r < nRows; r += tiles.rows) {
        const from = (r * columns) / 4;
        const at = (row: number, column: number) => `${where} row ${firstRow + r + row} column ${column}`;
        const piece = bytes.subarray(from, from + tileBytes);
        decodeCodesTL1(piece, columns, tiles, tile.words, tile.strideWords, table, at);
        tile.pack(tiles.rows, out.subarray(r * rowBytes));
      }
    },
  };
}

export function tl2Transcoder({ where, rows, columns, tiles: choice }: TernaryMatrix): Transcoder {
  const tiles = tilesOf('TL2', rows, columns, choice, where);
  const tables = { triples: codesTableTL2(), pairs: codesTableTL1() };
  const tile = new CodeRows(tiles.rows, columns);
  const rowBytes = packedRowBytes(columns);
  const sections = sectionsTL2(rows, columns, tiles);
  // Its shape has a size: `createTranscoder` has seen to it.
  const scaleAt = tensorByteLength(dtypeByName('TL2'), [columns, rows], where)! - TAIL_BYTES;
  const used = usedBytesTL2(rows, columns, tiles);
  const ofTile = new Uint8Array(usedBytesTL2(tiles.rows, columns, tiles));
  return {
    rowsTogether: tiles.rows,
    scaleAt,
    scales: noScales,
    fill: {
      range: { offsetBytes: used, byteLength: scaleAt - used },
      check: (bytes) => wantZeroFill(bytes, where),
    },
    ranges: (firstRow, nRows) =>
      sections.map(({ offsetBytes, rowBytes: bytesPerRow }) => ({
        offsetBytes: offsetBytes + firstRow * bytesPerRow,
        byteLength: nRows * bytesPerRow,
      })),
    transcode(bytes, firstRow, nRows, out) {
      for (let r = 0; r < nRows; r += tiles.rows) {
        // Sections of the piece hold several tiles each; the decoder wants those of one.
        let from = 0;
        let to = 0;
        for (const { rowBytes: bytesPerRow } of sections) {
          const begin = from + r * bytesPerRow;
          ofTile.set(bytes.subarray(begin, begin + tiles.rows * bytesPerRow), to);
          from += nRows * bytesPerRow;
          to += tiles.rows * bytesPerRow;
        }
        const at = (row: number, column: number) => `${where} row ${firstRow + r + row} column ${column}`;
        decodeCodesTL2(ofTile, columns, tiles, tile.codes, 4 * tile.strideWords, tables, at);
        tile.pack(tiles.rows, out.subarray(r * rowBytes));
      }
    },
  };
}

/** Rows of a dense type, every value of which must be -s, 0 or s; s is the magnitude of the first that is not 0. */
export function floatTranscoder({ where, dtype: name, columns }: TernaryMatrix): Transcoder {
  const dtype = dtypeByName(name);
  want(columns % dtype.blockElements === 0, 'bad-tensor', 'rows are not whole blocks', () => ({
    where,
    expected: `a multiple of ${dtype.blockElements}`,
    got: `${columns}`,
  }));
  const bytesPerRow = (columns / dtype.blockElements) * dtype.blockBytes;
  const rowBytes = packedRowBytes(columns);
  const values = new Float32Array(columns);
  const codes = new CodeRows(1, columns);
  let scale = 0;
  return {
    rowsTogether: 1,
    scaleAt: undefined,
    scales: {
      get scale() {
        return scale === 0 ? 1 : scale;
      },
    },
    ranges: (firstRow, nRows) => [{ offsetBytes: firstRow * bytesPerRow, byteLength: nRows * bytesPerRow }],
    transcode(bytes, firstRow, nRows, out) {
      for (let r = 0; r < nRows; r++) {
        decodeInto(dtype, bytes, r * columns, columns, values);
        for (let c = 0; c < columns; c++) {
          const value = values[c];
          if (value !== 0) {
            if (scale === 0 && Number.isFinite(value)) scale = Math.abs(value);
            if (value !== scale && value !== -scale) throw notTernary(value, scale, where, firstRow + r, c);
          }
          codes.codes[c] = value === 0 ? 1 : value > 0 ? 2 : 0;
        }
        codes.pack(1, out.subarray(r * rowBytes));
      }
    },
  };
}

function notTernary(value: number, scale: number, where: string, row: number, column: number): BitnetError {
  return new BitnetError('bad-tensor', 'a value that is not ternary in a tensor that seemed to be', {
    where: `${where} row ${row} column ${column}`,
    expected: scale === 0 ? 'a finite number' : `${-scale}, 0 or ${scale}`,
    got: `${value}`,
    hint: 'the file is damaged, or was put together from several; convert it again from its original',
  });
}
