import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { presets } from '../../src/convert/presets.ts';
import { type SynthOptions, synthesize } from '../../src/convert/synth.ts';
import type { EmbeddingType, LinearType } from '../../src/convert/types.ts';
import { type GgufFile, memorySink, memorySource, openGguf } from '../../src/formats/index.ts';
import { readModelConfig } from '../../src/model/load.ts';
import { decodeInto } from '../../src/tensors/decode.ts';
import { tokenizerSpecFromMetadata } from '../../src/tokenizer/from-metadata.ts';
import { refuses } from '../hostile/builder.ts';

async function bytesOf(options: Partial<SynthOptions>): Promise<Uint8Array> {
  const sink = memorySink();
  const { byteLength } = await synthesize(sink, { preset: 'tiny', ...options });
  const bytes = sink.bytes();
  expect(byteLength).toBe(bytes.length);
  return bytes;
}

async function opened(options: Partial<SynthOptions>): Promise<GgufFile> {
  return openGguf(memorySource(await bytesOf(options)));
}

it('writes the first layers of a preset as they are in all', async () => {
  const [one, all] = [await opened({ layers: 1 }), await opened({})];
  expect([one, all].map((gguf) => gguf.getUint('bitnet-b1.58.block_count'))).toEqual([1, 2]);
  expect(one.tensors.map(({ name }) => name)).toEqual(
    all.tensors.map(({ name }) => name).filter((name) => !name.startsWith('blk.1.')),
  );
  const name = 'blk.0.ffn_down.weight';
  expect(await valuesOf(one, name)).toEqual(await valuesOf(all, name));
});

async function valuesOf(gguf: GgufFile, name: string): Promise<Float32Array> {
  const { source, offsetBytes, byteLength, dtype, elements } = gguf.tensor(name);
  const bytes = new Uint8Array(byteLength);
  await source.readInto(bytes, offsetBytes);
  const out = new Float32Array(elements);
  decodeInto(dtype, bytes, 0, elements, out);
  return out;
}

const sha256 = (data: Uint8Array | Float32Array) => createHash('sha256').update(data).digest('hex');
const meanSquare = (values: Float32Array) => values.reduce((sum, x) => sum + x * x, 0) / values.length;

/** A change here changes every benchmark and fixture made with `bitnet synth`: think twice, then say so in the log. */
const pinned: [LinearType, EmbeddingType, string][] = [
  ['I2_S', 'F16', '843de7e958ca25da06b240e09ffaf2542dbed47be84730f3b442b60a845e4887'],
  ['TQ1_0', 'F32', '34397333f66a2798e257b8e7df372aa97822088acdd8fec1f5075e28d6274b3c'],
  ['TQ2_0', 'BF16', 'aedd4e671ed7b44149e83147701c3900e5f10f01b65071a8e0157a7088766962'],
  ['F16', 'Q8_0', '61d83a732199524ac393c60786db78a34bf8933fb06992d12687309ec7a2c0cb'],
  ['BF16', 'Q6_K', '580d02d1ef1fa37ebd83b8e86d2af99c024e5614b21ecf002a714db95dcdf7d1'],
  ['F32', 'F32', '7095fc6c0d3e9dc0c24004415229699080b5806cf893b4c262069779648e445a'],
];

