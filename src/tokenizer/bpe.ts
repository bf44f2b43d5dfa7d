/**
 * Byte-level byte-pair encoding (`tokenizer.ggml.model` = "gpt2").
 *
 * A piece of text (see pretokenize.ts) starts as one symbol per byte. Of all neighbouring pairs the one whose merge
 * has the lowest rank is joined, the leftmost among equals, until no pair has a merge. Files write bytes in the
 * printable alphabet of alphabet.ts; here everything is bytes, which says the same thing and needs no translation
 * of the text.
 *
 * A symbol is a token id, or a number above all ids for a merge that makes no token of its own.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { ByteAlphabet } from './alphabet.ts';
import { ByteIndex, fnv1a } from './byte-index.ts';
import { MergeQueue } from './merge-queue.ts';
import { MergeTable } from './merge-table.ts';
import { PieceCache } from './piece-cache.ts';
import { createSplitter, preTokenizerNamed, type Splitter } from './pretokenize.ts';
import { type ByteStrings, type TokenizerSpec, TokenType } from './spec.ts';

/** Up to here the best pair is found by looking at all of them; beyond, by a heap, or long pieces would cost n². */
const SHORT_PIECE_BYTES = 48;

/** Text to ids by merges. Not reentrant: buffers are reused between calls. */
export class BpeEncoder {
  readonly #split: Splitter;
  readonly #ignoreMerges: boolean;
  readonly #vocabSize: number;
  /** Bytes -> symbol. Tokens first, then the results of merges that are none. */
  readonly #symbols: ByteIndex;
  /** (256) The symbol of a single byte. */
  readonly #byteSymbols = new Int32Array(256);
  /** Bytes of symbols that are not tokens, from `vocabSize` on. */
  readonly #tokenless: Uint8Array[] = [];
  readonly #merges: MergeTable;
  readonly #cache = new PieceCache();
  readonly #queue = new MergeQueue();
  readonly #utf8 = new TextEncoder();
  #bytes = new Uint8Array(256);
  /** (symbols of the piece) Scratch of the merge loops. */
  #piece = new Int32Array(256);
  #found = new Int32Array(256);
  #next = new Int32Array(256);
  #previous = new Int32Array(256);

  constructor(spec: TokenizerSpec) {
    const pre = preTokenizerNamed(spec.pre.name);
    this.#split = createSplitter(pre);
    this.#ignoreMerges = pre.ignoreMerges ?? false;
    this.#vocabSize = spec.tokens.length;
    this.#symbols = this.#indexTokens(spec);
    const byte = new Uint8Array(1);
    for (let value = 0; value < 256; value++) {
      byte[0] = value;
      this.#byteSymbols[value] = this.#symbolOf(byte, 0, 1);
    }
    this.#merges = this.#readMerges(spec.merges);
  }

  /** The token that is exactly these bytes, or -1. Control tokens are not found: they are no text. */
  find(bytes: Uint8Array): number {
    const symbol = this.#symbols.find(bytes, 0, bytes.length);
    return symbol < this.#vocabSize ? symbol : -1;
  }

  /** Appends the ids of `text`, which must be free of lone surrogates. */
  encode(text: string, out: number[]): void {
    for (const piece of this.#split(text)) {
      // A UTF-16 unit becomes at most three bytes.
      if (piece.length * 3 > this.#bytes.length) this.#bytes = new Uint8Array(piece.length * 6);
      const end = this.#utf8Into(piece);
      const bytes = this.#bytes;
      const hash = fnv1a(bytes, 0, end);
      if (this.#cache.recall(bytes, 0, end, hash, out)) continue;
      const from = out.length;
      this.#encodePiece(end, out);
      this.#cache.remember(bytes, 0, end, hash, out, from);
    }
  }

  /** Fills #bytes; returns the length. TextEncoder costs a call into the engine, too much for a short ASCII word. */
  #utf8Into(piece: string): number {
    const bytes = this.#bytes;
    if (piece.length > 32) return this.#utf8.encodeInto(piece, bytes).written;
    for (let i = 0; i < piece.length; i++) {
      const unit = piece.charCodeAt(i);
      if (unit >= 0x80) return this.#utf8.encodeInto(piece, bytes).written;
      bytes[i] = unit;
    }
    return piece.length;
  }

  /** Appends the ids of #bytes[0..end). */
  #encodePiece(end: number, out: number[]): void {
    if (this.#ignoreMerges) {
      const whole = this.#symbols.find(this.#bytes, 0, end);
      if (whole >= 0 && whole < this.#vocabSize) {
        out.push(whole);
        return;
      }
    }
    if (end <= SHORT_PIECE_BYTES) this.#mergeShort(end, out);
    else this.#mergeLong(end, out);
  }

