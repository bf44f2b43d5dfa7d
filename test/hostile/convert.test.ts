import { describe, expect, it } from 'vitest';
import { type ConvertOptions, convertHf } from '../../src/convert/hf.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { memorySink } from '../../src/formats/index.ts';
import { encodeBF16, encodeF32 } from '../../src/tensors/floats.ts';
import {
  type Checkpoint,
  type Class,
  checkpoint,
  type Files,
  type Form,
  filesOf,
  readerOf,
} from '../unit/convert-checkpoint.ts';
import { refuses } from './builder.ts';

interface Case {
  readonly what: string;
  readonly code: ErrorCode;
  readonly message: RegExp;
  readonly class?: Class;
  readonly form?: Form;
  readonly shards?: 2;
  readonly options?: ConvertOptions;
  readonly change?: (c: Checkpoint) => void;
  readonly files?: (files: Files) => void;
}

const Q = 'model.layers.0.self_attn.q_proj.weight';
const text = (content: string) => new TextEncoder().encode(content);
const config = (changes: object) => (c: Checkpoint) => void Object.assign(c.config, changes);
const model = (changes: object) => (c: Checkpoint) => void Object.assign(c.tokenizer.model as object, changes);
const scale = (value: number) => (c: Checkpoint) =>
  void c.tensors.set(`${Q}_scale`, { dtype: 'BF16', shape: [1], bytes: encodeBF16(Float32Array.of(value)) });

const index = (change: (text: string) => string) => (files: Files) => {
  const name = 'model.safetensors.index.json';
  const before = new TextDecoder().decode(files.get(name));
  expect(change(before)).not.toBe(before);
  files.set(name, text(change(before)));
};

