/**
 * The account of one generation: what came out, how long it took, why it ended.
 * @module
 */

import type { GenerateResult, StopReason } from './types.ts';

export class Progress {
  readonly tokens: number[] = [];
  stopReason: StopReason | undefined;
  #text = '';
  #stopText: string | undefined;
  #promptTokens = 0;
  #cachedTokens = 0;
  #seed = 0;
  #startMs = 0;
  #promptDoneMs = 0;
  #firstTokenMs = 0;
  #lastMs = 0;

  begin(promptTokens: number, cachedTokens: number, seed: number): void {
    this.#startMs = performance.now();
    this.#promptTokens = promptTokens;
    this.#cachedTokens = cachedTokens;
    this.#seed = seed;
  }

  promptDone(): void {
    this.#promptDoneMs = performance.now();
    this.#lastMs = this.#promptDoneMs;
  }

  add(token: number, text: string): void {
    this.#lastMs = performance.now();
    if (this.tokens.length === 0) this.#firstTokenMs = this.#lastMs - this.#startMs;
    this.tokens.push(token);
    this.#text += text;
  }

  stop(stopText: string): void {
    this.stopReason = 'stop';
    this.#stopText = stopText;
  }

  result(): GenerateResult {
    const promptMs = this.#promptDoneMs - this.#startMs;
    const generateMs = this.#lastMs - this.#promptDoneMs;
    return {
      text: this.#text,
      tokens: this.tokens,
      stopReason: this.stopReason ?? 'cancelled',
      ...(this.#stopText === undefined ? {} : { stopText: this.#stopText }),
      seed: this.#seed,
      usage: {
        promptTokens: this.#promptTokens,
        cachedTokens: this.#cachedTokens,
        generatedTokens: this.tokens.length,
      },
      timings: {
        promptMs,
        generateMs,
        promptTokensPerSecond: rate(this.#promptTokens - this.#cachedTokens, promptMs),
        generatedTokensPerSecond: rate(this.tokens.length, generateMs),
        firstTokenMs: this.#firstTokenMs,
      },
    };
  }
}

function rate(count: number, ms: number): number {
  return ms > 0 ? (count * 1000) / ms : 0;
}
