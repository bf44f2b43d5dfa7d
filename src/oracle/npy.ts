/**
 * NumPy's array file, version 1.0, as far as oracles need it: float32, little-endian, row-major.
 *
 *     0  u8[6]  93 "NUMPY"
 *     6  u8[2]  1 0
 *     8  u16    length of the header text
 *    10  text   {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   spaces   \n     to a multiple of 64
 *        f32[]
 *
 * Format: numpy/lib/format.py.
 * @module
 */

const ALIGNMENT = 64;

/** Everything before the numbers. */
export function npyHeader(shape: readonly number[]): Uint8Array {
  // A tuple of one needs its comma.
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': ${tuple}, }`;
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
export function littleEndianBytes(values: Float32Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(values.length * 4);
  const view = new DataView(out.buffer);
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i])) view.setUint32(4 * i, 0x7fc00000, true);
    else view.setFloat32(4 * i, values[i], true);
  }
  return out;
}
