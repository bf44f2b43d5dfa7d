/**
 * HellaSwag (Zellers et al., 2019) from llama-perplexity's file: six lines a task.
 *
 *     activity: context
 *     0 .. 3, which ending is right
 *     ending 0
 *     ending 1
 *     ending 2
 *     ending 3
 *
 * The score is lm-evaluation-harness's acc_norm but for one thing: it is divided by tokens, not by characters.
 * @module
 */

import { want } from '../errors.ts';
import type { Tokenizer } from '../tokenizer/index.ts';
import { type Choice, choiceOf } from './choices.ts';
import { drawUniform } from './mersenne.ts';

const LINES = 6;

export interface HellaSwagTask {
  /** From 1, its place in the file. */
  readonly number: number;
  readonly context: string;
  readonly gold: number;
  readonly endings: readonly string[];
}

/** `label` names the text in refusals. */
export function parseHellaSwag(text: string, label = 'hellaswag'): HellaSwagTask[] {
  const lines = text.replace(/\r?\n$/, '').split(/\r?\n/);
  want(text !== '' && lines.length % LINES === 0, 'bad-argument', 'not a file of HellaSwag tasks', () => ({
    where: label,
    expected: 'six lines a task',
    got: `${text === '' ? 0 : lines.length} lines`,
  }));
  return Array.from({ length: lines.length / LINES }, (_, i) => {
    const [context, gold, ...endings] = lines.slice(i * LINES, (i + 1) * LINES);
    want(/^\s*[0-3]\s*$/.test(gold), 'bad-argument', 'not the number of an ending', () => ({
      where: `${label}, line ${i * LINES + 2}`,
      expected: '0 to 3',
      got: JSON.stringify(gold.slice(0, 40)),
    }));
    return { number: i + 1, context, gold: Number(gold), endings };
  });
}

/** The tasks that llama-perplexity takes, in its order: all, or `count` of them, always shuffled. */
export function hellaSwagChoices(tokenizer: Tokenizer, tasks: readonly HellaSwagTask[], count: number): Choice[] {
  return drawUniform(tasks.length, count).map((index) => {
    const { number, context, gold, endings } = tasks[index];
    const texts = endings.map((ending) => `${context} ${ending}`);
    return choiceOf(
      tokenizer,
      `task ${number}`,
      texts,
      endings.map((_, i) => i === gold),
    );
  });
}
