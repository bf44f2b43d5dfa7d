/**
 * A vocabulary of any size made of invented words, in SentencePiece's form, so that the babble of a model with random
 * weights can be read aloud.
 *
 *     0 <unk>   1 <s>   2 </s>   3 .. 258 the bytes <0x00> .. <0xFF>   from 259 on words of two or three syllables
 *
 * The low line stands for U+2581, a space. No word is a piece of another token's merge, so prompts are encoded byte by
 * byte: lengths in tokens are lengths in UTF-8, which is what a benchmark wants anyway.
 * @module
 */

import { want } from '../errors.ts';
import { stringsValue, stringValue } from '../formats/gguf/writer.ts';
import { TokenType } from '../tokenizer/spec.ts';
import { bool, type Metadata, u32 } from './layout.ts';

/** Ids below this are not words. */
export const FIRST_WORD = 259;

const CONSONANTS = 'bdfghjklmnprstvz';
const VOWELS = 'aeiou';
const SYLLABLES = CONSONANTS.length * VOWELS.length;
const STEP = 2741;

/** Metadata of a vocabulary with `size` tokens. */
export function inventedVocabulary(size: number): Metadata {
  const most = FIRST_WORD + SYLLABLES ** 2 + SYLLABLES ** 3;
  want(size > FIRST_WORD && size <= most, 'bad-argument', 'cannot invent a vocabulary of that size', () => ({
    expected: `${FIRST_WORD + 1} to ${most}`,
    got: `${size}`,
  }));
  const tokens = ['<unk>', '<s>', '</s>'];
  const types = new Int32Array(size).fill(TokenType.NORMAL);
  types.set([TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]);
  const scores = new Float32Array(size);
  for (let byte = 0; byte < 256; byte++) tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  types.fill(TokenType.BYTE, 3, FIRST_WORD);
  for (let id = FIRST_WORD; id < size; id++) {
    tokens.push(`\u2581${word(id - FIRST_WORD)}`);
    scores[id] = FIRST_WORD - id;
  }
  return [
    ['tokenizer.ggml.model', stringValue('llama')],
    ['tokenizer.ggml.pre', stringValue('default')],
    ['tokenizer.ggml.tokens', stringsValue(cut(tokens))],
    ['tokenizer.ggml.scores', { type: 'array', of: 'f32', values: scores }],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', values: types }],
    ['tokenizer.ggml.bos_token_id', u32(1)],
    ['tokenizer.ggml.eos_token_id', u32(2)],
    ['tokenizer.ggml.unknown_token_id', u32(0)],
    ['tokenizer.ggml.add_bos_token', bool(true)],
    ['tokenizer.ggml.add_eos_token', bool(false)],
  ];
}

/** The n-th word: first all of two syllables, then all of three. */
function word(n: number): string {
  const two = SYLLABLES ** 2;
  return n < two ? syllables(n, 2) : syllables(n - two, 3);
}

function syllables(n: number, count: number): string {
  let text = '';
  // A step that shares no factor with the number of words visits each once, and keeps neighbours from looking alike.
  let rest = (n * STEP) % SYLLABLES ** count;
  for (let i = 0; i < count; i++) {
    const k = rest % SYLLABLES;
    text += CONSONANTS[k % CONSONANTS.length] + VOWELS[Math.floor(k / CONSONANTS.length)];
    rest = Math.floor(rest / SYLLABLES);
  }
  return text;
}

/** The texts as views of one buffer: 128 thousand buffers would take more memory than all the rest. */
function cut(tokens: readonly string[]): Uint8Array[] {
  const bytes = new TextEncoder().encode(tokens.join(''));
  let start = 0;
  return tokens.map((text) => {
    // All ASCII but for the low line, whose three bytes stand for one unit.
    const end = start + text.length + (text.startsWith('\u2581') ? 2 : 0);
    const token = bytes.subarray(start, end);
    start = end;
    return token;
  });
}
