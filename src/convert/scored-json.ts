/**
 * SentencePiece's vocabulary as tokenizer.json has it: BPE over characters, `byte_fallback`, U+2581 for spaces, merges
 * where tokenizer.model has scores (Llama 2, Gemma, 1bitLLM).
 *
 * Merges come from scores and go back to them: transformers lists for each piece, best first, all the ways to cut it in
 * two. So the first merge that makes a piece gives its score, minus the merge's rank, and SentencePiece's rule (join
 * the two whose piece has the highest score) is again the rule of BPE (apply the merge of the lowest rank). The one
 * exception is a vocabulary whose lists of two pieces are interleaved; Gemma's runs of spaces are, and these are
 * user-defined tokens, which are cut out before anything is merged.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { isObject, type JsonObject } from '../formats/safetensors/json.ts';
import { TokenType } from '../tokenizer/spec.ts';
import type { ScoredVocabulary } from './sentencepiece.ts';
import { type AddedToken, addedTokens, type TokenizerFiles } from './special-tokens.ts';
import { mergePairs, TOKENIZER_JSON, wantPlainModel } from './tokenizer-json.ts';

const LOW_LINE = '\u2581';
/** Of tokens that come from no merge and no training: llama.cpp's converters. */
const NO_SCORE = -1000;

/** Reads tokenizer.json; refuses what is not of this kind, by name. */
export function scoredJson(tokenizer: JsonObject): ScoredVocabulary {
  const model = isObject(tokenizer.model) ? tokenizer.model : {};
  want(
    model.type === 'BPE' && model.byte_fallback === true,
    'unsupported-tokenizer',
    'not a tokenizer we read',
    () => ({
      where: `${TOKENIZER_JSON}: model`,
      expected: 'BPE, byte-level or with byte_fallback',
      got: model.type === 'BPE' ? 'BPE with neither' : show(model.type),
      hint: model.type === 'Unigram' ? 'its scores need another search than merging' : undefined,
    }),
  );
  wantPlainModel(model);
  const { vocab } = model;
  want(isObject(vocab), 'bad-tokenizer', 'no vocabulary', () => ({ where: `${TOKENIZER_JSON}: model.vocab` }));
  const texts = byId(vocab);
  const types = new Int32Array(texts.length).fill(TokenType.NORMAL);
  const scores = new Float32Array(texts.length);
  const pairs = mergePairs(model.merges);
  const idOf = (text: string) => (Object.hasOwn(vocab, text) ? Number(vocab[text]) : undefined);
  for (let rank = pairs.length - 1; rank >= 0; rank--) {
    const made = idOf(pairs[rank].join(''));
    want(made !== undefined, 'bad-tokenizer', 'a merge makes no token', () => ({
      where: `${TOKENIZER_JSON}: model.merges[${rank}]`,
      got: show(pairs[rank]),
    }));
    // Rank 0 is the best; -0 would be written as other bytes than 0.
    scores[made] = 0 - rank;
  }
  const unknownId = typeof model.unk_token === 'string' ? idOf(model.unk_token) : undefined;
  for (const [id, text] of texts.entries()) if (/^<0x[0-9A-F]{2}>$/.test(text)) types[id] = TokenType.BYTE;
  if (unknownId !== undefined) types[unknownId] = TokenType.UNKNOWN;
  return {
    texts,
    scores,
    types,
    unknownId,
    bosId: undefined,
    eosId: undefined,
    paddingId: undefined,
    addSpacePrefix: spacePrefix(tokenizer),
    removeExtraWhitespaces: false,
    notes: [],
  };
}

/** Texts in order of their ids, which must be 0, 1, 2 ... without a hole: `complete` fills only the end. */
function byId(vocab: JsonObject): string[] {
  const entries = Object.entries(vocab);
  const texts: string[] = new Array(entries.length);
  for (const [text, id] of entries) {
    const good = Number.isSafeInteger(id) && Number(id) >= 0 && Number(id) < entries.length;
    want(good && texts[Number(id)] === undefined, 'bad-tokenizer', 'bad token id', () => ({
      where: `${TOKENIZER_JSON}: model.vocab: ${show(text)}`,
      expected: `an id of its own, below ${entries.length}`,
      got: show(id),
    }));
    texts[Number(id)] = text;
  }
  return texts;
}

