/**
 * A session: one sequence of tokens with its keys and values. Weights belong to the model; everything that changes with
 * a token is here.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import type { Backend, KvCache, KvShape } from '../kernels/interface.ts';
import type { ModelConfig } from '../model/config.ts';
import type { ModelWeights } from '../model/graph.ts';
import { type ChatMessage, encodeChat, type Tokenizer, turnEnd } from '../tokenizer/index.ts';
import { generatePieces } from './generate.ts';
import { Progress } from './progress.ts';
import { GenerationRun } from './run.ts';
import type { Logits, Stepper } from './stepper.ts';
import { TRACE_ROWS, Tracer, traceSites } from './trace/tracer.ts';
import type { TraceOptions, TraceSite, TraceTensor } from './trace/types.ts';
import type { ChatOptions, EvaluateOptions, GenerateOptions, Prompt, Run, Session, SessionOptions } from './types.ts';
import { createYielder } from './yield.ts';

/** What a session borrows from its model. */
export interface SessionParts {
  readonly backend: Backend;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly stepper: Stepper;
  readonly weights: ModelWeights;
  /** Tells the model that the session is gone. */
  readonly onDispose: (session: SessionImpl) => void;
}

/** Largest context that a session takes without being asked to: what longer caches cost should be the user's choice. */
export const DEFAULT_CONTEXT = 2048;

/** The cache of a session with these options, which are checked. */
export function kvShapeOf(config: ModelConfig, options: SessionOptions): KvShape {
  const contextSize = options.contextSize ?? Math.min(config.contextLength, DEFAULT_CONTEXT);
  want(
    Number.isInteger(contextSize) && contextSize >= 1 && contextSize <= config.contextLength,
    'bad-argument',
    'bad context size',
    () => ({ where: 'contextSize', expected: `1 to ${config.contextLength}`, got: String(options.contextSize) }),
  );
  const types = { kType: options.kType ?? 'f16', vType: options.vType ?? 'f16' } as const;
  for (const [where, type] of Object.entries(types)) {
    want(type === 'f32' || type === 'f16', 'bad-argument', 'bad KV cache type', () => ({
      where,
      expected: 'f32 or f16',
      got: String(type),
    }));
  }
  const { nLayers, nHeads, nKvHeads, headDim } = config;
  return { nLayers, nHeads, nKvHeads, headDim, contextSize, ...types };
}

export class SessionImpl implements Session {
  readonly contextSize: number;
  readonly #parts: SessionParts;
  readonly #kv: KvCache;
  readonly #tokens: number[] = [];
  #busy = false;
  #disposed = false;

  constructor(parts: SessionParts, options: SessionOptions) {
    const { config, backend } = parts;
    const shape = kvShapeOf(config, options);
    this.contextSize = shape.contextSize;
    this.#parts = parts;
    this.#kv = backend.allocKv(shape);
  }

  get position(): number {
    return this.#tokens.length;
  }

  get tokens(): readonly number[] {
    return this.#tokens.slice();
  }

  generate(prompt: Prompt, options: GenerateOptions = {}): Run {
    const end = async () => (typeof prompt !== 'string' && isMessages(prompt) ? turnEnd(this.tokenizer) : undefined);
    return this.#run(() => this.#encode(prompt, options), options, end);
  }

