/**
 * bfloat16: the upper half of a float32, so decoding is a shift and encoding a rounding of 16 bits away.
 *
 *     15   14..7     6..0
 *     sign exponent  fraction        the exponent of float32; 8 significant bits
 * @module
 */

/** Decodes `count` little-endian bfloat16 from byte `offsetBytes` on. */
export function decodeBF16s(bytes: Uint8Array, offsetBytes: number, count: number, out: Float32Array, outAt = 0): void {
  const outBits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < count; i++) {
    const at = offsetBytes + 2 * i;
    outBits[outAt + i] = (bytes[at] << 16) | (bytes[at + 1] << 24);
  }
}

/**
 * Encodes `count` values from `values[at]` on, nearest with ties to even; subnormals are rounded like all others.
 * NaNs stay NaN: the quiet bit is set, so that cutting the payload off cannot leave an infinity behind.
 */
export function encodeBF16s(
  values: Float32Array,
  at: number,
  count: number,
  out: Uint8Array,
  outOffsetBytes = 0,
): void {
  const valueBits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < count; i++) {
    const bits = valueBits[at + i];
    const notANumber = (bits & 0x7fffffff) > 0x7f800000;
    // Adding 0x7fff, and one more if the kept part is odd, carries exactly when the cut part rounds up. The sum may
    // leave 32 bits only for NaNs, which do not come here.
    const upper = notANumber ? (bits >>> 16) | 0x40 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
    out[outOffsetBytes + 2 * i] = upper;
    out[outOffsetBytes + 2 * i + 1] = upper >> 8;
  }
}

/** The value of 16 bits. Allocates; for single values in tests and tools. */
export function bf16ToNumber(bits: number): number {
  const out = new Float32Array(1);
  decodeBF16s(Uint8Array.of(bits, bits >> 8), 0, 1, out);
  return out[0];
}

/** The nearest bfloat16 of a float32. Allocates; for single values in tests and tools. */
export function numberToBF16(x: number): number {
  const out = new Uint8Array(2);
  encodeBF16s(Float32Array.of(x), 0, 1, out);
  return out[0] | (out[1] << 8);
}