const cases: Case[] = [
  // files
  { what: 'empty folder', code: 'io', message: /config\.json/, files: (f) => f.clear() },
  { what: 'no weights', code: 'io', message: /model\.safetensors/, files: (f) => f.delete('model.safetensors') },
  {
    what: 'pickle',
    code: 'unsupported-type',
    message: /pytorch_model\.bin: PyTorch pickle.*safe_serialization/,
    files: (f) => f.delete('model.safetensors') && f.set('pytorch_model.bin', text('x')),
  },
  {
    what: 'missing shard',
    code: 'io',
    message: /index is missing, expected model-00002-of-00002\.safetensors/,
    shards: 2,
    files: (f) => f.delete('model-00002-of-00002.safetensors'),
  },
  {
    what: 'an index that reaches out of the folder',
    code: 'bad-container',
    message: /NAME\.safetensors in the same folder, got "\.\.\/model-00002-of-00002\.safetensors"/,
    shards: 2,
    files: index((map) => map.replaceAll('model-00002', '../model-00002')),
  },
  {
    what: 'an index that names an absolute path',
    code: 'bad-container',
    message: /got "\/etc\/model-00001/,
    shards: 2,
    files: index((map) => map.replaceAll('model-00001', '/etc/model-00001')),
  },
  {
    what: 'a tensor in both shards',
    code: 'bad-container',
    message: /model-00002-of-00002\.safetensors has a tensor that the index does not have there/,
    shards: 2,
    files: (f) => f.set('model-00002-of-00002.safetensors', f.get('model-00001-of-00002.safetensors')!),
  },
  {
    what: 'a tensor that the index has and no shard',
    code: 'missing-tensor',
    message: /lacks a tensor of the index/,
    shards: 2,
    files: index((map) =>
      map.replace('{"model.embed', '{"ghost.weight":"model-00001-of-00002.safetensors","model.embed'),
    ),
  },
  {
    what: 'bad JSON',
    code: 'bad-container',
    message: /config\.json: bad JSON/,
    files: (f) => f.set('config.json', text('{')),
  },
  {
    what: 'cut weights',
    code: 'truncated',
    message: /model\.safetensors/,
    files: (f) => f.set('model.safetensors', f.get('model.safetensors')!.slice(0, -5)),
  },
  { what: 'no tokenizer', code: 'io', message: /tokenizer\.json/, files: (f) => f.delete('tokenizer.json') },
  {
    what: 'tokenizer.model that is none',
    code: 'truncated',
    message: /tokenizer\.model: byte 1: a number/,
    files: (f) => f.delete('tokenizer.json') && f.set('tokenizer.model', text('x')),
  },
  // config.json
  {
    what: 'unknown class',
    code: 'unsupported-architecture',
    message: /BitNetForCausalLM, .*got "MistralForCausalLM"/,
    change: config({ architectures: ['MistralForCausalLM'] }),
  },
  {
    what: 'no class',
    code: 'unsupported-architecture',
    message: /got undefined/,
    change: config({ architectures: 1 }),
  },
  {
    what: 'inherited class',
    code: 'unsupported-architecture',
    message: /class/,
    change: config({ architectures: ['toString'] }),
  },
  {
    what: 'other activation',
    code: 'unsupported-architecture',
    message: /hidden_act: .*expected relu2.*got "silu"/,
    change: config({ hidden_act: 'silu' }),
  },
  { what: 'zero width', code: 'bad-metadata', message: /hidden_size/, change: config({ hidden_size: 0 }) },
  {
    what: 'broken heads',
    code: 'bad-metadata',
    message: /head_dim/,
    change: config({ num_attention_heads: 3, num_key_value_heads: 3, head_dim: null }),
  },
  { what: 'uneven groups', code: 'bad-metadata', message: /bad shape/, change: config({ num_key_value_heads: 3 }) },
  {
    what: 'too many layers',
    code: 'bad-metadata',
    message: /num_hidden_layers.*1 to 1024/,
    change: config({ num_hidden_layers: 1e9 }),
  },
  {
    what: 'negative width',
    code: 'bad-metadata',
    message: /intermediate_size/,
    change: config({ intermediate_size: -512 }),
  },
  {
    what: 'half a head',
    code: 'bad-metadata',
    message: /num_attention_heads/,
    change: config({ num_attention_heads: 7.5 }),
  },
  {
    what: 'a vocabulary that fills the memory',
    code: 'bad-metadata',
    message: /vocab_size: .*1 to 4194304, got 1099511627776/,
    change: config({ vocab_size: 2 ** 40 }),
  },
  {
    what: 'a width that fills the memory',
    code: 'bad-metadata',
    message: /hidden_size: .*1 to 1048576/,
    change: config({ hidden_size: 2 ** 52 }),
  },
  {
    what: 'a rope base beyond float32',
    code: 'bad-metadata',
    message: /rope_theta.*got 1e\+300/,
    change: config({ rope_theta: 1e300 }),
  },
  {
    what: 'an epsilon that is zero in float32',
    code: 'bad-metadata',
    message: /rms_norm_eps.*got 1e-300/,
    change: config({ rms_norm_eps: 1e-300 }),
  },
  { what: 'no epsilon', code: 'bad-metadata', message: /rms_norm_eps/, change: config({ rms_norm_eps: null }) },
  {
    what: 'yarn',
    code: 'unsupported-architecture',
    message: /rope_scaling.*got "yarn"/,
    change: config({ rope_scaling: { type: 'yarn', factor: 2 } }),
  },
  {
    what: 'other quantisation',
    code: 'unsupported-type',
    message: /quant_method.*got "gptq"/,
    change: config({ quantization_config: { quant_method: 'gptq' } }),
  },
  {
    what: 'unknown linear class',
    code: 'unsupported-type',
    message: /linear_class/,
    change: config({ quantization_config: { quant_method: 'bitnet', linear_class: 'x' } }),
  },
  {
    what: 'ordinary llama',
    code: 'unsupported-type',
    message: /does not say that it is ternary.*q_proj\.weight 0\.2\d\d.*destroyed/,
    class: 'LlamaForCausalLM',
    form: 'master',
    change: config({ quantization_config: undefined }),
  },
  {
    what: 'inner norms',
    code: 'unsupported-architecture',
    message: /use_rms_norm/,
    change: config({ quantization_config: { quant_method: 'bitnet', use_rms_norm: true } }),
  },
  {
    what: 'float projection',
    code: 'unsupported-type',
    message: /modules_to_not_convert: model\.layers\.0\.self_attn\.q_proj/,
    change: config({ quantization_config: { quant_method: 'bitnet', modules_to_not_convert: ['q_proj'] } }),
  },
  {
    what: 'untied bitnet',
    code: 'unsupported-architecture',
    message: /shares the embedding/,
    change: config({ tie_word_embeddings: false }),
  },
  // tensors
  {
    what: 'missing tensors',
    code: 'missing-tensor',
    message: /missing: .*q_proj\.weight_scale, .*down_proj\.weight; unknown: extra/,
    change(c) {
      c.tensors.delete(`${Q}_scale`);
      c.tensors.delete('model.layers.1.mlp.down_proj.weight');
      c.tensors.set('extra', c.tensors.get('model.norm.weight')!);
    },
  },
  {
    what: 'unknown tensor',
    code: 'unused-tensor',
    message: /unknown: model\.layers\.0\.self_attn\.q_proj\.bias/,
    change: (c) => void c.tensors.set('model.layers.0.self_attn.q_proj.bias', c.tensors.get('model.norm.weight')!),
  },
  {
    what: 'other packing',
    code: 'bad-tensor',
    message: /q_proj\.weight expected U8 \(128, 256\), got U8 \(512, 64\)/,
    change: (c) => void c.tensors.set(Q, { ...c.tensors.get(Q)!, shape: [512, 64] }),
  },
  {
    what: 'floats where bytes are announced',
    code: 'bad-tensor',
    message: /q_proj\.weight expected U8 \(128, 256\), got F32 \(512, 256\)/,
    change: (c) => void c.tensors.set(Q, { dtype: 'F32', shape: [512, 256], bytes: new Uint8Array(4 * 131072) }),
  },
  {
    what: 'bytes where floats are announced',
    code: 'bad-tensor',
    message: /q_proj\.weight expected F32\/F16\/BF16 \(512, 256\), got U8.*unknown: .*weight_scale/,
    change: config({
      quantization_config: { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'online' },
    }),
  },
  {
    what: 'code 3',
    code: 'bad-tensor',
    message: /q_proj\.weight row 257 column 2: code 3.*0x30/,
    change: (c) => void c.tensors.get(Q)!.bytes.set([0x30], 256 + 2),
  },
  ...[Number.NaN, Infinity, 0, -1].map(
    (value): Case => ({
      what: `scale ${value}`,
      code: 'bad-tensor',
      message: /q_proj\.weight_scale/,
      change: scale(value),
    }),
  ),
  {
    what: 'a scale without a finite inverse',
    code: 'bad-tensor',
    message: /q_proj\.weight_scale: bad scale.*got Infinity/,
    class: 'LlamaForCausalLM',
    form: 'packed, divide',
    change: (c) =>
      void c.tensors.set(`${Q}_scale`, { dtype: 'F32', shape: [1], bytes: encodeF32(Float32Array.of(1e-40)) }),
  },
  {
    what: 'everything at once',
    code: 'missing-tensor',
    message:
      /missing: .*up_proj\.weight; wrong: .*k_proj\.weight expected U8 \(32, 256\), got BF16 \(128, 256\); unknown: .*v_proj\.bias/,
    change(c) {
      const at = 'model.layers.0.self_attn';
      c.tensors.delete('model.layers.1.mlp.up_proj.weight');
      c.tensors.set(`${at}.k_proj.weight`, { dtype: 'BF16', shape: [128, 256], bytes: new Uint8Array(65536) });
      c.tensors.set(`${at}.v_proj.bias`, { dtype: 'BF16', shape: [128], bytes: new Uint8Array(256) });
    },
  },
  {
    what: 'two scales',
    code: 'bad-tensor',
    message: /weight_scale expected .*\(1\), got BF16 \(2\)/,
    change: (c) => void c.tensors.set(`${Q}_scale`, { dtype: 'BF16', shape: [2], bytes: new Uint8Array(4) }),
  },
  {
    what: 'NaN in master weights',
    code: 'bad-tensor',
    message: /q_proj\.weight value 300/,
    form: 'master',
    change: (c) => void c.tensors.get(Q)!.bytes.set(encodeF32(Float32Array.of(Number.NaN)), 4 * 300),
  },
  {
    what: 'infinity in a norm',
    code: 'bad-tensor',
    message: /model\.norm\.weight value 0/,
    change: (c) => void c.tensors.get('model.norm.weight')!.bytes.set([0x80, 0x7f]),
  },
  {
    what: 'embedding beyond F16',
    code: 'not-finite',
    message: /token_embd\.weight: a value too large for F16.*BF16/,
    change: (c) => void c.tensors.get('model.embed_tokens.weight')!.bytes.set(encodeBF16(Float32Array.of(1e6))),
  },
  {
    what: 'scale beyond F16',
    code: 'bad-tensor',
    message: /blk\.0\.attn_q\.weight: bad scale/,
    options: { outType: 'TQ1_0' },
    change: scale(1e6),
  },
  {
    what: 'more layers than there are',
    code: 'missing-tensor',
    message: /missing: model\.layers\.2\.input_layernorm\.weight.*and \d+ more/,
    change: config({ num_hidden_layers: 3 }),
  },
  // tokenizer.json
  {
    what: 'WordPiece',
    code: 'unsupported-tokenizer',
    message: /got "WordPiece"/,
    change: model({ type: 'WordPiece' }),
  },
  {
    what: 'byte fallback',
    code: 'unsupported-tokenizer',
    message: /normalizer, pre_tokenizer.*U\+2581/,
    change: model({ byte_fallback: true }),
  },
  { what: 'no vocabulary', code: 'bad-tokenizer', message: /vocab/, change: model({ vocab: [] }) },
  {
    what: 'id beyond the vocabulary',
    code: 'bad-tokenizer',
    message: /"zz".*below vocab_size 40/,
    change: model({ vocab: { zz: 40 } }),
  },
  { what: 'id twice', code: 'bad-tokenizer', message: /"b".*which is "a"/, change: model({ vocab: { a: 0, b: 0 } }) },
  { what: 'fractional id', code: 'bad-tokenizer', message: /"a"/, change: model({ vocab: { a: 0.5 } }) },
  { what: 'bad merge', code: 'bad-tokenizer', message: /merges\[1\]/, change: model({ merges: ['a b', 'a b c'] }) },
  { what: 'bad merge pair', code: 'bad-tokenizer', message: /merges\[0\]/, change: model({ merges: [['a', 1]] }) },
  { what: 'end token beyond', code: 'bad-tokenizer', message: /eos_token_id/, change: config({ eos_token_id: 400 }) },
  {
    what: 'bad template',
    code: 'bad-template',
    message: /chat_template/,
    change: (c) => void Object.assign(c.tokenizerConfig, { chat_template: [{ name: 'default' }] }),
  },
];

