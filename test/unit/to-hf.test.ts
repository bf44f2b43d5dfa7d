import { describe, expect, it } from 'vitest';
import { convertHf } from '../../src/convert/hf.ts';
import { preTokenizerName } from '../../src/convert/pre-tokenizer-json.ts';
import { requantize } from '../../src/convert/requantize.ts';
import { synthesize } from '../../src/convert/synth.ts';
import { convertToHf, type HfWriter, type ToHfOptions } from '../../src/convert/to-hf.ts';
import { preTokenizerJson } from '../../src/convert/to-hf-tokenizer.ts';
import {
  copyOf,
  type GgufFile,
  memorySink,
  memorySource,
  openGguf,
  openSafetensors,
  type SafetensorsFile,
  stringsValue,
  stringValue,
  type TensorToWrite,
  writeGguf,
} from '../../src/formats/index.ts';
import { bf16ToNumber } from '../../src/numeric/bf16.ts';
import { encodeF32 } from '../../src/tensors/floats.ts';
import { encodeI2S } from '../../src/tensors/i2s.ts';
import { random, randomTrits, refuses } from '../hostile/builder.ts';
import { type Class, checkpoint, type Files, type Form, filesOf, readerOf } from './convert-checkpoint.ts';

/** A folder in memory. */
function folderInMemory() {
  const files: Files = new Map();
  const folder = {
    label: 'folder',
    files,
    state: 'open' as 'open' | 'closed' | 'aborted',
    async create(name: string) {
      const sink = memorySink(name);
      return { ...sink, close: async () => void files.set(name, sink.bytes()) };
    },
    async close() {
      folder.state = 'closed';
    },
    async abort() {
      folder.state = 'aborted';
      files.clear();
    },
  };
  return folder satisfies HfWriter;
}

async function ggufOf(files: Files): Promise<Uint8Array> {
  const sink = memorySink();
  await convertHf(readerOf(files), sink, { name: 'tiny' });
  return sink.bytes();
}

async function folderOf(gguf: Uint8Array | GgufFile, options: ToHfOptions = {}) {
  const folder = folderInMemory();
  const { notes, files } = await convertToHf(
    gguf instanceof Uint8Array ? await openGguf(memorySource(gguf)) : gguf,
    folder,
    options,
  );
  expect(folder.state).toBe('closed');
  expect([...folder.files.keys()]).toEqual(files);
  return { files: folder.files, notes };
}

const weights = (files: Files): Promise<SafetensorsFile> =>
  openSafetensors(memorySource(files.get('model.safetensors')!, 'model.safetensors'));

async function raw(file: SafetensorsFile, name: string): Promise<Uint8Array> {
  const { source, offsetBytes, byteLength } = file.tensor(name);
  const bytes = new Uint8Array(byteLength);
  await source.readInto(bytes, offsetBytes);
  return bytes;
}

const json = (files: Files, name: string) => JSON.parse(new TextDecoder().decode(files.get(name)));

/** The file with other tensors or keys. */
async function changed(
  bytes: Uint8Array,
  { tensors = [], metadata = new Map() }: { tensors?: TensorToWrite[]; metadata?: GgufFile['metadata'] },
): Promise<Uint8Array> {
  const gguf = await openGguf(memorySource(bytes));
  const replaced = new Set(tensors.map(({ name }) => name));
  const sink = memorySink();
  await writeGguf(sink, {
    metadata: new Map([...gguf.metadata, ...metadata]),
    tensors: [...gguf.tensors.filter(({ name }) => !replaced.has(name)).map((tensor) => copyOf(tensor)), ...tensors],
  });
  return sink.bytes();
}

const published: [Class, Form][] = [
  ['BitNetForCausalLM', 'packed, multiply'],
  ['BitnetForCausalLM', 'packed, multiply'],
  ['LlamaForCausalLM', 'packed, divide'],
];

