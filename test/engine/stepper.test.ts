/** Several sequences in one step, what a server does: each must get the bits it would have got alone. */
import { describe, expect, it } from 'vitest';
import { wasm } from '../../src/engine/backends.ts';
import { kvShapeOf } from '../../src/engine/session.ts';
import { type Logits, type StepItem, Stepper } from '../../src/engine/stepper.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import { memorySource } from '../../src/formats/sources.ts';
import type { Backend, KvCache } from '../../src/kernels/interface.ts';
import { loadWeights } from '../../src/model/load.ts';
import { greedy } from '../../src/sampling/greedy.ts';
import { tinyModel, wideModel } from '../model/models.ts';

const prompts = [[5, 6, 7, 8, 9], [300], [41, 42, 43], Array.from({ length: 30 }, (_, i) => i + 100)];

describe.each(['bitnet-b1.58', 'llama'] as const)('%s', (architecture) => {
  it('several sequences in one step give the bits of each alone', async () => {
    const backend = await wasm({ threads: 2 })();
    const weights = await loadWeights(await openGguf(memorySource(await tinyModel({ architecture }))), backend);
    const stepper = new Stepper(backend, weights, 64);
    const alone: Logits[][] = [];
    for (const ids of prompts) {
      const kv = newCache(backend);
      const [first] = await stepper.step([{ kv, position: 0, ids, logits: 'last' }]);
      const [second] = await stepper.step([{ kv, position: ids.length, ids: [77], logits: 'last' }]);
      alone.push([first, second]);
    }
    const caches = prompts.map(() => newCache(backend));
    const items = prompts.map((ids, i) => ({ kv: caches[i], position: 0, ids, logits: 'last' as const }));
    const together = await stepper.step(items);
    const next = await stepper.step(
      prompts.map((ids, i) => ({ kv: caches[i], position: ids.length, ids: [77], logits: 'last' as const })),
    );
    prompts.forEach((_, i) => {
      expect(together[i]).toEqual(alone[i][0]);
      expect(next[i]).toEqual(alone[i][1]);
    });
    expect(together[0]).not.toEqual(together[1]);
    await backend.dispose();
  });
});

