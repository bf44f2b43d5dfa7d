import { describe, expect, test } from 'vitest';
import { random, randomText } from '../../fixtures/tokenizer/vocabularies.ts';
import { createSplitter, preTokenizerNamed, preTokenizers } from '../../src/tokenizer/pretokenize.ts';
import { LETTERS, NUMBERS, PUNCTUATION } from '../../src/tokenizer/unicode.generated.ts';
import { charClasses, rangesOf } from '../../src/tokenizer/unicode.ts';

const split = (name: string, text: string) => createSplitter(preTokenizerNamed(name))(text);

describe('splitting', () => {
  // The texts of formats.md 6.5, whose tokens a native llama-tokenize printed. Pieces by hand from the expressions.
  const TEXT = "I'm !! (foo\n\n 1234 I'M";
  const AS_DEFAULT = ['I', "'", 'm', ' ', '!!', ' ', '(', 'foo', '\n\n', ' ', '123', '4', ' I', "'", 'M'];
  const DIGIT_BY_DIGIT = [...AS_DEFAULT.slice(0, 10), '1', '2', '3', '4', ...AS_DEFAULT.slice(12)];
  test.each([
    ['llama-bpe', ['I', "'m", ' !!', ' (', 'foo', '\n\n', ' ', '123', '4', ' I', "'M"]],
    ['qwen2', ['I', "'m", ' !!', ' (', 'foo', '\n\n', ' ', '1', '2', '3', '4', ' I', "'M"]],
    ['gpt-2', ['I', "'m", ' !!', ' (', 'foo', '\n\n', ' 1234', ' I', "'", 'M']],
    // Digits are cut out first, so the space before them is alone.
    ['starcoder', ['I', "'m", ' !!', ' (', 'foo', '\n\n ', '1', '2', '3', '4', ' I', "'", 'M']],
    ['default', AS_DEFAULT],
    ['falcon', AS_DEFAULT],
    ['falcon3', DIGIT_BY_DIGIT],
    ['falcon_e', DIGIT_BY_DIGIT],
  ])('%s splits the text of the format notes', (name, pieces) => {
    expect(split(name, TEXT)).toEqual(pieces);
  });

  test.each([
    ['llama-bpe', ['a', '(foo', ' b', '\n\n', 'c']],
    ['default', ['a', '(', 'foo', ' b', '\n', '\n', 'c']],
    ['falcon3', ['a', '(', 'foo', ' b', '\n', '\n', 'c']],
    ['gpt-2', ['a', '(', 'foo', ' b', '\n', '\n', 'c']],
  ])('%s keeps or splits a bracket before a word', (name, pieces) => {
    expect(split(name, 'a(foo b\n\nc')).toEqual(pieces);
  });

  test('a back-tick is punctuation for falcon, not for default', () => {
    expect(split('falcon', 'a `b')).toEqual(['a', ' ', '`', 'b']);
    expect(split('default', 'a `b')).toEqual(['a', ' `', 'b']);
  });

  test('spaces between U+0800 and U+4E00 are no part of the East Asian class of deepseek-coder', () => {
    // Native ids of "日 \u2028\r\n" with the Llama 3 vocabulary: 9080, 639, 101, 201, 198; the token 639 joins the space
    // and the first bytes of U+2028, so they are one piece.
    expect(split('deepseek-coder', '日 \u2028\r\n')).toEqual(['日', ' \u2028', '\r', '\n']);
    expect(split('deepseek-coder', '!\u3000\u309c日\u20dd\u3000')).toEqual([
      '!',
      '\u3000',
      '\u309c',
      '日',
      '\u20dd',
      '\u3000',
    ]);
  });

  test('U+0085 is a space and U+FEFF is none, whatever the engine thinks', () => {
    // As a space U+0085 belongs to the run before the word; U+FEFF goes along with the letters behind it.
    expect(split('llama-bpe', 'a\u0085\u0085b')).toEqual(['a', '\u0085', '\u0085b']);
    expect(split('gpt-2', 'a \ufeff b')).toEqual(['a', ' \ufeff', ' b']);
  });

  test('letters are those of Unicode 15.1: a letter of 16.0 is none', () => {
    // U+10D4A GARAY CAPITAL LETTER A came with Unicode 16.
    expect(split('gpt-2', 'ab\u{10d4a}\u{10d4b}')).toEqual(['ab', '\u{10d4a}\u{10d4b}']);
    expect(split('gpt-2', 'ab\u{10400}')).toEqual(['ab\u{10400}']);
  });

  test('pieces joined are the text, and equal those found position by position', () => {
    const next = random(1);
    for (const [name, pre] of Object.entries(preTokenizers)) {
      const splitter = createSplitter(pre);
      const regexes = pre.expressions(charClasses()).map((source) => new RegExp(source, 'gu'));
      for (let i = 0; i < 40; i++) {
        const text = randomText(next, Math.floor(next() * 80));
        const pieces = splitter(text);
        expect(pieces.join(''), name).toBe(text);
        expect(pieces, name).toEqual(bySteps(text, regexes));
      }
    }
  });

  test('a run of a million characters is split, one more is refused, and long text of words is fine', () => {
    const limit = 2 ** 20;
    for (const char of ['a', ' ', '\n', '!', '\u3000', 'é']) {
      expect(split('llama-bpe', char.repeat(limit)).join('').length).toBe(limit);
      expect(() => split('llama-bpe', `a ${char.repeat(limit + 1)}`)).toThrow(/too long a run/);
    }
    expect(split('gpt-2', 'word '.repeat(300_000)).length).toBe(300_001);
  });

  test('an unknown name is refused with the known ones', () => {
    expect(() => preTokenizerNamed('nonsense')).toThrow(/unknown pre-tokenizer.*llama-bpe.*"nonsense"/);
    expect(() => preTokenizerNamed('toString')).toThrow(/unknown pre-tokenizer/);
  });
});

/** The definition, with matchAll and positions. */
function bySteps(text: string, regexes: RegExp[]): string[] {
  let pieces = text === '' ? [] : [text];
  for (const regex of regexes) {
    pieces = pieces.flatMap((piece) => {
      const out: string[] = [];
      let end = 0;
      for (const match of piece.matchAll(regex)) {
        if (match.index > end) out.push(piece.slice(end, match.index));
        out.push(match[0]);
        end = match.index + match[0].length;
      }
      if (end < piece.length) out.push(piece.slice(end));
      return out;
    });
  }
  return pieces;
}

describe('character tables', () => {
  // Categories of assigned characters do not change between versions but for a handful; new ones only appear.
  test.each([
    ['L', LETTERS, 0, 136726],
    ['N', NUMBERS, 0, 1831],
    ['P', PUNCTUATION, 3, 842],
  ])('\\p{%s} contains what this engine knows and was assigned in 15.1', (category, table, mayDiffer, count) => {
    const regex = new RegExp(`\\p{${category}}`, 'u');
    let size = 0;
    let odd = 0;
    for (const [first, last] of rangesOf(table)) {
      size += last - first + 1;
      for (let point = first; point <= last; point++) if (!regex.test(String.fromCodePoint(point))) odd++;
    }
    expect(size).toBe(count);
    // An engine older than the table (Unicode 15.0) lacks the 622 ideographs of extension I.
    expect(odd === 0 || odd <= mayDiffer || odd === 622).toBe(true);
  });
});
