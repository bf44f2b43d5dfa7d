/**
 * NumPy's array file, as far as oracles need it: little-endian, row-major.
 *
 *     0  u8[6]  93 "NUMPY"
 *     6  u8[2]  1 0                        (2 and 3: the length below has four bytes)
 *     8  u16    length of the header text
 *    10  text   {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   spaces   \n     to a multiple of 64
 *        data
 *
 * Format: numpy/lib/format.py.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { f16ToNumber } from '../numeric/f16.ts';

const ALIGNMENT = 64;
/** Longer headers are not of arrays of numbers. */
export const MAX_HEADER_BYTES = 1 << 16;

/** Element types that are written, by numpy's names. */
export const NPY_TYPES = { f32: '<f4', i8: '|i1', i32: '<i4' } as const;
export type NpyType = keyof typeof NPY_TYPES;

/** Everything before the numbers. */
export function npyHeader(shape: readonly number[], type: NpyType = 'f32'): Uint8Array {
  return npyHeaderOf(NPY_TYPES[type], shape);
}

/** The same for any of numpy's types. */
export function npyHeaderOf(descr: string, shape: readonly number[]): Uint8Array {
  // A tuple of one needs its comma.
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const total = Math.ceil((10 + text.length + 1) / ALIGNMENT) * ALIGNMENT;
  const header = new Uint8Array(total).fill(0x20);
  header.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, (total - 10) & 0xff, (total - 10) >> 8]);
  header.set(new TextEncoder().encode(text), 10);
  header[total - 1] = 0x0a;
  return header;
}

/**
 * The bytes of the numbers as the file has them. All NaN become one: their bits differ between machines and carry
 * nothing, and digests should not depend on them.
 */
export function littleEndianBytes(values: Float32Array | Int32Array | Int8Array): Uint8Array<ArrayBuffer> {
  if (values instanceof Int8Array) return new Uint8Array(values.slice().buffer as ArrayBuffer);
  const out = new Uint8Array(values.length * 4);
  const view = new DataView(out.buffer);
  if (values instanceof Int32Array) {
    for (let i = 0; i < values.length; i++) view.setInt32(4 * i, values[i], true);
    return out;
  }
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i])) view.setUint32(4 * i, 0x7fc00000, true);
    else view.setFloat32(4 * i, values[i], true);
  }
  return out;
}

/** Element types that are read. */
const READABLE = {
  '<f4': { type: 'f32', bytes: 4 },
  '<f8': { type: 'f32', bytes: 8 },
  '<f2': { type: 'f32', bytes: 2 },
  '|i1': { type: 'i8', bytes: 1 },
  '|u1': { type: 'i32', bytes: 1 },
  '<i4': { type: 'i32', bytes: 4 },
  '<i8': { type: 'i32', bytes: 8 },
} as const;

export type NpyDescr = keyof typeof READABLE;

export interface NpyArray {
  readonly descr: NpyDescr;
  /** What its values are read as. */
  readonly type: NpyType;
  readonly bytesPerValue: number;
  readonly shape: readonly number[];
  /** Where the numbers begin. */
  readonly dataOffset: number;
  /** Of the file. */
  readonly byteLength: number;
}

/**
 * Reads the header of a file of `byteLength` bytes, of which `bytes` are the first, and checks that the numbers are all there.
 * Throws `bad-container`, `truncated` or `unsupported-type`.
 */
export function parseNpyHeader(bytes: Uint8Array, byteLength: number, where: string): NpyArray {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const isNpy = bytes.length >= 10 && view.getUint32(0) === 0x934e554d && view.getUint16(4) === 0x5059;
  want(isNpy, 'bad-container', 'not a .npy file', () => ({ where, expected: 'it to begin with \\x93NUMPY' }));
  const major = bytes[6];
  want(major >= 1 && major <= 3, 'unsupported-version', 'unknown version of .npy', () => ({
    where,
    expected: '1 to 3',
    got: `${major}`,
  }));
  const start = major === 1 ? 10 : 12;
  const length = major === 1 ? view.getUint16(8, true) : bytes.length >= 12 ? view.getUint32(8, true) : 0;
  want(start + length <= MAX_HEADER_BYTES, 'limit-exceeded', 'the header of a .npy file is too long', () => ({
    where,
    expected: `at most ${MAX_HEADER_BYTES} bytes`,
    got: `${length}`,
  }));
  const dataOffset = start + length;
  want(dataOffset <= bytes.length, 'truncated', 'the file ends inside its header', () => ({ where }));
  const text = new TextDecoder('latin1').decode(bytes.subarray(start, dataOffset));
  const descr = /'descr'\s*:\s*'([^']*)'/.exec(text)?.[1];
  const order = /'fortran_order'\s*:\s*(True|False)/.exec(text)?.[1];
  const tuple = /'shape'\s*:\s*\(([\d,\s]*)\)/.exec(text)?.[1];
  if (descr === undefined || order === undefined || tuple === undefined)
    throw new BitnetError('bad-container', 'the header of a .npy file lacks descr, fortran_order or shape', {
      where,
      got: show(text.trim()),
    });
  want(Object.hasOwn(READABLE, descr), 'unsupported-type', 'a .npy file of another type', () => ({
    where,
    expected: Object.keys(READABLE).join(', '),
    got: show(descr),
    hint: "in numpy: numpy.save(file, array.astype('<f4'))",
  }));
  const shape = tuple
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean)
    .map(Number);
  want(order === 'False' || shape.length < 2, 'unsupported-type', 'a .npy file in Fortran order', () => ({
    where,
    expected: 'rows one after the other',
    hint: 'in numpy: numpy.save(file, numpy.ascontiguousarray(array))',
  }));
  const { type, bytes: bytesPerValue } = READABLE[descr as NpyDescr];
  let values = 1;
  for (const dim of shape) {
    values *= dim;
    want(Number.isSafeInteger(values), 'limit-exceeded', 'the shape of a .npy file is too large', () => ({
      where,
      got: `(${tuple})`,
    }));
  }
  want(byteLength - dataOffset >= values * bytesPerValue, 'truncated', 'the file ends before its numbers', () => ({
    where,
    expected: `${values * bytesPerValue} bytes of (${tuple}) ${descr}`,
    got: `${byteLength - dataOffset}`,
  }));
  return { descr: descr as NpyDescr, type, bytesPerValue, shape, dataOffset, byteLength };
}

/** The values of `bytes`, whole ones of that type. Throws `unsupported-type` where an integer does not fit into 32 bits. */
export function decodeNpy(descr: NpyDescr, bytes: Uint8Array): Float32Array | Int8Array | Int32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = bytes.length / READABLE[descr].bytes;
  const integers = (at: (i: number) => number) => Int32Array.from({ length: count }, (_, i) => at(i));
  if (descr === '|i1') return new Int8Array(bytes.slice().buffer);
  if (descr === '|u1') return Int32Array.from(bytes);
  if (descr === '<i4') return integers((i) => view.getInt32(4 * i, true));
  if (descr === '<i8') return integers((i) => narrowed(view.getBigInt64(8 * i, true)));
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    out[i] =
      descr === '<f4'
        ? view.getFloat32(4 * i, true)
        : descr === '<f8'
          ? view.getFloat64(8 * i, true)
          : f16ToNumber(view.getUint16(2 * i, true));
  }
  return out;
}

function narrowed(value: bigint): number {
  want(BigInt.asIntN(32, value) === value, 'unsupported-type', 'an integer of more than 32 bits', () => ({
    where: 'a .npy file of <i8',
    got: `${value}`,
  }));
  return Number(value);
}
