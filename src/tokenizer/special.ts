/**
 * Special tokens written out in text: cutting a text where one of them stands.
 *
 * Control tokens (`<|eot_id|>`) count only when the caller asks for it, user-defined ones always. The longest go
 * first: every occurrence of the longest token is cut out of the text, then of the next in what remains, and so on
 * (llama.cpp, tokenizer_st_partition). Looking for each of 256 tokens in turn would read the text 256 times, so all
 * places where any token could start are found in one pass, and only the choice between them follows that order.
 * @module
 */

import { type TokenizerSpec, TokenType } from './spec.ts';

/** A token id, or text that is not special. */
export type Fragment = number | string;

interface Special {
  readonly id: number;
  readonly text: string;
  /** Position in the order of cutting. */
  readonly order: number;
  readonly isControl: boolean;
}

interface Match {
  readonly special: Special;
  readonly start: number;
}

export class SpecialTokens {
  readonly #byText = new Map<string, Special>();
  /** First two characters of specials -> the lengths they come in. Specials of one character stand under just it. */
  readonly #lengths = new Map<string, readonly number[]>();
  /** UTF-16 units that specials begin with. */
  readonly #firstUnits = new Set<number>();

  constructor(spec: TokenizerSpec) {
    const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
    const found: { id: number; text: string; nBytes: number; isControl: boolean }[] = [];
    for (let id = 0; id < spec.tokens.length; id++) {
      const type = spec.types[id];
      const isControl = type === TokenType.CONTROL || type === TokenType.UNKNOWN;
      if (!isControl && type !== TokenType.USER_DEFINED) continue;
      try {
        const text = utf8.decode(spec.tokens[id]);
        if (text !== '') found.push({ id, text, nBytes: spec.tokens[id].length, isControl });
      } catch {
        // Not UTF-8: no text can contain it.
      }
    }
    found.sort((a, b) => b.nBytes - a.nBytes || a.id - b.id);
    const lengths = new Map<string, Set<number>>();
    for (const [order, { id, text, isControl }] of found.entries()) {
      if (this.#byText.has(text)) continue;
      this.#byText.set(text, { id, text, order, isControl });
      this.#firstUnits.add(text.charCodeAt(0));
      const prefix = text.slice(0, 2);
      lengths.set(prefix, (lengths.get(prefix) ?? new Set()).add(text.length));
    }
    for (const [prefix, set] of lengths) this.#lengths.set(prefix, [...set]);
  }

  /** The special token with this text. */
  find(text: string): number | undefined {
    return this.#byText.get(text)?.id;
  }

  /** Texts of the tokens that only count when asked for: the ones a message must not be able to forge. */
  controlTexts(): string[] {
    return [...this.#byText.values()].filter((special) => special.isControl).map((special) => special.text);
  }

  /** Every position where the text of a control token begins, overlapping ones included. */
  controlPlaces(text: string): number[] {
    return this.#matches(text, true)
      .filter((match) => match.special.isControl)
      .map((match) => match.start);
  }

  /** Cuts `text`. With `control` false, control tokens stay text. */
  partition(text: string, control: boolean): Fragment[] {
    const chosen = this.#choose(this.#matches(text, control), text.length);
    const fragments: Fragment[] = [];
    let end = 0;
    for (const { special, start } of chosen) {
      if (start > end) fragments.push(text.slice(end, start));
      fragments.push(special.id);
      end = start + special.text.length;
    }
    if (end < text.length) fragments.push(text.slice(end));
    return fragments;
  }

  #matches(text: string, control: boolean): Match[] {
    const matches: Match[] = [];
    if (this.#firstUnits.size === 0) return matches;
    for (let start = 0; start < text.length; start++) {
      if (!this.#firstUnits.has(text.charCodeAt(start))) continue;
      for (const width of [1, 2]) {
        for (const length of this.#lengths.get(text.slice(start, start + width)) ?? []) {
          if ((length === 1) !== (width === 1)) continue;
          const special = this.#byText.get(text.slice(start, start + length));
          if (special !== undefined && (control || !special.isControl)) matches.push({ special, start });
        }
        if (start + width === text.length) break;
      }
    }
    return matches;
  }

  /** The matches that survive, in order of position. */
  #choose(matches: Match[], textLength: number): Match[] {
    if (matches.length < 2) return matches;
    matches.sort((a, b) => a.special.order - b.special.order || a.start - b.start);
    const taken = new Uint8Array(textLength);
    const chosen: Match[] = [];
    for (const match of matches) {
      const end = match.start + match.special.text.length;
      if (taken.subarray(match.start, end).includes(1)) continue;
      taken.fill(1, match.start, end);
      chosen.push(match);
    }
    return chosen.sort((a, b) => a.start - b.start);
  }
}
