/**
 * Known answers: what a model said when it was trusted, what it says now, and whether that is the same.
 *
 * Two kinds of knowledge. Exact answers were recorded from a run (`bitnet verify --write`); equal ones prove file and engine to the
 * last bit. Of published models that could not be run here only bounds are known, with their reasons, in known-models.ts.
 * @module
 */

import { BitnetError, show, want } from '../../errors.ts';
import { bad, ok, type Verdict, warn } from '../../model/verify/verdict.ts';
import type { Expectation } from './known-models.ts';
import { FACT } from './prose.ts';
import type { Continuation, Speech, Surprise } from './speak.ts';

/** Answers of one run, complete enough to be compared with those of another. */
export interface Answers {
  readonly format: typeof FORMAT;
  readonly version: 1;
  readonly model: {
    readonly name: string;
    readonly architecture: string;
    readonly activation: string;
    /** FNV-1a over the texts of the vocabulary. */
    readonly vocabulary: number;
    /** SHA-256 over the ternary weights as packed rows, by name: the same in every lossless container. */
    readonly trits: string;
  };
  /** SHA-256 of everything that was asked. */
  readonly text: string;
  readonly prose: Surprise;
  readonly shuffled: Surprise;
  readonly perplexity: number;
  readonly story: Continuation;
  readonly fact: Continuation;
  /** SHA-256 of the logits after every token of the prose but the last, as little-endian f32. */
  readonly logits: string;
  /** Who answered; not compared. */
  readonly run?: unknown;
}

export const FORMAT = 'bitnet-ts answers';

/**
 * Surprises (in nats) this near to each other are one model in two roundings: scales as f16, a requantised embedding. Tight,
 * because sub-norms hide much: the embedded model run with SiLU instead of squared ReLU is off by 0.02 only.
 */
const SAME_MODEL = 0.005;
/** A model that reads predicts sentences this much better than their words backwards; random weights do not. */
const ORDER_HELPS = 0.85;

/** Verdicts on what was said, by what is expected of the model. */
export function speechVerdicts(speech: Speech, expected: Expectation): Verdict[] {
  const { prose, shuffled, fact, story } = speech;
  const found: Verdict[] = [];
  const bits = `${prose.bitsPerByte.toFixed(3)} bits per byte`;
  const bound = `at most ${expected.mostBitsPerByte}: ${expected.reason}`;
  if (prose.bitsPerByte <= expected.mostBitsPerByte) found.push(ok('prose', `${bits} (${bound})`));
  else found.push(bad('prose', `${bits}, expected ${bound}`, GARBAGE));
  const share = prose.bitsPerByte / shuffled.bitsPerByte;
  const order = `${shuffled.bitsPerByte.toFixed(3)} bits per byte for the same words backwards`;
  if (share <= ORDER_HELPS) found.push(ok('order', `${order}: it reads sentences`));
  else found.push(bad('order', `${order}: sentences mean nothing to it`, GARBAGE));
  const said = `${show(fact.prompt)} goes on ${show(fact.text)}`;
  if (fact.text.includes(FACT.answer)) found.push(ok('fact', said));
  else if (expected.knowsFacts) found.push(bad('fact', `${said}, without ${FACT.answer}`, GARBAGE));
  else found.push(ok('fact', `${said}; nothing is expected of this model`));
  found.push(ok('story', `${show(story.prompt)} goes on ${show(story.text)}`));
  return found;
}

const GARBAGE =
  'the weights are not what the model was trained with: look at the verdicts on the file, and at its layout';

export interface Comparison {
  readonly verdicts: readonly Verdict[];
  /** Everything is as recorded, to the last bit. */
  readonly isSame: boolean;
}

/** Verdicts on `now` by the trusted `known`; `from` says where those are from. */
export function compareAnswers(now: Answers, known: Answers, from: string): Comparison {
  const found: Verdict[] = [];
  if (now.text !== known.text) {
    found.push(bad('answers', `${from} are to other questions`, 'record them again with this version of bitnet-ts'));
    return { verdicts: found, isSame: false };
  }
  if (now.model.vocabulary !== known.model.vocabulary) {
    found.push(bad('vocabulary', `not that of ${from}: tokens are missing, added, or in another order`, ANOTHER_FILE));
  }
  for (const key of ['architecture', 'activation'] as const) {
    if (now.model[key] === known.model[key]) continue;
    found.push(bad(key, `${now.model[key]}; ${from} are of ${known.model[key]}`, ANOTHER_FILE));
  }
  const isSameTrits = now.model.trits === known.model.trits;
  if (isSameTrits) found.push(ok('trits', `every ternary weight is that of ${from}`));
  else found.push(bad('trits', `not the ternary weights of ${from}`, ANOTHER_FILE));
  if (now.logits === known.logits) {
    found.push(
      ok('logits', `the same bits as ${from}, ${now.prose.tokens} rows, sha256 ${now.logits.slice(0, 16)}...`),
    );
    return { verdicts: found, isSame: !isAnyBad(found) };
  }
  const off = Math.abs(now.prose.nats / known.prose.nats - 1);
  const numbers = `perplexity ${shown(now.perplexity)}, ${shown(known.perplexity)} in ${from}`;
  const where = firstDifference(now.story.tokens, known.story.tokens);
  const story = where < 0 ? 'the same story' : `the story differs from token ${where} on`;
  if (off > SAME_MODEL) found.push(bad('logits', `${numbers}; ${story}`, ANOTHER_FILE));
  else {
    const todo = 'expected of another container with rounded scales, or a requantised embedding; not of the same file';
    found.push(warn('logits', `other bits, ${numbers}; ${story}`, todo));
  }
  return { verdicts: found, isSame: false };
}

function isAnyBad(verdicts: readonly Verdict[]): boolean {
  return verdicts.some(({ grade }) => grade === 'bad');
}

const ANOTHER_FILE = 'another model, or a damaged or wrongly converted one';

function shown(perplexity: number): string {
  return `${Number(perplexity.toPrecision(8))}`;
}

/** Index of the first token that differs, or -1. */
function firstDifference(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) if (a[i] !== b[i]) return i;
  return -1;
}

/** Reads what `--write` wrote. `where` is for messages. */
export function parseAnswers(text: string, where: string): Answers {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new BitnetError('bad-argument', 'not JSON', { where, got: String(error) }, error);
  }
  const answers = value as Answers;
  want(answers?.format === FORMAT && answers.version === 1, 'bad-argument', 'not recorded answers', () => ({
    where,
    expected: `"format": "${FORMAT}", "version": 1`,
    hint: 'write them with "bitnet verify --write FILE.json"',
  }));
  const isText = (...values: unknown[]) => values.every((one) => typeof one === 'string');
  const isNumber = (...values: unknown[]) => values.every((one) => typeof one === 'number' && Number.isFinite(one));
  const { model, story, prose } = answers;
  const isWhole =
    isText(model?.name, model?.architecture, model?.activation, model?.trits, answers.text, answers.logits) &&
    isNumber(model?.vocabulary, prose?.nats, answers.perplexity) &&
    Array.isArray(story?.tokens) &&
    isNumber(...story.tokens);
  want(isWhole, 'bad-argument', 'recorded answers are not whole', () => ({ where }));
  return answers;
}
