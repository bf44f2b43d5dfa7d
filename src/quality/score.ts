/**
 * How surprised a model is by tokens: log-probabilities of rows of logits, and the sums of perplexity.
 * @module
 */

import { want } from '../errors.ts';
import { exp } from '../numeric/exp.ts';
import { logProbability } from '../sampling/softmax.ts';
import { type Saved, type Subject, savedNumber } from './measurement.ts';

/** Sums over scored tokens. */
export class Score {
  /** Number of scored tokens. */
  count = 0;
  nats = 0;
  #squares = 0;

  add(logprob: number): void {
    this.count++;
    this.nats -= logprob;
    this.#squares += logprob * logprob;
  }

  get bits(): number {
    return this.nats / Math.LN2;
  }

  get perplexity(): number {
    return exp(this.nats / this.count);
  }

  /** Standard error of the perplexity, by the spread of the single tokens; llama.cpp's formula. */
  get error(): number {
    const mean = this.nats / this.count;
    const variance = this.#squares / this.count - mean * mean;
    return this.count > 1 && variance > 0 ? Math.sqrt(variance / (this.count - 1)) * this.perplexity : 0;
  }

  save(): Saved {
    return { count: this.count, nats: this.nats, squares: this.#squares };
  }

  restore(saved: Saved): void {
    this.count = savedNumber(saved, 'count');
    this.nats = savedNumber(saved, 'nats');
    this.#squares = savedNumber(saved, 'squares');
  }
}

/**
 * Evaluates ids[cached ...] behind the `cached` tokens that the session holds, and shows the rows that predict
 * ids[first .. end), each with what it should predict. `first` is at least cached + 1: nothing here predicts what is cached.
 * A row is only good until `use` returns.
 */
export async function eachRow(
  { session, vocabularySize }: Subject,
  ids: readonly number[],
  first: number,
  use: (row: Float32Array, target: number) => void,
  signal?: AbortSignal,
): Promise<void> {
  const cached = session.position;
  want(first > cached, 'bad-argument', 'nothing predicts a token that is cached already', () => ({
    where: 'first',
    expected: `more than ${cached}`,
    got: `${first}`,
  }));
  // Tokens that only give context need no logits, which for large vocabularies are a good part of the work.
  if (first - 1 > cached) await session.prefill(ids.slice(cached, first - 1), { signal });
  if (first >= ids.length) return;
  let at = first;
  for await (const rows of session.logits(ids.slice(first - 1, -1), { signal })) {
    for (let row = 0; row < rows.length; row += vocabularySize)
      use(rows.subarray(row, row + vocabularySize), ids[at++]);
  }
}

/** Evaluates `ids` from an empty cache; ln p of each of ids[first .. end) after what stands before it. */
export async function logProbabilities(
  subject: Subject,
  ids: readonly number[],
  first: number,
  signal?: AbortSignal,
): Promise<number[]> {
  const logprobs: number[] = [];
  subject.session.rewind(0);
  const take = (row: Float32Array, target: number): void => {
    logprobs.push(logProbability(row, target));
  };
  await eachRow(subject, ids, first, take, signal);
  return logprobs;
}
