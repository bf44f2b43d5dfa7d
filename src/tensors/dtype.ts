/**
 * The table of tensor types: one row each, every id that a GGUF file may carry, with its size rule.
 *
 * Sizes come in three kinds, and the difference matters to whoever cuts a file into tensors:
 *
 *   rows    most types: a row of ne[0] values is a whole number of blocks, bytes = rows * ne[0]/block * blockBytes
 *   flat    I2_S, TL1: blocks run over the tensor as one long list, rows may begin inside a block; 32 bytes follow
 *           (a float32 scale and padding)
 *   tl2     TL2: its own formula, two regions (five-bit triples and four-bit pairs); 32 bytes follow
 *
 * Ids that mean different things in different programs (the fork = microsoft/BitNet's llama.cpp, mainline = ggml-org):
 *
 *   30      BF16; pre-release branches of the fork wrote I2 there, no published file is known
 *   36      I2_S in the fork; a removed repacked IQ4_NL in mainline, which therefore refuses I2_S files
 *   37, 38  I8_S (run time only), TL1 in the fork; removed repacked IQ4_NL variants in mainline
 *   39      TL2 in the fork until early 2026; MXFP4 in mainline and in the fork after that
 *   42      TL2 in the fork since mid 2026
 *
 * Id 39 can only be told apart by the room that the tensor has in its file: `dtypesById(39)` gives both. The removed
 * types of 36 to 38 are blocks of 32 values in 18 bytes: `removedDType` is what a tensor of that size is.
 * @module
 */

import { want } from '../errors.ts';

/** How the byte length of a tensor follows from its shape. */
type SizeRule = 'rows' | 'flat' | 'tl2';

interface Row {
  readonly name: string;
  /** The id that is written; what `dtypeById` answers to. */
  readonly id: number;
  /** An older id that old files use for this type, shared with another row. */
  readonly formerId?: number;
  readonly blockElements: number;
  /** 0 where the size is not known here: such a tensor is only ever measured by its span. */
  readonly blockBytes: number;
  readonly size: SizeRule;
  /** Whether `src/tensors` can decode it. */
  readonly readable: boolean;
  /** Why it is not readable. */
  readonly why?: string;
}

const NOT_YET = 'not supported yet';
const NOT_A_WEIGHT = 'not a type of model weights';
const RUN_TIME = 'exists only while a program runs, never in files';
const REMOVED = 'was removed upstream; requantise the model from its original';
const MXFP4 =
  'is not supported; by its size this is MXFP4 of llama.cpp, not TL2, for which bitnet.cpp wrote the same id 39 until 2026';
const PRISM =
  "is not supported: a type of PrismML's own llama.cpp (Ternary-Bonsai), whose activations stay floats; its projections are " +
  'ternary with a scale for every 128 weights';
const IQ = 'IQ types are not supported; no ternary model uses them';

const rows = 'rows';
const flat = 'flat';