describe('synthetic models', () => {
  it.each(pinned)('%s with %s is the same file everywhere', async (type, embeddingType, expected) => {
    const bytes = await bytesOf({ type, embeddingType });
    const gguf = await openGguf(memorySource(bytes));
    expect(gguf.tensor('blk.1.ffn_down.weight').dtype.name).toBe(type);
    expect(gguf.tensor('token_embd.weight').dtype.name).toBe(embeddingType);
    expect(sha256(bytes)).toBe(expected);
  });

  it('holds the same matrices in every type', async () => {
    const [first, ...others] = await Promise.all(
      (['I2_S', 'TQ1_0', 'TQ2_0', 'F16', 'F32'] as const).map((type) => opened({ type })),
    );
    for (const name of ['blk.0.attn_q.weight', 'blk.1.ffn_down.weight', 'blk.0.ffn_norm.weight']) {
      const expected = sha256(await valuesOf(first, name));
      for (const other of others) expect(sha256(await valuesOf(other, name))).toBe(expected);
    }
  });

  it('holds the same embedding in F16 and F32', async () => {
    const half = sha256(await valuesOf(await opened({ embeddingType: 'F16' }), 'token_embd.weight'));
    expect(sha256(await valuesOf(await opened({ embeddingType: 'F32' }), 'token_embd.weight'))).toBe(half);
  });

  it('keeps unit variance through a matrix', async () => {
    const gguf = await opened({});
    const down = await valuesOf(gguf, 'blk.0.ffn_down.weight');
    expect(new Set(down).size).toBe(3);
    expect(768 * meanSquare(down)).toBeCloseTo(1, 1);
    const words = (await valuesOf(gguf, 'token_embd.weight')).subarray(259 * 256);
    expect(256 * meanSquare(words)).toBeCloseTo(1, 1);
  });

  it('gives other numbers for other seeds and tensors', async () => {
    const [one, two] = await Promise.all([opened({ seed: 1 }), opened({ seed: 2 ** 40 + 1 })]);
    const q = sha256(await valuesOf(one, 'blk.0.attn_output.weight'));
    expect(sha256(await valuesOf(two, 'blk.0.attn_output.weight'))).not.toBe(q);
    expect(sha256(await valuesOf(one, 'blk.0.attn_q.weight'))).not.toBe(q);
  });

  it.each(['bitnet', 'bitnet-b1.58', 'llama'] as const)('fits the architecture %s', async (architecture) => {
    const gguf = await opened({ architecture });
    const config = readModelConfig(gguf);
    expect(config).toMatchObject({ architecture, hidden: 256, ffn: 768, nLayers: 2, nKvHeads: 2, vocabulary: 512 });
    expect(gguf.findTensor('blk.0.attn_sub_norm.weight') !== undefined).toBe(architecture !== 'llama');
    expect(gguf.tensors[0].name).toBe('token_embd.weight');
    expect(gguf.tensors.at(-1)?.name).toBe('output_norm.weight');
  });

  it('has a vocabulary of distinct words', async () => {
    const gguf = await opened({});
    const tokens = gguf.getStrings('tokenizer.ggml.tokens');
    const texts = Array.from({ length: tokens.length }, (_, i) => tokens.text(i));
    expect(new Set(texts).size).toBe(512);
    expect(texts.slice(0, 4)).toEqual(['<unk>', '<s>', '</s>', '<0x00>']);
    for (const text of texts.slice(259)) expect(text).toMatch(/^\u2581([bdfghjklmnprstvz][aeiou]){2}$/);
    const spec = tokenizerSpecFromMetadata((key) => plain(gguf, key));
    expect(spec).toMatchObject({ model: 'llama', bosId: 1, eosId: 2, unknownId: 0, addBos: true });
  });

  it('can be stopped, and leaves nothing behind', async () => {
    const controller = new AbortController();
    const sink = memorySink();
    const stopped = synthesize(sink, {
      preset: 'tiny',
      signal: controller.signal,
      onProgress: ({ doneBytes, totalBytes }) => {
        expect(doneBytes).toBeLessThanOrEqual(totalBytes);
        controller.abort(new Error('enough'));
      },
    });
    await expect(stopped).rejects.toThrow('enough');
    expect(sink.bytes().length).toBe(0);
  });

  it('reports progress up to the whole', async () => {
    const seen: number[] = [];
    let total = 0;
    await bytesOf({
      onProgress: ({ doneBytes, totalBytes }) => {
        seen.push(doneBytes);
        total = totalBytes;
      },
    });
    expect(seen.at(-1)).toBe(total);
  });

  it('refuses what cannot be', async () => {
    const aborted = { ...memorySink(), aborts: 0, abort: async () => void aborted.aborts++ };
    await refuses(
      synthesize(aborted, { preset: '3b', type: 'TQ1_0' }),
      'bad-argument',
      /cannot be written as TQ1_0: blk\.0\.attn_q\.weight.*multiple of 256, got 3200.*I2_S/,
    );
    expect(aborted.aborts).toBe(1);
    await refuses(synthesize(memorySink(), { preset: '4b' as 'tiny' }), 'bad-argument', /no such preset.*got "4b"/);
    await refuses(synthesize(memorySink(), { preset: 'tiny', seed: -1 }), 'bad-argument', /bad seed/);
    for (const layers of [0, -1, 1.5]) {
      await refuses(synthesize(memorySink(), { preset: 'tiny', layers }), 'bad-argument', /bad number of layers/);
    }
    await refuses(
      synthesize(memorySink(), { preset: '3b', embeddingType: 'Q6_K' }),
      'bad-argument',
      /F16, BF16 and F32/,
    );
  });

  it('has the sizes of the published models', () => {
    expect(presets['2b']).toMatchObject({ hidden: 2560, ffn: 6912, nLayers: 30, nKvHeads: 5, vocabulary: 128256 });
    for (const shape of Object.values(presets)) expect(shape.nHeads % shape.nKvHeads).toBe(0);
  });
});

/** As the engine hands metadata to the tokenizer. */
function plain(gguf: GgufFile, key: string): unknown {
  const value = gguf.metadata.get(key);
  if (value === undefined) return undefined;
  if (value.type === 'string') return value.text;
  return value.type === 'array' ? value.values : value.value;
}
