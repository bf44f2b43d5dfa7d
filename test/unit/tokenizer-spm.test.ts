import { describe, expect, test } from 'vitest';
import { getter, random, randomText, spm } from '../../fixtures/tokenizer/vocabularies.ts';
import { createTokenizer, tokenizerSpecFromMetadata } from '../../src/tokenizer/index.ts';

const make = (...args: Parameters<typeof spm>) => createTokenizer(tokenizerSpecFromMetadata(getter(spm(...args))));
/** Ids of the byte tokens of a text. */
const bytesOf = (text: string) => [...new TextEncoder().encode(text)].map((byte) => 3 + byte);

// Words get ids from 259 on and scores -1, -2, ...: earlier ones merge first.
const WORDS = ['_', 'a', 'b', 'ab', 'ba', '_a', '_ab', 'aba', '__', 'h', 'e', 'he'];
const id = (word: string) => 259 + WORDS.indexOf(word);

describe('merging', () => {
  test('highest score first, then from the left', () => {
    const tokenizer = make(WORDS);
    // _ a b -> ab (-4) beats _a (-6); then _ + ab -> _ab (-7).
    expect(tokenizer.encode('ab')).toEqual([id('_ab')]);
    // _ a b a: ab (-4), then _ab (-7) beats aba (-8): a stays.
    expect(tokenizer.encode('aba')).toEqual([id('_ab'), id('a')]);
    // _ b a b a: the left-most "ba"? No: ab (-4) in the middle first, leaving b and a: _ b ab a -> aba.
    expect(tokenizer.encode('baba')).toEqual([id('_'), id('b'), id('aba')]);
  });

  test('equal scores go from the left', () => {
    const metadata = spm(['_', 'a', 'aa']);
    expect(createTokenizer(tokenizerSpecFromMetadata(getter(metadata))).encode('aaa')).toEqual([259, 261, 260]);
  });

  test('the space before the text, and where it is not wanted', () => {
    expect(make(WORDS).encode('a')).toEqual([id('_a')]);
    const bare = { ...spm(WORDS), 'tokenizer.ggml.add_space_prefix': false };
    expect(createTokenizer(tokenizerSpecFromMetadata(getter(bare))).encode('a')).toEqual([id('a')]);
    expect(make(WORDS).encode('')).toEqual([]);
    expect(make(WORDS).encode('', { bos: true })).toEqual([1]);
  });

  test('behind a special token the space comes again, behind text it does not', () => {
    const tokenizer = make(WORDS, [['<x>', 4]]);
    const X = 259 + WORDS.length;
    expect(tokenizer.encode('a<x>a<x><x>b')).toEqual([id('_a'), X, id('_a'), X, X, id('_'), id('b')]);
  });

  test('bytes stand for characters without a token', () => {
    const tokenizer = make(['h', 'e', 'he']);
    // U+2581 itself is none here: its three bytes. The stub vocabulary of formats.md 6.3 shows the same.
    expect(tokenizer.encode('heé😀')).toEqual([...bytesOf('\u2581'), 261, ...bytesOf('é😀')]);
  });

  test('unknown where there are no byte tokens, an error where there is no unknown', () => {
    const metadata = spm(['_', 'a']);
    metadata['tokenizer.ggml.token_type'] = Int32Array.from([2, 3, 3, ...new Array(256).fill(3), 1, 1]);
    const spec = tokenizerSpecFromMetadata(getter(metadata));
    expect(createTokenizer(spec).encode('aé')).toEqual([259, 260, 0, 0]);
    expect(() => createTokenizer({ ...spec, unknownId: undefined }).encode('é')).toThrow(/token for byte 0xc3/);
  });

  test('control tokens are never made from text', () => {
    // "<", "/", "s", ">" and the way to "</s>" exist, and its score 0 is the highest of all.
    const tokenizer = make(['_', '<', '/', 's', '>', '</', 's>']);
    const ids = tokenizer.encode('</s>');
    expect(ids).not.toContain(2);
    expect(ids).toEqual([259, 264, 265]);
    expect(tokenizer.encode('</s>', { special: true })).toEqual([2]);
  });

  test('words merge alone exactly when no token has a space inside', () => {
    const plain = ['_', 'a', 'b', '_a', 'a_', '_b', 'ab', '__', 'a_b'];
    const tokenizer = make(plain);
    const at = (word: string) => 259 + plain.indexOf(word);
    // _ a _ b: _a (-4) first; then a_ is gone, _b (-6).
    expect(tokenizer.encode('a b')).toEqual([at('_a'), at('_b')]);
    // b a _ : "a_" (-5) crosses the word.
    expect(tokenizer.encode('ba b')).toEqual([at('_b'), at('a_b')]);
  });

  test('a long text is the same as the definition', () => {
    const next = random(11);
    for (const words of [WORDS, [...WORDS, 'b_', 'a_a']]) {
      const tokenizer = make(words);
      for (let i = 0; i < 50; i++) {
        const text = Array.from({ length: 1 + Math.floor(next() * 60) }, () => 'ab  h'[Math.floor(next() * 5)]).join(
          '',
        );
        expect(tokenizer.encode(text)).toEqual(naive(`_${text.replaceAll(' ', '_')}`, words));
      }
    }
  });

  test('long words take no quadratic time', () => {
    const tokenizer = make(WORDS);
    const start = performance.now();
    tokenizer.encode('ab'.repeat(100_000));
    tokenizer.encode(' '.repeat(500_000));
    expect(performance.now() - start).toBeLessThan(10_000);
  });
});

function naive(text: string, words: readonly string[]): number[] {
  const symbols = [...text];
  for (;;) {
    let best = -1;
    let bestWord = words.length;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const word = words.indexOf(symbols[i] + symbols[i + 1]);
      if (word >= 0 && word < bestWord) [best, bestWord] = [i, word];
    }
    if (best < 0) break;
    symbols.splice(best, 2, symbols[best] + symbols[best + 1]);
  }
  return symbols.flatMap((symbol) => (words.includes(symbol) ? [259 + words.indexOf(symbol)] : bytesOf(symbol)));
}

describe('decoding', () => {
  test('decode undoes encode, with and without bos', () => {
    const tokenizer = make(WORDS);
    const next = random(5);
    for (const text of [' ', '  a', 'a', 'ab ba', ...Array.from({ length: 60 }, () => randomText(next, 40))]) {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      expect(tokenizer.decode(tokenizer.encode(text, { bos: true, eos: true }))).toBe(text);
    }
  });

  test('a stream keeps the space of a word', () => {
    const stream = make(WORDS).stream();
    expect(stream.push(id('_a')) + stream.push(id('_ab')) + stream.flush()).toBe(' a ab');
  });

  test('byte tokens print their byte', () => {
    const tokenizer = make(WORDS);
    expect(tokenizer.tokenBytes(3 + 0x0a)).toEqual(Uint8Array.of(10));
    expect(tokenizer.describe(3 + 0xff)).toBe('"\\xff"');
    expect(tokenizer.idOf(' a')).toBe(id('_a'));
    expect(tokenizer.idOf('</s>')).toBe(2);
  });
});
