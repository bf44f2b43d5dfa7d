import { describe, expect, test } from 'vitest';
import { bpe, getter, random, randomText } from '../../fixtures/tokenizer/vocabularies.ts';
import { createTokenizer, tokenizerSpecFromMetadata } from '../../src/tokenizer/index.ts';

const make = (...args: Parameters<typeof bpe>) => createTokenizer(tokenizerSpecFromMetadata(getter(bpe(...args))));
const bytesOf = (text: string) => [...new TextEncoder().encode(text)];

describe('merging', () => {
  // Tokens 256 up are the merges in order.
  const MERGES = ['a|b', 'b|c', 'ab|c', 'bc|d', ' |a'];
  const [AB, BC, ABC, BCD, _A] = [256, 257, 258, 259, 260];

  test('the lowest rank goes first, wherever it stands', () => {
    const { encode } = bound(make('gpt-2', MERGES));
    // ab (rank 0) before bc (rank 1); then ab+c.
    expect(encode('abc')).toEqual([ABC]);
    // ab takes the b away from bc, then ab+c; d stays.
    expect(encode('abcd')).toEqual([ABC, 100]);
    expect(encode('bcd')).toEqual([BCD]);
    expect(encode('xbc')).toEqual([120, BC]);
    // " a" is rank 4: ab (rank 0) comes first and leaves the space alone.
    expect(encode(' ab')).toEqual([32, AB]);
    expect(encode('x a')).toEqual([120, _A]);
  });

  test('equal ranks go from the left', () => {
    const { encode } = bound(make('gpt-2', ['a|a']));
    expect(encode('aaa')).toEqual([256, 97]);
    expect(encode('aaaaa')).toEqual([256, 256, 97]);
  });

  test('the first of two equal merges counts', () => {
    const { encode } = bound(make('gpt-2', ['a|b', 'b|c', 'a|b']));
    expect(encode('abc').length).toBe(2);
    expect(encode('abc')[1]).toBe(99);
  });

  test('ignore_merges: llama-bpe takes a whole piece that is a token, gpt-2 does not', () => {
    // "hello" (257) cannot be reached by merges: only "he" exists.
    const extra = [['hello', 1]] as const;
    expect(make('llama-bpe', ['h|e'], extra).encode('hello')).toEqual([257]);
    expect(make('gpt-2', ['h|e'], extra).encode('hello')).toEqual([256, 108, 108, 111]);
    expect(make('dbrx', ['h|e'], extra).encode('hello')).toEqual([256, 108, 108, 111]);
  });

  test('a piece long enough for the heap merges like a short one', () => {
    const merges = ['a|b', 'b|a', 'ab|ab', 'a|a', 'b|b', 'aa|b', 'abab|a', 'c|a', 'b|c', 'bc|a', 'ab|c'];
    const short = make('gpt-2', merges);
    const next = random(7);
    for (let round = 0; round < 60; round++) {
      const length = 49 + Math.floor(next() * 60);
      const text = Array.from({ length }, () => 'abc'[Math.floor(next() * 3)]).join('');
      expect(short.encode(text)).toEqual(naive(text, merges));
    }
  });

  test('no call sees the leftovers of another', () => {
    const tokenizer = make('gpt-2', MERGES);
    const first = tokenizer.encode('abc bcd');
    for (let i = 0; i < 3; i++) tokenizer.encode('zzz'.repeat(100 * (i + 1)));
    expect(tokenizer.encode('abc bcd')).toEqual(first);
  });
});

/** The definition, on one piece of ASCII letters: join the best pair until there is none. */
function naive(text: string, merges: readonly string[]): number[] {
  const rank = new Map(merges.map((merge, i) => [merge, i] as const));
  const symbols = [...text];
  for (;;) {
    let best = -1;
    let bestRank = Number.POSITIVE_INFINITY;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const found = rank.get(`${symbols[i]}|${symbols[i + 1]}`) ?? Number.POSITIVE_INFINITY;
      if (found < bestRank) [best, bestRank] = [i, found];
    }
    if (best < 0) break;
    symbols.splice(best, 2, symbols[best] + symbols[best + 1]);
  }
  const ids = new Map(merges.map((merge, i) => [merge.replace('|', ''), 256 + i] as const));
  return symbols.map((symbol) => ids.get(symbol) ?? symbol.charCodeAt(0));
}

function bound(tokenizer: ReturnType<typeof make>) {
  return { encode: (text: string) => tokenizer.encode(text) };
}

