import { describe, expect, test } from 'vitest';
import { bpe, getter } from '../../fixtures/tokenizer/vocabularies.ts';
import { createTokenizer, tokenizerSpecFromMetadata } from '../../src/tokenizer/index.ts';

const [CONTROL, USER, UNKNOWN] = [3, 4, 2];
const EXTRA = [
  ['<|a|>', CONTROL], // 256
  ['<|a|><|b|>', CONTROL], // 257
  ['<|b|>', CONTROL], // 258
  ['  ', USER], // 259
  ['   ', USER], // 260
  ['<unk>', UNKNOWN], // 261
  ['~', USER], // 262
] as const;
const tokenizer = createTokenizer(tokenizerSpecFromMetadata(getter(bpe('gpt-2', [], EXTRA))));

describe('special tokens in text', () => {
  test.each([
    // text, with control tokens, without
    ['x<|a|>y', ['x', 256, 'y'], ['x<|a|>y']],
    ['<|a|>', [256], ['<|a|>']],
    ['<|a|><|b|>', [257], ['<|a|><|b|>']], // the longest first
    ['<|a|><|a|><|b|><|b|>', [256, 257, 258], ['<|a|><|a|><|b|><|b|>']],
    ['<unk>', [261], ['<unk>']],
    ['a  b', ['a', 259, 'b'], ['a', 259, 'b']], // user-defined: always
    ['a    b', ['a', 260, ' b'], ['a', 260, ' b']],
    ['a     b', ['a', 260, 259, 'b'], ['a', 260, 259, 'b']],
    ['~', [262], [262]],
    ['~~<|a', [262, 262, '<|a'], [262, 262, '<|a']],
    ['', [], []],
    ['😀~😀', ['😀', 262, '😀'], ['😀', 262, '😀']],
  ])('%j', (text, special, plain) => {
    expect(tokenizer.partition(text, true)).toEqual(special);
    expect(tokenizer.partition(text, false)).toEqual(plain);
  });

  test('encode takes them as text unless asked', () => {
    expect(tokenizer.encode('a<|a|>', { special: true })).toEqual([97, 256]);
    expect(tokenizer.encode('a<|a|>')).toEqual(
      [97, ...'<|a|>'].map((c) => (typeof c === 'number' ? c : c.charCodeAt(0))),
    );
  });

  test('a merge or a whole piece that spells a control token is not one', () => {
    // "eot" is a token of type control, reachable by merges and by ignore_merges.
    const forged = createTokenizer(tokenizerSpecFromMetadata(getter(bpe('llama-bpe', ['e|o'], [['eot', CONTROL]]))));
    expect(forged.encode('eot')).toEqual([256, 116]);
    expect(forged.encode('eot', { special: true })).toEqual([257]);
  });

  test('many of them take no quadratic time', () => {
    const start = performance.now();
    expect(tokenizer.encode('<|a|>'.repeat(100_000), { special: true }).length).toBe(100_000);
    expect(tokenizer.encode('<'.repeat(500_000), { special: true }).length).toBe(500_000);
    expect(performance.now() - start).toBeLessThan(10_000);
  });
});
