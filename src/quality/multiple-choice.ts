/**
 * llama-perplexity's binary file of multiple-choice tasks (ARC, MMLU, TruthfulQA and others), all little-endian:
 *
 *     0  u32         number of tasks
 *     4  u32[tasks]  where each begins, from the beginning of the file
 *        tasks:      question   string = u32 length, UTF-8 bytes
 *                    answers    u32 n, n strings, i32[n] labels: 1 is right. One of them is right
 *                    answers    the same, of which several are right. Read over
 * @module
 */

import { want } from '../errors.ts';
import type { Tokenizer } from '../tokenizer/index.ts';
import { type Choice, choiceOf } from './choices.ts';
import { drawScaled } from './mersenne.ts';

/** llama.cpp's own limit. */
const MAX_ANSWERS = 100;
/** A question of two empty strings, without answers: u32 and twice u32. */
const LEAST_TASK_BYTES = 12;

export interface MultipleChoiceTask {
  /** From 1, its place in the file. */
  readonly number: number;
  readonly question: string;
  readonly answers: readonly string[];
  readonly right: readonly boolean[];
}

/**
 * The tasks that llama-perplexity takes: all one behind the other (`count` 0), or `count` of them as it draws them, from where
 * the table says they are.
 */
export function parseMultipleChoice(bytes: Uint8Array, count: number, label = 'multiple-choice'): MultipleChoiceTask[] {
  const reader = new Reader(bytes, label);
  const total = reader.u32('the number of tasks');
  want(total > 0, 'bad-argument', 'there are no tasks', () => ({ where: label }));
  want(total <= (bytes.length - 4) / (4 + LEAST_TASK_BYTES), 'truncated', 'more tasks than the file can hold', () => ({
    where: label,
    expected: `at most ${Math.floor((bytes.length - 4) / (4 + LEAST_TASK_BYTES))}`,
    got: `${total}`,
  }));
  const places = Array.from({ length: total }, () => reader.u32('the table of tasks'));
  if (count <= 0 || count >= total) return places.map((_, index) => reader.task(index + 1));
  return drawScaled(total, count).map((index) => {
    want(places[index] >= 4 + 4 * total, 'bad-container', 'a task within the table of tasks', () => ({
      where: `${label}, task ${index + 1}`,
      got: `byte ${places[index]}`,
    }));
    reader.at = places[index];
    return reader.task(index + 1);
  });
}

class Reader {
  at = 0;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #label: string;
  readonly #decoder = new TextDecoder();

  constructor(bytes: Uint8Array, label: string) {
    this.#bytes = bytes;
    this.#label = label;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u32(what: string): number {
    return this.#view.getUint32(this.#take(4, what), true);
  }

  task(number: number): MultipleChoiceTask {
    const what = `task ${number}`;
    const question = this.#text(what);
    const { answers, labels } = this.#answers(what);
    this.#answers(what);
    const where = `${this.#label}, ${what}`;
    want(
      question !== '' && answers.length > 0 && !answers.includes(''),
      'bad-argument',
      'an empty question or answer',
      () => ({
        where,
      }),
    );
    return { number, question, answers, right: labels.map((one) => one === 1) };
  }

  #answers(what: string): { answers: string[]; labels: number[] } {
    const count = this.u32(what);
    want(count <= MAX_ANSWERS, 'limit-exceeded', 'too many answers', () => ({
      where: `${this.#label}, ${what}`,
      expected: `at most ${MAX_ANSWERS}`,
      got: `${count}`,
    }));
    const answers = Array.from({ length: count }, () => this.#text(what));
    return { answers, labels: Array.from({ length: count }, () => this.u32(what)) };
  }

  #text(what: string): string {
    const length = this.u32(what);
    const start = this.#take(length, what);
    return this.#decoder.decode(this.#bytes.subarray(start, start + length));
  }

  /** Steps over that many bytes; where they begin. */
  #take(length: number, what: string): number {
    const start = this.at;
    want(length <= this.#bytes.length - start, 'truncated', 'the file ends too early', () => ({
      where: `${this.#label}, ${what}`,
      expected: `${length} bytes at ${start}`,
      got: `${Math.max(0, this.#bytes.length - start)}`,
    }));
    this.at = start + length;
    return start;
  }
}

export function multipleChoices(tokenizer: Tokenizer, tasks: readonly MultipleChoiceTask[]): Choice[] {
  return tasks.map(({ number, question, answers, right }) => {
    const texts = answers.map((answer) => `${question} ${answer}`);
    return choiceOf(tokenizer, `task ${number}`, texts, right);
  });
}
