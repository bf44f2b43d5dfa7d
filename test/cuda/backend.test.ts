/** The cuda backend does what the definition says in whole models, and with as few calls as promised; op by op: shim.test.ts. */
import { afterEach, describe, expect, it } from 'vitest';
import { ts, wasm } from '../../src/engine/backends.ts';
import { openModelFile } from '../../src/engine/model.ts';
import { kvShapeOf } from '../../src/engine/session.ts';
import { Stepper } from '../../src/engine/stepper.ts';
import { loadModel, type Model } from '../../src/index.ts';
import { values } from '../../src/kernels/conformance/values.ts';
import { capacityOf, stagedRows } from '../../src/kernels/cuda/books.ts';
import { MAX_WORDS } from '../../src/kernels/cuda/commands.ts';
import type { Backend } from '../../src/kernels/interface.ts';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { loadWeights } from '../../src/model/load.ts';
import { runModelConformance } from '../../src/oracle/conformance.ts';
import { synthesized } from '../../src/oracle/kit/models.ts';
import { encodeF32 } from '../../src/tensors/floats.ts';
import { tinyModel } from '../model/models.ts';
import { onShim, SHIM_MEMORY, shim, shimPath, watched } from './shim.ts';

const stories = new URL('../../fixtures/models/stories.gguf.gz', import.meta.url);
const bad = (outcomes: readonly { name: string; ok: boolean; detail: string }[]) => outcomes.filter(({ ok }) => !ok);

const models: Model[] = [];
async function load(backend: () => Promise<Backend>, file: URL | Uint8Array = stories): Promise<Model> {
  const model = await loadModel(file, { backend });
  models.push(model);
  return model;
}
afterEach(async () => {
  for (const model of models.splice(0)) await model.dispose();
});

