/**
 * A model that fits in a test: one layer of random trits over a vocabulary of bytes and letters.
 * @module
 */

import { writeFile } from 'node:fs/promises';
import {
  type GgufValue,
  memorySink,
  stringsValue,
  stringValue,
  type TensorToWrite,
  writeGguf,
} from '../../src/formats/index.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { encodeI2S } from '../../src/tensors/i2s.ts';

const HIDDEN = 128;
const FFN = 256;
const CONTEXT = 4096;
const TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}";

const specials = ['<unk>', '<s>', '</s>'];
const byteTokens = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
const letters = ['▁', ...'abcdefghijklmnopqrstuvwxyz'];
const tokens = [...specials, ...byteTokens, ...letters];

export const VOCABULARY = tokens.length;

const u32 = (value: number): GgufValue => ({ type: 'u32', value });
const f32 = (value: number): GgufValue => ({ type: 'f32', value: Math.fround(value) });

function metadata(template: boolean): [string, GgufValue][] {
  const types = tokens.map((_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1));
  return [
    ['general.architecture', stringValue('bitnet-b1.58')],
    ['general.name', stringValue('tiny')],
    ['bitnet-b1.58.vocab_size', u32(VOCABULARY)],
    ['bitnet-b1.58.context_length', u32(CONTEXT)],
    ['bitnet-b1.58.embedding_length', u32(HIDDEN)],
    ['bitnet-b1.58.block_count', u32(1)],
    ['bitnet-b1.58.feed_forward_length', u32(FFN)],
    ['bitnet-b1.58.attention.head_count', u32(2)],
    ['bitnet-b1.58.attention.head_count_kv', u32(1)],
    ['bitnet-b1.58.attention.layer_norm_rms_epsilon', f32(1e-5)],
    ['tokenizer.ggml.model', stringValue('llama')],
    ['tokenizer.ggml.tokens', stringsValue(tokens)],
    ['tokenizer.ggml.scores', { type: 'array', of: 'f32', values: new Float32Array(VOCABULARY) }],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', values: Int32Array.from(types) }],
    ['tokenizer.ggml.bos_token_id', u32(1)],
    ['tokenizer.ggml.eos_token_id', u32(2)],
    ...(template ? ([['tokenizer.chat_template', stringValue(TEMPLATE)]] as [string, GgufValue][]) : []),
  ];
}

function tensors(): TensorToWrite[] {
  const rng = Rng.fromSeed(58);
  const ternary = (name: string, columns: number, rows: number): TensorToWrite => ({
    name: `blk.0.${name}.weight`,
    dtype: 'I2_S',
    shape: [columns, rows],
    data: () => [
      encodeI2S(
        Int8Array.from({ length: columns * rows }, () => (rng.nextUint32() % 3) - 1),
        0.1,
      ),
    ],
  });
  const floats = (name: string, shape: number[], next: () => number): TensorToWrite => ({
    name,
    dtype: 'F32',
    shape,
    data: () => {
      const values = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, next);
      return [new Uint8Array(values.buffer)];
    },
  });
  const ones = (name: string, length: number): TensorToWrite => floats(name, [length], () => 1);
  return [
    // Spread out enough for sampling to have a choice and the text to change with the seed.
    floats('token_embd.weight', [HIDDEN, VOCABULARY], () => (rng.nextFloat() - 0.5) * 0.5),
    ones('output_norm.weight', HIDDEN),
    ones('blk.0.attn_norm.weight', HIDDEN),
    ternary('attn_q', HIDDEN, HIDDEN),
    ternary('attn_k', HIDDEN, HIDDEN / 2),
    ternary('attn_v', HIDDEN, HIDDEN / 2),
    ones('blk.0.attn_sub_norm.weight', HIDDEN),
    ternary('attn_output', HIDDEN, HIDDEN),
    ones('blk.0.ffn_norm.weight', HIDDEN),
    ternary('ffn_gate', HIDDEN, FFN),
    ternary('ffn_up', HIDDEN, FFN),
    ones('blk.0.ffn_sub_norm.weight', FFN),
    ternary('ffn_down', FFN, HIDDEN),
  ];
}

/** Writes the model; `template` gives it a chat template. */
export async function writeTinyModel(path: string, options: { readonly template: boolean }): Promise<void> {
  const sink = memorySink();
  await writeGguf(sink, { metadata: metadata(options.template), tensors: tensors() });
  await writeFile(path, sink.bytes());
}

/** A vocabulary without tensors. */
export async function writeTinyVocabulary(path: string): Promise<void> {
  const sink = memorySink();
  await writeGguf(sink, { metadata: metadata(false), tensors: [] });
  await writeFile(path, sink.bytes());
}
