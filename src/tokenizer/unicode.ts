/**
 * Character classes for pre-tokenizer expressions, the same on every engine.
 *
 * `\p{L}` follows the Unicode version of whatever runs it, and JavaScript's `\s` has U+FEFF and lacks U+0085 where
 * Unicode's White_Space (and llama.cpp's tables) is the other way round. Both are spelled out here instead.
 * @module
 */

import { LETTERS, NUMBERS, PUNCTUATION } from './unicode.generated.ts';

/** Insides of regex classes, to be put between [ and ] with the flag `u`. */
export interface CharClasses {
  /** \p{L} */
  readonly letter: string;
  /** \p{N} */
  readonly number: string;
  /** \p{P} */
  readonly punctuation: string;
  /** \s */
  readonly space: string;
}

export function charClasses(): CharClasses {
  return {
    letter: classBody(LETTERS),
    number: classBody(NUMBERS),
    punctuation: classBody(PUNCTUATION),
    space: '\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000',
  };
}

/** Code point ranges [first, last] of a generated table: base-36 numbers, in turns to skip and to take. */
export function* rangesOf(table: string): Generator<readonly [number, number]> {
  const runs = table.split(' ').map((run) => Number.parseInt(run, 36));
  let at = 0;
  for (let i = 0; i + 1 < runs.length; i += 2) {
    const first = at + runs[i];
    at = first + runs[i + 1];
    yield [first, at - 1];
  }
}

function classBody(table: string): string {
  let body = '';
  for (const [first, last] of rangesOf(table)) {
    body += `\\u{${first.toString(16)}}`;
    if (last > first) body += `-\\u{${last.toString(16)}}`;
  }
  return body;
}
