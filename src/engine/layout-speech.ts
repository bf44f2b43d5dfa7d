/**
 * The last word on the layout of a file whose weights do not tell it: whether the model speaks. A short text is scored by the
 * loaded model. One that was read in the right layout finds plain English far more likely than chance does, in the wrong one it
 * is no better than that.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { Backend } from '../kernels/interface.ts';
import type { ModelConfig } from '../model/config.ts';
import { logProbability } from '../sampling/softmax.ts';
import type { Tokenizer } from '../tokenizer/index.ts';
import { kvShapeOf } from './session.ts';
import type { Stepper } from './stepper.ts';

/** Something that every model of English has read in some form, in words that the smallest knows. */
const TEXT =
  'Once upon a time there was a little girl named Lily. She had a big red ball. ' +
  'One day, she went to the park with her mom to play.';

/** Of the bits of blind guessing: who needs fewer speaks. Models that speak need a third of it, others all and more. */
const SPEAKS = 0.6;

export interface Speech {
  /** Bits for one token of the text; infinite where the model gave no numbers. */
  readonly bits: number;
  /** What guessing takes: log2 of the vocabulary. */
  readonly guessing: number;
  readonly speaks: boolean;
}

export interface Speaker {
  readonly backend: Backend;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly stepper: Stepper;
}

/** One short prefill. */
export async function hear({ backend, config, tokenizer, stepper }: Speaker): Promise<Speech> {
  const n = config.vocabulary;
  const guessing = -logProbability(new Float32Array(n), 0) / Math.LN2;
  const ids = tokenizer.encodePrompt(TEXT).slice(0, config.contextLength);
  if (ids.length < 2) return { bits: guessing, guessing, speaks: false };
  const kv = backend.allocKv(kvShapeOf(config, { contextSize: ids.length }));
  try {
    let nats = 0;
    // The last token predicts nothing that is known.
    for (let at = 0; at + 1 < ids.length; at += stepper.maxRows) {
      const chunk = ids.slice(at, Math.min(at + stepper.maxRows, ids.length - 1));
      const [{ values: logits }] = await stepper.step([{ kv, position: at, ids: chunk, logits: 'all' }]);
      for (const i of chunk.keys()) nats -= logProbability(logits.subarray(i * n, (i + 1) * n), ids[at + i + 1]);
    }
    const bits = nats / (ids.length - 1) / Math.LN2;
    return { bits, guessing, speaks: bits < SPEAKS * guessing };
  } catch (error) {
    if (!(error instanceof BitnetError && error.code === 'not-finite')) throw error;
    return { bits: Number.POSITIVE_INFINITY, guessing, speaks: false };
  } finally {
    backend.free(kv);
  }
}
