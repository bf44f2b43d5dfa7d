/**
 * The loop: encode the prompt, compute what is not cached, then sample, emit, step, until something ends it.
 * @module
 */

import { want } from '../errors.ts';
import { createSampler, resolveSampling } from '../sampling/chain.ts';
import type { Progress } from './progress.ts';
import type { SessionImpl } from './session.ts';
import type { Logits } from './stepper.ts';
import { StopTexts } from './stop.ts';
import type { GenerateOptions, Piece } from './types.ts';
import { createYielder } from './yield.ts';

/** Yields pieces as they come and keeps the account in `progress`, whose `stopReason` is set at the end. */
export async function* generatePieces(
  session: SessionImpl,
  encode: () => Promise<readonly number[]>,
  options: GenerateOptions,
  progress: Progress,
  turnEnd: () => Promise<number | undefined>,
): AsyncGenerator<Piece, void, void> {
  const { maxTokens = Infinity, signal } = options;
  want(
    maxTokens === Infinity || (Number.isInteger(maxTokens) && maxTokens >= 0),
    'bad-argument',
    'bad number of tokens',
    () => ({ where: 'maxTokens', expected: 'an integer of at least 0', got: String(maxTokens) }),
  );
  const sampling = resolveSampling(options);
  const stops = new StopTexts(options.stop);
  signal?.throwIfAborted();
  const end = session.begin();
  try {
    const { tokenizer } = session;
    const ids = await encode();
    const ownEnd = await turnEnd();
    const cached = keepPrefix(session, ids);
    progress.begin(ids.length, cached, sampling.seed);
    const vocabularySize = Math.min(tokenizer.vocabSize, session.vocabularySize);
    const sampler = createSampler(sampling, { vocabularySize, newlineId: tokenizer.idOf('\n') });
    for (const id of ids) if (id < vocabularySize) sampler.accept(id);
    // Rows of the output matrix beyond the vocabulary may be among the greatest, too.
    const padding = session.vocabularySize - vocabularySize;
    const top = () => (options.logprobs === true ? Infinity : sampler.reach() + padding);
    let logits = await session.compute(ids.slice(cached), signal, top());
    progress.promptDone();

    const stream = tokenizer.stream();
    const breathe = createYielder();
    if (maxTokens === 0) progress.stopReason = 'maxTokens';
    while (progress.stopReason === undefined) {
      const row = tokensOf(logits, vocabularySize);
      const token = sampler.sample(row.values, row.ids);
      sampler.accept(token);
      const isEnd = (tokenizer.isEog(token) || token === ownEnd) && options.ignoreEos !== true;
      const isLast = progress.tokens.length + 1 >= maxTokens || session.position >= session.contextSize;
      const pushed = stops.push(isEnd ? stream.flush() : stream.push(token) + (isLast ? stream.flush() : ''));
      if (pushed.stop !== undefined) progress.stop(pushed.stop);
      else if (isEnd) progress.stopReason = 'eos';
      else if (isLast) progress.stopReason = progress.tokens.length + 1 >= maxTokens ? 'maxTokens' : 'contextFull';
      // At the end, text held back as the possible beginning of a stop text is text after all.
      const text = pushed.text + (progress.stopReason === undefined ? '' : stops.flush());
      progress.add(token, text);
      yield { token, text, ...(options.logprobs === true ? { logprob: sampler.logprob(row.values, token) } : {}) };
      if (progress.stopReason !== undefined) break;
      await breathe();
      logits = await session.compute([token], signal, top());
    }
  } finally {
    end();
  }
}

/** Without the rows of the output matrix that are no tokens. */
function tokensOf({ values, ids }: Logits, vocabularySize: number): Logits {
  if (ids === undefined) return { values: values.subarray(0, vocabularySize) };
  const end = ids.findIndex((id) => id >= vocabularySize);
  return end < 0 ? { values, ids } : { values: values.subarray(0, end), ids: ids.subarray(0, end) };
}

/** Rewinds the session to what it shares with the prompt; the last prompt token is always computed, for its logits. */
function keepPrefix(session: SessionImpl, ids: readonly number[]): number {
  session.check(ids, 0); // before anything is forgotten
  const keep = Math.max(0, Math.min(session.commonPrefix(ids), ids.length - 1));
  session.cut(keep);
  return keep;
}
