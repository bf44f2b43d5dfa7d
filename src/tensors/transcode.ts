/**
 * From the types of files to packed rows, a range of rows at a time.
 *
 * Each transcoder takes the bytes of some rows and writes them packed:
 *
 *     I2_S                          the same bytes where the layout is x86 and K a multiple of 128, see `transcode-i2s.ts`
 *     TQ2_0                         the same planes, the four fields of each byte in reverse order
 *     TQ1_0                         one table look-up per byte gives five codes, which fall into place by plane
 *     TL1, TL2                      tile by tile, see `transcode-codes.ts`
 *     all others                    decoded to floats, which must be -s, 0 or s, see `transcode-codes.ts`
 *
 * Scales: a packed matrix has one. I2_S, TL1 and TL2 store one; TQ types one per 256 values, which in a model made from one
 * scale are all equal except that a block of zeros stores 0. `ScaleCollector` holds them to that.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { readF16 } from './blocks.ts';
import { dtypeByName, type ReadableDTypeName, tensorByteLength } from './dtype.ts';
import { wantNoCode3 } from './i2s.ts';
import type { I2sLayout } from './i2s-layouts.ts';
import { PACK_BYTES, ZERO_BYTE } from './packed.ts';
import type { TilesChoice } from './tiles.ts';
import { digitTableTQ1, TQ1_0, wantBytesTQ1 } from './tq1.ts';
import { TQ2_0 } from './tq2.ts';
import { floatTranscoder, tl1Transcoder, tl2Transcoder } from './transcode-codes.ts';
import { i2sTranscoder } from './transcode-i2s.ts';

/** A matrix of trits times one scale, as it is in a file. */
export interface TernaryMatrix {
  /** For error messages: file and tensor. */
  readonly where: string;
  /** A ternary type, or any other whose values happen to be -s, 0, s. */
  readonly dtype: ReadableDTypeName;
  readonly rows: number;
  readonly columns: number;
  /** Of I2_S [x86]. */
  readonly layout?: I2sLayout | undefined;
  /** Of TL1 and TL2 [codegen]. */
  readonly tiles?: TilesChoice | undefined;
}

export interface ByteRange {
  readonly offsetBytes: number;
  readonly byteLength: number;
}

export interface Transcoder {
  /** Rows are read in multiples of this; it divides their number. */
  readonly rowsTogether: number;
  /** The bytes of the tensor that hold rows first .. first + count. */
  ranges(firstRow: number, nRows: number): readonly ByteRange[];
  /** Writes those rows packed to the begin of `out`; `bytes` are the ranges, one behind the other. Checks every code. */
  transcode(bytes: Uint8Array, firstRow: number, nRows: number, out: Uint8Array): void;
  /** Where the float32 scale stands; undefined where scales are among the values. */
  readonly scaleAt: number | undefined;
  /** What the scales among the values were. */
  readonly scales: Scales;
  /** Bytes that belong to no row, and the check they must pass. */
  readonly fill?: { readonly range: ByteRange; readonly check: (bytes: Uint8Array) => void };
}

/** Scales met while transcoding. */
export interface Scales {
  /** The one scale of the tensor; throws where there are several. */
  readonly scale: number;
}

export function createTranscoder(matrix: TernaryMatrix): Transcoder {
  const { rows, columns, where, dtype } = matrix;
  want(Number.isSafeInteger(rows * columns) && rows > 0 && columns > 0, 'bad-argument', 'bad matrix', () => ({
    where,
    got: `${rows} x ${columns}`,
  }));
  // Whole blocks, and a size at all.
  tensorByteLength(dtypeByName(dtype), [columns, rows], where);
  switch (dtype) {
    case 'I2_S':
      return i2sTranscoder(matrix);
    case 'TQ1_0':
      return tq1Transcoder(matrix);
    case 'TQ2_0':
      return tq2Transcoder(matrix);
    case 'TL1':
      return tl1Transcoder(matrix);
    case 'TL2':
      return tl2Transcoder(matrix);
    default:
      return floatTranscoder(matrix);
  }
}

function tq2Transcoder({ where, columns }: TernaryMatrix): Transcoder {
  const blocksPerRow = columns / 256;
  const scales = new ScaleCollector(where);
  return {
    rowsTogether: 1,
    scaleAt: undefined,
    scales,
    ranges: (firstRow, nRows) => [blockRange(firstRow, nRows, blocksPerRow, TQ2_0.bytes)],
    transcode(bytes, firstRow, nRows, out) {
      for (let b = 0; b < nRows * blocksPerRow; b++) {
        const at = b * TQ2_0.bytes;
        const to = b * 2 * PACK_BYTES;
        const blockIndex = firstRow * blocksPerRow + b;
        const scale = scales.add(readF16(bytes, at + TQ2_0.scaleAt), blockIndex);
        let threes = 0;
        for (let i = 0; i < TQ2_0.scaleAt; i++) {
          const byte = bytes[at + i];
          threes |= byte & (byte >> 1) & 0x55;
          // Fields 3 2 1 0 become 0 1 2 3.
          out[to + i] = ((byte & 3) << 6) | ((byte & 12) << 2) | ((byte >> 2) & 12) | (byte >> 6);
        }
        // The packed form has the values where I2_S has them, so its check names the right one.
        if (threes !== 0) wantNoCode3(out.subarray(to, to + 2 * PACK_BYTES), blockIndex * 256, where);
        if (scale === 0) out.fill(ZERO_BYTE, to, to + 2 * PACK_BYTES);
      }
    },
  };
}