describe.skipIf(shimPath === undefined)('the cuda backend on the CPU shim', () => {
  it('says what it is', async () => {
    const backend = await onShim();
    expect(backend.info).toEqual({ name: 'cuda', variant: 'CPU shim, sm_90', nThreads: 1, exact: true, notes: [] });
    await backend.dispose();
  });

  it('passes the conformance of whole models bit for bit, traces included', async () => {
    // One graph, with every kind of check; all graphs, the same way: `bitnet inspect` in commands.test.ts.
    const architectures = ['bitnet-b1.58'];
    const outcomes = await runModelConformance(onShim, { architectures });
    expect(bad(outcomes)).toEqual([]);
    expect(outcomes.filter(({ name }) => name.includes('trace')).length).toBe(2);
  }, 900_000);

  it('computes several sequences in one step', async () => {
    const file = await synthesized({ preset: 'tiny', architecture: 'bitnet-b1.58' });
    const gguf = await openModelFile(file);
    const logits: Float32Array[][] = [];
    for (const backend of [createTsBackend(), await onShim()]) {
      const weights = await loadWeights(gguf, backend);
      const stepper = new Stepper(backend, weights, 16);
      const shapes = ['f16', 'f32', 'f16'] as const;
      const caches = shapes.map((type) =>
        backend.allocKv(kvShapeOf(weights.config, { contextSize: 40, kType: type, vType: type })),
      );
      const all: Float32Array[] = [];
      const step = async (items: readonly (readonly [number, number, readonly number[]])[]) => {
        const asked = items.map(([i, position, ids]) => ({ kv: caches[i], position, ids, logits: 'last' as const }));
        for (const { values } of await stepper.step(asked)) all.push(values.slice());
      };
      await step([
        [0, 0, [1, 2, 3, 4, 5]],
        [1, 0, [9]],
        [2, 0, [7, 8, 9, 10]],
      ]);
      for (let i = 0; i < 4; i++) {
        await step([
          [2, 4 + i, [3 + i]],
          [0, 5 + i, [11 + i]],
          [1, 1 + i, [20 + i]],
        ]);
      }
      logits.push(all);
      await backend.dispose();
    }
    expect(logits[0].length).toBe(15);
    expect(logits[1]).toEqual(logits[0]);
    await gguf.close();
  }, 60_000);

  it('makes of a token two writes, one list, and one small read', async () => {
    const { backend, device, calls } = await watched();
    const model = await load(async () => backend);
    const { vocabularySize } = model.info;
    const session = model.createSession({ contextSize: 32 });
    const reference = (await load(wasm({ threads: 1 }))).createSession({ contextSize: 32 });
    await session.step(1, { top: 8 });
    await reference.step(1);
    for (let i = 0; i < 4; i++) {
      calls.length = 0;
      const few = await session.step(2 + i, { top: 8 });
      expect(calls.map(({ name }) => name)).toEqual(['bn_write', 'bn_write', 'bn_run', 'bn_read']);
      const bytes = Number(calls[3].args[4]);
      expect(bytes).toBeLessThan(vocabularySize * 4);
      expect(bytes).toBe((2 + 2 * (8 + 256)) * 4);
      const all = await reference.step(2 + i);
      const eighth = all.slice().sort()[all.length - 8];
      const kept = [...few.keys()].filter((id) => few[id] !== -Infinity);
      expect(kept.length).toBeGreaterThanOrEqual(8);
      for (const id of kept) expect(few[id]).toBe(all[id]);
      for (const [id, logit] of all.entries()) if (logit >= eighth) expect(few[id]).toBe(logit);
    }
    // Run directly, captured, and replayed ever after: positions are no part of a list.
    expect(device.info()).toMatchObject({ graphs: 1, replays: 4 });
  }, 60_000);

  it('reads a row whole once something else was written there', async () => {
    const backend = await onShim();
    const [rows, columns] = [2000, 32];
    const head = await backend.upload({
      name: 'head',
      kind: 'dense',
      dtype: 'F32',
      rows,
      columns,
      byteLength: rows * columns * 4,
      fill: async (target) => {
        const values = new Float32Array(rows * columns).map((_, i) => ((i * 7919) % 1013) / 500 - 1);
        target.set(new Uint8Array(values.buffer));
        return 1;
      },
    });
    const [x, out, other] = [
      [1, columns],
      [1, rows],
      [1, rows],
    ].map((shape) => backend.alloc('f32', shape));
    backend.write(x, new Float32Array(columns).fill(1));
    backend.denseMatmul(other, head, x, 1);
    const whole = await backend.read(other, rows);
    const missing = (row: Float32Array) => row.filter((value) => value === -Infinity).length;
    backend.denseTopK(out, head, x, 3, 1);
    expect(missing(await backend.read(out, rows))).toBeGreaterThan(1000);
    expect(missing(await backend.read(out, rows - 1))).toBeGreaterThan(1000);
    for (const write of [
      () => backend.add(out, other, other, 1),
      () => backend.scale(out, other, 2, 1),
      () => backend.copyRows(out, 0, other, 0, 1),
      () => backend.write(out, whole),
      () => backend.denseTopK(other, head, x, 3, 1), // its answer is where the first one was
    ]) {
      backend.denseTopK(out, head, x, 3, 1);
      write();
      expect(missing(await backend.read(out, rows))).toBe(0);
    }
    // All equal: more than there is room for, so the row is read after all.
    backend.write(x, new Float32Array(columns));
    backend.denseTopK(out, head, x, 3, 1);
    expect(await backend.read(out, rows)).toEqual(new Float32Array(rows));
    await backend.dispose();
  });

  it('knows which rows were asked about, and has room for the largest list only', async () => {
    const backend = await onShim();
    const [rows, columns, n] = [2000, 32, 4];
    const bytes = encodeF32(values('normal', rows * columns, 1));
    const fill = async (to: Uint8Array) => {
      to.set(bytes);
      return 1;
    };
    const weight = { name: 'head', kind: 'dense', dtype: 'F32', rows, columns, byteLength: bytes.length } as const;
    const head = await backend.upload({ ...weight, fill });
    const [x, out, other] = [columns, rows, rows].map((width) => backend.alloc('f32', [n, width]));
    backend.write(x, values('normal', n * columns, 2));
    backend.denseMatmul(other, head, x, n);
    const whole = await backend.read(other, n * rows);
    const rowOf = (i: number) => whole.subarray(i * rows, (i + 1) * rows);
    backend.copyRows(out, 0, other, 0, n);
    backend.denseTopK(out, head, x, 3, 2);
    const some = await backend.read(out, n * rows);
    for (const i of [0, 1]) expect(some.subarray(i * rows, (i + 1) * rows)).not.toEqual(rowOf(i));
    expect(some.subarray(2 * rows)).toEqual(whole.subarray(2 * rows)); // nobody asked for the greatest of these
    const tops = await backend.readTop(out, n);
    for (const [i, { ids, values }] of tops.entries()) {
      expect(ids).toEqual(Int32Array.from({ length: rows }, (_, id) => id));
      expect(values).toEqual(rowOf(i));
    }
    // None of a row, of no rows, or nearly all: nothing is left out.
    for (const [k, count] of [
      [0, 1],
      [3, 0],
      [rows / 2, 1],
    ]) {
      backend.denseTopK(out, head, x, k, count);
      expect(await backend.read(out, rows)).toEqual(rowOf(0));
    }
    // What TOP_K writes to grows with what is asked for, and the one before is given back.
    const usedWith = async (k: number) => {
      backend.denseTopK(out, head, x, k, n);
      await backend.readTop(out, n);
      return backend.memory().usedBytes;
    };
    const used = await usedWith(3);
    expect(await usedWith(103)).toBe(used + n * 2 * 100 * 4);
    expect(await usedWith(5)).toBe(used + n * 2 * 100 * 4);
    // Nothing was found where there was no room for it; what was found before is gone, and the row is read whole.
    backend.denseTopK(out, head, x, 3, n);
    shim('memory', 1);
    try {
      expect(() => backend.denseTopK(other, head, x, 400, n)).toThrow('not enough device memory');
    } finally {
      shim('memory', SHIM_MEMORY);
    }
    expect(await backend.read(out, n * rows)).toEqual(whole);
    expect(await usedWith(3)).toBe(used);
    await backend.dispose();
  });

  it('keeps books of what it takes, and plans no less', async () => {
    const { backend, device } = await watched();
    const before = Number(device.info().freeBytes);
    const shape = {
      nLayers: 3,
      nHeads: 4,
      nKvHeads: 2,
      headDim: 32,
      contextSize: 50,
      kType: 'f16',
      vType: 'f32',
    } as const;
    const rehearsal = backend.rehearse();
    const kept: number[] = [];
    for (const one of [rehearsal, backend]) {
      const things = [one.alloc('f32', [100, 7]), one.allocQuantized(9, 300), one.allocKv(shape)] as const;
      kept.push(one.memory().usedBytes);
      // What is in use already is no less of a capacity.
      expect(backend.rehearse().capacityBytes).toBe(rehearsal.capacityBytes);
      for (const thing of things) one.free(thing);
    }
    const bytes = 100 * 7 * 4 + 9 * (384 + 8) + 3 * 2 * 50 * 32 * (2 + 4);
    expect(kept[1]).toBe(bytes);
    expect(kept[0]).toBeGreaterThanOrEqual(bytes);
    expect(rehearsal.spanBytes).toBe(kept[0]);
    expect(rehearsal.capacityBytes).toBeLessThan(before);
    backend.free(backend.alloc('f32', [1]));
    expect(backend.memory()).toEqual({ usedBytes: 0, peakBytes: bytes });
    expect(device.info().freeBytes).toBe(before);
    await backend.dispose();
  });

  it('plans for every thing what the device takes for it, in blocks', async () => {
    const backend = await onShim();
    const rehearsal = backend.rehearse!();
    const more = (act: () => unknown) => {
      const before = rehearsal.memory().usedBytes;
      act();
      return rehearsal.memory().usedBytes - before;
    };
    const kv = {
      nLayers: 6,
      nHeads: 4,
      nKvHeads: 2,
      headDim: 64,
      contextSize: 4000,
      kType: 'f16',
      vType: 'f32',
    } as const;
    const square = { name: 'm', rows: 4096, columns: 4096 } as const;
    more(() => rehearsal.allocKv(kv)); // and room for scores, once
    const q6k = (12288 * 4096 * 210) / 256;
    for (const [bytes, act] of [
      [6 * 2 * 64 * 4000 * (2 + 4), () => rehearsal.allocKv(kv)],
      [4096 * 1024, () => rehearsal.place({ ...square, kind: 'ternary', byteLength: 4096 * 1024 })],
      [4096 * 8192, () => rehearsal.place({ ...square, kind: 'dense', dtype: 'F16', byteLength: 4096 * 8192 })],
      // Longer on the device: see native/dense_layout.h.
      [
        (q6k / 210) * 224,
        () => rehearsal.place({ ...square, rows: 12288, kind: 'dense', dtype: 'Q6_K', byteLength: q6k }),
      ],
      [4 * 300 * 4096, () => rehearsal.alloc('f32', [300, 4096])],
      [300 * (4096 + 8), () => rehearsal.allocQuantized(300, 4096)],
    ] as const) {
      const planned = more(act);
      expect(planned).toBeGreaterThanOrEqual(bytes);
      expect(planned).toBeLessThan(bytes + (4 << 20));
    }
    // Small things share a block.
    for (const [floats, bytes] of [
      [1, 512],
      [2 ** 18 - 1, 2 ** 20],
      [2 ** 18, 2 ** 21],
      [2 ** 19 + 1, 2 ** 22],
    ]) {
      expect(more(() => rehearsal.alloc('f32', [floats]))).toBe(bytes);
    }
    // What is on its way is planned for as well.
    const before = rehearsal.memory().usedBytes;
    const head = { name: 'head', rows: 1 << 17, columns: 2048, kind: 'dense', dtype: 'Q8_0' } as const;
    const byteLength = ((1 << 17) * 2048 * 34) / 32;
    rehearsal.place({ ...head, byteLength });
    expect(rehearsal.spanBytes - before).toBeGreaterThan(byteLength + 63 * 2 ** 20);
    await backend.dispose();
  });

  it.each([
    ['sequences of a batch', { rows: 40, nHeads: 4, nKvHeads: 1, contextSize: 60_000, sequences: 40 }],
    ['a prompt', { rows: 13, nHeads: 8, nKvHeads: 2, contextSize: 5000, sequences: 1 }],
    ['one row', { rows: 1, nHeads: 20, nKvHeads: 5, contextSize: 20_000, sequences: 1 }],
  ] as const)('plans for the scores of %s', async (_, { rows, nHeads, nKvHeads, contextSize, sequences }) => {
    const { backend, device } = await watched();
    const [shape, width] = [{ nLayers: 1, nHeads, nKvHeads, headDim: 16, contextSize }, nHeads * 16];
    const types = { kType: 'f16', vType: 'f16' } as const;
    const rehearsal = backend.rehearse();
    rehearsal.allocQuantized(rows, 16);
    const before = rehearsal.memory().usedBytes;
    const cache = rehearsal.allocKv({ ...shape, ...types });
    rehearsal.free(cache);
    const planned = rehearsal.memory().usedBytes - before;
    const [q, out] = [backend.alloc('f32', [rows, width]), backend.alloc('f32', [rows, width])];
    const caches = Array.from({ length: sequences }, () => backend.allocKv({ ...shape, ...types }));
    const own = device.info().usedBytes;
    const count = rows / sequences;
    caches.forEach((kv, i) => {
      backend.attention(out, q, { kv, row: i * count, count, position: 0 }, 0, 1);
    });
    await backend.read(out, 1);
    const taken = device.info().usedBytes - own;
    expect(taken).toBeGreaterThan(10_000);
    expect(planned).toBeGreaterThanOrEqual(taken);
    // No more than there may be at a time, however long; and longer caches need it only once.
    rehearsal.free(rehearsal.allocKv({ ...shape, ...types, contextSize: 100 * contextSize }));
    const most = rehearsal.memory().usedBytes;
    expect(most - before).toBeLessThanOrEqual(Math.max(64 << 20, nHeads * 100 * contextSize) * 4 * 1.25);
    rehearsal.free(rehearsal.allocKv({ ...shape, ...types }));
    expect(rehearsal.memory().usedBytes).toBe(most);
    await backend.dispose();
  });

  it('leaves the driver a part of the card', () => {
    const GIB = 2 ** 30;
    expect([capacityOf(80 * GIB, 80 * GIB), capacityOf(3 * GIB, 4 * GIB)]).toEqual([79.75 * GIB, 2.875 * GIB]);
    expect(capacityOf(1000, 4 * GIB)).toBe(0); // of which somebody else has nearly all
  });

  it('takes no more than was planned for a model', async () => {
    for (const architecture of ['bitnet-b1.58', 'gemma3']) {
      const { backend, device } = await watched();
      const [, rehearsal] = [backend.memory(), backend.rehearse()];
      const planned: number[] = [];
      backend.rehearse = () => {
        const get = () => rehearsal.spanBytes;
        return new Proxy(rehearsal, {
          get: (target, key) => {
            if (key === 'spanBytes') planned.push(get());
            const value = Reflect.get(target, key, target);
            return typeof value === 'function' ? value.bind(target) : value;
          },
        });
      };
      const free = Number(device.info().freeBytes);
      const model = await load(async () => backend, await synthesized({ preset: 'tiny', architecture }));
      const session = model.createSession();
      await session.prefill(
        Array.from({ length: 40 }, (_, i) => i),
        { top: 5 },
      );
      expect(planned.length).toBeGreaterThan(0);
      expect(free - Number(device.info().freeBytes)).toBeLessThanOrEqual(Math.max(...planned));
    }
  }, 60_000);

  it('takes matrices that it rearranges in pieces', async () => {
    const long = { name: 'm', kind: 'dense', dtype: 'Q8_0', rows: 4, columns: 3200, byteLength: 4 * 3400 } as const;
    expect([1, 3399, 6800, 1e9].map((bytes) => stagedRows(long, bytes))).toEqual([1, 1, 2, 4]);
    const ids = Array.from({ length: 9 }, (_, i) => (i * 37) % 500);
    for (const type of ['Q8_0', 'Q6_K', 'Q4_1', 'BF16'] as const) {
      const file = await tinyModel({ architecture: 'bitnet-b1.58', embeddingType: type });
      const { backend, device, calls } = await watched(10_000);
      const own = device.info().usedBytes;
      const model = await load(async () => backend, file);
      const pieces = calls.filter(({ name }) => name === 'bn_pack_dense');
      if (type === 'BF16') expect(pieces).toEqual([]);
      else expect(pieces.length).toBeGreaterThan(3);
      // What was under way is given back, and everything that is taken is accounted for.
      const freed = calls.filter(({ name }) => name === 'bn_free').map(({ args }) => args[1]);
      expect(new Set(freed)).toEqual(new Set(pieces.map(({ args }) => args[2])));
      expect(model.memory().usedBytes).toBe(device.info().usedBytes - own);
      const session = model.createSession();
      expect(await session.prefill(ids)).toEqual(await (await load(ts(), file)).createSession().prefill(ids));
    }
  }, 60_000);

  it('is what arithmetic of other engines is put upon', async () => {
    const file = await tinyModel({ architecture: 'llama', type: 'TQ2_0' });
    const ids = Array.from({ length: 7 }, (_, i) => (i * 37) % 500);
    for (const foreign of [{ activations: 'q8_k' }, { saturateI16: true }] as const) {
      const [expected, got] = await Promise.all(
        [ts(), onShim].map(async (backend) => {
          const model = await loadModel(file, { backend, ...foreign });
          models.push(model);
          return model.createSession().prefill(ids);
        }),
      );
      expect(got).toEqual(expected);
    }
  }, 60_000);

  it('runs programs of any length, in pieces where they are long', async () => {
    const { backend, calls } = await watched();
    const [sum, one] = [backend.alloc('f32', [1, 1]), backend.alloc('f32', [1, 1])];
    backend.write(one, Float32Array.of(1));
    const times = Math.ceil(MAX_WORDS / 9) + 1000;
    for (let i = 0; i < times; i++) backend.add(sum, sum, one, 1);
    expect(await backend.read(sum, 1)).toEqual(Float32Array.of(times));
    const runs = calls.filter(({ name }) => name === 'bn_run').map(({ args }) => Number(args[2]));
    expect(runs.length).toBe(2);
    expect(runs[0]).toBeLessThanOrEqual(MAX_WORDS);
    expect(runs[0] + runs[1]).toBe(times * 9);
    // What is written comes after what was enqueued before it, and before what comes later.
    backend.add(sum, sum, one, 1);
    backend.write(one, Float32Array.of(0.5));
    backend.add(sum, sum, one, 1);
    expect(await backend.read(sum, 1)).toEqual(Float32Array.of(times + 1.5));
    backend.add(sum, sum, one, 1);
    backend.free(one);
    expect(await backend.read(sum, 1)).toEqual(Float32Array.of(times + 2));
    await backend.dispose();
  }, 60_000);

  it('leaves nothing behind when it is disposed of, whatever was enqueued', async () => {
    const { backend, device } = await watched();
    const other = await watched();
    const free = Number(other.device.info().freeBytes);
    const buf = backend.alloc('f32', [1000, 1000]);
    backend.scale(buf, buf, 2, 1000);
    expect(Number(other.device.info().freeBytes)).toBeLessThanOrEqual(free - 4_000_000);
    await backend.dispose();
    expect(device.isOpen).toBe(false);
    expect(Number(other.device.info().freeBytes)).toBeGreaterThanOrEqual(free);
    await other.backend.dispose();
  });

  it('computes the same on a card of another shape', async () => {
    const file = await synthesized({ preset: 'tiny', architecture: 'qwen3' });
    const ids = Array.from({ length: 33 }, (_, i) => (i * 37) % 500);
    const expected = await (await load(wasm({ threads: 1 }), file)).createSession().prefill(ids);
    for (const [sms, compute] of [
      [1, 80],
      [16, 89],
    ]) {
      shim('sms', sms);
      shim('compute', compute);
      const model = await load(onShim, file);
      expect(model.backend.variant).toBe(`CPU shim, sm_${compute}`);
      expect(await model.createSession().prefill(ids)).toEqual(expected);
    }
    shim('sms', 132);
    shim('compute', 90);
  }, 60_000);
});
