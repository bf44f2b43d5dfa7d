/**
 * Changes to single logits before anything is ranked: bias and repetition penalties, in llama.cpp's order and
 * in its f32 arithmetic, so that greedy output under a penalty can be compared with it token by token.
 * @module
 */

import type { ResolvedSampling } from './options.ts';

const f = Math.fround;

/** The recent tokens as counts, which is all that penalties look at. */
export class PenaltyWindow {
  readonly #counts = new Map<number, number>();
  /** The last `size` tokens as a ring; unused when the window is everything. */
  readonly #ring: Int32Array | undefined;
  #next = 0;
  #filled = 0;

  /** @param size how many tokens count; -1 for all. */
  constructor(size: number) {
    this.#ring = size < 0 ? undefined : new Int32Array(size);
  }

  /** Token ids that occur in the window, with how often. */
  get counts(): ReadonlyMap<number, number> {
    return this.#counts;
  }

  push(id: number): void {
    const ring = this.#ring;
    if (ring !== undefined) {
      if (ring.length === 0) return;
      if (this.#filled === ring.length) this.#forget(ring[this.#next]);
      else this.#filled++;
      ring[this.#next] = id;
      this.#next = (this.#next + 1) % ring.length;
    }
    this.#counts.set(id, (this.#counts.get(id) ?? 0) + 1);
  }

  #forget(id: number): void {
    const count = this.#counts.get(id)!;
    if (count === 1) this.#counts.delete(id);
    else this.#counts.set(id, count - 1);
  }
}

/** True when the three penalties change nothing, whatever was said before. */
export function penaltiesAreOff(options: ResolvedSampling): boolean {
  const { repeatPenalty, frequencyPenalty, presencePenalty, repeatLastN } = options;
  return repeatLastN === 0 || (repeatPenalty === 1 && frequencyPenalty === 0 && presencePenalty === 0);
}

/** True when a penalty is a reward: it makes a token more likely. */
export function penaltiesRaise({ repeatPenalty, frequencyPenalty, presencePenalty }: ResolvedSampling): boolean {
  return repeatPenalty < 1 || frequencyPenalty < 0 || presencePenalty < 0;
}

/** Where the logit of a token is in a row; -1 for one that is not there. */
export type PlaceOf = (id: number) => number;

/** Adds the biases, in place. */
export function applyBias(logits: Float32Array, bias: ResolvedSampling['logitBias'], placeOf: PlaceOf): void {
  for (const [id, value] of bias) {
    const at = placeOf(id);
    if (at >= 0) logits[at] = f(logits[at] + f(value));
  }
}

/**
 * Penalises every token of the window once, in place. Each token is touched on its own, so the order in which
 * the map gives them does not matter. The newline keeps its logit unless the user wants it penalised.
 */
export function applyPenalties(
  logits: Float32Array,
  counts: ReadonlyMap<number, number>,
  options: ResolvedSampling,
  newlineId: number | undefined,
  placeOf: PlaceOf,
): void {
  const repeat = f(options.repeatPenalty);
  const frequency = f(options.frequencyPenalty);
  const presence = f(options.presencePenalty);
  for (const [id, count] of counts) {
    if (id === newlineId && !options.penalizeNewline) continue;
    const at = placeOf(id);
    if (at < 0) continue;
    const logit = logits[at];
    const repeated = f(logit <= 0 ? logit * repeat : logit / repeat);
    logits[at] = f(repeated - f(f(count * frequency) + presence));
  }
}
