/**
 * Arrays of the kit, and their .npy files: whatever type of numbers, little-endian, row-major.
 * @module
 */

import { littleEndianBytes, npyHeaderOf } from '../npy.ts';

/** Every type of number that the kit has; NumPy's names beside. */
export type KitData =
  | Float32Array // <f4
  | Float64Array // <f8
  | Int8Array // |i1
  | Uint8Array // |u1
  | Uint16Array // <u2
  | Int32Array // <i4
  | Uint32Array; // <u4

export interface KitArray {
  readonly shape: readonly number[];
  readonly data: KitData;
}

export function array(data: KitData, ...shape: number[]): KitArray {
  const length = shape.reduce((a, b) => a * b, 1);
  if (length !== data.length) throw new Error(`${data.length} values are not (${shape.join(', ')})`);
  return { shape, data };
}

/** The whole file. All NaN become one, as in every dump. */
export function npyFile({ data, shape }: KitArray): Uint8Array<ArrayBuffer> {
  const header = npyHeaderOf(descrOf(data), shape);
  const numbers = numbersOf(data);
  const bytes = new Uint8Array(header.length + numbers.length);
  bytes.set(header);
  bytes.set(numbers, header.length);
  return bytes;
}

function descrOf(data: KitData): string {
  if (data instanceof Float32Array) return '<f4';
  if (data instanceof Float64Array) return '<f8';
  if (data instanceof Int8Array) return '|i1';
  if (data instanceof Uint8Array) return '|u1';
  if (data instanceof Uint16Array) return '<u2';
  return data instanceof Int32Array ? '<i4' : '<u4';
}

/** As the file has them. */
export function numbersOf(data: KitData): Uint8Array {
  if (data instanceof Float32Array || data instanceof Int8Array || data instanceof Int32Array) {
    return littleEndianBytes(data);
  }
  const out = new DataView(new ArrayBuffer(data.byteLength));
  for (const [i, value] of data.entries()) {
    if (data instanceof Uint8Array) out.setUint8(i, value);
    else if (data instanceof Uint16Array) out.setUint16(2 * i, value, true);
    else if (data instanceof Uint32Array) out.setUint32(4 * i, value, true);
    else if (Number.isNaN(value)) out.setBigUint64(8 * i, 0x7ff8000000000000n, true);
    else out.setFloat64(8 * i, value, true);
  }
  return new Uint8Array(out.buffer);
}
