/**
 * What the small files beside a vocabulary say: which tokens are special, which are added to a text, and how a
 * conversation is written. The same for every kind of tokenizer.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { isObject, type JsonObject } from '../formats/safetensors/json.ts';

/** A checkpoint's folder as far as its tokenizer goes; absent files are undefined. */
export interface TokenizerFiles {
  readonly tokenizer: JsonObject | undefined;
  readonly tokenizerConfig: JsonObject | undefined;
  readonly config: JsonObject;
  readonly generationConfig: JsonObject | undefined;
  /** chat_template.jinja, which newer versions of transformers write. */
  readonly chatTemplate: string | undefined;
  /** tokenizer.model. */
  readonly sentencePiece?: Uint8Array | undefined;
  /** added_tokens.json: text -> id. */
  readonly addedTokens?: JsonObject | undefined;
  /** vocab.json and merges.txt, of tokenizers older than tokenizer.json. */
  readonly vocab?: JsonObject | undefined;
  readonly merges?: string | undefined;
}

/** A token beside the vocabulary that training made. */
export interface AddedToken {
  readonly id: unknown;
  readonly text: string;
  readonly special: boolean;
  /** For messages. */
  readonly where: string;
}

const NAMES = [
  ['bos', 'bos'],
  ['eos', 'eos'],
  ['unk', 'unknown'],
  ['pad', 'padding'],
] as const;

/** From the best source there is: tokenizer.json, tokenizer_config.json, added_tokens.json. */
export function addedTokens({ tokenizer, tokenizerConfig, addedTokens: plain }: TokenizerFiles): AddedToken[] {
  if (tokenizer !== undefined) {
    const list: unknown[] = Array.isArray(tokenizer.added_tokens) ? tokenizer.added_tokens : [];
    return list.map((token) => added(token, isObject(token) ? token.id : undefined, 'tokenizer.json: added_tokens'));
  }
  const decoder = tokenizerConfig?.added_tokens_decoder;
  if (isObject(decoder)) {
    const where = 'tokenizer_config.json: added_tokens_decoder';
    return Object.entries(decoder).map(([id, token]) => added(token, Number(id), where));
  }
  // This file has no flags; what tokenizer_config.json names as special is special.
  const special = new Set(NAMES.map(([name]) => contentOf(tokenizerConfig?.[`${name}_token`])));
  for (const token of listOf(tokenizerConfig?.additional_special_tokens)) special.add(contentOf(token));
  return Object.entries(plain ?? {}).map(([text, id]) => ({
    id,
    text,
    special: special.has(text),
    where: 'added_tokens.json',
  }));
}

function added(token: unknown, id: unknown, where: string): AddedToken {
  want(isObject(token) && typeof token.content === 'string', 'bad-tokenizer', 'bad added token', () => ({
    where,
    got: show(token),
  }));
  return { id, text: token.content, special: token.special === true, where };
}

/** A token as its text, or as an object with it. */
function contentOf(token: unknown): string | undefined {
  const text = isObject(token) ? token.content : token;
  return typeof text === 'string' ? text : undefined;
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : value === undefined || value === null ? [] : [value];
}

export interface SpecialTokens {
  /** By GGUF's names: bos, eos, eot, unknown, padding. */
  readonly ids: ReadonlyMap<string, number>;
  readonly addBos: boolean;
  readonly addEos: boolean;
  readonly notes: readonly string[];
}

/**
 * tokenizer_config.json names tokens, the other files number them; `own` is what the vocabulary itself says, which
 * counts last. A second end token is the end of a turn.
 */
export function specialTokens(
  files: TokenizerFiles,
  ids: ReadonlyMap<string, number>,
  size: number,
  own: { readonly ids: Readonly<Record<string, number | undefined>>; readonly addBos: boolean },
): SpecialTokens {
  const found = new Map<string, number>();
  for (const [name, key] of NAMES) {
    const text = contentOf(files.tokenizerConfig?.[`${name}_token`]);
    const candidates = [
      text === undefined ? undefined : ids.get(text),
      ...[files.config, files.generationConfig].flatMap((json) => numbered(json, `${name}_token_id`, size)),
      own.ids[key],
    ].filter((id) => id !== undefined);
    if (candidates.length === 0) continue;
    found.set(key, candidates[0]);
    const stated = own.ids[key] === undefined ? candidates : candidates.slice(0, -1);
    const other = stated.find((id) => id !== candidates[0]);
    if (key === 'eos' && other !== undefined) found.set('eot', other);
  }
  const notes: string[] = [];
  const appended = appendedId(files, ids);
  const eos = found.get('eos');
  if (appended !== undefined && appended !== eos) {
    // An embedding model reads its answer off one last token, which need not be the one that ends its text.
    found.set('eos', appended);
    if (eos !== undefined && !found.has('eot')) found.set('eot', eos);
    notes.push(`the end token is ${appended}, which the tokenizer appends, not ${eos}`);
  }
  const placed = (which: 'bos' | 'eos') => {
    const id = found.get(which);
    return id !== undefined && ids.get(placedToken(files.tokenizer, which) ?? '') === id;
  };
  const said = (which: 'bos' | 'eos') => {
    const flag = files.tokenizerConfig?.[`add_${which}_token`];
    return typeof flag === 'boolean' ? flag : undefined;
  };
  const hasProcessor = isObject(files.tokenizer?.post_processor);
  return {
    ids: found,
    addBos: found.has('bos') && (said('bos') ?? (hasProcessor ? placed('bos') : own.addBos)),
    addEos: found.has('eos') && (appended !== undefined || (said('eos') ?? placed('eos'))),
    notes,
  };
}

/**
 * The token at the end of every text, where that is not simply "the end token, if add_eos_token". Qwen3's embedding
 * models append <|endoftext|> while their configuration calls <|im_end|> the end; microsoft/BitNet's converter writes
 * the former whatever the files say, and the only Qwen 3 that is ternary is an embedding model.
 */
function appendedId(files: TokenizerFiles, ids: ReadonlyMap<string, number>): number | undefined {
  if (files.config.model_type === 'qwen3') return ids.get('<|endoftext|>');
  const text = placedToken(files.tokenizer, 'eos');
  return text === undefined ? undefined : ids.get(text);
}

/** The special token that the post-processor's template puts first or last. */
function placedToken(tokenizer: JsonObject | undefined, which: 'bos' | 'eos'): string | undefined {
  for (const { type, single } of processors(tokenizer?.post_processor)) {
    if (type !== 'TemplateProcessing' || !Array.isArray(single)) continue;
    const part: unknown = which === 'bos' ? single[0] : single.at(-1);
    const token = isObject(part) ? part.SpecialToken : undefined;
    if (isObject(token) && typeof token.id === 'string') return token.id;
  }
  return undefined;
}

function processors(step: unknown): JsonObject[] {
  if (!isObject(step)) return [];
  return Array.isArray(step.processors) ? step.processors.flatMap(processors) : [step];
}

/** One id, or a list of several. */
function numbered(json: JsonObject | undefined, key: string, size: number): number[] {
  const list = listOf(json?.[key]);
  for (const id of list) {
    const good = Number.isSafeInteger(id) && Number(id) >= 0 && Number(id) < size;
    want(good, 'bad-tokenizer', 'no such token', () => ({ where: key, expected: `0 to ${size - 1}`, got: show(id) }));
  }
  return list as number[];
}

/** The default template and any others by name. */
export function chatTemplates({ tokenizerConfig, chatTemplate }: TokenizerFiles): [key: string, template: string][] {
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
