/**
 * What `generate` returns: pieces to iterate over and a result to wait for, in either order or only one of them.
 *
 * Pieces are drawn from the generator one at a time, by whoever asks: a loop, or `result`, which draws until the end.
 * Those already drawn are kept, so a loop that starts after `result` was looked at still sees all of them.
 * @module
 */

import type { Progress } from './progress.ts';
import type { GenerateResult, Piece, Run } from './types.ts';

export class GenerationRun implements Run {
  readonly #generator: AsyncGenerator<Piece, void, void>;
  readonly #progress: Progress;
  readonly #pieces: Piece[] = [];
  #drawing: Promise<boolean> | undefined;
  #result: Promise<GenerateResult> | undefined;
  /** Set once the generator has ended: how. */
  #ended: { readonly error: unknown } | 'well' | undefined;

  constructor(generator: AsyncGenerator<Piece, void, void>, progress: Progress) {
    this.#generator = generator;
    this.#progress = progress;
  }

  get result(): Promise<GenerateResult> {
    this.#result ??= this.#drain();
    return this.#result;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Piece, void, void> {
    let at = 0;
    let finished = false;
    try {
      while (at < this.#pieces.length || (await this.#draw())) {
        if (at < this.#pieces.length) yield this.#pieces[at++];
      }
      finished = true;
    } finally {
      // Left early: stop the work, unless `result` has been asked for and wants the rest.
      if (!finished && this.#result === undefined && this.#ended === undefined) {
        this.#ended = 'well';
        await this.#generator.return();
      }
    }
  }

  /** Draws one more piece; false at the end. Two who ask at once share one answer. */
  #draw(): Promise<boolean> {
    if (this.#ended !== undefined) {
      return this.#ended === 'well' ? Promise.resolve(false) : Promise.reject(this.#ended.error);
    }
    this.#drawing ??= this.#next().finally(() => {
      this.#drawing = undefined;
    });
    return this.#drawing;
  }

  async #next(): Promise<boolean> {
    try {
      const { value, done } = await this.#generator.next();
      if (done === true) {
        this.#ended = 'well';
        return false;
      }
      this.#pieces.push(value);
      return true;
    } catch (error) {
      this.#ended = { error };
      throw error;
    }
  }

  async #drain(): Promise<GenerateResult> {
    while (await this.#draw());
    return this.#progress.result();
  }
}
