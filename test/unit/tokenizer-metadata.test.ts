import { describe, expect, test } from 'vitest';
import { bpe, getter, type Metadata, spm } from '../../fixtures/tokenizer/vocabularies.ts';
import { BITNET_2B4T_TEMPLATE, createTokenizer, tokenizerSpecFromMetadata } from '../../src/tokenizer/index.ts';

const spec = (metadata: Metadata, options = {}) => tokenizerSpecFromMetadata(getter(metadata), options);

describe('defaults', () => {
  test('SPM', () => {
    expect(spec(spm(['a']))).toMatchObject({
      model: 'llama',
      pre: { name: 'default', origin: 'file' },
      bosId: 1,
      eosId: 2,
      unknownId: 0,
      paddingId: undefined,
      eotId: undefined,
      addBos: true,
      addEos: false,
      addSpacePrefix: true,
      chatTemplate: undefined,
    });
  });

  test('BPE: the llama-bpe family adds a begin token, the others do not', () => {
    const extra = [['<s>', 3]] as const;
    const withBos = { ...bpe('llama-bpe', [], extra), 'tokenizer.ggml.bos_token_id': 256 };
    expect(spec(withBos)).toMatchObject({ bosId: 256, eosId: undefined, addBos: true, addSpacePrefix: false });
    expect(spec({ ...withBos, 'tokenizer.ggml.pre': 'qwen2' }).addBos).toBe(false);
    expect(spec({ ...withBos, 'tokenizer.ggml.add_bos_token': false }).addBos).toBe(false);
  });

  test('BPE ids default to 11 only where 11 is a control token', () => {
    const metadata = bpe('falcon', []);
    expect(spec(metadata)).toMatchObject({ bosId: undefined, eosId: undefined });
    (metadata['tokenizer.ggml.token_type'] as Int32Array)[11] = 3;
    expect(spec(metadata)).toMatchObject({ bosId: 11, eosId: 11 });
  });

  test('keys win; all ones mean none; u64 ids are fine', () => {
    const metadata = {
      ...spm(['a', 'b']),
      'tokenizer.ggml.bos_token_id': 3n,
      'tokenizer.ggml.eos_token_id': 4,
      'tokenizer.ggml.unknown_token_id': 0xffffffff,
      'tokenizer.ggml.padding_token_id': -1,
      'tokenizer.ggml.add_bos_token': false,
      'tokenizer.ggml.add_eos_token': true,
      'tokenizer.ggml.add_space_prefix': false,
    };
    expect(spec(metadata)).toMatchObject({ bosId: 3, eosId: 4, unknownId: undefined, paddingId: undefined });
    expect(spec(metadata)).toMatchObject({ addBos: false, addEos: true, addSpacePrefix: false });
    expect(createTokenizer(spec(metadata)).encodePrompt('a').at(-1)).toBe(4);
  });

  test('missing token types: all normal', () => {
    const metadata = spm(['a']);
    delete metadata['tokenizer.ggml.token_type'];
    expect(new Set(spec(metadata).types)).toEqual(new Set([1]));
  });
});

describe('ends of generation', () => {
  const extra = [
    ['<|im_end|>', 3], // 256
    ['<|eot_id|>', 1], // 257: not typed control
    ['<|eom_id|>', 3], // 258
    ['<|end_of_text|>', 3], // 259: an end only when named
    ['<|file_sep|>', 4], // 260
    ['<|im_end|>', 3], // 261: a second one
  ] as const;
  const metadata = bpe('gpt-2', [], extra);

  test('by text, in the order of the list, and typed control', () => {
    const tokenizer = createTokenizer(spec(metadata));
    expect(tokenizer.spec.eotId).toBe(257);
    expect(tokenizer.spec.eomId).toBe(258);
    expect(tokenizer.eogIds).toEqual([256, 257, 258, 260, 261]);
    expect(tokenizer.spec.types[257]).toBe(3);
    expect(tokenizer.decode([257])).toBe('');
    expect(tokenizer.isEog(257)).toBe(true);
    expect(tokenizer.isEog(259)).toBe(false);
  });

  test('by key', () => {
    const tokenizer = createTokenizer(
      spec({ ...metadata, 'tokenizer.ggml.eos_token_id': 259, 'tokenizer.ggml.eot_token_id': 5 }),
    );
    expect(tokenizer.spec.eotId).toBe(5);
    expect(tokenizer.eogIds).toEqual([5, 256, 257, 258, 259, 260, 261]);
  });
});

