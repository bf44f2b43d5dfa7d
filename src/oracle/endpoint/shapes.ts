/**
 * The shapes in which servers tell probabilities:
 *
 *     choices[0].logprobs.{tokens, token_logprobs, top_logprobs: [{text: lnp}]}       OpenAI's /v1/completions, vLLM
 *     choices[0].logprobs.content[].{token, logprob, bytes?, id?, top_logprobs: []}   OpenAI's chat, llama-server since 2025
 *     completion_probabilities[].{content, probs: [{tok_str, prob}]}                  llama-server before (and bitnet.cpp's)
 *     completion_probabilities[].{id, token, bytes, logprob, top_logprobs: []}        llama-server's own /completion
 *
 * Tokens that are no whole character come as `bytes:\xe2\x80` (OpenAI), `byte: \xe2` (llama-server), `token_id:57` (vLLM, asked
 * for ids), or as a replacement character with the bytes beside it.
 * @module
 */

import { log } from '../../numeric/log.ts';
import { JsonAt } from '../json-path.ts';

export interface Candidate {
  readonly text: string;
  readonly bytes?: Uint8Array;
  readonly id?: number;
  /** Natural; undefined where the server told none. */
  readonly logprob: number | undefined;
}

export interface Position {
  readonly chosen: Candidate;
  /** The likeliest first; empty where there are none. */
  readonly top: readonly Candidate[];
}

export interface Completion {
  readonly text: string;
  readonly shape: 'completions' | 'content' | 'llama' | 'text';
  readonly positions: readonly Position[];
  /** How many of the positions are the prompt's. */
  readonly echoed: number;
  /** Tokens that the server made of the prompt, if it tells. */
  readonly promptTokens: number | undefined;
}

const MAX_POSITIONS = 1 << 16;
const MAX_CANDIDATES = 1 << 18;
const MAX_TEXT = 16 << 20;
/** Of one token. */
const MAX_TOKEN_BYTES = 4096;
const MAX_ID = 2 ** 31 - 1;
/** Above 0 by rounding only. */
const SLACK = 1e-3;
/** vLLM writes -9999 where others write minus infinity. */
const NONE_BELOW = -9000;

/** What a server answered; `label` is its address. */
export function readCompletion(answer: unknown, label: string): Completion {
  const root = new JsonAt(answer, label);
  const promptTokens = promptTokensAt(root);
  if (filled(root, 'choices') === undefined) {
    const text = root.at('content').text(MAX_TEXT);
    const told = filled(root, 'completion_probabilities');
    if (told === undefined) return { text, shape: 'text', positions: [], echoed: 0, promptTokens };
    return { text, shape: 'llama', positions: told.list(MAX_POSITIONS).map(itemAt), echoed: 0, promptTokens };
  }
  const [choice] = root.at('choices').list(MAX_POSITIONS);
  if (choice === undefined) return root.at('choices').refuse('at least one choice', 'none');
  const text = choice.has('text') ? choice.at('text') : choice.at('message').at('content');
  const logprobs = filled(choice, 'logprobs') ?? filled(root, 'completion_probabilities');
  const head = { text: text.isNull ? '' : text.text(MAX_TEXT), promptTokens };
  if (logprobs === undefined) return { ...head, shape: 'text', positions: [], echoed: 0 };
  if (Array.isArray(logprobs.value))
    return { ...head, shape: 'llama', positions: logprobs.list(MAX_POSITIONS).map(itemAt), echoed: 0 };
  const content = filled(logprobs, 'content');
  if (content !== undefined)
    return { ...head, shape: 'content', positions: content.list(MAX_POSITIONS).map(itemAt), echoed: 0 };
  const positions = columnsAt(logprobs);
  return { ...head, shape: 'completions', positions, echoed: echoedOf(root, positions.length) };
}

/** A property that is there and not null. */
function filled(at: JsonAt, key: string): JsonAt | undefined {
  return at.has(key) && !at.at(key).isNull ? at.at(key) : undefined;
}

function promptTokensAt(root: JsonAt): number | undefined {
  const count =
    filled(root, 'tokens_evaluated') ?? filled(filled(root, 'usage') ?? new JsonAt({}, ''), 'prompt_tokens');
  return count?.integer(0, MAX_ID);
}

