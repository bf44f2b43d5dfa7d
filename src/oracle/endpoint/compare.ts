/**
 * A model here against a server that claims to run the same: where their probabilities part, and why it looks that way.
 *
 * The server is asked once, for its greedy continuation of the text; the model here is led along the server's tokens, so that every
 * position compares the same context. With `step` it is the other way round: the server is led along the tokens that are greedy
 * here, one request each.
 *
 * How far apart is too far. Two right implementations add in other orders and round other things. A bound for that is measured on
 * the very prompt: the log-probabilities here, with a cache of f16 and with one of f32, differ by what rounding of one part in 2048
 * does to this model (it turns int8 codes of activations over, which is also what other sums do). To that comes a head computed
 * with activations in f16, as llama.cpp does: each product is off by at most 2^-11 of itself, at random, and a logit by about 2^-11
 * of the spread of its row. No log-probability may be farther off than NOISE_FACTOR times both at their largest, and their mean no
 * farther than MEAN_FACTOR times both on average: a mistake that is small everywhere shows in the mean first.
 *
 * Measured with a native bitnet.cpp and the embedded model, three prompts, 5 to 4096 tokens told: means of 0.8 to 1.5 times the
 * noise where it is right, 6 to 14 times with an epsilon of norms of 0.01. Rope frequencies of 8000 instead of 10000 make 1 to 2
 * times within 16 positions: that is below what two right implementations may differ by, and longer prompts are needed to see it.
 * @module
 */

import type { Model } from '../../engine/types.ts';
import { BitnetError, want } from '../../errors.ts';
import { greedy } from '../../sampling/greedy.ts';
import { complete, completeAlong, type Endpoint, endpointUrl } from './client.ts';
import {
  type Along,
  along,
  type Compared,
  comparePosition,
  idOf,
  isRenormalised,
  meanDifference,
  temperatureOf,
} from './position.ts';
import type { Completion, Position } from './shapes.ts';

const NOISE_FACTOR = 4;
const MEAN_FACTOR = 3;
/** Of a logit whose products were rounded to f16. */
const HALF_HEAD = 2 ** -11;
/** What printing a number with six digits costs. */
const LEAST_BOUND = 1e-4;
/** Another reading of the prompt is the reason if it leaves so little of the difference. */
const EXPLAINS = 0.2;
const MAX_TOKENS = 4096;

