/**
 * What a tokenizer is made of, as plain data. Whoever reads a container (GGUF metadata, a Hugging Face
 * tokenizer.json) fills this in; the tokenizer itself never sees a file.
 * @module
 */

/** `tokenizer.ggml.token_type` of llama.cpp, verbatim numbers. */
export const TokenType = {
  NORMAL: 1,
  UNKNOWN: 2,
  CONTROL: 3,
  USER_DEFINED: 4,
  UNUSED: 5,
  BYTE: 6,
} as const;
export type TokenType = (typeof TokenType)[keyof typeof TokenType];

/** How text was cut before merging, and how sure we are of it. */
export interface PreTokenizerChoice {
  /** Name as in `tokenizer.ggml.pre`, e.g. `llama-bpe`. */
  readonly name: string;
  /** `file`: named by the file; `recognised`: the file names none, the vocabulary's fingerprint does; `forced`: by the user. */
  readonly origin: 'file' | 'recognised' | 'forced';
}

/** Many byte strings in one buffer, cut out when asked for: what the GGUF reader returns for an array of strings. */
export interface TokenBytes {
  readonly kind: 'strings';
  readonly length: number;
  bytes(i: number): Uint8Array;
}

/** Either form will do; 280 thousand merges as one object each would cost 40 MB for nothing. */
export type ByteStrings = readonly Uint8Array[] | TokenBytes;

/** A vocabulary with its rules. Token texts are bytes: they are not always UTF-8. */
export interface TokenizerSpec {
  /** `llama`: SentencePiece-style scores; `gpt2`: byte-level BPE with ranked merges. */
  readonly model: 'llama' | 'gpt2';
  readonly pre: PreTokenizerChoice;
  readonly tokens: readonly Uint8Array[];
  /** (tokens) Only SPM uses them. */
  readonly scores: Float32Array;
  /** (tokens) Values of `TokenType`. */
  readonly types: Int32Array;
  /** "left right" in rank order, as bytes; empty for SPM. */
  readonly merges: ByteStrings;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly eotId: number | undefined;
  readonly eomId: number | undefined;
  readonly unknownId: number | undefined;
  readonly paddingId: number | undefined;
  readonly addBos: boolean;
  readonly addEos: boolean;
  readonly addSpacePrefix: boolean;
  /** SPM only: spaces at both ends go, runs of them become one. llama.cpp knows the key and leaves it to T5. */
  readonly removeExtraWhitespaces: boolean;
  /** The file's Jinja source, or the published one where the file's own is known to be no template. */
  readonly chatTemplate: { readonly source: string; readonly origin: 'file' | 'recognised' } | undefined;
}
