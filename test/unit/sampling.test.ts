import { describe, expect, it } from 'vitest';
import { BitnetError } from '../../src/errors.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { createSampler, resolveSampling, type SamplingOptions } from '../../src/sampling/chain.ts';
import { greedy } from '../../src/sampling/greedy.ts';
import { logProbability, normaliserOf } from '../../src/sampling/softmax.ts';

function sampler(options: SamplingOptions, vocabularySize: number, newlineId?: number) {
  return createSampler(resolveSampling({ seed: 1, ...options }), { vocabularySize, newlineId });
}

/** Logits whose softmax is exactly these weights, up to rounding to f32. */
const fromWeights = (...weights: number[]) => Float32Array.from(weights, (w) => Math.log(w));

/** A row that looks like a language model's: a few likely tokens, a long tail. */
function randomRow(seed: number, size: number, spread = 4): Float32Array {
  const rng = Rng.fromSeed(seed);
  return Float32Array.from({ length: size }, () => {
    let sum = -6;
    for (let i = 0; i < 12; i++) sum += rng.nextFloat();
    return sum * spread;
  });
}

/** Every token that comes out in `draws` draws, with its count. */
function histogram(options: SamplingOptions, logits: Float32Array, draws: number): number[] {
  const chain = sampler(options, logits.length);
  const counts = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < draws; i++) counts[chain.sample(logits)]++;
  return counts;
}

const support = (counts: number[]) => counts.flatMap((count, id) => (count > 0 ? [id] : []));

const codeOf = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    if (error instanceof BitnetError) return `${error.code}: ${error.facts.where}`;
    throw error;
  }
  return 'no error';
};

const OPEN = { topK: 0, topP: 1, minP: 0, temperature: 1 } as const;

describe('truncation', () => {
  // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625 of tokens 3, 0, 4, 1, 2.
  const row = fromWeights(0.25, 0.0625, 0.0625, 0.5, 0.125);

  it('top-k keeps k, the lower id first among equals', () => {
    expect(support(histogram({ ...OPEN, topK: 2 }, row, 400))).toEqual([0, 3]);
    expect(support(histogram({ ...OPEN, topK: 4 }, row, 400))).toEqual([0, 1, 3, 4]);
    expect(support(histogram({ ...OPEN, topK: 99 }, row, 400))).toEqual([0, 1, 2, 3, 4]);
    expect(support(histogram({ ...OPEN, topK: -1 }, row, 400))).toEqual([0, 1, 2, 3, 4]);
  });

  it('top-p keeps up to and including the token that reaches p', () => {
    expect(support(histogram({ ...OPEN, topP: 0 }, row, 400))).toEqual([3]);
    expect(support(histogram({ ...OPEN, topP: 0.49 }, row, 400))).toEqual([3]);
    expect(support(histogram({ ...OPEN, topP: 0.51 }, row, 400))).toEqual([0, 3]);
    expect(support(histogram({ ...OPEN, topP: 0.76 }, row, 400))).toEqual([0, 3, 4]);
    // With 1 it is off: also what vanishes in the sum may be drawn, if the temperature is high.
    expect(support(histogram({ ...OPEN, temperature: 40 }, Float32Array.of(-40, 0), 400))).toEqual([0, 1]);
  });

  it('top-p counts shares of what top-k left', () => {
    // Of tokens 3 and 0 alone, token 3 has 2/3.
    expect(support(histogram({ ...OPEN, topK: 2, topP: 0.66 }, row, 400))).toEqual([3]);
    expect(support(histogram({ ...OPEN, topK: 2, topP: 0.67 }, row, 400))).toEqual([0, 3]);
  });

  it('min-p compares with the most likely token, before temperature', () => {
    expect(support(histogram({ ...OPEN, minP: 0.24 }, row, 400))).toEqual([0, 3, 4]);
    expect(support(histogram({ ...OPEN, minP: 0.26, temperature: 5 }, row, 400))).toEqual([0, 3]);
    expect(support(histogram({ ...OPEN, minP: 1 }, row, 400))).toEqual([3]);
  });

  it('never draws what is impossible', () => {
    const banned = Float32Array.of(0, -Infinity, 0, -Infinity);
    expect(support(histogram(OPEN, banned, 400))).toEqual([0, 2]);
    expect(support(histogram({ ...OPEN, logitBias: { 0: -Infinity } }, banned, 400))).toEqual([2]);
  });
});

