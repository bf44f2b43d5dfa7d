/**
 * Embeddings: texts in, one vector each out. Texts share the steps of the model, as many tokens at a time as a batch holds; a
 * long text takes several steps and keeps its keys and values in between. Rows of a batch do not know of each other, so a
 * vector has the same bits whatever it was computed beside.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import type { Backend, KvCache } from '../kernels/interface.ts';
import type { ModelConfig } from '../model/config.ts';
import {
  EMBEDDING_FORMATS,
  type EmbeddingFormat,
  normalizeVector,
  POOLINGS_HERE,
  Pooler,
  type Pooling,
  type QuantizedEmbedding,
  quantizeEmbedding,
} from '../model/embedding.ts';
import type { Tokenizer } from '../tokenizer/index.ts';
import { kvShapeOf } from './session.ts';
import type { Stepper } from './stepper.ts';
import type { SessionOptions } from './types.ts';
import { createYielder } from './yield.ts';

export {
  cosineSimilarity,
  dequantizeEmbedding,
  type EmbeddingFormat,
  embeddingCodes,
  type Pooling,
  type QuantizedEmbedding,
  type QuantizedFormat,
  quantizeEmbedding,
} from '../model/embedding.ts';

export interface EmbedOptions {
  /**
   * What the text is wanted for, in a sentence: "Given a question, retrieve passages that answer it". Embedding models are
   * trained with one before queries and none before documents. Put before the text as `Instruct: ...\nQuery: text`; one
   * that has `{text}` in it is taken as the whole: `Instruct: ...\nQuery:{text}` is Qwen3-Embedding's own form.
   */
  readonly instruction?: string | undefined;
  /** Which rows make the vector. Default: what the file says; `last` where it says nothing. */
  readonly pooling?: Pooling | undefined;
  /** True (the default) is length 1; a number is `--embd-normalize` of llama-embedding, see `normalizeVector`. */
  readonly normalize?: boolean | number | undefined;
  /** Vectors in few bits: see `QuantizedEmbedding`. Default `float`. */
  readonly quantize?: EmbeddingFormat | undefined;
  /** Longest text in tokens. Default: the model's context length. */
  readonly maxTokens?: number | undefined;
  /** Cut longer texts, instead of refusing them. An end token that the model wants stays the last. Default false. */
  readonly truncate?: boolean | undefined;
  /** Parse special tokens written out in the text. Default false: text is text. */
  readonly special?: boolean | undefined;
  /** Element type of keys and values while a text is computed. Default f16, as llama.cpp. */
  readonly kType?: SessionOptions['kType'];
  readonly vType?: SessionOptions['vType'];
  readonly signal?: AbortSignal | undefined;
}

/** What embedding borrows from a model. */
export interface EmbedParts {
  readonly backend: Backend;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly stepper: Stepper;
}

/** A text on its way. */
interface Job {
  readonly ids: readonly number[];
  readonly pooler: Pooler;
  kv: KvCache | undefined;
  /** Tokens computed. */
  position: number;
}

/** One vector a text, in their order. Everything that can be wrong with a text or an option is found before any is computed. */
export async function embedTexts(
  parts: EmbedParts,
  texts: readonly string[],
  options: EmbedOptions,
): Promise<Float32Array[] | QuantizedEmbedding[]> {
  const { config } = parts;
  const { quantize = 'float', normalize = true, signal } = options;
  want(EMBEDDING_FORMATS.includes(quantize), 'bad-argument', 'no such format of embeddings', () => ({
    where: 'quantize',
    expected: EMBEDDING_FORMATS.join(', '),
    got: show(quantize),
  }));
  const p = typeof normalize === 'boolean' ? (normalize ? 2 : -1) : normalize;
  normalizeVector(new Float32Array(0), p);
  const pooling = poolingOf(config, options.pooling);
  signal?.throwIfAborted();
  const jobs = encodeTexts(parts, texts, options).map(
    (ids): Job => ({ ids, pooler: new Pooler(pooling, config.hidden, ids.length), kv: undefined, position: 0 }),
  );
  try {
    await compute(parts, jobs, options);
  } finally {
    for (const { kv } of jobs) if (kv !== undefined) parts.backend.free(kv);
  }
  const vectors = jobs.map(({ pooler }, i) => {
    const vector = pooler.vector();
    want(vector.every(Number.isFinite), 'not-finite', 'the embedding has values that are no numbers', () => ({
      where: `texts[${i}]`,
      hint: 'the file is damaged or was converted with the wrong layout or scales',
    }));
    return normalizeVector(vector, p);
  });
  return quantize === 'float' ? vectors : vectors.map((vector) => quantizeEmbedding(vector, quantize));
}