export interface CompareEndpointOptions {
  /** Text, which the server reads by itself, or ids, which it is given. */
  readonly prompt: string | readonly number[];
  /** Tokens to compare. Default 16. */
  readonly maxTokens?: number | undefined;
  /** Likeliest tokens to ask for at each position. Default 5, which is what OpenAI gives. */
  readonly top?: number | undefined;
  /** Lead the server along the tokens that are greedy here. */
  readonly step?: boolean | undefined;
  /** Compare the prompt's own tokens as well, where the server has `echo`. */
  readonly echo?: boolean | undefined;
  /** Largest difference of log-probabilities, instead of the measured bound. */
  readonly tolerance?: number | undefined;
  readonly onProgress?: ((what: string) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What it looks like. `numbers`: none of the others. */
export type FindingKind =
  | 'only-text'
  | 'tokenizer'
  | 'prompt'
  | 'sampling'
  | 'temperature'
  | 'renormalised'
  | 'numbers'
  | 'ended';

export interface EndpointFinding {
  readonly kind: FindingKind;
  readonly text: string;
}

export interface EndpointReport {
  /** Without query and key. */
  readonly url: string;
  readonly shape: Completion['shape'];
  readonly prompt: { readonly tokens: number; readonly theirs: number | undefined };
  /** Largest of all positions. */
  readonly bound: number;
  /** Measured: the largest difference that a cache of f32 makes. */
  readonly noise: number;
  /** Differences of log-probabilities on average: between both sides, by another type of cache here, and how far they may be. */
  readonly mean: { readonly difference: number; readonly noise: number; readonly bound: number };
  readonly positions: readonly Compared[];
  /** Index of the first position that differs, or null. */
  readonly first: number | null;
  readonly findings: readonly EndpointFinding[];
  readonly verdict: 'same' | 'differs' | 'not-comparable';
}

export async function compareEndpoint(
  model: Model,
  endpoint: Endpoint,
  options: CompareEndpointOptions,
): Promise<EndpointReport> {
  const { prompt, maxTokens = 16, top = 5, onProgress, signal } = options;
  for (const [where, value, most] of [
    ['maxTokens', maxTokens, MAX_TOKENS],
    ['top', top, 1 << 18],
  ] as const) {
    want(Number.isInteger(value) && value >= 1 && value <= most, 'bad-argument', 'not a usable number', () => ({
      where,
      expected: `an integer from 1 to ${most}`,
      got: String(value),
    }));
  }
  const ids = typeof prompt === 'string' ? model.tokenizer.encodePrompt(prompt) : Array.from(prompt);
  want(ids.length > 0, 'bad-argument', 'there are no tokens to evaluate', () => ({ where: 'prompt' }));
  onProgress?.('asking the server');
  const asked = options.step === true ? await askStepwise(model, endpoint, ids, options) : undefined;
  const completion =
    asked?.completion ?? (await complete(endpoint, { prompt, maxTokens, top, echo: options.echo, signal }));
  const judge = new Judge(model, endpointUrl(endpoint.url).label, ids, completion, asked?.followed, options);
  return judge.report();
}

interface Asked {
  readonly completion: Completion;
  readonly followed: readonly number[];
}

/** The server, led along the tokens that are greedy here. */
async function askStepwise(
  model: Model,
  endpoint: Endpoint,
  ids: readonly number[],
  { maxTokens = 16, top = 5, signal, onProgress }: CompareEndpointOptions,
): Promise<Asked> {
  const followed: number[] = [];
  const session = model.createSession({ contextSize: Math.min(ids.length + maxTokens, model.info.contextLength) });
  try {
    const led = async function* () {
      let row = await session.prefill(ids, { top: 1, signal });
      while (followed.length < maxTokens) {
        const id = greedy(row.subarray(0, model.tokenizer.vocabSize));
        followed.push(id);
        if (model.tokenizer.isEog(id) || followed.length === maxTokens) return;
        yield id;
        row = await session.step(id, { top: 1, signal });
      }
    };
    const answers: Completion[] = [];
    for await (const answer of completeAlong(endpoint, ids, led(), { top, signal })) {
      answers.push(answer);
      onProgress?.(`asking the server, ${answers.length} of ${maxTokens}`);
    }
    const positions = answers.flatMap(({ positions }) => positions.slice(0, 1));
    const isWhole = positions.length === answers.length;
    const completion = {
      ...answers[0],
      positions: isWhole ? positions : [],
      text: answers.map(({ text }) => text).join(''),
    };
    return { completion, followed };
  } finally {
    await session.dispose();
  }
}

class Judge {
  readonly #model: Model;
  readonly #url: string;
  readonly #ids: readonly number[];
  readonly #completion: Completion;
  /** Of the continuation. */
  readonly #positions: readonly Position[];
  /** Tokens that both sides are led along: as many as there are ids for. */
  readonly #followed: readonly number[];
  readonly #isLed: boolean;
  readonly #options: CompareEndpointOptions;
  readonly #findings: EndpointFinding[] = [];

  constructor(
    model: Model,
    url: string,
    ids: readonly number[],
    completion: Completion,
    followed: readonly number[] | undefined,
    options: CompareEndpointOptions,
  ) {
    this.#model = model;
    this.#url = url;
    this.#ids = ids;
    this.#completion = completion;
    this.#positions = completion.positions.slice(completion.echoed);
    this.#isLed = followed !== undefined;
    this.#followed = followed ?? this.#theirTokens();
    this.#options = options;
  }

  /** Ids of what the server chose, up to the first that does not exist here. */
  #theirTokens(): number[] {
    const ids: number[] = [];
    for (const { chosen } of this.#positions) {
      const id = idOf(this.#model.tokenizer, chosen);
      if (id === undefined) break;
      ids.push(id);
    }
    return ids;
  }

  async report(): Promise<EndpointReport> {
    const isMute = this.#positions.every(({ chosen, top }) => top.length === 0 && chosen.logprob === undefined);
    if (isMute) return this.#ofText();
    this.#compareEcho();
    const positions = this.#positions.slice(0, this.#followed.length + 1);
    this.#options.onProgress?.('computing the same here');
    const ours = await this.#along(this.#ids, positions, 'f16');
    const exact = await this.#along(this.#ids, positions, 'f32');
    const noise = differencesOf(ours, exact);
    const renormalised = isRenormalised(positions, ours);
    if (renormalised)
      this.#find(
        'renormalised',
        'the probabilities of a position add up to 1 over the tokens told: the server cut the others off before softmax; compared likewise',
      );
    const compared = positions.map((position, index) => {
      const bound =
        this.#options.tolerance ??
        Math.max(LEAST_BOUND, NOISE_FACTOR * (noise.largest + HALF_HEAD * ours[index].spread));
      return comparePosition(this.#model.tokenizer, index, position, ours[index], { bound, renormalised });
    });
    const first = compared.find(({ verdict }) => verdict !== 'same' && verdict !== 'tie');
    const head = (HALF_HEAD * ours.reduce((sum, { spread }) => sum + spread, 0)) / ours.length;
    const mean = {
      difference: meanDifference(this.#model.tokenizer, positions, ours, renormalised),
      noise: noise.mean,
      bound: this.#options.tolerance ?? Math.max(LEAST_BOUND, MEAN_FACTOR * (noise.mean + head)),
    };
    const differs = first !== undefined || mean.difference > mean.bound;
    await this.#explain(compared, positions, ours, renormalised, differs);
    const isSampled = this.#findings.some(({ kind }) => kind === 'sampling');
    const isOther = this.#findings.some(({ kind }) => kind === 'tokenizer' || kind === 'prompt');
    return {
      url: this.#url,
      shape: this.#completion.shape,
      prompt: { tokens: this.#ids.length, theirs: this.#completion.promptTokens },
      bound: Math.max(...compared.map(({ bound }) => bound)),
      noise: noise.largest,
      mean,
      positions: compared,
      first: first?.index ?? null,
      findings: this.#findings,
      verdict: differs || isSampled || isOther ? 'differs' : 'same',
    };
  }

  #find(kind: FindingKind, text: string): void {
    this.#findings.push({ kind, text });
  }

  #along(context: readonly number[], positions: readonly Position[], kvType: 'f16' | 'f32'): Promise<Along[]> {
    return along(this.#model, context, this.#followed, positions, kvType, this.#options.signal);
  }

  /** A server that tells no probabilities: all that can be compared is the text. */
  async #ofText(): Promise<EndpointReport> {
    const { tokenizer } = this.#model;
    const { maxTokens = 16, signal } = this.#options;
    const session = this.#model.createSession({
      contextSize: Math.min(this.#ids.length + maxTokens, this.#model.info.contextLength),
    });
    try {
      const run = session.generate(this.#ids, { maxTokens, temperature: 0, ignoreEos: false, signal });
      const { tokens } = await run.result;
      const here = tokenizer.stream();
      const text = tokens.map((id) => here.push(id)).join('') + here.flush();
      const theirs = this.#completion.text;
      let n = 0;
      while (n < text.length && n < theirs.length && text[n] === theirs[n]) n++;
      const isPart = n === text.length || n === theirs.length;
      const how = isPart
        ? `the text is the same as here, ${n} characters`
        : `the text is another from character ${n} on: here ${JSON.stringify(text.slice(n, n + 40))}, there ${JSON.stringify(theirs.slice(n, n + 40))}`;
      this.#find('only-text', `the server tells no probabilities, and text alone shows little; ${how}`);
    } finally {
      await session.dispose();
    }
    const { shape, promptTokens } = this.#completion;
    return {
      url: this.#url,
      shape,
      prompt: { tokens: this.#ids.length, theirs: promptTokens },
      bound: 0,
      noise: 0,
      mean: { difference: 0, noise: 0, bound: 0 },
      positions: [],
      first: null,
      findings: this.#findings,
      verdict: 'not-comparable',
    };
  }

  /** With `echo`, the server has shown how it reads the prompt. */
  #compareEcho(): void {
    const { echoed, positions } = this.#completion;
    if (echoed === 0) return;
    const { tokenizer } = this.#model;
    const theirs = positions.slice(0, echoed).map(({ chosen }) => chosen);
    // Some servers leave the begin-of-sequence token out of what they show.
    const { bosId } = tokenizer.spec;
    const hidden =
      this.#ids[0] === bosId && idOf(tokenizer, theirs[0]) !== bosId && echoed === this.#ids.length - 1 ? 1 : 0;
    const expected = this.#ids.slice(hidden);
    for (let i = 0; i < Math.max(expected.length, theirs.length); i++) {
      const id = i < theirs.length ? idOf(tokenizer, theirs[i]) : undefined;
      if (id === expected[i]) continue;
      const [here, there] = [
        expected[i] === undefined ? 'nothing' : tokenizer.describe(expected[i]),
        theirs[i] === undefined ? 'nothing' : JSON.stringify(theirs[i].text),
      ];
      this.#find('tokenizer', `the server reads the prompt otherwise: token ${i} is ${here} here, ${there} there`);
      return;
    }
  }

  async #explain(
    compared: readonly Compared[],
    positions: readonly Position[],
    ours: readonly Along[],
    renormalised: boolean,
    differs: boolean,
  ): Promise<void> {
    const { tokenizer } = this.#model;
    const unlikely = positions.findIndex(({ chosen, top }) => top.length > 0 && isBelow(tokenizer, chosen, top[0]));
    if (unlikely >= 0 && !this.#isLed) {
      const { chosen, top } = positions[unlikely];
      this.#find(
        'sampling',
        `at position ${unlikely} the server chose ${JSON.stringify(chosen.text)} though it found ${JSON.stringify(top[0].text)} likelier: it samples where temperature 0 was asked for`,
      );
    }
    const wanted = this.#options.maxTokens ?? 16;
    if (this.#positions.length < wanted && !this.#isLed)
      this.#find('ended', `the server ended after ${this.#positions.length} of ${wanted} tokens`);
    if (!differs) return;
    const told = positions.flatMap(({ top, chosen }) => (top.length > 0 ? top : [chosen]));
    const unknown = told.filter((one) => idOf(tokenizer, one) === undefined);
    const stranger = compared.find(({ verdict }) => verdict === 'unknown');
    if (stranger !== undefined || unknown.length > told.length / 4) {
      const example = stranger?.chosen.text ?? unknown[0].text;
      this.#find(
        'tokenizer',
        `${unknown.length} of ${told.length} tokens told do not exist here, e.g. ${JSON.stringify(example)}: another tokenizer, or another model`,
      );
    }
    if (await this.#explainByPrompt(positions, ours, renormalised)) return;
    const temperature = temperatureOf(tokenizer, positions, ours);
    if (temperature !== undefined) {
      this.#find(
        'temperature',
        `the differences of log-probabilities are ${(1 / temperature).toFixed(3)} times those here: told after a temperature of ${temperature.toFixed(3)}`,
      );
    }
    if (this.#findings.every(({ kind }) => kind === 'renormalised' || kind === 'ended'))
      this.#find('numbers', 'other numbers for the same tokens: another model, activation, layout or quantisation');
  }

  /** Other readings of the prompt that explain most of the difference. */
  async #explainByPrompt(
    positions: readonly Position[],
    ours: readonly Along[],
    renormalised: boolean,
  ): Promise<boolean> {
    const { tokenizer } = this.#model;
    const before = meanDifference(tokenizer, positions, ours, renormalised);
    let best: { readonly what: string; readonly left: number; readonly tokens: number } | undefined;
    for (const [what, context] of this.#readings()) {
      if (context.length + this.#followed.length > this.#model.info.contextLength || context.length === 0) continue;
      const left = meanDifference(tokenizer, positions, await this.#along(context, positions, 'f16'), renormalised);
      if (left < EXPLAINS * before && left < (best?.left ?? Infinity)) best = { what, left, tokens: context.length };
    }
    if (best === undefined) return false;
    const { promptTokens } = this.#completion;
    const count =
      promptTokens === undefined
        ? ''
        : `; it counts ${promptTokens} tokens of prompt, here there are ${this.#ids.length}`;
    const numbers = `mean difference ${before.toPrecision(3)}, like this ${best.left.toPrecision(3)}`;
    this.#find('prompt', `the server answers as if ${best.what} (${numbers}${count})`);
    return true;
  }

  #readings(): [what: string, ids: readonly number[]][] {
    const { tokenizer } = this.#model;
    const { bosId } = tokenizer.spec;
    const ids = this.#ids;
    const found: [string, readonly number[]][] = [];
    if (bosId !== undefined) {
      const bos = tokenizer.describe(bosId);
      if (ids[0] === bosId) found.push([`the begin-of-sequence token ${bos} were missing`, ids.slice(1)]);
      found.push(
        ids[0] === bosId
          ? [`the begin-of-sequence token ${bos} were there twice`, [bosId, ...ids]]
          : [`there were a begin-of-sequence token ${bos}`, [bosId, ...ids]],
      );
    }
    const { prompt } = this.#options;
    if (typeof prompt === 'string') {
      const plain = tokenizer.encodePrompt(prompt, { special: false });
      if (String(plain) !== String(ids)) found.push(['special tokens in the prompt were plain text', plain]);
      const trimmed = tokenizer.encodePrompt(prompt.trimEnd());
      if (String(trimmed) !== String(ids)) found.push(['blanks at the end of the prompt were cut off', trimmed]);
      const spaced = tokenizer.encodePrompt(` ${prompt}`);
      if (String(spaced) !== String(ids)) found.push(['there were a blank before the prompt', spaced]);
    }
    return found;
  }
}

/** Whether the server itself found another token likelier than the one it chose. */
function isBelow(tokenizer: Model['tokenizer'], chosen: Position['chosen'], best: Position['chosen']): boolean {
  if (idOf(tokenizer, chosen) === idOf(tokenizer, best) && chosen.text === best.text) return false;
  return chosen.logprob === undefined || (best.logprob ?? -Infinity) > chosen.logprob + LEAST_BOUND;
}

/** How far apart two sets of numbers for the same tokens are. */
function differencesOf(a: readonly Along[], b: readonly Along[]): { readonly largest: number; readonly mean: number } {
  let [largest, sum, count] = [0, 0, 0];
  for (const [i, { logprobs }] of a.entries()) {
    for (const [id, value] of logprobs) {
      const off = Math.abs(value - (b[i].logprobs.get(id) ?? value));
      largest = Math.max(largest, off);
      sum += off;
      count++;
    }
  }
  if (!Number.isFinite(sum)) throw new BitnetError('not-finite', 'no numbers to compare with', { where: 'logits' });
  return { largest, mean: count === 0 ? 0 : sum / count };
}
