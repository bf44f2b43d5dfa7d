/**
 * Byte-level BPE out of tokenizer.json, or out of the vocab.json and merges.txt that came before it.
 *
 * Token texts stay as they are: Hugging Face and GGUF spell bytes with the same printable characters.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { isObject, type JsonObject } from '../formats/safetensors/json.ts';
import { preTokenizerNamed } from '../tokenizer/pretokenize.ts';
import { TokenType } from '../tokenizer/spec.ts';
import { isByteLevel, preTokenizerName } from './pre-tokenizer-json.ts';
import { type AddedToken, addedTokens, type TokenizerFiles } from './special-tokens.ts';

/** A vocabulary with ranked merges. */
export interface RankedVocabulary {
  readonly texts: readonly string[];
  /** Values of `TokenType`. */
  readonly types: Int32Array;
  /** "left right" in rank order. */
  readonly merges: readonly string[];
  /** Name for `tokenizer.ggml.pre`. */
  readonly pre: string;
  readonly ids: ReadonlyMap<string, number>;
  readonly notes: readonly string[];
}

export const TOKENIZER_JSON = 'tokenizer.json';

/** Whether tokenizer.json has byte-level BPE in it, which GGUF calls "gpt2". */
export function isByteLevelBpe(tokenizer: JsonObject): boolean {
  const model = isObject(tokenizer.model) ? tokenizer.model : {};
  return model.type === 'BPE' && model.byte_fallback !== true && isByteLevel(tokenizer.pre_tokenizer);
}

/** @param pre the pre-tokenizer's name, if the user knows better */
export function rankedVocabulary(files: TokenizerFiles, size: number, pre?: string): RankedVocabulary {
  if (pre !== undefined) preTokenizerNamed(pre, '--pre');
  const { tokenizer } = files;
  const model = isObject(tokenizer?.model) ? tokenizer.model : undefined;
  if (model !== undefined) wantPlainModel(model);
  const vocab = model === undefined ? files.vocab : model.vocab;
  const where = model === undefined ? 'vocab.json' : `${TOKENIZER_JSON}: model.vocab`;
  want(isObject(vocab), 'bad-tokenizer', 'no vocabulary', () => ({ where }));
  const merges = model === undefined ? linesOf(files.merges ?? '') : model.merges;
  const mergesFile = model === undefined ? 'merges.txt' : `${TOKENIZER_JSON}: model.merges`;
  const { texts, types, ids, nPadding } = arrange(vocab, where, addedTokens(files), size);
  const notes: string[] = [];
  if (nPadding > 0) notes.push(`${nPadding} ids without a token became [PADi]`);
  if (isObject(tokenizer?.normalizer)) {
    notes.push(`the normalizer ${show(tokenizer.normalizer.type)} cannot be carried over`);
  }
  const name = pre ?? (tokenizer === undefined ? classPre(files) : preOf(tokenizer, model));
  return { texts, types, merges: mergesOf(merges, mergesFile), pre: name, ids, notes };
}

function preOf(tokenizer: JsonObject, model: JsonObject | undefined): string {
  const ignoreMerges = typeof model?.ignore_merges === 'boolean' ? model.ignore_merges : undefined;
  return preTokenizerName(tokenizer.pre_tokenizer, ignoreMerges);
}

/** vocab.json says nothing about splitting: the class in transformers that read it did. */
const CLASSES: Readonly<Record<string, string>> = { GPT2Tokenizer: 'gpt-2', Qwen2Tokenizer: 'qwen2' };

function classPre({ tokenizerConfig }: TokenizerFiles): string {
  const name = tokenizerConfig?.tokenizer_class;
  const known = typeof name === 'string' ? name.replace(/Fast$/, '') : '';
  if (Object.hasOwn(CLASSES, known)) return CLASSES[known];
  throw new BitnetError('unsupported-tokenizer', 'nothing says how text is split before merging', {
    where: 'tokenizer_config.json: tokenizer_class',
    expected: Object.keys(CLASSES).join(' or '),
    got: show(name),
    hint: 'name it with --pre NAME',
  });
}

/** Options of the model that would change what merges do. */
export function wantPlainModel(model: JsonObject): void {
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix', 'dropout']) {
    const value = model[key] ?? '';
    want(value === '' || value === 0, 'unsupported-tokenizer', 'an option of BPE that cannot be carried over', () => ({
      where: `${TOKENIZER_JSON}: model.${key}`,
      got: show(value),
    }));
  }
}

export interface Arranged {
  readonly texts: string[];
  readonly types: Int32Array;
  readonly ids: ReadonlyMap<string, number>;
  readonly nPadding: number;
}

/** Tokens by id, added ones among them; ids that nobody has are filled up. */
export function arrange(vocab: JsonObject, where: string, added: readonly AddedToken[], size: number): Arranged {
  const texts: (string | undefined)[] = new Array(size).fill(undefined);
  const types = new Int32Array(size).fill(TokenType.NORMAL);
  const ids = new Map<string, number>();
  const put = (text: string, id: unknown, file: string): number => {
    const known = Number.isSafeInteger(id) ? texts[Number(id)] : undefined;
    const fits = Number.isSafeInteger(id) && Number(id) >= 0 && Number(id) < size;
    want(fits && (known === undefined || known === text), 'bad-tokenizer', 'bad token id', () => ({
      where: `${file}: ${show(text)}`,
      expected: `an id of its own, below vocab_size ${size}`,
      got: known === undefined ? show(id) : `${show(id)}, which is ${show(known)}`,
    }));
    texts[Number(id)] = text;
    ids.set(text, Number(id));
    return Number(id);
  };
  for (const [text, id] of Object.entries(vocab)) put(text, id, where);
  for (const { text, id, special, where: file } of added) {
    types[put(text, id, file)] = special ? TokenType.CONTROL : TokenType.USER_DEFINED;
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

/** merges.txt begins with a line that names its version. */
function linesOf(text: string): string[] {
  const lines = text.split(/\r?\n/).filter((line) => line !== '');
  return lines[0]?.startsWith('#version') ? lines.slice(1) : lines;
}

/** "left right" each; newer files have them as pairs. */
function mergesOf(merges: unknown, where: string): string[] {
  return mergePairs(merges, where).map(([left, right], i) => {
    want(!left.includes(' ') && !right.includes(' '), 'bad-tokenizer', 'bad merge', () => ({
      where: `${where}[${i}]`,
      expected: 'parts without a space',
      got: show(`${left} ${right}`),
    }));
    return `${left} ${right}`;
  });
}

export function mergePairs(
  merges: unknown,
  where = `${TOKENIZER_JSON}: model.merges`,
): [left: string, right: string][] {
  want(Array.isArray(merges), 'bad-tokenizer', 'no merges', () => ({ where }));
  return merges.map((merge: unknown, i) => {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge;
    const good =
      Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === 'string' && part !== '');
    want(good, 'bad-tokenizer', 'bad merge', () => ({
      where: `${where}[${i}]`,
      expected: '"left right" or ["left", "right"]',
      got: show(merge),
    }));
    return pair as [string, string];
  });
}
