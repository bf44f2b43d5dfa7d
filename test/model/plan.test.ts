/**
 * The memory plan: exact for models that load here, and right about models of 8 and 10 billion parameters, of which only
 * the header is made: their weights cannot be read, so a test that reads one fails.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { type PresetName, presets } from '../../src/convert/presets.ts';
import { type SynthOptions, synthesize } from '../../src/convert/synth.ts';
import { ts, wasm } from '../../src/engine/backends.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { ByteSink } from '../../src/formats/sink.ts';
import type { ByteSource } from '../../src/formats/source.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { BitnetError, type LoadOptions, loadModel } from '../../src/index.ts';
import type {
  Backend,
  Buf,
  BufType,
  KvCache,
  KvShape,
  QuantizedBuf,
  Rehearsal,
  WeightShape,
} from '../../src/kernels/interface.ts';
import { createScratch } from '../../src/model/graph.ts';
import { loadWeights } from '../../src/model/load.ts';
import { type PlanOptions, planMemory } from '../../src/model/plan.ts';
import { engineLogits, tinyModel } from './models.ts';

const GIB = 2 ** 30;

/** The header of a synthetic model; where its weights would be there is nothing. */
async function headerOf(options: SynthOptions): Promise<ByteSource & { weightsRead(): number }> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  const enough = new Error('enough');
  const sink: ByteSink = {
    label: 'header',
    async write(chunk) {
      chunks.push(chunk.slice());
      length += chunk.length;
      if (length > 8 << 20) throw enough;
    },
    async close() {},
    async abort() {},
  };
  await synthesize(sink, options).catch((error) => {
    if (error !== enough) throw error;
  });
  const bytes = new Uint8Array(Buffer.concat(chunks));
  let weightsRead = 0;
  return {
    label: `${options.preset}.gguf`,
    byteLength: 2 ** 34,
    weightsRead: () => weightsRead,
    async readInto(target, offsetBytes) {
      if (offsetBytes + target.length > bytes.length) {
        weightsRead++;
        throw new Error('a weight was read');
      }
      target.set(bytes.subarray(offsetBytes, offsetBytes + target.length));
    },
    async close() {},
  };
}

function kvOf(preset: PresetName, contextSize = 2048): KvShape {
  const { nLayers, nHeads, nKvHeads, headDim } = presets[preset];
  return { nLayers, nHeads, nKvHeads, headDim, contextSize, kType: 'f16', vType: 'f16' };
}

describe('what is planned is what is taken', () => {
  it.each([
    { architecture: 'bitnet-b1.58' },
    { architecture: 'bitnet', type: 'TQ1_0', embeddingType: 'Q6_K' },
    { architecture: 'llama', type: 'F16', embeddingType: 'F32' },
    { architecture: 'llama', type: 'TQ2_0', tables: 'Q8_0' },
    { architecture: 'llama', tables: 'Q6_K' },
    { architecture: 'qwen3', type: 'TQ1_0' },
    { architecture: 'gemma3', type: 'F16', embeddingType: 'Q6_K' },
    { architecture: 'llama', embeddingType: 'Q4_K' },
    { architecture: 'bitnet', embeddingType: 'Q2_K' },
    { architecture: 'llama', embeddingType: 'TQ1_0' },
    { architecture: 'llama', embeddingType: 'Q5_1', tables: 'Q6_K' },
  ] as const)('$architecture $type $embeddingType $tables', async (options) => {
    const gguf = await openGguf(memorySource(await tinyModel(options)));
    for (const threads of [1, 3]) {
      const backend = await wasm({ threads })();
      const own = `tiny-${options.architecture}`;
      const kv = kvOf(own in presets ? (own as PresetName) : 'tiny', 700);
      const tables = 'tables' in options ? options.tables : undefined;
      const plan = planMemory(gguf, backend, { batchSize: 33, kv, tables });
      const weights = await loadWeights(gguf, backend, { plan });
      createScratch(backend, weights.config, 33);
      backend.allocKv(kv);
      const { spanBytes } = backend as unknown as { spanBytes: number };
      expect(spanBytes).toBeLessThanOrEqual(plan.spanBytes!);
      expect(spanBytes).toBeGreaterThan(plan.spanBytes! - (5 << 20)); // what was staging has become room for other things
      expect(plan.notes.length).toBe(tables === undefined ? 0 : 1);
      await backend.dispose();
    }
  });
});