describe('a wide vocabulary', () => {
  it('some of the greatest logits of several sequences, unless one of them wants all', async () => {
    const backend = await wasm({ threads: 2 })();
    const weights = await loadWeights(
      await openGguf(memorySource(await wideModel({ vocabulary: 2100, padding: 0 }))),
      backend,
    );
    const stepper = new Stepper(backend, weights, 64);
    const shape = kvShapeOf(weights.config, { contextSize: 48 });
    const step = (tops: readonly (number | undefined | 'none')[]) => {
      const items = prompts.map((ids, i) => {
        const top = tops[i];
        return {
          kv: backend.allocKv(shape),
          position: 0,
          ids,
          ...(top === 'none' ? { logits: top } : { logits: 'last', top }),
        };
      });
      return stepper.step(items as StepItem[]);
    };
    const whole = await step([undefined, undefined, undefined, undefined]);
    const asked = [3, 'none', 40, 1] as const;
    const tops = await step(asked);
    expect(tops[1]).toEqual({ values: new Float32Array(0) });
    for (const i of [0, 2, 3]) {
      const { values, ids } = tops[i];
      expect(values).toEqual(Float32Array.from(ids!, (id) => whole[i].values[id]));
      expect(ids).toEqual(ids!.slice().sort());
      expect(ids!.length).toBeLessThan(200);
      const greatest = whole[i].values.slice().sort().reverse();
      const k = asked[i] as number;
      expect(values.slice().sort().reverse().slice(0, k)).toEqual(greatest.slice(0, k));
    }
    expect(await step([3, undefined, 40, 1])).toEqual(whole);
    // After every token: of all of them the whole row, whatever else is said.
    const [every, last] = await stepper.step(
      (['all', 'last'] as const).map((logits, i) => ({
        kv: backend.allocKv(shape),
        position: 0,
        ids: prompts[i],
        logits,
        top: 3,
      })),
    );
    const { vocabulary } = weights.config;
    expect(every.values.length).toBe(prompts[0].length * vocabulary);
    expect([every.values.subarray(-vocabulary), last.values]).toEqual([whole[0].values, whole[1].values]);
    await backend.dispose();
  });

  it('refuses a row in which fewer than the greatest that were wanted are numbers', async () => {
    const backend = await wasm({ threads: 1 })();
    const weights = await loadWeights(
      await openGguf(memorySource(await wideModel({ vocabulary: 2100, padding: 0 }))),
      backend,
    );
    const readTop = async () => [{ ids: Int32Array.of(7, 9), values: Float32Array.of(1, 2) }];
    const stepper = new Stepper(Object.assign(backend, { readTop }), weights, 64);
    const kv = backend.allocKv(kvShapeOf(weights.config, { contextSize: 4 }));
    const step = (top: number) => stepper.step([{ kv, position: 0, ids: [3], logits: 'last', top }]);
    expect((await step(2))[0].ids).toEqual(Int32Array.of(7, 9));
    await expect(step(3)).rejects.toMatchObject({
      code: 'not-finite',
      message: expect.stringContaining('token row 0: the model produced a logit that is not a number, got -Infinity'),
    });
    await backend.dispose();
  });

  it('more sequences than the output matrix takes at a time', async () => {
    const backend = await wasm({ threads: 2 })();
    const weights = await loadWeights(
      await openGguf(memorySource(await wideModel({ vocabulary: 2100, padding: 0 }))),
      backend,
    );
    const stepper = new Stepper(backend, weights, 64);
    const shape = kvShapeOf(weights.config, { contextSize: 4 });
    const items = (top: number | undefined) =>
      Array.from({ length: 37 }, (_, i) => ({
        kv: backend.allocKv(shape),
        position: 0,
        ids: [i * 50],
        logits: 'last' as const,
        top,
      }));
    const whole = await stepper.step(items(undefined));
    const tops = await stepper.step(items(5));
    expect(tops.length).toBe(37);
    tops.forEach(({ values, ids }, i) => {
      expect(values).toEqual(Float32Array.from(ids!, (id) => whole[i].values[id]));
      expect(ids).toContain(greedy(whole[i].values));
    });
    expect(new Set(whole.map(({ values }) => greedy(values))).size).toBeGreaterThan(10);
    // What is no number is refused by its token, in whichever part of the rows it is, and the next step is as it was.
    const { read, readTop } = backend;
    const [row, place] = [29, 1];
    for (const [bad, id] of [
      [Number.NaN, tops[row].ids![place]],
      [Infinity, tops[row].ids![place]],
    ]) {
      let seen = 0;
      backend.readTop = async (from, n) => {
        const got = await readTop.call(backend, from, n);
        if (row >= seen && row < seen + n) got[row - seen].values[place] = bad;
        seen += n;
        return got;
      };
      await expect(stepper.step(items(5))).rejects.toThrow(`token row ${row}, logit ${id}`);
      backend.readTop = readTop;
      seen = 0;
      backend.read = async (from, count) => {
        const got = await read.call(backend, from, count);
        const at = (row - seen) * 2100 + id;
        if (at >= 0 && at < count) got[at] = bad;
        seen += count / 2100;
        return got;
      };
      await expect(stepper.step(items(undefined))).rejects.toThrow(`token row ${row}, logit ${id}`);
      backend.read = read;
    }
    expect(await stepper.step(items(5))).toEqual(tops);
    const many = [{ ...items(5)[0], ids: new Array(65).fill(1) }];
    await expect(stepper.step(many)).rejects.toThrow('65 rows in a step of 64');
    await backend.dispose();
  });
});

function newCache(backend: Backend): KvCache {
  const shape = { nLayers: 2, nHeads: 4, nKvHeads: 2, headDim: 64, contextSize: 48 };
  return backend.allocKv({ ...shape, kType: 'f16', vType: 'f16' });
}