/** What a user should know about the embeddings of a model, once it is loaded. */
export function embeddingNotes({ architecture, pooling }: ModelConfig): string[] {
  // The cards of BitNet-embedding say "last token"; their files, and the vector that the cards print, are of the mean.
  if (pooling !== 'mean' || (architecture !== 'qwen3' && architecture !== 'gemma3')) return [];
  return ['embeddings are the mean over all tokens, as the file says and not its card: pooling, or --pooling, chooses'];
}

function poolingOf(config: ModelConfig, asked: Pooling | undefined): Pooling {
  const pooling = asked ?? config.pooling ?? 'last';
  const found = POOLINGS_HERE.find((one) => one === pooling);
  if (found !== undefined) return found;
  throw new BitnetError('bad-argument', 'no pooling that makes one vector of a text', {
    where: asked === undefined ? `${config.architecture}.pooling_type` : 'pooling',
    expected: POOLINGS_HERE.join(', '),
    got: show(pooling),
    hint: 'pooling, or --pooling, chooses one',
  });
}

/** Puts the instruction before a text. */
function withInstruction(text: string, instruction: string | undefined): string {
  if (instruction === undefined) return text;
  return instruction.includes('{text}')
    ? instruction.split('{text}').join(text)
    : `Instruct: ${instruction}\nQuery: ${text}`;
}

function encodeTexts(
  { config, tokenizer }: EmbedParts,
  texts: readonly string[],
  { instruction, maxTokens, truncate = false, special = false }: EmbedOptions,
): (readonly number[])[] {
  const limit = maxTokens ?? config.contextLength;
  want(
    Number.isInteger(limit) && limit >= 1 && limit <= config.contextLength,
    'bad-argument',
    'bad number of tokens',
    () => ({ where: 'maxTokens', expected: `1 to ${config.contextLength}`, got: show(limit) }),
  );
  want(Array.isArray(texts), 'bad-argument', 'not a list of texts', () => ({ where: 'texts', got: show(texts) }));
  return texts.map((text, i) => {
    const where = `texts[${i}]`;
    want(typeof text === 'string', 'bad-argument', 'not a text', () => ({ where, got: show(text) }));
    const ids = tokenizer.encodePrompt(withInstruction(text, instruction), { special });
    want(ids.length > 0, 'bad-argument', 'nothing to embed: no tokens', () => ({ where, got: show(text) }));
    want(ids.length <= limit || truncate, 'context-full', 'the text is too long', () => ({
      where,
      expected: `at most ${limit} tokens`,
      got: `${ids.length}`,
      hint: 'truncate, or --truncate, cuts it',
    }));
    const outside = ids.find((id) => id >= config.vocabulary);
    want(outside === undefined, 'bad-token', 'token id out of range', () => ({
      where,
      expected: `0 to ${config.vocabulary - 1}`,
      got: `${outside}`,
    }));
    if (ids.length <= limit) return ids;
    const tail = tokenizer.spec.addEos ? 1 : 0;
    return [...ids.slice(0, limit - tail), ...ids.slice(ids.length - tail)];
  });
}

/** Feeds all tokens of all texts, in order, a full batch at a time. */
async function compute({ backend, config, stepper }: EmbedParts, jobs: readonly Job[], options: EmbedOptions) {
  const { kType, vType, signal } = options;
  const breathe = createYielder();
  let first = 0; // of the texts that are not done
  while (first < jobs.length) {
    signal?.throwIfAborted();
    const taken: Job[] = [];
    const items: { kv: KvCache; position: number; ids: readonly number[] }[] = [];
    let room = stepper.maxRows;
    for (let at = first; at < jobs.length && room > 0; at++) {
      const job = jobs[at];
      job.kv ??= backend.allocKv(kvShapeOf(config, { contextSize: job.ids.length, kType, vType }));
      const ids = job.ids.slice(job.position, job.position + room);
      items.push({ kv: job.kv, position: job.position, ids });
      taken.push(job);
      room -= ids.length;
    }
    const rows = await stepper.hidden(items);
    taken.forEach((job, i) => {
      job.position += items[i].ids.length;
      job.pooler.add(rows[i]);
      if (!job.pooler.done) return;
      first++;
      if (job.kv !== undefined) backend.free(job.kv);
      job.kv = undefined;
    });
    await breathe();
  }
}