describe('to the byte', () => {
  /** A backend that counts; it begins with memory of its own. */
  class Counting implements Rehearsal {
    readonly capacityBytes: number;
    readonly headRows = 16;
    spanBytes: number;
    constructor(capacityBytes: number, own: number) {
      this.capacityBytes = capacityBytes;
      this.spanBytes = own;
    }
    memory() {
      return { usedBytes: this.spanBytes, peakBytes: this.spanBytes };
    }
    alloc(type: BufType, shape: readonly number[]): Buf {
      this.spanBytes += 4 * shape.reduce((a, b) => a * b, 1);
      return { type, shape };
    }
    allocQuantized(rows: number, columns: number): QuantizedBuf {
      this.spanBytes += rows * (columns + 8);
      return { type: 'q8', rows, columns };
    }
    allocKv(shape: KvShape): KvCache {
      this.spanBytes += shape.nLayers * shape.nKvHeads * shape.headDim * shape.contextSize * (2 + 2);
      return { type: 'kv', shape };
    }
    place({ byteLength }: WeightShape): void {
      this.spanBytes += byteLength;
    }
    free(): void {}
  }

  it('fits what there is, with the batch that was asked for where that fits', async () => {
    const gguf = await openGguf(memorySource(await tinyModel({ architecture: 'llama' })));
    const kv = kvOf('tiny', 700);
    const at = (capacity: number, options: Partial<PlanOptions> = {}, own = 1000) => {
      const backend = { info: { name: 'counting' }, rehearse: () => new Counting(capacity, own) };
      return planMemory(gguf, backend as unknown as Backend, { batchSize: 64, kv, tables: 'file', ...options });
    };
    const spanOf = (batchSize: number, contextSize = 700) =>
      at(1e12, { batchSize, kv: { ...kv, contextSize } }).spanBytes!;
    const { memory, spanBytes } = at(1e12);
    expect(memory).toMatchObject({ kvBytes: spanOf(64) - spanOf(64, 0), contextSize: 700, totalBytes: spanBytes });
    expect(memory!.weightBytes + memory!.kvBytes + memory!.scratchBytes).toBe(spanBytes);
    expect(at(1e12, {}, 0).memory!.weightBytes).toBe(memory!.weightBytes);
    expect(at(1e12, { batchSize: 1 }).memory!.weightBytes).toBe(memory!.weightBytes);
    const batchAt = (capacity: number) => at(capacity, { smallerBatch: 8 }).batchSize;
    expect([batchAt(spanOf(64)), batchAt(spanOf(64) - 1), batchAt(spanOf(8))]).toEqual([64, 8, 8]);
    const hintOf = (capacity: number, options: Partial<PlanOptions>) => {
      try {
        at(capacity, options);
      } catch (error) {
        if (error instanceof BitnetError) return error.message;
      }
      throw new Error('it was not refused');
    };
    expect(hintOf(spanOf(32), {})).toContain('a batch of 32 tokens would fit');
    expect(hintOf(spanOf(32) - 1, {})).toContain('a batch of 16 tokens would fit');
    // What is advised goes with the batch that would be taken.
    expect(hintOf(spanOf(8, 600), { smallerBatch: 8 })).toContain('a context of 600 positions would fit');
    expect(hintOf(spanOf(64, 600), {})).toContain('a context of 600 positions would fit');
  });

  it('takes the smaller batch before tables are requantised, and then the larger where that fits', async () => {
    const gguf = await openGguf(memorySource(await tinyModel({ architecture: 'llama', embeddingType: 'F32' })));
    const at = (capacity: number, options: Partial<PlanOptions>) => {
      const backend = { info: { name: 'counting' }, rehearse: () => new Counting(capacity, 0) };
      const all = { kv: kvOf('tiny', 700), tables: 'auto', batchSize: 64, ...options } as const;
      return planMemory(gguf, backend as unknown as Backend, all);
    };
    const gib = (bytes: number) => `${(bytes / GIB).toFixed(2)} GiB`;
    const spanOf = (tables: 'file' | 'Q8_0' | 'Q6_K', batchSize: number) => at(1e15, { tables, batchSize }).spanBytes!;
    const made = (capacity: number, batchSize: number, smallerBatch?: number) => {
      const plan = at(capacity, { batchSize, smallerBatch });
      return [plan.batchSize, new Set(plan.requantized.values()), plan.spanBytes, plan.notes.length];
    };
    const [file, Q8_0, Q6_K] = [new Set(), new Set(['Q8_0']), new Set(['Q6_K'])];
    const span = spanOf('file', 63);
    expect(made(span, 64, 63)).toEqual([63, file, span, 0]);
    expect(made(span - 1, 64, 63)).toEqual([64, Q8_0, spanOf('Q8_0', 64), 1]);
    expect(made(spanOf('Q8_0', 64) - 1, 64, 63)).toEqual([63, Q8_0, spanOf('Q8_0', 63), 1]);
    expect(made(spanOf('Q8_0', 63) - 1, 64, 63)).toEqual([64, Q6_K, spanOf('Q6_K', 64), 1]);
    expect(made(span, 64)).toEqual([64, Q8_0, spanOf('Q8_0', 64), 1]);
    expect(() => at(spanOf('Q6_K', 63) - 1, { smallerBatch: 63 })).toThrow('(as Q6_K)');
    // The note has what the smaller batch would have needed: so much would have to be free.
    const [large, small] = [2 ** 22, 2 ** 21];
    const least = spanOf('file', small);
    const [note] = at(least - 1, { batchSize: large, smallerBatch: small }).notes;
    expect(gib(least)).not.toBe(gib(spanOf('file', large)));
    expect(note).toContain(`, since it would need ${gib(least)} and there are ${gib(least - 1)}: logits are`);
    expect(at(1e15, { tables: 'Q8_0' }).notes[0]).toContain(', as asked: logits are');
  });
});

