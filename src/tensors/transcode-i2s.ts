/**
 * From the layouts of I2_S (`i2s-layouts.ts`) to packed rows:
 *
 *     x86, K multiple of 128     the same bytes: checked and copied
 *     arm64, K multiple of 128   two blocks become one
 *     both, other K              rows begin inside blocks: re-cut value by value
 *     rows4                      four rows at a time
 * @module
 */

import { want } from '../errors.ts';
import { code3, findCode3 } from './i2s.ts';
import { BLOCK_BYTES, elementAt, type I2sLayout } from './i2s-layouts.ts';
import { CodeRows, PACK_BYTES, PACK_COLUMNS, packedRowBytes } from './packed.ts';
import type { TernaryMatrix, Transcoder } from './transcode.ts';

/** Scales of these stand behind the values. */
const noScales = { scale: 1 };

export function i2sTranscoder(matrix: TernaryMatrix): Transcoder {
  const { layout = 'x86' } = matrix;
  return layout === 'rows4' ? rows4Transcoder(matrix) : blocksTranscoder(matrix, layout);
}

function blocksTranscoder({ where, rows, columns }: TernaryMatrix, layout: keyof typeof BLOCK_BYTES): Transcoder {
  const blockBytes = BLOCK_BYTES[layout];
  const blockElements = 4 * blockBytes;
  /** Where the block of a value begins. */
  const byteOf = (element: number) => Math.floor(element / blockElements) * blockBytes;
  return {
    rowsTogether: 1,
    scaleAt: (rows * columns) / 4,
    scales: noScales,
    ranges(firstRow, nRows) {
      const begin = byteOf(firstRow * columns);
      const end = byteOf((firstRow + nRows) * columns + blockElements - 1);
      return [{ offsetBytes: begin, byteLength: end - begin }];
    },
    transcode(bytes, firstRow, nRows, out) {
      const begin = byteOf(firstRow * columns);
      wantTernaryCodes(layout, bytes, begin, columns, where);
      if (columns % PACK_COLUMNS !== 0) recut(bytes, blockBytes, firstRow * columns - 4 * begin, nRows, columns, out);
      else if (layout === 'x86') out.set(bytes);
      else joinBlocks(bytes, out);
    },
  };
}

/**
 * Two blocks of 16 bytes become one of 32. Columns p and 16 + p of the first block are in fields 7:6 and 5:4 of byte p there;
 * in the packed form column p is field 7:6 of byte p, column 16 + p field 7:6 of byte 16 + p:
 *
 *     file byte p        fields  A B C D    columns p   16 + p  32 + p   48 + p        packed byte p        A C a c
 *     file byte 16 + p           a b c d    64 + p ...                                 packed byte 16 + p   B D b d
 */
function joinBlocks(bytes: Uint8Array, out: Uint8Array): void {
  for (let block = 0; block < bytes.length; block += PACK_BYTES) {
    for (let p = block; p < block + 16; p++) {
      const [low, high] = [bytes[p], bytes[p + 16]];
      out[p] = (low & 0xc0) | ((low & 0x0c) << 2) | ((high & 0xc0) >> 4) | ((high & 0x0c) >> 2);
      out[p + 16] = ((low & 0x30) << 2) | ((low & 0x03) << 4) | ((high & 0x30) >> 2) | (high & 0x03);
    }
  }
}

/** Rows out of a list of blocks that they do not begin with: column c of row r is value first + r * columns + c. */
function recut(
  bytes: Uint8Array,
  blockBytes: 16 | 32,
  first: number,
  nRows: number,
  columns: number,
  out: Uint8Array,
): void {
  const row = new CodeRows(1, columns);
  const rowBytes = packedRowBytes(columns);
  const log2 = blockBytes === 16 ? 4 : 5;
  for (let r = 0; r < nRows; r++) {
    for (let c = 0; c < columns; c++) {
      // Relative to the piece, so far below 2^31.
      const e = first + r * columns + c;
      const byte = bytes[((e >> (log2 + 2)) << log2) + (e & (blockBytes - 1))];
      row.codes[c] = (byte >> (6 - 2 * ((e >> log2) & 3))) & 3;
    }
    row.pack(1, out.subarray(r * rowBytes));
  }
}

/** Byte c of a group is column c of four rows. */
function rows4Transcoder({ where, rows, columns }: TernaryMatrix): Transcoder {
  want(rows % 4 === 0, 'bad-tensor', 'layout rows4 holds rows in fours', () => ({ where, got: `${rows} rows` }));
  const group = new CodeRows(4, columns);
  const rowBytes = packedRowBytes(columns);
  const stride = 4 * group.strideWords;
  return {
    rowsTogether: 4,
    scaleAt: (rows * columns) / 4,
    scales: noScales,
    ranges: (firstRow, nRows) => [{ offsetBytes: (firstRow / 4) * columns, byteLength: (nRows / 4) * columns }],
    transcode(bytes, firstRow, nRows, out) {
      wantTernaryCodes('rows4', bytes, (firstRow / 4) * columns, columns, where);
      const { codes } = group;
      for (let r = 0; r < nRows; r += 4) {
        const from = (r / 4) * columns;
        for (let c = 0; c < columns; c++) {
          const byte = bytes[from + c];
          codes[c] = byte >> 6;
          codes[stride + c] = (byte >> 4) & 3;
          codes[2 * stride + c] = (byte >> 2) & 3;
          codes[3 * stride + c] = byte & 3;
        }
        group.pack(4, out.subarray(r * rowBytes));
      }
    },
  };
}

/** Refuses code 3, naming the value; `bytes` begins at byte `offset` of the tensor. */
function wantTernaryCodes(layout: I2sLayout, bytes: Uint8Array, offset: number, columns: number, where: string): void {
  const at = findCode3(bytes);
  if (at < 0) return;
  const shift = [6, 4, 2].find((s) => ((bytes[at] >> s) & 3) === 3) ?? 0;
  const value = elementAt(layout, offset + at, shift, columns);
  throw code3(`${where} value ${value}`, bytes[at], 'the file is damaged, or was quantised with more than one thread');
}
