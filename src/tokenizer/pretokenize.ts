/**
 * Pre-tokenizers: how text is cut into pieces that merges never cross. Byte-level BPE only.
 *
 * A pre-tokenizer is a list of regular expressions. Each is applied to all pieces the ones before it left; its
 * matches and the gaps between them become the new pieces. The expressions are those of llama.cpp (src/llama-vocab.cpp
 * of bitnet.cpp's fork); the names are the values of `tokenizer.ggml.pre`.
 *
 * The same text `I'm !! (foo`, by name:
 *
 *     llama-bpe   I 'm  !!  ( foo         letters may take one character of punctuation before them
 *     qwen2       the same, but every digit alone
 *     gpt-2       the same here; contractions only in lower case, newlines not grouped
 *     default     I ' m _ !! _ ( foo      (_ is a space) every run of punctuation is cut out first
 *     falcon      as default, and back-ticks count as punctuation
 * @module
 */

import { BitnetError } from '../errors.ts';
import { type CharClasses, charClasses } from './unicode.ts';

/** What follows from the name of a pre-tokenizer. */
export interface PreTokenizer {
  /** Regex sources, with the classes of `CharClasses` filled in. */
  readonly expressions: (classes: CharClasses) => readonly string[];
  /** A piece that is itself a token becomes that token, whatever the merges would have made of it. */
  readonly ignoreMerges?: true;
  /** The default of `tokenizer.ggml.add_bos_token`. */
  readonly addBos?: true;
}

const GPT2 = ({ letter: L, number: N, space: S }: CharClasses) =>
  `'s|'t|'re|'ve|'m|'ll|'d| ?[${L}]+| ?[${N}]+| ?[^${S}${L}${N}]+|[${S}]+(?![^${S}])`;

/** The one difference between Llama 3 and Qwen 2: how many digits go together. */
const llama3Like =
  (digits: string) =>
  ({ letter: L, number: N, space: S }: CharClasses) =>
    "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|" +
    `[^\\r\\n${L}${N}]?[${L}]+|[${N}]${digits}| ?[^${S}${L}${N}]+[\\r\\n]*|` +
    `[${S}]*[\\r\\n]+|[${S}]+(?![^${S}])|[${S}]+`;

const llama3 = llama3Like('{1,3}');
const qwen2 = llama3Like('');

const LLAMA3_SPLIT: PreTokenizer = { expressions: (c) => [llama3(c)] };
const LLAMA3: PreTokenizer = { ...LLAMA3_SPLIT, ignoreMerges: true, addBos: true };
const GPT2_SPLIT: PreTokenizer = { expressions: (c) => [GPT2(c)] };
const QWEN2: PreTokenizer = { expressions: (c) => [qwen2(c)] };
const DIGITS_THEN_GPT2: PreTokenizer = { expressions: (c) => [`[${c.number}]`, GPT2(c)] };
/**
 * The one name that two programs read differently. Mainline llama.cpp gives falcon3 the expression of Llama 3, with
 * ignore_merges and a begin token; bitnet.cpp's fork has the list below, for Falcon3 and for Falcon-E, which TII added to
 * it (microsoft/BitNet#268). Ours is the fork's: its converter writes these names, and its steps are those of falcon-7b's
 * tokenizer.json, but with digits alone. The tokenizer.json of Falcon3 would settle it: `bitnet convert`
 * goes by that file where there is one, and `--pre llama-bpe` gives mainline's reading.
 */
const FALCON3: PreTokenizer = { expressions: (c) => [`[${c.punctuation}$+<=>^~|\`]+`, GPT2(c), '[0-9]'] };

