/**
 * Tasks in which a model chooses: of several texts that begin alike, the one it finds most likely per token.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { normaliserOf } from '../sampling/softmax.ts';
import type { Tokenizer } from '../tokenizer/index.ts';
import { type Measurement, type Subject, savedNumber } from './measurement.ts';
import { eachRow } from './score.ts';
import { type Estimate, shareOf, wilsonInterval } from './statistics.ts';

/** A text as tokens, and which of them are scored. */
export interface Alternative {
  readonly ids: readonly number[];
  /** ids[from .. to) are scored; at least one. */
  readonly from: number;
  readonly to: number;
}

export interface Choice {
  /** For messages: `task 3`. */
  readonly label: string;
  readonly alternatives: readonly Alternative[];
  /** All alternatives begin with this many tokens; at least one. */
  readonly prefix: number;
  /** Which alternatives are right. */
  readonly right: readonly boolean[];
  /** Of equal scores the first is chosen, or the last. */
  readonly ties: 'first' | 'last';
}

export interface ChoiceResult {
  readonly tasks: number;
  readonly correct: number;
  /** Share of tasks solved; the error is that of a binomial. */
  readonly accuracy: Estimate;
  /** Wilson's interval of 95%. */
  readonly interval: readonly [low: number, high: number];
  /** Share that guessing would solve: tasks over alternatives, as llama.cpp has it. */
  readonly chance: number;
  /** Chosen alternative of each task, in the order of the measurement. */
  readonly chosen: readonly number[];
}

/**
 * Tokens that all texts begin with, but one fewer than the shortest has: one of each must be left to be scored. (llama.cpp reads
 * behind the end of a text with which another begins.)
 */
export function commonPrefix(texts: readonly (readonly number[])[]): number {
  const most = Math.min(...texts.map((ids) => ids.length)) - 1;
  let length = 0;
  while (length < most && texts.every((ids) => ids[length] === texts[0][length])) length++;
  return length;
}

/** A choice among whole texts, each scored from where it differs to its end. */
export function choiceOf(
  tokenizer: Tokenizer,
  label: string,
  texts: readonly string[],
  right: readonly boolean[],
): Choice {
  const encoded = texts.map((text) => tokenizer.encodePrompt(text, { special: false }));
  const prefix = commonPrefix(encoded);
  return {
    label,
    prefix,
    right,
    ties: 'first',
    alternatives: encoded.map((ids) => ({ ids, from: prefix, to: ids.length })),
  };
}

/** Positions that the longest of these choices takes. */
export function longestChoice(choices: readonly Choice[]): number {
  let longest = 1;
  for (const { alternatives } of choices) for (const { ids } of alternatives) longest = Math.max(longest, ids.length);
  return longest;
}

/** ln p of the scored tokens of every alternative. What they share is computed once. */
async function scoresOf(subject: Subject, { alternatives, prefix, label }: Choice, signal?: AbortSignal) {
  const { session } = subject;
  want(prefix >= 1, 'bad-argument', 'nothing stands before the alternatives, so nothing predicts them', () => ({
    where: label,
  }));
  const longest = Math.max(...alternatives.map(({ ids }) => ids.length));
  want(longest <= session.contextSize, 'context-full', 'longer than the context', () => ({
    where: label,
    expected: `at most ${session.contextSize} tokens`,
    got: `${longest}`,
    hint: 'a greater -c, as far as the model goes',
  }));
  session.rewind(0);
  // The row after what is shared predicts the first token of each. A copy: the session may reuse its memory.
  const shared = normalised(Float32Array.from(await session.prefill(alternatives[0].ids.slice(0, prefix), { signal })));
  const scores: number[] = [];
  for (const { ids, from, to } of alternatives) {
    let sum = from === prefix ? shared(ids[prefix]) : 0;
    session.rewind(prefix);
    const first = Math.max(from, prefix + 1);
    const take = (row: Float32Array, target: number): void => {
      sum += normalised(row)(target);
    };
    await eachRow(subject, ids.slice(0, to), first, take, signal);
    scores.push(sum / (to - from));
  }
  return scores;
}

function normalised(row: Float32Array): (id: number) => number {
  const { max, logSum } = normaliserOf(row);
  return (id) => row[id] - max - logSum;
}

/** The alternative with the greatest score. */
function choose(scores: readonly number[], ties: Choice['ties']): number {
  let chosen = 0;
  for (let i = 1; i < scores.length; i++) {
    if (ties === 'last' ? scores[i] >= scores[chosen] : scores[i] > scores[chosen]) chosen = i;
  }
  return chosen;
}

export function choiceAccuracy(subject: Subject, choices: readonly Choice[]): Measurement<ChoiceResult> {
  const chosen: number[] = [];
  let correct = 0;
  const answers = choices.reduce((sum, { alternatives }) => sum + alternatives.length, 0);
  return {
    steps: choices.length,
    async step(index, signal) {
      const choice = choices[index];
      const pick = choose(await scoresOf(subject, choice, signal), choice.ties);
      chosen.push(pick);
      if (choice.right[pick]) correct++;
    },
    save: () => ({ correct, chosen: chosen.join(',') }),
    restore(saved) {
      const list = String(saved.chosen);
      const picks = list === '' ? [] : list.split(',').map(Number);
      if (!picks.every((pick, i) => Number.isInteger(pick) && pick in (choices[i]?.right ?? []))) {
        throw new BitnetError('bad-metadata', 'not the answers of these tasks', { where: 'chosen' });
      }
      chosen.splice(0, chosen.length, ...picks);
      correct = savedNumber(saved, 'correct');
    },
    running: () => `${((100 * correct) / chosen.length).toFixed(4)}% right`,
    result: () => ({
      tasks: chosen.length,
      correct,
      accuracy: shareOf(correct, chosen.length),
      interval: wilsonInterval(correct, chosen.length),
      chance: choices.length / answers,
      chosen: chosen.slice(),
    }),
  };
}
