/**
 * Which tensor types can be written, and turning numbers into them piece by piece.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { bf16ToNumber, numberToBF16 } from '../numeric/bf16.ts';
import { f16ToNumber, numberToF16 } from '../numeric/f16.ts';
import { dtypeByName, TAIL_BYTES } from '../tensors/dtype.ts';
import { encodeBF16, encodeF16, encodeF32 } from '../tensors/floats.ts';
import { encodeI2S, I2S_BLOCK_ELEMENTS, wantScale } from '../tensors/i2s.ts';
import { encodeI2SAs, type I2sLayout } from '../tensors/i2s-layouts.ts';
import { encodeQ2_K, encodeQ3_K } from '../tensors/q2_q3_k.ts';
import { encodeQ4_0, encodeQ4_1, encodeQ5_0, encodeQ5_1 } from '../tensors/q4_q5.ts';
import { encodeQ4_K, encodeQ5_K } from '../tensors/q4_q5_k.ts';
import { encodeQ6_K } from '../tensors/q6_k.ts';
import { encodeQ8_0 } from '../tensors/q8_0.ts';
import { tilesOf } from '../tensors/tiles.ts';
import { encodeTL1 } from '../tensors/tl1.ts';
import { encodeTL2 } from '../tensors/tl2.ts';
import { quantizeTernary } from '../tensors/tq.ts';
import { encodeTQ1, TQ1_0 } from '../tensors/tq1.ts';
import { encodeTQ2, TQ2_0 } from '../tensors/tq2.ts';

/** Types for the ternary matrices, with llama.cpp's number for a file of each (`general.file_type`). */
export const linearTypes = { I2_S: 40, TQ1_0: 36, TQ2_0: 37, TL1: 38, TL2: 39, F16: 1, BF16: 32, F32: 0 } as const;
export type LinearType = keyof typeof linearTypes;

/** A type, and for I2_S the order of its values in the file [x86]. TL1 and TL2 are written in the tiles of `codegen`. */
export interface LinearForm {
  readonly type: LinearType;
  readonly i2sLayout?: I2sLayout | undefined;
}

/** Types whose bytes follow each other as the values do. */
type RunType = Exclude<LinearType, 'TL1' | 'TL2'>;

const floatEncoders = {
  F32: encodeF32,
  F16: encodeF16,
  BF16: encodeBF16,
  Q8_0: encodeQ8_0,
  Q6_K: encodeQ6_K,
  Q5_K: encodeQ5_K,
  Q5_1: encodeQ5_1,
  Q5_0: encodeQ5_0,
  Q4_K: encodeQ4_K,
  Q4_1: encodeQ4_1,
  Q4_0: encodeQ4_0,
  Q3_K: encodeQ3_K,
  Q2_K: encodeQ2_K,
  TQ2_0: (values) => quantizeTernary(TQ2_0, values),
  TQ1_0: (values) => quantizeTernary(TQ1_0, values),
} satisfies Record<string, (values: Float32Array) => Uint8Array>;

/** Types for embeddings and output heads, best first. */
export type EmbeddingType = keyof typeof floatEncoders;
export const embeddingTypes = Object.keys(floatEncoders) as readonly EmbeddingType[];

/** Values are encoded in runs of a multiple of this, which all blocks divide. A last run may be a half: 3B's I2_S is. */
export const RUN = 256;

/** Whole blocks of finite values as `type`; F16 must not turn one into infinity. */
export function encodeFloats(type: EmbeddingType, values: Float32Array, where: string): Uint8Array {
  if (type === 'F16') wantHalves(values, where);
  return floatEncoders[type](values);
}

