import { describe, expect, it } from 'vitest';
import { type Converted, type ConvertOptions, convertHf } from '../../src/convert/hf.ts';
import { fittingTableType } from '../../src/convert/types.ts';
import { type GgufFile, memorySink, memorySource, openGguf } from '../../src/formats/index.ts';
import { architectureOf } from '../../src/model/architectures.ts';
import { readModelConfig } from '../../src/model/load.ts';
import { matchTensors } from '../../src/model/tensors.ts';
import { decodeInto } from '../../src/tensors/decode.ts';
import { encodeBF16, encodeF32 } from '../../src/tensors/floats.ts';
import { decodeTritsI2S, scaleOfI2S } from '../../src/tensors/i2s.ts';
import { random } from '../hostile/builder.ts';
import {
  type Checkpoint,
  type Class,
  checkpoint,
  type Form,
  filesOf,
  HEAD_DIM,
  readerOf,
  SCALE,
} from './convert-checkpoint.ts';

async function bytesOf(c: Checkpoint, options: ConvertOptions = {}, shards: 1 | 2 = 1) {
  const sink = memorySink();
  const converted: Converted = await convertHf(readerOf(await filesOf(c, shards)), sink, options);
  const bytes = sink.bytes();
  expect(converted.byteLength).toBe(bytes.length);
  return { bytes, converted };
}

async function converted(c: Checkpoint, options: ConvertOptions = {}) {
  const { bytes, converted } = await bytesOf(c, options);
  return { gguf: await openGguf(memorySource(bytes)), converted };
}

async function raw(gguf: GgufFile, name: string): Promise<Uint8Array> {
  const { source, offsetBytes, byteLength } = gguf.tensor(name);
  const bytes = new Uint8Array(byteLength);
  await source.readInto(bytes, offsetBytes);
  return bytes;
}

async function values(gguf: GgufFile, name: string): Promise<Float32Array> {
  const { dtype, elements } = gguf.tensor(name);
  const out = new Float32Array(elements);
  decodeInto(dtype, await raw(gguf, name), 0, elements, out);
  return out;
}

async function i2s(gguf: GgufFile, name: string): Promise<{ trits: Int8Array; scale: number }> {
  const bytes = await raw(gguf, name);
  const { elements } = gguf.tensor(name);
  const trits = new Int8Array(elements);
  decodeTritsI2S(bytes, 0, elements, trits);
  return { trits, scale: scaleOfI2S(bytes, elements / 4) };
}

const same = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).every((x, i) => x === b[i]) && a.length === b.length;

const classes: [Class, string][] = [
  ['BitNetForCausalLM', 'bitnet-b1.58'],
  ['BitnetForCausalLM', 'bitnet'],
  ['LlamaForCausalLM', 'llama'],
];
const forms: Form[] = ['packed, multiply', 'packed, divide', 'master', 'dequantised'];

