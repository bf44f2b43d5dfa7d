/**
 * Whole published vocabularies against llama.cpp's own test vectors (46 texts each). The files are too large for the
 * repository: see tokenizer-folder.ts. Qwen 2, whose vocabulary is not among them, is in tokenizer-published.test.ts.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { readGgufHeader } from '../../src/formats/gguf/reader.ts';
import type { GgufValue } from '../../src/formats/gguf/types.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { createTokenizer, type FromMetadataOptions, tokenizerSpecFromMetadata } from '../../src/tokenizer/index.ts';
import { readVectors, vectorFolder, vocabularyPath } from './tokenizer-folder.ts';

const NAMES = ['llama-bpe', 'llama-spm', 'falcon', 'gpt-2', 'starcoder', 'refact', 'mpt', 'deepseek-coder'];

function plain(value: GgufValue | undefined): unknown {
  if (value === undefined) return undefined;
  if (value.type === 'string') return value.text;
  return value.type === 'array' ? value.values : value.value;
}

async function load(name: string, options: FromMetadataOptions = {}, without: readonly string[] = []) {
  const { metadata } = await readGgufHeader(memorySource(readFileSync(vocabularyPath(name))));
  const spec = tokenizerSpecFromMetadata(
    (key) => (without.includes(key) ? undefined : plain(metadata.get(key))),
    options,
  );
  return createTokenizer(spec);
}

describe.skipIf(vectorFolder === undefined)('published vocabularies', () => {
  test.each(NAMES)('%s: 46 of 46', async (name) => {
    const tokenizer = await load(name);
    for (const { text, ids: expected } of readVectors(name)) {
      const ids = tokenizer.encode(text);
      expect(ids, JSON.stringify(text)).toEqual(expected);
      expect(tokenizer.decode(ids)).toBe(text);
    }
  });

  test('the Llama 3 vocabulary is recognised when the file names no pre-tokenizer', async () => {
    const without = ['tokenizer.ggml.pre'];
    const tokenizer = await load('llama-bpe', {}, without);
    expect(tokenizer.spec.pre).toEqual({ name: 'llama-bpe', origin: 'recognised' });
    expect(tokenizer.spec.addBos).toBe(true);
    await expect(load('gpt-2', {}, without)).rejects.toThrow(/--pre NAME/);
  });

  test('--pre default gives the ids of bitnet.cpp, which differ', async () => {
    const trained = await load('llama-bpe');
    const native = await load('llama-bpe', { pre: 'default' });
    const pieces = (tokenizer: typeof trained) => tokenizer.encode("I'm !! (foo").map((id) => tokenizer.describe(id));
    expect(pieces(trained)).toEqual(['"I"', '"\'m"', '" !!"', '" ("', '"foo"']);
    expect(pieces(native)).toEqual(['"I"', '"\'"', '"m"', '" "', '"!!"', '" "', '"("', '"foo"']);
  });

  test('building the largest takes well under a second', async () => {
    await load('llama-bpe');
    const { metadata } = await readGgufHeader(memorySource(readFileSync(vocabularyPath('llama-bpe'))));
    // Processor time, because the machines that test us have other things to do.
    const before = process.cpuUsage();
    createTokenizer(tokenizerSpecFromMetadata((key) => plain(metadata.get(key))));
    const { user, system } = process.cpuUsage(before);
    // Measured 0.16 to 0.27 s on Node 20 on a quiet machine.
    expect((user + system) / 1e6).toBeLessThan(2);
  });
});
