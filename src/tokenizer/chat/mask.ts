/**
 * Keeping the words of a message from becoming control tokens.
 *
 * A rendered conversation is one text in which `<|eot_id|>` from the template must become a token and `<|eot_id|>`
 * typed by a user must not. Encoding the parts separately would keep them apart, but would also change ordinary
 * text: "User: " + "Hi" is `User|:| Hi` to the model, not `User|: |Hi`. Instead one character of every forged token
 * is swapped for a private-use character before rendering, the rendered text is cut at the control tokens that are
 * left (the template's own), and the character is put back in the pieces of plain text.
 *
 * Swapping one character for one keeps lengths, slices and trimming in the template as they were.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import type { SpecialTokens } from '../special.ts';

const PRIVATE_USE_FIRST = 0xe000;
const PRIVATE_USE_LAST = 0xf8ff;

export interface MaskedTexts {
  /** The texts with forged tokens broken; the same strings where there was nothing to break. */
  readonly texts: readonly string[];
  readonly anyMasked: boolean;
  unmask(text: string): string;
}

/** `others`: everything else that goes into the rendering; the masks must not occur there. */
export function maskTexts(texts: readonly string[], special: SpecialTokens, others: readonly string[]): MaskedTexts {
  const controlTexts = special.controlTexts();
  const places = texts.map((text) => placesToMask(text, special, controlTexts));
  if (places.every((set) => set.size === 0)) return { texts, anyMasked: false, unmask: (text) => text };

  const free = freeCharacters([...texts, ...others, ...controlTexts]);
  const maskOf = new Map<string, string>();
  const originalOf = new Map<string, string>();
  const masked = texts.map((text, i) => {
    let out = '';
    let end = 0;
    for (const at of [...places[i]].sort((a, b) => a - b)) {
      const char = text[at];
      let mask = maskOf.get(char);
      if (mask === undefined) {
        mask = free.next().value;
        if (mask === undefined) throw tooManyPrivate();
        maskOf.set(char, mask);
        originalOf.set(mask, char);
      }
      out += text.slice(end, at) + mask;
      end = at + 1;
    }
    return out + text.slice(end);
  });
  const masks = new RegExp(`[${[...originalOf.keys()].join('')}]`, 'g');
  return {
    texts: masked,
    anyMasked: true,
    unmask: (text) => text.replace(masks, (mask) => originalOf.get(mask) ?? mask),
  };
}

/**
 * Positions of characters to swap. Besides whole forged tokens, the pieces of one that a template could complete:
 * a text that ends as a control token begins, begins as one ends, or lies inside one; with and without the spaces
 * that templates trim.
 */
function placesToMask(text: string, special: SpecialTokens, controlTexts: readonly string[]): Set<number> {
  const places = new Set(special.controlPlaces(text));
  const trimmed = text.trim();
  if (trimmed === '') return places;
  const trimmedStart = text.length - text.trimStart().length;
  const trimmedEnd = trimmedStart + trimmed.length;
  for (const control of controlTexts) {
    if (trimmed.length < control.length && control.includes(trimmed)) places.add(trimmedStart);
    for (let length = Math.min(control.length - 1, text.length); length > 0; length--) {
      const tail = control.slice(-length);
      for (const start of [0, trimmedStart]) if (text.startsWith(tail, start)) places.add(start);
      const head = control.slice(0, length);
      for (const end of [text.length, trimmedEnd]) {
        if (end >= length && text.startsWith(head, end - length)) places.add(end - length);
      }
    }
  }
  return places;
}

function* freeCharacters(texts: readonly string[]): Generator<string, undefined> {
  const used = new Set<number>();
  for (const text of texts) {
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      if (unit >= PRIVATE_USE_FIRST && unit <= PRIVATE_USE_LAST) used.add(unit);
    }
  }
  for (let unit = PRIVATE_USE_FIRST; unit <= PRIVATE_USE_LAST; unit++) {
    if (!used.has(unit)) yield String.fromCharCode(unit);
  }
  return undefined;
}

function tooManyPrivate(): BitnetError {
  return new BitnetError('bad-argument', 'messages use up all private-use characters', {
    where: 'messages',
    expected: 'a few of U+E000 to U+F8FF left to mark control tokens with',
    got: 'none',
  });
}
