/**
 * Arrays of the kit, and their .npy files: whatever type of numbers, little-endian, row-major.
 * @module
 */

import { npyHeader } from './npy-header.ts';

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
  const header = npyHeader(descrOf(data), shape);
  const bytes = new Uint8Array(header.length + data.byteLength);
  bytes.set(header);
  writeNumbers(new DataView(bytes.buffer, header.length), data);
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

function writeNumbers(to: DataView, data: KitData): void {
  for (let i = 0; i < data.length; i++) {
    const value = data[i];
    if (data instanceof Float32Array) {
      if (Number.isNaN(value)) to.setUint32(4 * i, 0x7fc00000, true);
      else to.setFloat32(4 * i, value, true);
    } else if (data instanceof Float64Array) {
      if (Number.isNaN(value)) to.setBigUint64(8 * i, 0x7ff8000000000000n, true);
      else to.setFloat64(8 * i, value, true);
    } else if (data.BYTES_PER_ELEMENT === 1) to.setUint8(i, value & 0xff);
    else if (data.BYTES_PER_ELEMENT === 2) to.setUint16(2 * i, value, true);
    else to.setUint32(4 * i, value >>> 0, true);
  }
}