/** With `echo`, the positions that are not of the completion. */
function echoedOf(root: JsonAt, positions: number): number {
  const usage = filled(root, 'usage');
  const count = usage === undefined ? undefined : filled(usage, 'completion_tokens');
  return count === undefined ? 0 : Math.max(0, positions - count.integer(0, MAX_ID));
}

/** OpenAI's lists side by side. */
function columnsAt(at: JsonAt): Position[] {
  const tokens = at.at('tokens').list(MAX_POSITIONS);
  const own = filled(at, 'token_logprobs')?.list(MAX_POSITIONS);
  const top = filled(at, 'top_logprobs')?.list(MAX_POSITIONS);
  for (const [key, list] of [
    ['token_logprobs', own],
    ['top_logprobs', top],
  ] as const) {
    if (list !== undefined && list.length !== tokens.length)
      at.at(key).refuse(`${tokens.length} items, one for each token`, `${list.length}`);
  }
  return tokens.map((token, i) => {
    const chosen = { ...textAt(token), logprob: own === undefined || own[i].isNull ? undefined : lnpAt(own[i]) };
    if (top === undefined || top[i].isNull) return { chosen, top: [] };
    if (Array.isArray(top[i].value)) return { chosen, top: sorted(top[i].list(MAX_CANDIDATES).map(candidateAt)) };
    const keys = top[i].keys();
    if (keys.length > MAX_CANDIDATES)
      top[i].refuse(`at most ${MAX_CANDIDATES} tokens`, `${keys.length}`, 'limit-exceeded');
    return { chosen, top: sorted(keys.map((key) => ({ ...named(key), logprob: lnpAt(top[i].at(key)) }))) };
  });
}

function itemAt(at: JsonAt): Position {
  const list = ['top_logprobs', 'top_probs', 'probs'].map((key) => filled(at, key)).find((one) => one !== undefined);
  const top = sorted(list?.list(MAX_CANDIDATES).map(candidateAt) ?? []);
  return { chosen: candidateAt(at), top };
}

function candidateAt(at: JsonAt): Candidate {
  const key = ['token', 'tok_str', 'content'].find((one) => at.has(one)) ?? 'token';
  const bytes = filled(at, 'bytes')?.list(MAX_TOKEN_BYTES);
  const id = filled(at, 'id');
  return {
    ...textAt(at.at(key)),
    ...(bytes === undefined ? {} : { bytes: Uint8Array.from(bytes, (byte) => byte.integer(0, 255)) }),
    ...(id === undefined ? {} : { id: id.integer(0, MAX_ID) }),
    logprob: at.has('logprob') ? lnpAt(at.at('logprob')) : at.has('prob') ? lnOf(at.at('prob')) : undefined,
  };
}

function textAt(at: JsonAt): Pick<Candidate, 'text' | 'bytes' | 'id'> {
  return named(at.text(MAX_TEXT));
}

function named(text: string): Pick<Candidate, 'text' | 'bytes' | 'id'> {
  const id = /^token_id:(\d{1,9})$/.exec(text)?.[1];
  if (id !== undefined) return { text, id: Number(id) };
  const escaped = /^bytes?: ?((?:\\x[0-9a-fA-F]{2})+)$/.exec(text)?.[1];
  if (escaped === undefined) return { text };
  return { text, bytes: Uint8Array.from(escaped.slice(2).split('\\x'), (pair) => Number.parseInt(pair, 16)) };
}

function lnpAt(at: JsonAt): number {
  const value = at.number();
  if (value > SLACK) at.refuse('a log-probability, at most 0');
  return value < NONE_BELOW ? -Infinity : value;
}

function lnOf(at: JsonAt): number {
  const value = at.number();
  if (value < 0 || value > 1 + SLACK) at.refuse('a probability from 0 to 1');
  return log(value);
}

function sorted(candidates: readonly Candidate[]): Candidate[] {
  return candidates.slice().sort((a, b) => (b.logprob ?? -Infinity) - (a.logprob ?? -Infinity));
}
