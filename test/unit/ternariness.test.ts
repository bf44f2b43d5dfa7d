import { describe, expect, it } from 'vitest';
import { decodeInto } from '../../src/tensors/decode.ts';
import { dtypeByName } from '../../src/tensors/dtype.ts';
import { encodeQ8_0 } from '../../src/tensors/q8_0.ts';
import { ternarinessOf } from '../../src/tensors/ternariness.ts';

const trits = Float32Array.from({ length: 4096 }, (_, i) => 0.3 * (((i * 7919) % 3) - 1));

describe('distance from ternary', () => {
  it('is nothing for -a, 0, a, whatever a and however many zeros', () => {
    expect(ternarinessOf(trits)).toEqual({ distance: 0, scale: Math.fround(0.3), isExact: true });
    const sparse = new Float32Array(1000);
    sparse[500] = -2;
    expect(ternarinessOf(sparse)).toEqual({ distance: 0, scale: 2, isExact: true });
    expect(ternarinessOf(new Float32Array(8))).toEqual({ distance: 0, scale: 0, isExact: true });
  });

  it('is small for what was ternary before rounding', () => {
    const jitter = trits.map((value, i) => value * (1 + 0.01 * Math.sin(i)));
    const bytes = encodeQ8_0(jitter);
    const rounded = new Float32Array(trits.length);
    decodeInto(dtypeByName('Q8_0'), bytes, 0, trits.length, rounded);
    const { distance, isExact, scale } = ternarinessOf(rounded);
    expect(isExact).toBe(false);
    expect(distance).toBeGreaterThan(0.001);
    expect(distance).toBeLessThan(0.01);
    expect(scale).toBeCloseTo(0.3, 2);
  });

  it('is large for a bell of floats', () => {
    // The sum of twelve uniform numbers of a small generator.
    let state = 1;
    const uniform = () => {
      state = (state * 48271) % 2147483647;
      return state / 2147483647;
    };
    const bell = Float32Array.from({ length: 20000 }, () => {
      let sum = -6;
      for (let i = 0; i < 12; i++) sum += uniform();
      return sum;
    });
    expect(ternarinessOf(bell).distance).toBeGreaterThan(0.4);
    expect(ternarinessOf(bell).distance).toBeLessThan(0.5);
  });
});