describe('models of 8 and 10 billion parameters', () => {
  let backend: Backend;
  const plans = new Map<PresetName, (options?: Partial<PlanOptions>) => ReturnType<typeof planMemory>>();
  beforeAll(async () => {
    backend = await wasm({ threads: 1 })();
    for (const preset of ['llama3-8b', 'falcon3-10b'] as const) {
      const gguf = await openGguf(await headerOf({ preset }));
      plans.set(preset, (options) => planMemory(gguf, backend, { batchSize: 128, kv: kvOf(preset), ...options }));
    }
    return () => backend.dispose();
  });

  it('8B with F16 tables fits as it is, with the context of a session', () => {
    const { spanBytes, requantized, notes } = plans.get('llama3-8b')!();
    // 6.98 G ternary weights in 2 bits, 2 * 0.525 G halves, 268 MB of keys and values.
    const expected = 6.98e9 / 4 + 2 * 2 * 128256 * 4096 + 268435456;
    expect(spanBytes! / expected).toBeGreaterThan(1);
    expect(spanBytes! / expected).toBeLessThan(1.02);
    expect([requantized.size, notes]).toEqual([0, []]);
  });

  it('8B with all its context is kept with smaller tables', () => {
    const { spanBytes, requantized, notes } = plans.get('llama3-8b')!({ kv: kvOf('llama3-8b', 8192) });
    expect([...requantized]).toEqual([
      ['token_embd.weight', 'Q8_0'],
      ['output.weight', 'Q8_0'],
    ]);
    expect(spanBytes!).toBeLessThan(3.8 * GIB);
    expect(notes).toEqual([
      expect.stringMatching(
        /^token_embd\.weight and output\.weight kept as Q8_0 instead of the file's F16 \(1\.04 GiB instead of 1\.96 GiB\), since it would need 4\.6\d GiB and there are 4\.00 GiB: logits are those of the requantised values$/,
      ),
    ]);
  });

  it('10B needs smaller tables, and with a longer context still smaller ones', () => {
    const plan = plans.get('falcon3-10b')!;
    expect([...plan().requantized.values()]).toEqual(['Q8_0', 'Q8_0']);
    expect(plan().spanBytes!).toBeLessThan(3.7 * GIB);
    expect([...plan({ kv: kvOf('falcon3-10b', 6600) }).requantized.values()]).toEqual(['Q6_K', 'Q6_K']);
    expect(plan({ tables: 'Q6_K' }).notes[0]).toMatch(/kept as Q6_K.*, as asked: logits/);
  });

  it('what does not fit is refused with all the numbers, and with a context that does', () => {
    const plan = plans.get('falcon3-10b')!;
    const refusal = (options: Partial<PlanOptions>): BitnetError => {
      try {
        plan(options);
      } catch (error) {
        if (error instanceof BitnetError) return error;
      }
      throw new Error('it was not refused');
    };
    const error = refusal({ kv: kvOf('falcon3-10b', 32768) });
    expect(error.code).toBe('out-of-memory');
    expect(error.message).toMatch(
      /^falcon3-10b\.gguf: does not fit into the memory of backend wasm, expected at most 4\.00 GiB \(4294901760 bytes\), got \d\.\d\d GiB \(\d+ bytes\): projections and norms 2\.2\d GiB, embedding and head 0\.62 GiB \(as Q6_K\), KV cache of 32768 positions 5\.00 GiB, scratch 0\.0\d GiB \(a context of (\d+) positions would fit: -c, or planFor\.contextSize\)$/,
    );
    const largest = Number(/context of (\d+)/.exec(error.message)![1]);
    expect(largest).toBeGreaterThan(6600);
    expect(plan({ kv: kvOf('falcon3-10b', largest) }).spanBytes).toBeLessThanOrEqual(2 ** 32 - 65536);
    expect(refusal({ kv: kvOf('falcon3-10b', largest + 1) }).code).toBe('out-of-memory');
    expect(refusal({ tables: 'file' }).message).toMatch(/context of \d+ positions would fit.*--embd-type auto/);
  });

  it('loadModel refuses before any weight is read', async () => {
    const source = await headerOf({ preset: 'falcon3-10b' });
    const load = (options: LoadOptions) => loadModel(source, { threads: 1, ...options });
    const planFor = { contextSize: 1e9 }; // counts as the model's own 32768
    await expect(load({ planFor })).rejects.toMatchObject({ code: 'out-of-memory' });
    await expect(load({ planFor: { contextSize: 16384 } })).rejects.toThrow(/cache of 16384 positions/);
    await expect(load({ embeddingType: 'file' })).rejects.toMatchObject({ code: 'out-of-memory' });
    expect(source.weightsRead()).toBe(0);
    await expect(load({ planFor: { contextSize: 0 } })).rejects.toMatchObject({ code: 'bad-argument' });
    await expect(load({ embeddingType: 'Q4_0' as 'auto' })).rejects.toMatchObject({ code: 'bad-argument' });
  });
});

