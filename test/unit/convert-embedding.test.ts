import { describe, expect, it } from 'vitest';
import { convertHf } from '../../src/convert/hf.ts';
import { type GgufFile, memorySink, memorySource, openGguf } from '../../src/formats/index.ts';
import { loadModel } from '../../src/index.ts';
import { architectureOf } from '../../src/model/architectures.ts';
import { readModelConfig } from '../../src/model/load.ts';
import { matchTensors } from '../../src/model/tensors.ts';
import { f16ToNumber } from '../../src/numeric/f16.ts';
import { encodeF32 } from '../../src/tensors/floats.ts';
import { decodeTritsI2S, scaleOfI2S } from '../../src/tensors/i2s.ts';
import { random, refuses } from '../hostile/builder.ts';
import { type Checkpoint, checkpoint, type Files, filesOf, readerOf } from './convert-checkpoint.ts';

/** Of each layer, by its name in HF: the length of the gain. q is 512 wide, k and v 128, the model 256, its middle 512. */
const NORMS: readonly [module: string, length: number][] = [
  ['self_attn.q_norm', 64],
  ['self_attn.k_norm', 64],
  ['self_attn.q_proj.norm', 256],
  ['self_attn.k_proj.norm', 256],
  ['self_attn.v_proj.norm', 256],
  ['self_attn.o_proj.norm', 512],
  ['mlp.gate_proj.norm', 256],
  ['mlp.up_proj.norm', 256],
  ['mlp.down_proj.norm', 512],
];

type Type = 'qwen3' | 'gemma3_text';

/** The tiny llama of the other tests, dressed as an embedding model: master weights, no prefix, no head. */
function embedding(type: Type): Checkpoint {
  const c = checkpoint('LlamaForCausalLM', 'master');
  const tensors = new Map(
    [...c.tensors]
      .filter(([name]) => name !== 'lm_head.weight')
      .map(([name, tensor]) => [name.replace(/^model\./, ''), tensor]),
  );
  const next = random(type.length);
  const gain = (name: string, length: number) =>
    void tensors.set(`${name}.weight`, {
      dtype: 'F32',
      shape: [length],
      // Halves hold them, one more included.
      bytes: encodeF32(Float32Array.from({ length }, () => Math.round(64 * next()) / 64)),
    });
  for (const layer of [0, 1]) {
    for (const [module, length] of NORMS) gain(`layers.${layer}.${module}`, length);
    if (type === 'gemma3_text') {
      gain(`layers.${layer}.pre_feedforward_layernorm`, 256);
      gain(`layers.${layer}.post_feedforward_layernorm`, 256);
    }
  }
  const activation =
    type === 'qwen3' ? { hidden_act: 'silu' } : { hidden_act: undefined, hidden_activation: 'gelu_pytorch_tanh' };
  const own = { architectures: ['AModel'], model_type: type, quantization_config: undefined, rope_theta: undefined };
  Object.assign(c.config, own, activation);
  return { ...c, tensors };
}

const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const POOLING_MODULE = { idx: 1, path: '1_Pooling', type: 'sentence_transformers.models.Pooling' };

async function folder(type: Type, mode = 'pooling_mode_lasttoken'): Promise<Files> {
  const files = await filesOf(embedding(type));
  files.set('modules.json', json([{ idx: 0, path: '', type: 'x.Transformer' }, POOLING_MODULE]));
  files.set(
    '1_Pooling/config.json',
    json({ word_embedding_dimension: 256, pooling_mode_cls_token: false, [mode]: true }),
  );
  return files;
}

async function converted(files: Files) {
  const sink = memorySink();
  const { notes } = await convertHf(readerOf(files), sink, { name: 'tiny' });
  return { bytes: sink.bytes(), gguf: await openGguf(memorySource(sink.bytes())), notes };
}

async function halves(gguf: GgufFile, name: string): Promise<number[]> {
  const { source, offsetBytes, byteLength, dtype } = gguf.tensor(name);
  expect(dtype.name).toBe('F16');
  const bytes = new Uint8Array(byteLength);
  await source.readInto(bytes, offsetBytes);
  return Array.from({ length: byteLength / 2 }, (_, i) => f16ToNumber(bytes[2 * i] | (bytes[2 * i + 1] << 8)));
}

const stored = (c: Checkpoint, name: string) => [...new Float32Array(c.tensors.get(name)!.bytes.slice().buffer)];

