/**
 * `bitnet embed` as a user runs it. The layouts are those of llama-embedding, compared by hand with its output for all
 * formats and norms; here they are pinned.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { cosineSimilarity } from '../../src/index.ts';
import { tinyModel } from '../model/models.ts';
import { bitnet } from './program.ts';

vi.setConfig({ testTimeout: 120_000 });

let folder: string;
let model: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-embed-'));
  model = join(folder, 'model.gguf');
  await writeFile(model, await tinyModel({ architecture: 'qwen3' }));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

async function ok(...args: string[]): Promise<string> {
  const { code, out, err } = await bitnet(['embed', '-m', model, '-t', '1', ...args]);
  expect(err).toBe('');
  expect(code).toBe(0);
  return out;
}

interface Answer {
  readonly object: string;
  readonly data: readonly { object: string; index: number; embedding: number[]; format?: string; scale?: number }[];
  readonly cosineSimilarity?: number[][];
}

describe('bitnet embed', () => {
  it('prints one vector whole, of several the beginnings and the cosines', async () => {
    const one = await ok('-p', 'A cat');
    expect(one).toMatch(/^\nembedding 0:( {0,2}-?0\.\d{6} ){256}\n$/);
    const two = await ok('-p', 'A cat\nTwo dogs and a bird');
    expect(two).toMatch(/^\nembedding 0:( {0,2}-?0\.\d{6} ){16}\nembedding 1:( {0,2}-?0\.\d{6} ){16}\n\n/);
    expect(two.split('\n\n')[1]).toBe('cosine similarity matrix:');
    expect(two.split('\n').slice(-4, -1)).toEqual([
      ' A cat Two do ',
      expect.stringMatching(/^ {2}1\.00 {2,3}-?0\.\d\d A cat$/),
      expect.stringMatching(/^ {1,2}-?0\.\d\d {3}1\.00 Two dogs a$/),
    ]);
    expect(one.slice(0, 100)).toBe(two.slice(0, 100));
  });

  it('an empty text is a text', async () => {
    const alone = await bitnet(['embed', '-p', '', '-q', '--embd-output-format', 'array']);
    expect(alone.code, alone.err).toBe(0);
    const two = await bitnet(['embed', '-p', '', '-p', 'a', '-q', '--embd-output-format', 'array']);
    expect(JSON.parse(two.out)[0]).toEqual(JSON.parse(alone.out)[0]);
  });

  it('arrays and JSON hold the same vectors, of length one, and json+ their cosines', async () => {
    const texts = ['-p', 'A cat\nTwo dogs', '-p', 'A cat'];
    const vectors = JSON.parse(await ok(...texts, '--embd-output-format', 'array')) as number[][];
    const json = JSON.parse(await ok(...texts, '--embd-output-format', 'json')) as Answer;
    const plus = JSON.parse(await ok(...texts, '--embd-output-format', 'json+')) as Answer;
    expect(vectors.length).toBe(3);
    for (const vector of vectors) expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
    expect(json).toEqual({
      object: 'list',
      data: vectors.map((embedding, index) => ({ object: 'embedding', index, embedding })),
    });
    expect(plus.data).toEqual(json.data);
    const rounded = vectors.map((a) => vectors.map((b) => Number(cosineSimilarity(a, b).toFixed(2))));
    expect(plus.cosineSimilarity).toEqual(rounded);
    expect(vectors[0]).toEqual(vectors[2]);
    expect(vectors[0]).not.toEqual(vectors[1]);
  });

  it('texts from a file, by another separator, with an instruction, from other tokens', async () => {
    const file = join(folder, 'texts.txt');
    await writeFile(file, 'A cat\nis here;;Two dogs\n');
    const format = ['--embd-output-format', 'array'];
    const both = JSON.parse(await ok('-f', file, '--embd-separator', ';;', ...format)) as number[][];
    const typed = JSON.parse(await ok('-p', 'A cat\\nis here', '--embd-separator', ';;', ...format)) as number[][];
    expect(both.length).toBe(2);
    expect(typed).toEqual([both[0]]);
    const task = JSON.parse(await ok('-p', 'Two dogs', '--instruction', 'Find', ...format)) as number[][];
    const whole = ['-p', 'Instruct: Find\\nQuery: Two dogs', '--embd-separator', ';;', ...format];
    expect(task).toEqual(JSON.parse(await ok(...whole)));
    expect(task[0]).not.toEqual(both[1]);
    const mean = JSON.parse(await ok('-p', 'Two dogs', '--pooling', 'mean', ...format)) as number[][];
    expect(mean[0]).not.toEqual(both[1]);
    const int16 = JSON.parse(await ok('-p', 'Two dogs', '--embd-normalize', '0', ...format)) as number[][];
    expect(Math.max(...int16[0].map(Math.abs))).toBe(32760);
    expect(int16[0].every(Number.isInteger)).toBe(true);
    expect(cosineSimilarity(int16[0], both[1])).toBeGreaterThan(0.99999);
  });

  it('codes and their scale', async () => {
    const text = ['-p', 'Two dogs', '--embd-output-format', 'json'];
    const { data: plain } = JSON.parse(await ok(...text)) as Answer;
    const { data } = JSON.parse(await ok(...text, '--quantize', 'int4')) as Answer;
    const { embedding, format, scale = 0 } = data[0];
    expect([format, Math.max(...embedding.map(Math.abs))]).toEqual(['int4', 7]);
    expect(
      cosineSimilarity(
        embedding.map((code) => code * scale),
        plain[0].embedding,
      ),
    ).toBeGreaterThan(0.99);
  });

  it.each([
    [[], 'bitnet: give -p or -f; see bitnet embed --help'],
    [['-p', 'a', '--embd-separator', ''], 'bitnet: --embd-separator is empty; see bitnet embed --help'],
    [['-p', 'a', '--pooling', 'max'], 'bitnet: --pooling takes mean, cls, last; got "max"; see bitnet embed --help'],
    [
      ['-p', 'a', '--embd-normalize', '-2'],
      'bitnet: --embd-normalize takes an integer from -1 to 64, got "-2"; see bitnet embed --help',
    ],
  ])('refuses %j', async (args, message) => {
    const { code, out, err } = await bitnet(['embed', '-m', model, ...args]);
    expect([code, out, err]).toEqual([2, '', `${message}\n`]);
  });

  it('refuses what is too long, and cuts it when told to', async () => {
    const long = ['-m', model, '-p', 'abcdef'.repeat(100), '-t', '1'];
    const { code, out, err } = await bitnet(['embed', ...long]);
    expect([code, out]).toEqual([1, '']);
    expect(err).toMatch(
      /^bitnet: context-full: texts\[0\]: the text is too long, expected at most 512 tokens, got 6\d\d \(.*--truncate/,
    );
    expect((await bitnet(['embed', ...long, '--truncate'])).code).toBe(0);
    expect((await bitnet(['embed', ...long, '-c', '9', '--truncate'])).code).toBe(0);
    expect((await bitnet(['embed', ...long, '-c', '9'])).err).toMatch(/at most 9 tokens/);
  });
});