describe('Hugging Face checkpoints', () => {
  it.each(classes)('%s becomes a complete %s', async (name, architecture) => {
    const { gguf, converted: result } = await converted(checkpoint(name, 'packed, multiply'));
    const config = readModelConfig(gguf);
    expect(config).toMatchObject({
      architecture,
      name: 'tiny',
      nLayers: 2,
      hidden: 256,
      ffn: 512,
      nHeads: 8,
      nKvHeads: 2,
      headDim: 64,
      vocabulary: 40,
      contextLength: 128,
      ropeBase: 500000,
    });
    matchTensors(gguf, architectureOf(architecture).tensors(config));
    expect(gguf.findTensor('output.weight') !== undefined).toBe(architecture === 'llama');
    expect(gguf.tensor('blk.0.ffn_norm.weight').dtype.name).toBe('F32');
    expect(gguf.getUint('general.file_type')).toBe(40);
    expect(result).toMatchObject({ architecture });
    expect(result.parameters).toBe(gguf.tensors.reduce((sum, { elements }) => sum + elements, 0));
  });

  it.each(forms)('keeps the trits of %s weights', async (form) => {
    const c = checkpoint('BitNetForCausalLM', form);
    const { gguf } = await converted(c);
    for (const [hf, name] of [
      ['model.layers.0.self_attn.q_proj', 'blk.0.attn_q.weight'],
      ['model.layers.1.self_attn.k_proj', 'blk.1.attn_k.weight'],
      ['model.layers.0.self_attn.o_proj', 'blk.0.attn_output.weight'],
      ['model.layers.1.mlp.down_proj', 'blk.1.ffn_down.weight'],
    ] as const) {
      const { trits, scale } = await i2s(gguf, name);
      expect(same(trits, c.trits.get(hf)!.trits)).toBe(true);
      if (form !== 'master') expect(scale).toBe(SCALE);
      // A third of them is near zero: their mean magnitude is about two thirds of the scale.
      else expect(Math.abs(scale / ((SCALE * 2) / 3) - 1)).toBeLessThan(0.1);
    }
  });

  it('quantises master weights as the definition says', async () => {
    const c = checkpoint('BitnetForCausalLM', 'master');
    const next = random(77);
    const name = 'model.layers.0.mlp.gate_proj.weight';
    const tensor = c.tensors.get(name)!;
    const weights = Float32Array.from({ length: 512 * 256 }, () => (next() - 0.5) * 0.1);
    // What the file holds is bfloat16; the mean is over that.
    const bytes = encodeBF16(weights);
    c.tensors.set(name, { ...tensor, dtype: 'BF16', bytes });
    const kept = Array.from({ length: weights.length }, (_, i) => bf16(bytes[2 * i] | (bytes[2 * i + 1] << 8)));
    const mean = Math.fround(kept.reduce((sum, w) => sum + Math.abs(w), 0) / kept.length);
    const s = Math.fround(1 / mean);
    const { gguf } = await converted(c);
    const { trits, scale } = await i2s(gguf, 'blk.0.ffn_gate.weight');
    const halfEven = (x: number) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
    const expected = kept.map((w) => Math.max(-1, Math.min(1, halfEven(Math.fround(w * s)))) + 0);
    expect(same(trits, expected)).toBe(true);
    expect(scale).toBe(Math.fround(1 / s));
    expect(new Set(trits).size).toBe(3);
  });

  it('rounds halves to even: exactly half of the mean is zero', async () => {
    const c = checkpoint('BitnetForCausalLM', 'master');
    const name = 'model.layers.0.self_attn.v_proj.weight';
    const tensor = c.tensors.get(name)!;
    // Mean |W| = (0.5 + 1.5) / 2 = 1 exactly.
    const weights = Float32Array.from({ length: 128 * 256 }, (_, i) => [0.5, -1.5, -0.5, 1.5][i % 4]);
    c.tensors.set(name, { ...tensor, bytes: encodeF32(weights) });
    const { trits, scale } = await i2s((await converted(c)).gguf, 'blk.0.attn_v.weight');
    expect([...trits.subarray(0, 4)]).toEqual([0, -1, 0, 1]);
    expect(scale).toBe(1);
  });

  it('keeps the scale of weights that were ternary already', async () => {
    const c = checkpoint('LlamaForCausalLM', 'dequantised');
    const { gguf, converted: result } = await converted(c);
    expect((await i2s(gguf, 'blk.1.ffn_up.weight')).scale).toBe(SCALE);
    expect(result.notes).toContainEqual(expect.stringMatching(/14 matrices were ternary already/));
  });

  it('fits the scale of ternary weights with noise', async () => {
    const c = checkpoint('BitnetForCausalLM', 'dequantised');
    const next = random(5);
    const module = 'model.layers.0.mlp.down_proj';
    const { trits, rows, columns } = c.trits.get(module)!;
    // One per cent, as a Q6_K copy has.
    const noisy = Float32Array.from(trits, (trit) => trit * SCALE * (1 + 0.02 * (next() - 0.5)));
    c.tensors.set(`${module}.weight`, { dtype: 'F32', shape: [rows, columns], bytes: encodeF32(noisy) });
    const { gguf, converted: result } = await converted(c);
    const got = await i2s(gguf, 'blk.0.ffn_down.weight');
    expect(same(got.trits, trits)).toBe(true);
    expect(Math.abs(got.scale / SCALE - 1)).toBeLessThan(1e-4);
    expect(result.notes.join('\n')).toMatch(
      /13 matrices were ternary already.*\n1 matrix was ternary but for rounding \(distance up to 0\.00[56]/,
    );
  });

  it('takes master weights that do not say so only when told to', async () => {
    const c = checkpoint('LlamaForCausalLM', 'master');
    c.config.quantization_config = undefined;
    await expect(converted(c)).rejects.toThrow(
      /distance from ternary is at most 0\.1, got model\.layers\.\d\S+ 0\.2\d\d, .* and 10 more, of 14 .*--force/,
    );
    const { gguf, converted: result } = await converted(c, { force: true });
    const { trits, rows, columns } = c.trits.get('model.layers.0.mlp.down_proj')!;
    expect(rows * columns).toBe(gguf.tensor('blk.0.ffn_down.weight').elements);
    expect(same((await i2s(gguf, 'blk.0.ffn_down.weight')).trits, trits)).toBe(true);
    expect(result.notes).toContainEqual(expect.stringMatching(/14 matrices were master weights.*0\.2\d/));
  });

  it('finds one ordinary matrix among ternary ones', async () => {
    const c = checkpoint('LlamaForCausalLM', 'dequantised');
    const name = 'model.layers.1.mlp.down_proj.weight';
    const tensor = c.tensors.get(name)!;
    const next = random(3);
    const last = Float32Array.from({ length: 512 * 256 }, () => next() - 0.5);
    c.tensors.set(name, { ...tensor, bytes: encodeBF16(last) });
    await expect(converted(c)).rejects.toThrow(/got model\.layers\.1\.mlp\.down_proj\.weight 0\.\d+, of 14/);
  });

  it('takes a table type that fits the rows', async () => {
    const c = checkpoint('BitNetForCausalLM', 'packed, multiply');
    expect((await converted(c, { embeddingType: 'Q6_K' })).gguf.tensor('token_embd.weight').dtype.name).toBe('Q6_K');
    expect([fittingTableType('Q6_K', 640), fittingTableType('Q6_K', 100), fittingTableType('Q8_0', 100)]).toEqual([
      'Q8_0',
      'F16',
      'F16',
    ]);
  });

  it('makes a zero matrix of zeros', async () => {
    const c = checkpoint('BitnetForCausalLM', 'master');
    const name = 'model.layers.0.self_attn.v_proj.weight';
    const tensor = c.tensors.get(name)!;
    c.tensors.set(name, { ...tensor, bytes: new Uint8Array(tensor.bytes.length) });
    const { trits, scale } = await i2s((await converted(c)).gguf, 'blk.0.attn_v.weight');
    expect(trits.every((trit) => trit === 0)).toBe(true);
    expect(scale).toBeCloseTo(1e-5, 10);
  });

  it.each(forms)('permutes q and k of llama, and nothing else: %s', async (form) => {
    const c = checkpoint('LlamaForCausalLM', form);
    const { gguf } = await converted(c);
    for (const [hf, name, permuted] of [
      ['self_attn.q_proj', 'attn_q', true],
      ['self_attn.k_proj', 'attn_k', true],
      ['self_attn.v_proj', 'attn_v', false],
      ['self_attn.o_proj', 'attn_output', false],
    ] as const) {
      const { trits: old, rows, columns } = c.trits.get(`model.layers.1.${hf}`)!;
      // reshape (heads, 2, d/2, K), swap the middle axes
      const expected = new Int8Array(old.length);
      let at = 0;
      for (let head = 0; head < rows / HEAD_DIM; head++) {
        for (let i = 0; i < HEAD_DIM / 2; i++) {
          for (let j = 0; j < 2; j++) {
            const from = head * HEAD_DIM + j * (HEAD_DIM / 2) + i;
            expected.set(old.subarray(from * columns, (from + 1) * columns), at);
            at += columns;
          }
        }
      }
      const { trits } = await i2s(gguf, `blk.1.${name}.weight`);
      expect(same(trits, permuted ? expected : old)).toBe(true);
    }
  });

  it('gives equal values in every type, scales permitting', async () => {
    const c = checkpoint('LlamaForCausalLM', 'packed, multiply');
    const name = 'blk.0.attn_q.weight';
    const expected = await values((await converted(c)).gguf, name);
    for (const outType of ['TQ1_0', 'TQ2_0', 'F16', 'BF16', 'F32'] as const) {
      const { gguf, converted: result } = await converted(c, { outType });
      expect(gguf.tensor(name).dtype.name).toBe(outType);
      expect(same(await values(gguf, name), expected)).toBe(true);
      expect(result.notes.join()).not.toMatch(/exactly/);
    }
  });

  it('says when a scale had to be rounded', async () => {
    const c = checkpoint('BitNetForCausalLM', 'master');
    expect((await converted(c)).converted.notes.join()).not.toMatch(/exactly/);
    const { converted: result } = await converted(c, { outType: 'TQ2_0' });
    expect(result.notes.join()).toMatch(/TQ2_0 cannot hold 14 of 14 scales exactly; the worst is off by 0\.0\d\d %/);
  });

  it('takes embeddings over in every type', async () => {
    const c = checkpoint('LlamaForCausalLM', 'packed, divide');
    const exact = await values((await converted(c, { embeddingType: 'F32' })).gguf, 'token_embd.weight');
    for (const [embeddingType, error] of [
      ['BF16', 0],
      ['F16', 1e-7],
      ['Q8_0', 0.003],
      ['Q6_K', 0.03],
      ['Q5_K', 0.06],
      ['Q5_0', 0.06],
      ['Q4_K', 0.12],
      ['Q4_1', 0.12],
    ] as const) {
      const { gguf } = await converted(c, { embeddingType });
      const got = await values(gguf, 'token_embd.weight');
      expect(gguf.tensor('output.weight').dtype.name).toBe(embeddingType);
      expect(Math.max(...got.map((x, i) => Math.abs(x - exact[i])))).toBeLessThanOrEqual(error);
    }
  });

  it('gives the same bytes again, and from two shards', async () => {
    const c = checkpoint('BitNetForCausalLM', 'packed, multiply');
    const [{ bytes }, again, sharded] = [await bytesOf(c), await bytesOf(c), await bytesOf(c, {}, 2)];
    expect(Buffer.compare(bytes, again.bytes)).toBe(0);
    expect(Buffer.compare(bytes, sharded.bytes)).toBe(0);
  });

  it('leaves a head out that shares the embedding, and drops rope frequencies', async () => {
    const c = checkpoint('BitNetForCausalLM', 'packed, multiply');
    c.tensors.set('lm_head.weight', c.tensors.get('model.embed_tokens.weight')!);
    c.tensors.set('model.layers.0.self_attn.rotary_emb.inv_freq', {
      dtype: 'F32',
      shape: [1],
      bytes: new Uint8Array(4),
    });
    const { gguf, converted: result } = await converted(c);
    expect(gguf.findTensor('output.weight')).toBeUndefined();
    expect(result.notes).toContainEqual(expect.stringMatching(/lm_head\.weight is left out/));
  });

  it('keeps linear rope scaling and a head size of its own', async () => {
    const c = checkpoint('LlamaForCausalLM', 'packed, divide');
    Object.assign(c.config, { rope_scaling: { rope_type: 'linear', factor: 4 }, head_dim: 64, num_key_value_heads: 2 });
    const { gguf } = await converted(c);
    expect(readModelConfig(gguf)).toMatchObject({ ropeFactor: 4, headDim: 64 });
    const parameters = checkpoint('LlamaForCausalLM', 'packed, divide');
    delete parameters.config.rope_theta;
    parameters.config.rope_parameters = { rope_type: 'default', rope_theta: 1000042 };
    expect(readModelConfig((await converted(parameters)).gguf)).toMatchObject({ ropeFactor: 1, ropeBase: 1000042 });
  });

  it('reports progress and can be stopped', async () => {
    const c = checkpoint('BitNetForCausalLM', 'packed, multiply');
    let last = { doneBytes: 0, totalBytes: 1 };
    await bytesOf(c, {
      onProgress(progress) {
        last = progress;
      },
    });
    expect(last.doneBytes).toBe(last.totalBytes);
    const sink = memorySink();
    const stopped = convertHf(readerOf(await filesOf(c)), sink, { signal: AbortSignal.abort(new Error('enough')) });
    await expect(stopped).rejects.toThrow('enough');
    expect(sink.bytes().length).toBe(0);
  });
});

function bf16(bits: number): number {
  return new DataView(Uint32Array.of(bits << 16).buffer).getFloat32(0, true);
}
