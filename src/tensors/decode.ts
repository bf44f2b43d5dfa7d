/**
 * Decoding by type: the table that turns a `DType` into its decoder, and the check for NaN and infinity.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { type AffineBlocks, decodeAffineBlocks } from './affine.ts';
import { readF16 } from './blocks.ts';
import { type DType, isReadable, type LookupTernaryName, type ReadableDTypeName, TAIL_BYTES } from './dtype.ts';
import { decodeBF16, decodeF16, decodeF32 } from './floats.ts';
import { decodeI2S, scaleOfI2S } from './i2s.ts';
import { decodeQ3_K, Q2_K, Q3_K_BYTES, Q3_K_D } from './q2_q3_k.ts';
import { type CentredBlocks, decodeCentred, Q4_0, Q4_1, Q5_0, Q5_1 } from './q4_q5.ts';
import { Q4_K, Q5_K } from './q4_q5_k.ts';
import { decodeQ6_K } from './q6_k.ts';
import { decodeQ8_0 } from './q8_0.ts';
import { decodeTernary, type TernaryBlocks } from './tq.ts';
import { TQ1_0 } from './tq1.ts';
import { TQ2_0 } from './tq2.ts';

type Decode = (bytes: Uint8Array, first: number, count: number, out: Float32Array, outAt: number) => void;

interface Codec {
  readonly decode: Decode;
  /** Index of the first value that is not finite, or -1; `bytes` are whole blocks (I2_S: the whole tensor). */
  readonly findNotFinite: (bytes: Uint8Array) => number;
}

/** d is at the begin of a block. */
function centred(type: CentredBlocks): Codec {
  return {
    decode: (bytes, first, count, out, outAt) => decodeCentred(type, bytes, first, count, out, outAt),
    findNotFinite: (bytes) => findBlockScale(bytes, type.bytes, 0, 32),
  };
}

/** `scalesAt`: where the scale of the steps is; that of the offsets follows it. */
function affine(type: AffineBlocks, scalesAt: number): Codec {
  return {
    decode: (bytes, first, count, out, outAt) => decodeAffineBlocks(type, bytes, first, count, out, outAt),
    findNotFinite(bytes) {
      const found = [scalesAt, scalesAt + 2].map((at) => findBlockScale(bytes, type.bytes, at, type.elements));
      return Math.max(...found) < 0 ? -1 : Math.min(...found.filter((at) => at >= 0));
    },
  };
}

function ternary(type: TernaryBlocks): Codec {
  return {
    decode: (bytes, first, count, out, outAt) => decodeTernary(type, bytes, first, count, out, outAt),
    findNotFinite: (bytes) => findBlockScale(bytes, type.bytes, type.scaleAt, 256),
  };
}

/** TL1 and TL2 are not here: where a value is depends on shape and tiles, see `tl1.ts`. */
const codecs: Record<Exclude<ReadableDTypeName, LookupTernaryName>, Codec> = {
  F32: { decode: decodeF32, findNotFinite: (bytes) => findExponent(bytes, 4, 0x7f80) },
  F16: { decode: decodeF16, findNotFinite: (bytes) => findExponent(bytes, 2, 0x7c00) },
  BF16: { decode: decodeBF16, findNotFinite: (bytes) => findExponent(bytes, 2, 0x7f80) },
  Q8_0: { decode: decodeQ8_0, findNotFinite: (bytes) => findBlockScale(bytes, 34, 0, 32) },
  Q4_0: centred(Q4_0),
  Q4_1: affine(Q4_1, 0),
  Q5_0: centred(Q5_0),
  Q5_1: affine(Q5_1, 0),
  Q2_K: affine(Q2_K, 80),
  Q3_K: { decode: decodeQ3_K, findNotFinite: (bytes) => findBlockScale(bytes, Q3_K_BYTES, Q3_K_D, 256) },
  Q4_K: affine(Q4_K, 0),
  Q5_K: affine(Q5_K, 0),
  Q6_K: { decode: decodeQ6_K, findNotFinite: (bytes) => findBlockScale(bytes, 210, 208, 256) },
  TQ1_0: ternary(TQ1_0),
  TQ2_0: ternary(TQ2_0),
  I2_S: {
    decode: (bytes, first, count, out, outAt) => decodeI2S(bytes, i2sElements(bytes), first, count, out, outAt),
    findNotFinite: (bytes) => (Number.isFinite(scaleOfI2S(bytes, bytes.length - TAIL_BYTES)) ? -1 : 0),
  },
};