describe('bytes', () => {
  test('every byte of text becomes its token when nothing merges', () => {
    const tokenizer = make('gpt-2', []);
    const text = 'é \u0000\u00ad\u007f😀\n';
    expect(tokenizer.encode(text)).toEqual(bytesOf(text));
  });

  test('decode undoes encode for any text', () => {
    const next = random(3);
    for (const pre of ['llama-bpe', 'gpt-2', 'default', 'falcon3', 'qwen2', 'deepseek-coder']) {
      const tokenizer = make(pre, ['a|b', 'e| ', ' |a', 'Ã|©'.normalize(), 't|h']);
      for (let i = 0; i < 60; i++) {
        const text = randomText(next, Math.floor(next() * 200));
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }
    }
  });

  test('lone surrogates become U+FFFD', () => {
    const tokenizer = make('llama-bpe', []);
    for (const text of ['a\ud800b', '\udc00', '\ud83d\ud83d\ude00', 'x\ud83d']) {
      expect(tokenizer.encode(text)).toEqual(bytesOf(text)); // TextEncoder does the same
    }
    expect(tokenizer.decode(tokenizer.encode('a\ud800b'))).toBe('a\ufffdb');
  });

  test('a byte without a token is dropped, as in llama.cpp', () => {
    const metadata = {
      ...bpe('gpt-2', []),
      'tokenizer.ggml.tokens': bpe('gpt-2', [])['tokenizer.ggml.tokens'],
    };
    // Turn the token of "b" into something else: "b" has no token then.
    const strings = metadata['tokenizer.ggml.tokens'] as { length: number; bytes(i: number): Uint8Array };
    metadata['tokenizer.ggml.tokens'] = {
      kind: 'strings',
      length: strings.length,
      bytes: (i: number) => (i === 98 ? new TextEncoder().encode('bb') : strings.bytes(i)),
    };
    const tokenizer = createTokenizer(tokenizerSpecFromMetadata(getter(metadata)));
    expect(tokenizer.encode('abc')).toEqual([97, 99]);
  });

  test('worst cases stay far from quadratic', () => {
    const tokenizer = make('llama-bpe', ['a|a', 'aa|aa', ' | ', '  |  ']);
    const start = performance.now();
    expect(tokenizer.encode('a'.repeat(100_000)).length).toBe(25_000);
    expect(tokenizer.encode(' '.repeat(1_000_000)).length).toBe(250_000);
    // Measured 0.3 s on Node 20; the square of either length would take minutes.
    expect(performance.now() - start).toBeLessThan(10_000);
  });
});

describe('printing', () => {
  test('tokens print by type', () => {
    const tokenizer = make(
      'gpt-2',
      [],
      [
        ['<|x|>', 3],
        ['<unk>', 2],
        ['Ġuser', 4],
        ['ĠĊnormal', 1],
        ['unused', 5],
        ['漢', 1],
      ],
    );
    const prints = (id: number, special: boolean) => new TextDecoder().decode(tokenizer.tokenBytes(id, special));
    expect(prints(256, false)).toBe('');
    expect(prints(256, true)).toBe('<|x|>');
    expect(prints(257, false)).toBe('');
    expect(prints(258, false)).toBe('Ġuser'); // user-defined texts are not in the byte alphabet
    expect(prints(259, false)).toBe(' \nnormal');
    expect(prints(260, true)).toBe('');
    expect(prints(261, false)).toBe('漢'); // outside the alphabet: as it stands
  });

  test('describe and idOf', () => {
    const tokenizer = make('gpt-2', ['a|b', ' |a'], [['<|x|>', 3]]);
    expect(tokenizer.describe(257)).toBe('" a"');
    expect(tokenizer.describe(10)).toBe('"\\n"');
    expect(tokenizer.describe(0xe9)).toBe('"\\xe9"');
    expect(tokenizer.describe(258)).toBe('"<|x|>"');
    expect(tokenizer.idOf(' a')).toBe(257);
    expect(tokenizer.idOf(Uint8Array.of(0xe9))).toBe(0xe9);
    expect(tokenizer.idOf('<|x|>')).toBe(258);
    expect(tokenizer.idOf('abc')).toBeUndefined();
  });

  test('ids outside the vocabulary are refused', () => {
    const tokenizer = make('gpt-2', []);
    for (const id of [-1, 256, 1.5, Number.NaN]) {
      expect(() => tokenizer.tokenBytes(id)).toThrow(/no such token, expected an id of 0 to 255, got/);
    }
    expect(() => tokenizer.encode('a', { bos: true })).toThrow(/no begin-of-sequence token/);
  });
});
