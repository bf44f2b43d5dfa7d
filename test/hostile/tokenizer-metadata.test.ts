import { describe, expect, test } from 'vitest';
import { bpe, getter, type Metadata, random, spm, strings } from '../../fixtures/tokenizer/vocabularies.ts';
import { readSentencePiece } from '../../src/convert/sentencepiece.ts';
import { type TokenizerFiles, tokenizerMetadata } from '../../src/convert/tokenizer.ts';
import { BitnetError } from '../../src/errors.ts';
import { createTokenizer, tokenizerSpecFromMetadata } from '../../src/tokenizer/index.ts';

const K = 'tokenizer.ggml.';
const load = (metadata: Metadata) => createTokenizer(tokenizerSpecFromMetadata(getter(metadata)));

/** Runs and returns the error, which must be ours. */
function errorOf(metadata: Metadata): BitnetError {
  try {
    load(metadata);
  } catch (error) {
    expect(error).toBeInstanceOf(BitnetError);
    return error as BitnetError;
  }
  throw new Error('was accepted');
}

const withNaN = new Float32Array(260);
withNaN[7] = Number.NaN;
const badType = new Int32Array(260).fill(1);
badType[9] = 7;

// Each case: a change to a good vocabulary, the code, what the message must name, and the nearest good twin.
const SPM = spm(['a']); // 260 tokens
const BPE = bpe('gpt-2', ['a|b']); // 257 tokens
const cases: [name: string, base: Metadata, bad: Metadata, code: string, says: RegExp, twin: Metadata][] = [
  ['no model', SPM, { [`${K}model`]: undefined }, 'bad-metadata', /tokenizer\.ggml\.model.*missing/, {}],
  ['model not a string', SPM, { [`${K}model`]: 5 }, 'bad-metadata', /a string, got number 5/, {}],
  ['no_vocab', SPM, { [`${K}model`]: 'no_vocab' }, 'unsupported-tokenizer', /no vocabulary.*"no_vocab"/, {}],
  ['none', SPM, { [`${K}model`]: 'none' }, 'unsupported-tokenizer', /no vocabulary/, {}],
  ['bert', SPM, { [`${K}model`]: 'bert' }, 'unsupported-tokenizer', /"bert"/, {}],
  ['no tokens', SPM, { [`${K}tokens`]: undefined }, 'bad-metadata', /tokens: missing/, {}],
  ['tokens of numbers', SPM, { [`${K}tokens`]: new Int32Array(260) }, 'bad-metadata', /array of strings/, {}],
  ['empty vocabulary', SPM, { [`${K}tokens`]: strings([]) }, 'bad-tokenizer', /unusable vocabulary/, {}],
  [
    'endless token',
    SPM,
    { [`${K}tokens`]: strings(new Array(260).fill(new Uint8Array(70_000))) },
    'bad-tokenizer',
    /tokens\[0\]: token too long/,
    { [`${K}tokens`]: strings(new Array(260).fill(new Uint8Array(60_000))) },
  ],
  [
    'vocabulary of absurd length',
    SPM,
    { [`${K}tokens`]: { kind: 'strings', length: 2 ** 31, bytes: () => new Uint8Array(1) } },
    'bad-tokenizer',
    /1 to 4194304 tokens, got 2147483648/,
    {},
  ],
  ['too few scores', SPM, { [`${K}scores`]: new Float32Array(259) }, 'bad-tokenizer', /scores.*260.*got 259/, {}],
  ['scores as f64', SPM, { [`${K}scores`]: new Float64Array(260) }, 'bad-metadata', /array of f32/, {}],
  ['NaN score', SPM, { [`${K}scores`]: withNaN }, 'bad-tokenizer', /scores\[7\].*NaN/, { [`${K}scores`]: undefined }],
  ['too many types', SPM, { [`${K}token_type`]: new Int32Array(261) }, 'bad-tokenizer', /token_type.*got 261/, {}],
  ['type 7', SPM, { [`${K}token_type`]: badType }, 'bad-tokenizer', /token_type\[9\].*got 7/, {}],
  [
    'eos too large',
    SPM,
    { [`${K}eos_token_id`]: 260 },
    'bad-tokenizer',
    /eos_token_id.*0 to 259, got 260/,
    { [`${K}eos_token_id`]: 259 },
  ],
  ['bos negative', SPM, { [`${K}bos_token_id`]: -2 }, 'bad-tokenizer', /bos_token_id/, { [`${K}bos_token_id`]: -1 }],
  ['huge id', SPM, { [`${K}bos_token_id`]: 2n ** 64n - 1n }, 'bad-tokenizer', /18446744073709551615/, {}],
  ['id not whole', SPM, { [`${K}bos_token_id`]: 1.5 }, 'bad-metadata', /an integer, got number 1.5/, {}],
  ['flag as number', SPM, { [`${K}add_bos_token`]: 1 }, 'bad-metadata', /add_bos_token.*a bool/, {}],
  [
    'add a token that is not there',
    BPE,
    { [`${K}add_eos_token`]: true },
    'bad-tokenizer',
    /add_eos_token/,
    { [`${K}add_eos_token`]: true, [`${K}eos_token_id`]: 256 },
  ],
  ['template as number', SPM, { 'tokenizer.chat_template': 3 }, 'bad-metadata', /chat_template/, {}],
  ['no merges', BPE, { [`${K}merges`]: undefined }, 'bad-metadata', /merges: missing/, {}],
  ['merge without space', BPE, { [`${K}merges`]: strings(['ab']) }, 'bad-tokenizer', /merges\[0\].*"ab"/, {}],
  ['merge without right', BPE, { [`${K}merges`]: strings(['a ']) }, 'bad-tokenizer', /merges\[0\]/, {}],
  ['empty merge', BPE, { [`${K}merges`]: strings(['']) }, 'bad-tokenizer', /merges\[0\]/, {}],
  ['merge of raw spaces', BPE, { [`${K}merges`]: strings(['  a']) }, 'bad-tokenizer', /byte alphabet/, {}],
  [
    'merges of another vocabulary',
    BPE,
    { [`${K}merges`]: strings(['x y', 'y z', 'a b']) },
    'bad-tokenizer',
    /do not belong to this vocabulary/,
    { [`${K}merges`]: strings(['a b', 'x y', 'a b']) },
  ],
  ['unknown pre', BPE, { [`${K}pre`]: 'nope' }, 'unsupported-tokenizer', /"nope"/, { [`${K}pre`]: 'mpt' }],
  ['pre as number', BPE, { [`${K}pre`]: 1 }, 'bad-metadata', /tokenizer\.ggml\.pre/, {}],
];

