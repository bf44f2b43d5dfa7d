/** Texts, options and files with which `model.embed` must refuse, with a code, before anything is computed. */
import { beforeAll, describe, expect, it } from 'vitest';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { GgufFile, GgufValue } from '../../src/formats/gguf/types.ts';
import { copyOf, stringValue, type TensorToWrite, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { type EmbedOptions, loadModel, type Model } from '../../src/index.ts';
import { f32, u32 } from '../cli/mutants.ts';
import { tinyModel } from '../model/models.ts';
import { refuses } from './builder.ts';

const good = new Map<string, GgufFile>();

beforeAll(async () => {
  for (const architecture of ['qwen3', 'gemma3', 'llama']) {
    good.set(architecture, await openGguf(memorySource(await tinyModel({ architecture }))));
  }
});

type Metadata = Map<string, GgufValue>;
type Tensors = Map<string, TensorToWrite>;

/** A copy of the good file after `change`. */
async function changed(architecture: string, change: (metadata: Metadata, tensors: Tensors) => void) {
  const gguf = good.get(architecture)!;
  const metadata: Metadata = new Map(gguf.metadata);
  const tensors: Tensors = new Map(gguf.tensors.map((tensor) => [tensor.name, copyOf(tensor)]));
  change(metadata, tensors);
  const sink = memorySink();
  await writeGguf(sink, { metadata, tensors: [...tensors.values()] });
  return loadModel(sink.bytes(), { threads: 1 });
}

const no: GgufValue = { type: 'bool', value: false };

describe('files', () => {
  it.each(['qwen3', 'gemma3'])('%s loads unchanged', async (architecture) => {
    const model = await changed(architecture, () => undefined);
    expect((await model.embed(['a']))[0].length).toBe(model.info.embeddingLength);
    await model.dispose();
  });

  const cases: [
    what: string,
    arch: string,
    code: string,
    message: RegExp,
    change: (m: Metadata, t: Tensors) => void,
  ][] = [
    [
      'one of seven norms missing',
      'qwen3',
      'missing-tensor',
      /missing: blk\.1\.ffn_up_norm_in\.weight/,
      (_, t) => t.delete('blk.1.ffn_up_norm_in.weight'),
    ],
    [
      'all of one layer missing',
      'gemma3',
      'missing-tensor',
      /blk\.0\.attn_k_norm_in\.weight/,
      (_, t) => {
        for (const name of [...t.keys()]) if (/^blk\.0\..*_norm_in/.test(name)) t.delete(name);
      },
    ],
    [
      'no norm of heads',
      'qwen3',
      'missing-tensor',
      /blk\.0\.attn_q_norm\.weight/,
      (_, t) => t.delete('blk.0.attn_q_norm.weight'),
    ],
    [
      'no norm behind attention',
      'gemma3',
      'missing-tensor',
      /blk\.1\.post_attention_norm\.weight/,
      (_, t) => t.delete('blk.1.post_attention_norm.weight'),
    ],
    [
      "another architecture's norms",
      'llama',
      'unused-tensor',
      /unknown.*blk\.0\.attn_q_norm_in\.weight/,
      (_, t) =>
        t.set('blk.0.attn_q_norm_in.weight', {
          ...t.get('blk.0.attn_norm.weight')!,
          name: 'blk.0.attn_q_norm_in.weight',
        }),
    ],
    [
      'a norm of the wrong length',
      'qwen3',
      'bad-tensor',
      /attn_output_norm_in.*expected \(768\), got \(256\)/,
      (_, t) =>
        t.set('blk.0.attn_output_norm_in.weight', {
          ...t.get('blk.0.attn_q_norm_in.weight')!,
          name: 'blk.0.attn_output_norm_in.weight',
        }),
    ],
    [
      'no such pooling',
      'qwen3',
      'bad-metadata',
      /qwen3\.pooling_type: no such pooling.*got 9/,
      (m) => m.set('qwen3.pooling_type', u32(9)),
    ],
    [
      'pooling that is no number',
      'qwen3',
      'bad-metadata',
      /qwen3\.pooling_type/,
      (m) => m.set('qwen3.pooling_type', stringValue('last')),
    ],
    [
      'attention both ways',
      'gemma3',
      'unsupported-architecture',
      /gemma3\.attention\.causal/,
      (m) => m.set('gemma3.attention.causal', no),
    ],
    [
      'sliding windows',
      'gemma3',
      'unsupported-architecture',
      /gemma3\.attention\.sliding_window.*got 512/,
      (m) => m.set('gemma3.attention.sliding_window', u32(512)),
    ],
    [
      'capped logits',
      'gemma3',
      'unsupported-architecture',
      /gemma3\.final_logit_softcapping/,
      (m) => m.set('gemma3.final_logit_softcapping', f32(30)),
    ],
  ];

  it.each(cases)('%s (%s)', async (_what, arch, code, message, change) => {
    await refuses(changed(arch, change), code as 'bad-metadata', message);
  });

  it('none of seven norms is an ordinary model, which runs', async () => {
    const model = await changed('qwen3', (_, tensors) => {
      for (const name of [...tensors.keys()]) if (name.endsWith('_norm_in.weight')) tensors.delete(name);
    });
    expect((await model.embed(['a']))[0].every(Number.isFinite)).toBe(true);
    await model.dispose();
  });

  it.each([
    [0, 'none'],
    [4, 'rank'],
  ])('pooling %i (%s) needs another one', async (type, name) => {
    const model = await changed('qwen3', (m) => m.set('qwen3.pooling_type', u32(type)));
    await refuses(
      model.embed(['a']),
      'bad-argument',
      new RegExp(`qwen3\\.pooling_type.*mean, cls, last, got "${name}"`),
    );
    expect((await model.embed(['a'], { pooling: 'cls' })).length).toBe(1);
    await model.dispose();
  });

  it('a norm that makes nonsense is found out', async () => {
    const model = await changed('gemma3', (_, tensors) => {
      const name = 'output_norm.weight';
      const huge = new Uint8Array(new Float32Array(256).fill(3e38).buffer);
      tensors.set(name, { name, dtype: 'F32', shape: [256], data: () => [huge] });
    });
    await refuses(model.embed(['a']), 'not-finite', /texts\[0\]/);
    await model.dispose();
  });
});

describe('texts and options', () => {
  let model: Model;
  beforeAll(async () => {
    model = await changed('qwen3', (m) => m.set('tokenizer.ggml.add_bos_token', no));
    return () => model.dispose();
  });

  const text = 'A cat';
  const cases: [what: string, code: string, message: RegExp, texts: unknown, options?: Record<string, unknown>][] = [
    ['an empty text', 'bad-argument', /texts\[1\]: nothing to embed/, [text, '']],
    [
      'a text that is too long',
      'context-full',
      /texts\[0\]: the text is too long, expected at most 512 tokens, got 1\d\d\d .*--truncate/,
      ['abcdef'.repeat(200)],
    ],
    ['longer than asked for', 'context-full', /at most 3 tokens/, [text], { maxTokens: 3 }],
    ['more than the model has', 'bad-argument', /maxTokens.*1 to 512/, [text], { maxTokens: 513 }],
    ['no positions', 'bad-argument', /maxTokens/, [text], { maxTokens: 0 }],
    ['a text instead of a list', 'bad-argument', /not a list of texts/, text],
    ['something else in the list', 'bad-argument', /texts\[1\]: not a text/, [text, 7]],
    ['no such pooling', 'bad-argument', /pooling.*got "max"/, [text], { pooling: 'max' }],
    ['pooling of a prototype', 'bad-argument', /pooling/, [text], { pooling: 'toString' }],
    ['no such format', 'bad-argument', /quantize.*got "int3"/, [text], { quantize: 'int3' }],
    ['a format of a prototype', 'bad-argument', /quantize/, [text], { quantize: 'constructor' }],
    ['no such norm', 'bad-argument', /normalize/, [text], { normalize: -2 }],
    ['a cache of another type', 'bad-argument', /kType/, [text], { kType: 'f64' }],
  ];

  it.each(cases)('%s', async (_what, code, message, texts, options) => {
    const before = model.memory().usedBytes;
    await refuses(
      model.embed(texts as string[], options as EmbedOptions as { quantize?: 'float' }),
      code as 'bad-argument',
      message,
    );
    expect(model.memory().usedBytes).toBe(before);
  });

  it('no texts, no vectors; a cut text; lone surrogates', async () => {
    expect(await model.embed([])).toEqual([]);
    const long = 'abcdef'.repeat(200);
    const [cut, same] = await model.embed([long, long.slice(0, 700)], { truncate: true });
    expect(Buffer.compare(Buffer.from(cut.buffer), Buffer.from(same.buffer))).toBe(0);
    expect((await model.embed(['\ud800 x \udfff']))[0].every(Number.isFinite)).toBe(true);
  });

  it('an abort rejects with its reason, and the model goes on', async () => {
    const reason = new Error('enough');
    await expect(model.embed([text], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const pending = model.embed(new Array(400).fill('abcdef'.repeat(30)), { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 20);
    await expect(pending).rejects.toBe(reason);
    expect((await model.embed([text])).length).toBe(1);
  });

  it('after dispose, and while it is going on', async () => {
    const gone = await changed('qwen3', () => undefined);
    const pending = gone.embed(new Array(400).fill('abcdef'.repeat(30)));
    const outcome = refuses(pending, 'disposed', /disposed/);
    await gone.dispose();
    await outcome;
    await refuses(gone.embed([text]), 'disposed', /disposed/);
  });
});
