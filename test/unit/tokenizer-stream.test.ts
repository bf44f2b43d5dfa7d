import { describe, expect, test } from 'vitest';
import { bpe, getter, random, randomText } from '../../fixtures/tokenizer/vocabularies.ts';
import { createTokenizer, tokenizerSpecFromMetadata, Utf8Stream } from '../../src/tokenizer/index.ts';

describe('streaming', () => {
  test('characters come out whole, with their last byte', () => {
    const tokenizer = createTokenizer(tokenizerSpecFromMetadata(getter(bpe('gpt-2', []))));
    const stream = tokenizer.stream();
    const pieces = [...new TextEncoder().encode('é😀a漢')].map((byte) => stream.push(byte));
    expect(pieces).toEqual(['', 'é', '', '', '', '😀', 'a', '', '', '漢']);
    expect(stream.flush()).toBe('');
  });

  test('spaces before punctuation and contractions stay: nothing is cleaned up', () => {
    // llama_detokenize takes them off for GPT-2's kind of vocabulary; a stream cannot take back what it has printed, and
    // the text would no longer be what the model said.
    const tokenizer = createTokenizer(tokenizerSpecFromMetadata(getter(bpe('gpt-2', ["t|'", " |'"]))));
    const text = "is it ? yes ! no . so , we 're it 's I 'm a ' b";
    const stream = tokenizer.stream();
    const ids = tokenizer.encode(text);
    expect(ids.map((id) => stream.push(id)).join('') + stream.flush()).toBe(text);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  test('an unfinished character is printed as U+FFFD at the end, once', () => {
    const stream = new Utf8Stream();
    expect(stream.push(Uint8Array.of(0xf0, 0x9f, 0x98))).toBe('');
    expect(stream.pending).toBe(true);
    expect(stream.flush()).toBe('\ufffd');
    expect(stream.flush()).toBe('');
    expect(stream.push(Uint8Array.of(0x80))).toBe('\ufffd'); // nothing is left of the broken one
  });

  test('agrees with TextDecoder on any bytes, cut anywhere', () => {
    const next = random(9);
    // Bytes that matter: around the edges of every range of the encoding.
    const edges = [0, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xee];
    edges.push(0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff);
    const reference = new TextDecoder('utf-8', { ignoreBOM: true });
    for (let i = 0; i < 3000; i++) {
      const bytes = Uint8Array.from(
        { length: Math.floor(next() * 12) },
        () => edges[Math.floor(next() * edges.length)],
      );
      const stream = new Utf8Stream();
      let text = '';
      for (let at = 0; at < bytes.length; ) {
        const end = at + 1 + Math.floor(next() * 3);
        text += stream.push(bytes.subarray(at, end));
        at = end;
      }
      expect(text + stream.flush(), bytes.join(' ')).toBe(reference.decode(bytes));
    }
  });

  test('the pieces of a stream are the whole text', () => {
    const tokenizer = createTokenizer(tokenizerSpecFromMetadata(getter(bpe('llama-bpe', ['a|b', 'Ã|©']))));
    const next = random(2);
    for (let i = 0; i < 50; i++) {
      const text = randomText(next, 60);
      const stream = tokenizer.stream();
      const pieces = tokenizer.encode(text).map((id) => stream.push(id));
      expect(pieces.join('') + stream.flush()).toBe(text);
      for (const piece of pieces) expect(piece).not.toMatch(/[\ud800-\udfff]/u);
    }
  });
});
