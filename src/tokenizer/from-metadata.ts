/**
 * GGUF metadata -> TokenizerSpec.
 *
 * Knows the keys `tokenizer.*`, their defaults in llama.cpp, and what published files get wrong or leave out. It sees
 * values, not files: whoever reads the container passes a getter.
 * @module
 */

import { BitnetError, type ErrorCode, show } from '../errors.ts';
import { findEndTokens } from './end-tokens.ts';
import { preTokenizerNamed } from './pretokenize.ts';
import { recognisePreTokenizer, recogniseTemplate } from './recognise.ts';
import { type PreTokenizerChoice, type TokenBytes, type TokenizerSpec, TokenType } from './spec.ts';

/**
 * The value of a key as plain data, undefined if there is none: string, number, bigint, boolean, a typed array, or
 * `TokenBytes` for an array of strings.
 */
export type MetadataGetter = (key: string) => unknown;

export interface FromMetadataOptions {
  /** Pre-tokenizer to use whatever the file says; `default` is what bitnet.cpp does when a file names none. */
  readonly pre?: string | undefined;
  /** `general.architecture`, for messages. */
  readonly architecture?: string | undefined;
}

/** Ceiling for tokens and merges: the largest vocabulary in use has 262 thousand tokens, this leaves room for 16 times. */
const MAX_ENTRIES = 1 << 22;
/** Ceiling for one token: the longest in published vocabularies is a run of 256 spaces or so. */
const MAX_TOKEN_BYTES = 1 << 16;

export function tokenizerSpecFromMetadata(get: MetadataGetter, options: FromMetadataOptions = {}): TokenizerSpec {
  const read = new Metadata(get);
  const model = modelOf(read, options.architecture);
  const tokenList = read.strings('tokenizer.ggml.tokens') ?? read.missing('tokenizer.ggml.tokens', 'the vocabulary');
  const nTokens = tokenList.length;
  const tokens = tokensOf(tokenList);
  const scores = read.scores('tokenizer.ggml.scores', nTokens);
  const types = read.types('tokenizer.ggml.token_type', nTokens);
  const merges = model === 'gpt2' ? mergesOf(read) : [];
  const pre: PreTokenizerChoice =
    model === 'gpt2' ? preTokenizerOf(read, tokens, merges.length, options) : { name: 'default', origin: 'file' };

  // llama.cpp's defaults are the ids of Llama 2 and of Falcon (11). A "gpt2" vocabulary that is not Falcon's has a
  // word or a comma at 11, and ending at every comma helps nobody: there the default counts only for a control token.
  const [bos, eos, unknown] = model === 'llama' ? [1, 2, 0] : [11, 11, undefined];
  const fallback = (id: number | undefined) => {
    if (id === undefined || id >= nTokens) return undefined;
    return model === 'llama' || types[id] === TokenType.CONTROL ? id : undefined;
  };
  const bosId = read.id('tokenizer.ggml.bos_token_id', nTokens, fallback(bos));
  const eosId = read.id('tokenizer.ggml.eos_token_id', nTokens, fallback(eos));
  const ends = findEndTokens(tokens, types, {
    eosId,
    eotId: read.id('tokenizer.ggml.eot_token_id', nTokens, undefined),
    eomId: read.id('tokenizer.ggml.eom_token_id', nTokens, undefined),
  });
  const addBos = model === 'llama' || preTokenizerNamed(pre.name).addBos === true;
  return {
    model,
    pre,
    tokens,
    scores,
    types: ends.types,
    merges,
    bosId,
    eosId,
    eotId: ends.eotId,
    eomId: ends.eomId,
    unknownId: read.id('tokenizer.ggml.unknown_token_id', nTokens, fallback(unknown)),
    paddingId: read.id('tokenizer.ggml.padding_token_id', nTokens, undefined),
    addBos: read.adds('tokenizer.ggml.add_bos_token', addBos, bosId),
    addEos: read.adds('tokenizer.ggml.add_eos_token', false, eosId),
    // Only SPM has a meaning for it; llama.cpp reads and ignores it for BPE.
    addSpacePrefix: model === 'llama' && (read.bool('tokenizer.ggml.add_space_prefix') ?? true),
    removeExtraWhitespaces: model === 'llama' && (read.bool('tokenizer.ggml.remove_extra_whitespaces') ?? false),
    chatTemplate: chatTemplateOf(read),
  };
}

