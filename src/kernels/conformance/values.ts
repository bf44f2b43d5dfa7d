/**
 * Numbers for the cases, from a seed: ordinary ones and the awkward kinds on which kernels go wrong.
 * @module
 */

import { Rng, toFloat } from '../../numeric/rng.ts';

export type ValueKind =
  | 'normal' // bell-shaped, like activations
  | 'ties' // multiples of 1/16, the first 127/8: times the scale 8 of its row every other one ends in exactly .5
  | 'zeros' // all 0 and -0
  | 'extreme' // from 2^-149 to 2^100, both signs
  | 'special' // normal with a NaN and both infinities here and there
  | 'equal' // all the same positive number: every code becomes 127
  | 'negative'; // all the same negative number

/** `length` f32 values of a kind. */
export function values(kind: ValueKind, length: number, seed: number): Float32Array {
  const rng = Rng.fromSeed(seed);
  const uniform = () => rng.nextFloat() * 2 - 1;
  // Sum of four uniforms: bell-shaped enough, and made of exact operations only.
  const bell = () => uniform() + uniform() + uniform() + uniform();
  const make: Record<ValueKind, (i: number) => number> = {
    normal: bell,
    ties: (i) => (i === 0 ? 127 / 8 : Math.round(uniform() * 254) / 16),
    zeros: (i) => (i % 3 === 1 ? -0 : 0),
    extreme: () => extreme(rng),
    special: (i) => [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY][(i * 7 + seed) % 23] ?? bell(),
    equal: () => 0.75,
    negative: () => -3,
  };
  const out = new Float32Array(length);
  if (kind === 'normal') {
    fillBell(out, rng);
    return out;
  }
  const next = make[kind];
  for (let i = 0; i < length; i++) out[i] = next(i);
  return out;
}

/** Values at a time. */
const CHUNK = 1024;

/** What bell() of `values` gives; the weights of a suite are tens of millions of these, and took most of its time one by one. */
function fillBell(out: Float32Array, rng: Rng): void {
  const words = new Uint32Array(8 * Math.min(CHUNK, out.length));
  const uniform = (at: number) => toFloat(words[at], words[at + 1]) * 2 - 1;
  for (let from = 0; from < out.length; from += CHUNK) {
    const count = Math.min(CHUNK, out.length - from);
    rng.fillUint32(words.subarray(0, 8 * count));
    for (let i = 0; i < count; i++) {
      const at = 8 * i;
      out[from + i] = uniform(at) + uniform(at + 2) + uniform(at + 4) + uniform(at + 6);
    }
  }
}

/** A random exponent over nearly all of f32, subnormals included. */
function extreme(rng: Rng): number {
  const bits = new DataView(new ArrayBuffer(4));
  const exponent = rng.nextUint32() % 227; // 2^-127 and subnormals up to 2^99
  bits.setUint32(0, (((rng.nextUint32() & 1) << 31) | (exponent << 23) | (rng.nextUint32() & 0x7fffff)) >>> 0);
  return bits.getFloat32(0);
}

export type TritKind = 'random' | 'plus' | 'minus' | 'zero' | 'alternating';

/** `length` weights -1, 0, 1. */
export function trits(kind: TritKind, length: number, seed: number): Int8Array {
  const rng = Rng.fromSeed(seed);
  const make: Record<TritKind, (i: number) => number> = {
    random: () => (rng.nextUint32() % 3) - 1,
    plus: () => 1,
    minus: () => -1,
    zero: () => 0,
    alternating: (i) => (i % 2 === 0 ? 1 : -1),
  };
  const next = make[kind];
  const out = new Int8Array(length);
  for (let i = 0; i < length; i++) out[i] = next(i);
  return out;
}