const table = [
  { name: 'F32', id: 0, blockElements: 1, blockBytes: 4, size: rows, readable: true },
  { name: 'F16', id: 1, blockElements: 1, blockBytes: 2, size: rows, readable: true },
  { name: 'Q4_0', id: 2, blockElements: 32, blockBytes: 18, size: rows, readable: true },
  { name: 'Q4_1', id: 3, blockElements: 32, blockBytes: 20, size: rows, readable: true },
  { name: 'Q4_2', id: 4, blockElements: 16, blockBytes: 0, size: rows, readable: false, why: REMOVED },
  { name: 'Q4_3', id: 5, blockElements: 16, blockBytes: 0, size: rows, readable: false, why: REMOVED },
  { name: 'Q5_0', id: 6, blockElements: 32, blockBytes: 22, size: rows, readable: true },
  { name: 'Q5_1', id: 7, blockElements: 32, blockBytes: 24, size: rows, readable: true },
  { name: 'Q8_0', id: 8, blockElements: 32, blockBytes: 34, size: rows, readable: true },
  { name: 'Q8_1', id: 9, blockElements: 32, blockBytes: 36, size: rows, readable: false, why: RUN_TIME },
  { name: 'Q2_K', id: 10, blockElements: 256, blockBytes: 84, size: rows, readable: true },
  { name: 'Q3_K', id: 11, blockElements: 256, blockBytes: 110, size: rows, readable: true },
  { name: 'Q4_K', id: 12, blockElements: 256, blockBytes: 144, size: rows, readable: true },
  { name: 'Q5_K', id: 13, blockElements: 256, blockBytes: 176, size: rows, readable: true },
  { name: 'Q6_K', id: 14, blockElements: 256, blockBytes: 210, size: rows, readable: true },
  { name: 'Q8_K', id: 15, blockElements: 256, blockBytes: 292, size: rows, readable: false, why: RUN_TIME },
  { name: 'IQ2_XXS', id: 16, blockElements: 256, blockBytes: 66, size: rows, readable: false, why: IQ },
  { name: 'IQ2_XS', id: 17, blockElements: 256, blockBytes: 74, size: rows, readable: false, why: IQ },
  { name: 'IQ3_XXS', id: 18, blockElements: 256, blockBytes: 98, size: rows, readable: false, why: IQ },
  { name: 'IQ1_S', id: 19, blockElements: 256, blockBytes: 50, size: rows, readable: false, why: IQ },
  { name: 'IQ4_NL', id: 20, blockElements: 32, blockBytes: 18, size: rows, readable: false, why: IQ },
  { name: 'IQ3_S', id: 21, blockElements: 256, blockBytes: 110, size: rows, readable: false, why: IQ },
  { name: 'IQ2_S', id: 22, blockElements: 256, blockBytes: 82, size: rows, readable: false, why: IQ },
  { name: 'IQ4_XS', id: 23, blockElements: 256, blockBytes: 136, size: rows, readable: false, why: IQ },
  { name: 'I8', id: 24, blockElements: 1, blockBytes: 1, size: rows, readable: false, why: NOT_A_WEIGHT },
  { name: 'I16', id: 25, blockElements: 1, blockBytes: 2, size: rows, readable: false, why: NOT_A_WEIGHT },
  { name: 'I32', id: 26, blockElements: 1, blockBytes: 4, size: rows, readable: false, why: NOT_A_WEIGHT },
  { name: 'I64', id: 27, blockElements: 1, blockBytes: 8, size: rows, readable: false, why: NOT_A_WEIGHT },
  { name: 'F64', id: 28, blockElements: 1, blockBytes: 8, size: rows, readable: false, why: NOT_A_WEIGHT },
  { name: 'IQ1_M', id: 29, blockElements: 256, blockBytes: 56, size: rows, readable: false, why: IQ },
  { name: 'BF16', id: 30, blockElements: 1, blockBytes: 2, size: rows, readable: true },
  { name: 'Q4_0_4_4', id: 31, blockElements: 32, blockBytes: 18, size: rows, readable: false, why: REMOVED },
  { name: 'Q4_0_4_8', id: 32, blockElements: 32, blockBytes: 18, size: rows, readable: false, why: REMOVED },
  { name: 'Q4_0_8_8', id: 33, blockElements: 32, blockBytes: 18, size: rows, readable: false, why: REMOVED },
  { name: 'TQ1_0', id: 34, blockElements: 256, blockBytes: 54, size: rows, readable: true },
  { name: 'TQ2_0', id: 35, blockElements: 256, blockBytes: 66, size: rows, readable: true },
  { name: 'I2_S', id: 36, blockElements: 128, blockBytes: 32, size: flat, readable: true },
  { name: 'I8_S', id: 37, blockElements: 1, blockBytes: 1, size: rows, readable: false, why: RUN_TIME },
  { name: 'TL1', id: 38, blockElements: 4, blockBytes: 1, size: flat, readable: true },
  { name: 'MXFP4', id: 39, blockElements: 32, blockBytes: 17, size: rows, readable: false, why: MXFP4 },
  { name: 'NVFP4', id: 40, blockElements: 1, blockBytes: 0, size: rows, readable: false, why: NOT_YET },
  { name: 'Q1_0', id: 41, blockElements: 1, blockBytes: 0, size: rows, readable: false, why: NOT_YET },
  { name: 'TL2', id: 42, formerId: 39, blockElements: 1, blockBytes: 1, size: 'tl2', readable: true },
  { name: 'PQ2_0', id: 142, blockElements: 128, blockBytes: 34, size: rows, readable: false, why: PRISM },
  { name: 'PTQ1_0', id: 143, blockElements: 128, blockBytes: 28, size: rows, readable: false, why: PRISM },
] as const satisfies readonly Row[];