function modelOf(read: Metadata, architecture: string | undefined): 'llama' | 'gpt2' {
  const key = 'tokenizer.ggml.model';
  const model = read.string(key) ?? read.missing(key, '"llama" or "gpt2"');
  if (model === 'llama' || model === 'gpt2') return model;
  const isAbsent = model === 'no_vocab' || model === 'none';
  throw new BitnetError('unsupported-tokenizer', isAbsent ? 'the file has no vocabulary' : 'unsupported tokenizer', {
    where: key,
    expected: '"llama" (SentencePiece) or "gpt2" (byte-level BPE)',
    got: show(model),
    hint: architecture === undefined ? undefined : `architecture ${architecture}`,
  });
}

function tokensOf(list: TokenBytes): Uint8Array[] {
  const key = 'tokenizer.ggml.tokens';
  if (list.length === 0 || list.length > MAX_ENTRIES) {
    throw bad('bad-tokenizer', key, 'unusable vocabulary', `1 to ${MAX_ENTRIES} tokens`, `${list.length}`);
  }
  const tokens: Uint8Array[] = new Array(list.length);
  for (let id = 0; id < list.length; id++) {
    const token = list.bytes(id);
    if (token.length > MAX_TOKEN_BYTES) {
      throw bad(
        'bad-tokenizer',
        `${key}[${id}]`,
        'token too long',
        `at most ${MAX_TOKEN_BYTES} bytes`,
        `${token.length}`,
      );
    }
    tokens[id] = token;
  }
  return tokens;
}

function mergesOf(read: Metadata): TokenBytes {
  const key = 'tokenizer.ggml.merges';
  const merges = read.strings(key) ?? read.missing(key, 'the merges of a "gpt2" tokenizer');
  if (merges.length <= MAX_ENTRIES) return merges;
  throw bad('bad-tokenizer', key, 'too many merges', `at most ${MAX_ENTRIES}`, `${merges.length}`);
}

function preTokenizerOf(
  read: Metadata,
  tokens: readonly Uint8Array[],
  nMerges: number,
  { pre, architecture }: FromMetadataOptions,
): PreTokenizerChoice {
  if (pre !== undefined) {
    preTokenizerNamed(pre, '--pre');
    return { name: pre, origin: 'forced' };
  }
  const key = 'tokenizer.ggml.pre';
  const named = read.string(key);
  if (named !== undefined) {
    preTokenizerNamed(named, key);
    return { name: named, origin: 'file' };
  }
  const recognised = recognisePreTokenizer(tokens, nMerges);
  if (recognised !== undefined) return { name: recognised, origin: 'recognised' };
  throw new BitnetError('unsupported-tokenizer', 'the file does not say how its text is split before merging', {
    where: key,
    expected: 'the name of a pre-tokenizer, or a vocabulary we know',
    got: `none, and ${tokens.length} tokens with ${nMerges} merges${architecture ? ` (${architecture})` : ''}`,
    hint: 'name it with --pre NAME; --pre default splits as bitnet.cpp does, at a loss of quality',
  });
}

function chatTemplateOf(read: Metadata): TokenizerSpec['chatTemplate'] {
  const source = read.string('tokenizer.chat_template');
  if (source === undefined || source === '') return undefined;
  const real = recogniseTemplate(source);
  return real === undefined ? { source, origin: 'file' } : { source: real, origin: 'recognised' };
}

function bad(code: ErrorCode, where: string, what: string, expected: string, got: string): BitnetError {
  return new BitnetError(code, what, { where, expected, got });
}

/** Typed reading of the getter: a wrong type is an error, a missing key is undefined. */
class Metadata {
  readonly #get: MetadataGetter;

