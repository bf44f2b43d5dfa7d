/** Whole models with the arithmetic of other engines: one set of bits over backends, and what is said about it. */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { beforeAll, describe, expect, it } from 'vitest';
import { modelMetadata, planTensors } from '../../src/convert/layout.ts';
import { codeTable, fillCodes, scaleOf, streamOf, valueTable } from '../../src/convert/noise.ts';
import { presets } from '../../src/convert/presets.ts';
import { encodeFloats, tailOf } from '../../src/convert/types.ts';
import { inventedVocabulary } from '../../src/convert/vocabulary.ts';
import { writeModel } from '../../src/convert/write.ts';
import { ts, wasm } from '../../src/engine/backends.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { type LoadOptions, loadModel } from '../../src/index.ts';
import { foreignSemantics } from '../../src/kernels/foreign/foreign.ts';
import type { KvShape } from '../../src/kernels/interface.ts';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { architectureOf } from '../../src/model/architectures.ts';
import { createScratch } from '../../src/model/graph.ts';
import { loadWeights } from '../../src/model/load.ts';
import { planMemory } from '../../src/model/plan.ts';
import { encodeF32 } from '../../src/tensors/floats.ts';
import { engineLogits, tinyModel } from '../model/models.ts';
import { recode } from '../model/recode.ts';

const ids = Array.from({ length: 21 }, (_, i) => (i * 37 + 5) % 500);

/**
 * A llama of one layer in which all inputs of `ffn_down` are the same number, since all rows of gate and up are alike, and
 * all its trits are +1: with 4096 of them it overflows.
 */
async function evenModel(ffn: number): Promise<Uint8Array> {
  const { ownHead: _, ...shape } = presets.tiny;
  const { activation, ropeStyle } = architectureOf('llama');
  const facts = { name: 'even', ropeFactor: 1, activation, ropeStyle };
  const config = { ...shape, architecture: 'llama', ...facts, ffn, nLayers: 1 };
  const linear = (name: string, elements: number, columns: number) => {
    const bytes = new Uint8Array(elements / 4);
    fillCodes(streamOf(1, name), codeTable(), bytes);
    const rowBytes = columns / 4;
    if (/ffn_(gate|up)/.test(name))
      for (let at = rowBytes; at < bytes.length; at += rowBytes) bytes.copyWithin(at, 0, rowBytes);
    if (/ffn_down/.test(name)) bytes.fill(0xaa);
    return Uint8Array.from([...bytes, ...tailOf('I2_S', scaleOf(columns))]);
  };
  const embedding = (name: string, elements: number) => {
    const [rng, table] = [streamOf(1, name), valueTable(0.06)];
    const values = Float32Array.from({ length: elements }, () => table[rng.nextUint32() & 0xffff]);
    return encodeFloats('F16', values, name);
  };
  const sink = memorySink();
  await writeModel(
    sink,
    [...modelMetadata(config, 'I2_S'), ...inventedVocabulary(config.vocabulary)],
    planTensors(config, false).map((tensor) => ({
      ...tensor,
      dtype: ({ vector: 'F32', linear: 'I2_S', embedding: 'F16' } as const)[tensor.role],
      pieces: () => [
        tensor.role === 'vector'
          ? encodeF32(new Float32Array(tensor.elements).fill(1))
          : tensor.role === 'linear'
            ? linear(tensor.name, tensor.elements, tensor.shape[0])
            : embedding(tensor.name, tensor.elements),
      ],
    })),
    {},
  );
  return sink.bytes();
}

describe.each(['bitnet-b1.58', 'bitnet', 'llama', 'qwen3', 'gemma3'] as const)('%s by q8_k', (architecture) => {
  const logits = async (type: 'I2_S' | 'TQ1_0' | 'TQ2_0' | 'F16' | 'F32', load: LoadOptions) =>
    engineLogits(await tinyModel({ architecture, type }), ids, load, {});
  let want: Float32Array;
  beforeAll(async () => {
    want = await logits('TQ2_0', { activations: 'q8_k', backend: 'ts' });
  });

  it('has other logits than in training', async () => {
    const trained = await logits('TQ2_0', { backend: 'ts' });
    const [error, size] = [0, 0].map((_, i) => Math.hypot(...trained.map((v, j) => (i === 0 ? v - want[j] : v))));
    expect(error / size).toBeGreaterThan(1e-3);
    expect(error / size).toBeLessThan(0.1);
  });

  it('has one set of bits: backends, builds, threads, batches', async () => {
    for (const load of [
      { backend: 'wasm', threads: 3 },
      { backend: 'wasm', threads: 1, batchSize: 1 },
      { backend: 'wasm', threads: 2, batchSize: 4 },
      { backend: 'wasm', threads: 1, kernels: 'scalar', batchSize: 7 },
      { backend: 'ts', batchSize: 5 },
    ] as const) {
      const got = await logits('TQ2_0', { activations: 'q8_k', ...load });
      expect(got, JSON.stringify(load)).toEqual(want);
    }
  });

  it.each(['I2_S', 'TQ1_0', 'F16', 'F32'] as const)(
    'has them whatever container the trits are in: %s',
    async (type) => {
      expect(await logits(type, { activations: 'q8_k', backend: 'wasm', threads: 2 })).toEqual(want);
    },
  );

  it('generates after a rewind what it generated before', async () => {
    const model = await loadModel(await tinyModel({ architecture, type: 'TQ1_0' }), { activations: 'q8_k' });
    const session = model.createSession();
    const first = await session.generate(ids, { maxTokens: 8, temperature: 0, ignoreEos: true }).result;
    session.rewind(5);
    const second = await session.generate(ids, { maxTokens: 8, temperature: 0, ignoreEos: true }).result;
    expect(second.tokens).toEqual(first.tokens);
    await model.dispose();
  });
});

