/**
 * Well-formed containers that are bad models: every one a changed copy of a good one, which loads. Each must be refused
 * with its code and must name what is wrong; nothing may hang, crash or load.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { GgufFile, GgufTensor, GgufValue } from '../../src/formats/gguf/types.ts';
import { copyOf, stringValue, type TensorToWrite, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { BitnetError, loadModel } from '../../src/index.ts';
import { f32, u32 } from '../cli/mutants.ts';
import { tinyModel } from '../model/models.ts';

let good: Uint8Array;
let gguf: GgufFile;

beforeAll(async () => {
  good = await tinyModel({ architecture: 'bitnet-b1.58' });
  gguf = await openGguf(memorySource(good));
});

type Metadata = Map<string, GgufValue>;
type Tensors = Map<string, TensorToWrite>;

/** A copy of the good file after `change`. */
async function changed(change: (metadata: Metadata, tensors: Tensors) => void | Promise<void>): Promise<Uint8Array> {
  const metadata: Metadata = new Map(gguf.metadata);
  const tensors: Tensors = new Map(gguf.tensors.map((tensor) => [tensor.name, copyOf(tensor)]));
  await change(metadata, tensors);
  const sink = memorySink();
  await writeGguf(sink, { metadata, tensors: [...tensors.values()] });
  return sink.bytes();
}

/** The good tensor with its bytes changed. */
async function withBytes(
  name: string,
  change: (bytes: Uint8Array, tensor: GgufTensor) => void,
): Promise<TensorToWrite> {
  const tensor = gguf.tensor(name);
  const bytes = new Uint8Array(tensor.byteLength);
  await tensor.source.readInto(bytes, tensor.offsetBytes);
  change(bytes, tensor);
  return { name, dtype: tensor.dtype, shape: tensor.shape, data: () => [bytes] };
}

async function refusal(file: Uint8Array): Promise<BitnetError> {
  try {
    const model = await loadModel(file, { threads: 1 });
    await model.dispose();
  } catch (error) {
    if (error instanceof BitnetError) return error;
    throw error;
  }
  throw new Error('the model loaded');
}

const key = (name: string) => `bitnet-b1.58.${name}`;

it('the unchanged copy loads', async () => {
  const model = await loadModel(await changed(() => undefined), { threads: 1 });
  expect(model.info.blockCount).toBe(2);
  await model.dispose();
});

describe('metadata', () => {
  const cases: [what: string, code: string, names: RegExp, change: (m: Metadata) => void][] = [
    [
      'unknown architecture',
      'unsupported-architecture',
      /gpt9/,
      (m) => m.set('general.architecture', stringValue('gpt9')),
    ],
    ['no architecture', 'bad-metadata', /general\.architecture/, (m) => m.delete('general.architecture')],
    ['no layers', 'bad-metadata', /block_count/, (m) => m.set(key('block_count'), u32(0))],
    ['four billion layers', 'bad-metadata', /block_count/, (m) => m.set(key('block_count'), u32(4294967295))],
    ['huge width', 'bad-metadata', /embedding_length/, (m) => m.set(key('embedding_length'), u32(1 << 30))],
    ['huge vocabulary', 'bad-metadata', /vocab_size/, (m) => m.set(key('vocab_size'), u32(1 << 31))],
    ['vocabulary smaller than the tokens', 'bad-metadata', /tokens/, (m) => m.set(key('vocab_size'), u32(10))],
    ['no heads', 'bad-metadata', /head_count/, (m) => m.set(key('attention.head_count'), u32(0))],
    ['heads that do not divide', 'bad-metadata', /head_count/, (m) => m.set(key('attention.head_count'), u32(3))],
    [
      'kv heads that do not divide',
      'bad-metadata',
      /head_count_kv/,
      (m) => m.set(key('attention.head_count_kv'), u32(3)),
    ],
    ['values of another length', 'bad-metadata', /value_length/, (m) => m.set(key('attention.value_length'), u32(32))],
    ['partial rope', 'bad-metadata', /dimension_count/, (m) => m.set(key('rope.dimension_count'), u32(32))],
    ['no context', 'bad-metadata', /context_length/, (m) => m.set(key('context_length'), u32(0))],
    ['epsilon NaN', 'bad-metadata', /epsilon/, (m) => m.set(key('attention.layer_norm_rms_epsilon'), f32(Number.NaN))],
    ['negative epsilon', 'bad-metadata', /epsilon/, (m) => m.set(key('attention.layer_norm_rms_epsilon'), f32(-1))],
    ['rope base 0', 'bad-metadata', /freq_base/, (m) => m.set(key('rope.freq_base'), f32(0))],
    ['width as text', 'bad-metadata', /embedding_length/, (m) => m.set(key('embedding_length'), stringValue('256'))],
    ['yarn', 'unsupported-architecture', /scaling/, (m) => m.set(key('rope.scaling.type'), stringValue('yarn'))],
  ];
  it.each(cases)('%s', async (_, code, names, change) => {
    const error = await refusal(await changed((m) => void change(m)));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(names);
  });
});

