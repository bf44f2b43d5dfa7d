/**
 * Timing a model the way llama-bench does: the evaluation of random tokens, nothing else. No sampling, no text.
 *
 * A test is a prompt, generated tokens, or one after the other, behind tokens that lie in the cache already and are
 * not timed. Which ids are fed does not change the work, so they are random; the first of a sequence is the
 * begin-of-sequence token where the model wants one.
 * @module
 */

import { want } from '../errors.ts';
import type { KvType } from '../kernels/interface.ts';
import type { Model, Session } from './types.ts';

export interface BenchTest {
  /** Tokens computed together as a prompt; 0 for none. */
  readonly nPrompt: number;
  /** Tokens computed one by one after it; 0 for none. */
  readonly nGenerate: number;
  /** Tokens in the cache before the clock starts. */
  readonly nDepth: number;
}

export interface BenchOptions {
  readonly kType?: KvType | undefined;
  readonly vType?: KvType | undefined;
  /** How often the test is timed. */
  readonly repetitions: number;
  /** Untimed first: the whole prompt, or one generated token. */
  readonly warmUp: boolean;
  /** How many of the greatest logits a generated token is computed for, as a sampler wants them. Default: all. */
  readonly top?: number | undefined;
  /** 32 random bits; the source of token ids. */
  readonly random: () => number;
  /** Called before each repetition, from 1 on; with 0 before warming up. */
  readonly onRepetition?: ((repetition: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Milliseconds of each repetition, in order. */
export async function benchmark(model: Model, test: BenchTest, options: BenchOptions): Promise<readonly number[]> {
  checkFits(test, model.info.contextLength);
  const { kType, vType, signal } = options;
  const session = model.createSession({
    contextSize: tokensOf(test),
    ...(kType === undefined ? {} : { kType }),
    ...(vType === undefined ? {} : { vType }),
  });
  try {
    const feed = new Feed(model, session, options);
    if (options.warmUp) {
      options.onRepetition?.(0);
      if (test.nPrompt > 0) await feed.prompt(test.nPrompt);
      if (test.nGenerate > 0) await feed.generate(1);
      session.rewind(0);
    }
    if (test.nDepth > 0) await feed.prompt(test.nDepth);
    const samples: number[] = [];
    for (let repetition = 1; repetition <= options.repetitions; repetition++) {
      signal?.throwIfAborted();
      options.onRepetition?.(repetition);
      // The cache up to the depth is what it was: computing it again would only take time.
      session.rewind(test.nDepth);
      const startMs = performance.now();
      if (test.nPrompt > 0) await feed.prompt(test.nPrompt);
      if (test.nGenerate > 0) await feed.generate(test.nGenerate);
      samples.push(performance.now() - startMs);
    }
    return samples;
  } finally {
    await session.dispose();
  }
}

/** `pp512`, `tg128`, `pp512+tg128`, with ` @ d256` where tokens are cached before. */
export function benchName({ nPrompt, nGenerate, nDepth }: BenchTest): string {
  const parts = [nPrompt > 0 ? `pp${nPrompt}` : '', nGenerate > 0 ? `tg${nGenerate}` : ''];
  return parts.filter(Boolean).join('+') + (nDepth > 0 ? ` @ d${nDepth}` : '');
}

export function tokensOf({ nPrompt, nGenerate, nDepth }: BenchTest): number {
  return nPrompt + nGenerate + nDepth;
}

/** Refuses a test that a model cannot hold; to be asked before anything is timed. */
export function checkFits(test: BenchTest, contextLength: number): void {
  want(test.nPrompt + test.nGenerate > 0, 'bad-argument', 'a test without tokens');
  want(tokensOf(test) <= contextLength, 'context-full', 'more tokens than the context of the model holds', () => ({
    where: benchName(test),
    expected: `at most ${contextLength}`,
    got: `${tokensOf(test)}`,
    hint: 'smaller -p, -n or -d',
  }));
}

/** Feeds random tokens to a session. */
class Feed {
  readonly #model: Model;
  readonly #session: Session;
  readonly #options: BenchOptions;

  constructor(model: Model, session: Session, options: BenchOptions) {
    this.#model = model;
    this.#session = session;
    this.#options = options;
  }

  async prompt(count: number): Promise<void> {
    const first = this.#session.position;
    const ids = Array.from({ length: count }, (_, i) => this.#id(first + i));
    const { signal } = this.#options;
    await this.#session.prefill(ids, signal === undefined ? {} : { signal });
  }

  async generate(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      this.#options.signal?.throwIfAborted();
      await this.#session.step(this.#id(this.#session.position), { top: this.#options.top });
    }
  }

  #id(position: number): number {
    const { addBos, bosId } = this.#model.tokenizer.spec;
    if (position === 0 && addBos && bosId !== undefined) return bosId;
    return this.#options.random() % this.#model.info.vocabularySize;
  }
}

/** What repetitions have in common, in the unit of the samples. */
export interface Spread {
  readonly count: number;
  readonly mean: number;
  /** Sample standard deviation; 0 for a single sample. */
  readonly deviation: number;
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** Median distance from the median. */
  readonly mad: number;
}

export function spreadOf(samples: readonly number[]): Spread {
  const count = samples.length;
  want(count > 0, 'bad-argument', 'no samples');
  const mean = samples.reduce((sum, x) => sum + x, 0) / count;
  const squares = samples.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  const median = medianOf(samples);
  return {
    count,
    mean,
    deviation: count > 1 ? Math.sqrt(squares / (count - 1)) : 0,
    median,
    min: Math.min(...samples),
    max: Math.max(...samples),
    mad: medianOf(samples.map((x) => Math.abs(x - median))),
  };
}

export function medianOf(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