describe('hostile metadata', () => {
  test.each(cases)('%s', (_name, base, bad, code, says, twin) => {
    const error = errorOf({ ...base, ...bad });
    expect(error.code).toBe(code);
    expect(error.message).toMatch(says);
    expect(() => load({ ...base, ...twin })).not.toThrow();
  });

  test('tokens forged to share a hash are refused instead of taking hours', () => {
    const collide = forgeCollisions(13);
    expect(collide.length).toBe(8192);
    const error = errorOf({ ...SPM, ...vocabulary(collide) });
    expect(error.message).toMatch(/collide/);
    const honest = collide.map((_, i) => new TextEncoder().encode(`token ${i}`));
    expect(() => load({ ...SPM, ...vocabulary(honest) })).not.toThrow();
  });

  test('duplicate and empty tokens load; the later one is found', () => {
    const metadata = { ...SPM, ...vocabulary(['', 'a', 'a', '\u2581'].map((text) => new TextEncoder().encode(text))) };
    expect(load(metadata).encode('a')).toEqual([3, 2]);
  });

  test('tokens that are not UTF-8 load and are never cut out of text', () => {
    const metadata = { ...SPM, ...vocabulary([Uint8Array.of(0xff, 0xfe), new TextEncoder().encode('\u2581')]) };
    metadata[`${K}token_type`] = Int32Array.of(3, 1);
    metadata[`${K}unknown_token_id`] = 1;
    expect(load(metadata).encode('\ufffd\ufffd', { special: true })).not.toContain(0);
  });
});

function vocabulary(tokens: readonly Uint8Array[]): Metadata {
  return { [`${K}tokens`]: strings(tokens), [`${K}scores`]: undefined, [`${K}token_type`]: undefined };
}

/**
 * 2^depth texts of one length with the same FNV-1a: find two blocks that lead from the start to one state, then two
 * that lead from there to one state, and so on; any choice of blocks collides (Joux 2004).
 */
