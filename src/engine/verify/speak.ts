/**
 * Lets a model speak: how well it predicts a fixed text, and how it continues fixed prompts. The same model gives the same numbers
 * to the last bit on every backend that is exact, with any number of threads.
 * @module
 */

import { logProbability } from '../../sampling/softmax.ts';
import type { Model } from '../types.ts';
import { FACT, PROSE, SHUFFLED, STORY_PROMPT } from './prose.ts';

/** How surprised a model was by a text. */
export interface Surprise {
  /** Tokens predicted, and the bytes they stand for. */
  readonly tokens: number;
  readonly bytes: number;
  /** Sum of -ln p. */
  readonly nats: number;
  readonly bitsPerByte: number;
}

export interface Continuation {
  readonly prompt: string;
  readonly tokens: readonly number[];
  readonly text: string;
}

export interface Speech {
  readonly prose: Surprise;
  /** The same words in an order that means nothing. */
  readonly shuffled: Surprise;
  readonly story: Continuation;
  readonly fact: Continuation;
}

export interface SpeakOptions {
  /** Gets the logits after every token of the prose, rows of the vocabulary's length, in order. */
  readonly onLogits?: ((rows: Float32Array) => void) | undefined;
  readonly onProgress?: ((what: string) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

const STORY_TOKENS = 64;
const FACT_TOKENS = 8;

export async function speak(model: Model, options: SpeakOptions = {}): Promise<Speech> {
  const { onProgress, onLogits } = options;
  onProgress?.('predicting a text');
  const prose = await surpriseOf(model, PROSE, options, onLogits);
  onProgress?.('predicting its words backwards');
  const shuffled = await surpriseOf(model, SHUFFLED, options);
  onProgress?.('telling a story');
  const story = await continuationOf(model, STORY_PROMPT, STORY_TOKENS, options);
  onProgress?.('answering');
  const fact = await continuationOf(model, FACT.prompt, FACT_TOKENS, options);
  return { prose, shuffled, story, fact };
}

async function surpriseOf(
  model: Model,
  text: string,
  { signal }: SpeakOptions,
  onLogits?: (rows: Float32Array) => void,
): Promise<Surprise> {
  const { tokenizer, info } = model;
  // Nothing predicts the first token; as many as the model has positions for are scored.
  const ids = tokenizer.encodePrompt(text, { special: false }).slice(0, info.contextLength + 1);
  const session = model.createSession({ contextSize: ids.length - 1 });
  try {
    let at = 1;
    let nats = 0;
    let bytes = 0;
    for await (const rows of session.logits(ids.slice(0, -1), { signal })) {
      onLogits?.(rows);
      for (let row = 0; row < rows.length; row += info.vocabularySize) {
        nats -= logProbability(rows.subarray(row, row + info.vocabularySize), ids[at]);
        bytes += tokenizer.tokenBytes(ids[at++], true).length;
      }
    }
    return { tokens: at - 1, bytes, nats, bitsPerByte: nats / Math.LN2 / bytes };
  } finally {
    await session.dispose();
  }
}

async function continuationOf(
  model: Model,
  prompt: string,
  maxTokens: number,
  { signal }: SpeakOptions,
): Promise<Continuation> {
  const ids = model.tokenizer.encodePrompt(prompt);
  const contextSize = Math.min(model.info.contextLength, ids.length + maxTokens);
  const session = model.createSession({ contextSize });
  try {
    const greedy = { maxTokens, temperature: 0, ignoreEos: true, seed: 0, signal };
    const { tokens, text } = await session.generate(ids, greedy).result;
    return { prompt, tokens, text };
  } finally {
    await session.dispose();
  }
}
