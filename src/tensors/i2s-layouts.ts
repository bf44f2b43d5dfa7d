/**
 * The three orders in which files of type I2_S keep their values. Codes, scale and size are the same in all (see `i2s.ts`);
 * nothing in a file tells which it has. n values, K columns, rows one after the other:
 *
 *     x86      blocks of 128 values in 32 bytes          bits of byte p   7 6     5 4     3 2     1 0     p = 0 .. 31
 *              every published file                      value            p       32 + p  64 + p  96 + p
 *
 *     arm64    blocks of 64 values in 16 bytes           bits of byte p   7 6     5 4     3 2     1 0     p = 0 .. 15
 *              llama-quantize of bitnet.cpp on ARM       value            p       16 + p  32 + p  48 + p
 *              since November 2025
 *
 *     rows4    four rows at a time, K bytes              bits of byte c   7 6     5 4     3 2     1 0     c = 0 .. K - 1
 *              x86 builds without ACT_PARALLEL           column c of row  4r      4r + 1  4r + 2  4r + 3
 *
 * Example, K = 128, the four trits 1, 0, -1, 1: byte 0 is 0x92 where they are the values 0, 32, 64, 96 of x86, the values
 * 0, 16, 32, 48 of arm64, or column 0 of the first four rows of rows4.
 *
 * The blocks of x86 and arm64 run over the tensor as one list and need not begin with a row; 64 divides the K of every
 * published model, 128 does not. An arm64 file is to x86 a permutation of the columns within each block of 128, the same one
 * in every row, which is why its text is fluent nonsense or one character for ever.
 *
 * Upstream: quantize_i2_s in src/ggml-bitnet-mad.cpp of microsoft/BitNet (commit 112f853 and later), its three branches.
 * @module
 */

import { want } from '../errors.ts';
import { TAIL_BYTES } from './dtype.ts';
import { encodeI2S, wantScale, wantTrit } from './i2s.ts';

export const I2S_LAYOUTS = ['x86', 'arm64', 'rows4'] as const;
export type I2sLayout = (typeof I2S_LAYOUTS)[number];

/** Bytes of one block, each with four values; rows4 has none. */
export const BLOCK_BYTES = { x86: 32, arm64: 16 } as const;

/** Where value e of a tensor with K columns is: its byte, and by how much to shift that right. */
function placeOf(layout: I2sLayout, e: number, columns: number): { readonly at: number; readonly shift: number } {
  if (layout === 'rows4') {
    const row = Math.floor(e / columns);
    return { at: Math.floor(row / 4) * columns + (e % columns), shift: 6 - 2 * (row & 3) };
  }
  const bytes = BLOCK_BYTES[layout];
  return { at: Math.floor(e / (4 * bytes)) * bytes + (e % bytes), shift: 6 - 2 * (Math.floor(e / bytes) & 3) };
}

/** Which value of the tensor the field `shift` of byte `at` is, for messages. */
export function elementAt(layout: I2sLayout, at: number, shift: number, columns: number): number {
  const plane = 3 - shift / 2;
  if (layout === 'rows4') return (4 * Math.floor(at / columns) + plane) * columns + (at % columns);
  const bytes = BLOCK_BYTES[layout];
  return Math.floor(at / bytes) * 4 * bytes + bytes * plane + (at % bytes);
}

/** A whole tensor of rows of `columns` trits. */
export function encodeI2SAs(
  layout: I2sLayout,
  trits: Int8Array,
  columns: number,
  scale: number,
): Uint8Array<ArrayBuffer> {
  if (layout === 'x86') return encodeI2S(trits, scale);
  const together = layout === 'arm64' ? 4 * BLOCK_BYTES.arm64 : 4 * columns;
  want(trits.length % together === 0, 'bad-argument', `I2_S of layout ${layout} holds whole blocks`, () => ({
    expected: `a multiple of ${together} values`,
    got: `${trits.length}`,
  }));
  wantScale(Math.fround(scale), 'I2_S');
  const out = new Uint8Array(trits.length / 4 + TAIL_BYTES);
  for (let e = 0; e < trits.length; e++) {
    const { at, shift } = placeOf(layout, e, columns);
    out[at] |= (wantTrit(trits, e) + 1) << shift;
  }
  new DataView(out.buffer).setFloat32(trits.length / 4, scale, true);
  return out;
}