function forgeCollisions(depth: number): Uint8Array[] {
  let state = 0x811c9dc5;
  let texts: number[][] = [[]];
  const next = random(42);
  for (let level = 0; level < depth; level++) {
    const seen = new Map<number, number[]>();
    for (;;) {
      const block = Array.from({ length: 6 }, () => Math.floor(next() * 256));
      let end = state;
      for (const byte of block) end = Math.imul(end ^ byte, 0x01000193);
      const twin = seen.get(end);
      seen.set(end, block);
      if (twin === undefined) continue;
      texts = texts.flatMap((text) => [
        [...text, ...block],
        [...text, ...twin],
      ]);
      state = end;
      break;
    }
  }
  return texts.map((text) => Uint8Array.from(text));
}

/** Protobuf by hand: what a careless or malicious writer could put into tokenizer.model. */
const utf8 = new TextEncoder();
const varint = (value: number): number[] =>
  value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))];
const integer = (field: number, value: number) => [...varint(field * 8), ...varint(value)];
const bytes = (field: number, content: Iterable<number>) => {
  const list = [...content];
  return [...varint(field * 8 + 2), ...varint(list.length), ...list];
};
const float = (field: number, value: number) => [
  ...varint(field * 8 + 5),
  ...new Uint8Array(Float32Array.of(value).buffer),
];
const piece = (text: string, score = 0, type = 1) =>
  bytes(1, [...bytes(1, utf8.encode(text)), ...float(2, score), ...integer(3, type)]);
const PIECES = [...piece('<unk>', 0, 2), ...piece('<s>', 0, 3), ...piece('</s>', 0, 3), ...piece('a', -1)];
const TRAINER = bytes(2, integer(3, 2));
const MINUS_ONE = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];

const models: [name: string, model: number[], code: string, says: RegExp][] = [
  ['empty', [], 'bad-tokenizer', /no pieces/],
  ['no trainer: unigram by default', PIECES, 'unsupported-tokenizer', /got unigram/],
  ['unigram', [...PIECES, ...bytes(2, integer(3, 1))], 'unsupported-tokenizer', /got unigram/],
  ['word', [...PIECES, ...bytes(2, integer(3, 3))], 'unsupported-tokenizer', /got word/],
  ['a kind of 2^31', [...PIECES, ...bytes(2, integer(3, 2 ** 31))], 'unsupported-tokenizer', /got -1/],
  [
    'text of 2^31 bytes',
    [...TRAINER, 0x0a, ...varint(2 ** 31), 0x61],
    'truncated',
    /byte 4: a field.*at most 1 bytes, got 2147483648/,
  ],
  ['text of 2^63 bytes', [0x0a, ...MINUS_ONE.slice(0, 9), 0x00], 'truncated', /at most 0 bytes/],
  ['a piece longer than its message', bytes(1, [0x0a, 5, 0x61]), 'truncated', /piece 0: byte 2/],
  ['a number without end', [...PIECES, 0x10, ...new Array(20).fill(0xff)], 'truncated', /a number does not end/],
  ['a number cut off', [...PIECES, 0x10, 0x80], 'truncated', /a number does not end/],
  ['a group', [...PIECES, 0x0b], 'bad-container', /wire type 0, 1, 2 or 5, got 3/],
  ['field 0', [...PIECES, 0x02, 0x00], 'bad-container', /not a protobuf field/],
  ['a huge field number', [...PIECES, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x00], 'bad-container', /not a protobuf field/],
  ['text as a number', bytes(1, integer(1, 5)), 'bad-container', /piece 0: field 1.*wire type 2, got 0/],
  ['a score as text', bytes(1, [...bytes(1, [0x61]), ...bytes(2, [0x61])]), 'bad-container', /field 2/],
  ['a piece as a number', integer(1, 7), 'bad-container', /wire type 2, got 0/],
  ['a trainer as a number', [...PIECES, ...integer(2, 7)], 'bad-container', /trainer: field 2/],
  [
    'a score that is NaN',
    [...TRAINER, ...PIECES, ...piece('b', Number.NaN)],
    'bad-tokenizer',
    /piece 4: bad score.*NaN/,
  ],
  ['an infinite score', [...TRAINER, ...PIECES, ...piece('b', -Infinity)], 'bad-tokenizer', /piece 4: bad score/],
  ['type 7', [...TRAINER, ...PIECES, ...piece('b', 0, 7)], 'bad-tokenizer', /piece 4: unknown type.*got 7/],
  ['no text', [...TRAINER, ...PIECES, ...bytes(1, float(2, 1))], 'bad-tokenizer', /piece 4: a piece without text/],
  [
    'text that is not UTF-8',
    [...TRAINER, ...bytes(1, bytes(1, [0xff]))],
    'bad-tokenizer',
    /piece 0: text is not UTF-8/,
  ],
  [
    'bos beyond the pieces',
    [...PIECES, ...bytes(2, [...integer(3, 2), ...integer(41, 4)])],
    'bad-tokenizer',
    /bos_id.*0 to 3, or -1, got 4/,
  ],
  [
    'unk beyond the pieces',
    [...PIECES, ...bytes(2, [...integer(3, 2), ...integer(40, 99)])],
    'bad-tokenizer',
    /unk_id/,
  ],
  [
    'spaces at the end of words',
    [...PIECES, ...bytes(2, [...integer(3, 2), ...integer(24, 1)])],
    'unsupported-tokenizer',
    /end in a space/,
  ],
  ['spaces as they are', [...PIECES, ...TRAINER, ...bytes(3, integer(5, 0))], 'unsupported-tokenizer', /not escaped/],
  [
    'a token of 1 MB',
    [...TRAINER, ...PIECES, ...piece('x'.repeat(1 << 20))],
    'limit-exceeded',
    /piece 4: text too long.*got 1048576/,
  ],
  ['tiktoken ranks', [...utf8.encode('IQ== 0\nIg== 1\n')], 'unsupported-tokenizer', /tiktoken/],
  ['JSON', [...utf8.encode('{"a": 1}')], 'bad-container', /tokenizer\.model: byte 0/],
];

