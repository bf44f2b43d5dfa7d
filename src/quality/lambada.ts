/**
 * LAMBADA (Paperno et al., 2016): passages whose last word is to be guessed. One JSON object a line, `{"text": "..."}`, scored
 * as lm-evaluation-harness scores `lambada_openai`: a passage is solved if every token of its last word, with the space before
 * it, is the model's most likely one; the perplexity is e to the mean of -ln p of the whole word.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { exp } from '../numeric/exp.ts';
import { normaliserOf } from '../sampling/softmax.ts';
import type { Tokenizer } from '../tokenizer/index.ts';
import { type Measurement, type Subject, savedNumber } from './measurement.ts';
import { eachRow } from './score.ts';
import { type Estimate, meanOf, shareOf } from './statistics.ts';

/** A passage as tokens; ids[from .. end) are its last word. */
export interface Passage {
  readonly line: number;
  readonly ids: readonly number[];
  readonly from: number;
}

/** The texts of the file. `label` names it in refusals. */
export function parseLambada(jsonl: string, label = 'lambada'): { line: number; text: string }[] {
  const texts: { line: number; text: string }[] = [];
  for (const [index, row] of jsonl.split('\n').entries()) {
    if (row.trim() === '') continue;
    const where = `${label}, line ${index + 1}`;
    let value: unknown;
    try {
      value = JSON.parse(row);
    } catch (error) {
      throw new BitnetError('bad-argument', 'not JSON', { where }, error);
    }
    const text = typeof value === 'object' && value !== null && 'text' in value ? value.text : undefined;
    want(typeof text === 'string' && text.trim().includes(' '), 'bad-argument', 'no passage with a last word', () => ({
      where,
      expected: '{"text": "several words"}',
      got: show(text ?? value),
    }));
    texts.push({ line: index + 1, text: text.trimEnd() });
  }
  want(texts.length > 0, 'bad-argument', 'there are no passages', () => ({ where: label }));
  return texts;
}

/** The tokens of the last word are those of the whole text behind as many as the text without it has. */
export function lambadaPassages(
  tokenizer: Tokenizer,
  texts: readonly { readonly line: number; readonly text: string }[],
  label = 'lambada',
): Passage[] {
  return texts.map(({ line, text }) => {
    const ids = tokenizer.encodePrompt(text, { special: false });
    const from = tokenizer.encodePrompt(text.slice(0, text.lastIndexOf(' ')), { special: false }).length;
    want(from >= 1 && from < ids.length, 'bad-argument', 'the last word is no token of its own', () => ({
      where: `${label}, line ${line}`,
      got: show(text.slice(-40)),
    }));
    return { line, ids, from };
  });
}

export interface LambadaResult {
  readonly passages: number;
  readonly correct: number;
  readonly accuracy: Estimate;
  /** Of the last word; its error is that of the mean log-probability, carried over. */
  readonly perplexity: Estimate;
}

export function lambada(subject: Subject, passages: readonly Passage[]): Measurement<LambadaResult> {
  const sums = { count: 0, correct: 0, nats: 0, nats2: 0 };
  const result = (): LambadaResult => {
    const { value, error } = meanOf(sums.nats, sums.nats2, sums.count);
    return {
      passages: sums.count,
      correct: sums.correct,
      accuracy: shareOf(sums.correct, sums.count),
      perplexity: { value: exp(value), error: exp(value) * error },
    };
  };
  return {
    steps: passages.length,
    async step(index, signal) {
      const { ids, from, line } = passages[index];
      want(ids.length - 1 <= subject.session.contextSize, 'context-full', 'longer than the context', () => ({
        where: `line ${line}`,
        expected: `at most ${subject.session.contextSize + 1} tokens`,
        got: `${ids.length}`,
        hint: 'a greater -c, as far as the model goes',
      }));
      let [nats, greedy] = [0, true];
      subject.session.rewind(0);
      const take = (row: Float32Array, target: number): void => {
        const { max, top, logSum } = normaliserOf(row);
        nats -= row[target] - max - logSum;
        if (top !== target) greedy = false;
      };
      await eachRow(subject, ids, from, take, signal);
      sums.count++;
      sums.nats += nats;
      sums.nats2 += nats * nats;
      if (greedy) sums.correct++;
    },
    save: () => ({ ...sums }),
    restore(saved) {
      for (const key of Object.keys(sums) as (keyof typeof sums)[]) sums[key] = savedNumber(saved, key);
    },
    running() {
      const { accuracy, perplexity } = result();
      return `${(100 * accuracy.value).toFixed(2)}% right, PPL = ${perplexity.value.toFixed(4)}`;
    },
    result,
  };
}