/** Every name we know. */
export const preTokenizers: Readonly<Record<string, PreTokenizer>> = {
  'llama-bpe': LLAMA3,
  llama3: LLAMA3,
  'llama-v3': LLAMA3,
  pixtral: LLAMA3,
  lfm2: LLAMA3,
  dbrx: LLAMA3_SPLIT,
  'smaug-bpe': LLAMA3_SPLIT,
  'chatglm-bpe': LLAMA3_SPLIT,
  glm4: LLAMA3_SPLIT,
  'gpt-2': GPT2_SPLIT,
  'phi-2': GPT2_SPLIT,
  'jina-es': GPT2_SPLIT,
  'jina-de': GPT2_SPLIT,
  'jina-v1-en': GPT2_SPLIT,
  'jina-v2-es': GPT2_SPLIT,
  'jina-v2-de': GPT2_SPLIT,
  'jina-v2-code': GPT2_SPLIT,
  'roberta-bpe': GPT2_SPLIT,
  gigachat: GPT2_SPLIT,
  mellum: GPT2_SPLIT,
  'a.x-4.0': GPT2_SPLIT,
  mpt: GPT2_SPLIT,
  olmo: GPT2_SPLIT,
  jais: GPT2_SPLIT,
  falcon: { expressions: (c) => [`[${c.punctuation}$+<=>^~|\`]+`, GPT2(c), '[0-9][0-9][0-9]'] },
  falcon3: FALCON3,
  falcon_e: FALCON3,
  qwen2: QWEN2,
  'deepseek-r1-qwen': QWEN2,
  megrez: QWEN2,
  stablelm2: QWEN2,
  starcoder: DIGITS_THEN_GPT2,
  refact: DIGITS_THEN_GPT2,
  'command-r': DIGITS_THEN_GPT2,
  smollm: DIGITS_THEN_GPT2,
  codeshell: DIGITS_THEN_GPT2,
  exaone: DIGITS_THEN_GPT2,
  'deepseek-coder': {
    expressions: ({ letter: L, number: N, punctuation: P, space: S }) => [
      '[\\r\\n]',
      `[${S}]?[${L}]+`,
      `[${S}]?[${P}]+`,
      // [一-龥ࠀ-一가-퟿] without its spaces: llama.cpp turns those beyond ASCII into U+000B first (unicode.cpp).
      '[\\u0800-\\u167f\\u1681-\\u1fff\\u200b-\\u2027\\u202a-\\u202e\\u2030-\\u205e\\u2060-\\u2fff\\u3001-\\u9fa5\\uac00-\\ud7ff]+',
      `[${N}]`,
    ],
  },
  // What bitnet.cpp falls back to, with a warning about quality, when a file names none.
  default: {
    expressions: (c) => [`[${c.punctuation}$+<=>^~|]+`, GPT2(c), `[${c.number}]+`, '[0-9][0-9][0-9]'],
  },
};

/** The rules behind a name, or a refusal that lists what there is. */
export function preTokenizerNamed(name: string, where = 'tokenizer.ggml.pre'): PreTokenizer {
  if (Object.hasOwn(preTokenizers, name)) return preTokenizers[name];
  throw new BitnetError('unsupported-tokenizer', 'unknown pre-tokenizer', {
    where,
    expected: `one of ${Object.keys(preTokenizers).join(', ')}`,
    got: JSON.stringify(name.slice(0, 80)),
    hint: 'force one with --pre NAME; --pre default splits as bitnet.cpp does when a file names none',
  });
}

/** Cuts text into pieces; joined, they are the text again. */
export type Splitter = (text: string) => readonly string[];

/** Compiles the expressions of a pre-tokenizer. */
export function createSplitter(pre: PreTokenizer): Splitter {
  const regexes = pre.expressions(charClasses()).map((source) => new RegExp(source, 'gu'));
  return (text) => {
    checkRuns(text);
    let pieces: string[] = text === '' ? [] : [text];
    for (const regex of regexes) {
      const finer: string[] = [];
      for (const piece of pieces) cut(piece, regex, finer);
      pieces = finer;
    }
    return pieces;
  };
}

/**
 * Regex engines keep a way back for each character of a run. V8 gives up somewhere beyond four million, JavaScriptCore
 * does not: so that the same text is refused everywhere, the limit is ours.
 */
const MAX_RUN = 1 << 20;

/** Refuses text with more than MAX_RUN characters in a row that are all spaces, or all not. */
function checkRuns(text: string): void {
  if (text.length <= MAX_RUN) return;
  let start = 0;
  let wasSpace = false;
  for (let i = 0; i < text.length; i++) {
    const space = isSpace(text.charCodeAt(i));
    if (space !== wasSpace) {
      wasSpace = space;
      start = i;
    }
    if (i - start >= MAX_RUN) {
      throw new BitnetError('limit-exceeded', 'text has too long a run of one kind of character', {
        expected: `at most ${MAX_RUN} characters without a space, or of spaces, in a row`,
        got: `more, from character ${start} on`,
      });
    }
  }
}

/** White_Space of Unicode, as in the class `space`. */
function isSpace(unit: number): boolean {
  if (unit < 0x85) return unit === 0x20 || (unit >= 0x09 && unit <= 0x0d);
  if (unit < 0x1680) return unit === 0x85 || unit === 0xa0;
  if (unit < 0x2000) return unit === 0x1680;
  return unit <= 0x200a || unit === 0x2028 || unit === 0x2029 || unit === 0x202f || unit === 0x205f || unit === 0x3000;
}

/** Appends the matches of `regex` in `piece`, and what lies between them, in order. */
function cut(piece: string, regex: RegExp, into: string[]): void {
  let end = 0;
  for (const match of piece.match(regex) ?? []) {
    // match() gives texts without positions (three times faster than exec), yet the first occurrence after the last
    // match is the right one: an earlier one would have matched too, unless the look-ahead of `\s+(?!\S)` refused it,
    // and that refuses a space only before a non-space, which no other match of ours begins with.
    let start = end;
    if (!piece.startsWith(match, start)) start = piece.indexOf(match, start);
    if (start > end) into.push(piece.slice(end, start));
    into.push(match);
    end = start + match.length;
  }
  if (end < piece.length) into.push(piece.slice(end));
}
