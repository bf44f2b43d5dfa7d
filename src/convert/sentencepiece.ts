/**
 * `tokenizer.model`, the file SentencePiece writes: a protobuf message, of which a tokenizer needs little.
 *
 *     ModelProto      1 pieces (repeated)   2 trainer   3 normalizer
 *     SentencePiece   1 text   2 score (f32)   3 type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
 *     TrainerSpec     3 kind: 1 unigram, 2 BPE, 3 word, 4 char   24 spaces at the end of words   40 unk 41 bos 42 eos 43 pad
 *     NormalizerSpec  1 name   2 compiled rules   3 add_dummy_prefix   4 remove_extra_whitespaces   5 escape_whitespaces
 *
 * A message is fields one after the other, each a tag (number << 3 | wire type) and a value: 0 a varint (seven bits a
 * byte, low ones first), 1 eight bytes, 2 a varint length and so many bytes, 5 four bytes. Types of pieces are the
 * numbers GGUF has for types of tokens. Source: google/sentencepiece, src/sentencepiece_model.proto.
 *
 * Lengths are checked against the bytes that are left before anything is cut out, and nothing is copied but texts.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { TokenType } from '../tokenizer/spec.ts';

/** What a vocabulary with scores is made of, whichever file it was in. */
export interface ScoredVocabulary {
  readonly texts: string[];
  readonly scores: Float32Array;
  /** Values of `TokenType`. */
  readonly types: Int32Array;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly unknownId: number | undefined;
  readonly paddingId: number | undefined;
  readonly addSpacePrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
  /** What the file asks for and a GGUF file cannot say, in sentences. */
  readonly notes: readonly string[];
}

/** Room for 16 times the largest vocabulary in use. */
const MAX_PIECES = 1 << 22;
/** The ceiling of the GGUF side (from-metadata.ts): what is written must be readable. */
const MAX_PIECE_BYTES = 1 << 16;

const KINDS: Readonly<Record<number, string>> = { 1: 'unigram', 2: 'BPE', 3: 'word', 4: 'char' };
const BPE = 2;

/** Reads a SentencePiece model of kind BPE. */
export function readSentencePiece(bytes: Uint8Array, where: string): ScoredVocabulary {
  // Llama 3's repositories carry a file of the same name in OpenAI's format: lines of base64, a space and a rank.
  want(!startsLikeRanks(bytes), 'unsupported-tokenizer', 'a tiktoken rank file, not a SentencePiece model', () => ({
    where,
    hint: 'the tokenizer.json of the same repository has the same vocabulary',
  }));
  const pieces: Piece[] = [];
  let trainer = new Map<number, number>();
  let normalizer: Normalizer = { name: '', hasRules: false, addPrefix: true, removeExtra: true, escapes: true };
  for (const field of fieldsOf(bytes, 0, bytes.length, where)) {
    if (field.number === 1) {
      want(pieces.length < MAX_PIECES, 'limit-exceeded', 'too many pieces', () => ({
        where,
        expected: `at most ${MAX_PIECES}`,
      }));
      pieces.push(pieceOf(field, `${where}: piece ${pieces.length}`));
    } else if (field.number === 2) trainer = integersOf(field, `${where}: trainer`);
    else if (field.number === 3) normalizer = normalizerOf(field, `${where}: normalizer`);
  }
  want(pieces.length > 0, 'bad-tokenizer', 'no pieces', () => ({ where, expected: 'a SentencePiece model' }));
  // A model that names no kind is unigram: the default of the format.
  const kind = trainer.get(3) ?? 1;
  want(kind === BPE, 'unsupported-tokenizer', 'this kind of SentencePiece model is not read', () => ({
    where,
    expected: 'BPE, as Llama 2 and Gemma have',
    got: KINDS[kind] ?? show(kind),
  }));
  want(trainer.get(24) !== 1, 'unsupported-tokenizer', 'words that end in a space', () => ({ where }));
  want(normalizer.escapes, 'unsupported-tokenizer', 'spaces that are not escaped', () => ({ where }));
  return {
    texts: pieces.map((piece) => piece.text),
    scores: Float32Array.from(pieces, (piece) => piece.score),
    types: Int32Array.from(pieces, (piece) => piece.type),
    unknownId: idOf(trainer.get(40) ?? 0, pieces.length, `${where}: unk_id`),
    bosId: idOf(trainer.get(41) ?? 1, pieces.length, `${where}: bos_id`),
    eosId: idOf(trainer.get(42) ?? 2, pieces.length, `${where}: eos_id`),
    paddingId: idOf(trainer.get(43) ?? -1, pieces.length, `${where}: pad_id`),
    addSpacePrefix: normalizer.addPrefix,
    removeExtraWhitespaces: normalizer.removeExtra,
    notes: normalizer.hasRules ? [`the normalizer ${show(normalizer.name)} cannot be carried over`] : [],
  };
}

function startsLikeRanks(bytes: Uint8Array): boolean {
  return /^[A-Za-z0-9+/]+={0,2} \d+\n/.test(String.fromCharCode(...bytes.subarray(0, 64)));
}

/** -1 is "none". */
function idOf(value: number, nPieces: number, where: string): number | undefined {
  if (value === -1) return undefined;
  want(value >= 0 && value < nPieces, 'bad-tokenizer', 'no such token', () => ({
    where,
    expected: `an id of 0 to ${nPieces - 1}, or -1`,
    got: `${value}`,
  }));
  return value;
}

interface Piece {
  readonly text: string;
  readonly score: number;
  readonly type: number;
}

