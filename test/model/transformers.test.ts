/**
 * Against Hugging Face's transformers: the graphs of Qwen3 and Gemma 3 with a norm before every projection, on tiny models whose
 * weights and answers `fixtures/gen/transformers-models.py` wrote. Matrices are dense, so no int8 rounding blurs the comparison.
 */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { ts, wasm } from '../../src/engine/backends.ts';
import { Stepper } from '../../src/engine/stepper.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { GgufValue } from '../../src/formats/gguf/types.ts';
import { stringValue, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { loadWeights } from '../../src/model/load.ts';
import { relativeRms } from './reference64.ts';

interface Golden {
  readonly architecture: string;
  readonly ids: readonly number[];
  readonly tensors: readonly { readonly name: string; readonly shape: number[]; readonly f32: string }[];
  readonly rows: string;
  readonly [key: string]: unknown;
}

const bytesOf = (base64: string) => Uint8Array.from(Buffer.from(base64, 'base64'));

async function fileOf(golden: Golden): Promise<Uint8Array> {
  const a = golden.architecture;
  const u32 = (key: string, name: string): [string, GgufValue] => [
    `${a}.${key}`,
    { type: 'u32', value: Number(golden[name]) },
  ];
  const f32 = (key: string, name: string): [string, GgufValue] => [
    `${a}.${key}`,
    { type: 'f32', value: Number(golden[name]) },
  ];
  const sink = memorySink();
  await writeGguf(sink, {
    metadata: [
      ['general.architecture', stringValue(a)],
      u32('vocab_size', 'vocabulary'),
      [`${a}.context_length`, { type: 'u32', value: 64 }],
      u32('embedding_length', 'hidden'),
      u32('block_count', 'nLayers'),
      u32('feed_forward_length', 'ffn'),
      u32('attention.head_count', 'nHeads'),
      u32('attention.head_count_kv', 'nKvHeads'),
      u32('attention.key_length', 'headDim'),
      u32('attention.value_length', 'headDim'),
      f32('attention.layer_norm_rms_epsilon', 'eps'),
      f32('rope.freq_base', 'ropeBase'),
    ],
    tensors: golden.tensors.map(({ name, shape, f32 }) => ({ name, dtype: 'F32', shape, data: () => [bytesOf(f32)] })),
  });
  return sink.bytes();
}

it.each(['qwen3', 'gemma3'])('%s agrees to 1e-6', async (architecture) => {
  const url = new URL(`../../fixtures/golden/transformers-${architecture}.json`, import.meta.url);
  const golden = JSON.parse(readFileSync(url, 'utf8')) as Golden;
  const gguf = await openGguf(memorySource(await fileOf(golden)));
  const want = new Float64Array(bytesOf(golden.rows).buffer);
  for (const open of [ts(), wasm({ threads: 2 })]) {
    const backend = await open();
    const weights = await loadWeights(gguf, backend);
    const { nLayers, nHeads, nKvHeads, headDim } = weights.config;
    const shape = { nLayers, nHeads, nKvHeads, headDim, contextSize: 16, kType: 'f32', vType: 'f32' } as const;
    const stepper = new Stepper(backend, weights, 16);
    const [rows] = await stepper.hidden([{ kv: backend.allocKv(shape), position: 0, ids: golden.ids }]);
    expect(rows.length).toBe(want.length);
    expect(relativeRms(rows, want), backend.info.name).toBeLessThan(1e-6);
    await backend.dispose();
  }
});
