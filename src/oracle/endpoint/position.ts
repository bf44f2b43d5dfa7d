/**
 * One position of a comparison with a server: tokens by text, probabilities side by side.
 * @module
 */

import type { Model } from '../../engine/types.ts';
import { exp } from '../../numeric/exp.ts';
import { log } from '../../numeric/log.ts';
import { normaliserOf } from '../../sampling/softmax.ts';
import type { Candidate, Position } from './shapes.ts';

type Tokenizer = Model['tokenizer'];

/** What the model here says at a position. */
export interface Along {
  /** Of the tokens that the server told, those that exist here. */
  readonly logprobs: ReadonlyMap<number, number>;
  readonly best: number;
  readonly bestLogprob: number;
  /** As many of the likeliest here as the server told, at most MOST_LIKELY. */
  readonly likeliest: readonly { readonly id: number; readonly logprob: number }[];
  /** Root mean square of the row's logits around their mean. */
  readonly spread: number;
}

export interface Compared {
  readonly index: number;
  /** What the server chose. */
  readonly chosen: { readonly id: number | undefined; readonly text: string };
  /** What is likeliest here. */
  readonly best: { readonly id: number; readonly text: string; readonly logprob: number };
  /** Tokens that both sides gave a probability. */
  readonly tokens: number;
  /** The token whose log-probabilities are farthest apart. */
  readonly worst:
    | { readonly id: number; readonly text: string; readonly here: number; readonly there: number }
    | undefined;
  readonly bound: number;
  /**
   * `tie`: another token is likeliest, by less than the bound. `token`: by more. `logprobs`: the same one, with other numbers.
   * `missing`: a token that is likelier here than the least that was told was not told. `unknown`: none of the server's tokens exists here, or the chosen one does not.
   */
  readonly verdict: 'same' | 'tie' | 'logprobs' | 'token' | 'missing' | 'unknown';
}

/** Of the likeliest here that the server should have told. */
const MOST_LIKELY = 64;
/** Sums of the probabilities told count as 1 from here on. */
const WHOLE = 2e-4;
/** A slope of log-probabilities this near to 1 is noise. */
const STRAIGHT = 0.03;

