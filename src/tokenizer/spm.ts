/**
 * SentencePiece-style encoding (`tokenizer.ggml.model` = "llama"), as llama.cpp does it: no Viterbi, but merges.
 *
 * Spaces become U+2581 (shown as a low line here). Text starts as one symbol per character; of all neighbouring pairs
 * whose concatenation is a token the one with the highest score is joined, the leftmost among equals, until there is
 * none. Characters that are no tokens become one byte token `<0xXX>` for each of their UTF-8 bytes, else unknown.
 *
 * llama.cpp also keeps a table of recorded merges, to take apart a symbol that in the end is no token. A merge is only
 * ever recorded when its result is a token, so there is nothing to take apart, and no such table here.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { ByteIndex, fnv1a } from './byte-index.ts';
import { MergeQueue } from './merge-queue.ts';
import { PieceCache } from './piece-cache.ts';
import { type TokenizerSpec, TokenType } from './spec.ts';

/** U+2581 in UTF-8 is E2 96 81. */
const LOW_LINE = '\u2581';

/** Text to ids by scores. Not reentrant: buffers are reused between calls. */
export class SpmEncoder {
  readonly #tokens: ByteIndex;
  readonly #scores: Float32Array;
  readonly #unknownId: number | undefined;
  /** (256) Token of a byte, or -1. */
  readonly #byteTokens = new Int32Array(256).fill(-1);
  /**
   * (256) 1 for the bytes that some token has before a space. Behind any other byte a space begins a new word: merges
   * never reach across, so words can be remembered. Gemma has one such token, `>_</`.
   */
  readonly #beforeSpace = new Uint8Array(256);
  readonly #cache = new PieceCache();
  readonly #queue = new MergeQueue();
  readonly #utf8 = new TextEncoder();
  /** (symbols) Symbol i is the bytes starts[i] .. starts[i] + lengths[i]; length 0 when merged into its left. */
  #starts = new Int32Array(256);
  #lengths = new Int32Array(256);
  #next = new Int32Array(256);
  #previous = new Int32Array(256);

  constructor(spec: TokenizerSpec) {
    this.#scores = spec.scores;
    this.#unknownId = spec.unknownId;
    let nBytes = 0;
    for (const token of spec.tokens) nBytes += token.length;
    this.#tokens = new ByteIndex(spec.tokens.length, nBytes);
    for (let id = 0; id < spec.tokens.length; id++) {
      const token = spec.tokens[id];
      // Control tokens are never made from text; SentencePiece itself keeps them out of its matching as well.
      if (token.length === 0 || spec.types[id] === TokenType.CONTROL || spec.types[id] === TokenType.UNKNOWN) continue;
      this.#tokens.set(token, 0, token.length, id);
      for (let at = 1; at < token.length; at++) {
        if (isLowLine(token, at) && !isLowLine(token, at - 3)) this.#beforeSpace[token[at - 1]] = 1;
      }
    }
    const single = new Uint8Array(1);
    for (let byte = 0; byte < 256; byte++) {
      const name = this.#utf8.encode(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
      single[0] = byte;
      const named = this.#tokens.find(name, 0, name.length);
      this.#byteTokens[byte] = named >= 0 ? named : this.#tokens.find(single, 0, 1);
    }
  }

  /** The token that is exactly these bytes, or -1. Control tokens are not found: they are no text. */
  find(bytes: Uint8Array): number {
    return this.#tokens.find(bytes, 0, bytes.length);
  }

  /** Appends the ids of `text`, which must be free of lone surrogates; `addSpace` puts a space before it. */
  encode(text: string, addSpace: boolean, out: number[]): void {
    const bytes = this.#utf8.encode((addSpace ? LOW_LINE : '') + text.replaceAll(' ', LOW_LINE));
    for (let start = 0; start < bytes.length; ) {
      const end = this.#wordEnd(bytes, start);
      const hash = fnv1a(bytes, start, end);
      if (!this.#cache.recall(bytes, start, end, hash, out)) {
        const from = out.length;
        this.#merge(bytes, start, end, out);
        this.#cache.remember(bytes, start, end, hash, out, from);
      }
      start = end;
    }
  }

  /** End of the word at `start`: its low lines, then everything up to the next ones that begin a word. */
  #wordEnd(bytes: Uint8Array, start: number): number {
    let at = start;
    do {
      while (isLowLine(bytes, at)) at += 3;
      while (at < bytes.length && !isLowLine(bytes, at)) at++;
    } while (at < bytes.length && this.#beforeSpace[bytes[at - 1]] === 1);
    return at;
  }

  #merge(bytes: Uint8Array, start: number, end: number, out: number[]): void {
    if (this.#starts.length < end - start) this.#grow(end - start);
    const starts = this.#starts;
    const lengths = this.#lengths;
    const next = this.#next;
    const previous = this.#previous;
    const queue = this.#queue;
    let nSymbols = 0;
    for (let at = start; at < end; nSymbols++) {
      const length = charLength(bytes[at]);
      starts[nSymbols] = at;
      lengths[nSymbols] = length;
      next[nSymbols] = nSymbols + 1;
      previous[nSymbols] = nSymbols - 1;
      at += length;
    }
    queue.clear();
    // An entry is stale when the two symbols together are no longer as long as they were.
    const offer = (left: number, right: number) => {
      const length = lengths[left] + lengths[right];
      const id = this.#tokens.find(bytes, starts[left], starts[left] + length);
      if (id >= 0) queue.push(-this.#scores[id], left, length);
    };
    for (let i = 1; i < nSymbols; i++) offer(i - 1, i);
    while (queue.length > 0) {
      const left = queue.left;
      const length = queue.stamp;
      queue.pop();
      const right = next[left];
      if (lengths[left] === 0 || right === nSymbols || lengths[left] + lengths[right] !== length) continue;
      lengths[left] = length;
      lengths[right] = 0;
      next[left] = next[right];
      if (next[left] < nSymbols) previous[next[left]] = left;
      if (previous[left] >= 0) offer(previous[left], left);
      if (next[left] < nSymbols) offer(left, next[left]);
    }
    for (let i = 0; i < nSymbols; i = next[i]) {
      const id = this.#tokens.find(bytes, starts[i], starts[i] + lengths[i]);
      if (id >= 0) out.push(id);
      else for (let at = starts[i]; at < starts[i] + lengths[i]; at++) out.push(this.#byteToken(bytes[at]));
    }
  }

  #byteToken(byte: number): number {
    const id = this.#byteTokens[byte] >= 0 ? this.#byteTokens[byte] : this.#unknownId;
    if (id !== undefined) return id;
    throw new BitnetError('bad-tokenizer', 'text cannot be written in this vocabulary', {
      expected: `a token for byte 0x${byte.toString(16)} or an unknown token`,
      got: 'neither',
    });
  }

  #grow(nSymbols: number): void {
    this.#starts = new Int32Array(nSymbols * 2);
    this.#lengths = new Int32Array(nSymbols * 2);
    this.#next = new Int32Array(nSymbols * 2);
    this.#previous = new Int32Array(nSymbols * 2);
  }
}

/** Bytes of the UTF-8 character with this lead byte; the text comes from a JS string, so it is well-formed. */
function charLength(lead: number): number {
  return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

function isLowLine(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === 0xe2 && bytes[at + 1] === 0x96 && bytes[at + 2] === 0x81;
}