/** Names of all types in the table. */
export type DTypeName = (typeof table)[number]['name'];
/** Names of the types that can be decoded. */
export type ReadableDTypeName = Extract<(typeof table)[number], { readable: true }>['name'];
/** Types whose values are -scale, 0, +scale. */
export type TernaryDTypeName = BlockTernaryName | LookupTernaryName;
/** Those of small blocks in the order of the rows, which a backend may read by itself. */
export type BlockTernaryName = 'I2_S' | 'TQ1_0' | 'TQ2_0';
/** Those cut into tiles for bitnet.cpp's look-up kernels: they cannot be decoded without the shape and its tiles. */
export type LookupTernaryName = 'TL1' | 'TL2';

/** A type of the table, or a stand-in (`#99`) for an id that the table does not know. */
export interface DType extends Row {
  readonly name: DTypeName | `#${number}`;
}

/** All known types, in the order of their ids. */
export const dtypes: readonly DType[] = table;

/** Bytes behind the codes of an I2_S, TL1 or TL2 tensor: a float32 scale, then 28 bytes without meaning. */
export const TAIL_BYTES = 32;

/** The type of that name. */
export function dtypeByName(name: DTypeName): DType {
  const found = dtypes.find((row) => row.name === name);
  want(found !== undefined, 'bad-argument', 'no such tensor type', () => ({ got: name }));
  return found;
}

/** The type that a file written today means by `id`; undefined for unknown ids. See `dtypesById` for 39. */
export function dtypeById(id: number): DType | undefined {
  return dtypes.find((row) => row.id === id);
}

/** Every type that `id` may stand for: none, one, or two for 39. */
export function dtypesById(id: number): readonly DType[] {
  return dtypes.filter((row) => row.id === id || row.formerId === id);
}

/** A stand-in row for an id nobody here knows. */
export function unknownDType(id: number): DType {
  return {
    name: `#${id}`,
    id,
    blockElements: 1,
    blockBytes: 0,
    size: 'rows',
    readable: false,
    why: 'is not a known tensor type',
  };
}

/** Types that mainline wrote for a while under ids that are the fork's today. */
const removedNames = new Map([
  [36, 'IQ4_NL_4_4'],
  [37, 'IQ4_NL_4_8'],
  [38, 'IQ4_NL_8_8'],
]);

/** Bytes of a tensor in the removed type of `id`, or undefined where there was none: they took rows in fours. */
export function removedByteLength(id: number, [columns = 1, rows = 1]: readonly number[]): number | undefined {
  if (!removedNames.has(id) || columns % 32 !== 0 || rows % 4 !== 0) return undefined;
  return (rows * columns * 18) / 32;
}

/** A stand-in row for a tensor that is of the removed type of `id`. */
export function removedDType(id: number): DType {
  const meant = dtypeById(id)?.name;
  const why = `is ${removedNames.get(id)} by its size, which ${REMOVED}; bitnet.cpp's ${meant} has the same id`;
  return { ...unknownDType(id), why };
}

export function isReadable(dtype: DType): dtype is DType & { readonly name: ReadableDTypeName } {
  return dtype.readable;
}