describe('special tokens behind the begin token', () => {
  // As bitnet.cpp's converter wrote Llama 3's until mid 2026, through a tokenizer that adds its begin token to everything.
  const extra = [
    ['<s><s>', 3], // 256
    ['<s><|eot_id|>', 3], // 257
    ['<s><tool>', 4], // 258
    ['<s>word', 1], // 259: an ordinary token that begins so
    ['other', 3], // 260
  ] as const;
  const keys = { 'tokenizer.ggml.bos_token_id': 256 };
  const texts = (metadata: Metadata) =>
    spec(metadata)
      .tokens.slice(256)
      .map((bytes) => new TextDecoder().decode(bytes));

  test('are read without it: found in text, and the turn ends', () => {
    const metadata = { ...bpe('llama-bpe', [], extra), ...keys };
    expect(texts(metadata)).toEqual(['<s>', '<|eot_id|>', '<tool>', '<s>word', 'other']);
    const tokenizer = createTokenizer(spec(metadata));
    expect(tokenizer.spec).toMatchObject({ bosPrefixRemoved: true, eotId: 257 });
    expect(tokenizer.eogIds).toEqual([257]);
    expect(tokenizer.encodePrompt('a<|eot_id|><s><tool>')).toEqual([256, 97, 257, 256, 258]);
  });

  test('are left alone where the begin token is not some text twice', () => {
    for (const begin of ['<s>', '<s><s', '<s><t>', '===', '']) {
      const metadata = { ...bpe('llama-bpe', [], [[begin, 3], ...extra.slice(1)]), ...keys };
      expect(texts(metadata), begin).toEqual([begin, '<s><|eot_id|>', '<s><tool>', '<s>word', 'other']);
      expect(spec(metadata).bosPrefixRemoved).toBe(false);
    }
    // An ordinary token may well be a text twice, and so may one that nothing begins with.
    const ordinary = bpe('llama-bpe', [], [['aa', 1], ...extra.slice(1)]);
    expect(spec({ ...ordinary, ...keys }).bosPrefixRemoved).toBe(false);
    expect(spec(bpe('llama-bpe', [], extra)).bosPrefixRemoved).toBe(false);
  });
});

describe('pre-tokenizer', () => {
  test('a file that names none is refused unless its vocabulary is known or the user decides', () => {
    expect(() => spec(bpe(undefined, []))).toThrow(/tokenizer\.ggml\.pre: .*--pre NAME; --pre default/);
    expect(spec(bpe(undefined, []), { pre: 'default' }).pre).toEqual({ name: 'default', origin: 'forced' });
    expect(spec(bpe('qwen2', []), { pre: 'llama-bpe' }).pre).toEqual({ name: 'llama-bpe', origin: 'forced' });
    expect(spec(bpe('qwen2', [])).pre).toEqual({ name: 'qwen2', origin: 'file' });
    expect(() => spec(bpe('qwen2', []), { pre: 'x' })).toThrow(/--pre: unknown pre-tokenizer/);
  });

  test('forced default splits as bitnet.cpp does and ignores no merges', () => {
    const metadata = bpe('llama-bpe', ["'|m"], [['hello', 1]]);
    const forced = createTokenizer(spec(metadata, { pre: 'default' }));
    expect(createTokenizer(spec(metadata)).encode("I'm hello").length).toBe(8);
    expect(forced.encode("I'm").length).toBe(3);
    expect(forced.encode('hello').length).toBe(5);
  });
});

describe('chat template', () => {
  test("bitnet.cpp's marker is replaced by the published template", () => {
    const marker =
      "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{% if message['role'] == 'user' %}" +
      "{{ 'Human: ' + message['content'] + '\\n\\nBITNETAssistant: ' + eos_token }}{% elif message['role'] == " +
      "'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}";
    const key = 'tokenizer.chat_template';
    expect(spec({ ...spm(['a']), [key]: marker }).chatTemplate).toEqual({
      source: BITNET_2B4T_TEMPLATE,
      origin: 'recognised',
    });
    expect(spec({ ...spm(['a']), [key]: 'x' }).chatTemplate).toEqual({ source: 'x', origin: 'file' });
  });
});
