/** Several sequences in one step, what a server does: each must get the bits it would have got alone. */
import { describe, expect, it } from 'vitest';
import { wasm } from '../../src/engine/backends.ts';
import { Stepper } from '../../src/engine/stepper.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import { memorySource } from '../../src/formats/sources.ts';
import type { Backend, KvCache } from '../../src/kernels/interface.ts';
import { loadWeights } from '../../src/model/load.ts';
import { tinyModel } from '../model/models.ts';

const prompts = [[5, 6, 7, 8, 9], [300], [41, 42, 43], Array.from({ length: 30 }, (_, i) => i + 100)];

describe.each(['bitnet-b1.58', 'llama'] as const)('%s', (architecture) => {
  it('several sequences in one step give the bits of each alone', async () => {
    const backend = await wasm({ threads: 2 })();
    const weights = await loadWeights(await openGguf(memorySource(await tinyModel({ architecture }))), backend);
    const stepper = new Stepper(backend, weights, 64);
    const alone: Float32Array[][] = [];
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

function newCache(backend: Backend): KvCache {
  const shape = { nLayers: 2, nHeads: 4, nKvHeads: 2, headDim: 64, contextSize: 48 };
  return backend.allocKv({ ...shape, kType: 'f16', vType: 'f16' });
}
