/**
 * gelu by tanh against float64: how far the formula of the kernels is off, and where. The kernels' own agreement is the
 * conformance suite's business.
 */
import { describe, expect, it } from 'vitest';
import { gatedGelu } from '../../src/kernels/ts/activation.ts';

function gelu(x: number): number {
  const [gate, up, out] = [Float32Array.of(x), Float32Array.of(1), new Float32Array(1)];
  gatedGelu(out, gate, up, 1);
  return out[0];
}

/** As in the paper, in float64. */
function exact(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** Every exponent from 2^-40 to 2^100, both signs, and all of -12 .. 12 densely. */
const inputs = [
  ...Array.from({ length: 240_001 }, (_, i) => Math.fround((i - 120_000) / 10_000)),
  ...Array.from({ length: 1400 }, (_, i) => Math.fround(2 ** (-40 + i / 10))),
  ...Array.from({ length: 1400 }, (_, i) => Math.fround(-(2 ** (-40 + i / 10)))),
];

describe('gelu', () => {
  it('is off by at most 2e-7 of the larger of 1 and the input', () => {
    for (const x of inputs) {
      const error = Math.abs(gelu(x) - exact(x)) / Math.max(1, Math.abs(x));
      if (!(error <= 2e-7)) expect.fail(`gelu(${x}) is ${gelu(x)}, not ${exact(x)}`);
    }
  });

  it('is off by at most 4 ulp where the input is positive', () => {
    for (const x of inputs) {
      if (x <= 0) continue;
      const ulp = 2 ** (Math.floor(Math.log2(exact(x))) - 23);
      if (!(Math.abs(gelu(x) - exact(x)) <= 4 * ulp)) expect.fail(`gelu(${x}) is ${gelu(x)}, not ${exact(x)}`);
    }
  });

  it('keeps its ends: nothing of large negative numbers, all of large positive ones, NaN', () => {
    expect([gelu(-1e30), gelu(1e30), gelu(0), gelu(-0)]).toEqual([-0, Math.fround(1e30), 0, -0]);
    expect([gelu(Number.NaN), gelu(Infinity)]).toEqual([Number.NaN, Infinity]);
  });
});
