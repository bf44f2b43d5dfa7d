import { describe, expect, test } from 'vitest';
import { bpe, getter, type Metadata, random, spm, strings } from '../../fixtures/tokenizer/vocabularies.ts';
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