describe('back to Hugging Face', () => {
  it.each(published)('%s, %s: there and back and there again', async (name, form) => {
    const first = await filesOf(checkpoint(name, form));
    const gguf = await ggufOf(first);
    const { files, notes } = await folderOf(gguf);
    expect(notes.join()).not.toMatch(/inverse|rounding/);
    const [before, after] = [await weights(first), await weights(files)];
    let matrices = 0;
    for (const { name: tensor, dtype, shape } of before.tensors) {
      if (dtype !== 'U8' && !tensor.endsWith('_scale')) continue;
      expect(after.tensor(tensor)).toMatchObject({ dtype, shape });
      expect(Buffer.compare(await raw(after, tensor), await raw(before, tensor)), tensor).toBe(0);
      matrices++;
    }
    expect(matrices).toBe(28);
    expect(after.tensors.length).toBe(before.tensors.length);
    expect(after.metadata.get('format')).toBe('pt');
    // Not only the matrices: the whole file, tokenizer and all.
    expect(Buffer.compare(await ggufOf(files), gguf)).toBe(0);
    const { hidden_act, quantization_config, rms_norm_eps, rope_theta } = json(files, 'config.json');
    expect({ hidden_act, rms_norm_eps, rope_theta }).toEqual({
      hidden_act: name === 'BitNetForCausalLM' ? 'relu2' : 'silu',
      rms_norm_eps: 1e-5,
      rope_theta: 500000,
    });
    const linear_class = form === 'packed, divide' ? 'bitlinear' : 'autobitlinear';
    expect(quantization_config).toMatchObject({ quant_method: 'bitnet', linear_class, quantization_mode: 'offline' });
    expect(json(files, 'generation_config.json').eos_token_id).toEqual([21, 23]);
  });

  it('takes gains for gains, also those of two dimensions', async () => {
    const gguf = await ggufOf(await filesOf(checkpoint('BitNetForCausalLM', 'packed, multiply')));
    const { tensors } = await openGguf(memorySource(gguf));
    const gains = tensors.filter(({ shape }) => shape.length === 1);
    const asMatrices = gains.map((tensor) => ({ ...copyOf(tensor), shape: [tensor.elements, 1] }));
    const { files } = await folderOf(await changed(gguf, { tensors: asMatrices }), { embeddingType: 'BF16' });
    const [want, got] = [await weights((await folderOf(gguf, { embeddingType: 'BF16' })).files), await weights(files)];
    for (const { name, dtype, shape } of want.tensors) {
      expect(got.tensor(name)).toMatchObject({ dtype, shape });
      expect(Buffer.compare(await raw(got, name), await raw(want, name)), name).toBe(0);
    }
  });

  it('comes from every type that is ternary, and keeps scales that only float32 holds', async () => {
    const file = await ggufOf(await filesOf(checkpoint('BitNetForCausalLM', 'master')));
    const { files: expected } = await folderOf(file);
    const scale = (await weights(expected)).tensor('model.layers.0.mlp.up_proj.weight_scale');
    expect(scale.dtype).toBe('F32');
    for (const type of ['F32', 'TQ2_0'] as const) {
      const sink = memorySink();
      await requantize(await openGguf(memorySource(file)), sink, { type, tokenEmbeddingType: 'F16' });
      const { files } = await folderOf(sink.bytes());
      const [a, b] = [await weights(files), await weights(expected)];
      for (const { name } of b.tensors) {
        const isScale = name.endsWith('_scale');
        // TQ2_0 has rounded them.
        if (!isScale || type === 'F32') expect(Buffer.compare(await raw(a, name), await raw(b, name)), name).toBe(0);
      }
    }
    expect(Buffer.compare(await ggufOf(expected), file)).toBe(0);
  });

  it('finds for every scale one that leads back to it, or says that there is none', async () => {
    const next = random(12);
    const file = await ggufOf(await filesOf(checkpoint('LlamaForCausalLM', 'packed, divide')));
    const scales = Array.from({ length: 14 }, () => Math.fround(0.5 + next()));
    const gguf = await openGguf(memorySource(file));
    const linear = gguf.tensors.filter(({ dtype }) => dtype.name === 'I2_S');
    const tensors = linear.map(({ name, shape, elements }, i): TensorToWrite => {
      return { name, dtype: 'I2_S', shape, data: () => [encodeI2S(new Int8Array(elements).fill(1), scales[i])] };
    });
    const { files, notes } = await folderOf(await changed(file, { tensors }));
    const again = await openGguf(memorySource(await ggufOf(files)));
    let lost = 0;
    for (const [i, { name }] of linear.entries()) {
      const { source, offsetBytes, byteLength } = again.tensor(name);
      const tail = new Uint8Array(4);
      await source.readInto(tail, offsetBytes + byteLength - 32);
      const got = new DataView(tail.buffer).getFloat32(0, true);
      if (got !== scales[i]) lost++;
      expect(Math.abs(got / scales[i] - 1)).toBeLessThanOrEqual(2 ** -23);
    }
    expect(lost).toBeGreaterThan(0);
    expect(lost).toBeLessThan(14);
    expect(notes).toContainEqual(expect.stringMatching(new RegExp(`^${lost} of 14 scales have no inverse`)));
  });

  it('folds a scale that the file keeps apart', async () => {
    const file = await ggufOf(await filesOf(checkpoint('BitnetForCausalLM', 'packed, multiply')));
    const apart = {
      name: 'blk.1.attn_k.scale',
      dtype: 'F32',
      shape: [1],
      data: () => [encodeF32(Float32Array.of(0.5))],
    };
    const { files } = await folderOf(await changed(file, { tensors: [apart as TensorToWrite] }));
    const scale = await raw(await weights(files), 'model.layers.1.self_attn.k_proj.weight_scale');
    expect(bf16ToNumber(scale[0] | (scale[1] << 8))).toBe(0.0625);
  });

  it('writes tables as they are, or as asked', async () => {
    const first = await filesOf(checkpoint('LlamaForCausalLM', 'packed, divide'));
    const sink = memorySink();
    await convertHf(readerOf(first), sink, { embeddingType: 'Q6_K' });
    const types = async (options: ToHfOptions) => {
      const file = await weights((await folderOf(sink.bytes(), options)).files);
      return ['model.embed_tokens.weight', 'lm_head.weight', 'model.norm.weight'].map(
        (name) => file.tensor(name).dtype,
      );
    };
    expect(await types({})).toEqual(['F32', 'F32', 'F32']);
    expect(await types({ embeddingType: 'BF16' })).toEqual(['BF16', 'BF16', 'F32']);
  });

  it.each(['llama-bpe', 'smaug-bpe', 'qwen2', 'gpt-2', 'smollm', 'falcon', 'falcon3'])(
    'spells the pre-tokenizer %s so that it is recognised',
    (name) => {
      const { preTokenizer, ignoreMerges } = preTokenizerJson(name);
      expect(preTokenizerName(preTokenizer, ignoreMerges)).toBe(name);
    },
  );

  it('writes SentencePiece vocabularies as tokenizer.model', async () => {
    const sink = memorySink();
    await synthesize(sink, { preset: 'tiny', architecture: 'llama' });
    const { files } = await folderOf(sink.bytes());
    expect(files.has('tokenizer.json')).toBe(false);
    const model = files.get('tokenizer.model')!;
    // Piece 0: 0a 0e {0a 05 "<unk>", 15 score 0, 18 02}; piece 3 of 512 is a byte, <0x00>, of score 0.
    expect(Buffer.from(model.subarray(0, 16)).toString('hex')).toBe(
      `0a0e0a05${Buffer.from('<unk>').toString('hex')}1500000000`.concat('1802'),
    );
    expect(Buffer.from(model).includes(Buffer.from('\x0a\x06<0x00>\x15\0\0\0\0\x18\x06', 'latin1'))).toBe(true);
    // BPE of 512 pieces with bytes, ids 0 1 2, no padding; spaces are escaped and one is put in front.
    const end = '1802208004980201c00200c80201d00202d802ffffffffffffffffff01';
    const normalizer = `1a100a08${Buffer.from('identity').toString('hex')}180120002801`;
    expect(Buffer.from(model).toString('hex').endsWith(`121d${end}${normalizer}`)).toBe(true);
  });
});

