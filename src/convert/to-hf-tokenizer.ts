/**
 * `tokenizer.*` metadata -> tokenizer_config.json, generation_config.json, and the vocabulary: byte-level BPE as tokenizer.json,
 * the way back of `tokenizer-json.ts` (token texts stay as they are, both spell bytes with the same characters); SentencePiece as
 * tokenizer.model, since GGUF keeps the scores of pieces and a tokenizer.json of that kind wants merges.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import type { GgufFile, GgufValue } from '../formats/gguf/types.ts';
import { type TokenizerSpec, TokenType, tokenizerSpecFromMetadata } from '../tokenizer/index.ts';
import { sentencePieceModel } from './to-hf-spm.ts';

export interface TokenizerFilesToWrite {
  /** By name: bytes, or what becomes JSON. */
  readonly files: ReadonlyMap<string, unknown>;
  /** Ids for config.json. */
  readonly ids: Readonly<Record<string, number>>;
}

export function tokenizerFiles(gguf: GgufFile, pre?: string): TokenizerFilesToWrite {
  const spec = specOf(gguf, pre);
  const ids: Record<string, number> = {};
  for (const [key, id] of [
    ['bos_token_id', spec.bosId],
    ['eos_token_id', spec.eosId],
    ['pad_token_id', spec.paddingId],
  ] as const) {
    if (id !== undefined) ids[key] = id;
  }
  // Every end of a turn ends a generation.
  const ends = [...new Set([spec.eosId, spec.eotId, spec.eomId].filter((id) => id !== undefined))];
  const generation = { ...ids, ...(ends.length > 1 ? { eos_token_id: ends } : {}) };
  const files = new Map<string, unknown>([
    ['tokenizer_config.json', tokenizerConfig(spec)],
    ['generation_config.json', generation],
  ]);
  if (spec.model === 'gpt2') files.set('tokenizer.json', tokenizerJson(spec));
  else files.set('tokenizer.model', sentencePieceModel(spec));
  return { files, ids };
}

function specOf(gguf: GgufFile, pre: string | undefined): TokenizerSpec {
  const plain = (value: GgufValue | undefined): unknown => {
    if (value === undefined) return undefined;
    if (value.type === 'string') return value.text;
    return value.type === 'array' ? value.values : value.value;
  };
  return tokenizerSpecFromMetadata((key) => plain(gguf.metadata.get(key)), {
    pre,
    architecture: gguf.findString('general.architecture'),
  });
}

function textOf(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new BitnetError('bad-tokenizer', 'a token that is not UTF-8 has no place in JSON', { where });
  }
}

function tokenText({ tokens }: TokenizerSpec, id: number): string {
  return textOf(tokens[id], `tokenizer.ggml.tokens[${id}]`);
}

function tokenizerConfig(spec: TokenizerSpec): unknown {
  const named: Record<string, string> = {};
  for (const [key, id] of [
    ['bos_token', spec.bosId],
    ['eos_token', spec.eosId],
    ['unk_token', spec.unknownId],
    ['pad_token', spec.paddingId],
  ] as const) {
    if (id !== undefined) named[key] = tokenText(spec, id);
  }
  return {
    tokenizer_class: spec.model === 'gpt2' ? 'PreTrainedTokenizerFast' : 'LlamaTokenizer',
    ...named,
    add_bos_token: spec.addBos,
    add_eos_token: spec.addEos,
    clean_up_tokenization_spaces: false,
    ...(spec.chatTemplate === undefined ? {} : { chat_template: spec.chatTemplate.source }),
  };
}