describe('what is said of a model with foreign arithmetic', () => {
  it('is in the facts of its backend and in its notes', async () => {
    const model = await loadModel(await tinyModel({}), { activations: 'q8_k', backend: 'ts' });
    expect(model.backend).toMatchObject({ name: 'ts', variant: 'plain+q8_k', exact: false });
    expect(model.notes.join()).toMatch(/activations q8_k: .* not as in training; logits are not those of int8/);
    expect(model.overflows).toBeUndefined();
    await model.dispose();
    const plain = await loadModel(await tinyModel({}), { activations: 'int8', backend: 'ts' });
    expect(plain.backend).toMatchObject({ variant: 'plain', exact: true });
    expect(plain.notes).toEqual([]);
    await plain.dispose();
  });

  it('wants as many rows of a step as the backend inside does', async () => {
    const inner = Object.assign(createTsBackend(), { batchRows: 300, headRows: 40 });
    for (const options of [{ activations: 'q8_k' }, { saturateI16: true }] as const) {
      expect(foreignSemantics(inner, options)).toMatchObject({ batchRows: 300, headRows: 40 });
    }
  });

  it('is a refusal where there is no such arithmetic', async () => {
    const load = (options: LoadOptions) => loadModel(new Uint8Array(0), options);
    await expect(load({ activations: 'q4' as 'int8' })).rejects.toThrow('activations: no such quantisation');
    await expect(load({ activations: 'q8_k', saturateI16: true })).rejects.toMatchObject({ code: 'bad-argument' });
    // By the memory's plan on wasm, when it is loaded on ts.
    const narrow = await evenModel(640);
    for (const backend of ['ts', 'wasm'] as const) {
      await expect(loadModel(narrow, { activations: 'q8_k', backend })).rejects.toMatchObject({
        code: 'bad-argument',
        message: expect.stringMatching(
          /^blk\.0\.ffn_down\.weight: activations q8_k come in blocks of 256, .* got 640 /,
        ),
      });
    }
  });
});