/**
 * Values first .. first + count as float32, exactly. `bytes` begins at value 0 of the tensor or of any later block; for
 * I2_S, whose scale is at the end, it is the whole tensor. Ranges of block types must be whole blocks.
 */
export function decodeInto(
  dtype: DType,
  bytes: Uint8Array,
  first: number,
  count: number,
  out: Float32Array,
  outAt = 0,
): void {
  const { decode } = codecOf(dtype);
  // Typed arrays answer undefined beyond their end, which would decode to zeros.
  const needed = dtype.size === 'flat' ? 0 : Math.ceil((first + count) / dtype.blockElements) * dtype.blockBytes;
  const inside = dtype.size === 'flat' ? first + count <= i2sElements(bytes) : needed <= bytes.length;
  want(
    inside && first >= 0 && outAt + count <= out.length,
    'bad-argument',
    'range outside the tensor or the output',
    () => ({
      expected: `${dtype.name} values ${first} + ${count} to output ${outAt} + ${count}`,
      got: `${bytes.length} bytes, output of ${out.length}`,
    }),
  );
  decode(bytes, first, count, out, outAt);
}

/** Index of the first value that is NaN or infinite (for block types: of its block's first value), or -1. */
export function findNotFinite(dtype: DType, bytes: Uint8Array): number {
  return codecOf(dtype).findNotFinite(bytes);
}

function codecOf(dtype: DType): Codec {
  want(dtype.name !== 'TL1' && dtype.name !== 'TL2', 'unsupported-type', 'only whole matrices can be decoded', () => ({
    got: dtype.name,
  }));
  if (isReadable(dtype)) return codecs[dtype.name as keyof typeof codecs];
  throw new BitnetError('unsupported-type', `type ${dtype.name} ${dtype.why}`);
}

function i2sElements(bytes: Uint8Array): number {
  return (bytes.length - TAIL_BYTES) * 4;
}

/** A float is not finite when its exponent bits, which are in the upper two bytes, are all ones. */
function findExponent(bytes: Uint8Array, valueBytes: 2 | 4, mask: number): number {
  if (seemsFinite(bytes, valueBytes, mask)) return -1;
  for (let at = valueBytes - 2; at + 1 < bytes.length; at += valueBytes) {
    if (((bytes[at] | (bytes[at + 1] << 8)) & mask) === mask) return (at + 2) / valueBytes - 1;
  }
  return -1;
}

/**
 * The quick way over aligned memory, a word at a time: adding the lowest exponent bit to the exponent carries into the sign's
 * place only if all its bits are ones. False means look closely, not that something is wrong.
 */
function seemsFinite(bytes: Uint8Array, valueBytes: 2 | 4, mask: number): boolean {
  if (bytes.byteOffset % 4 !== 0 || bytes.length % 4 !== 0) return false;
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const lowest = mask & -mask;
  const exponents = valueBytes === 2 ? mask * 0x10001 : mask * 0x10000;
  const carry = valueBytes === 2 ? lowest * 0x10001 : lowest * 0x10000;
  const signs = valueBytes === 2 ? 0x80008000 : 0x80000000;
  let any = 0;
  for (let i = 0; i < words.length; i++) any |= ((words[i] & exponents) + carry) & signs;
  return any === 0;
}

function findBlockScale(bytes: Uint8Array, blockBytes: number, scaleAt: number, blockElements: number): number {
  for (let block = 0; (block + 1) * blockBytes <= bytes.length; block++) {
    if (!Number.isFinite(readF16(bytes, block * blockBytes + scaleAt))) return block * blockElements;
  }
  return -1;
}
