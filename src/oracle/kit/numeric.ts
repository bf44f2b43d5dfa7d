/**
 * Vectors of single numbers: conversions of halves and bfloat16, and the elementary functions that every result goes through.
 * Libraries differ in the last place of exp, log, pow, sin and cos; these are the bits of this project's own.
 * @module
 */

import { bf16ToNumber, encodeBF16s } from '../../numeric/bf16.ts';
import { exp, expF32 } from '../../numeric/exp.ts';
import { encodeF16s, f16ToNumber } from '../../numeric/f16.ts';
import { log, pow } from '../../numeric/log.ts';
import { Rng } from '../../numeric/rng.ts';
import { sinCos } from '../../numeric/trig.ts';
import { array } from './array.ts';
import type { Vector } from './types.ts';

/** A last place of f64, for functions of another library. */
const LAST_PLACE = 2 ** -51;

export function* numericVectors(): Generator<Vector> {
  yield* conversions();
  yield* exponentials();
  yield* trigonometry();
  yield* randomNumbers();
}

function* conversions(): Generator<Vector> {
  const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
  yield {
    name: 'f16ToF32/all',
    op: 'f16ToF32',
    parameters: {},
    inputs: { bits: array(all, 65536) },
    outputs: { values: array(Float32Array.from(all, f16ToNumber), 65536) },
  };
  // Every exponent and sign, with fractions at both ends and in the middle.
  const some = Uint16Array.from({ length: 512 * 4 }, (_, i) => ((i >> 2) << 7) | [0, 1, 0x40, 0x7f][i & 3]);
  yield {
    name: 'bf16ToF32/some',
    op: 'bf16ToF32',
    parameters: {},
    inputs: { bits: array(some, some.length) },
    outputs: { values: array(Float32Array.from(some, bf16ToNumber), some.length) },
  };
  for (const [op, encode, cut] of [
    ['f32ToF16', encodeF16s, 13],
    ['f32ToBf16', encodeBF16s, 16],
  ] as const) {
    const x = awkward(cut);
    const bytes = new Uint8Array(2 * x.length);
    encode(x, 0, x.length, bytes);
    const bits = Uint16Array.from(x, (_, i) => bytes[2 * i] | (bytes[2 * i + 1] << 8));
    yield {
      name: `${op}/awkward`,
      op,
      parameters: {},
      inputs: { x: array(x, x.length) },
      outputs: { bits: array(bits, bits.length) },
    };
  }
}

/** Every exponent, with fractions on, just below and just above what `cut` lost bits round at, odd and even; no NaN. */
function awkward(cut: number): Float32Array {
  const half = 1 << (cut - 1);
  const fractions = [0, 1, half - 1, half, half + 1, 3 * half - 1, 3 * half, 3 * half + 1, 0x7fffff, 0x7fffff - half];
  const bits: number[] = [];
  for (let exponent = 0; exponent < 255; exponent++) {
    for (const fraction of fractions) bits.push(((exponent << 23) | fraction) >>> 0);
  }
  bits.push(0x7f800000);
  const signed = Uint32Array.from([...bits, ...bits.map((one) => (one | 0x80000000) >>> 0)]);
  return new Float32Array(signed.buffer);
}

