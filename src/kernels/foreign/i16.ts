/**
 * The 16-bit sums of bitnet.cpp's I2_S kernels (`ggml-bitnet-mad.cpp`), and what they make of a product.
 *
 * A weight is its code, trit + 1, and the sum of code * activation is gathered in lanes of 16 bits, which are widened to 32 only
 * after 32 blocks of weights:
 *
 *               blocks of   widened every   lane of column c       instructions
 *     avx2      128         4096 columns    floor((c mod 32) / 2)  maddubs: two products, at most 508, added to 1 of 16 lanes
 *     neon      64          2048 columns    c mod 8                vmlal.s8 into 1 of 8 lanes; builds without dotprod
 *
 * Both add 256 products of at most 2 * 127 to a lane: 65024, twice of what 16 bits hold. The additions wrap and do not saturate
 * (`_mm256_add_epi16`; a pair of products is too small for maddubs to saturate), and wrapping does not depend on the order: the
 * lane is its true sum modulo 2^16. So the result is known exactly from the true sums. Then the sum of the activations, which stands
 * for the 1 that a code has more than its trit, is taken off, and out = ((f32(lanes) - f32(activations)) / s) * weightScale.
 *
 * What cannot overflow: up to 2048 (1024) columns; NEON with dotprod, which adds to 32 bits; TL1 and TL2, which widen after at most
 * 64 entries of their tables, of 254 and 381; TQ1_0 and TQ2_0, 8 * 508 in a block.
 * @module
 */

const f = Math.fround;

export interface I16Kernel {
  readonly name: 'avx2' | 'neon';
  readonly lanes: number;
  /** Columns between two widenings. */
  readonly span: number;
  laneOf(column: number): number;
}

export const I16_KERNELS: Record<I16Kernel['name'], I16Kernel> = {
  avx2: { name: 'avx2', lanes: 16, span: 4096, laneOf: (column) => (column & 31) >> 1 },
  neon: { name: 'neon', lanes: 8, span: 2048, laneOf: (column) => column & 7 },
};

/** For each column the number of the sum that it goes to: those of all spans one after the other. */
export function sumsOfColumns(kernel: I16Kernel, columns: number): Uint16Array {
  const { lanes, span, laneOf } = kernel;
  return Uint16Array.from({ length: columns }, (_, c) => Math.floor(c / span) * lanes + laneOf(c));
}

export function countSums(kernel: I16Kernel, columns: number): number {
  return Math.ceil(columns / kernel.span) * kernel.lanes;
}

/** Whether there are trits with which these codes overflow a sum: code 2 at all that are positive, or at all that are negative. */
export function canOverflow(codes: Int8Array, sumOf: Uint16Array, nSums: number): boolean {
  const highest = new Int32Array(nSums);
  const lowest = new Int32Array(nSums);
  for (let c = 0; c < codes.length; c++) {
    if (codes[c] > 0) highest[sumOf[c]] += 2 * codes[c];
    else lowest[sumOf[c]] += 2 * codes[c];
  }
  return highest.some((sum) => sum > 32767) || lowest.some((sum) => sum < -32768);
}

/** Sums of 32 bits: `exact` of trit * code, `native` what comes of the lanes, `codes` those of the activations alone. */
export interface Dots {
  readonly exact: number;
  /** Of (trit + 1) * code, by lanes. */
  readonly native: number;
  readonly codes: number;
}

/** One row of weights, as their codes 0, 1, 2, with one row of activations. */
export function nativeDots(weights: Uint8Array, codes: Int8Array, sumOf: Uint16Array, nSums: number): Dots {
  const sums = new Int32Array(nSums);
  let sumOfCodes = 0;
  for (let c = 0; c < codes.length; c++) {
    sums[sumOf[c]] += weights[c] * codes[c];
    sumOfCodes += codes[c];
  }
  let total = 0;
  let native = 0;
  for (const sum of sums) {
    total += sum;
    native += (sum << 16) >> 16;
  }
  return { exact: total - sumOfCodes, native, codes: sumOfCodes };
}

/** What native makes of its sum. */
export function nativeOutput({ native, codes }: Dots, scale: number, weightScale: number): number {
  return f(f(f(f(native) - f(codes)) / scale) * weightScale);
}
