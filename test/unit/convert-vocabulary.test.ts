/** The ways in that are not byte-level tokenizer.json: tokenizer.model, SentencePiece as JSON, vocab.json with merges.txt. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { plainValues, printable } from '../../fixtures/tokenizer/vocabularies.ts';
import { convertHf } from '../../src/convert/hf.ts';
import { readTokenizerFiles, type TokenizerFiles, tokenizerMetadata } from '../../src/convert/tokenizer.ts';
import { memorySink, memorySource, openGguf } from '../../src/formats/index.ts';
import type { JsonObject } from '../../src/formats/safetensors/json.ts';
import { encodeF32 } from '../../src/tensors/floats.ts';
import { createTokenizer, TokenType, tokenizerSpecFromMetadata } from '../../src/tokenizer/index.ts';
import { refuses } from '../hostile/builder.ts';
import { checkpoint, filesOf, HIDDEN, readerOf } from './convert-checkpoint.ts';

const model = (name: string): Uint8Array =>
  new Uint8Array(readFileSync(new URL(`../../fixtures/tokenizer/${name}.model`, import.meta.url)));

function load(files: Partial<TokenizerFiles>, size: number, pre?: string) {
  const { metadata, notes } = tokenizerMetadata({ config: {}, ...files } as TokenizerFiles, size, pre);
  const values = plainValues(metadata);
  return { notes, tokenizer: createTokenizer(tokenizerSpecFromMetadata((key) => values.get(key))), values };
}

const LOW = '\u2581';
const replace = { type: 'Replace', pattern: { String: ' ' }, content: LOW };
const prepend = { type: 'Prepend', prepend: LOW };

/** <pad> <eos> <bos> <unk> <sep> and a run of spaces, the bytes, then h e l o _ he ll hell hello _hello. */
function scored(changes: Record<string, unknown> = {}, modelChanges: Record<string, unknown> = {}): JsonObject {
  const texts = ['<pad>', '</s>', '<s>', '<unk>', '<sep>', LOW.repeat(2), '<unused0>'];
  for (let byte = 0; byte < 256; byte++) texts.push(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  texts.push('h', 'e', 'l', 'o', LOW, 'he', 'll', 'hell', 'hello', `${LOW}hello`);
  const special = ['<pad>', '</s>', '<s>', '<unk>'];
  const added = [...special, '<sep>', LOW.repeat(2), '<unused0>'];
  return {
    added_tokens: added.map((content) => ({ id: texts.indexOf(content), content, special: special.includes(content) })),
    normalizer: { type: 'Sequence', normalizers: [prepend, replace] },
    pre_tokenizer: null,
    model: {
      type: 'BPE',
      byte_fallback: true,
      unk_token: '<unk>',
      vocab: Object.fromEntries(texts.map((text, id) => [text, id])),
      // All ways to cut "hello" follow each other, as transformers writes them.
      merges: ['h e', 'l l', 'he ll', ['hell', 'o'], `${LOW} hello`],
      ...modelChanges,
    },
    ...changes,
  };
}
const SIZE = 273;
const config = { bos_token: '<s>', eos_token: '</s>', pad_token: '<pad>' };
const id = (text: string) => {
  const { vocab } = scored().model as { vocab: Record<string, number> };
  return vocab[text];
};

describe('SentencePiece as tokenizer.json', () => {
  it('gets scores from ranks, and works', () => {
    const { tokenizer, notes } = load({ tokenizer: scored(), tokenizerConfig: config }, SIZE);
    expect(notes).toEqual([]);
    expect(tokenizer.spec).toMatchObject({
      model: 'llama',
      bosId: 2,
      eosId: 1,
      unknownId: 3,
      paddingId: 0,
      addBos: true,
      addEos: false,
      addSpacePrefix: true,
    });
    const scores = ['h', 'he', 'll', 'hell', 'hello', `${LOW}hello`].map((text) => tokenizer.spec.scores[id(text)]);
    expect(scores).toEqual([0, 0, -1, -2, -3, -4]);
    expect(Object.is(tokenizer.spec.scores[id('he')], 0)).toBe(true);
    expect(tokenizer.encodePrompt('hello')).toEqual([2, id(`${LOW}hello`)]);
    expect(tokenizer.encode('é')).toEqual([id(LOW), id('<0xC3>'), id('<0xA9>')]);
  });

  it('types tokens, and finds user-defined spaces in text', () => {
    const { tokenizer } = load({ tokenizer: scored({ normalizer: replace }), tokenizerConfig: config }, SIZE);
    expect(tokenizer.spec.addSpacePrefix).toBe(false);
    const type = (text: string) => tokenizer.spec.types[id(text)];
    expect(['<unk>', '<s>', '<sep>', LOW.repeat(2), '<unused0>', '<0x0A>', 'h'].map(type)).toEqual([
      TokenType.UNKNOWN,
      TokenType.CONTROL,
      TokenType.USER_DEFINED,
      TokenType.USER_DEFINED,
      TokenType.UNUSED,
      TokenType.BYTE,
      TokenType.NORMAL,
    ]);
    const [two, one] = [id(LOW.repeat(2)), id(LOW)];
    expect(tokenizer.encode('h   h<sep>')).toEqual([id('h'), two, one, id('h'), id('<sep>')]);
    expect(tokenizer.decode([id('h'), two, one, id('h')])).toBe('h   h');
  });

  it('understands the other ways to write the space before a text', () => {
    const prefix = (changes: Record<string, unknown>, tokenizerConfig: JsonObject = config) =>
      load({ tokenizer: scored({ normalizer: null, ...changes }), tokenizerConfig }, SIZE).tokenizer.spec
        .addSpacePrefix;
    expect(prefix({ pre_tokenizer: { type: 'Metaspace', replacement: LOW, add_prefix_space: true } })).toBe(true);
    expect(prefix({ pre_tokenizer: { type: 'Metaspace', prepend_scheme: 'first', split: false } })).toBe(true);
    expect(prefix({ pre_tokenizer: { type: 'Metaspace', prepend_scheme: 'never' } })).toBe(false);
    const gemma3 = { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false };
    expect(prefix({ normalizer: replace, pre_tokenizer: gemma3 })).toBe(false);
    expect(prefix({ normalizer: replace }, { ...config, add_prefix_space: true })).toBe(true);
  });

  it('appends the end token when the flag or the post-processor says so', () => {
    const flag = load({ tokenizer: scored(), tokenizerConfig: { ...config, add_eos_token: true } }, SIZE).tokenizer;
    expect(flag.encodePrompt('hello')).toEqual([2, id(`${LOW}hello`), 1]);
    const template = (single: string[]) => ({
      type: 'TemplateProcessing',
      single: single.map((text) => (text === 'A' ? { Sequence: { id: 'A' } } : { SpecialToken: { id: text } })),
    });
    const both = scored({ post_processor: template(['<s>', 'A', '</s>']) });
    expect(load({ tokenizer: both, tokenizerConfig: config }, SIZE).tokenizer.encodePrompt('')).toEqual([2, 1]);
    // An end of its own, not the one tokenizer_config.json names.
    const other = load(
      { tokenizer: scored({ post_processor: template(['A', '<pad>']) }), tokenizerConfig: config },
      SIZE,
    );
    expect(other.tokenizer.spec).toMatchObject({ eosId: 0, eotId: 1, addEos: true, addBos: false });
    expect(other.notes).toEqual(['the end token is 0, which the tokenizer appends, not 1']);
  });

  it('is refused by name when it is something else', async () => {
    const refused = (tokenizer: JsonObject, says: RegExp) =>
      refuses(() => load({ tokenizer }, SIZE), 'unsupported-tokenizer', says);
    await refused(scored({}, { type: 'Unigram' }), /got "Unigram".*another search/);
    await refused(scored({}, { type: 'WordPiece' }), /"WordPiece"/);
    await refused(scored({}, { byte_fallback: false }), /BPE with neither/);
    await refused(scored({ normalizer: { type: 'NFKC' } }), /"NFKC"/);
    await refused(scored({ normalizer: prepend }), /spaces stay as they are/);
    await refused(scored({ pre_tokenizer: { type: 'Whitespace' } }), /"Whitespace"/);
    await refused(scored({}, { dropout: 0.1 }), /model\.dropout.*0\.1/);
    await refused(scored({}, { end_of_word_suffix: '</w>' }), /end_of_word_suffix/);
  });
});

describe('tokenizer.model', () => {
  it('counts more than its conversion to JSON, but for added tokens', () => {
    const tokenizer = scored({ added_tokens: [{ id: 400, content: '<extra>', special: true }] });
    const { tokenizer: made } = load({ sentencePiece: model('llama-like'), tokenizer }, 401);
    expect(made.vocabSize).toBe(401);
    expect(made.encode('a<extra>', { special: true }).at(-1)).toBe(400);
    expect(made.spec.scores[400]).toBe(-1000);
    // A piece of the model; in the JSON 271 is "hello".
    expect(made.decode([271])).toBe('the');
  });

  it('takes added_tokens.json, which has no flags, and added_tokens_decoder, which has', () => {
    const sentencePiece = model('llama-like');
    const plain = load(
      { sentencePiece, addedTokens: { '<a>': 400, '<b>': 401 }, tokenizerConfig: { eos_token: '<b>' } },
      404,
    );
    expect([...plain.tokenizer.spec.types.subarray(400)]).toEqual([4, 3, 5, 5]);
    expect(plain.tokenizer.spec.eosId).toBe(401);
    expect(plain.notes).toEqual(['2 ids without a token became [PADi]']);
    const decoder = { '400': { content: '<a>', special: true }, '1': { content: '<s>', special: true } };
    const flagged = load({ sentencePiece, tokenizerConfig: { added_tokens_decoder: decoder } }, 401);
    expect(flagged.tokenizer.spec.types[400]).toBe(TokenType.CONTROL);
  });

  it('makes a 1bitLLM checkpoint convertible', async () => {
    const c = checkpoint('BitnetForCausalLM', 'master');
    Object.assign(c.config, { vocab_size: 400, eos_token_id: 2 });
    const values = new Float32Array(400 * HIDDEN).fill(0.5);
    c.tensors.set('model.embed_tokens.weight', { dtype: 'F32', shape: [400, HIDDEN], bytes: encodeF32(values) });
    const files = await filesOf(c);
    files.delete('tokenizer.json');
    files.delete('generation_config.json');
    files.set('tokenizer.model', model('llama-like'));
    const sink = memorySink();
    await convertHf(readerOf(files), sink);
    const gguf = await openGguf(memorySource(sink.bytes()));
    expect(gguf.findString('tokenizer.ggml.model')).toBe('llama');
    const { metadata } = gguf;
    const plain = plainValues(metadata);
    const tokenizer = createTokenizer(tokenizerSpecFromMetadata((key) => plain.get(key)));
    expect(tokenizer.decode(tokenizer.encodePrompt('the trit is minus one'))).toBe('the trit is minus one');
    expect(tokenizer.spec).toMatchObject({ bosId: 1, eosId: 2, addBos: true, addSpacePrefix: true });
  });
});

describe('vocab.json and merges.txt', () => {
  const vocab: Record<string, number> = { ab: 256, abc: 257 };
  for (let byte = 0; byte < 256; byte++) vocab[printable([byte])] = byte;
  const merges = '#version: 0.2\na b\nab c\n';

  it('are byte-level BPE, split as their class did', () => {
    const tokenizerConfig = { tokenizer_class: 'GPT2TokenizerFast', eos_token: '<|endoftext|>' };
    const { tokenizer } = load({ vocab, merges, tokenizerConfig, addedTokens: { '<|endoftext|>': 258 } }, 259);
    expect(tokenizer.spec).toMatchObject({ model: 'gpt2', eosId: 258, pre: { name: 'gpt-2', origin: 'file' } });
    expect(tokenizer.encode('abc ab')).toEqual([257, 32, 256]);
    const qwen = load({ vocab, merges, tokenizerConfig: { tokenizer_class: 'Qwen2Tokenizer' } }, 258);
    expect(qwen.tokenizer.spec.pre.name).toBe('qwen2');
  });

  it('need a class we know, or --pre', async () => {
    await refuses(() => load({ vocab, merges }, 258), 'unsupported-tokenizer', /tokenizer_class.*--pre NAME/);
    expect(load({ vocab, merges }, 258, 'mpt').tokenizer.spec.pre.name).toBe('mpt');
    await refuses(() => load({ vocab, merges: 'a b c' }, 258, 'mpt'), 'bad-tokenizer', /merges\.txt\[0\]/);
  });
});

describe('which file is read', () => {
  const folder = (...names: string[]) => {
    const asked: string[] = [];
    const json: Record<string, JsonObject> = {
      'tokenizer.json': scored(),
      'vocab.json': {},
      'added_tokens.json': { '<a>': 1 },
    };
    const has = (name: string) => {
      asked.push(name);
      return names.includes(name);
    };
    return {
      label: 'here',
      asked,
      bytes: async (name: string) => (has(name) ? new TextEncoder().encode('x') : undefined),
      json: async (name: string) => (has(name) ? (json[name] ?? {}) : undefined),
    };
  };

  it('goes from the best to the last', async () => {
    const both = await readTokenizerFiles(folder('tokenizer.json', 'tokenizer.model', 'added_tokens.json'), {});
    expect([both.tokenizer !== undefined, both.sentencePiece !== undefined, both.addedTokens]).toEqual([
      true,
      true,
      { '<a>': 1 },
    ]);
    const old = await readTokenizerFiles(folder('vocab.json', 'merges.txt', 'chat_template.jinja'), {});
    expect([old.vocab, old.merges, old.chatTemplate]).toEqual([{}, 'x', 'x']);
    for (const names of [[], ['vocab.json'], ['merges.txt'], ['added_tokens.json']]) {
      await refuses(readTokenizerFiles(folder(...names), {}), 'io', /here: no tokenizer.*tokenizer\.model/);
    }
  });
});
