/**
 * Stop texts on streamed output: text that might be the beginning of one is held back until it is decided.
 * @module
 */

import { show, want } from '../errors.ts';

export class StopTexts {
  readonly #stops: readonly string[];
  #held = '';

  constructor(given: string | readonly string[] = []) {
    const stops = typeof given === 'string' ? [given] : given;
    want(Array.isArray(stops), 'bad-argument', 'stop is neither a text nor a list of texts', () => ({
      got: show(given),
    }));
    for (const stop of stops) {
      want(typeof stop === 'string' && stop.length > 0, 'bad-argument', 'a stop text must not be empty', () => ({
        where: 'stop',
      }));
    }
    this.#stops = stops;
  }

  /** Returns the text that is certain to be output, and the stop text once one is complete. */
  push(text: string): { readonly text: string; readonly stop: string | undefined } {
    if (this.#stops.length === 0) return { text, stop: undefined };
    const all = this.#held + text;
    let at = -1;
    let met: string | undefined;
    for (const stop of this.#stops) {
      const found = all.indexOf(stop);
      // The earliest wins; of two at one place, the longer.
      if (found >= 0 && (at < 0 || found < at || (found === at && stop.length > (met?.length ?? 0)))) {
        at = found;
        met = stop;
      }
    }
    if (met !== undefined) {
      this.#held = '';
      return { text: all.slice(0, at), stop: met };
    }
    const keep = this.#pending(all);
    this.#held = all.slice(all.length - keep);
    return { text: all.slice(0, all.length - keep), stop: undefined };
  }

  /** What was held back and turned out to be plain text. */
  flush(): string {
    const text = this.#held;
    this.#held = '';
    return text;
  }

  /** Length of the longest end of `text` that begins a stop text. */
  #pending(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) {
          longest = length;
          break;
        }
      }
    }
    return longest;
  }
}