describe('distribution', () => {
  /** Pearson's statistic; 27.88 is the 0.999 quantile for 9 degrees of freedom. */
  function chiSquare(counts: number[], probabilities: number[]): number {
    const draws = counts.reduce((a, b) => a + b);
    return counts.reduce(
      (sum, count, i) => sum + (count - draws * probabilities[i]) ** 2 / (draws * probabilities[i]),
      0,
    );
  }

  it.each([0.5, 1, 1.7])('follows softmax at temperature %d', (temperature) => {
    const row = Float32Array.from({ length: 10 }, (_, i) => Math.sin(i * 2.1) * 1.5);
    const weights = Array.from(row, (logit) => Math.exp(logit / temperature));
    const total = weights.reduce((a, b) => a + b);
    const counts = histogram({ ...OPEN, temperature }, row, 20000);
    expect(
      chiSquare(
        counts,
        weights.map((w) => w / total),
      ),
    ).toBeLessThan(27.88);
  });
});

describe('greedy', () => {
  it('takes the largest, the lowest id among equals', () => {
    expect(greedy(Float32Array.of(1, 3, 2, 3))).toBe(1);
    expect(greedy(Float32Array.of(-0, 0))).toBe(0);
    expect(sampler({ temperature: 0 }, 4).sample(Float32Array.of(-9, -Infinity, -3, -3))).toBe(2);
    expect(sampler({ temperature: -1, topK: 1 }, 2).sample(Float32Array.of(1, 2))).toBe(1);
  });

  it('equals a draw that can only go one way', () => {
    const row = randomRow(5, 3000);
    expect(sampler({ topK: 1 }, 3000).sample(row)).toBe(greedy(row));
    expect(sampler({ temperature: 1e-300 }, 3000).sample(row)).toBe(greedy(row));
  });
});

describe('penalties', () => {
  const free = { temperature: 0, repeatPenalty: 1 } as const;

  it('divide positive logits, multiply the others', () => {
    const chain = sampler({ ...free, repeatPenalty: 2 }, 3);
    chain.accept(0);
    expect(chain.sample(Float32Array.of(4, 1.9, 0))).toBe(0);
    expect(chain.sample(Float32Array.of(4, 2.1, 0))).toBe(1);
    expect(chain.sample(Float32Array.of(-1, -1.9, -9))).toBe(1);
    expect(chain.sample(Float32Array.of(-1, -2.1, -9))).toBe(0);
  });

  it('subtract presence once and frequency per occurrence', () => {
    const chain = sampler({ ...free, presencePenalty: 1, frequencyPenalty: 0.5 }, 2);
    chain.accept(0);
    chain.accept(0);
    expect(chain.sample(Float32Array.of(2.1, 0))).toBe(0);
    chain.accept(0); // 1 + 3 * 0.5
    expect(chain.sample(Float32Array.of(2.1, 0))).toBe(1);
  });

  it('forget what has left the window', () => {
    const stream = (repeatLastN: number) => {
      const chain = sampler({ ...free, presencePenalty: 5, repeatLastN }, 4);
      for (const id of [0, 0, 1, 2]) chain.accept(id);
      return chain.sample(Float32Array.of(4, 3, 2, 1));
    };
    expect(stream(0)).toBe(0);
    expect(stream(1)).toBe(0);
    expect(stream(2)).toBe(0);
    expect(stream(3)).toBe(3);
    expect(stream(4)).toBe(3);
    expect(stream(-1)).toBe(3);
  });

  it('leave the newline alone unless asked', () => {
    for (const [penalizeNewline, expected] of [
      [false, 1],
      [true, 0],
    ] as const) {
      const chain = sampler({ ...free, presencePenalty: 5, penalizeNewline }, 2, 1);
      chain.accept(1);
      expect(chain.sample(Float32Array.of(1, 2))).toBe(expected);
    }
  });

  it('come after the bias, and the caller keeps its logits', () => {
    const chain = sampler({ ...free, repeatPenalty: 2, logitBias: new Map([[0, 3]]) }, 2);
    chain.accept(0);
    const row = Float32Array.of(-1, 1.1); // (-1 + 3) / 2 = 1
    expect(chain.sample(row)).toBe(1);
    expect([...row]).toEqual([-1, Math.fround(1.1)]);
  });
});

