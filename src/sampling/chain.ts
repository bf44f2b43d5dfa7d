/**
 * The sampler chain of llama.cpp: logit bias, penalties, top-k, top-p, min-p, temperature, draw; and with a
 * temperature of 0 or less: logit bias, penalties, most likely token.
 *
 * Top-k, top-p and min-p each keep a beginning of the same ranking, so together they keep the shortest of the
 * three beginnings, and nothing below it need ever be ranked.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { exp } from '../numeric/exp.ts';
import { log } from '../numeric/log.ts';
import { Rng } from '../numeric/rng.ts';
import { greedy } from './greedy.ts';
import type { ResolvedSampling } from './options.ts';
import { applyBias, applyPenalties, PenaltyWindow, penaltiesAreOff, penaltiesRaise } from './penalties.ts';
import { MAX_VOCABULARY, Ranking } from './ranking.ts';
import { logProbability, sumExp } from './softmax.ts';

export { DEFAULT_SAMPLING, type ResolvedSampling, resolveSampling, type SamplingOptions } from './options.ts';

/** Where an open-ended ranking starts; it grows eightfold until it is long enough. */
const FIRST_LOOK = 128;

export interface SamplerContext {
  readonly vocabularySize: number;
  /** The token that `penalizeNewline: false` protects. */
  readonly newlineId?: number | undefined;
}

/** Picks tokens for one sequence; holds its random stream and its window of recent tokens. */
export interface Sampler {
  readonly seed: number;
  /** How many of the greatest logits can decide the next token; `Infinity` for all. These alone give the same token as the row. */
  reach(): number;
  /** Tells the sampler a token of the sequence, prompt and sampled alike. */
  accept(id: number): void;
  /**
   * Picks a token from a row of logits, or from those of the tokens `ids` (ascending), among which the `reach` greatest of the row
   * have to be. Both are left as they were. Does not accept it.
   */
  sample(logits: Float32Array, ids?: Int32Array): number;
  /** Natural logarithm of a token's probability under the model, before anything of the chain. */
  logprob(logits: Float32Array, token: number): number;
}

/** A sampler for one sequence. Two with the same options and inputs give the same tokens on every runtime. */
export function createSampler(options: ResolvedSampling, context: SamplerContext): Sampler {
  return new Chain(options, context);
}

class Chain implements Sampler {
  readonly seed: number;
  readonly #options: ResolvedSampling;
  readonly #context: SamplerContext;
  readonly #rng: Rng;
  readonly #window: PenaltyWindow | undefined;
  /** A copy to change; only there if something changes logits. */
  readonly #changed: Float32Array | undefined;
  readonly #ranking = new Ranking();

