/**
 * A tiny Hugging Face checkpoint in memory, whose ternary matrices are known trits. Every part can be replaced.
 * @module
 */

import type { HfReader } from '../../src/convert/hf.ts';
import { memorySink, memorySource, type SafetensorsTensorToWrite, writeSafetensors } from '../../src/formats/index.ts';
import { encodeBF16, encodeF32 } from '../../src/tensors/floats.ts';
import { random, randomTrits } from '../hostile/builder.ts';

export const LAYERS = 2;
export const HIDDEN = 256;
export const FFN = 512;
/** Heads together are wider than the model: q does not fit one piece. */
export const HEADS = 8;
export const KV_HEADS = 2;
export const HEAD_DIM = 64;
export const VOCABULARY = 40;

export type Class = 'BitNetForCausalLM' | 'BitnetForCausalLM' | 'LlamaForCausalLM';
/**
 * `master`: weights as trained, whose quantised form are the known trits. `dequantised`: those trits times the scale, and
 * nothing in config.json that says so.
 */
export type Form = 'packed, multiply' | 'packed, divide' | 'master' | 'dequantised';
export type Tensor = { dtype: 'F32' | 'F16' | 'BF16' | 'U8'; shape: number[]; bytes: Uint8Array };

export interface Checkpoint {
  readonly config: Record<string, unknown>;
  readonly tokenizer: Record<string, unknown>;
  readonly tokenizerConfig: Record<string, unknown>;
  readonly tensors: Map<string, Tensor>;
  /** Of each projection, by its HF module: (rows, columns). */
  readonly trits: Map<string, { trits: Int8Array; rows: number; columns: number }>;
}

const MODULES: readonly [name: string, rows: number, columns: number][] = [
  ['self_attn.q_proj', HEADS * HEAD_DIM, HIDDEN],
  ['self_attn.k_proj', KV_HEADS * HEAD_DIM, HIDDEN],
  ['self_attn.v_proj', KV_HEADS * HEAD_DIM, HIDDEN],
  ['self_attn.o_proj', HIDDEN, HEADS * HEAD_DIM],
  ['mlp.gate_proj', FFN, HIDDEN],
  ['mlp.up_proj', FFN, HIDDEN],
  ['mlp.down_proj', HIDDEN, FFN],
];

const SUB_NORMS: Record<Class, [name: string, length: number][]> = {
  BitNetForCausalLM: [
    ['self_attn.attn_sub_norm', HEADS * HEAD_DIM],
    ['mlp.ffn_sub_norm', FFN],
  ],
  BitnetForCausalLM: [
    ['self_attn.inner_attn_ln', HEADS * HEAD_DIM],
    ['mlp.ffn_layernorm', FFN],
  ],
  LlamaForCausalLM: [],
};

const QUANTIZATION: Record<Form, Record<string, unknown> | undefined> = {
  'packed, multiply': { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'offline' },
  'packed, divide': { quant_method: 'bitnet' },
  master: { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'online' },
  dequantised: undefined,
};

/** The scale of every matrix: a power of two, so that dividing by its inverse gives the same. */
export const SCALE = 0.125;

export function checkpoint(name: Class, form: Form): Checkpoint {
  const tensors = new Map<string, Tensor>();
  const trits: Checkpoint['trits'] = new Map();
  let seed = 1;
  const floats = (tensor: string, shape: number[], dtype: 'F32' | 'BF16') => {
    const next = random(seed++);
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next() - 0.5);
    tensors.set(tensor, { dtype, shape, bytes: dtype === 'F32' ? encodeF32(values) : encodeBF16(values) });
  };
  floats('model.embed_tokens.weight', [VOCABULARY, HIDDEN], 'BF16');
  floats('model.norm.weight', [HIDDEN], 'BF16');
  if (name === 'LlamaForCausalLM') floats('lm_head.weight', [VOCABULARY, HIDDEN], 'F32');
  for (let layer = 0; layer < LAYERS; layer++) {
    const at = `model.layers.${layer}`;
    floats(`${at}.input_layernorm.weight`, [HIDDEN], 'F32');
    floats(`${at}.post_attention_layernorm.weight`, [HIDDEN], 'BF16');
    for (const [norm, length] of SUB_NORMS[name]) floats(`${at}.${norm}.weight`, [length], 'BF16');
    for (const [module, rows, columns] of MODULES) {
      const matrix = { trits: randomTrits(rows * columns, seed++), rows, columns };
      trits.set(`${at}.${module}`, matrix);
      for (const [suffix, tensor] of stored(matrix, form)) tensors.set(`${at}.${module}.${suffix}`, tensor);
    }
  }
  return {
    config: {
      architectures: [name],
      hidden_size: HIDDEN,
      intermediate_size: FFN,
      num_hidden_layers: LAYERS,
      num_attention_heads: HEADS,
      num_key_value_heads: KV_HEADS,
      head_dim: HEAD_DIM,
      max_position_embeddings: 128,
      rms_norm_eps: 1e-5,
      rope_theta: 500000,
      hidden_act: name === 'BitNetForCausalLM' ? 'relu2' : 'silu',
      vocab_size: VOCABULARY,
      tie_word_embeddings: name !== 'LlamaForCausalLM',
      eos_token_id: 21,
      quantization_config: QUANTIZATION[form],
    },
    tokenizer: tokenizerJson(),
    tokenizerConfig: { bos_token: '<s>', eos_token: { content: '</s>' }, chat_template: '{{ messages }}' },
    tensors,
    trits,
  };
}