  chat(messages: readonly ChatMessage[], options: ChatOptions = {}): Run {
    const { template } = options;
    return this.#run(
      () => encodeChat(this.tokenizer, template, messages),
      options,
      () => turnEnd(this.tokenizer, template),
    );
  }

  #run(
    encode: () => Promise<readonly number[]>,
    options: GenerateOptions,
    end: () => Promise<number | undefined>,
  ): Run {
    const progress = new Progress();
    return new GenerationRun(generatePieces(this, encode, options, progress, end), progress);
  }

  async prefill(ids: readonly number[], options: EvaluateOptions = {}): Promise<Float32Array> {
    const { top, signal } = options;
    want(top === undefined || (Number.isInteger(top) && top >= 1), 'bad-argument', 'not a number of logits', () => ({
      where: 'top',
      expected: 'an integer of at least 1',
      got: show(top),
    }));
    const end = this.begin();
    try {
      const { values, ids: which } = await this.compute(ids, signal, top);
      if (which === undefined) return values;
      const row = new Float32Array(this.vocabularySize).fill(-Infinity);
      for (let i = 0; i < which.length; i++) row[which[i]] = values[i];
      return row;
    } finally {
      end();
    }
  }

  async *logits(
    ids: readonly number[],
    options: { signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<Float32Array> {
    const end = this.begin();
    try {
      this.check(ids, this.#tokens.length);
      for await (const { values } of this.#chunks(Array.from(ids), 'all', options.signal)) yield values;
    } finally {
      end();
    }
  }

  async *trace(ids: readonly number[], options: TraceOptions = {}): AsyncGenerator<TraceTensor> {
    const end = this.begin();
    let tracer: Tracer | undefined;
    try {
      const all = Array.from(ids);
      const first = this.#tokens.length;
      this.check(ids, first);
      const { backend, weights } = this.#parts;
      tracer = new Tracer(backend, weights, Math.min(TRACE_ROWS, all.length));
      for (let at = 0; at < all.length; at += tracer.maxRows) {
        const chunk = all.slice(at, at + tracer.maxRows);
        yield* tracer.run(this.#kv, first + at, chunk, first + all.length, options);
        this.#tokens.push(...chunk);
      }
    } finally {
      tracer?.free();
      end();
    }
  }

  traceSites(tokens: number): TraceSite[] {
    const { backend, weights } = this.#parts;
    return traceSites(backend, weights, this.#kv.shape, this.#tokens.length + tokens);
  }

  step(id: number, options: EvaluateOptions = {}): Promise<Float32Array> {
    return this.prefill([id], options);
  }

  rewind(position: number): void {
    this.#alive();
    want(!this.#busy, 'session-busy', 'a generation is running in this session');
    this.cut(position);
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.#parts.stepper.idle();
    this.#parts.backend.free(this.#kv);
    this.#parts.onDispose(this);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  // What generate.ts uses:

  get vocabularySize(): number {
    return this.#parts.config.vocabulary;
  }

  get tokenizer(): Tokenizer {
    return this.#parts.tokenizer;
  }

  /** Marks the session busy; returns the way back. */
  begin(): () => void {
    this.#alive();
    want(!this.#busy, 'session-busy', 'a generation is running in this session');
    this.#busy = true;
    return () => {
      this.#busy = false;
    };
  }

  /** Keeps the first `position` tokens. */
  cut(position: number): void {
    want(
      Number.isInteger(position) && position >= 0 && position <= this.#tokens.length,
      'bad-argument',
      'bad position',
      () => ({
        where: 'rewind',
        expected: `0 to ${this.#tokens.length}`,
        got: String(position),
      }),
    );
    this.#tokens.length = position;
  }

  /** How many of the first tokens of `ids` the cache holds. */
  commonPrefix(ids: readonly number[]): number {
    let n = 0;
    while (n < this.#tokens.length && n < ids.length && this.#tokens[n] === ids[n]) n++;
    return n;
  }

  /** Computes `ids` after the cached tokens; logits after the last: all, or the `top` greatest. */
  async compute(ids: readonly number[], signal: AbortSignal | undefined, top?: number): Promise<Logits> {
    this.check(ids, this.#tokens.length);
    let last: Logits = { values: new Float32Array(0) };
    // A copy: the caller's array may change while this waits.
    for await (const logits of this.#chunks(Array.from(ids), 'last', signal, top)) last = logits;
    return last;
  }

  /** Feeds `ids` chunk by chunk; tokens count as cached once their chunk is done. */
  async *#chunks(
    ids: readonly number[],
    want: 'all' | 'last',
    signal?: AbortSignal | undefined,
    top?: number,
  ): AsyncGenerator<Logits> {
    const { stepper } = this.#parts;
    const breathe = createYielder();
    for (let at = 0; at < ids.length; at += stepper.maxRows) {
      signal?.throwIfAborted();
      this.#alive();
      const chunk = ids.slice(at, at + stepper.maxRows);
      const isLast = at + chunk.length === ids.length;
      const logits = want === 'all' ? 'all' : isLast ? 'last' : 'none';
      const [computed] = await stepper.step([{ kv: this.#kv, position: this.#tokens.length, ids: chunk, logits, top }]);
      this.#tokens.push(...chunk);
      if (logits !== 'none') yield computed;
      await breathe();
    }
  }

  async #encode(prompt: Prompt, options: GenerateOptions): Promise<readonly number[]> {
    if (typeof prompt === 'string') return this.tokenizer.encodePrompt(prompt, { special: options.special ?? false });
    want(Array.isArray(prompt), 'bad-argument', 'not a prompt', () => ({
      where: 'prompt',
      expected: 'text, messages or token ids',
      got: show(prompt),
    }));
    if (isMessages(prompt)) return encodeChat(this.tokenizer, undefined, prompt);
    return Array.from(prompt);
  }

  /** Refuses ids that cannot be computed after `cached` tokens. */
  check(ids: readonly number[], cached: number): void {
    want(Array.isArray(ids), 'bad-argument', 'not a list of token ids', () => ({ where: 'prompt', got: show(ids) }));
    want(ids.length > 0, 'bad-argument', 'nothing to compute: no tokens', () => ({ where: 'prompt' }));
    const { vocabulary, contextLength } = this.#parts.config;
    const bad = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary);
    want(bad < 0, 'bad-token', 'token id out of range', () => ({
      where: `prompt token ${bad}`,
      expected: `0 to ${vocabulary - 1}`,
      got: String(ids[bad]),
    }));
    want(cached + ids.length <= this.contextSize, 'context-full', 'more tokens than the context holds', () => ({
      where: 'prompt',
      expected: `at most ${this.contextSize}`,
      got: `${cached + ids.length}`,
      hint: this.contextSize < contextLength ? 'raise contextSize (-c)' : 'the model was made for no more',
    }));
  }

  #alive(): void {
    if (this.#disposed) throw new BitnetError('disposed', 'the session was disposed');
  }
}

function isMessages(prompt: readonly ChatMessage[] | readonly number[]): prompt is readonly ChatMessage[] {
  return prompt.length > 0 && typeof prompt[0] === 'object';
}