describe('log-probability', () => {
  it.each([0, 1, 2])('refuses a NaN in place %d, whatever stands around it', (at) => {
    const row = Float32Array.of(1, 5, 2);
    row[at] = Number.NaN;
    for (const compute of [() => normaliserOf(row), () => logProbability(row, 2)]) {
      expect(compute).toThrow(expect.objectContaining({ code: 'not-finite' }));
    }
  });

  it('is log-softmax of the raw row', () => {
    const chain = sampler({ logitBias: { 0: 5 } }, 3);
    const row = fromWeights(0.5, 0.25, 0.25);
    expect(chain.logprob(row, 0)).toBeCloseTo(Math.log(0.5), 6);
    expect(chain.logprob(row, 2)).toBeCloseTo(Math.log(0.25), 6);
    expect(chain.logprob(Float32Array.of(0, -Infinity, 0), 1)).toBe(-Infinity);
    expect(codeOf(() => chain.logprob(Float32Array.of(0, NaN, 0), 0))).toBe('not-finite: logits');
  });
});

describe('refusals', () => {
  it('names the option', () => {
    const bad: SamplingOptions[] = [
      { temperature: NaN },
      { topK: 1.5 },
      { topP: 1.01 },
      { topP: -0.1 },
      { minP: 2 },
      { repeatPenalty: 0 },
      { repeatLastN: -2 },
      { presencePenalty: Infinity },
      { frequencyPenalty: NaN },
      { seed: -2 },
      { seed: 0.5 },
    ];
    for (const options of bad) {
      expect(codeOf(() => resolveSampling(options))).toBe(`bad-argument: ${Object.keys(options)[0]}`);
    }
    expect(codeOf(() => resolveSampling({ logitBias: { 3: NaN } }))).toBe('bad-argument: logitBias[3]');
    expect(codeOf(() => resolveSampling({ logitBias: { x: 1 } }))).toBe('bad-argument: logitBias');
    expect(codeOf(() => sampler({ logitBias: { 4: 1 } }, 4))).toBe('bad-argument: logitBias');
    expect(codeOf(() => sampler({}, 4).accept(4))).toBe('bad-token: token');
    expect(codeOf(() => sampler({}, 4).sample(new Float32Array(3)))).toBe('bad-argument: logits');
    for (const id of [4, -1, 0.5]) {
      expect(codeOf(() => sampler({}, 4).logprob(new Float32Array(4), id))).toBe('bad-token: token');
    }
    for (const size of [0, 2 ** 21 + 1]) expect(codeOf(() => sampler({}, size))).toBe('bad-argument: vocabularySize');
    for (const size of [1, 2 ** 21]) expect(codeOf(() => sampler({}, size))).toBe('no error');
  });

  it.each([{ temperature: 0 }, {}, { topK: 0 }, OPEN, { topK: 2000 }])(
    'refuses rows without a distribution under %o',
    (options) => {
      const size = 3000;
      const chain = sampler(options, size);
      for (const at of [0, 39, 40, 2999]) {
        expect(codeOf(() => chain.sample(randomRow(1, size).fill(NaN, at, at + 1)))).toBe(`not-finite: logits[${at}]`);
        expect(codeOf(() => chain.sample(randomRow(1, size).fill(Infinity, at, at + 1)))).toBe('not-finite: logits');
      }
      expect(codeOf(() => chain.sample(new Float32Array(size).fill(-Infinity)))).toBe('not-finite: logits');
    },
  );
});