describe('tensors', () => {
  it('missing, misshapen and unknown ones are reported all at once', async () => {
    const error = await refusal(
      await changed((_, tensors) => {
        tensors.delete('blk.0.attn_q.weight');
        tensors.delete('blk.1.ffn_sub_norm.weight');
        tensors.set('blk.7.mystery', {
          name: 'blk.7.mystery',
          dtype: 'F32',
          shape: [4],
          data: () => [new Uint8Array(16)],
        });
        const norm = {
          name: 'output_norm.weight',
          dtype: 'F32',
          shape: [8],
          data: () => [new Uint8Array(32)],
        } as const;
        tensors.set('output_norm.weight', norm);
      }),
    );
    expect(error.code).toBe('missing-tensor');
    for (const text of ['blk.0.attn_q.weight', 'blk.1.ffn_sub_norm.weight', 'blk.7.mystery', '(256), got (8)']) {
      expect(error.message).toContain(text);
    }
  });

  it('unknown ones alone are refused too: they would be ignored silently', async () => {
    const bias = { name: 'blk.0.attn_q.bias', dtype: 'F32', shape: [256], data: () => [new Uint8Array(1024)] } as const;
    expect((await refusal(await changed((_, tensors) => void tensors.set(bias.name, bias)))).code).toBe(
      'unused-tensor',
    );
  });

  it('a transposed matrix is named with both shapes', async () => {
    const error = await refusal(
      await changed((_, tensors) => {
        const down = gguf.tensor('blk.0.ffn_down.weight');
        tensors.set(down.name, { ...copyOf(down), shape: [...down.shape].reverse() });
      }),
    );
    expect(error.code).toBe('bad-tensor');
    expect(error.message).toMatch(/blk\.0\.ffn_down\.weight expected \(768, 256\), got \(256, 768\)/);
  });

  const scaleAt = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset + bytes.length - 32);
  const weights: [string, string, RegExp, string, (bytes: Uint8Array) => void][] = [
    [
      'a code of 3',
      'bad-tensor',
      /blk\.1\.attn_v\.weight/,
      'blk.1.attn_v.weight',
      (b) => void b.set([b[77] | 0x30], 77),
    ],
    [
      'scale NaN',
      'bad-tensor',
      /blk\.0\.ffn_up/,
      'blk.0.ffn_up.weight',
      (b) => scaleAt(b).setFloat32(0, Number.NaN, true),
    ],
    ['scale 0', 'bad-tensor', /blk\.0\.ffn_up/, 'blk.0.ffn_up.weight', (b) => scaleAt(b).setFloat32(0, 0, true)],
    ['scale -1', 'bad-tensor', /blk\.0\.ffn_up/, 'blk.0.ffn_up.weight', (b) => scaleAt(b).setFloat32(0, -1, true)],
    [
      'scale infinity',
      'bad-tensor',
      /blk\.0\.ffn_up/,
      'blk.0.ffn_up.weight',
      (b) => scaleAt(b).setFloat32(0, 1 / 0, true),
    ],
    ['NaN in a norm', 'bad-tensor', /attn_norm/, 'blk.1.attn_norm.weight', (b) => void b.set([0, 0, 0xc0, 0x7f], 8)],
    ['infinity in the embedding', 'bad-tensor', /token_embd/, 'token_embd.weight', (b) => void b.set([0, 0x7c], 4096)],
  ];
  it.each(weights)('%s', async (_, code, names, name, change) => {
    const error = await refusal(
      await changed(async (__, tensors) => void tensors.set(name, await withBytes(name, change))),
    );
    expect(error.code).toBe(code);
    expect(error.message).toMatch(names);
  });

  it('a type that cannot be read is refused by name', async () => {
    const error = await refusal(
      await changed((_, tensors) => {
        const name = 'token_embd.weight';
        tensors.set(name, {
          name,
          dtype: 'IQ4_NL',
          shape: [256, 512],
          data: () => [new Uint8Array((256 * 512 * 18) / 32)],
        });
      }),
    );
    expect(error.code).toBe('unsupported-type');
    expect(error.message).toMatch(/type IQ4_NL/);
  });

  it('TQ2_0 with a different block scale where no sample looked is refused, not averaged', async () => {
    const file = await tinyModel({ architecture: 'bitnet-b1.58', type: 'TQ2_0' });
    const model = await loadModel(file, { threads: 1 });
    await model.dispose();
    const other = await openGguf(memorySource(file));
    const tensor = other.tensor('blk.0.attn_q.weight');
    const bad = file.slice();
    bad[tensor.offsetBytes + 66 * 100 + 65] ^= 1; // the upper byte of a scale in the middle
    const error = await refusal(bad);
    expect(error.code).toBe('unsupported-type');
    expect(error.message).toMatch(/blk\.0\.attn_q\.weight.*block scales differ/);
  });
});

