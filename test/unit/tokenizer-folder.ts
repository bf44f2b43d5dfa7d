/** llama.cpp's test vectors: the folder named by BITNET_SHARED, or `shared/` beside the repository. */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect } from 'vitest';

const root = resolve(import.meta.dirname, '../..');
export const vectorFolder = [process.env.BITNET_SHARED ?? join(root, '../shared')]
  .flatMap((shared) => [join(shared, 'vocab'), shared])
  .find((candidate) => existsSync(join(candidate, 'ggml-vocab-llama-bpe.gguf')));
if (vectorFolder === undefined) {
  console.log('tokenizer vectors: skipped, no folder with ggml-vocab-llama-bpe.gguf (set BITNET_SHARED)');
}

export const vocabularyPath = (name: string): string => join(vectorFolder ?? '', `ggml-vocab-${name}.gguf`);

const SEPARATOR = '\n__ggml_vocab_test__\n';

/** 46 texts and their ids, without begin and end tokens, special tokens as plain text. */
export function readVectors(name: string): { text: string; ids: number[] }[] {
  const texts = readFileSync(`${vocabularyPath(name)}.inp`, 'utf8')
    .split(SEPARATOR)
    .slice(0, 46);
  const lines = readFileSync(`${vocabularyPath(name)}.out`, 'utf8')
    .split('\n')
    .slice(0, 46);
  expect([texts.length, lines.length]).toEqual([46, 46]);
  return texts.map((text, i) => ({
    text,
    ids: lines[i].trim() === '' ? [] : lines[i].trim().split(/\s+/).map(Number),
  }));
}
