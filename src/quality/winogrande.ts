/**
 * Winogrande (Sakaguchi et al., 2019) from llama-perplexity's CSV: a sentence with a gap, two words for it, which is right.
 *
 *     0,Sarah was a much better surgeon than Maria so _ always got the easier cases.,Sarah,Maria,2
 *
 * Scored is what comes behind the gap, without the last token, which is a full stop nearly always; where that is too short, the
 * word in the gap as well.
 * @module
 */

import { want } from '../errors.ts';
import type { Tokenizer } from '../tokenizer/index.ts';
import { type Choice, commonPrefix } from './choices.ts';
import { drawScaled } from './mersenne.ts';

/** With no more tokens than this from where the two texts part, the words in the gap are scored too. */
const LEAST_TRAILING = 3;

export interface WinograndeTask {
  /** From 1, its line in the file. */
  readonly line: number;
  readonly before: string;
  readonly after: string;
  readonly choices: readonly [string, string];
  /** 0 or 1. */
  readonly gold: number;
}

/**
 * Reads the CSV as llama.cpp does: only the sentence may be quoted, its doubled quotes stay doubled. Lines that are no tasks are
 * passed over, as there, and listed in `skipped`. Unlike `llama-perplexity -f` this reads the last line; `-bf` does so too.
 */
export function parseWinogrande(text: string, label = 'winogrande'): { tasks: WinograndeTask[]; skipped: number[] } {
  const tasks: WinograndeTask[] = [];
  const skipped: number[] = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line === '') continue;
    const task = parseLine(line);
    if (task === undefined) skipped.push(index + 1);
    else tasks.push({ line: index + 1, ...task });
  }
  want(tasks.length > 0, 'bad-argument', 'there is no Winogrande task', () => ({
    where: label,
    expected: 'lines of index,sentence with _,choice,choice,answer',
    got: skipped.length === 0 ? 'nothing' : `${skipped.length} other lines`,
  }));
  return { tasks, skipped };
}

function parseLine(line: string): Omit<WinograndeTask, 'line'> | undefined {
  const commas: number[] = [];
  let quoted = false;
  for (let i = 0; i < line.length && commas.length < 4; i++) {
    if (line[i] === '"') quoted = !quoted;
    else if (line[i] === ',' && !quoted) commas.push(i);
  }
  if (commas.length < 4) return undefined;
  const field = (n: number) => line.slice(commas[n - 1] + 1, commas[n]);
  const sentence = field(1).startsWith('"') ? field(1).slice(1, -1) : field(1);
  const gap = sentence.indexOf('_');
  const answer = /^\s*([12])(?!\d)/.exec(line.slice(commas[3] + 1))?.[1];
  if (gap < 0 || answer === undefined) return undefined;
  return {
    before: sentence.slice(0, gap),
    after: sentence.slice(gap + 1),
    choices: [field(2), field(3)],
    gold: Number(answer) - 1,
  };
}

/**
 * The tasks that llama-perplexity takes: all as they stand (`count` 0), or `count` of them as it draws them.
 *
 * Where the words in the gap are scored, llama.cpp takes the first log-probability of the second text from a wrong row (as its source
 * itself remarks). Here it is the right one; `Choice.alternatives` of such tasks have `from` at the prefix.
 */
export function winograndeChoices(tokenizer: Tokenizer, tasks: readonly WinograndeTask[], count: number): Choice[] {
  const chosen =
    count > 0 && count < tasks.length ? drawScaled(tasks.length, count).map((index) => tasks[index]) : tasks;
  const encode = (text: string): number[] => tokenizer.encodePrompt(text, { special: false });
  return chosen.map(({ line, before, after, choices, gold }) => {
    const texts = choices.map((choice) => encode(before + choice + after));
    const prefix = commonPrefix(texts);
    const long = texts.every((ids) => ids.length - prefix > LEAST_TRAILING);
    const alternatives = texts.map((ids, i) => {
      // A gap that tokenizes differently without what follows could begin before the texts part, or end behind the last token.
      const behind = encode(before + choices[i]).length;
      const from = long ? Math.min(Math.max(behind, prefix), ids.length - 1) : prefix;
      return { ids, from, to: ids.length - from > 1 ? ids.length - 1 : ids.length };
    });
    return { label: `line ${line}`, alternatives, prefix, right: [gold === 0, gold === 1], ties: 'last' };
  });
}
