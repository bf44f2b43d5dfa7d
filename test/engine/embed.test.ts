/**
 * `model.embed`: against the float64 reference, and the same bits alone, in company, on every backend, with any number of
 * threads and any batch size.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { GgufValue } from '../../src/formats/gguf/types.ts';
import { copyOf, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import {
  cosineSimilarity,
  dequantizeEmbedding,
  type EmbedOptions,
  loadModel,
  type Model,
  type QuantizedEmbedding,
} from '../../src/index.ts';
import { tinyModel } from '../model/models.ts';
import { recode } from '../model/recode.ts';
import { referenceHidden, relativeRms } from '../model/reference64.ts';

const texts = [
  'A cat sleeps.',
  'One day, a dog ran after a cat, and the cat climbed a tree. '.repeat(2),
  'x',
  'A bird sings in the tree by the house.',
  'A cat sleeps.',
];
/** No int8 code of its eight tokens lies so near a half that f32 and f64 round it apart: then vectors differ by 1e-4 and more. */
const flipless = 'cats';
const kv = { kType: 'f32', vType: 'f16' } as const;

/** Files as tests need them, with other metadata. */
async function withMetadata(file: Uint8Array, values: Record<string, GgufValue>): Promise<Uint8Array> {
  const gguf = await openGguf(memorySource(file));
  const metadata = new Map([...gguf.metadata, ...Object.entries(values)]);
  const sink = memorySink();
  await writeGguf(sink, { metadata, tensors: gguf.tensors.map((tensor) => copyOf(tensor)) });
  return sink.bytes();
}

const bits = (vectors: readonly Float32Array[]) => vectors.map((vector) => Buffer.from(vector.buffer).toString('hex'));