  constructor(get: MetadataGetter) {
    this.#get = get;
  }

  string(key: string): string | undefined {
    return this.#typed(key, 'a string', (value) => typeof value === 'string');
  }

  bool(key: string): boolean | undefined {
    return this.#typed(key, 'a bool', (value) => typeof value === 'boolean');
  }

  strings(key: string): TokenBytes | undefined {
    return this.#typed(key, 'an array of strings', isTokenBytes);
  }

  missing(key: string, expected: string): never {
    throw bad('bad-metadata', key, 'missing key', expected, 'none');
  }

  /** A token id. All ones (-1) is how some converters write "none". */
  id(key: string, nTokens: number, fallback: number | undefined): number | undefined {
    const value = this.#typed<number | bigint>(
      key,
      'an integer',
      (value) => typeof value === 'bigint' || Number.isSafeInteger(value),
    );
    if (value === undefined) return fallback;
    const id = Number(value);
    if (id === -1 || id === 0xffffffff) return undefined;
    if (id >= 0 && id < nTokens) return id;
    throw bad('bad-tokenizer', key, 'no such token', `an id of 0 to ${nTokens - 1}`, show(value));
  }

  /** A flag about adding a token, which must then exist; a mere default gives way. */
  adds(key: string, fallback: boolean, id: number | undefined): boolean {
    const asked = this.bool(key);
    if (asked === true && id === undefined) {
      throw bad('bad-tokenizer', key, 'a token to add that the file does not name', 'false, or its id', 'true');
    }
    return asked ?? (fallback && id !== undefined);
  }

  /** f32 per token; none means all zero. */
  scores(key: string, nTokens: number): Float32Array {
    const scores = this.#typed<Float32Array>(key, 'an array of f32', (value) => value instanceof Float32Array);
    if (scores === undefined) return new Float32Array(nTokens);
    this.#perToken(key, scores.length, nTokens);
    // Merging compares scores; NaN compares with nothing and would make the order depend on chance.
    const nan = scores.findIndex((score) => Number.isNaN(score));
    if (nan >= 0) throw bad('bad-tokenizer', `${key}[${nan}]`, 'bad score', 'a number', 'NaN');
    return scores;
  }

  /** i32 per token; none means all normal. */
  types(key: string, nTokens: number): Int32Array {
    const types = this.#typed<Int32Array | Uint32Array>(
      key,
      'an array of i32',
      (value) => value instanceof Int32Array || value instanceof Uint32Array,
    );
    if (types === undefined) return new Int32Array(nTokens).fill(TokenType.NORMAL);
    this.#perToken(key, types.length, nTokens);
    // 0 is "undefined" in llama.cpp's enumeration: such tokens exist and print nothing.
    const odd = types.findIndex((type) => !(type >= 0 && type <= TokenType.BYTE));
    if (odd >= 0) throw bad('bad-tokenizer', `${key}[${odd}]`, 'unknown token type', '0 to 6', `${types[odd]}`);
    return Int32Array.from(types);
  }

  #perToken(key: string, length: number, nTokens: number): void {
    if (length === nTokens) return;
    throw bad('bad-tokenizer', key, 'wrong length', `one for each of ${nTokens} tokens`, `${length}`);
  }

  #typed<T>(key: string, expected: string, accepts: (value: unknown) => boolean): T | undefined {
    const value = this.#get(key);
    if (value === undefined) return undefined;
    if (accepts(value)) return value as T;
    throw bad('bad-metadata', key, 'wrong type', expected, describeValue(value));
  }
}

function isTokenBytes(value: unknown): value is TokenBytes {
  const strings = value as TokenBytes | null;
  return typeof value === 'object' && strings?.kind === 'strings' && typeof strings.bytes === 'function';
}

function describeValue(value: unknown): string {
  if (typeof value === 'object' && value !== null) return isTokenBytes(value) ? 'an array of strings' : show(value);
  return `${typeof value} ${show(value)}`;
}