function tokenizerJson(spec: TokenizerSpec): unknown {
  const { preTokenizer, ignoreMerges } = preTokenizerJson(spec.pre.name);
  const vocab = new Map<string, number>();
  const added: unknown[] = [];
  const seen = new Map<string, number>();
  for (let id = 0; id < spec.tokens.length; id++) {
    const text = tokenText(spec, id);
    const type = spec.types[id];
    // Rows that no token has: whoever converts the folder fills them up again.
    if (type === TokenType.UNUSED && text === `[PAD${id}]`) continue;
    want(!seen.has(text), 'bad-tokenizer', 'two tokens of one text have no place in tokenizer.json', () => ({
      where: `tokenizer.ggml.tokens[${id}]`,
      got: `${show(text)}, as ${seen.get(text)}`,
    }));
    seen.set(text, id);
    if (type === TokenType.CONTROL || type === TokenType.USER_DEFINED || type === TokenType.UNKNOWN) {
      const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
      added.push({ id, content: text, ...flags, special: type !== TokenType.USER_DEFINED });
    } else vocab.set(text, id);
  }
  const { merges } = spec;
  const mergeAt = (i: number) => ('kind' in merges ? merges.bytes(i) : merges[i]);
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: preTokenizer,
    post_processor: postProcessor(spec),
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: ignoreMerges,
      vocab: Object.fromEntries(vocab),
      merges: Array.from({ length: merges.length }, (_, i) => textOf(mergeAt(i), `tokenizer.ggml.merges[${i}]`)),
    },
  };
}

function postProcessor(spec: TokenizerSpec): unknown {
  const byteLevel = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true };
  const before = spec.addBos && spec.bosId !== undefined ? [spec.bosId] : [];
  const after = spec.addEos && spec.eosId !== undefined ? [spec.eosId] : [];
  if (before.length + after.length === 0) return byteLevel;
  const special = (typeId: number) => (id: number) => ({ SpecialToken: { id: tokenText(spec, id), type_id: typeId } });
  const sequence = (name: 'A' | 'B', typeId: number) => [
    ...before.map(special(typeId)),
    { Sequence: { id: name, type_id: typeId } },
    ...after.map(special(typeId)),
  ];
  const tokens = [...before, ...after].map((id) => {
    const text = tokenText(spec, id);
    return [text, { id: text, ids: [id], tokens: [text] }];
  });
  const template = {
    type: 'TemplateProcessing',
    single: sequence('A', 0),
    pair: [...sequence('A', 0), ...sequence('B', 1)],
    special_tokens: Object.fromEntries(tokens),
  };
  return { type: 'Sequence', processors: [byteLevel, template] };
}

const WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|";
const REST = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const LLAMA3 = `${WORDS}[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|${REST}`;
const QWEN2 = `${WORDS}[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|${REST}`;

const split = (regex: string) => ({ type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false });
const byteLevel = (regex: boolean) => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: regex,
});
const punctuation = { type: 'Punctuation', behavior: 'Contiguous' };
const digits = (individual: boolean) => ({ type: 'Digits', individual_digits: individual });

/** Steps by the name of llama.cpp: what `preTokenizerName` of pre-tokenizer-json.ts recognises as that name. */
const steps: ReadonlyMap<string, readonly unknown[]> = new Map<string, readonly unknown[]>([
  ['llama-bpe', [split(LLAMA3), byteLevel(false)]],
  ['smaug-bpe', [split(LLAMA3), byteLevel(false)]],
  ['qwen2', [split(QWEN2), byteLevel(false)]],
  ['gpt-2', [byteLevel(true)]],
  ['smollm', [digits(true), byteLevel(true)]],
  ['falcon', [punctuation, byteLevel(true), digits(false), split('[0-9][0-9][0-9]')]],
  ['falcon3', [punctuation, byteLevel(true), digits(true)]],
]);

/** Other names of the same. */
const synonyms: Readonly<Record<string, string>> = {
  llama3: 'llama-bpe',
  'llama-v3': 'llama-bpe',
  starcoder: 'smollm',
  refact: 'smollm',
  falcon_e: 'falcon3',
};

/** The `pre_tokenizer` of a name, and the flag of the model that goes with it. */
export function preTokenizerJson(name: string): { preTokenizer: unknown; ignoreMerges: boolean } {
  const common = Object.hasOwn(synonyms, name) ? synonyms[name] : name;
  const list = steps.get(common);
  if (list === undefined) {
    throw new BitnetError('unsupported-tokenizer', 'this pre-tokenizer cannot be written into tokenizer.json', {
      where: 'tokenizer.ggml.pre',
      expected: [...steps.keys()].join(', '),
      got: show(name),
      hint: 'name another with --pre NAME',
    });
  }
  const preTokenizer = list.length === 1 ? list[0] : { type: 'Sequence', pretokenizers: list };
  return { preTokenizer, ignoreMerges: common === 'llama-bpe' };
}