describe.each(['qwen3', 'gemma3', 'bitnet-b1.58'] as const)('%s', (architecture) => {
  let file: Uint8Array;
  let model: Model;
  beforeAll(async () => {
    file = await tinyModel({ architecture });
    model = await loadModel(file, { threads: 2, batchSize: 48 });
  });
  afterAll(() => model.dispose());

  it.each(['last', 'mean', 'cls'] as const)('%s is what the float64 reference says', async (pooling) => {
    const ids = model.tokenizer.encodePrompt(flipless);
    const rows = await referenceHidden(file, ids, kv);
    const hidden = rows.length / ids.length;
    const row = (i: number) => rows.slice(i * hidden, (i + 1) * hidden);
    const mean = Float64Array.from({ length: hidden }, (_, i) => {
      return ids.reduce((sum, _, j) => sum + rows[j * hidden + i], 0) / ids.length;
    });
    const want = { last: row(ids.length - 1), mean, cls: row(0) }[pooling];
    const length = Math.hypot(...want);
    const [plain] = await model.embed([flipless], { pooling, normalize: false, ...kv });
    const [unit] = await model.embed([flipless], { pooling, ...kv });
    expect(relativeRms(plain, want)).toBeLessThan(1e-5);
    expect(
      relativeRms(
        unit,
        want.map((x) => x / length),
      ),
    ).toBeLessThan(1e-5);
  });

  it('has the same bits alone and in company, on every backend, with any threads and batches', async () => {
    const want = bits(await model.embed(texts));
    expect(want[0]).toBe(want[4]);
    expect(new Set(want).size).toBe(4);
    const alone: Float32Array[] = [];
    for (const text of texts) alone.push(...(await model.embed([text])));
    expect(bits(alone)).toEqual(want);
    expect(bits(await model.embed(texts.slice().reverse())).reverse()).toEqual(want);
    for (const options of [
      { backend: 'ts', batchSize: 64 },
      { threads: 1, batchSize: 1 },
      { threads: 3, batchSize: 7 },
    ] as const) {
      const other = await loadModel(file, options);
      expect(bits(await other.embed(texts)), JSON.stringify(options)).toEqual(want);
      await other.dispose();
    }
  }, 120_000);

  it('is the row from which a session makes its logits', async () => {
    // Of a tied head: the logits of the last token are products with the embedding table.
    const session = model.createSession();
    const logits = await session.prefill(model.tokenizer.encodePrompt(texts[3]));
    const [vector] = await model.embed([texts[3]], { pooling: 'last', normalize: false });
    const gguf = await openGguf(memorySource(file));
    const table = gguf.tensor('token_embd.weight');
    const bytes = new Uint8Array(table.byteLength);
    await table.source.readInto(bytes, table.offsetBytes);
    const { decodeInto } = await import('../../src/tensors/decode.ts');
    const rows = new Float32Array(table.elements);
    decodeInto(table.dtype, bytes, 0, table.elements, rows);
    const products = Float64Array.from({ length: logits.length }, (_, row) => {
      return vector.reduce((sum, x, i) => sum + x * rows[row * vector.length + i], 0);
    });
    expect(relativeRms(logits, products)).toBeLessThan(1e-6);
    await session.dispose();
  });

  it('gives back all memory it took', async () => {
    const before = model.memory().usedBytes;
    await model.embed(texts);
    expect(model.memory().usedBytes).toBe(before);
    // Aborted at the third look: one batch of a text of several has been computed, and its cache is held.
    const reason = new Error('enough');
    let looks = 0;
    const signal = {
      throwIfAborted() {
        if (++looks === 3) throw reason;
      },
    } as AbortSignal;
    await expect(model.embed(['a cat '.repeat(30)], { signal })).rejects.toBe(reason);
    expect(looks).toBe(3);
    expect(model.memory().usedBytes).toBe(before);
  });

  it('beside a generation changes neither', async () => {
    const session = model.createSession();
    const alone = await session.generate('A cat', { maxTokens: 12, temperature: 0 }).result;
    const want = bits(await model.embed(texts));
    const other = model.createSession();
    const [beside, vectors] = await Promise.all([
      other.generate('A cat', { maxTokens: 12, temperature: 0 }).result,
      model.embed(texts),
    ]);
    expect(beside.tokens).toEqual(alone.tokens);
    expect(bits(vectors)).toEqual(want);
    await session.dispose();
    await other.dispose();
  });

  it.each([
    ['int8', 0.9999],
    ['int4', 0.99],
    ['int2', 0.85],
    ['binary', 0.75],
  ] as const)('%s keeps the direction to a cosine of %f', async (quantize, least) => {
    const vectors = await model.embed(texts, { pooling: 'last' });
    const stored = await model.embed(texts, { pooling: 'last', quantize });
    stored.forEach((one, i) => {
      expect(one.format).toBe(quantize);
      expect(cosineSimilarity(dequantizeEmbedding(one), vectors[i])).toBeGreaterThan(least);
    });
  });
});

describe('projections that are not ternary', () => {
  // The rows that a dense projection reads are normalised into a buffer of their own: the input must survive for the next one.
  it.each(['qwen3', 'gemma3'])(
    '%s with F16 matrices differs only by the rounding of activations',
    async (architecture) => {
      const vectors: Float32Array[] = [];
      const ternary = await tinyModel({ architecture });
      // The first value of each matrix a little larger: no longer ternary, so its inputs stay floats.
      const floats = await recode(ternary, 'F16', { change: (_, values) => values.set([values[0] + 0.01]) });
      for (const [file, backend] of [
        [ternary, 'wasm'],
        [floats, 'wasm'],
        [floats, 'ts'],
      ] as const) {
        const model = await loadModel(file, { backend });
        vectors.push((await model.embed(['A cat'], { pooling: 'last' }))[0]);
        await model.dispose();
      }
      expect(cosineSimilarity(vectors[0], vectors[1])).toBeGreaterThan(0.998);
      expect(cosineSimilarity(vectors[0], vectors[1])).toBeLessThan(1 - 1e-7);
      expect(bits([vectors[1]])).toEqual(bits([vectors[2]]));
    },
  );
});