describe('a model that overflows 16 bits in native kernels', () => {
  let file: Uint8Array;
  let exact: Float32Array;
  // With rows like these nothing tells the layout but listening to the model, which takes long and is of no use.
  const x86 = { i2sLayout: 'x86' } as const;
  beforeAll(async () => {
    file = await evenModel(4096);
    exact = await engineLogits(file, ids, { backend: 'ts', ...x86 }, {});
  }, 60_000);

  it.each(['avx2', 'neon'] as const)('has the logits of native and says where: %s', async (kernel) => {
    const seen: Float32Array[] = [];
    for (const load of [
      { backend: 'ts' },
      { backend: 'wasm', threads: 2 },
      { backend: 'wasm', threads: 1, batchSize: 1 },
      { backend: 'wasm', threads: 1, batchSize: 8 },
    ] as const) {
      const model = await loadModel(file, { ...load, ...x86, saturateI16: kernel });
      const session = model.createSession();
      const parts: number[] = [];
      for await (const part of session.logits(ids)) parts.push(...part);
      seen.push(Float32Array.from(parts));
      const { overflows } = model;
      await model.dispose();
      const perToken = 4 * 256 + 2 * 4096 - 2 * 128 + 256;
      expect(overflows).toMatchObject({ kernel, outputs: ids.length * perToken, suspects: ids.length });
      expect(model.overflows).toEqual(overflows);
      // Every output of every token, but where the common input is 0.
      expect(overflows?.tensors.map(({ tensor }) => tensor)).toEqual(['blk.0.ffn_down.weight']);
      const [{ outputs, first, worst }] = overflows!.tensors;
      expect(outputs).toBe(ids.length * 256);
      expect([first.token, first.row]).toEqual([0, 0]);
      // 4096 times q = 127 or -127 of both; of 16 (8) lanes and 1 (2) spans each 65024 (or its negative) becomes -512 (512).
      expect(first.native / first.exact).toBeCloseTo((-8192 - 127 * 4096) / (127 * 4096), 5);
      expect(Math.abs(worst.native - worst.exact)).toBeGreaterThanOrEqual(Math.abs(first.native - first.exact));
    }
    for (const got of seen.slice(1)) expect(got).toEqual(seen[0]);
    expect(seen[0]).not.toEqual(exact);
  });

  it('counts tokens over steps and sessions', async () => {
    const model = await loadModel(file, { backend: 'wasm', threads: 1, ...x86, saturateI16: true });
    await model.createSession().prefill([7, 8, 9]);
    expect(model.overflows?.suspects).toBe(3);
    const other = model.createSession();
    await other.prefill([10]);
    await other.step(11);
    expect(model.overflows?.suspects).toBe(5);
    expect(model.overflows?.tensors[0].outputs).toBe(5 * 256);
    await model.dispose();
  });

  it('has its usual logits without being asked', async () => {
    expect(await engineLogits(file, ids, { backend: 'wasm', threads: 2, ...x86 }, {})).toEqual(exact);
  });

  it('is told of ordinary models that nothing happens, and their logits are the same', async () => {
    const ordinary = await tinyModel({});
    const model = await loadModel(ordinary, { backend: 'wasm', threads: 2, saturateI16: true });
    const parts: number[] = [];
    for await (const part of model.createSession().logits(ids)) parts.push(...part);
    expect(model.overflows).toMatchObject({ suspects: 0, tensors: [] });
    expect(model.overflows?.outputs).toBeGreaterThan(0);
    await model.dispose();
    expect(Float32Array.from(parts)).toEqual(await engineLogits(ordinary, ids, { backend: 'ts' }, {}));
  });

  it('is not told of the sentences by which the layout of a file was found', async () => {
    const stories = new Uint8Array(gunzipSync(readFileSync('fixtures/models/stories.gguf.gz')));
    const model = await loadModel(await recode(stories, 'arm64'), { backend: 'wasm', threads: 1, saturateI16: true });
    expect(model.info.layout).toMatch(/speaks/);
    expect(model.overflows).toEqual({ kernel: 'avx2', outputs: 0, suspects: 0, tensors: [] });
    await model.createSession().prefill([5]);
    expect(model.overflows?.outputs).toBeGreaterThan(0);
    await model.dispose();
  }, 60_000);

  it('needs whole blocks of 128 columns', async () => {
    const odd = await evenModel(160);
    for (const backend of ['ts', 'wasm'] as const) {
      await expect(loadModel(odd, { backend, saturateI16: true })).rejects.toMatchObject({
        code: 'bad-argument',
        message: expect.stringMatching(/^blk\.0\.ffn_down\.weight: native I2_S kernels .* got 160 /),
      });
    }
  });
});

describe('memory with foreign arithmetic', () => {
  it.each([{ activations: 'q8_k' }, { saturateI16: true }] as const)('is what was planned: %j', async (options) => {
    const gguf = await openGguf(memorySource(await tinyModel({ architecture: 'bitnet', type: 'TQ1_0' })));
    const { nLayers, nHeads, nKvHeads, headDim } = presets.tiny;
    const kv: KvShape = { nLayers, nHeads, nKvHeads, headDim, contextSize: 700, kType: 'f16', vType: 'f16' };
    for (const threads of [1, 3]) {
      const inner = await wasm({ threads })();
      const backend = foreignSemantics(inner, options);
      const plan = planMemory(gguf, backend, { batchSize: 33, kv });
      const plain = planMemory(gguf, inner, { batchSize: 33, kv });
      const weights = await loadWeights(gguf, backend, { plan });
      createScratch(backend, weights.config, 33);
      backend.allocKv(kv);
      const { spanBytes } = inner as unknown as { spanBytes: number };
      expect(spanBytes).toBeLessThanOrEqual(plan.spanBytes!);
      expect(spanBytes).toBeGreaterThan(plan.spanBytes! - (5 << 20));
      if (options.activations !== undefined) expect(plan.spanBytes).toBeGreaterThan(plain.spanBytes!);
      else expect(plan.spanBytes).toBe(plain.spanBytes);
      await backend.dispose();
    }
  });

  it("is nobody's business on ts, which has no ceiling", async () => {
    const backend = foreignSemantics(await ts()(), { activations: 'q8_k' });
    expect([backend.rehearse, backend.reserve]).toEqual([undefined, undefined]);
  });

  it.each([{ activations: 'q8_k' }, { saturateI16: true }] as const)(
    'is all taken before the first step: %j',
    async (options) => {
      const load = { backend: 'wasm', threads: 2, batchSize: 16, ...options } as const;
      const model = await loadModel(await tinyModel({}), load);
      const session = model.createSession();
      const { usedBytes } = model.memory();
      await session.prefill(ids);
      await session.step(3);
      expect(model.memory()).toEqual({ usedBytes, peakBytes: expect.any(Number) });
      await model.dispose();
    },
  );

  it('comes back when sessions go', async () => {
    const model = await loadModel(await tinyModel({}), { activations: 'q8_k', backend: 'wasm', threads: 1 });
    const once = async () => {
      const session = model.createSession();
      await session.prefill(ids);
      await session.dispose();
      return model.memory().usedBytes;
    };
    const first = await once();
    expect([await once(), await once()]).toEqual([first, first]);
    await model.dispose();
  });
});
