/**
 * Our own exp, log, pow, sin, cos and random numbers: accurate against the engine's (which is close, if not reproducible),
 * and pinned by digest, so that any change of a single bit is seen on every runtime.
 */
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { values } from '../../src/kernels/conformance/values.ts';
import { exp, expF32, pow2, roundHalfEven } from '../../src/numeric/exp.ts';
import { log, pow } from '../../src/numeric/log.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { sinCos, TRIG_MAX } from '../../src/numeric/trig.ts';

const digest = (data: Float64Array | Float32Array | Uint32Array) =>
  createHash('sha256')
    .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    .digest('hex')
    .slice(0, 16);

function inputs(count: number, from: number, to: number, seed: number): Float64Array {
  const rng = Rng.fromSeed(seed);
  return Float64Array.from({ length: count }, () => from + (to - from) * rng.nextFloat());
}

/** Largest |f(x) - g(x)| in units of the last place of an f64 near g(x). */
function worstUlp(xs: Float64Array, f: (x: number) => number, g: (x: number) => number): number {
  let worst = 0;
  for (const x of xs) {
    const want = g(x);
    const ulp = Math.max(2 ** -1074, 2 ** (Math.floor(Math.log2(Math.abs(want))) - 52));
    worst = Math.max(worst, Math.abs(f(x) - want) / ulp);
  }
  return worst;
}

describe('expF32', () => {
  it('is within 1.5 ulp of f32', () => {
    let worst = 0;
    for (const x64 of inputs(200_000, -87, 88, 1)) {
      const x = Math.fround(x64);
      const want = Math.exp(x);
      const ulp = 2 ** (Math.floor(Math.log2(want)) - 23);
      worst = Math.max(worst, Math.abs(expF32(x) - want) / ulp);
    }
    expect(worst).toBeLessThan(1.5);
    expect(worst).toBeGreaterThan(0.5); // the measure itself works: correct rounding would be 0.5
  });

  it('is exact or defined at the edges', () => {
    expect(expF32(0)).toBe(1);
    expect(expF32(-87.5)).toBe(0);
    expect(expF32(Number.NEGATIVE_INFINITY)).toBe(0);
    expect(expF32(88.5)).toBe(Number.POSITIVE_INFINITY);
    expect(expF32(Number.NaN)).toBeNaN();
    expect(expF32(88)).toBeLessThan(3.4e38);
  });

  it('gives these bits', () => {
    expect(digest(Float32Array.from(inputs(100_000, -90, 90, 2), (x) => expF32(Math.fround(x))))).toMatchInlineSnapshot(
      `"264bc640bcdb2398"`,
    );
  });
});

describe('exp, log, pow', () => {
  it('are within 1 ulp, or 2 for pow of small exponents', () => {
    expect(worstUlp(inputs(100_000, -700, 700, 3), exp, Math.exp)).toBeLessThan(1.1);
    expect(worstUlp(inputs(100_000, 1e-300, 1e300, 4), log, Math.log)).toBeLessThan(1.1);
    expect(worstUlp(inputs(100_000, 0.5, 2, 5), log, Math.log)).toBeLessThan(1.1);
    for (const x of inputs(10_000, -1, 0, 6)) expect(pow(500000, x) / 500000 ** x).toBeCloseTo(1, 14);
  });

  it('are defined at the edges', () => {
    expect([exp(0), exp(-800), exp(800), exp(Number.NaN)]).toEqual([1, 0, Number.POSITIVE_INFINITY, Number.NaN]);
    expect([log(1), log(0), log(-1), log(Number.POSITIVE_INFINITY)]).toEqual([
      0,
      Number.NEGATIVE_INFINITY,
      Number.NaN,
      Number.POSITIVE_INFINITY,
    ]);
    expect(log(5e-324)).toBeCloseTo(-744.4400719213812, 10);
    expect(exp(-744)).toBeGreaterThan(0);
  });

  it('give these bits', () => {
    expect(digest(inputs(50_000, -700, 700, 7).map(exp))).toMatchInlineSnapshot(`"79b972f020ce7c49"`);
    expect(digest(inputs(50_000, 0, 1000, 8).map(log))).toMatchInlineSnapshot(`"e86576c97b806fb6"`);
  });
});