describe('conversions that are cut off', () => {
  const sinkThat = (write: (chunk: Uint8Array) => Promise<void>) => {
    const sink = {
      ...memorySink(),
      ended: '',
      write,
      async abort() {
        sink.ended = 'aborted';
      },
      async close() {
        sink.ended = 'closed';
      },
    };
    return sink;
  };

  it.each(['packed, multiply', 'master'] as const)('by a full disk: %s', async (form) => {
    const reader = readerOf(await filesOf(checkpoint('BitNetForCausalLM', form)));
    let room = 200_000;
    const sink = sinkThat(async (chunk) => {
      room -= chunk.length;
      if (room < 0) throw new Error('no space left');
    });
    await expect(convertHf(reader, sink)).rejects.toThrow('no space left');
    expect(sink.ended).toBe('aborted');
    expect(reader.nOpen).toBe(0);
  });

  it.each([
    ['BitNetForCausalLM', 'packed, multiply'],
    ['BitNetForCausalLM', 'master'],
    ['LlamaForCausalLM', 'dequantised'],
  ] as const)('by the user, early and late: %s, %s', async (name, form) => {
    const files = await filesOf(checkpoint(name, form), 2);
    let reads = 0;
    const counting = (stopAt: number, stop: AbortController) => {
      const reader = readerOf(files);
      const open = async (file: string) => {
        const source = await reader.open(file);
        if (source === undefined) return undefined;
        const readInto = (target: Uint8Array, at: number) => {
          if (++reads === stopAt) stop.abort(new Error('enough'));
          return source.readInto(target, at);
        };
        return { ...source, readInto };
      };
      return { reader, folder: { label: reader.label, open } };
    };
    const whole = counting(Infinity, new AbortController());
    await convertHf(whole.folder, memorySink());
    const total = reads;
    expect(total).toBeGreaterThan(40);
    for (let stopAt = 1; stopAt < total; stopAt += Math.ceil(total / 12)) {
      reads = 0;
      const stop = new AbortController();
      const { reader, folder } = counting(stopAt, stop);
      const sink = sinkThat(async () => {});
      await expect(convertHf(folder, sink, { signal: stop.signal }), `read ${stopAt}`).rejects.toThrow('enough');
      expect(sink.ended).toBe('aborted');
      expect(reader.nOpen).toBe(0);
    }
  });
});

describe('checkpoints that lie', () => {
  it.each(cases)('$what', async (wrong) => {
    const c = checkpoint(wrong.class ?? 'BitNetForCausalLM', wrong.form ?? 'packed, multiply');
    wrong.change?.(c);
    const files = await filesOf(c, wrong.shards ?? 1);
    wrong.files?.(files);
    const target = memorySink();
    let aborts = 0;
    const sink = { ...target, abort: async () => void aborts++, close: async () => expect.fail('closed') };
    const reader = readerOf(files);
    await refuses(convertHf(reader, sink, wrong.options), wrong.code, wrong.message);
    expect(aborts).toBeGreaterThan(0);
    expect(reader.nOpen).toBe(0);
  });

  it.each(['BitNetForCausalLM', 'BitnetForCausalLM', 'LlamaForCausalLM'] as const)(
    '%s as it should be',
    async (name) => {
      const files = await filesOf(checkpoint(name, 'packed, multiply'), 2);
      const reader = readerOf(files);
      await convertHf(reader, memorySink());
      expect(reader.nOpen).toBe(0);
    },
  );
});
