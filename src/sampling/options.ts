/**
 * What a user may ask of the sampler, and the checked, complete form the rest of this room works with.
 * Names and defaults are llama.cpp's (`common/sampling.h`), so that a command line copied from there means the same.
 * @module
 */

import { BitnetError, show } from '../errors.ts';

export interface SamplingOptions {
  /** Divides the logits before the draw. 0 or less: always the most likely token. Default 0.8. */
  readonly temperature?: number | undefined;
  /** Keep this many of the most likely tokens; 0 or less keeps all. Default 40. */
  readonly topK?: number | undefined;
  /** Keep the most likely tokens until their probabilities add up to this; 1 keeps all. Default 0.95. */
  readonly topP?: number | undefined;
  /** Keep tokens at least this many times as likely as the most likely one; 0 keeps all. Default 0.05. */
  readonly minP?: number | undefined;
  /** Positive logits of recent tokens are divided by this, the others multiplied; 1 is off. Default 1. */
  readonly repeatPenalty?: number | undefined;
  /** How many recent tokens, prompt included, are penalised; 0 none, -1 all. Default 64. */
  readonly repeatLastN?: number | undefined;
  /** Subtracted once from the logit of every recent token. Default 0. */
  readonly presencePenalty?: number | undefined;
  /** Subtracted from the logit of every recent token, once for each time it occurred. Default 0. */
  readonly frequencyPenalty?: number | undefined;
  /** Whether penalties also touch the newline token. Default false. */
  readonly penalizeNewline?: boolean | undefined;
  /** Token id -> what to add to its logit. `-Infinity` bans the token. */
  readonly logitBias?: ReadonlyMap<number, number> | Readonly<Record<string, number>> | undefined;
  /** Start of the random stream. Default, or -1: drawn from the system; the result reports it. */
  readonly seed?: number | undefined;
}

/** Every option present and in range; plain data. */
export interface ResolvedSampling {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repeatPenalty: number;
  readonly repeatLastN: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly penalizeNewline: boolean;
  /** (id, bias), ascending ids. */
  readonly logitBias: readonly (readonly [id: number, bias: number])[];
  /** Never -1: already drawn if the user left it open. */
  readonly seed: number;
}

/** llama.cpp's defaults. */
export const DEFAULT_SAMPLING = {
  temperature: 0.8,
  topK: 40,
  topP: 0.95,
  minP: 0.05,
  repeatPenalty: 1,
  repeatLastN: 64,
  presencePenalty: 0,
  frequencyPenalty: 0,
  penalizeNewline: false,
} as const;

/** Fills in defaults and refuses, by option name, whatever is not a sensible number. */
export function resolveSampling(options: SamplingOptions = {}): ResolvedSampling {
  const penalizeNewline = options.penalizeNewline ?? DEFAULT_SAMPLING.penalizeNewline;
  if (typeof penalizeNewline !== 'boolean') refuse('penalizeNewline', 'true or false', penalizeNewline);
  return {
    temperature: number('temperature', options.temperature ?? DEFAULT_SAMPLING.temperature),
    topK: integer('topK', options.topK ?? DEFAULT_SAMPLING.topK),
    topP: number('topP', options.topP ?? DEFAULT_SAMPLING.topP, 0, 1),
    minP: number('minP', options.minP ?? DEFAULT_SAMPLING.minP, 0, 1),
    repeatPenalty: positive('repeatPenalty', options.repeatPenalty ?? DEFAULT_SAMPLING.repeatPenalty),
    repeatLastN: integer('repeatLastN', options.repeatLastN ?? DEFAULT_SAMPLING.repeatLastN, -1),
    presencePenalty: number('presencePenalty', options.presencePenalty ?? DEFAULT_SAMPLING.presencePenalty),
    frequencyPenalty: number('frequencyPenalty', options.frequencyPenalty ?? DEFAULT_SAMPLING.frequencyPenalty),
    penalizeNewline,
    logitBias: resolveBias(options.logitBias),
    seed: resolveSeed(options.seed),
  };
}

function refuse(option: string, expected: string, got: unknown): never {
  throw new BitnetError('bad-argument', 'not a usable value', { where: option, expected, got: show(got) });
}

function number(option: string, value: unknown, min = -Infinity, max = Infinity): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < min || value > max) {
    refuse(option, min === -Infinity ? 'a finite number' : `a number from ${min} to ${max}`, value);
  }
  return value;
}

function positive(option: string, value: unknown): number {
  // In f32, in which it is used: beyond its range 0 times it would be NaN.
  if (typeof value !== 'number' || !Number.isFinite(Math.fround(value)) || !(Math.fround(value) > 0)) {
    refuse(option, 'a number above 0, in the range of f32', value);
  }
  return value;
}

function integer(option: string, value: unknown, min = -Infinity): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min) {
    refuse(option, min === -Infinity ? 'an integer' : `an integer, at least ${min}`, value);
  }
  return value;
}

function resolveBias(bias: SamplingOptions['logitBias']): [number, number][] {
  if (bias === undefined) return [];
  if (bias === null || typeof bias !== 'object') refuse('logitBias', 'a Map or an object from id to number', bias);
  const entries: Iterable<readonly [unknown, unknown]> =
    bias instanceof Map ? bias.entries() : Object.entries(bias).map(([id, value]) => [idOfKey(id), value] as const);
  const pairs: [number, number][] = [];
  for (const [id, value] of entries) {
    if (typeof id !== 'number' || !Number.isSafeInteger(id) || id < 0) refuse('logitBias', 'token ids as keys', id);
    // -Infinity is the usual way to ban a token; +Infinity would leave no distribution to draw from.
    if (typeof value !== 'number' || Number.isNaN(value) || value === Infinity) {
      refuse(`logitBias[${id}]`, 'a number or -Infinity', value);
    }
    pairs.push([id, value]);
  }
  return pairs.sort((a, b) => a[0] - b[0]);
}

/** Keys of a plain object are text: only plain decimal digits are an id, not '', ' 1' or '1e3'. */
function idOfKey(key: string): unknown {
  return /^\d+$/.test(key) ? Number(key) : key;
}

function resolveSeed(seed: number | undefined): number {
  if (seed === undefined || seed === -1) return crypto.getRandomValues(new Uint32Array(1))[0];
  return integer('seed', seed, 0);
}