function pieceOf(field: Field, where: string): Piece {
  let text: string | undefined;
  let score = 0;
  let type: number = TokenType.NORMAL;
  for (const part of fieldsWithin(field, where)) {
    if (part.number === 1) text = textOf(part, where);
    else if (part.number === 2) score = floatOf(part, where);
    else if (part.number === 3) type = integerOf(part, where);
  }
  want(text !== undefined && text !== '', 'bad-tokenizer', 'a piece without text', () => ({ where }));
  want(Number.isFinite(score), 'bad-tokenizer', 'bad score', () => ({
    where,
    expected: 'a finite number',
    got: `${score}`,
  }));
  want(type >= TokenType.NORMAL && type <= TokenType.BYTE, 'bad-tokenizer', 'unknown type of piece', () => ({
    where,
    expected: '1 to 6',
    got: `${type}`,
  }));
  return { text, score, type };
}

interface Normalizer {
  readonly name: string;
  readonly hasRules: boolean;
  readonly addPrefix: boolean;
  readonly removeExtra: boolean;
  readonly escapes: boolean;
}

function normalizerOf(field: Field, where: string): Normalizer {
  let name = '';
  let hasRules = false;
  const flags = integersOf(field, where);
  for (const part of fieldsWithin(field, where)) {
    if (part.number === 1) name = textOf(part, where);
    else if (part.number === 2) hasRules = part.end > part.start;
  }
  const flag = (number: number) => (flags.get(number) ?? 1) !== 0;
  return { name, hasRules, addPrefix: flag(3), removeExtra: flag(4), escapes: flag(5) };
}

/** One field: its value is an integer, or the bytes start .. end. */
interface Field {
  readonly bytes: Uint8Array;
  readonly number: number;
  readonly wire: number;
  readonly integer: number;
  readonly start: number;
  readonly end: number;
}

function* fieldsOf(bytes: Uint8Array, start: number, end: number, where: string): Generator<Field> {
  for (let at = start; at < end; ) {
    const tag = varint(bytes, at, end, where);
    const wire = tag.value & 7;
    const number = Math.floor(tag.value / 8);
    want(number > 0 && tag.value <= 0xffffffff, 'bad-container', 'not a protobuf field', () => ({
      where: `${where}: byte ${at}`,
      got: `tag ${tag.value}`,
    }));
    let from = tag.end;
    let integer = 0;
    let length = 0;
    if (wire === 0) ({ value: integer, end: from } = varint(bytes, tag.end, end, where));
    else if (wire === 2) ({ value: length, end: from } = varint(bytes, tag.end, end, where));
    else if (wire === 1 || wire === 5) length = wire === 1 ? 8 : 4;
    else {
      throw new BitnetError('bad-container', 'not a protobuf message', {
        where: `${where}: byte ${at}`,
        expected: 'wire type 0, 1, 2 or 5',
        got: `${wire}`,
      });
    }
    want(length <= end - from, 'truncated', 'a field reaches beyond its message', () => ({
      where: `${where}: byte ${at}`,
      expected: `at most ${end - from} bytes`,
      got: `${length}`,
    }));
    at = from + length;
    yield { bytes, number, wire, integer, start: from, end: at };
  }
}

/** Up to ten bytes of seven bits. Beyond 2^53 numbers round, which only makes lengths that are refused anyway. */
function varint(bytes: Uint8Array, start: number, end: number, where: string): { value: number; end: number } {
  let value = 0;
  let factor = 1;
  for (let at = start; at < end && at < start + 10; at++) {
    value += (bytes[at] & 0x7f) * factor;
    if (bytes[at] < 0x80) return { value, end: at + 1 };
    factor *= 128;
  }
  throw new BitnetError('truncated', 'a number does not end', { where: `${where}: byte ${start}` });
}

function wantWire(field: Field, wire: number, where: string): void {
  want(field.wire === wire, 'bad-container', 'a field of the wrong kind', () => ({
    where: `${where}: field ${field.number}`,
    expected: `wire type ${wire}`,
    got: `${field.wire}`,
  }));
}

function fieldsWithin(field: Field, where: string): Generator<Field> {
  wantWire(field, 2, where);
  return fieldsOf(field.bytes, field.start, field.end, where);
}

function textOf(field: Field, where: string): string {
  wantWire(field, 2, where);
  const length = field.end - field.start;
  want(length <= MAX_PIECE_BYTES, 'limit-exceeded', 'text too long', () => ({
    where,
    expected: `at most ${MAX_PIECE_BYTES} bytes`,
    got: `${length}`,
  }));
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(
      field.bytes.subarray(field.start, field.end),
    );
  } catch (error) {
    throw new BitnetError('bad-tokenizer', 'text is not UTF-8', { where }, error);
  }
}

function floatOf(field: Field, where: string): number {
  wantWire(field, 5, where);
  return new DataView(field.bytes.buffer, field.bytes.byteOffset).getFloat32(field.start, true);
}

/** An int32. Negative ones are written as ten bytes of 64 bits: 2^64 - 1 is -1. */
function integerOf(field: Field, where: string): number {
  wantWire(field, 0, where);
  return field.integer > 0x7fffffff ? -1 : field.integer;
}

/** The integers of a message by field number; other fields are passed over. */
function integersOf(field: Field, where: string): Map<number, number> {
  const found = new Map<number, number>();
  for (const part of fieldsWithin(field, where)) if (part.wire === 0) found.set(part.number, integerOf(part, where));
  return found;
}