  #mergeShort(end: number, out: number[]): void {
    const piece = this.#piece;
    const found = this.#found;
    const merges = this.#merges;
    let length = end;
    for (let i = 0; i < length; i++) piece[i] = this.#byteSymbols[this.#bytes[i]];
    for (let i = 0; i + 1 < length; i++) found[i] = merges.find(piece[i], piece[i + 1]);
    for (;;) {
      let best = -1;
      let bestRank = 0x7fffffff;
      for (let i = 0; i + 1 < length; i++) {
        if (found[i] < 0) continue;
        const rank = merges.rankAt(found[i]);
        if (rank < bestRank) {
          bestRank = rank;
          best = i;
        }
      }
      if (best < 0) break;
      piece[best] = merges.mergedAt(found[best]);
      length--;
      for (let i = best + 1; i < length; i++) {
        piece[i] = piece[i + 1];
        found[i] = found[i + 1];
      }
      if (best > 0) found[best - 1] = merges.find(piece[best - 1], piece[best]);
      if (best + 1 < length) found[best] = merges.find(piece[best], piece[best + 1]);
    }
    for (let i = 0; i < length; i++) this.#emit(piece[i], out);
  }

  #mergeLong(end: number, out: number[]): void {
    if (this.#piece.length < end) {
      this.#piece = new Int32Array(end * 2);
      this.#found = new Int32Array(end * 2);
      this.#next = new Int32Array(end * 2);
      this.#previous = new Int32Array(end * 2);
    }
    const piece = this.#piece;
    // The merge waiting for a symbol and its right neighbour; an entry of the queue is stale when it names another.
    const found = this.#found;
    const next = this.#next;
    const previous = this.#previous;
    const queue = this.#queue;
    const merges = this.#merges;
    queue.clear();
    for (let i = 0; i < end; i++) {
      piece[i] = this.#byteSymbols[this.#bytes[i]];
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    const offer = (left: number) => {
      const at = next[left] < end ? merges.find(piece[left], piece[next[left]]) : -1;
      found[left] = at;
      if (at >= 0) queue.push(merges.rankAt(at), left, at);
    };
    for (let i = 0; i < end; i++) offer(i);
    while (queue.length > 0) {
      const left = queue.left;
      const stale = found[left] !== queue.stamp;
      queue.pop();
      if (stale) continue;
      const right = next[left];
      piece[left] = merges.mergedAt(found[left]);
      found[right] = -1;
      next[left] = next[right];
      if (next[right] < end) previous[next[right]] = left;
      offer(left);
      if (previous[left] >= 0) offer(previous[left]);
    }
    for (let i = 0; i < end; i = next[i]) this.#emit(piece[i], out);
  }

  /** A symbol that is no token goes byte by byte; bytes that are no tokens either are dropped, as in llama.cpp. */
  #emit(symbol: number, out: number[]): void {
    if (symbol < this.#vocabSize) {
      out.push(symbol);
      return;
    }
    for (const byte of this.#tokenless[symbol - this.#vocabSize]) {
      const single = this.#byteSymbols[byte];
      if (single < this.#vocabSize) out.push(single);
    }
  }

  #indexTokens(spec: TokenizerSpec): ByteIndex {
    const alphabet = new ByteAlphabet();
    let nBytes = 0;
    let longest = 0;
    for (const token of spec.tokens) {
      nBytes += token.length;
      longest = Math.max(longest, token.length);
    }
    const index = new ByteIndex(spec.tokens.length, nBytes);
    const scratch = new Uint8Array(longest);
    for (let id = 0; id < spec.tokens.length; id++) {
      // Control tokens are never made from text: a user's words must not turn into an end-of-turn, even if a merge or
      // a whole piece happened to spell one.
      if (spec.types[id] === TokenType.CONTROL || spec.types[id] === TokenType.UNKNOWN) continue;
      const token = spec.tokens[id];
      const length = alphabet.decode(token, 0, token.length, scratch);
      if (length > 0) index.set(scratch, 0, length, id);
    }
    return index;
  }

  /** Symbol of bytes[start..end), made up if they are no token. */
  #symbolOf(bytes: Uint8Array, start: number, end: number): number {
    const known = this.#symbols.find(bytes, start, end);
    if (known >= 0) return known;
    const symbol = this.#vocabSize + this.#tokenless.length;
    this.#tokenless.push(bytes.slice(start, end));
    this.#symbols.set(bytes, start, end, symbol);
    return symbol;
  }

  #readMerges(merges: ByteStrings): MergeTable {
    const alphabet = new ByteAlphabet();
    const table = new MergeTable(merges.length);
    let scratch = new Uint8Array(1024);
    let nForeign = 0;
    for (let rank = 0; rank < merges.length; rank++) {
      const merge = 'kind' in merges ? merges.bytes(rank) : merges[rank];
      // The first space from index 1 divides: a left part may itself begin with one.
      const space = merge.indexOf(0x20, 1);
      if (space < 0 || space === merge.length - 1) throw notAMerge(rank, merge);
      if (merge.length > scratch.length) scratch = new Uint8Array(merge.length * 2);
      const middle = alphabet.decode(merge, 0, space, scratch);
      const length = middle < 0 ? -1 : alphabet.decode(merge, space + 1, merge.length, scratch, middle);
      if (length < 0) throw notAMerge(rank, merge);
      const nBefore = this.#tokenless.length;
      const left = this.#symbolOf(scratch, 0, middle);
      const right = this.#symbolOf(scratch, middle, length);
      table.add(left, right, rank, this.#symbolOf(scratch, 0, length));
      if (this.#tokenless.length > nBefore) nForeign++;
    }
    // One or two odd merges are legal; a list of which most speak of unknown tokens belongs to another vocabulary.
    if (nForeign * 2 > merges.length) {
      throw new BitnetError('bad-tokenizer', 'merges do not belong to this vocabulary', {
        where: 'tokenizer.ggml.merges',
        got: `${nForeign} of ${merges.length} merges with parts that are no tokens`,
      });
    }
    return table;
  }
}

function notAMerge(rank: number, merge: Uint8Array): BitnetError {
  const text = new TextDecoder().decode(merge.subarray(0, 80));
  return new BitnetError('bad-tokenizer', 'not a merge', {
    where: `tokenizer.ggml.merges[${rank}]`,
    expected: '"left right" in the byte alphabet of GPT-2',
    got: JSON.stringify(text),
  });
}