describe('hostile tokenizer.model', () => {
  test.each(models)('%s', (_name, model, code, says) => {
    let caught: unknown;
    try {
      readSentencePiece(Uint8Array.from(model), 'tokenizer.model');
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(BitnetError);
    expect((caught as BitnetError).code).toBe(code);
    expect((caught as BitnetError).message).toMatch(says);
  });

  test('the good twin: none of the special ids, unknown fields, a name with rules', () => {
    const none = [40, 41, 42, 43].flatMap((field) => [...varint(field * 8), ...MINUS_ONE]);
    const unknown = [...integer(99, 1), ...bytes(100, [1, 2]), ...float(101, 1), 0xb1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8];
    const rules = bytes(3, [...bytes(1, utf8.encode('nmt_nfkc')), ...bytes(2, [1, 2, 3])]);
    const read = readSentencePiece(
      Uint8Array.from([...PIECES, ...bytes(2, [...integer(3, 2), ...none]), ...unknown, ...rules]),
      'good',
    );
    expect(read).toMatchObject({ bosId: undefined, eosId: undefined, unknownId: undefined, paddingId: undefined });
    expect(read.texts).toEqual(['<unk>', '<s>', '</s>', 'a']);
    expect(read.notes).toEqual(['the normalizer "nmt_nfkc" cannot be carried over']);
  });

  test('any byte of a model may be wrong: it is read or refused', () => {
    const good = Uint8Array.from([...PIECES, ...TRAINER]);
    const next = random(7);
    for (let i = 0; i < 4000; i++) {
      const bad = good.slice();
      for (let n = 0; n < 3; n++) bad[Math.floor(next() * bad.length)] = Math.floor(next() * 256);
      try {
        readSentencePiece(bad, 'fuzz');
      } catch (error) {
        expect(error).toBeInstanceOf(BitnetError);
      }
    }
  });
});

const LOW = '\u2581';
type Json = Record<string, unknown>;
const scoredTokenizer = (model: Json, more: Json = {}): Json => ({
  added_tokens: [],
  normalizer: { type: 'Replace', pattern: { String: ' ' }, content: LOW },
  model: { type: 'BPE', byte_fallback: true, vocab: { a: 0, b: 1, ab: 2 }, merges: ['a b'], ...model },
  ...more,
});
const rankedTokenizer = (model: Json, more: Json = {}): Json => ({
  added_tokens: [],
  pre_tokenizer: { type: 'ByteLevel', use_regex: true },
  model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2 }, merges: ['a b'], ...model },
  ...more,
});
const addedToken = (id: unknown, content: unknown = '<x>') => ({ added_tokens: [{ id, content, special: true }] });

