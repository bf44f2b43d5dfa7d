/**
 * tokenizer.json and the files beside it -> `tokenizer.*` metadata. Byte-level BPE only, which all models converted here
 * have but 1bitLLM's, whose SentencePiece vocabulary has no reader yet.
 *
 * Token texts stay as they are: tokenizer.json and GGUF spell bytes with the same printable characters.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { stringsValue, stringValue } from '../formats/gguf/writer.ts';
import { isObject, type JsonObject } from '../formats/safetensors/json.ts';
import { preTokenizerNamed } from '../tokenizer/pretokenize.ts';
import { TokenType } from '../tokenizer/spec.ts';
import { bool, type Metadata, u32 } from './layout.ts';
import { isByteLevel, preTokenizerName } from './pre-tokenizer-json.ts';

/** What a checkpoint's folder says about its tokenizer; absent files are undefined. */
export interface TokenizerFiles {
  readonly tokenizer: JsonObject;
  readonly tokenizerConfig: JsonObject | undefined;
  readonly config: JsonObject;
  readonly generationConfig: JsonObject | undefined;
  /** chat_template.jinja, which newer versions of transformers write. */
  readonly chatTemplate: string | undefined;
}

export interface TokenizerMetadata {
  readonly metadata: Metadata;
  readonly notes: readonly string[];
}

const FILE = 'tokenizer.json';

/** @param pre the pre-tokenizer's name, if the user knows better */
export function tokenizerMetadata(files: TokenizerFiles, vocabulary: number, pre?: string): TokenizerMetadata {
  const model = bpeModel(files.tokenizer);
  if (pre !== undefined) preTokenizerNamed(pre, '--pre');
  const ignoreMerges = typeof model.ignore_merges === 'boolean' ? model.ignore_merges : undefined;
  const { texts, types, ids, nPadding } = vocabularyOf(model, files.tokenizer.added_tokens, vocabulary);
  const metadata: Metadata = [
    ['tokenizer.ggml.model', stringValue('gpt2')],
    ['tokenizer.ggml.pre', stringValue(pre ?? preTokenizerName(files.tokenizer.pre_tokenizer, ignoreMerges))],
    ['tokenizer.ggml.tokens', stringsValue(texts)],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', values: types }],
    ['tokenizer.ggml.merges', stringsValue(mergesOf(model))],
  ];
  const special = specialIds(files, ids, vocabulary);
  for (const [key, id] of special) metadata.push([`tokenizer.ggml.${key}_token_id`, u32(id)]);
  const text = (id: number | undefined) => (id === undefined ? undefined : texts[id]);
  for (const which of ['bos', 'eos'] as const) {
    const key = `add_${which}_token`;
    metadata.push([`tokenizer.ggml.${key}`, bool(adds(files, key, which, text(special.get(which))))]);
  }
  for (const [key, template] of templates(files)) metadata.push([key, stringValue(template)]);
  const notes: string[] = [];
  if (nPadding > 0) notes.push(`${nPadding} ids without a token became [PADi]`);
  const { normalizer } = files.tokenizer;
  if (isObject(normalizer)) notes.push(`the normalizer ${show(normalizer.type)} cannot be carried over`);
  return { metadata, notes };
}

function bpeModel(tokenizer: JsonObject): JsonObject {
  const model = isObject(tokenizer.model) ? tokenizer.model : {};
  const bpe = model.type === 'BPE' && model.byte_fallback !== true && isByteLevel(tokenizer.pre_tokenizer);
  want(bpe, 'unsupported-tokenizer', 'this kind of tokenizer cannot be converted yet', () => ({
    where: `${FILE}: model`,
    expected: 'byte-level BPE',
    got: model.type === 'BPE' ? 'BPE in the manner of SentencePiece' : show(model.type),
  }));
  return model;
}

interface Vocabulary {
  readonly texts: string[];
  readonly types: Int32Array;
  readonly ids: ReadonlyMap<string, number>;
  readonly nPadding: number;
}

/** Tokens by id, added ones among them; ids that nobody has are filled up. */
function vocabularyOf(model: JsonObject, added: unknown, size: number): Vocabulary {
  want(isObject(model.vocab), 'bad-tokenizer', 'no vocabulary', () => ({ where: `${FILE}: model.vocab` }));
  const texts: (string | undefined)[] = new Array(size).fill(undefined);
  const types = new Int32Array(size).fill(TokenType.NORMAL);
  const ids = new Map<string, number>();
  const put = (text: string, id: unknown): number => {
    const known = Number.isSafeInteger(id) ? texts[Number(id)] : undefined;
    const fits = Number.isSafeInteger(id) && Number(id) >= 0 && Number(id) < size;
    want(fits && (known === undefined || known === text), 'bad-tokenizer', 'bad token id', () => ({
      where: `${FILE}: ${show(text)}`,
      expected: `an id of its own, below vocab_size ${size}`,
      got: known === undefined ? show(id) : `${show(id)}, which is ${show(known)}`,
    }));
    texts[Number(id)] = text;
    ids.set(text, Number(id));
    return Number(id);
  };
  for (const [text, id] of Object.entries(model.vocab)) put(text, id);
  for (const token of Array.isArray(added) ? added : []) {
    want(isObject(token) && typeof token.content === 'string', 'bad-tokenizer', 'bad added token', () => ({
      where: `${FILE}: added_tokens`,
      got: show(token),
    }));
    types[put(token.content, token.id)] = token.special === true ? TokenType.CONTROL : TokenType.USER_DEFINED;
  }
  let nPadding = 0;
  for (let id = 0; id < size; id++) {
    if (texts[id] !== undefined) continue;
    texts[id] = `[PAD${id}]`;
    types[id] = TokenType.UNUSED;
    nPadding++;
  }
  return { texts: texts as string[], types, ids, nPadding };
}

