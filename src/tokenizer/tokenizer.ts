/**
 * The tokenizer: text to ids and back, over either kind of vocabulary.
 *
 *     text -> cut at special tokens (special.ts) -> bpe.ts or spm.ts -> ids
 *     ids -> the bytes each token prints -> whole characters (utf8.ts) -> text
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { ByteAlphabet } from './alphabet.ts';
import { BpeEncoder } from './bpe.ts';
import { type EndTokens, findEndTokens } from './end-tokens.ts';
import { type TokenizerSpec, TokenType } from './spec.ts';
import { type Fragment, SpecialTokens } from './special.ts';
import { SpmEncoder } from './spm.ts';
import { Utf8Stream, wellFormed } from './utf8.ts';

export interface EncodeOptions {
  /** Put the begin-of-sequence token first. Default false; what the model wants is `spec.addBos`. */
  readonly bos?: boolean;
  /** Put the end-of-sequence token last. Default false. */
  readonly eos?: boolean;
  /** Turn control tokens written out in the text (`<|eot_id|>`) into tokens. Default false: they stay plain text. */
  readonly special?: boolean;
}

export interface DecodeOptions {
  /** Print control tokens too. Default false. */
  readonly special?: boolean;
}

/** Prints tokens one by one; characters split over several tokens come out whole with the last of them. */
export interface TokenStream {
  push(id: number): string;
  /** Call at the end: what is left of an unfinished character. */
  flush(): string;
}

const NOTHING: Uint8Array = new Uint8Array(0);

export class Tokenizer {
  /** As given, except that tokens known to end a generation are typed CONTROL and found by their text. */
  readonly spec: TokenizerSpec;
  /** Every token after which a generation ends. */
  readonly eogIds: readonly number[];
  readonly #eog: ReadonlySet<number>;
  readonly #special: SpecialTokens;
  readonly #encoder: BpeEncoder | SpmEncoder;
  readonly #alphabet = new ByteAlphabet();
  /** (vocabSize) Bytes of tokens printed before. */
  readonly #printed: (Uint8Array | undefined)[];

  constructor(spec: TokenizerSpec) {
    const ends: EndTokens = findEndTokens(spec.tokens, spec.types, spec);
    this.spec = { ...spec, types: ends.types, eotId: ends.eotId, eomId: ends.eomId };
    this.eogIds = ends.eogIds;
    this.#printed = new Array(spec.tokens.length);
    this.#eog = new Set(ends.eogIds);
    this.#special = new SpecialTokens(this.spec);
    this.#encoder = spec.model === 'gpt2' ? new BpeEncoder(this.spec) : new SpmEncoder(this.spec);
  }

  get vocabSize(): number {
    return this.spec.tokens.length;
  }

  /** True for tokens after which a generation ends. */
  isEog(id: number): boolean {
    return this.#eog.has(id);
  }