/** The id of a server's token: by id where its text is the same here, by bytes, by text. */
export function idOf(tokenizer: Tokenizer, candidate: Candidate): number | undefined {
  const { id, bytes, text } = candidate;
  if (id !== undefined) {
    if (id >= tokenizer.vocabSize) return undefined;
    // vLLM says nothing but the id.
    if (text.startsWith('token_id:') && bytes === undefined) return id;
    const own = tokenizer.tokenBytes(id, true);
    return isSame(own, bytes ?? new TextEncoder().encode(text)) || text.includes('\ufffd') || text === ''
      ? id
      : undefined;
  }
  const found = tokenizer.idOf(bytes ?? text);
  // Raw pieces of SentencePiece have their blanks as U+2581.
  return found ?? (text.includes('\u2581') ? tokenizer.idOf(text.replaceAll('\u2581', ' ')) : undefined);
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** What the model here says behind `context` and each of `followed`, for the tokens that the server told. */
export async function along(
  model: Model,
  context: readonly number[],
  followed: readonly number[],
  positions: readonly Position[],
  kvType: 'f16' | 'f32',
  signal: AbortSignal | undefined,
): Promise<Along[]> {
  const { tokenizer, info } = model;
  const fed = [...context, ...followed].slice(0, context.length + positions.length - 1);
  const session = model.createSession({ contextSize: fed.length, kType: kvType, vType: kvType });
  const found: Along[] = [];
  try {
    if (context.length > 1) await session.prefill(context.slice(0, -1), { top: 1, signal });
    for await (const chunk of session.logits(fed.slice(context.length - 1), { signal })) {
      for (let at = 0; at < chunk.length; at += info.vocabularySize) {
        const row = chunk.subarray(at, at + Math.min(info.vocabularySize, tokenizer.vocabSize));
        found.push(look(tokenizer, row, positions[found.length]));
      }
    }
    return found;
  } finally {
    await session.dispose();
  }
}

function look(tokenizer: Tokenizer, row: Float32Array, position: Position): Along {
  const { max, top: best, logSum } = normaliserOf(row);
  const total = max + logSum;
  const logprobs = new Map<number, number>();
  for (const candidate of toldOf(position)) {
    const id = idOf(tokenizer, candidate);
    if (id !== undefined && id < row.length) logprobs.set(id, row[id] - total);
  }
  let sum = 0;
  let squares = 0;
  for (const logit of row) {
    sum += logit;
    squares += logit * logit;
  }
  const mean = sum / row.length;
  const spread = Math.sqrt(Math.max(0, squares / row.length - mean * mean));
  const likeliest = likeliestOf(row, Math.min(position.top.length, MOST_LIKELY));
  return {
    logprobs,
    best,
    bestLogprob: row[best] - total,
    likeliest: likeliest.map((id) => ({ id, logprob: row[id] - total })),
    spread,
  };
}

/** Ids of the `n` greatest logits, the greatest first. */
function likeliestOf(row: Float32Array, n: number): number[] {
  const ids: number[] = [];
  for (let id = 0; id < row.length && n > 0; id++) {
    if (ids.length === n && !(row[id] > row[ids[n - 1]])) continue;
    if (ids.length === n) ids.pop();
    let at = ids.length;
    while (at > 0 && row[id] > row[ids[at - 1]]) at--;
    ids.splice(at, 0, id);
  }
  return ids;
}

function toldOf({ top, chosen }: Position): readonly Candidate[] {
  return top.length > 0 ? top : [chosen];
}

interface Pair {
  readonly id: number;
  readonly here: number;
  readonly there: number;
}

/** Both sides' numbers, over the same tokens; with `renormalised`, here over those that the server told as well. */
function pairsOf(tokenizer: Tokenizer, position: Position, ours: Along, renormalised: boolean): Pair[] {
  const pairs = new Map<number, Pair>(); // a server may tell its whole vocabulary
  for (const candidate of toldOf(position)) {
    const id = idOf(tokenizer, candidate);
    const here = id === undefined ? undefined : ours.logprobs.get(id);
    const there = candidate.logprob;
    // Minus infinity stands for "not told".
    if (id === undefined || here === undefined || there === undefined || there === -Infinity) continue;
    if (!pairs.has(id)) pairs.set(id, { id, here, there });
  }
  const found = [...pairs.values()];
  if (!renormalised) return found;
  const mass = massOf(found.map(({ here }) => here));
  return found.map((pair) => ({ ...pair, here: pair.here - mass }));
}

/** ln of a sum of probabilities. */
function massOf(logprobs: readonly number[]): number {
  return log(logprobs.reduce((sum, logprob) => sum + exp(logprob), 0));
}

/** A token that the server should have told before others, by more than `slack`. */
function leftOut(
  position: Position,
  pairs: readonly Pair[],
  ours: Along,
  slack: number,
  renormalised: boolean,
): boolean {
  // Where a told token is not known here, that may be the one.
  if (pairs.length === 0 || pairs.length < position.top.length) return false;
  const least = pairs.reduce((min, { there }) => Math.min(min, there), Infinity);
  const mass = renormalised ? massOf([...ours.logprobs.values()]) : 0;
  return ours.likeliest.some(({ id, logprob }) => !ours.logprobs.has(id) && logprob - mass > least + slack);
}

/** Whether the server's probabilities add up to 1 over what it told, everywhere, where those here do not. */
export function isRenormalised(positions: readonly Position[], ours: readonly Along[]): boolean {
  let isOther = false;
  for (const [i, { top }] of positions.entries()) {
    if (top.length < 2) return false;
    const theirs = top.reduce((sum, { logprob }) => sum + exp(logprob ?? -Infinity), 0);
    if (Math.abs(theirs - 1) > WHOLE) return false;
    let here = 0;
    for (const logprob of ours[i].logprobs.values()) here += exp(logprob);
    isOther ||= here < 1 - 2 * WHOLE;
  }
  return isOther;
}

export function comparePosition(
  tokenizer: Tokenizer,
  index: number,
  position: Position,
  ours: Along,
  { bound, renormalised }: { readonly bound: number; readonly renormalised: boolean },
): Compared {
  const pairs = pairsOf(tokenizer, position, ours, renormalised);
  const far = ({ here, there }: Pair): number => Math.abs(here - there);
  const worst = pairs.reduce<Pair | undefined>((a, b) => (a === undefined || far(b) > far(a) ? b : a), undefined);
  const chosenId = idOf(tokenizer, position.chosen);
  const theirBest = idOf(tokenizer, toldOf(position)[0]);
  const { best, bestLogprob } = ours;
  const behind = theirBest === undefined ? Infinity : bestLogprob - (ours.logprobs.get(theirBest) ?? -Infinity);
  const verdict = (): Compared['verdict'] => {
    if (chosenId === undefined || pairs.length === 0) return 'unknown';
    // Without a list of candidates the chosen one need not be the likeliest.
    if (position.top.length > 0 && theirBest !== best && behind > 2 * bound) return 'token';
    if (worst !== undefined && far(worst) > bound) return 'logprobs';
    if (leftOut(position, pairs, ours, 2 * bound, renormalised)) return 'missing';
    return position.top.length > 0 && theirBest !== best ? 'tie' : 'same';
  };
  return {
    index,
    chosen: { id: chosenId, text: position.chosen.text },
    best: { id: best, text: tokenizer.describe(best), logprob: bestLogprob },
    tokens: pairs.length,
    worst: worst === undefined ? undefined : { ...worst, text: tokenizer.describe(worst.id) },
    bound,
    verdict: verdict(),
  };
}

/** Mean difference of log-probabilities over all tokens of all positions; infinite where there are none. */
export function meanDifference(
  tokenizer: Tokenizer,
  positions: readonly Position[],
  ours: readonly Along[],
  renormalised: boolean,
): number {
  const pairs = positions.flatMap((position, i) => pairsOf(tokenizer, position, ours[i], renormalised));
  if (pairs.length === 0) return Infinity;
  return pairs.reduce((sum, { here, there }) => sum + Math.abs(here - there), 0) / pairs.length;
}

/**
 * The temperature after which the server told its numbers: differences between tokens of one position are then those here over the
 * temperature. By least squares; undefined where a line through nothing does not fit, or where it is 1.
 */
export function temperatureOf(
  tokenizer: Tokenizer,
  positions: readonly Position[],
  ours: readonly Along[],
): number | undefined {
  let [xx, xy, yy, n] = [0, 0, 0, 0];
  for (const [i, position] of positions.entries()) {
    const pairs = pairsOf(tokenizer, position, ours[i], false);
    const [x0, y0] = [mean(pairs.map(({ here }) => here)), mean(pairs.map(({ there }) => there))];
    for (const { here, there } of pairs) {
      xx += (here - x0) ** 2;
      xy += (here - x0) * (there - y0);
      yy += (there - y0) ** 2;
      n++;
    }
  }
  const slope = xy / xx;
  const unexplained = 1 - (xy * xy) / (xx * yy);
  if (n < 8 || !(slope > 0) || !(unexplained < 1e-3) || Math.abs(slope - 1) < STRAIGHT) return undefined;
  return 1 / slope;
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}
