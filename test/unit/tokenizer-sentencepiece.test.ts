/** Three small models trained by SentencePiece itself (fixtures/gen/sentencepiece-models.py), and the ids it gave for 34 texts. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { plainValues } from '../../fixtures/tokenizer/vocabularies.ts';
import { readSentencePiece } from '../../src/convert/sentencepiece.ts';
import { type TokenizerFiles, tokenizerMetadata } from '../../src/convert/tokenizer.ts';
import { createTokenizer, tokenizerSpecFromMetadata } from '../../src/tokenizer/index.ts';

const folder = new URL('../../fixtures/tokenizer/', import.meta.url);
const read = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(name, folder)));
const golden = JSON.parse(new TextDecoder().decode(read('sentencepiece.json'))) as {
  texts: string[];
  ids: Record<string, number[][]>;
};

function load(name: string, size = 400) {
  const files = { sentencePiece: read(`${name}.model`), config: {} } as TokenizerFiles;
  const values = plainValues(tokenizerMetadata(files, size).metadata);
  return createTokenizer(tokenizerSpecFromMetadata((key) => values.get(key)));
}

/**
 * Where we do as llama.cpp does and not as SentencePiece: the space before a text comes again behind every special
 * token (SentencePiece puts one at the beginning, even before a special token), and U+2581 in a text is no space
 * when extra spaces are removed. The pieces are written out.
 */
const DIFFERENT: Record<string, Record<string, string[]>> = {
  'llama-like': {
    'a<sep>b': ['▁a', '<sep>', '▁', 'b'],
    'a <sep> b': ['▁a', '▁', '<sep>', '▁', '▁', 'b'],
    '<sep>': ['<sep>'],
    '<sep><sep>  x': ['<sep>', '<sep>', '▁', '▁', '▁', 'x'],
  },
  'gemma-like': {},
  tidy: {
    'a<sep>b': ['▁a', '<sep>', '▁', 'b'],
    'a <sep> b': ['▁a', '▁', '<sep>', '▁', '▁', 'b'],
    '<sep>': ['<sep>'],
    '<sep><sep>  x': ['<sep>', '<sep>', '▁', '▁', 'x'],
    '▁▁': ['▁', '▁', '▁'],
  },
};

describe.each(Object.keys(DIFFERENT))('%s', (name) => {
  const tokenizer = load(name);

  test('ids are those of SentencePiece', () => {
    expect(golden.texts).toHaveLength(golden.ids[name].length);
    for (const [i, text] of golden.texts.entries()) {
      const pieces = DIFFERENT[name][text];
      if (pieces === undefined) expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(golden.ids[name][i]);
      else {
        const texts = tokenizer.encode(text).map((id) => new TextDecoder().decode(tokenizer.spec.tokens[id]));
        expect(texts, text).toEqual(pieces);
        expect(tokenizer.encode(text)).not.toEqual(golden.ids[name][i]);
      }
    }
  });

  test('decoding gives the text back, but for what the model itself throws away', () => {
    for (const text of golden.texts) {
      // The space that encoding puts behind a special token stays: as in llama.cpp.
      if (text.includes('<sep>') || text.includes('▁')) continue;
      const kept = name === 'tidy' ? text.replace(/ +/g, ' ').replace(/^ | $/g, '') : text;
      expect(tokenizer.decode(tokenizer.encode(text)), JSON.stringify(text)).toBe(kept);
    }
  });
});

test('flags and special tokens come from the model', () => {
  expect(load('llama-like').spec).toMatchObject({
    bosId: 1,
    eosId: 2,
    unknownId: 0,
    paddingId: undefined,
    addBos: true,
    addEos: false,
    addSpacePrefix: true,
    removeExtraWhitespaces: false,
  });
  expect(load('gemma-like').spec).toMatchObject({
    bosId: 2,
    eosId: 1,
    unknownId: 3,
    paddingId: 0,
    addSpacePrefix: false,
  });
  expect(load('tidy').spec.removeExtraWhitespaces).toBe(true);
});

test('ids beyond the pieces are padding, fewer ids than pieces an error', () => {
  const padded = load('llama-like', 405);
  expect(padded.vocabSize).toBe(405);
  expect(padded.tokenBytes(404)).toHaveLength(0);
  expect(() => load('llama-like', 399)).toThrow(/vocab_size.*at least 400, got 399/);
});

test('control symbols are not made from text', () => {
  const tokenizer = load('llama-like');
  const control = tokenizer.encode('<ctl>', { special: true });
  expect(control).toHaveLength(1);
  expect(tokenizer.encode('<ctl>')).not.toContain(control[0]);
});

test('every prefix of a model is refused or read, never anything else', () => {
  const bytes = read('llama-like.model');
  let nRefused = 0;
  for (let end = 0; end < bytes.length; end += 11) {
    try {
      readSentencePiece(bytes.subarray(0, end), 'cut');
    } catch (error) {
      expect(error).toMatchObject({ name: 'BitnetError' });
      nRefused++;
    }
  }
  // A cut behind a field is a message too, but one without a trainer, which would be a unigram model.
  expect(nRefused).toBeGreaterThan(bytes.length / 11 - 50);
});
