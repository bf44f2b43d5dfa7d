/**
 * A SentencePiece vocabulary -> tokenizer.model, the protocol buffer of that library (sentencepiece_model.proto):
 *
 *     1 pieces[]          1 text   2 score f32   3 type: GGUF has the same numbers
 *     2 trainer_spec      3 model_type: 2 = BPE   4 vocab_size   35 byte_fallback   40 41 42 43 ids of unk, bos, eos, pad
 *     3 normalizer_spec   1 name   3 add_dummy_prefix   4 remove_extra_whitespaces   5 escape_whitespaces
 *
 * Every field is a key (number << 3 | kind) and a value; kinds are 0 varint, 2 length and bytes, 5 four bytes.
 * @module
 */

import { joinChunks } from '../formats/chunks.ts';
import { type TokenizerSpec, TokenType } from '../tokenizer/index.ts';

const BPE = 2;

export function sentencePieceModel(spec: TokenizerSpec): Uint8Array {
  const { tokens, scores, types } = spec;
  const model = new Message();
  const isPiece = (type: number) => type >= TokenType.NORMAL && type <= TokenType.BYTE;
  for (let id = 0; id < tokens.length; id++) {
    const piece = new Message();
    piece.bytes(1, tokens[id]);
    piece.float(2, scores[id]);
    // "Undefined" is not a type there; such tokens take no part in encoding, as unused ones.
    piece.varint(3, isPiece(types[id]) ? types[id] : TokenType.UNUSED);
    model.bytes(1, piece.done());
  }
  const trainer = new Message();
  trainer.varint(3, BPE);
  trainer.varint(4, tokens.length);
  trainer.varint(35, types.includes(TokenType.BYTE) ? 1 : 0);
  for (const [field, id] of [
    [40, spec.unknownId],
    [41, spec.bosId],
    [42, spec.eosId],
    [43, spec.paddingId],
  ] as const) {
    trainer.varint(field, id ?? -1);
  }
  model.bytes(2, trainer.done());
  const normalizer = new Message();
  normalizer.bytes(1, new TextEncoder().encode('identity'));
  normalizer.varint(3, spec.addSpacePrefix ? 1 : 0);
  normalizer.varint(4, 0);
  normalizer.varint(5, 1);
  model.bytes(3, normalizer.done());
  return model.done();
}

class Message {
  readonly #chunks: Uint8Array[] = [];
  #length = 0;

  varint(field: number, value: number): void {
    this.#push(varintBytes(8 * field));
    this.#push(varintBytes(value));
  }

  float(field: number, value: number): void {
    this.#push(varintBytes(8 * field + 5));
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    this.#push(bytes);
  }

  bytes(field: number, value: Uint8Array): void {
    this.#push(varintBytes(8 * field + 2));
    this.#push(varintBytes(value.length));
    this.#push(value);
  }

  done(): Uint8Array {
    return joinChunks(this.#chunks, this.#length);
  }

  #push(bytes: Uint8Array): void {
    this.#chunks.push(bytes);
    this.#length += bytes.length;
  }
}

/** Seven bits a byte, the lowest first; a negative number counts as one of 64 bits. */
function varintBytes(value: number): Uint8Array {
  let rest = BigInt.asUintN(64, BigInt(value));
  const bytes: number[] = [];
  for (; rest >= 0x80n; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  bytes.push(Number(rest));
  return Uint8Array.from(bytes);
}