  constructor(options: ResolvedSampling, context: SamplerContext) {
    const { vocabularySize } = context;
    want(vocabularySize > 0 && vocabularySize <= MAX_VOCABULARY, 'bad-argument', 'not a vocabulary size', () => ({
      where: 'vocabularySize',
      expected: `1 to ${MAX_VOCABULARY}`,
      got: `${vocabularySize}`,
    }));
    for (const [id] of options.logitBias) wantToken('logitBias', id, vocabularySize, 'bad-argument');
    this.seed = options.seed;
    this.#options = options;
    this.#context = context;
    this.#rng = Rng.fromSeed(options.seed);
    if (!penaltiesAreOff(options)) this.#window = new PenaltyWindow(options.repeatLastN);
    if (this.#window !== undefined || options.logitBias.length > 0) this.#changed = new Float32Array(vocabularySize);
  }

  reach(): number {
    const { temperature, topK, logitBias } = this.#options;
    const wanted = temperature <= 0 ? 1 : topK > 0 ? topK : Infinity;
    const window = this.#window;
    // A logit that is raised may come from anywhere. Where they are only lowered, each may let one more rise into the first k.
    if (logitBias.some(([, bias]) => bias > 0) || (window !== undefined && penaltiesRaise(this.#options)))
      return Infinity;
    return wanted + logitBias.length + (window?.counts.size ?? 0);
  }

  accept(id: number): void {
    wantToken('token', id, this.#context.vocabularySize, 'bad-token');
    this.#window?.push(id);
  }

  sample(logits: Float32Array, ids?: Int32Array): number {
    if (ids === undefined) this.#wantRow(logits);
    else this.#wantPart(logits, ids);
    const row = this.#change(logits, ids);
    const at = this.#options.temperature <= 0 ? greedy(row) : this.#draw(row, this.#options);
    return ids === undefined ? at : ids[at];
  }

  logprob(logits: Float32Array, token: number): number {
    this.#wantRow(logits);
    wantToken('token', token, this.#context.vocabularySize, 'bad-token');
    return logProbability(logits, token);
  }

  /** The row with bias and penalties, or the caller's own if there are none. */
  #change(logits: Float32Array, ids: Int32Array | undefined): Float32Array {
    if (this.#changed === undefined) return logits;
    const changed = this.#changed.subarray(0, logits.length);
    changed.set(logits);
    // What is not there cannot win: bias and penalties that could raise it have the whole row computed (`reach`).
    const placeOf = ids === undefined ? (id: number) => id : (id: number) => search(ids, id);
    applyBias(changed, this.#options.logitBias, placeOf);
    if (this.#window !== undefined) {
      applyPenalties(changed, this.#window.counts, this.#options, this.#context.newlineId, placeOf);
    }
    return changed;
  }

  #draw(row: Float32Array, { topK, topP, minP, temperature }: ResolvedSampling): number {
    const ranking = this.#ranking;
    const { vocabularySize } = this.#context;
    const k = topK <= 0 ? vocabularySize : Math.min(topK, vocabularySize);
    ranking.take(row, k < vocabularySize ? k : FIRST_LOOK);
    const max = ranking.logits[0];
    // Shares of top-p are shares of the top-k set: the ranking, or the whole row in id order.
    const set = k < vocabularySize ? ranking.logits : row;

    const mass = topP < 1 ? topP * sumExp(set, k, max, 1) : Infinity;
    const floor = minP > 0 ? max + log(minP) : -Infinity;
    const open = mass === Infinity && floor === -Infinity;
    let kept = open ? k : shortest(ranking, mass, floor);
    while (kept === ranking.size && kept < k) {
      ranking.take(row, Math.min(kept * 8, k));
      kept = shortest(ranking, mass, floor);
    }

    const total = open ? sumExp(set, k, max, temperature) : sumExp(ranking.logits, kept, max, temperature);
    const target = this.#rng.nextFloat() * total;
    let token = ranking.ids[0];
    let sum = 0;
    for (let rank = 0; rank < kept; rank++) {
      if (rank === ranking.size) ranking.take(row, Math.min(rank * 8, k));
      const weight = exp((ranking.logits[rank] - max) / temperature);
      // Rounding may leave the sum a hair below the target: then the last token that is possible at all has it.
      if (weight === 0) break;
      token = ranking.ids[rank];
      sum += weight;
      if (sum > target) break;
    }
    return token;
  }

  #wantRow(logits: Float32Array): void {
    want(logits.length === this.#context.vocabularySize, 'bad-argument', 'not one row of logits', () => ({
      where: 'logits',
      expected: `${this.#context.vocabularySize} values`,
      got: `${logits.length}`,
    }));
  }

  #wantPart(logits: Float32Array, ids: Int32Array): void {
    const least = Math.min(this.reach(), this.#context.vocabularySize);
    want(
      logits.length === ids.length && ids.length >= least,
      'bad-argument',
      'not the greatest of a row of logits',
      () => ({
        where: 'logits',
        expected: `${least} values or more, and as many ids`,
        got: `${logits.length} values and ${ids.length} ids`,
      }),
    );
  }
}

/** Where an id stands in an ascending list; -1 where it does not. */
function search(ids: Int32Array, id: number): number {
  let [low, high] = [0, ids.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ids[middle] < id) low = middle + 1;
    else high = middle;
  }
  return ids[low] === id ? low : -1;
}

/** How many of the ranked tokens top-p (probability mass, relative to the maximum) and min-p (logit) both keep. */
function shortest({ logits, size }: Ranking, mass: number, floor: number): number {
  let sum = 0;
  for (let rank = 0; rank < size; rank++) {
    if (logits[rank] < floor) return rank;
    sum += exp(logits[rank] - logits[0]);
    if (sum >= mass) return rank + 1;
  }
  return size;
}

function wantToken(where: string, id: number, vocabularySize: number, code: 'bad-argument' | 'bad-token'): void {
  if (Number.isInteger(id) && id >= 0 && id < vocabularySize) return;
  const facts = { where, expected: `an id below ${vocabularySize}`, got: show(id) };
  throw new BitnetError(code, 'not a token of this vocabulary', facts);
}