/** Whole blocks of trits times `scale` as `type`. The scale of I2_S comes at the end, see `tailOf`. */
export function encodeTrits(type: RunType, trits: Int8Array, scale: number): Uint8Array {
  switch (type) {
    case 'I2_S':
      return encodeI2S(trits, scale).subarray(0, trits.length / 4);
    case 'TQ1_0':
      return encodeTQ1(trits, scale);
    case 'TQ2_0':
      return encodeTQ2(trits, scale);
    default: {
      const values = new Float32Array(trits.length);
      for (let i = 0; i < trits.length; i++) values[i] = scale * trits[i];
      return floatEncoders[type](values);
    }
  }
}

/** Columns of one block of `encodeTrits`'s I2_S, and of packed rows. */
export const tritBlockColumns = I2S_BLOCK_ELEMENTS;

/** A whole tensor, tail included: for types whose tiles reach over rows, so that runs of values are not enough. */
export type WholeEncoder = (trits: Int8Array, rows: number, columns: number, scale: number) => Uint8Array;

/** How a type is written: as a whole, or through `encodeTrits` in runs. */
export function encoderOf({ type, i2sLayout = 'x86' }: LinearForm): WholeEncoder | RunType {
  switch (type) {
    case 'TL1':
      return (trits, rows, columns, scale) => encodeTL1(trits, columns, scale, tilesOf('TL1', rows, columns));
    case 'TL2':
      return (trits, rows, columns, scale) => encodeTL2(trits, columns, scale, tilesOf('TL2', rows, columns));
    case 'I2_S':
      if (i2sLayout === 'x86') return type;
      return (trits, _rows, columns, scale) => encodeI2SAs(i2sLayout, trits, columns, scale);
    default:
      return type;
  }
}

/** Refuses a matrix that cannot be written so, before anything is. */
export function wantWritable(form: LinearForm, rows: number, columns: number, where: string): void {
  const { type, i2sLayout = 'x86' } = form;
  if (type === 'TL1' || type === 'TL2') tilesOf(type, rows, columns, 'codegen', where);
  if (type !== 'I2_S' || i2sLayout !== 'rows4' || rows % 4 === 0) return;
  throw new BitnetError('bad-argument', `this shape cannot be written as I2_S of layout ${i2sLayout}`, {
    where,
    expected: `a multiple of ${4 * columns} values`,
    got: `${rows} x ${columns}`,
  });
}

/** What llama-quantize takes where rows are no whole blocks. */
const substitutes: Readonly<Record<string, string>> = { Q6_K: 'Q8_0', Q5_K: 'Q5_1', Q4_K: 'Q5_0' };

/** `type`, or what takes its place for rows of `columns` values; F16 where nothing else does. */
export function fittingTableType(type: EmbeddingType, columns: number): EmbeddingType {
  if (columns % dtypeByName(type).blockElements === 0) return type;
  const substitute = embeddingTypes.find((other) => other === substitutes[type]);
  return substitute === undefined ? 'F16' : fittingTableType(substitute, columns);
}

/** A scale as `type` keeps it. */
export function storedScale(type: LinearType, scale: number, where: string): number {
  const exact = type === 'I2_S' || type === 'TL1' || type === 'TL2' || type === 'F32';
  const stored = exact ? scale : type === 'BF16' ? bf16ToNumber(numberToBF16(scale)) : f16ToNumber(numberToF16(scale));
  wantScale(stored, where);
  return stored;
}

/** What follows the last run: I2_S keeps its scale there, in 32 bytes. */
export function tailOf(type: LinearType, scale: number): Uint8Array {
  if (type !== 'I2_S') return new Uint8Array(0);
  const tail = new Uint8Array(TAIL_BYTES);
  new DataView(tail.buffer).setFloat32(0, scale, true);
  return tail;
}

function wantHalves(values: Float32Array, where: string): void {
  // 65520 lies in the middle of the largest half and what would be the next.
  const large = values.findIndex((value) => Math.abs(value) >= 65520);
  if (large < 0) return;
  throw new BitnetError('not-finite', 'a value too large for F16', {
    where,
    expected: 'below 65520',
    got: `${values[large]}`,
    hint: 'choose BF16 or F32',
  });
}