/** Whether a text begins with a space that it did not have. Refuses every other treatment of text. */
function spacePrefix({ normalizer, pre_tokenizer }: JsonObject): boolean {
  const steps = [...flat(normalizer, 'normalizers'), ...flat(pre_tokenizer, 'pretokenizers')];
  let prefix = false;
  let replaced = false;
  for (const step of steps) {
    const pattern = isObject(step.pattern) ? step.pattern.String : undefined;
    if (step.type === 'Prepend' && step.prepend === LOW_LINE) prefix = true;
    else if (step.type === 'Replace' && pattern === ' ' && step.content === LOW_LINE) replaced = true;
    else if (step.type === 'Metaspace' && (step.replacement ?? LOW_LINE) === LOW_LINE) {
      replaced = true;
      prefix = step.prepend_scheme === undefined ? step.add_prefix_space !== false : step.prepend_scheme !== 'never';
    }
    // Gemma 3 cuts at spaces when none is left: that does nothing.
    else if (!(step.type === 'Split' && pattern === ' ' && replaced)) {
      throw new BitnetError('unsupported-tokenizer', 'text is treated in a way that cannot be carried over', {
        where: `${TOKENIZER_JSON}: normalizer, pre_tokenizer`,
        expected: 'spaces replaced by U+2581',
        got: show(step.type),
      });
    }
  }
  want(replaced, 'unsupported-tokenizer', 'spaces stay as they are', () => ({
    where: `${TOKENIZER_JSON}: normalizer`,
    expected: 'spaces replaced by U+2581',
  }));
  return prefix;
}

function flat(step: unknown, key: string): JsonObject[] {
  if (!isObject(step)) return [];
  const inner = step[key];
  return step.type === 'Sequence' && Array.isArray(inner) ? inner.flatMap((part: unknown) => flat(part, key)) : [step];
}

/** With the tokens that were added, and one for every id below `size`. */
export function complete(own: ScoredVocabulary, files: TokenizerFiles, size: number): ScoredVocabulary {
  want(own.texts.length <= size, 'bad-tokenizer', 'more tokens than the model has', () => ({
    where: 'config.json: vocab_size',
    expected: `at least ${own.texts.length}`,
    got: `${size}`,
  }));
  const texts: (string | undefined)[] = [...own.texts];
  texts.length = size;
  const types = new Int32Array(size).fill(TokenType.UNUSED);
  const scores = new Float32Array(size).fill(NO_SCORE);
  types.set(own.types);
  scores.set(own.scores);
  for (const token of addedTokens(files)) {
    const id = placeOf(token, texts, size);
    texts[id] = token.text;
    const known = types[id];
    if (known === TokenType.UNKNOWN || known === TokenType.BYTE || known === TokenType.CONTROL) continue;
    types[id] = token.special ? TokenType.CONTROL : TokenType.USER_DEFINED;
  }
  let nPadding = 0;
  for (let id = 0; id < size; id++) {
    const text = texts[id] ?? `[PAD${id}]`;
    if (texts[id] === undefined) nPadding++;
    // Reserved by Gemma for whoever comes later; microsoft/BitNet's converter marks them so.
    if (/^<unused\d+>$/.test(text)) types[id] = TokenType.UNUSED;
    // User-defined tokens are found in the text as it was written, before its spaces are replaced.
    texts[id] = types[id] === TokenType.USER_DEFINED ? text.replaceAll(LOW_LINE, ' ') : text;
  }
  const notes = nPadding > 0 ? [...own.notes, `${nPadding} ids without a token became [PADi]`] : own.notes;
  return { ...own, texts: texts as string[], types, scores, notes };
}

function placeOf({ id, text, where }: AddedToken, texts: readonly (string | undefined)[], size: number): number {
  const fits = Number.isSafeInteger(id) && Number(id) >= 0 && Number(id) < size;
  const known = fits ? texts[Number(id)] : undefined;
  want(fits && (known === undefined || known === text), 'bad-tokenizer', 'bad token id', () => ({
    where: `${where}: ${show(text)}`,
    expected: `an id of its own, below vocab_size ${size}`,
    got: known === undefined ? show(id) : `${show(id)}, which is ${show(known)}`,
  }));
  return Number(id);
}