describe('embedding models', () => {
  it.each([
    ['qwen3', 'qwen3', 1000000],
    ['gemma3_text', 'gemma3', 10000],
  ] as const)('%s becomes a complete %s', async (type, architecture, ropeBase) => {
    const c = embedding(type);
    const { gguf, bytes, notes } = await converted(await folder(type));
    const config = readModelConfig(gguf);
    expect(config).toMatchObject({ architecture, ropeBase, headDim: 64, pooling: 'last' });
    matchTensors(gguf, architectureOf(architecture).tensors(config));
    const plus = type === 'gemma3_text' ? 1 : 0;
    for (const [name, hf, more] of [
      ['blk.1.attn_q_norm', 'layers.1.self_attn.q_norm', plus],
      ['blk.0.attn_output_norm_in', 'layers.0.self_attn.o_proj.norm', 0],
      ['blk.1.ffn_down_norm_in', 'layers.1.mlp.down_proj.norm', 0],
      ...(plus === 1
        ? ([
            ['blk.0.ffn_norm', 'layers.0.pre_feedforward_layernorm', 1],
            ['blk.0.post_ffw_norm', 'layers.0.post_feedforward_layernorm', 1],
          ] as const)
        : []),
    ] as const) {
      const values = stored(c, `${hf}.weight`).map((value) => value + more);
      expect(await halves(gguf, `${name}.weight`), name).toEqual(values);
    }
    // Rows of q stay where they are: rope turns halves.
    const { source, offsetBytes, byteLength, elements } = gguf.tensor('blk.0.attn_q.weight');
    const matrix = new Uint8Array(byteLength);
    await source.readInto(matrix, offsetBytes);
    const trits = new Int8Array(elements);
    decodeTritsI2S(matrix, 0, elements, trits);
    expect(trits).toEqual(c.trits.get('model.layers.0.self_attn.q_proj')!.trits);
    expect(scaleOfI2S(matrix, elements / 4)).toBeGreaterThan(0.05);
    expect(notes.join()).toMatch(/14 matrices were master weights/);
    expect(notes.join()).not.toMatch(/pooling/);
    const model = await loadModel(bytes, { backend: 'ts' });
    const [vector] = await model.embed(['ab']);
    const norm = Math.sqrt(Array.from(vector as Float32Array).reduce((sum, x) => sum + x * x, 0));
    expect(norm).toBeCloseTo(1, 5);
    await model.dispose();
  });

  it('pools as the folder says, or says what it takes instead', async () => {
    const said = await converted(await folder('qwen3', 'pooling_mode_mean_tokens'));
    expect(readModelConfig(said.gguf).pooling).toBe('mean');
    const files = await folder('qwen3');
    files.delete('modules.json');
    const unsaid = await converted(files);
    expect(readModelConfig(unsaid.gguf).pooling).toBe('last');
    expect(unsaid.notes).toContainEqual(expect.stringMatching(/no modules\.json with a pooling: taken to be last/));
  });

  it('refuses other scores and capped logits, and says that windows are left out', async () => {
    const withKeys = async (keys: Record<string, unknown>) => {
      const c = embedding('gemma3_text');
      Object.assign(c.config, keys);
      return converted(await filesOf(c));
    };
    const refused: [Record<string, unknown>, RegExp][] = [
      [{ query_pre_attn_scalar: 168 }, /query_pre_attn_scalar: .*expected 64, the size of a head, got 168/],
      [{ final_logit_softcapping: 30 }, /final_logit_softcapping: .*got 30/],
      [{ attn_logit_softcapping: 50 }, /attn_logit_softcapping: .*got 50/],
    ];
    for (const [keys, message] of refused) await refuses(withKeys(keys), 'unsupported-architecture', message);
    const plain = { query_pre_attn_scalar: 64, final_logit_softcapping: null };
    const { notes } = await withKeys({ ...plain, sliding_window: 16 });
    expect(notes).toContainEqual(expect.stringMatching(/windows of 16 is left out/));
    for (const keys of [plain, { sliding_window: 1 << 20 }, { sliding_window: 16, use_sliding_window: false }]) {
      expect((await withKeys(keys)).notes.filter((note) => /window/.test(note))).toEqual([]);
    }
  });

  it('refuses poolings that nobody computes, paths out of the folder, and ordinary models', async () => {
    await refuses(
      converted(await folder('qwen3', 'pooling_mode_weightedmean_tokens')),
      'unsupported-architecture',
      /got pooling_mode_weightedmean_tokens/,
    );
    const escaping = await folder('qwen3');
    escaping.set('modules.json', json([{ ...POOLING_MODULE, path: '../1_Pooling' }]));
    await refuses(converted(escaping), 'bad-container', /modules\.json: bad path/);
    const ordinary = embedding('qwen3');
    for (const name of [...ordinary.tensors.keys()]) if (name.includes('proj.norm')) ordinary.tensors.delete(name);
    await refuses(
      converted(await filesOf(ordinary)),
      'missing-tensor',
      /missing: layers\.0\.self_attn\.q_proj\.norm\.weight/,
    );
  });
});