export function isTernary(dtype: DType): dtype is DType & { readonly name: TernaryDTypeName } {
  return isBlockTernary(dtype) || dtype.name === 'TL1' || dtype.name === 'TL2';
}

export function isBlockTernary(dtype: DType): dtype is DType & { readonly name: BlockTernaryName } {
  return dtype.name === 'I2_S' || dtype.name === 'TQ1_0' || dtype.name === 'TQ2_0';
}

/** Number of values of a shape; the empty shape is one scalar. */
export function elementCount(shape: readonly number[], where?: string): number {
  let n = 1;
  for (const extent of shape) {
    want(Number.isSafeInteger(extent) && extent > 0, 'bad-tensor', 'bad extent in the shape', () => ({
      ...(where === undefined ? {} : { where }),
      expected: 'a positive integer',
      got: `${extent} in (${shape.join(', ')})`,
    }));
    n *= extent;
    want(Number.isSafeInteger(n), 'limit-exceeded', 'too many values', () => ({
      ...(where === undefined ? {} : { where }),
      expected: 'fewer than 2^53',
      got: `shape (${shape.join(', ')})`,
    }));
  }
  return n;
}

/**
 * Bytes that a tensor occupies, padding to the file's alignment not included; undefined where the size of the type
 * is not known here. `shape` is in ne order: shape[0] runs fastest (K), shape[1] counts rows (M).
 *
 * I2_S of 2560 x 6912: 17,694,720 codes / 4 + 32 = 4,423,712 bytes. TQ1_0 of the same: 6912 * 10 * 54 = 3,732,480.
 * Throws when the shape does not fit the type's blocks or the size leaves the safe integers
 */
export function tensorByteLength(dtype: DType, shape: readonly number[], where?: string): number | undefined {
  const n = elementCount(shape, where);
  if (dtype.blockBytes === 0) return undefined;
  const bytes = sizeRules[dtype.size](dtype, shape, n, where);
  want(Number.isSafeInteger(bytes), 'limit-exceeded', 'tensor too large', () => ({
    ...(where === undefined ? {} : { where }),
    expected: 'fewer than 2^53 bytes',
    got: `shape (${shape.join(', ')})`,
  }));
  return bytes;
}

const sizeRules: Record<
  SizeRule,
  (dtype: DType, shape: readonly number[], n: number, where: string | undefined) => number
> = {
  rows(dtype, shape, n, where) {
    wholeBlocks(shape[0] ?? 1, 'row', dtype, where);
    return (n / dtype.blockElements) * dtype.blockBytes;
  },
  flat(dtype, _shape, n, where) {
    wholeBlocks(n, 'tensor', dtype, where);
    return (n / dtype.blockElements) * dtype.blockBytes + TAIL_BYTES;
  },
  // The first K-256 columns go in triples of 5 bits, the last 256 in pairs of 4 bits. The formula divides from
  // left to right in integers; another order gives other sizes for odd shapes.
  tl2(_dtype, shape, _n, where) {
    const columns = shape[0] ?? 1;
    want(columns >= 256, 'bad-tensor', 'row too short for TL2', () => ({
      ...(where === undefined ? {} : { where }),
      expected: 'at least 256',
      got: `${columns}`,
    }));
    const rowCount = shape[1] ?? 1;
    const triples = Math.trunc((Math.trunc(((columns - 256) * rowCount) / 3) * 5) / 8);
    const pairs = Math.trunc((Math.trunc((256 * rowCount) / 2) * 4) / 8);
    return Math.ceil((triples + pairs) / 32) * 32 + TAIL_BYTES;
  },
};

function wholeBlocks(count: number, what: string, dtype: DType, where: string | undefined): void {
  want(
    count % dtype.blockElements === 0,
    'bad-tensor',
    `${what} does not consist of whole ${dtype.name} blocks`,
    () => ({
      ...(where === undefined ? {} : { where }),
      expected: `a multiple of ${dtype.blockElements}`,
      got: `${count}`,
    }),
  );
}
