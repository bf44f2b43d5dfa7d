/**
 * The list of commands that one call of the library runs; `commands.md` draws their words.
 *
 * A list that is seen twice becomes a CUDA graph, which is then replayed. So what is enqueued for a step should depend on nothing
 * but its shape: handles and positions of sequences are the only words that may differ from step to step.
 * @module
 */

import type { Op } from './abi.ts';

/**
 * A longer program is run in pieces. The step of one sequence is one piece (some 250 words a layer); of 64 sequences, 65 thousand words
 * for 30 layers, the device begins with the first while the others are being written.
 */
export const MAX_WORDS = 1 << 14;
/** No command is longer. */
const LONGEST = 32;

export class CommandList {
  #words = new Int32Array(1 << 13);
  #count = 0;
  readonly #float = new Float32Array(1);
  readonly #bits = new Int32Array(this.#float.buffer);

  get isEmpty(): boolean {
    return this.#count === 0;
  }

  get isFull(): boolean {
    return this.#count + LONGEST > MAX_WORDS;
  }

  push(op: Op, ...args: readonly number[]): void {
    const end = this.#count + args.length + 2;
    if (end > this.#words.length) {
      const grown = new Int32Array(this.#words.length * 2);
      grown.set(this.#words);
      this.#words = grown;
    }
    this.#words[this.#count] = op;
    this.#words[this.#count + 1] = args.length + 2;
    for (let i = 0; i < args.length; i++) this.#words[this.#count + 2 + i] = args[i]; // `set` costs more than the op
    this.#count = end;
  }

  /** An f32 as a word. */
  float(value: number): number {
    this.#float[0] = value;
    return this.#bits[0];
  }

  /** Empties the list. The words are those of the list itself, good until the next `push`. */
  take(): { readonly words: Int32Array; readonly count: number } {
    const count = this.#count;
    this.#count = 0;
    return { words: this.#words, count };
  }
}