describe('requantised tables', () => {
  const ids = [1, 300, 310, 290];

  it.each(['Q8_0', 'Q6_K'] as const)('%s gives the logits of a file that has it', async (type) => {
    const file = await tinyModel({ architecture: 'llama', embeddingType: 'F32' });
    const made = await tinyModel({ architecture: 'llama', embeddingType: type });
    const session = { contextSize: 16 };
    const expected = await engineLogits(made, ids, { backend: ts() }, session);
    for (const options of [{ backend: ts() }, { threads: 1 }, { threads: 3 }] as const) {
      const logits = await engineLogits(file, ids, { ...options, embeddingType: type }, session);
      expect(Buffer.compare(Buffer.from(logits.buffer), Buffer.from(expected.buffer))).toBe(0);
    }
    const plain = await engineLogits(file, ids, { threads: 1 }, session);
    expect(Buffer.compare(Buffer.from(plain.buffer), Buffer.from(expected.buffer))).not.toBe(0);
  });

  it('says so, and leaves alone what is quantised already', async () => {
    const file = await tinyModel({ architecture: 'bitnet-b1.58', embeddingType: 'BF16' });
    const model = await loadModel(file, { threads: 1, embeddingType: 'Q8_0' });
    expect(model.notes).toEqual([
      ...model.backend.notes,
      expect.stringMatching(/^token_embd\.weight kept as Q8_0 instead of the file's BF16 .* as asked/),
    ]);
    await model.dispose();
    const small = await tinyModel({ architecture: 'bitnet-b1.58', embeddingType: 'Q6_K' });
    const other = await loadModel(small, { threads: 1, embeddingType: 'Q8_0' });
    expect(other.notes).toEqual(other.backend.notes);
    await other.dispose();
    // In memory Q4_K takes 10 bits a weight, Q8_0 takes 8.5, Q4_0 as many.
    const fours = await tinyModel({ architecture: 'bitnet-b1.58', embeddingType: 'Q4_K' });
    const made = await loadModel(fours, { threads: 1, embeddingType: 'Q8_0' });
    expect(made.notes.at(-1)).toMatch(/^token_embd\.weight kept as Q8_0 instead of the file's Q4_K .* as asked/);
    await made.dispose();
    const plain = await tinyModel({ architecture: 'bitnet-b1.58', embeddingType: 'Q4_0' });
    const same = await loadModel(plain, { threads: 1, embeddingType: 'Q8_0' });
    expect(same.notes).toEqual(same.backend.notes);
    await same.dispose();
  });
});

describe('progress', () => {
  it.each([{ backend: ts() }, { threads: 1 }, { threads: 3 }, { threads: 2, embeddingType: 'Q8_0' }] as const)(
    'never goes back and ends with all bytes %#',
    async (options) => {
      for (const type of ['I2_S', 'TQ1_0'] as const) {
        const seen: number[] = [];
        const totals = new Set<number>();
        const file = await tinyModel({ architecture: 'bitnet-b1.58', type });
        const onProgress: LoadOptions['onProgress'] = ({ loadedBytes, totalBytes, tensor }) => {
          expect(tensor).toMatch(/weight$/);
          seen.push(loadedBytes);
          totals.add(totalBytes);
        };
        const model = await loadModel(file, { ...options, onProgress });
        await model.dispose();
        const [total] = totals;
        expect(totals.size).toBe(1);
        expect(seen.at(-1)).toBe(total);
        expect(seen).toEqual([...seen].sort((a, b) => a - b));
        expect(seen.length).toBeGreaterThan(20);
      }
    },
  );

  it('an abort while weights are read ends the loading with its reason', async () => {
    const file = await tinyModel({ architecture: 'bitnet-b1.58' });
    const controller = new AbortController();
    const reason = new Error('changed my mind');
    const onProgress: LoadOptions['onProgress'] = ({ loadedBytes, totalBytes }) => {
      if (loadedBytes > totalBytes / 2) controller.abort(reason);
    };
    const loading = loadModel(file, { threads: 2, signal: controller.signal, onProgress });
    await expect(loading).rejects.toBe(reason);
  });
});