describe('what the file says', () => {
  const u32 = (value: number): GgufValue => ({ type: 'u32', value });

  it('pooling comes from the file, and can be overruled; mean of a BitNet embedding is noted', async () => {
    const file = await tinyModel({ architecture: 'qwen3' });
    const vectors = new Map<string, string>();
    const chosen = await loadModel(file, { threads: 1 });
    expect(chosen.notes.filter((note) => /mean/.test(note))).toEqual([]);
    for (const pooling of ['mean', 'cls', 'last'] as const) {
      vectors.set(pooling, bits(await chosen.embed(['A cat'], { pooling }))[0]);
    }
    await chosen.dispose();
    expect(new Set(vectors.values()).size).toBe(3);
    for (const [type, name] of [
      [1, 'mean'],
      [2, 'cls'],
      [3, 'last'],
    ] as const) {
      const model = await loadModel(await withMetadata(file, { 'qwen3.pooling_type': u32(type) }), { threads: 1 });
      expect(bits(await model.embed(['A cat']))[0]).toBe(vectors.get(name));
      expect(model.notes.some((note) => /mean over all tokens/.test(note))).toBe(name === 'mean');
      await model.dispose();
    }
  });

  it('an end token that the model wants is the last token, also of a text that was cut', async () => {
    const file = await withMetadata(await tinyModel({ architecture: 'qwen3' }), {
      'tokenizer.ggml.add_eos_token': { type: 'bool', value: true },
    });
    const model = await loadModel(file, { threads: 1 });
    const ids = model.tokenizer.encodePrompt('A cat');
    expect(ids.at(-1)).toBe(model.tokenizer.spec.eosId);
    const rows = await referenceHidden(file, ids, { kType: 'f16', vType: 'f16' });
    const [vector] = await model.embed(['A cat'], { normalize: false });
    expect(relativeRms(vector, rows.slice(-vector.length))).toBeLessThan(1e-4);
    // Cut after "A c": begin token, three of text, end token.
    const [cut] = await model.embed(['A cat'], { maxTokens: ids.length - 2, truncate: true });
    const short = [...ids.slice(0, ids.length - 3), ids[ids.length - 1]];
    const wanted = await referenceHidden(file, short, { kType: 'f16', vType: 'f16' });
    expect(cosineSimilarity(cut, wanted.slice(-vector.length))).toBeGreaterThan(1 - 1e-8);
    expect(cosineSimilarity(cut, vector)).toBeLessThan(0.999);
    await model.dispose();
  });

  it('instructions go before the text', async () => {
    const model = await loadModel(await tinyModel({ architecture: 'qwen3' }), { threads: 1 });
    const [plain, task, whole] = [
      await model.embed(['Instruct: Find it\nQuery: cat$&']),
      await model.embed(['cat$&'], { instruction: 'Find it' }),
      await model.embed(['cat$&'], { instruction: 'Instruct: Find it\nQuery:{text}' }),
    ];
    expect(bits(task)).toEqual(bits(plain));
    expect(bits(whole)).toEqual(bits(await model.embed(['Instruct: Find it\nQuery:cat$&'])));
    expect(bits(whole)).not.toEqual(bits(plain));
    await model.dispose();
  });
});

describe('types', () => {
  it('what callers keep in variables finds its overload too', async () => {
    const model = await loadModel(await tinyModel({ architecture: 'qwen3' }), { threads: 1 });
    const options: EmbedOptions = { quantize: 'int8' };
    const floats: Float32Array[] = await model.embed(['x'], { quantize: undefined });
    const codes: QuantizedEmbedding[] = await model.embed(['x'], { quantize: 'int8' });
    const either: Float32Array[] | QuantizedEmbedding[] = await model.embed(['x'], options);
    expect(either).toEqual(codes);
    expect(floats[0]).toBeInstanceOf(Float32Array);
    // @ts-expect-error codes are not floats
    const wrong: Float32Array[] = await model.embed(['x'], { quantize: 'int8' });
    expect(wrong).toEqual(codes);
    await model.dispose();
  });
});
