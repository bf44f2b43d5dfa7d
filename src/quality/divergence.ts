/**
 * How far a model's predictions are from a base's, token by token: llama-perplexity's `--kl-divergence`.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { exp } from '../numeric/exp.ts';
import { type Normaliser, normaliserOf } from '../sampling/softmax.ts';
import type { BaseFile, LogProbs } from './base-file.ts';
import { decodeFloats, encodeFloats, type Measurement, type Saved, type Subject, savedNumber } from './measurement.ts';
import { firstScored, windowIds } from './perplexity.ts';
import { eachRow } from './score.ts';
import { covarianceOf, type Estimate, meanOf, percentileOf, shareOf } from './statistics.ts';

/** Base probabilities below e^-16 are left out of the divergence: below that a base file stores none. */
const LEAST_LOGPROB = -16;

/** One scored token under both models. */
export interface TokenDivergence {
  /** -ln p of the token in the text. */
  readonly nats: number;
  readonly baseNats: number;
  /** Sum over the vocabulary of base p (ln base p - ln p). */
  readonly divergence: number;
  /** p - base p of the token in the text. */
  readonly difference: number;
  /** Whether both find the same token most likely. */
  readonly sameTop: boolean;
}

/** Compares a row of logits with a row of a base file. `target` is the token that comes next in the text. */
export function compareRow(row: Float32Array, normaliser: Normaliser, base: LogProbs, target: number): TokenDivergence {
  const { scale, least } = base;
  const shift = normaliser.max + normaliser.logSum;
  let [divergence, mass, top, topCode] = [0, 0, -1, -1];
  for (let id = 0; id < row.length; id++) {
    const code = base.code(id);
    if (code > topCode) {
      topCode = code;
      top = id;
    }
    const logprob = scale * code + least;
    if (logprob <= LEAST_LOGPROB) continue;
    const p = exp(logprob);
    mass += p;
    divergence += p * (logprob - (row[id] - shift));
  }
  // What is rounded and cut off moves the sum by a few percent at most; other bytes are no distribution.
  want(mass > 0.5 && mass < 1.5, 'bad-container', 'the probabilities of a token do not sum to 1', () => ({
    expected: 'about 1',
    got: mass.toPrecision(4),
  }));
  const nats = shift - row[target];
  const baseNats = -(scale * base.code(target) + least);
  return { nats, baseNats, divergence, difference: exp(-nats) - exp(-baseNats), sameTop: top === normaliser.top };
}

export interface DivergenceResult {
  readonly tokens: number;
  readonly perplexity: Estimate;
  readonly basePerplexity: Estimate;
  /** Correlation of the two log-perplexities; undefined where one of them has no error. */
  readonly correlation: number | undefined;
  /** ln(PPL / PPL of the base). */
  readonly logRatio: Estimate;
  readonly ratio: Estimate;
  readonly perplexityDifference: Estimate;
  /** Kullback-Leibler divergence from the base, in nats. */
  readonly divergence: Estimate & Percentiles;
  /** Probability of the token in the text, less that under the base; shares of 1. */
  readonly difference: Estimate & Percentiles;
  readonly rmsDifference: Estimate;
  readonly sameTop: Estimate;
}

export interface Percentiles {
  readonly minimum: number;
  readonly median: number;
  readonly maximum: number;
  /** By percent: 0.1, 1, 5, 10, 25, 75, 90, 95, 99, 99.9. */
  readonly percentiles: Readonly<Record<string, number>>;
}

const PERCENTS = [0.1, 1, 5, 10, 25, 75, 90, 95, 99, 99.9] as const;

const SUMS = [
  'count',
  'nats',
  'nats2',
  'baseNats',
  'baseNats2',
  'natsBaseNats',
  'divergence',
  'divergence2',
  'difference',
  'difference2',
  'difference4',
  'sameTop',
] as const;