/** "left right" each; newer files have them as pairs. */
function mergesOf({ merges }: JsonObject): string[] {
  want(Array.isArray(merges), 'bad-tokenizer', 'no merges', () => ({ where: `${FILE}: model.merges` }));
  return merges.map((merge: unknown, i) => {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge;
    const good =
      Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === 'string' && part !== '');
    want(good && !pair.join('').includes(' '), 'bad-tokenizer', 'bad merge', () => ({
      where: `${FILE}: model.merges[${i}]`,
      expected: '"left right" or ["left", "right"]',
      got: show(merge),
    }));
    return pair.join(' ');
  });
}

/** tokenizer_config.json names tokens, the other files number them. A second end token is the end of a turn. */
function specialIds(files: TokenizerFiles, ids: ReadonlyMap<string, number>, size: number): Map<string, number> {
  const found = new Map<string, number>();
  for (const [name, key] of [
    ['bos', 'bos'],
    ['eos', 'eos'],
    ['unk', 'unknown'],
    ['pad', 'padding'],
  ] as const) {
    const candidates = [
      named(files.tokenizerConfig?.[`${name}_token`], ids),
      ...[files.config, files.generationConfig].flatMap((json) => numbered(json, `${name}_token_id`, size)),
    ].filter((id) => id !== undefined);
    if (candidates.length === 0) continue;
    found.set(key, candidates[0]);
    const other = candidates.find((id) => id !== candidates[0]);
    if (key === 'eos' && other !== undefined) found.set('eot', other);
  }
  return found;
}

/** A token as its text, or as an object with it. */
function named(token: unknown, ids: ReadonlyMap<string, number>): number | undefined {
  const text = isObject(token) ? token.content : token;
  return typeof text === 'string' ? ids.get(text) : undefined;
}

/** One id, or a list of several. */
function numbered(json: JsonObject | undefined, key: string, size: number): number[] {
  const value = json?.[key];
  const list: unknown[] = value === undefined || value === null ? [] : Array.isArray(value) ? value : [value];
  for (const id of list) {
    const good = Number.isSafeInteger(id) && Number(id) >= 0 && Number(id) < size;
    want(good, 'bad-tokenizer', 'no such token', () => ({ where: key, expected: `0 to ${size - 1}`, got: show(id) }));
  }
  return list as number[];
}

/** Said outright, or done by the template of the post-processor. */
function adds(
  { tokenizerConfig, tokenizer }: TokenizerFiles,
  key: string,
  which: 'bos' | 'eos',
  text: string | undefined,
): boolean {
  if (text === undefined) return false;
  const said = tokenizerConfig?.[key];
  if (typeof said === 'boolean') return said;
  return processors(tokenizer.post_processor).some(({ type, single }) => {
    if (type !== 'TemplateProcessing' || !Array.isArray(single)) return false;
    const part: unknown = which === 'bos' ? single[0] : single.at(-1);
    const token = isObject(part) ? part.SpecialToken : undefined;
    return isObject(token) && token.id === text;
  });
}

function processors(step: unknown): JsonObject[] {
  if (!isObject(step)) return [];
  return Array.isArray(step.processors) ? step.processors.flatMap(processors) : [step];
}

/** The default template and any others by name. */
function templates({ tokenizerConfig, chatTemplate }: TokenizerFiles): [key: string, template: string][] {
  const KEY = 'tokenizer.chat_template';
  if (chatTemplate !== undefined) return [[KEY, chatTemplate]];
  const given = tokenizerConfig?.chat_template ?? undefined;
  if (given === undefined) return [];
  if (typeof given === 'string') return [[KEY, given]];
  const list = Array.isArray(given) ? given : [{}];
  return list.map((entry: unknown) => {
    const { name, template } = isObject(entry) ? entry : {};
    if (typeof name === 'string' && typeof template === 'string') {
      return [name === 'default' ? KEY : `${KEY}.${name}`, template];
    }
    throw new BitnetError('bad-template', 'bad chat template', {
      where: 'tokenizer_config.json: chat_template',
      expected: 'a string, or a list of {name, template}',
      got: show(entry),
    });
  });
}