type Matrix = { trits: Int8Array; rows: number; columns: number };

function stored({ trits, rows, columns }: Matrix, form: Form): [string, Tensor][] {
  if (form === 'dequantised') {
    const values = Float32Array.from(trits, (trit) => trit * SCALE);
    return [['weight', { dtype: 'BF16', shape: [rows, columns], bytes: encodeBF16(values) }]];
  }
  if (form === 'master') {
    // Zeros within a quarter of the scale, the others from 0.6 to 1.4 of it: half of the mean lies between.
    const next = random(trits.length);
    const values = Float32Array.from(
      trits,
      (trit) => SCALE * (trit === 0 ? (next() - 0.5) / 2 : trit * (0.6 + 0.8 * next())),
    );
    return [['weight', { dtype: 'F32', shape: [rows, columns], bytes: encodeF32(values) }]];
  }
  const scale = Float32Array.of(form === 'packed, divide' ? 1 / SCALE : SCALE);
  return [
    ['weight', { dtype: 'U8', shape: [rows / 4, columns], bytes: packQuarters(trits, rows, columns) }],
    ['weight_scale', { dtype: 'BF16', shape: [1], bytes: encodeBF16(scale) }],
  ];
}

/** transformers' pack_weights, written the other way round: byte by byte. */
export function packQuarters(trits: Int8Array, rows: number, columns: number): Uint8Array {
  const quarter = rows / 4;
  return Uint8Array.from({ length: quarter * columns }, (_, at) => {
    const code = (part: number) => trits[(Math.floor(at / columns) + part * quarter) * columns + (at % columns)] + 1;
    return code(0) + 4 * code(1) + 16 * code(2) + 64 * code(3);
  });
}

export const LLAMA3_REGEX =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

export function tokenizerJson(): Record<string, unknown> {
  const vocab: Record<string, number> = {};
  for (const [id, letter] of [...'abcdefghijklmnopqr'].entries()) vocab[letter] = id;
  vocab.ab = 18;
  vocab['\u0120a'] = 19;
  return {
    version: '1.0',
    added_tokens: [
      { id: 20, content: '<s>', special: true },
      { id: 21, content: '</s>', special: true },
      { id: 22, content: '<tool>', special: false },
      { id: 23, content: '<|eot_id|>', special: true },
    ],
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: LLAMA3_REGEX }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: {
      type: 'Sequence',
      processors: [
        { type: 'ByteLevel' },
        {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
        },
      ],
    },
    model: { type: 'BPE', ignore_merges: true, vocab, merges: ['a b', ['\u0120', 'a']] },
  };
}

export type Files = Map<string, Uint8Array>;

/** The folder of a checkpoint, in one weight file or two. */
export async function filesOf(c: Checkpoint, shards: 1 | 2 = 1): Promise<Files> {
  const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
  const files: Files = new Map([
    ['config.json', json(c.config)],
    ['tokenizer.json', json(c.tokenizer)],
    ['tokenizer_config.json', json(c.tokenizerConfig)],
    ['generation_config.json', json({ eos_token_id: [21, 23] })],
  ]);
  const entries = [...c.tensors].map(
    ([name, { bytes, ...rest }]): SafetensorsTensorToWrite => ({ name, ...rest, data: () => [bytes] }),
  );
  if (shards === 1) {
    files.set('model.safetensors', await safetensorsOf(entries));
    return files;
  }
  const weightMap: Record<string, string> = {};
  for (const part of [0, 1]) {
    const name = `model-0000${part + 1}-of-00002.safetensors`;
    const own = entries.filter((_, i) => i % 2 === part);
    for (const { name: tensor } of own) weightMap[tensor] = name;
    files.set(name, await safetensorsOf(own));
  }
  files.set('model.safetensors.index.json', json({ metadata: {}, weight_map: weightMap }));
  return files;
}

async function safetensorsOf(tensors: readonly SafetensorsTensorToWrite[]): Promise<Uint8Array> {
  const sink = memorySink();
  await writeSafetensors(sink, tensors);
  return sink.bytes();
}

/** Counts what is open, so that a test can see that nothing stays so. */
export function readerOf(files: Files): HfReader & { nOpen: number } {
  const reader = {
    label: '/models/tiny/',
    nOpen: 0,
    async open(name: string) {
      const bytes = files.get(name);
      if (bytes === undefined) return undefined;
      reader.nOpen++;
      let isOpen = true;
      return {
        ...memorySource(bytes, name),
        async close() {
          if (isOpen) reader.nOpen--;
          isOpen = false;
        },
      };
    },
  };
  return reader;
}
