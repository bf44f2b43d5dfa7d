/** Vectors after the model: normalising as llama-embedding does, and few bits a value, packed and back. */
import { describe, expect, it } from 'vitest';
import {
  cosineSimilarity,
  dequantizeEmbedding,
  embeddingCodes,
  type QuantizedFormat,
  quantizeEmbedding,
} from '../../src/index.ts';
import { normalizeVector } from '../../src/model/embedding.ts';
import { random } from '../hostile/builder.ts';

function bell(length: number, seed: number): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length }, () => next() + next() + next() + next() - 2);
}

describe('normalizeVector', () => {
  const vector = Float32Array.of(3, -4, 0, 12);

  it.each([
    [2, [3 / 13, -4 / 13, 0, 12 / 13]],
    [1, [3 / 19, -4 / 19, 0, 12 / 19]],
    [0, [8190, -10920, 0, 32760]],
    [3, [3, -4, 0, 12].map((x) => x / Math.cbrt(27 + 64 + 1728))],
    [-1, [3, -4, 0, 12]],
  ])('p = %d', (p, want) => {
    const got = normalizeVector(vector, p);
    want.forEach((x, i) => {
      expect(got[i]).toBeCloseTo(x, Math.abs(x) > 1 ? 2 : 6);
    });
  });

  it('keeps zeros, survives the smallest and the largest numbers, and refuses what is no norm', () => {
    expect([...normalizeVector(new Float32Array(3), 2)]).toEqual([0, 0, 0]);
    for (const scale of [2 ** -149, 2 ** 126]) {
      for (const p of [1, 2, 7, 64]) {
        const got = normalizeVector(Float32Array.of(scale, -scale), p);
        expect(got[0]).toBeCloseTo(2 ** (-1 / p), 5);
        expect(got[1]).toBe(-got[0]);
      }
    }
    for (const p of [-2, 0.5, 65, Number.NaN]) expect(() => normalizeVector(vector, p)).toThrow(/normalise/);
  });
});

describe('quantizeEmbedding', () => {
  it('packs the first value into the highest bits', () => {
    const vector = Float32Array.of(1, -1, 0, 1, 1, 0, -1, -1, 1);
    expect([...quantizeEmbedding(vector, 'binary').bytes]).toEqual([0b10011000, 0b10000000]);
    expect([...quantizeEmbedding(vector, 'int2').bytes]).toEqual([0b01110001, 0b01001111, 0b01000000]);
    expect([...quantizeEmbedding(vector, 'int4').bytes]).toEqual([0x79, 0x07, 0x70, 0x99, 0x70]);
    expect([...new Int8Array(quantizeEmbedding(vector, 'int8').bytes.buffer)]).toEqual([
      127, -127, 0, 127, 127, 0, -127, -127, 127,
    ]);
  });

  const formats: [QuantizedFormat, number, number][] = [
    ['int8', 127, 1],
    ['int4', 7, 0.5],
    ['int2', 1, 0.25],
    ['binary', 1, 0.125],
  ];

  it.each(formats)('%s: bytes, range and size of error', (format, levels, bytesPerValue) => {
    for (const length of [1, 2, 3, 5, 8, 1023, 1024]) {
      const vector = bell(length, length);
      const stored = quantizeEmbedding(vector, format);
      expect(stored.bytes.length).toBe(Math.ceil(length * bytesPerValue));
      const codes = embeddingCodes(stored);
      expect(codes.every((code) => Math.abs(code) <= levels)).toBe(true);
      const back = dequantizeEmbedding(stored);
      back.forEach((x, i) => {
        const inRange = Math.abs(vector[i]) <= levels * stored.scale;
        if (inRange && format !== 'binary') expect(Math.abs(x - vector[i])).toBeLessThanOrEqual(stored.scale * 0.50001);
      });
      // What was stored is a fixed point: storing it again changes nothing.
      if (format === 'binary') expect(quantizeEmbedding(back, format).bytes).toEqual(stored.bytes);
    }
  });

  it('more bits, smaller errors; binary is the sign', () => {
    const vector = bell(1024, 7);
    const cosines = formats.map(([format]) =>
      cosineSimilarity(dequantizeEmbedding(quantizeEmbedding(vector, format)), vector),
    );
    expect(cosines).toEqual(cosines.slice().sort((a, b) => b - a));
    expect(cosines[0]).toBeGreaterThan(0.9999);
    const signs = embeddingCodes(quantizeEmbedding(vector, 'binary'));
    expect(signs.every((code, i) => code === (vector[i] > 0 ? 1 : -1))).toBe(true);
  });

  it('does not let one large component silence the others', () => {
    // As BitNet-embedding-0.6B's: one value of 0.68 among a thousand of some hundredths.
    const vector = bell(1024, 9).map((x, i) => (i === 1 ? 0.68 : x / 30));
    const byAbsmax = vector.map((x) => Math.round(x / (0.68 / 7)) * (0.68 / 7));
    expect(byAbsmax.filter((x) => x === 0).length).toBeGreaterThan(950);
    const codes = embeddingCodes(quantizeEmbedding(vector, 'int4'));
    expect(codes.filter((code) => code === 0).length).toBeLessThan(700);
    const error = (values: Float32Array) => values.reduce((sum, x, i) => sum + (x - vector[i]) ** 2, 0);
    expect(error(dequantizeEmbedding(quantizeEmbedding(vector, 'int4')))).toBeLessThan(0.9 * error(byAbsmax));
  });

  it('zeros stay zeros, and lies about the length are refused', () => {
    for (const [format] of formats) {
      const stored = quantizeEmbedding(new Float32Array(9), format);
      expect([stored.scale, ...dequantizeEmbedding(stored).map(Math.abs)]).toEqual(new Array(10).fill(0));
      expect(() => embeddingCodes({ ...stored, length: 25 })).toThrow(/bytes/);
    }
    expect(() => quantizeEmbedding(new Float32Array(1), 'int3' as 'int2')).toThrow(/int8, int4, int2, binary/);
    expect(() => cosineSimilarity([1], [1, 2])).toThrow(/lengths/);
    expect([cosineSimilarity([0], [0]), cosineSimilarity([0], [1]), cosineSimilarity([2], [-3])]).toEqual([1, 0, -1]);
  });
});