const tokenizers: [name: string, tokenizer: Json, code: string, says: RegExp][] = [
  [
    'a hole in the vocabulary',
    scoredTokenizer({ vocab: { a: 0, b: 1, ab: 3 } }),
    'bad-tokenizer',
    /"ab".*below 3, got 3/,
  ],
  ['an id twice', scoredTokenizer({ vocab: { a: 0, b: 0, ab: 2 } }), 'bad-tokenizer', /"b".*an id of its own/],
  ['a negative id', scoredTokenizer({ vocab: { a: -1, b: 1, ab: 2 } }), 'bad-tokenizer', /"a"/],
  ['an id that is text', scoredTokenizer({ vocab: { a: '0', b: 1, ab: 2 } }), 'bad-tokenizer', /"a"/],
  ['no vocabulary', scoredTokenizer({ vocab: null }), 'bad-tokenizer', /no vocabulary/],
  ['a merge of nothing known', scoredTokenizer({ merges: ['a b', 'b a'] }), 'bad-tokenizer', /merges\[1\].*/],
  ['a merge of __proto__', scoredTokenizer({ merges: [['__pro', 'to__']] }), 'bad-tokenizer', /a merge makes no token/],
  ['a merge of three', scoredTokenizer({ merges: ['a b c'] }), 'bad-tokenizer', /merges\[0\]/],
  ['merges that are no list', scoredTokenizer({ merges: 'a b' }), 'bad-tokenizer', /no merges/],
  ['an added id beyond', scoredTokenizer({}, addedToken(99)), 'bad-tokenizer', /"<x>".*below vocab_size 8, got 99/],
  ['an added id of 2^31', scoredTokenizer({}, addedToken(2 ** 31)), 'bad-tokenizer', /got 2147483648/],
  ['an added id that is taken', scoredTokenizer({}, addedToken(1)), 'bad-tokenizer', /got 1, which is "b"/],
  ['an added token without text', scoredTokenizer({}, addedToken(5, 7)), 'bad-tokenizer', /bad added token/],
  [
    'more tokens than rows',
    scoredTokenizer({ vocab: Object.fromEntries([...'abcdefghijk'].map((c, i) => [c, i])), merges: [] }),
    'bad-tokenizer',
    /vocab_size.*at least 11, got 8/,
  ],
  [
    'a token of 1 MB',
    scoredTokenizer({}, addedToken(5, 'x'.repeat(1 << 20))),
    'limit-exceeded',
    /tokens\[5\].*65536 bytes, got 1048576/,
  ],
  ['byte level: an id beyond', rankedTokenizer({ vocab: { a: 8 } }), 'bad-tokenizer', /"a".*below vocab_size 8/],
  ['byte level: an added id that is taken', rankedTokenizer({}, addedToken(2)), 'bad-tokenizer', /which is "ab"/],
  ['byte level: a merge with a space', rankedTokenizer({ merges: [['a ', 'b']] }), 'bad-tokenizer', /without a space/],
];

describe('hostile tokenizer.json', () => {
  const convert = (tokenizer: Json) =>
    tokenizerMetadata({ tokenizer, config: {} } as unknown as TokenizerFiles, 8).metadata;

  test.each(tokenizers)('%s', (_name, tokenizer, code, says) => {
    let caught: unknown;
    try {
      convert(tokenizer);
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(BitnetError);
    expect((caught as BitnetError).code).toBe(code);
    expect((caught as BitnetError).message).toMatch(says);
  });

  test('the good twins', () => {
    expect(() => convert(scoredTokenizer({}, addedToken(5)))).not.toThrow();
    // Holes in a byte-level vocabulary are filled: the model has rows for them.
    expect(() => convert(rankedTokenizer({ vocab: { a: 0, b: 3, ab: 6 } }, addedToken(7)))).not.toThrow();
  });

  test('special ids beyond the vocabulary', () => {
    const files = { tokenizer: scoredTokenizer({}), config: { eos_token_id: [2, 2 ** 31] } };
    expect(() => tokenizerMetadata(files as unknown as TokenizerFiles, 8)).toThrow(
      /eos_token_id.*0 to 7, got 2147483648/,
    );
  });
});