describe('seed', () => {
  it('is drawn when left open, and reported', () => {
    for (const options of [{}, { seed: -1 }]) {
      const { seed } = createSampler(resolveSampling(options), { vocabularySize: 2 });
      expect(seed).toBeGreaterThanOrEqual(0);
      expect(seed).toBeLessThan(2 ** 32);
    }
    expect(resolveSampling({ seed: 2 ** 40 }).seed).toBe(2 ** 40);
  });
});

/** The chain once more, straight from its definition: sort everything, then cut, with `Math`'s own functions. */
function naive(options: SamplingOptions, rng: Rng, row: Float32Array): number {
  const { topK, topP, minP, temperature } = resolveSampling(options);
  let list = [...row].map((logit, id) => ({ id, logit }));
  list.sort((a, b) => b.logit - a.logit || a.id - b.id);
  if (topK > 0) list = list.slice(0, topK);
  const weigh = (t: number) => list.map(({ logit }) => Math.exp((logit - list[0].logit) / t));
  if (topP < 1) {
    const weights = weigh(1);
    const total = weights.reduce((a, b) => a + b);
    const last = sums(weights).findIndex((sum) => sum >= topP * total);
    list = list.slice(0, last < 0 ? list.length : last + 1);
  }
  if (minP > 0) list = list.filter(({ logit }) => logit >= list[0].logit + Math.log(minP));
  const weights = weigh(temperature);
  const target = rng.nextFloat() * weights.reduce((a, b) => a + b);
  return list[sums(weights).findIndex((sum) => sum > target)].id;
}

/** Running totals. */
function sums(values: number[]): number[] {
  let sum = 0;
  return values.map((value) => {
    sum += value;
    return sum;
  });
}

describe('streams', () => {
  const settings: SamplingOptions[] = [
    {},
    OPEN,
    { topK: 0 },
    { topK: 0, topP: 0.999, minP: 0, temperature: 1.5 },
    { topK: 0, topP: 1, minP: 1e-4 },
    { topK: 1500, topP: 1, minP: 0, temperature: 3 },
    { topK: 7, topP: 0.5 },
    { topK: 5000, temperature: 10 },
  ];

  it.each(settings)('agree with the definition under %o', (options) => {
    const size = 4000;
    const chain = sampler({ ...options, seed: 99 }, size);
    const rng = Rng.fromSeed(99);
    for (let i = 0; i < 40; i++) {
      const row = randomRow(i, size, 1 + (i % 5));
      expect(chain.sample(row)).toBe(naive(options, rng, row));
    }
  });

  it('rank 0 and -0 as equals, by heap and by sort', () => {
    const row = Float32Array.from({ length: 3000 }, (_, id) => (id % 3 === 0 ? -0 : 0));
    for (const topK of [900, 2000]) {
      const options = { ...OPEN, topK, seed: 3 };
      const chain = sampler(options, row.length);
      const rng = Rng.fromSeed(3);
      for (let i = 0; i < 20; i++) expect(chain.sample(row)).toBe(naive(options, rng, row));
    }
  });

  it('repeat for the same seed and differ for another', () => {
    const rows = Array.from({ length: 50 }, (_, i) => randomRow(i, 500, 0.5));
    const stream = (seed: number) => {
      const chain = sampler({ seed, repeatPenalty: 1.1, temperature: 1 }, 500);
      return rows.map((row) => {
        const token = chain.sample(row);
        chain.accept(token);
        return token;
      });
    };
    expect(stream(7)).toEqual(stream(7));
    expect(stream(7)).not.toEqual(stream(8));
  });

  it('are these, on every runtime and in every version', () => {
    const row = Float32Array.from({ length: 256 }, (_, i) => ((i * 37) % 64) / 8);
    const options = { seed: 20240227, topK: 0, topP: 0.98, minP: 0.01, repeatPenalty: 1.2, repeatLastN: 8 };
    const chain = sampler(options, 256);
    const rng = Rng.fromSeed(options.seed);
    const tokens: number[] = [];
    const byDefinition: number[] = [];
    for (let i = 0; i < 32; i++) {
      const recent = new Set(tokens.slice(-8));
      byDefinition.push(
        naive(
          options,
          rng,
          row.map((logit, id) => (recent.has(id) ? logit / Math.fround(1.2) : logit)),
        ),
      );
      const token = chain.sample(row);
      chain.accept(token);
      tokens.push(token);
    }
    expect(tokens).toEqual(byDefinition);
    expect(tokens).toEqual([
      102, 100, 204, 242, 211, 19, 249, 12, 50, 53, 171, 147, 185, 235, 74, 31, 242, 235, 242, 211, 164, 102, 121, 19,
      57, 83, 88, 202, 254, 86, 228, 166,
    ]);
  });
});