  encode(text: string, { bos = false, eos = false, special = false }: EncodeOptions = {}): number[] {
    const ids: number[] = [];
    if (bos) ids.push(this.#existing(this.spec.bosId, 'begin-of-sequence'));
    this.encodeFragments(this.#special.partition(wellFormed(text), special), ids);
    if (eos) ids.push(this.#existing(this.spec.eosId, 'end-of-sequence'));
    return ids;
  }

  /** A raw prompt as llama-cli reads it: begin and end tokens as the model wants them, special tokens recognised. */
  encodePrompt(text: string, { special = true }: Pick<EncodeOptions, 'special'> = {}): number[] {
    return this.encode(text, { bos: this.spec.addBos, eos: this.spec.addEos, special });
  }

  /** Cuts text where special tokens are written out. */
  partition(text: string, special: boolean): Fragment[] {
    return this.#special.partition(wellFormed(text), special);
  }

  /** Appends ids; texts among the fragments are taken as plain text. Neighbouring texts are not joined. */
  encodeFragments(fragments: readonly Fragment[], out: number[]): void {
    const encoder = this.#encoder;
    // SPM vocabularies have words with a space before them; at the start, and behind a special token, it is added.
    let addSpace = this.spec.addSpacePrefix;
    for (const [i, fragment] of fragments.entries()) {
      if (typeof fragment === 'number') out.push(fragment);
      else if (encoder instanceof SpmEncoder) {
        const text = this.spec.removeExtraWhitespaces
          ? withoutExtraSpaces(fragment, i === 0, i === fragments.length - 1)
          : fragment;
        if (text !== '') encoder.encode(text, addSpace, out);
      } else encoder.encode(fragment, out);
      addSpace = this.spec.addSpacePrefix && typeof fragment === 'number';
    }
  }

  /** Special tokens by their texts. */
  get special(): SpecialTokens {
    return this.#special;
  }

  /**
   * The text of a whole sequence. Undoes `encode`: the space that SPM put at the beginning is taken off again. To
   * print the continuation of something, use `stream`. Spaces before punctuation stay as they are.
   */
  decode(ids: Iterable<number>, { special = false }: DecodeOptions = {}): string {
    const utf8 = new Utf8Stream();
    const parts: string[] = [];
    let atStart = this.spec.addSpacePrefix;
    for (const id of ids) {
      const bytes = this.tokenBytes(id, special);
      parts.push(utf8.push(atStart && bytes[0] === 0x20 ? bytes.subarray(1) : bytes));
      if (id !== this.spec.bosId) atStart = false;
    }
    parts.push(utf8.flush());
    return parts.join('');
  }

  stream(options: DecodeOptions = {}): TokenStream {
    const utf8 = new Utf8Stream();
    return {
      push: (id) => utf8.push(this.tokenBytes(id, options.special ?? false)),
      flush: () => utf8.flush(),
    };
  }

  /** The bytes a token prints; none for control tokens unless `special`. The array is shared: do not write to it. */
  tokenBytes(id: number, special = false): Uint8Array {
    this.#check(id);
    const type = this.spec.types[id];
    if (!special && (type === TokenType.CONTROL || type === TokenType.UNKNOWN)) return NOTHING;
    let bytes = this.#printed[id];
    if (bytes === undefined) {
      bytes = this.#print(this.spec.tokens[id], type);
      this.#printed[id] = bytes;
    }
    return bytes;
  }

  /** The token with exactly this text, control tokens included; undefined if there is none. */
  idOf(text: string | Uint8Array): number | undefined {
    const special = this.#special.find(typeof text === 'string' ? text : new TextDecoder().decode(text));
    if (special !== undefined) return special;
    let bytes = typeof text === 'string' ? new TextEncoder().encode(text) : text;
    if (this.spec.model === 'llama') bytes = withLowLines(bytes);
    const id = this.#encoder.find(bytes);
    return id < 0 ? undefined : id;
  }

  /** For people: the text of a token in quotes, bytes that are no text as \xNN. */
  describe(id: number): string {
    const bytes = this.tokenBytes(id, true);
    const utf8 = new Utf8Stream();
    const text = utf8.push(bytes);
    if (!utf8.pending && !text.includes('\ufffd')) return JSON.stringify(text);
    let escaped = '';
    for (const byte of bytes) {
      const printable = byte >= 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x5c;
      escaped += printable ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`;
    }
    return `"${escaped}"`;
  }

  #print(text: Uint8Array, type: number): Uint8Array {
    switch (type) {
      case TokenType.CONTROL:
      case TokenType.UNKNOWN:
      case TokenType.USER_DEFINED:
        return text;
      case TokenType.BYTE:
        return byteOf(text) ?? text;
      case TokenType.NORMAL: {
        if (this.spec.model === 'llama') return withSpaces(text);
        const bytes = new Uint8Array(text.length);
        const length = this.#alphabet.decode(text, 0, text.length, bytes);
        // Text outside the alphabet prints as it is (llama.cpp would print "[UNK_BYTE_...]").
        return length < 0 ? text : bytes.subarray(0, length);
      }
      default:
        return NOTHING;
    }
  }

  #check(id: number): void {
    want(Number.isInteger(id) && id >= 0 && id < this.vocabSize, 'bad-token', 'no such token', () => ({
      expected: `an id of 0 to ${this.vocabSize - 1}`,
      got: show(id),
    }));
  }

  #existing(id: number | undefined, name: string): number {
    if (id !== undefined) return id;
    throw new BitnetError('bad-token', `the vocabulary has no ${name} token`);
  }
}

export function createTokenizer(spec: TokenizerSpec): Tokenizer {
  return new Tokenizer(spec);
}

/** Runs of spaces as one, none at the ends of the whole text. */
function withoutExtraSpaces(text: string, isFirst: boolean, isLast: boolean): string {
  let tidy = text.replace(/ {2,}/g, ' ');
  if (isFirst && tidy.startsWith(' ')) tidy = tidy.slice(1);
  if (isLast && tidy.endsWith(' ')) tidy = tidy.slice(0, -1);
  return tidy;
}

/** "<0x0A>" -> the byte 0A. */
function byteOf(text: Uint8Array): Uint8Array | undefined {
  const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(new TextDecoder().decode(text))?.[1];
  return hex === undefined ? undefined : Uint8Array.of(Number.parseInt(hex, 16));
}

/** U+2581 (E2 96 81) -> space. */
function withSpaces(text: Uint8Array): Uint8Array {
  const out = new Uint8Array(text.length);
  let length = 0;
  for (let i = 0; i < text.length; i++) {
    const isLowLine = text[i] === 0xe2 && text[i + 1] === 0x96 && text[i + 2] === 0x81;
    out[length++] = isLowLine ? 0x20 : text[i];
    if (isLowLine) i += 2;
  }
  return out.subarray(0, length);
}

/** Space -> U+2581. */
function withLowLines(text: Uint8Array): Uint8Array {
  const out: number[] = [];
  for (const byte of text) {
    if (byte === 0x20) out.push(0xe2, 0x96, 0x81);
    else out.push(byte);
  }
  return Uint8Array.from(out);
}
