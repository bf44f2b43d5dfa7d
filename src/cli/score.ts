/**
 * How surprised a model is by a text: the arithmetic of perplexity.
 * @module
 */

import type { Session } from '../engine/types.ts';
import { exp } from '../numeric/exp.ts';
import { logProbability } from '../sampling/softmax.ts';

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
}

/**
 * Evaluates `ids` from an empty cache and scores how ids[first .. end) are predicted by what stands before them.
 * `first` is at least 1: nothing predicts the first token.
 */
export async function scoreWindow(
  session: Session,
  ids: readonly number[],
  first: number,
  vocabulary: number,
  score: Score,
  signal: AbortSignal,
): Promise<void> {
  session.rewind(0);
  // Tokens that only give context need no logits, which for large vocabularies are a good part of the work.
  if (first > 1) await session.prefill(ids.slice(0, first - 1), { signal });
  let at = first;
  for await (const rows of session.logits(ids.slice(first - 1, -1), { signal })) {
    for (let row = 0; row < rows.length; row += vocabulary) {
      score.add(logProbability(rows.subarray(row, row + vocabulary), ids[at++]));
    }
  }
}