/** Compares with the windows of a base file, or the first `limit` of them. */
export function divergenceFrom(
  subject: Subject,
  base: BaseFile,
  limit: number = Infinity,
): Measurement<DivergenceResult> {
  const { tokenizer, session, vocabularySize } = subject;
  const { windows, label } = base;
  want(base.vocabularySize === vocabularySize, 'bad-argument', 'the base has another vocabulary', () => ({
    where: label,
    expected: `${vocabularySize} tokens`,
    got: `${base.vocabularySize}`,
  }));
  want(
    windows.size <= session.contextSize,
    'context-full',
    'the windows of the base are longer than the context',
    () => ({
      where: label,
      expected: `at most ${session.contextSize} tokens`,
      got: `${windows.size}`,
      hint: `-c ${windows.size}`,
    }),
  );
  const first = firstScored(windows.size);
  const steps = Math.min(windows.count, limit);
  const sums = Object.fromEntries(SUMS.map((name) => [name, 0])) as Record<(typeof SUMS)[number], number>;
  // f32, as llama.cpp keeps them; enough for percentiles.
  const divergences = new Float32Array(steps * (windows.size - first));
  const differences = new Float32Array(divergences.length);

  const add = ({ nats, baseNats, divergence, difference, sameTop }: TokenDivergence): void => {
    divergences[sums.count] = divergence;
    differences[sums.count] = difference;
    sums.count++;
    sums.nats += nats;
    sums.nats2 += nats * nats;
    sums.baseNats += baseNats;
    sums.baseNats2 += baseNats * baseNats;
    sums.natsBaseNats += nats * baseNats;
    sums.divergence += divergence;
    sums.divergence2 += divergence * divergence;
    sums.difference += difference;
    const square = difference * difference;
    sums.difference2 += square;
    sums.difference4 += square * square;
    if (sameTop) sums.sameTop++;
  };

  return {
    steps,
    async step(index, signal) {
      const rows = await base.rows(index);
      const compared: TokenDivergence[] = [];
      session.rewind(0);
      const take = (row: Float32Array, target: number): void => {
        const at = compared.length;
        try {
          compared.push(compareRow(row, normaliserOf(row), rows[at], target));
        } catch (error) {
          throw error instanceof BitnetError && error.code === 'bad-container'
            ? located(error, `${label}, window ${index + 1}, row ${at + 1}`)
            : error;
        }
      };
      await eachRow(subject, windowIds(tokenizer, windows, index), first, take, signal);
      for (const one of compared) add(one);
    },
    save: () => ({
      ...sums,
      divergences: encodeFloats(divergences.subarray(0, sums.count)),
      differences: encodeFloats(differences.subarray(0, sums.count)),
    }),
    restore(saved: Saved) {
      for (const name of SUMS) sums[name] = savedNumber(saved, name);
      divergences.set(decodeFloats(saved, 'divergences', sums.count));
      differences.set(decodeFloats(saved, 'differences', sums.count));
    },
    running: () =>
      `KLD = ${(sums.divergence / sums.count).toFixed(5)}, same top ${((100 * sums.sameTop) / sums.count).toFixed(2)}%`,
    result: () => resultOf(sums, divergences.subarray(0, sums.count), differences.subarray(0, sums.count)),
  };
}

function located(error: BitnetError, where: string): BitnetError {
  const { expected, got } = error.facts;
  return new BitnetError(error.code, 'the probabilities of a token do not sum to 1', { where, expected, got }, error);
}

function resultOf(
  sums: Readonly<Record<(typeof SUMS)[number], number>>,
  divergences: Float32Array,
  differences: Float32Array,
): DivergenceResult {
  const { count } = sums;
  const own = meanOf(sums.nats, sums.nats2, count);
  const base = meanOf(sums.baseNats, sums.baseNats2, count);
  const covariance = covarianceOf(sums.nats, sums.baseNats, sums.natsBaseNats, count);
  const perplexity = { value: exp(own.value), error: exp(own.value) * own.error };
  const basePerplexity = { value: exp(base.value), error: exp(base.value) * base.error };
  const logRatio = {
    value: own.value - base.value,
    error: rootOf(own.error * own.error + base.error * base.error - 2 * covariance),
  };
  const ratio = exp(logRatio.value);
  const squares = meanOf(sums.difference2, sums.difference4, count);
  const rms = Math.sqrt(squares.value);
  return {
    tokens: count,
    perplexity,
    basePerplexity,
    correlation: own.error > 0 && base.error > 0 ? covariance / (own.error * base.error) : undefined,
    logRatio,
    ratio: { value: ratio, error: ratio * logRatio.error },
    perplexityDifference: {
      value: perplexity.value - basePerplexity.value,
      // As of the ratio, with each error times its perplexity.
      error: rootOf(
        perplexity.error * perplexity.error +
          basePerplexity.error * basePerplexity.error -
          2 * perplexity.value * basePerplexity.value * covariance,
      ),
    },
    divergence: { ...meanOf(sums.divergence, sums.divergence2, count), ...percentilesOf(divergences) },
    difference: { ...meanOf(sums.difference, sums.difference2, count), ...percentilesOf(differences) },
    rmsDifference: { value: rms, error: rms > 0 ? (0.5 / rms) * squares.error : 0 },
    sameTop: shareOf(sums.sameTop, count),
  };
}

/** Of equal models the variance of a difference is 0, which rounding may turn into a little less. */
function rootOf(variance: number): number {
  return Math.sqrt(Math.max(0, variance));
}

function percentilesOf(values: Float32Array): Percentiles {
  const sorted = values.slice().sort();
  return {
    minimum: percentileOf(sorted, 0),
    median: percentileOf(sorted, 0.5),
    maximum: percentileOf(sorted, 1),
    percentiles: Object.fromEntries(PERCENTS.map((percent) => [`${percent}`, percentileOf(sorted, percent / 100)])),
  };
}