/**
 * How the 52 code bytes of a block fall into two packed blocks, A of values 0..127 and B of 128..255, for m = 0 .. 15:
 *
 *     A byte m        digits 0 1 2 3 of byte m             A byte 16 + m    digits 0 1 2 3 of byte 16 + m
 *
 *     B byte m        digit 4 of byte m         128 + m    B byte 16 + m    digit 4 of byte 16 + m       144 + m
 *                     digit 0 of byte 32 + m    160 + m                     digit 1 of byte 32 + m       176 + m
 *                     digit 2 of byte 32 + m    192 + m                     digit 3 of byte 32 + m       208 + m
 *                     digit 4 of byte 32 + m    224 + m                     digit m/4 of byte 48 + m%4   240 + m
 */
function tq1Transcoder({ where, columns }: TernaryMatrix): Transcoder {
  const blocksPerRow = columns / 256;
  const scales = new ScaleCollector(where);
  const table = digitTableTQ1();
  return {
    rowsTogether: 1,
    scaleAt: undefined,
    scales,
    ranges: (firstRow, nRows) => [blockRange(firstRow, nRows, blocksPerRow, TQ1_0.bytes)],
    transcode(bytes, firstRow, nRows, out) {
      wantBytesTQ1(bytes, firstRow * blocksPerRow, table, where);
      for (let b = 0; b < nRows * blocksPerRow; b++) {
        const at = b * TQ1_0.bytes;
        const to = b * 2 * PACK_BYTES;
        const scale = scales.add(readF16(bytes, at + TQ1_0.scaleAt), firstRow * blocksPerRow + b);
        if (scale === 0) {
          out.fill(ZERO_BYTE, to, to + 2 * PACK_BYTES);
          continue;
        }
        // Five codes as in `digitTableTQ1`: digit n is at bits 9-2n : 8-2n.
        for (let m = 0; m < 16; m++) {
          const low = table[bytes[at + m]];
          const high = table[bytes[at + 16 + m]];
          const middle = table[bytes[at + 32 + m]];
          const last = (table[bytes[at + 48 + (m & 3)]] >> (8 - 2 * (m >> 2))) & 3;
          out[to + m] = low >> 2;
          out[to + 16 + m] = high >> 2;
          out[to + 32 + m] = ((low & 3) << 6) | ((middle >> 4) & 0x30) | ((middle >> 2) & 0x0c) | (middle & 3);
          out[to + 48 + m] = ((high & 3) << 6) | ((middle >> 2) & 0x30) | (middle & 0x0c) | last;
        }
      }
    },
  };
}

function blockRange(firstRow: number, nRows: number, blocksPerRow: number, blockBytes: number): ByteRange {
  return { offsetBytes: firstRow * blocksPerRow * blockBytes, byteLength: nRows * blocksPerRow * blockBytes };
}

/** Holds the block scales of one tensor to a single value. */
export class ScaleCollector implements Scales {
  readonly #where: string;
  /** The first scale that is not zero, and where it was. */
  #scale = 0;
  #zeros = 0;
  #equal = 0;
  #different = 0;
  /** The first scale that differs, for the message. */
  #other: { readonly scale: number; readonly block: number } | undefined;

  constructor(where: string) {
    this.#where = where;
  }

  /** Takes the scale of one block and gives it back. */
  add(scale: number, block: number): number {
    want(Number.isFinite(scale) && scale >= 0, 'bad-tensor', 'bad block scale', () => ({
      where: `${this.#where} block ${block}`,
      expected: 'a finite number >= 0',
      got: `${scale}`,
    }));
    if (scale === 0) this.#zeros++;
    else if (this.#scale === 0 || scale === this.#scale) {
      this.#scale = scale;
      this.#equal++;
    } else {
      this.#different++;
      this.#other ??= { scale, block };
    }
    return scale;
  }

  /** The scale of the tensor. A tensor of nothing but zeros has any; it gets 1. */
  get scale(): number {
    if (this.#other === undefined) return this.#scale === 0 ? 1 : this.#scale;
    const { scale, block } = this.#other;
    throw new BitnetError('unsupported-type', 'block scales differ', {
      where: this.#where,
      expected: `one scale for the tensor: ${this.#scale} in ${this.#equal} blocks, 0 in ${this.#zeros}`,
      got: `${this.#different} others, the first ${scale} in block ${block}`,
      hint:
        'I2_S, TL1, TL2 and packed checkpoints have one for a matrix. A file of TQ1_0 or TQ2_0 may have more, but then its first ' +
        'or last blocks show it: one that fails to load was put together from several, or is damaged',
    });
  }
}
