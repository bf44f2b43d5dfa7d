/**
 * Perplexity of a text, in llama-perplexity's windows or document by document.
 * @module
 */

import { want } from '../errors.ts';
import { normaliserOf } from '../sampling/softmax.ts';
import type { Tokenizer } from '../tokenizer/index.ts';
import { encodeLogProbs, rowWords } from './base-file.ts';
import { type Measurement, type Saved, type Subject, savedNumber } from './measurement.ts';
import { eachRow, logProbabilities, Score } from './score.ts';

/** A text as llama-perplexity cuts it: one row of tokens, in windows side by side; what is left over is dropped. */
export interface Windows {
  /** Tokens of a window. */
  readonly size: number;
  readonly count: number;
  /** (count, size), as tokenized: a begin token is only put into place when a window is evaluated. */
  readonly ids: readonly number[];
}

/** Of each window, tokens from this one on are scored: each has at least half a window before it. */
export function firstScored(size: number): number {
  return Math.floor(size / 2) + 1;
}

/**
 * Cuts a text into windows. `label` names it in refusals. As llama.cpp, takes a text for too short that has not two windows.
 * llama-perplexity reads its file without the newline at the end, and so does this.
 */
export function textWindows(
  tokenizer: Tokenizer,
  text: string,
  size: number,
  { limit = Infinity, label = 'text' }: { readonly limit?: number | undefined; readonly label?: string } = {},
): Windows {
  want(Number.isSafeInteger(size) && size >= 3, 'bad-argument', 'bad size of a window', () => ({
    expected: 'an integer of at least 3: one token to begin with, one that is context, and one to score',
    got: String(size),
  }));
  const ids = tokenizer.encodePrompt(text.replace(/\n$/, ''), { special: false });
  want(ids.length >= 2 * size, 'bad-argument', 'the text is too short', () => ({
    where: label,
    expected: `at least two windows, ${2 * size} tokens`,
    got: `${ids.length}`,
    hint: 'a smaller -c',
  }));
  const count = Math.min(Math.floor(ids.length / size), limit);
  return { size, count, ids: ids.slice(0, count * size) };
}

/** Window `index` as it is evaluated: with the begin token, where the model wants one, in place of its first. */
export function windowIds(tokenizer: Tokenizer, { size, ids }: Omit<Windows, 'count'>, index: number): number[] {
  const window = ids.slice(index * size, (index + 1) * size);
  if (tokenizer.spec.addBos) window[0] = tokenizer.spec.bosId!;
  return window;
}

export interface PerplexityResult {
  readonly perplexity: number;
  readonly error: number;
  /** Scored tokens. */
  readonly tokens: number;
  readonly bits: number;
  /** UTF-8 bytes of the text that the scored tokens stand for. */
  readonly textBytes: number;
}

/** What both ways to measure perplexity sum up. */
class Sums {
  readonly score = new Score();
  textBytes = 0;

  add(logprobs: readonly number[], textBytes: number): void {
    for (const logprob of logprobs) this.score.add(logprob);
    this.textBytes += textBytes;
  }

  save(): Saved {
    return { ...this.score.save(), textBytes: this.textBytes };
  }

  restore(saved: Saved): void {
    this.score.restore(saved);
    this.textBytes = savedNumber(saved, 'textBytes');
  }

  running(): string {
    return `PPL = ${this.score.perplexity.toFixed(4)} +/- ${this.score.error.toFixed(4)}`;
  }

  result(): PerplexityResult {
    const { perplexity, error, count, bits } = this.score;
    return { perplexity, error, tokens: count, bits, textBytes: this.textBytes };
  }
}

/**
 * llama-perplexity's figure. `record` is given each window's log-probabilities in the form of its base files
 * (base-file.ts) before the window counts.
 */
export function windowPerplexity(
  subject: Subject,
  windows: Windows,
  record?: (rows: Uint8Array) => Promise<void>,
): Measurement<PerplexityResult> {
  const { tokenizer, vocabularySize } = subject;
  const first = firstScored(windows.size);
  const rowBytes = 2 * rowWords(vocabularySize);
  const recorded = record === undefined ? undefined : new Uint8Array((windows.size - first) * rowBytes);
  const sums = new Sums();
  return {
    steps: windows.count,
    async step(index, signal) {
      const ids = windowIds(tokenizer, windows, index);
      const logprobs: number[] = [];
      subject.session.rewind(0);
      const take = (row: Float32Array, target: number): void => {
        const normaliser = normaliserOf(row);
        if (recorded !== undefined) {
          encodeLogProbs(row, normaliser, new DataView(recorded.buffer, logprobs.length * rowBytes, rowBytes));
        }
        logprobs.push(row[target] - normaliser.max - normaliser.logSum);
      };
      await eachRow(subject, ids, first, take, signal);
      if (recorded !== undefined) await record?.(recorded);
      let textBytes = 0;
      for (const id of ids.slice(first)) textBytes += tokenizer.tokenBytes(id, true).length;
      sums.add(logprobs, textBytes);
    },
    save: () => sums.save(),
    restore: (saved) => sums.restore(saved),
    running: () => sums.running(),
    result: () => sums.result(),
  };
}

/**
 * Every document by itself: begin token, text, end token; everything after the begin token is scored. A document
 * longer than the context is scored in windows that overlap by half, every token once.
 */
export function documentPerplexity(subject: Subject, documents: readonly string[]): Measurement<PerplexityResult> {
  const { tokenizer, session } = subject;
  const { bosId, eosId } = tokenizer.spec;
  want(
    bosId !== undefined,
    'bad-token',
    'the vocabulary has no begin-of-sequence token, which every document starts from',
  );
  const sums = new Sums();
  return {
    steps: documents.length,
    async step(index, signal) {
      const ids = tokenizer.encode(documents[index], { bos: true, eos: eosId !== undefined });
      const logprobs: number[] = [];
      // The last token of a window is predicted and not evaluated: a window has one token more than the context.
      const size = session.contextSize;
      for (let done = 0; done < ids.length - 1; ) {
        const from = done === 0 ? 0 : Math.max(0, done - Math.floor(size / 2));
        const last = Math.min(ids.length - 1, from + size);
        logprobs.push(...(await logProbabilities(subject, ids.slice(from, last + 1), done - from + 1, signal)));
        done = last;
      }
      sums.add(logprobs, new TextEncoder().encode(documents[index]).length);
    },
    save: () => sums.save(),
    restore: (saved) => sums.restore(saved),
    running: () => sums.running(),
    result: () => sums.result(),
  };
}

/** Texts between separators, without the line ends around them; empty ones are none. */
export function splitDocuments(text: string, separator: string): string[] {
  return text
    .split(separator)
    .map((document) => document.replace(/^[\r\n]+|[\r\n]+$/g, ''))
    .filter((document) => document !== '');
}