describe('reach', () => {
  const bias = { logitBias: { 3: -1, 5: Number.NEGATIVE_INFINITY } };
  const cases: readonly [what: string, options: SamplingOptions, before: number, after: number][] = [
    // After eight tokens, five of them different.
    ['greedy', { temperature: 0 }, 1, 1],
    ['greedy, whatever k', { temperature: -1, topK: 7, topP: 0.5 }, 1, 1],
    ['top-k', { topK: 7 }, 7, 7],
    ['the defaults', {}, 40, 40],
    ['top-p and min-p within top-k', { topK: 9, topP: 0.3, minP: 0.2 }, 9, 9],
    ['all tokens', { topK: 0 }, Infinity, Infinity],
    ['all tokens, by a negative k', { topK: -3, topP: 0.1 }, Infinity, Infinity],
    ['bias that lowers', { temperature: 0, ...bias }, 3, 3],
    ['bias of zero', { topK: 4, logitBias: { 3: 0 } }, 5, 5],
    ['bias that raises', { temperature: 0, logitBias: { 3: -1, 5: 0.001 } }, Infinity, Infinity],
    ['repeat penalty', { temperature: 0, repeatPenalty: 1.3 }, 1, 6],
    ['presence penalty', { topK: 2, presencePenalty: 0.1 }, 2, 7],
    ['frequency penalty', { topK: 2, frequencyPenalty: 0.1 }, 2, 7],
    ['a short window', { topK: 2, frequencyPenalty: 0.1, repeatLastN: 3 }, 2, 4],
    ['a window of nothing', { topK: 2, frequencyPenalty: 0.1, repeatLastN: 0 }, 2, 2],
    ['no window, rewards or not', { topK: 2, frequencyPenalty: -0.1, repeatLastN: 0 }, 2, 2],
    ['an endless window and a bias', { topK: 2, presencePenalty: 1, repeatLastN: -1, ...bias }, 4, 9],
    ['repeat penalty below 1', { temperature: 0, repeatPenalty: 0.999 }, Infinity, Infinity],
    ['presence reward', { topK: 2, presencePenalty: -0.1 }, Infinity, Infinity],
    ['frequency reward', { topK: 2, frequencyPenalty: -0.1, presencePenalty: 5 }, Infinity, Infinity],
  ];
  it.each(cases)('%s', (_, options, before, after) => {
    const chain = sampler(options, 50);
    expect(chain.reach()).toBe(before);
    for (const id of [1, 2, 3, 1, 1, 4, 9, 4]) chain.accept(id);
    expect(chain.reach()).toBe(after);
  });

  // With other logits than that many of the greatest gone, every draw is as it was. Rows of few different values have ties.
  it.each([4, 0.4])('is enough for the same tokens, spread %d', (spread) => {
    const rng = Rng.fromSeed(99);
    const size = 120;
    const pick = <T>(...choices: T[]): T => choices[rng.nextUint32() % choices.length];
    let finite = 0;
    for (let round = 0; round < 400; round++) {
      const options: SamplingOptions = {
        seed: round,
        temperature: pick(0, 0, 0.7, 3),
        topK: pick(1, 2, 5, 30),
        topP: pick(1, 0.9, 0.4),
        minP: pick(0, 0.05, 0.5),
        repeatPenalty: pick(1, 1.3, 4, 0.7),
        presencePenalty: pick(0, 0, 2, 9),
        frequencyPenalty: pick(0, 0, 1, -1),
        repeatLastN: pick(0, 3, 64, -1),
      };
      const raw = randomRow(round, size, spread).map((x) => (spread < 1 ? Math.round(x * 4) / 4 : x));
      const order = Array.from(raw.keys()).sort((a, b) => raw[b] - raw[a] || a - b);
      // What is lowered is what would have been drawn.
      const logitBias = new Map(
        order.slice(0, pick(0, 0, 3)).map((id) => [id, pick(-1, -20, Number.NEGATIVE_INFINITY)]),
      );
      const [all, part] = [0, 1].map(() => sampler({ ...options, logitBias }, size));
      for (let step = 0; step < 12; step++) {
        const reach = part.reach();
        if (reach < size) finite++;
        const screened = raw.slice();
        const least = reach < size ? raw[order[reach - 1]] : Number.NEGATIVE_INFINITY;
        for (let id = 0; id < size; id++) if (raw[id] < least) screened[id] = Number.NEGATIVE_INFINITY;
        const token = all.sample(raw);
        expect(part.sample(screened), `round ${round}, step ${step}: ${JSON.stringify(options)}`).toBe(token);
        for (const chain of [all, part]) chain.accept(step % 3 === 0 ? order[step] : token);
      }
    }
    expect(finite).toBeGreaterThan(1000);
  });
});

