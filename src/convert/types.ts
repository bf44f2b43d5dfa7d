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
import { encodeQ6_K } from '../tensors/q6_k.ts';
import { encodeQ8_0 } from '../tensors/q8_0.ts';
import { encodeTQ1 } from '../tensors/tq1.ts';
import { encodeTQ2 } from '../tensors/tq2.ts';

/** Types for the ternary matrices, with llama.cpp's number for a file of each (`general.file_type`). */
export const linearTypes = { I2_S: 40, TQ1_0: 36, TQ2_0: 37, F16: 1, BF16: 32, F32: 0 } as const;
export type LinearType = keyof typeof linearTypes;

/** Types for embeddings and output heads. */
export const embeddingTypes = ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K'] as const;
export type EmbeddingType = (typeof embeddingTypes)[number];

/** Values are encoded in runs of a multiple of this, which all blocks divide. A last run may be a half: 3B's I2_S is. */
export const RUN = 256;

const floatEncoders: Record<EmbeddingType, (values: Float32Array) => Uint8Array> = {
  F32: encodeF32,
  F16: encodeF16,
  BF16: encodeBF16,
  Q8_0: encodeQ8_0,
  Q6_K: encodeQ6_K,
};

/** Whole blocks of finite values as `type`; F16 must not turn one into infinity. */
export function encodeFloats(type: EmbeddingType, values: Float32Array, where: string): Uint8Array {
  if (type === 'F16') wantHalves(values, where);
  return floatEncoders[type](values);
}

/** Whole blocks of trits times `scale` as `type`. The scale of I2_S comes at the end, see `tailOf`. */
export function encodeTrits(type: LinearType, trits: Int8Array, scale: number): Uint8Array {
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

/** The types that are written as a whole; all others go through `encodeTrits` in runs. */
export const wholeEncoders: Partial<Record<LinearType, WholeEncoder>> = {};

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
  const exact = type === 'I2_S' || type === 'F32';
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
