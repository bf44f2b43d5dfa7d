const f = Math.fround;

/**
 * `Backend.ternaryMatmul`. packed: (rows) packed rows (`tensors/packed.ts`); codes: (n, columns) i8;
 * scales: (n) f32; out: (n, rows) f32.
 *
 * A row of weights is unpacked once and used for all tokens; the sums are integers, so their order does
 * not matter: |sum| <= 128 * columns stays far below 2^31, and below 2^24 for every model, where f32 is exact.
 */
export function ternaryMatmul(
  out: Float32Array,
  packed: Uint8Array,
  weightScale: number,
  rows: number,
  columns: number,
  codes: Int8Array,
  scales: Float32Array,
  n: number,
): void {
  const rowBytes = Math.ceil(columns / 128) * 32;
  const trits = new Int8Array(rowBytes * 4);
  for (let row = 0; row < rows; row++) {
    unpackTrits(trits, packed, row * rowBytes, rowBytes);
    for (let token = 0; token < n; token++) {
      const start = token * columns;
      let sum = 0;
      for (let i = 0; i < columns; i++) sum += trits[i] * codes[start + i];
      out[token * rows + row] = f(f(f(sum) / scales[token]) * weightScale);
    }
  }
}

/** Blocks of 128 weights in 32 bytes: bits 7:6 of byte p hold weight p, 5:4 weight 32 + p, 3:2 64 + p, 1:0 96 + p. */
function unpackTrits(trits: Int8Array, packed: Uint8Array, start: number, rowBytes: number): void {
  for (let block = 0; block < rowBytes; block += 32) {
    for (let p = 0; p < 32; p++) {
      const byte = packed[start + block + p];
      const first = block * 4 + p;
      trits[first] = (byte >> 6) - 1;
      trits[first + 32] = ((byte >> 4) & 3) - 1;
      trits[first + 64] = ((byte >> 2) & 3) - 1;
      trits[first + 96] = (byte & 3) - 1;
    }
  }
}