describe('GGUF files that do not become folders', () => {
  const good = async () => ggufOf(await filesOf(checkpoint('LlamaForCausalLM', 'packed, divide')));
  const projection = (dtype: 'F32' | 'I2_S', bytes: Uint8Array): TensorToWrite => {
    return { name: 'blk.0.attn_v.weight', dtype, shape: [256, 128], data: () => [bytes] };
  };
  const next = random(1);
  const cases: [
    what: string,
    change: Parameters<typeof changed>[1],
    code: Parameters<typeof refuses>[1],
    message: RegExp,
  ][] = [
    [
      'master weights',
      { tensors: [projection('F32', encodeF32(Float32Array.from({ length: 32768 }, () => next() - 0.5)))] },
      'unsupported-type',
      /attn_v\.weight: a projection that is not ternary.*distance from ternary 0\.\d+ .*--force/,
    ],
    [
      'code 3',
      { tensors: [projection('I2_S', encodeI2S(randomTrits(32768, 1), 1).fill(0xff, 9, 10))] },
      'bad-tensor',
      /attn_v\.weight value \d+: code 3/,
    ],
    [
      'rope factors',
      { tensors: [{ name: 'rope_freqs.weight', dtype: 'F32', shape: [32], data: () => [new Uint8Array(128)] }] },
      'unsupported-architecture',
      /rope_freqs\.weight: rope factors cannot be expressed/,
    ],
    [
      'an unknown tensor',
      { tensors: [{ name: 'blk.0.attn_q.bias', dtype: 'F32', shape: [512], data: () => [new Uint8Array(2048)] }] },
      'unused-tensor',
      /blk\.0\.attn_q\.bias/,
    ],
    [
      'a pre-tokenizer that JSON has no steps for',
      { metadata: new Map([['tokenizer.ggml.pre', stringValue('deepseek-llm')]]) },
      'unsupported-tokenizer',
      /deepseek-llm.*--pre/,
    ],
    [
      'two tokens of one text',
      {
        metadata: new Map([
          ['tokenizer.ggml.tokens', stringsValue(Array.from({ length: 40 }, (_, i) => `t${i % 39}`))],
        ]),
      },
      'bad-tokenizer',
      /tokens\[39\].*"t0", as 0/,
    ],
    [
      'a token that is no text',
      {
        metadata: new Map([
          ['tokenizer.ggml.tokens', stringsValue(Array.from({ length: 40 }, (_, i) => Uint8Array.of(0x80 + i)))],
        ]),
      },
      'bad-tokenizer',
      /tokens\[\d+\].*not UTF-8/,
    ],
  ];

  it.each(cases)('%s', async (_what, change, code, message) => {
    const gguf = await openGguf(memorySource(await changed(await good(), change)));
    const folder = folderInMemory();
    await refuses(convertToHf(gguf, folder), code, message);
    expect(folder.state).toBe('aborted');
  });

  it('an abort, a full disk', async () => {
    const gguf = await openGguf(memorySource(await good()));
    const stop = new AbortController();
    const folder = folderInMemory();
    const stopped = convertToHf(gguf, folder, {
      signal: stop.signal,
      onProgress: ({ doneBytes }) => doneBytes > 100_000 && stop.abort(new Error('enough')),
    });
    await expect(stopped).rejects.toThrow('enough');
    expect(folder.state).toBe('aborted');
    const full = folderInMemory();
    const create = async (name: string) => {
      const sink = await full.create(name);
      return name.endsWith('.json') ? sink : { ...sink, write: () => Promise.reject(new Error('no space left')) };
    };
    await expect(convertToHf(gguf, { ...full, create })).rejects.toThrow('no space left');
    expect(full.state).toBe('aborted');
  });
});
