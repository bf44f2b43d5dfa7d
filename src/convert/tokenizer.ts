/**
 * The tokenizer of a checkpoint's folder -> `tokenizer.*` metadata. Of the files a folder may have, the first that fits:
 *
 *     tokenizer.json with byte-level BPE     Llama 3, Falcon, Qwen       -> "gpt2", ranked merges
 *     tokenizer.model                        1bitLLM, Llama 2, Gemma     -> "llama", scores as they were trained
 *     tokenizer.json with byte_fallback      the same, converted         -> "llama", scores made of ranks
 *     vocab.json and merges.txt              GPT-2's form of the first   -> "gpt2"
 * @module
 */

import { BitnetError } from '../errors.ts';
import { stringsValue, stringValue } from '../formats/gguf/writer.ts';
import type { JsonObject } from '../formats/safetensors/json.ts';
import { TokenType } from '../tokenizer/spec.ts';
import { bool, type Metadata, u32 } from './layout.ts';
import { complete, scoredJson } from './scored-json.ts';
import { readSentencePiece, type ScoredVocabulary } from './sentencepiece.ts';
import { chatTemplates, specialTokens, type TokenizerFiles } from './special-tokens.ts';
import { isByteLevelBpe, type RankedVocabulary, rankedVocabulary } from './tokenizer-json.ts';

export type { TokenizerFiles } from './special-tokens.ts';

export interface TokenizerMetadata {
  readonly metadata: Metadata;
  readonly notes: readonly string[];
}

/** How the files of a folder are read; undefined where there is none of that name. */
export interface FolderReader {
  readonly label: string;
  bytes(name: string): Promise<Uint8Array | undefined>;
  json(name: string): Promise<JsonObject | undefined>;
}

/** Reads what there is. `config` is config.json. */
export async function readTokenizerFiles(folder: FolderReader, config: JsonObject): Promise<TokenizerFiles> {
  const text = async (name: string) => {
    const bytes = await folder.bytes(name);
    return bytes === undefined ? undefined : new TextDecoder().decode(bytes);
  };
  const tokenizer = await folder.json('tokenizer.json');
  const files: TokenizerFiles = {
    tokenizer,
    tokenizerConfig: await folder.json('tokenizer_config.json'),
    config,
    generationConfig: await folder.json('generation_config.json'),
    chatTemplate: await text('chat_template.jinja'),
  };
  if (tokenizer !== undefined && isByteLevelBpe(tokenizer)) return files;
  const sentencePiece = await folder.bytes('tokenizer.model');
  const addedTokens = await folder.json('added_tokens.json');
  if (tokenizer !== undefined || sentencePiece !== undefined) return { ...files, sentencePiece, addedTokens };
  const vocab = await folder.json('vocab.json');
  const merges = await text('merges.txt');
  if (vocab !== undefined && merges !== undefined) return { ...files, addedTokens, vocab, merges };
  throw new BitnetError('io', 'no tokenizer', {
    where: folder.label,
    expected: 'tokenizer.json, tokenizer.model, or vocab.json with merges.txt',
  });
}

/** @param pre the pre-tokenizer's name, if the user knows better */
export function tokenizerMetadata(files: TokenizerFiles, vocabulary: number, pre?: string): TokenizerMetadata {
  const { tokenizer, sentencePiece } = files;
  const hasMerges = tokenizer === undefined ? files.vocab !== undefined : isByteLevelBpe(tokenizer);
  if (hasMerges) return withMerges(rankedVocabulary(files, vocabulary, pre), files, vocabulary);
  const own =
    sentencePiece === undefined ? scoredJson(tokenizer ?? {}) : readSentencePiece(sentencePiece, 'tokenizer.model');
  return withScores(complete(own, files, vocabulary), files, vocabulary);
}

function withMerges(own: RankedVocabulary, files: TokenizerFiles, size: number): TokenizerMetadata {
  const { texts, types, ids } = own;
  const special = specialTokens(files, ids, size, { ids: {}, addBos: false });
  return {
    metadata: [
      ['tokenizer.ggml.model', stringValue('gpt2')],
      ['tokenizer.ggml.pre', stringValue(own.pre)],
      ['tokenizer.ggml.tokens', stringsValue([...texts])],
      ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', values: types }],
      ['tokenizer.ggml.merges', stringsValue([...own.merges])],
      ...specialKeys(special, files),
    ],
    notes: [...own.notes, ...special.notes],
  };
}

function withScores(own: ScoredVocabulary, files: TokenizerFiles, size: number): TokenizerMetadata {
  const ids = new Map(own.texts.map((text, id) => [text, id]));
  const special = specialTokens(files, ids, size, {
    ids: { bos: own.bosId, eos: own.eosId, unknown: own.unknownId, padding: own.paddingId },
    addBos: true,
  });
  const types = own.types.slice();
  // Without its token_type a vocabulary would let text spell its special tokens.
  for (const key of ['bos', 'eos', 'eot']) {
    const id = special.ids.get(key);
    if (id !== undefined) types[id] = TokenType.CONTROL;
  }
  const said = files.tokenizerConfig?.add_prefix_space;
  const prefix = typeof said === 'boolean' ? said : own.addSpacePrefix;
  const metadata: Metadata = [
    ['tokenizer.ggml.model', stringValue('llama')],
    ['tokenizer.ggml.pre', stringValue('default')],
    ['tokenizer.ggml.tokens', stringsValue(own.texts)],
    ['tokenizer.ggml.scores', { type: 'array', of: 'f32', values: own.scores }],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', values: types }],
    ...specialKeys(special, files),
    ['tokenizer.ggml.add_space_prefix', bool(prefix)],
  ];
  if (own.removeExtraWhitespaces) metadata.push(['tokenizer.ggml.remove_extra_whitespaces', bool(true)]);
  return { metadata, notes: [...own.notes, ...special.notes] };
}

function specialKeys(special: ReturnType<typeof specialTokens>, files: TokenizerFiles): Metadata {
  const keys: Metadata = [];
  for (const [key, id] of special.ids) keys.push([`tokenizer.ggml.${key}_token_id`, u32(id)]);
  keys.push(['tokenizer.ggml.add_bos_token', bool(special.addBos)]);
  keys.push(['tokenizer.ggml.add_eos_token', bool(special.addEos)]);
  for (const [key, template] of chatTemplates(files)) keys.push([key, stringValue(template)]);
  return keys;
}
