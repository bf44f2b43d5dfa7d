/**
 * What a GGUF file says, as data: tagged metadata values that can be written back byte for byte, and tensors as
 * names, shapes and byte ranges. Nothing here holds tensor data.
 * @module
 */

import type { DType } from '../../tensors/dtype.ts';
import type { ByteSource } from '../source.ts';

/** Value types by their number in the file. */
export const valueTypeNames = [
  'u8',
  'i8',
  'u16',
  'i16',
  'u32',
  'i32',
  'f32',
  'bool',
  'string',
  'array',
  'u64',
  'i64',
  'f64',
] as const;
export type GgufValueType = (typeof valueTypeNames)[number];
export type GgufSmallNumberType = 'u8' | 'i8' | 'u16' | 'i16' | 'u32' | 'i32' | 'f32' | 'f64';

/** Arrays of numbers keep their type: an f32 array becomes a `Float32Array`. */
export interface GgufArrays {
  readonly u8: Uint8Array;
  readonly i8: Int8Array;
  readonly u16: Uint16Array;
  readonly i16: Int16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly f32: Float32Array;
  readonly u64: BigUint64Array;
  readonly i64: BigInt64Array;
  readonly f64: Float64Array;
  /** 0 or 1 each. */
  readonly bool: Uint8Array;
  readonly string: StringArray;
}
export type GgufElementType = keyof GgufArrays;

type ArrayValue = {
  readonly [T in GgufElementType]: { readonly type: 'array'; readonly of: T; readonly values: GgufArrays[T] };
}[GgufElementType];

/** One metadata value with the type it has in the file. */
export type GgufValue =
  | { readonly type: GgufSmallNumberType; readonly value: number }
  | { readonly type: 'u64' | 'i64'; readonly value: bigint }
  | { readonly type: 'bool'; readonly value: boolean }
  | GgufString
  | ArrayValue;

/** A string as the file has it: bytes, which are usually but not always UTF-8. */
export class GgufString {
  readonly type = 'string';
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  /** For display: bytes that are not UTF-8 show as U+FFFD. */
  get text(): string {
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.bytes);
  }
}

/**
 * Many strings in one buffer. A vocabulary has 128 thousand tokens and 280 thousand merges: one object each would
 * cost more than the rest of the header, so strings are cut out when asked for.
 *
 * `data` is the array's body exactly as in the file, every string behind its own u64 length:
 *
 *     [len0: 8][bytes0][len1: 8][bytes1] ...
 *               ^starts[0]       ^starts[1]          starts[length] = data.length + 8
 *
 * so string i is data[starts[i] .. starts[i + 1] - 8).
 */
export class StringArray {
  readonly kind = 'strings';
  readonly length: number;
  readonly #data: Uint8Array;
  readonly #starts: Uint32Array;

  constructor(data: Uint8Array, starts: Uint32Array) {
    this.length = starts.length - 1;
    this.#data = data;
    this.#starts = starts;
  }

  /** The body as it stands in the file, lengths included. */
  get body(): Uint8Array {
    return this.#data;
  }

  /** The bytes of string `i`; a view, not a copy. */
  bytes(i: number): Uint8Array {
    if (!(i >= 0 && i < this.length)) throw new RangeError(`string ${i} of ${this.length}`);
    return this.#data.subarray(this.#starts[i], this.#starts[i + 1] - 8);
  }

  /** String `i` for display: bytes that are not UTF-8 show as U+FFFD. */
  text(i: number): string {
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.bytes(i));
  }
}

/** One tensor: where its bytes are and what they mean. */
export interface GgufTensor {
  readonly name: string;
  /** For ids that the table does not know, a stand-in with the name `#id` that is not readable. */
  readonly dtype: DType;
  /** In ne order: shape[0] runs fastest (K, input features), shape[1] counts rows (M). At most four; empty = scalar. */
  readonly shape: readonly number[];
  readonly elements: number;
  /** Where the bytes are: the file itself, or the shard that has this tensor. */
  readonly source: ByteSource;
  /** From the start of `source`. */
  readonly offsetBytes: number;
  /** By the size rule of the type; the span where the rule is not known. */
  readonly byteLength: number;
  /** Up to the next tensor, or the end of the source: `byteLength` plus padding, and in odd files more. */
  readonly spanBytes: number;
}

/** An opened GGUF file (or the first shard of several, with the tensors of all). */
export interface GgufFile {
  /** The label of the source it was opened from. */
  readonly label: string;
  readonly version: 2 | 3;
  /** In file order. With shards: those of the first. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** In file order, shard after shard. */
  readonly tensors: readonly GgufTensor[];
  readonly alignment: number;
  /** Bytes before the tensor data, padding included, of the first shard. */
  readonly headerBytes: number;
  /** Bytes of all sources together. */
  readonly byteLength: number;
  /** One for each shard, the first included. */
  readonly sources: readonly ByteSource[];

  /** The tensor of that name; throws `missing-tensor`. */
  tensor(name: string): GgufTensor;
  findTensor(name: string): GgufTensor | undefined;

  /**
   * Typed access to metadata. `get*` throws `bad-metadata` where the key is missing or of another type, `find*`
   * gives undefined where it is missing and still throws where it is of another type.
   */
  getString(key: string): string;
  findString(key: string): string | undefined;
  /** Any integer type, as long as the value is 0 .. 2^53 - 1. */
  getUint(key: string): number;
  findUint(key: string): number | undefined;
  /** Any number type, as long as the value is finite. */
  getFloat(key: string): number;
  findFloat(key: string): number | undefined;
  getBool(key: string): boolean;
  findBool(key: string): boolean | undefined;
  getStrings(key: string): StringArray;
  findStrings(key: string): StringArray | undefined;
  /** An array of exactly this element type. */
  getArray<T extends GgufElementType>(key: string, of: T): GgufArrays[T];
  findArray<T extends GgufElementType>(key: string, of: T): GgufArrays[T] | undefined;

  /** Closes all sources, the one it was opened from included. */
  close(): Promise<void>;
}