describe('sinCos', () => {
  const pair = new Float64Array(2);
  const sin = (x: number) => {
    sinCos(x, pair);
    return pair[0];
  };
  const cos = (x: number) => {
    sinCos(x, pair);
    return pair[1];
  };

  it('is accurate for positions up to a million', () => {
    for (const [from, to] of [
      [-10, 10],
      [0, 32768],
      [0, 1_000_000],
    ]) {
      let worst = 0;
      for (const x of inputs(50_000, from, to, 9)) {
        worst = Math.max(worst, Math.abs(sin(x) - Math.sin(x)), Math.abs(cos(x) - Math.cos(x)));
      }
      expect(worst).toBeLessThan(2.3e-16);
    }
  });

  it('refuses what it cannot reduce', () => {
    expect(sin(TRIG_MAX * 2)).toBeNaN();
    expect(cos(Number.NaN)).toBeNaN();
    expect(sin(0)).toBe(0);
    expect(cos(0)).toBe(1);
  });

  it('gives these bits', () => {
    expect(digest(inputs(50_000, 0, 100_000, 10).map(sin))).toMatchInlineSnapshot(`"f2567ad3798a865a"`);
    expect(digest(inputs(50_000, 0, 100_000, 10).map(cos))).toMatchInlineSnapshot(`"0d798c3104b13297"`);
  });
});

describe('roundHalfEven and pow2', () => {
  it('rounds ties to even', () => {
    expect([0.5, 1.5, 2.5, -0.5, -1.5, 2.4, -2.6, 126.5].map(roundHalfEven)).toEqual([0, 2, 2, 0, -2, 2, -3, 126]);
  });

  it('makes powers of two', () => {
    for (let n = -1022; n <= 1023; n++) expect(pow2(n)).toBe(2 ** n);
  });
});

describe('Rng', () => {
  it('is xoshiro128** (first outputs of the reference for state 1, 2, 3, 4)', () => {
    const rng = Rng.fromState([1, 2, 3, 4]);
    expect(Array.from({ length: 4 }, () => rng.nextUint32())).toEqual([11520, 0, 5927040, 70819200]);
  });

  it('gives this stream', () => {
    const rng = Rng.fromSeed(42);
    expect(digest(Uint32Array.from({ length: 1000 }, () => rng.nextUint32()))).toMatchInlineSnapshot(
      `"d607c5f2900b1c36"`,
    );
  });

  it('fills arrays with the same stream, and goes on behind them', () => {
    const [one, all] = [Rng.fromSeed(2 ** 40 + 5), Rng.fromSeed(2 ** 40 + 5)];
    for (const length of [0, 1, 1000]) {
      const out = new Uint32Array(length);
      all.fillUint32(out);
      expect(out).toEqual(Uint32Array.from({ length }, () => one.nextUint32()));
      expect(all.state()).toEqual(one.state());
    }
  });

  it('makes normal values of a suite of four floats each, whatever their number', () => {
    for (const length of [0, 1, 1023, 1024, 1025, 5000]) {
      const rng = Rng.fromSeed(9);
      const uniform = () => rng.nextFloat() * 2 - 1;
      const expected = Float32Array.from({ length }, () => uniform() + uniform() + uniform() + uniform());
      expect(values('normal', length, 9)).toEqual(expected);
    }
  });

  it('resumes from its state, differs by seed, and fills [0, 1) evenly', () => {
    const a = Rng.fromSeed(7);
    a.nextFloat();
    const b = Rng.fromState(a.state());
    expect(b.nextFloat()).toBe(a.nextFloat());
    expect(Rng.fromSeed(8).nextUint32()).not.toBe(Rng.fromSeed(7).nextUint32());
    expect(Rng.fromSeed(2 ** 40).nextUint32()).not.toBe(Rng.fromSeed(0).nextUint32());
    const buckets = new Array<number>(10).fill(0);
    for (let i = 0; i < 100_000; i++) buckets[Math.floor(a.nextFloat() * 10)]++;
    for (const count of buckets) expect(Math.abs(count - 10_000)).toBeLessThan(500);
  });
});
