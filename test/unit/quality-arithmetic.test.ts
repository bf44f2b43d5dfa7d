/** The arithmetic of quality figures against values from elsewhere: libstdc++, R's formulas, Math's own functions. */
import { describe, expect, it } from 'vitest';
import { memorySource } from '../../src/formats/sources.ts';
import { BaseFile, encodeBaseHeader, encodeLogProbs, rowWords } from '../../src/quality/base-file.ts';
import { commonPrefix } from '../../src/quality/choices.ts';
import { compareRow } from '../../src/quality/divergence.ts';
import { drawScaled, drawUniform, MersenneTwister, uniformBelow } from '../../src/quality/mersenne.ts';
import { firstScored, splitDocuments } from '../../src/quality/perplexity.ts';
import { Score } from '../../src/quality/score.ts';
import { covarianceOf, meanOf, percentileOf, shareOf, wilsonInterval } from '../../src/quality/statistics.ts';
import { normaliserOf } from '../../src/sampling/softmax.ts';

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

describe('std::mt19937', () => {
  it('has the numbers of the C++ standard', () => {
    const standard = new MersenneTwister(5489);
    let last = 0;
    for (let i = 0; i < 10000; i++) last = standard.next();
    expect(last).toBe(4123659995); // [rand.predef]: the 10000th of a default-constructed one
    const one = new MersenneTwister(1);
    expect([one.next(), one.next(), one.next()]).toEqual([1791095845, 4282876139, 3093770124]);
  });

  // From a program of a few lines with GCC 12's libstdc++: the loops of perplexity.cpp over 0 .. n - 1.
  it('draws the tasks that llama-perplexity draws', () => {
    expect(drawUniform(10, 99)).toEqual([4, 9, 6, 8, 0, 1, 3, 7, 2, 5]);
    expect(drawUniform(10042, 8)).toEqual([4187, 10013, 7233, 9363, 1, 1286, 3036, 10032]);
    expect(drawUniform(1000003, 5)).toEqual([417023, 997187, 720326, 932559, 114]);
    expect(drawScaled(10, 10)).toEqual([4, 8, 5, 6, 0, 7, 1, 2, 9, 3]);
    expect(drawScaled(1267, 12)).toEqual([528, 1262, 911, 1178, 0, 161, 381, 1258, 184, 296, 116, 498]);
    const hash = (drawn: readonly number[]) => drawn.reduce((h, i) => (Math.imul(h, 31) + i) >>> 0, 0);
    expect(hash(drawUniform(10042, 10042))).toBe(3869602317);
    expect(hash(drawScaled(14042, 14041))).toBe(1393098212);
    expect(drawUniform(1, 1)).toEqual([0]);
    expect(drawScaled(0, 3)).toEqual([]);
  });

  it('refuses draws that would favour some: of 3 * 10^9, nearly every third', () => {
    const rng = new MersenneTwister(1);
    expect(Array.from({ length: 8 }, () => uniformBelow(rng, 3_000_000_000))).toEqual([
      1251065995, 2991554424, 2160973467, 2797672083, 384373343, 440267677, 708266928, 277015786,
    ]);
  });

  it('draws every task once', () => {
    for (const total of [2, 3, 1000, 8191]) {
      expect([...drawScaled(total, total)].sort((a, b) => a - b)).toEqual(Array.from({ length: total }, (_, i) => i));
    }
  });
});

describe('statistics', () => {
  const values = [0.5, 1.25, 2, 0.75, 3, 1, 0.25, 4, 2.5, 1.5, 2.25, 0.125];
  const squares = sum(values.map((x) => x * x));

  it('give a mean its standard error, from eleven values on', () => {
    const mean = sum(values) / values.length;
    const error = Math.sqrt(sum(values.map((x) => (x - mean) ** 2)) / values.length / (values.length - 1));
    const estimate = meanOf(sum(values), squares, values.length);
    expect(estimate.value).toBe(mean);
    expect(estimate.error).toBeCloseTo(error, 12);
    expect(meanOf(10, 20, 10).error).toBe(0);
    expect(meanOf(0, 0, 0)).toEqual({ value: 0, error: 0 });
    expect(covarianceOf(sum(values), sum(values), squares, values.length)).toBeCloseTo(error * error, 12);
    expect(covarianceOf(9, 9, 9, 9)).toBe(0);
  });

  it('give shares their errors and intervals', () => {
    expect(shareOf(30, 120)).toEqual({ value: 0.25, error: Math.sqrt((0.25 * 0.75) / 119) });
    expect(shareOf(1, 1)).toEqual({ value: 1, error: 0 });
    // R: prop.test(x, n, correct = FALSE)$conf.int
    const close = ([low, high]: readonly [number, number], a: number, b: number) => {
      expect(low).toBeCloseTo(a, 7);
      expect(high).toBeCloseTo(b, 7);
    };
    close(wilsonInterval(8, 10), 0.4901625, 0.9433178);
    close(wilsonInterval(0, 10), 0, 0.2775328);
    close(wilsonInterval(10, 10), 0.7224672, 1);
  });

  it('interpolate percentiles', () => {
    const sorted = Float32Array.from([1, 2, 4, 8, 16]);
    expect([0, 0.25, 0.5, 0.625, 0.9, 1].map((fraction) => percentileOf(sorted, fraction))).toEqual([
      1,
      2,
      4,
      6,
      expect.closeTo(12.8, 9),
      16,
    ]);
    expect(percentileOf([7], 0.3)).toBe(7);
  });

  it('sum scores, and take them up again to the bit', () => {
    const score = new Score();
    for (const x of values) score.add(-x);
    const mean = sum(values) / values.length;
    expect(score.perplexity).toBeCloseTo(Math.exp(mean), 12);
    expect(score.error).toBeCloseTo(Math.exp(mean) * meanOf(sum(values), squares, values.length).error, 12);
    const half = new Score();
    for (const x of values.slice(0, 5)) half.add(-x);
    const resumed = new Score();
    resumed.restore(JSON.parse(JSON.stringify(half.save())));
    for (const x of values.slice(5)) resumed.add(-x);
    expect([resumed.perplexity, resumed.error]).toEqual([score.perplexity, score.error]);
  });
});

