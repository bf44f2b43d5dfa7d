/**
 * Small vocabularies written by hand, on which every rule of the two kinds of tokenizers has something to do: scores that
 * compete, merges that depend on their order, tokens that no merge makes, special tokens inside of text, bytes without a piece.
 * @module
 */

import { bool, type Metadata, u32 } from '../../convert/layout.ts';
import { stringsValue, stringValue } from '../../formats/gguf/writer.ts';
import { TokenType } from '../../tokenizer/spec.ts';

const TEMPLATE =
  '{{ bos_token }}{% for message in messages %}<|turn|>{{ message.role }}\n{{ message.content | trim }}<|end|>\n' +
  '{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}';

const SPECIAL: readonly (readonly [text: string, type: number])[] = [
  ['<|turn|>', TokenType.CONTROL],
  ['<|end|>', TokenType.CONTROL],
  ['<tab>', TokenType.USER_DEFINED],
  ['...', TokenType.USER_DEFINED],
];

/** Words in the order of their scores, best first; "_" stands for U+2581. */
const WORDS =
  'th he _t _a in er an _the _s on re _w ou at _c en or is it es _b ing _o ar _m _f _p ed _of _and to st _in le al as ' +
  '_d _n ic _e _to ll om _I ro ve _th ent _be a b c d e f g h i j k l m n o p q r s t u v w x y z _ __ ____ A B C I T . , ! ? é ' +
  'ß 漢 字 1 2 12 123 \u{1f600}';

/** Pairs that become one, in order; "_" stands for a space, "^" for a newline. */
const MERGES =
  '_|t h|e _t|he _|a i|n r|e e|r _|s o|n _|w o|u a|t n|d _a|nd _|c e|n o|r i|s i|t _|b in|g _|o a|r _|I 1|2 12|3 ^|^ _|_ _w|or';

/** SentencePiece's kind: scores, bytes for what has no piece, spaces as U+2581. */
export function wordsSpm(): Metadata {
  const words = WORDS.split(' ').map((word) => word.replaceAll('_', '\u2581'));
  const tokens = ['<unk>', '<s>', '</s>'];
  for (let byte = 0; byte < 256; byte++) tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  tokens.push(...words, ...SPECIAL.map(([text]) => text));
  const types = new Int32Array(tokens.length).fill(TokenType.NORMAL);
  types.set([TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]);
  types.fill(TokenType.BYTE, 3, 259);
  types.set(
    SPECIAL.map(([, type]) => type),
    tokens.length - SPECIAL.length,
  );
  const scores = new Float32Array(tokens.length);
  for (let i = 0; i < words.length; i++) scores[259 + i] = -(i + 1);
  return [
    ['general.architecture', stringValue('llama')],
    ['tokenizer.ggml.model', stringValue('llama')],
    ['tokenizer.ggml.pre', stringValue('default')],
    ['tokenizer.ggml.tokens', stringsValue(tokens)],
    ['tokenizer.ggml.scores', { type: 'array', of: 'f32', values: scores }],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', values: types }],
    ['tokenizer.ggml.bos_token_id', u32(1)],
    ['tokenizer.ggml.eos_token_id', u32(2)],
    ['tokenizer.ggml.unknown_token_id', u32(0)],
    ['tokenizer.ggml.add_bos_token', bool(true)],
    ['tokenizer.chat_template', stringValue(TEMPLATE)],
  ];
}

/** Byte-level BPE, cut beforehand as `pre` says: ids 0 to 255 are the bytes, then one token a merge, then special ones. */
export function wordsBpe(pre: string): Metadata {
  const merges = MERGES.split(' ').map((merge) => {
    return merge.split('|').map((part) => printable(part.replaceAll('_', ' ').replaceAll('^', '\n')));
  });
  const tokens = Array.from({ length: 256 }, (_, byte) => printableByte(byte));
  // The last one no merge makes: only pre-tokenizers that look pieces up as a whole find it.
  tokens.push(...merges.map((parts) => parts.join('')), printable(' house'));
  const special = [...SPECIAL, ['<|begin|>', TokenType.CONTROL]] as const;
  const types = new Int32Array(tokens.length + special.length).fill(TokenType.NORMAL);
  types.set(
    special.map(([, type]) => type),
    tokens.length,
  );
  tokens.push(...special.map(([text]) => text));
  return [
    ['general.architecture', stringValue('llama')],
    ['tokenizer.ggml.model', stringValue('gpt2')],
    ['tokenizer.ggml.pre', stringValue(pre)],
    ['tokenizer.ggml.tokens', stringsValue(tokens)],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', values: types }],
    ['tokenizer.ggml.merges', stringsValue(merges.map((parts) => parts.join(' ')))],
    ['tokenizer.ggml.bos_token_id', u32(tokens.length - 1)],
    ['tokenizer.ggml.eos_token_id', u32(tokens.indexOf('<|end|>'))],
    ['tokenizer.ggml.add_bos_token', bool(true)],
    ['tokenizer.chat_template', stringValue(TEMPLATE)],
  ];
}

/** In the alphabet of `tokenizer/alphabet.ts`. */
function printable(text: string): string {
  return Array.from(new TextEncoder().encode(text), printableByte).join('');
}

function printableByte(byte: number): string {
  const itself = (one: number) => (one >= 0x21 && one <= 0x7e) || (one >= 0xa1 && one <= 0xac) || one >= 0xae;
  if (itself(byte)) return String.fromCodePoint(byte);
  let before = 0;
  for (let other = 0; other < byte; other++) if (!itself(other)) before++;
  return String.fromCodePoint(0x100 + before);
}