describe('a part of a row', () => {
  /** The `count` greatest and whatever else `more` lets in, as a screened output matrix gives them. */
  function partOf(row: Float32Array, count: number, more: (id: number) => boolean): [Float32Array, Int32Array] {
    const least = row.slice().sort().reverse()[count - 1];
    const ids = Int32Array.from(row.keys()).filter((id) => row[id] >= least || more(id));
    return [Float32Array.from(ids, (id) => row[id]), ids];
  }

  it.each<SamplingOptions>([
    { temperature: 0 },
    { temperature: 0, repeatPenalty: 1.4, frequencyPenalty: 0.3, presencePenalty: 0.2 },
    { temperature: 0, logitBias: new Map([3, 700, 1999].map((id) => [id, -4])) },
    { topK: 1 },
    { topK: 40, topP: 0.9, minP: 0.02, temperature: 1.3 },
    { topK: 40, topP: 0.6, temperature: 0.7, repeatPenalty: 1.2, penalizeNewline: false },
    { topK: 300, topP: 1, minP: 0, temperature: 5 },
  ])('gives the tokens of the whole: %o', (options) => {
    const size = 2000;
    const [whole, part] = [sampler(options, size, 7), sampler(options, size, 7)];
    const tokens = new Set<number>();
    for (let i = 0; i < 60; i++) {
      const row = randomRow(i, size);
      if (i % 10 === 0) row.fill(row[5], 0, 30); // ties at the border and at the top
      const [logits, ids] = partOf(row, part.reach(), (id) => i % 3 === 0 && id % 17 === 0);
      const [before, idsBefore] = [logits.slice(), ids.slice()];
      const token = part.sample(logits, ids);
      expect(token).toBe(whole.sample(row));
      expect([logits, ids]).toEqual([before, idsBefore]);
      tokens.add(token);
      for (const one of [whole, part]) one.accept(token);
    }
    expect(tokens.size).toBeGreaterThan(20);
  });

  it('is refused where it is too small to decide', () => {
    const row = randomRow(1, 500);
    const part = (options: SamplingOptions, count: number) => {
      const [logits, ids] = partOf(row, count, () => false);
      return codeOf(() => sampler(options, 500).sample(logits, ids));
    };
    expect(part({ topK: 40 }, 40)).toBe('no error');
    expect(part({ topK: 40 }, 39)).toBe('bad-argument: logits');
    expect(part({ topK: 0 }, 499)).toBe('bad-argument: logits');
    expect(part({ topK: 0 }, 500)).toBe('no error');
    expect(part({ temperature: 0, logitBias: { 3: 5 } }, 499)).toBe('bad-argument: logits');
    expect(codeOf(() => sampler({ topK: 1 }, 500).sample(row, Int32Array.from(row.keys()).subarray(1)))).toBe(
      'bad-argument: logits',
    );
  });
});