it('divisors of frequencies that are zero or negative are refused', async () => {
  for (const [value, got] of [
    [0, '0'],
    [-1, '-1'],
  ] as const) {
    const factors = new Float32Array(32).fill(2);
    factors[7] = value;
    const file = await changed((_, tensors) => {
      const bytes = new Uint8Array(factors.buffer);
      tensors.set('rope_freqs.weight', { name: 'rope_freqs.weight', dtype: 'F32', shape: [32], data: () => [bytes] });
    });
    const error = await refusal(file);
    expect(error.code).toBe('bad-tensor');
    expect(error.message).toMatch(new RegExp(`rope_freqs\\.weight element 7: .*expected more than 0, got ${got}`));
  }
});

it('a copy of the embedding, as in the first official upload, is neither loaded nor counted', async () => {
  const embedding = gguf.tensor('token_embd.weight');
  const file = await changed((_, tensors) => {
    tensors.set('output.weight', { ...copyOf(embedding), name: 'output.weight' });
  });
  const seen: number[] = [];
  const onProgress = (progress: { loadedBytes: number; totalBytes: number }) =>
    seen.push(progress.loadedBytes / progress.totalBytes);
  const model = await loadModel(file, { threads: 1, onProgress });
  const plain = await loadModel(good, { threads: 1 });
  expect(seen.at(-1)).toBe(1);
  expect(model.info.parameters).toBe(plain.info.parameters);
  await model.dispose();
  await plain.dispose();
});

it('a width that the heads do not divide is fine where the head dimension is given', async () => {
  const file = await changed((metadata) => {
    metadata.set(key('attention.head_count'), u32(6));
    metadata.set(key('attention.key_length'), u32(64));
    metadata.set(key('attention.value_length'), u32(64));
  });
  // The tensors are those of four heads, so it is their shapes that are refused, not the metadata.
  expect((await refusal(file)).code).toBe('bad-tensor');
});

it('logits that are not numbers are refused, not sampled', async () => {
  // Gains of 1e38 overflow in the graph though every weight is finite.
  const file = await changed(async (_, tensors) => {
    const name = 'output_norm.weight';
    tensors.set(name, await withBytes(name, (bytes) => new Float32Array(bytes.buffer).fill(3e38)));
  });
  const model = await loadModel(file, { threads: 1 });
  await expect(model.createSession().prefill([3, 4])).rejects.toMatchObject({ code: 'not-finite' });
  await model.dispose();
});
