/**
 * Models whose embedding, head or projections are of any dense type, or ternary tables: every build computes the bits of the
 * definition, and those are the bits of the same model with these matrices as F32. So no form that a type takes in memory
 * changes a weight, and no kernel reads one wrongly.
 */
import { createHash } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { embeddingTypes, encodeFloats } from '../../src/convert/types.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { GgufFile } from '../../src/formats/gguf/types.ts';
import { copyOf, type TensorToWrite, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { type LoadOptions, loadModel } from '../../src/index.ts';
import { decodeInto } from '../../src/tensors/decode.ts';
import { dtypeByName } from '../../src/tensors/dtype.ts';
import { encodeF32 } from '../../src/tensors/floats.ts';
import { encodeI2S } from '../../src/tensors/i2s.ts';
import { randomTrits } from '../hostile/builder.ts';
import { engineLogits, tinyModel } from './models.ts';

const ids = Array.from({ length: 40 }, (_, i) => (i * 37 + 5) % 500);
const types = [...embeddingTypes.filter((type) => type !== 'F32'), 'I2_S'] as const;
type TableType = (typeof types)[number];

let plain: GgufFile;
const values = new Map<string, Float32Array>();

beforeAll(async () => {
  plain = await openGguf(memorySource(await tinyModel({ architecture: 'llama', embeddingType: 'F32' })));
  for (const tensor of plain.tensors) {
    const bytes = new Uint8Array(tensor.byteLength);
    await tensor.source.readInto(bytes, tensor.offsetBytes);
    const out = new Float32Array(tensor.elements);
    decodeInto(tensor.dtype, bytes, 0, out.length, out);
    values.set(tensor.name, out);
  }
  // A head that is not the embedding: its rows in the opposite order, twice as large.
  const embedding = values.get('token_embd.weight')!;
  values.set(
    'output.weight',
    embedding.map((_, i) => 2 * embedding[embedding.length - 1 - i]),
  );
});

interface Pair {
  /** The model with matrices of these types, and with the same values as F32. */
  readonly typed: Uint8Array;
  readonly asF32: Uint8Array;
}

async function pairOf(chosen: Readonly<Record<string, TableType>>): Promise<Pair> {
  const [typed, asF32] = [[], []] as [TensorToWrite[], TensorToWrite[]];
  for (const [name, type] of Object.entries(chosen)) {
    const shape = plain.findTensor(name)?.shape ?? plain.tensor('token_embd.weight').shape;
    const bytes = bytesOf(type, name);
    const decoded = new Float32Array(shape[0] * shape[1]);
    decodeInto(dtypeByName(type), bytes, 0, decoded.length, decoded);
    typed.push({ name, dtype: type, shape, data: () => [bytes] });
    asF32.push({ name, dtype: 'F32', shape, data: () => [encodeF32(decoded)] });
  }
  return { typed: await fileOf(typed), asF32: await fileOf(asF32) };
}

function bytesOf(type: TableType, name: string): Uint8Array {
  const numbers = values.get(name)!;
  return type === 'I2_S' ? encodeI2S(randomTrits(numbers.length, 7), 0.0371) : encodeFloats(type, numbers, name);
}

async function fileOf(changed: readonly TensorToWrite[]): Promise<Uint8Array> {
  const tensors = new Map<string, TensorToWrite>(plain.tensors.map((tensor) => [tensor.name, copyOf(tensor)]));
  for (const tensor of changed) tensors.set(tensor.name, tensor);
  const sink = memorySink();
  await writeGguf(sink, { metadata: new Map(plain.metadata), tensors: [...tensors.values()] });
  return sink.bytes();
}

async function digest(file: Uint8Array, load: LoadOptions): Promise<string> {
  // Projections in types of few bits are refused unless one insists.
  const logits = await engineLogits(file, ids, { ...load, allowDense: true }, { contextSize: 64 });
  expect(logits.length).toBe(ids.length * 512);
  expect(logits.every(Number.isFinite)).toBe(true);
  return createHash('sha256').update(new Uint8Array(logits.buffer)).digest('hex');
}

const builds: readonly LoadOptions[] = [
  { backend: 'wasm', threads: 1, kernels: 'simd' },
  { backend: 'wasm', threads: 3, kernels: 'relaxed' },
  { backend: 'wasm', threads: 1, kernels: 'scalar' },
];

async function holds({ typed, asF32 }: Pair): Promise<string> {
  const expected = await digest(asF32, { backend: 'ts' });
  expect(await digest(typed, { backend: 'ts' }), 'ts').toBe(expected);
  for (const load of builds) expect(await digest(typed, load), `${load.kernels}`).toBe(expected);
  return expected;
}

describe.each(types)('%s', (type) => {
  it('as embedding and tied head', async () => {
    await holds(await pairOf({ 'token_embd.weight': type }));
  });

  it('as a head of its own', async () => {
    const tied = await digest(await fileOf([]), builds[0]);
    expect(await holds(await pairOf({ 'output.weight': type }))).not.toBe(tied);
  });
});

it('projections of any type, each layer and matrix another', async () => {
  const names = plain.tensors
    .filter(({ name, shape }) => /^blk/.test(name) && shape.length === 2)
    .map(({ name }) => name);
  const dense = types.filter((type) => !/^TQ|^I2/.test(type));
  const chosen = Object.fromEntries(names.map((name, i) => [name, dense[i % dense.length]]));
  expect(new Set(Object.values(chosen)).size).toBe(dense.length);
  await holds(await pairOf(chosen));
});

it('generates the same text from a table that is screened', async () => {
  // 512 rows are all computed; the promise for taller tables is held by test/backend/top-k.test.ts. Here: the way to it.
  const { typed, asF32 } = await pairOf({ 'token_embd.weight': 'Q4_K' });
  const texts: string[] = [];
  for (const file of [typed, asF32]) {
    const model = await loadModel(file, { threads: 2 });
    const { text } = await model.createSession().generate('a', { maxTokens: 12, temperature: 0.8, seed: 3 }).result;
    texts.push(text);
    await model.dispose();
  }
  expect(texts[0]).toBe(texts[1]);
  expect(texts[0].length).toBeGreaterThan(12);
});

describe('damaged tables are refused by name', () => {
  const bad: [TableType, at: number, bytes: number[], names: RegExp][] = [
    ['Q4_0', 18 * 40, [0, 0x7c], /token_embd\.weight element 1280: .*finite/],
    ['Q5_1', 24 * 40 + 2, [1, 0x7e], /token_embd\.weight element 1280: .*finite/],
    ['Q2_K', 84 * 9 + 82, [0, 0xfc], /token_embd\.weight element 2304: .*finite/],
    ['Q3_K', 110 * 9 + 108, [0, 0xfc], /token_embd\.weight element 2304: .*finite/],
    ['Q5_K', 176 * 9, [0xff, 0xff], /token_embd\.weight element 2304: .*finite/],
    ['TQ2_0', 66 * 9, [0xff], /token_embd\.weight value 2304: code 3/],
    ['TQ1_0', 54 * 9, [1], /token_embd\.weight block 9 byte 0/],
    ['I2_S', 32, [0xff], /token_embd\.weight value 128: code 3/],
    ['I2_S', (256 * 512) / 4, [0, 0, 0xc0, 0x7f], /token_embd\.weight: bad scale/],
  ];
  it.each(bad)('%s at byte %i', async (type, at, wrong, names) => {
    const bytes = bytesOf(type, 'token_embd.weight').slice();
    bytes.set(wrong, at);
    const file = await fileOf([{ name: 'token_embd.weight', dtype: type, shape: [256, 512], data: () => [bytes] }]);
    for (const backend of ['ts', 'wasm'] as const) {
      await expect(loadModel(file, { backend, threads: 1 })).rejects.toMatchObject({ code: 'bad-tensor' });
      await expect(loadModel(file, { backend, threads: 1 })).rejects.toThrow(names);
    }
  });
});