function* exponentials(): Generator<Vector> {
  const rng = Rng.fromSeed(900);
  const uniform = (low: number, high: number) => low + (high - low) * rng.nextFloat();
  const edges = [0, -0, 1, -1, 88, 88.00001, -87, -87.00001, 1e-10, -1e-10, 700, -700, 710, -746, Infinity, -Infinity];
  const x32 = Float32Array.from([...edges, Number.NaN, ...Array.from({ length: 2000 }, () => uniform(-89, 89))]);
  yield {
    name: 'expF32/range',
    op: 'expF32',
    parameters: {},
    inputs: { x: array(x32, x32.length) },
    outputs: { out: array(x32.map(expF32), x32.length) },
    bound: { relative: 2 ** -22, absolute: 2e-38 },
  };
  const x = Float64Array.from([...edges, Number.NaN, ...Array.from({ length: 1000 }, () => uniform(-740, 709))]);
  yield {
    name: 'exp/range',
    op: 'exp',
    parameters: {},
    inputs: { x: array(x, x.length) },
    outputs: { out: array(x.map(exp), x.length) },
    bound: { relative: 2 ** -51, absolute: 1e-323 },
  };
  const positive = Float64Array.from([
    ...[0, -0, 1, -1, 2, 0.5, 5e-324, 2 ** -1022, Infinity, Number.NaN, 1 + 2 ** -52, 1 - 2 ** -53],
    ...Array.from({ length: 500 }, () => uniform(0, 4)),
    ...Array.from({ length: 500 }, () => rng.nextFloat() * 2 ** (rng.nextUint32() % 600)),
  ]);
  yield {
    name: 'log/range',
    op: 'log',
    parameters: {},
    inputs: { x: array(positive, positive.length) },
    outputs: { out: array(positive.map(log), positive.length) },
    bound: { relative: 2 ** -51, absolute: 2 ** -52 },
  };
  // What rope asks for: base^(-2 i / d).
  const y = Float64Array.from({ length: 3 * 64 }, (_, i) => (-2 * (i % 64)) / 128);
  const bases = Float64Array.from(y, (_, i) => [10000, 500000, 1e6][Math.floor(i / 64)]);
  yield {
    name: 'pow/rope',
    op: 'pow',
    parameters: {},
    inputs: { base: array(bases, bases.length), y: array(y, y.length) },
    outputs: {
      out: array(
        Float64Array.from(y, (one, i) => pow(bases[i], one)),
        y.length,
      ),
    },
    bound: { relative: 2 ** -48, absolute: 0 },
  };
}

function* trigonometry(): Generator<Vector> {
  const rng = Rng.fromSeed(901);
  const x = Float64Array.from([
    ...[0, -0, 1, -1, Math.PI / 4, Math.PI / 2, Math.PI, 1e-9, 1600000, -1600000],
    ...Array.from({ length: 500 }, () => rng.nextFloat() * 7 - 3.5),
    ...Array.from({ length: 500 }, () => rng.nextFloat() * 1_600_000),
  ]);
  const [sin, cos] = [new Float64Array(x.length), new Float64Array(x.length)];
  const pair = new Float64Array(2);
  for (const [i, value] of x.entries()) {
    sinCos(value, pair);
    [sin[i], cos[i]] = pair;
  }
  yield {
    name: 'sinCos/range',
    op: 'sinCos',
    parameters: {},
    inputs: { x: array(x, x.length) },
    outputs: { sin: array(sin, x.length), cos: array(cos, x.length) },
    bound: { relative: LAST_PLACE, absolute: 2 ** -52 },
  };
}

/** The stream behind every seed. */
function* randomNumbers(): Generator<Vector> {
  const seeds = [0, 1, 7, 42, 4294967295, 4294967296, 1234567890123];
  const words = new Uint32Array(seeds.length * 64);
  const floats = new Float64Array(seeds.length * 16);
  const states = new Uint32Array(seeds.length * 4);
  for (const [row, seed] of seeds.entries()) {
    states.set(Rng.fromSeed(seed).state(), 4 * row);
    const [first, second] = [Rng.fromSeed(seed), Rng.fromSeed(seed)];
    for (let i = 0; i < 64; i++) words[64 * row + i] = first.nextUint32();
    for (let i = 0; i < 16; i++) floats[16 * row + i] = second.nextFloat();
  }
  yield {
    name: 'rng/streams',
    op: 'rng',
    parameters: {},
    inputs: { seeds: array(Float64Array.from(seeds), seeds.length) },
    outputs: {
      states: array(states, seeds.length, 4),
      words: array(words, seeds.length, 64),
      floats: array(floats, seeds.length, 16),
    },
  };
}
