import { describe, expect, it } from 'vitest';
import { preTokenizerName } from '../../src/convert/pre-tokenizer-json.ts';
import { type TokenizerFiles, tokenizerMetadata } from '../../src/convert/tokenizer.ts';
import { StringArray } from '../../src/formats/index.ts';
import { tokenizerSpecFromMetadata } from '../../src/tokenizer/from-metadata.ts';
import { TokenType } from '../../src/tokenizer/spec.ts';
import { createTokenizer } from '../../src/tokenizer/tokenizer.ts';
import { refuses } from '../hostile/builder.ts';
import { LLAMA3_REGEX, tokenizerJson } from './convert-checkpoint.ts';

const files = (changes: Partial<Record<keyof TokenizerFiles, unknown>> = {}): TokenizerFiles =>
  ({
    tokenizer: tokenizerJson(),
    tokenizerConfig: { bos_token: '<s>', eos_token: { content: '</s>' } },
    config: {},
    generationConfig: undefined,
    chatTemplate: undefined,
    ...changes,
  }) as TokenizerFiles;

function metadataOf(given: TokenizerFiles, pre?: string): Map<string, unknown> {
  const { metadata } = tokenizerMetadata(given, 40, pre);
  return new Map(
    metadata.map(([key, value]): [string, unknown] => {
      if (value.type === 'string') return [key, value.text];
      return [key, value.type === 'array' ? value.values : value.value];
    }),
  );
}

const texts = (value: unknown) => {
  if (!(value instanceof StringArray)) throw new Error('not strings');
  return Array.from({ length: value.length }, (_, i) => value.text(i));
};

const split = (regex: string, more: object = {}) => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Isolated',
  invert: false,
  ...more,
});
const bytes = (useRegex: boolean) => ({ type: 'ByteLevel', use_regex: useRegex });
const sequence = (...pretokenizers: object[]) => ({ type: 'Sequence', pretokenizers });

describe('tokenizer.json', () => {
  it('becomes a tokenizer that works', () => {
    const metadata = metadataOf(files());
    const spec = tokenizerSpecFromMetadata((key) => metadata.get(key));
    expect(spec).toMatchObject({ model: 'gpt2', bosId: 20, eosId: 21, addBos: true, addEos: false });
    expect(spec.pre).toEqual({ name: 'llama-bpe', origin: 'file' });
    const tokenizer = createTokenizer(spec);
    expect(tokenizer.encodePrompt('abc a')).toEqual([20, 18, 2, 19]);
  });

  it('keeps texts, types and merges, and fills up', () => {
    const metadata = metadataOf(files());
    const tokens = texts(metadata.get('tokenizer.ggml.tokens'));
    expect(tokens).toHaveLength(40);
    expect(tokens.slice(17, 26)).toEqual([
      'r',
      'ab',
      '\u0120a',
      '<s>',
      '</s>',
      '<tool>',
      '<|eot_id|>',
      '[PAD24]',
      '[PAD25]',
    ]);
    const types = metadata.get('tokenizer.ggml.token_type') as Int32Array;
    const { NORMAL, CONTROL, USER_DEFINED, UNUSED } = TokenType;
    expect([...types.subarray(19, 25)]).toEqual([NORMAL, CONTROL, CONTROL, USER_DEFINED, CONTROL, UNUSED]);
    expect(texts(metadata.get('tokenizer.ggml.merges'))).toEqual(['a b', '\u0120 a']);
    expect(tokenizerMetadata(files(), 40).notes).toEqual(['16 ids without a token became [PADi]']);
  });

  it('finds special tokens by name first, then by number', () => {
    expect(metadataOf(files({ tokenizerConfig: undefined })).has('tokenizer.ggml.bos_token_id')).toBe(false);
    const numbered = metadataOf(
      files({
        tokenizerConfig: { pad_token: '<tool>' },
        config: { bos_token_id: 20, eos_token_id: [21, 23] },
        generationConfig: { eos_token_id: 23 },
      }),
    );
    expect(numbered.get('tokenizer.ggml.bos_token_id')).toBe(20);
    expect(numbered.get('tokenizer.ggml.eos_token_id')).toBe(21);
    expect(numbered.get('tokenizer.ggml.eot_token_id')).toBe(23);
    expect(numbered.get('tokenizer.ggml.padding_token_id')).toBe(22);
    const named = metadataOf(files({ config: { eos_token_id: 23 } }));
    expect(named.get('tokenizer.ggml.eos_token_id')).toBe(21);
    expect(named.get('tokenizer.ggml.eot_token_id')).toBe(23);
  });

  it('adds the first token as the flag says, else as the post-processor does', () => {
    const key = 'tokenizer.ggml.add_bos_token';
    expect(metadataOf(files()).get(key)).toBe(true);
    expect(metadataOf(files({ tokenizerConfig: { bos_token: '<s>', add_bos_token: false } })).get(key)).toBe(false);
    expect(metadataOf(files({ tokenizer: { ...tokenizerJson(), post_processor: null } })).get(key)).toBe(false);
  });

  it('takes chat templates in all three forms', () => {
    const key = 'tokenizer.chat_template';
    expect(metadataOf(files()).has(key)).toBe(false);
    expect(metadataOf(files({ tokenizerConfig: { chat_template: 'T' } })).get(key)).toBe('T');
    expect(metadataOf(files({ tokenizerConfig: { chat_template: 'T' }, chatTemplate: 'J' })).get(key)).toBe('J');
    const list = [
      { name: 'default', template: 'D' },
      { name: 'rag', template: 'R' },
    ];
    const several = metadataOf(files({ tokenizerConfig: { chat_template: list } }));
    expect([several.get(key), several.get(`${key}.rag`)]).toEqual(['D', 'R']);
  });

  it('recognises pre-tokenizers', async () => {
    const qwen2 = LLAMA3_REGEX.replace('{1,3}', '');
    const punctuation = { type: 'Punctuation', behavior: 'Contiguous' };
    const digits = (alone: boolean) => ({ type: 'Digits', individual_digits: alone });
    const name = (step: unknown, ignoreMerges?: boolean) => preTokenizerName(step, ignoreMerges);
    expect(name(sequence(split(LLAMA3_REGEX), bytes(false)))).toBe('llama-bpe');
    expect(name(sequence(split(LLAMA3_REGEX), bytes(false)), false)).toBe('smaug-bpe');
    expect(name(sequence(split(qwen2), bytes(false)), false)).toBe('qwen2');
    expect(name(bytes(true))).toBe('gpt-2');
    expect(name(sequence(digits(true), bytes(true)))).toBe('smollm');
    expect(name(sequence(punctuation, bytes(true), digits(false), split('[0-9][0-9][0-9]')))).toBe('falcon');
    expect(name(sequence(punctuation, bytes(true), digits(true)))).toBe('falcon3');
    for (const step of [
      null,
      bytes(false),
      split('x'),
      sequence(split(LLAMA3_REGEX, { invert: true }), bytes(false)),
    ]) {
      await refuses(() => name(step), 'unsupported-tokenizer', /not recognised.*--pre/);
    }
  });

  it('lets the user name one', async () => {
    const odd = files({ tokenizer: { ...tokenizerJson(), pre_tokenizer: sequence(split('x'), bytes(false)) } });
    await refuses(() => metadataOf(odd), 'unsupported-tokenizer', /--pre NAME/);
    expect(metadataOf(odd, 'qwen2').get('tokenizer.ggml.pre')).toBe('qwen2');
    await refuses(() => metadataOf(odd, 'nonsense'), 'unsupported-tokenizer', /--pre: unknown/);
  });
});
