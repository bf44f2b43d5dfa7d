/**
 * Random weights: for each tensor its own stream, begun from the seed and the tensor's name. So a tensor holds the same
 * numbers whatever type it is written as, and whatever else the file holds.
 *
 * Speed comes from tables: sixteen random bits pick four trits at once, or one value of an embedding.
 * @module
 */

import { f16ToNumber, numberToF16 } from '../numeric/f16.ts';
import { Rng } from '../numeric/rng.ts';

/** The stream of a tensor. */
export function streamOf(seed: number, name: string): Rng {
  const base = Rng.fromSeed(seed);
  const low = (base.nextUint32() ^ fnv1a(name)) >>> 0;
  // 32 + 21 bits are what an integer seed can carry.
  const high = base.nextUint32() & 0x1fffff;
  return Rng.fromSeed(high * 0x100000000 + low);
}

/**
 * (65536) Bytes of four two-bit codes 0 .. 2 each, all 81 equally often up to one part in 809.
 */
export function codeTable(): Uint8Array {
  const bytes: number[] = [];
  for (let byte = 0; byte < 256; byte++) if ((byte & (byte >> 1) & 0x55) === 0) bytes.push(byte);
  return Uint8Array.from({ length: 65536 }, (_, i) => bytes[(i * bytes.length) >>> 16]);
}

/** Fills `out` with bytes of random codes; an odd last byte takes a whole draw. */
export function fillCodes(rng: Rng, table: Uint8Array, out: Uint8Array): void {
  for (let i = 0; i < out.length; i += 2) {
    const bits = rng.nextUint32();
    out[i] = table[bits & 0xffff];
    // Beyond the end of a typed array a store does nothing.
    out[i + 1] = table[bits >>> 16];
  }
}

/**
 * The scale of a matrix with K inputs: products of unit activations with trits have variance 2/3, so this keeps their
 * sum at one. It is a half, so that TQ types and I2_S hold the very same matrix.
 */
export function scaleOf(columns: number): number {
  return f16ToNumber(numberToF16(1 / Math.sqrt((2 * columns) / 3)));
}

/**
 * (65536) Values about as normal as a sum of four uniform ones, of the given deviation, exact in half precision. Drawn
 * once and then picked from: an embedding has hundreds of millions of values, and needs no better.
 */
export function valueTable(deviation: number): Float32Array {
  const rng = Rng.fromSeed(1);
  const scale = deviation * Math.sqrt(3);
  return Float32Array.from({ length: 65536 }, () => {
    const sum = rng.nextFloat() + rng.nextFloat() + rng.nextFloat() + rng.nextFloat() - 2;
    return f16ToNumber(numberToF16(sum * scale));
  });
}

/** Fills `out` with random indices into a table of 65536. */
export function fillIndices(rng: Rng, out: Uint16Array): void {
  for (let i = 0; i < out.length; i += 2) {
    const bits = rng.nextUint32();
    out[i] = bits;
    out[i + 1] = bits >>> 16;
  }
}

/** Gains of a norm: near one, none of them one. */
export function gains(rng: Rng, count: number): Float32Array {
  return Float32Array.from({ length: count }, () => 1 + (rng.nextFloat() - 0.5) / 8);
}

/** FNV-1a. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}