it('windows are scored from behind their middle on', () => {
  // llama.cpp: first = n_ctx / 2, and tokens[first + 1] is the first that is scored.
  expect([3, 4, 5, 512].map(firstScored)).toEqual([2, 3, 3, 257]);
});

it('documents are split at the separator and lose the line ends around them', () => {
  expect(splitDocuments('\na b\n<|>\r\n<|>c\n\n', '<|>')).toEqual(['a b', 'c']);
});

it('texts share their beginning, but each keeps a token to be scored', () => {
  expect(
    commonPrefix([
      [1, 2, 3],
      [1, 2, 4, 5],
    ]),
  ).toBe(2);
  expect(
    commonPrefix([
      [1, 2],
      [1, 2, 3],
    ]),
  ).toBe(1);
  expect(
    commonPrefix([
      [1, 2, 3],
      [1, 2, 3],
    ]),
  ).toBe(2);
  expect(commonPrefix([[1], [2]])).toBe(0);
});

describe('rows of a base file', () => {
  const logits = Float32Array.from([3.5, -1, 0.25, -30, 3.5, 1.125, -11.9]);

  const encoded = (row: Float32Array) => {
    const view = new DataView(new ArrayBuffer(2 * rowWords(row.length)));
    encodeLogProbs(row, normaliserOf(row), view);
    return view;
  };

  it('have a scale, the least value, and codes', () => {
    expect(rowWords(7)).toBe(12);
    expect(rowWords(8)).toBe(12);
    const view = encoded(logits);
    // Reach: from 3.5 down to 3.5 - 16, for -30 is below that.
    const scale = Math.fround(16 / 65535);
    expect(view.getFloat32(0, true)).toBe(scale);
    const total = Math.log(sum([...logits].map((x) => Math.exp(x - 3.5))));
    expect(view.getFloat32(4, true)).toBeCloseTo(-16 - total, 5);
    const codes = Array.from(logits, (_, id) => view.getUint16(8 + 2 * id, true));
    expect(codes).toEqual([65535, 47103, 52223, 0, 65535, 55807, 2458]);
    for (const [id, logit] of logits.entries()) {
      if (id === 3) continue;
      const back = view.getFloat32(4, true) + scale * codes[id];
      expect(Math.abs(back - (logit - 3.5 - total))).toBeLessThan(16 / 65535 / 2 + 2e-6);
    }
    expect(view.getUint16(8 + 14, true)).toBe(0);
  });

  it('reach only as far as the logits do, and no way at all where all are equal', () => {
    const near = encoded(Float32Array.from([1, 0, 0.5]));
    expect(near.getFloat32(0, true)).toBe(Math.fround(1 / 65535));
    expect([0, 1, 2].map((id) => near.getUint16(8 + 2 * id, true))).toEqual([65535, 0, 32768]);
    const equal = encoded(Float32Array.from([2, 2]));
    expect(equal.getFloat32(0, true)).toBe(0);
    expect(equal.getFloat32(4, true)).toBe(Math.fround(-Math.LN2));
    expect([0, 1].map((id) => equal.getUint16(8 + 2 * id, true))).toEqual([0, 0]);
  });

  it('are compared by the formula of Kullback and Leibler', async () => {
    const windows = { size: 3, count: 1, ids: [0, 1, 2] };
    const bytes = new Uint8Array([...encodeBaseHeader(windows, 7), ...new Uint8Array(encoded(logits).buffer)]);
    const base = await BaseFile.open(memorySource(bytes, 'base'));
    expect(base.windows).toEqual(windows);
    const [row] = await base.rows(0);
    const own = Float32Array.from([1, 2, 3, -1, 0, 2.5, -2]);
    const logSum = (row: Float32Array) => Math.log(sum([...row].map(Math.exp)));
    const p = Array.from(own, (x) => x - logSum(own));
    const q = Array.from(logits, (x) => x - logSum(logits));
    for (const target of [0, 2, 5]) {
      const found = compareRow(own, normaliserOf(own), row, target);
      expect(found.nats).toBeCloseTo(-p[target], 10);
      expect(found.baseNats).toBeCloseTo(-q[target], 3);
      expect(found.divergence).toBeCloseTo(sum(q.map((x, i) => Math.exp(x) * (x - p[i]))), 3);
      expect(found.difference).toBeCloseTo(Math.exp(p[target]) - Math.exp(q[target]), 4);
      expect(found.sameTop).toBe(false);
    }
    // The base's first of two equals is what counts.
    expect(compareRow(logits, normaliserOf(logits), row, 0)).toMatchObject({ sameTop: true });
    const other = Float32Array.from([3.4, -1, 0.25, -30, 3.5, 1.125, -11.9]);
    expect(compareRow(other, normaliserOf(other), row, 0)).toMatchObject({ sameTop: false });
    const same = compareRow(logits, normaliserOf(logits), row, 0);
    expect(Math.abs(same.divergence)).toBeLessThan(1e-4);
    expect(Math.abs(same.difference)).toBeLessThan(1e-4);
  });
});
