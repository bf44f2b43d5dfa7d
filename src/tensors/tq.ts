/**
 * What TQ1_0 and TQ2_0 share: blocks of 256 trits in a code of their own, and behind it a half-precision scale.
 * @module
 */

import { f16ToNumber, numberToF16 } from '../numeric/f16.ts';
import { blockCount, firstBlock, readF16, roundAway, wantFinite, writeF16 } from './blocks.ts';
import { wantScale, wantTrit } from './i2s.ts';

const ELEMENTS = 256;

export interface TernaryBlocks {
  readonly name: 'TQ1_0' | 'TQ2_0';
  /** Of one block. */
  readonly bytes: number;
  /** Where its scale is, behind the code. */
  readonly scaleAt: number;
  /** The trits of the block at byte `at`, taken as they are. */
  decodeBlock(bytes: Uint8Array, at: number, out: Int8Array, outAt: number): void;
  /** Writes the code of 256 trits into bytes that are zero. */
  encodeBlock(trits: Int8Array, out: Uint8Array, outAt: number): void;
}

/**
 * Trits first .. first + count (multiples of 256) and the scale of each of their blocks into `scales`. Any bytes decode to
 * something here; whoever wants zeros for blocks of scale 0 looks at the scale.
 */
export function decodeTrits(
  type: TernaryBlocks,
  bytes: Uint8Array,
  first: number,
  count: number,
  out: Int8Array,
  scales: Float32Array,
): void {
  const block0 = firstBlock(first, count, ELEMENTS);
  for (let b = 0; b < count / ELEMENTS; b++) {
    const at = (block0 + b) * type.bytes;
    type.decodeBlock(bytes, at, out, b * ELEMENTS);
    scales[b] = readF16(bytes, at + type.scaleAt);
  }
}

/** Values first .. first + count, both multiples of 256. */
export function decodeTernary(
  type: TernaryBlocks,
  bytes: Uint8Array,
  first: number,
  count: number,
  out: Float32Array,
  outAt = 0,
): void {
  const trits = new Int8Array(count);
  const scales = new Float32Array(count / ELEMENTS);
  decodeTrits(type, bytes, first, count, trits, scales);
  for (let i = 0; i < count; i++) out[outAt + i] = scales[i >> 8] * trits[i];
}

/** The scales of whole blocks. */
export function blockScales({ bytes: blockBytes, scaleAt }: TernaryBlocks, bytes: Uint8Array): Float32Array {
  return Float32Array.from({ length: bytes.length / blockBytes }, (_, b) => readF16(bytes, b * blockBytes + scaleAt));
}

/** A whole tensor from trits and one scale, which is rounded to half precision. Blocks of zeros get d = 0. */
export function encodeTernary(type: TernaryBlocks, trits: Int8Array, scale: number): Uint8Array<ArrayBuffer> {
  // As stored: a scale below half of 2^-24 would turn the whole tensor into zeros.
  wantScale(f16ToNumber(numberToF16(scale)), type.name);
  for (let i = 0; i < trits.length; i++) wantTrit(trits, i);
  const out = new Uint8Array(blockCount(trits.length, ELEMENTS) * type.bytes);
  for (let at = 0, from = 0; at < out.length; at += type.bytes, from += ELEMENTS) {
    const some = trits.subarray(from, from + ELEMENTS);
    type.encodeBlock(some, out, at);
    writeF16(out, at + type.scaleAt, some.some((trit) => trit !== 0) ? scale : 0);
  }
  return out;
}

/**
 * Floats as upstream's quantisers take them: the scale is the largest magnitude of a block, and what is at least half of it becomes
 * +-1. Exact for values that are ternary; for others, such as embeddings, most becomes 0.
 */
export function quantizeTernary(type: TernaryBlocks, values: Float32Array): Uint8Array<ArrayBuffer> {
  wantFinite(values);
  const out = new Uint8Array(blockCount(values.length, ELEMENTS) * type.bytes);
  const trits = new Int8Array(ELEMENTS);
  for (let at = 0, from = 0; at < out.length; at += type.bytes, from += ELEMENTS) {
    const some = values.subarray(from, from + ELEMENTS);
    const scale = some.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    for (let j = 0; j < ELEMENTS; j++) {
      const trit = roundAway(Math.fround(some[j] * inverse));
      // The inverse of a denormal is infinite: 0 times that is no number.
      trits[j] = Math.max(-1, Math.min(1, Number.isNaN(trit) ? 0 : trit));
    }
    type.encodeBlock(trits, out, at);
    writeF16(out, at + type.scaleAt, scale);
  }
  return out;
}
