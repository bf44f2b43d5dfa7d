/**
 * The model that comes with the package, on the CUDA library's own code: a story of the CPU shim, token for token and logit for logit
 * that of the wasm backend.
 */
import { describe, expect, it } from 'vitest';
import { openModelFile } from '../../src/engine/model.ts';
import { Stepper } from '../../src/engine/stepper.ts';
import type { Backend } from '../../src/kernels/interface.ts';
import { createWasmBackend } from '../../src/kernels/wasm/open.ts';
import { loadWeights } from '../../src/model/load.ts';
import { createNodeHost } from '../../src/platform/host-node.ts';
import { TestBackend } from './backend.ts';
import { buildShim, Library } from './library.ts';

const path = buildShim();
const library = path === undefined ? undefined : new Library(path);
const stories = new URL('../../fixtures/models/stories.gguf.gz', import.meta.url).pathname;

/** A prompt of some tokens, in one piece and then a rest, and the likeliest tokens after it. */
async function story(backend: Backend, tokens: number) {
  const weights = await loadWeights(await openModelFile(stories), backend);
  const { nLayers, nHeads, nKvHeads, headDim } = weights.config;
  const kv = backend.allocKv({ nLayers, nHeads, nKvHeads, headDim, contextSize: 128, kType: 'f16', vType: 'f16' });
  const stepper = new Stepper(backend, weights, 16);
  const ids = Array.from({ length: 19 }, (_, i) => 5 + ((i * 29) % 400));
  const logits: Float32Array[] = [];
  for (let position = 0; position < ids.length && logits.length < tokens; ) {
    const piece = ids.slice(position, position + 16);
    // Every other step asks for the greatest alone: the others may be left out.
    const top = logits.length % 2 === 1 ? 10 : undefined;
    const [{ values, ids: which }] = await stepper.step([{ kv, position, ids: piece, logits: 'last', top }]);
    position += piece.length;
    if (position < ids.length) continue;
    const best = values.reduce((at, value, i) => (value > values[at] ? i : at), 0);
    logits.push(top === undefined ? values : values.slice(best, best + 1));
    ids.push(which === undefined ? best : which[best]);
  }
  return { ids, logits };
}

describe.skipIf(library === undefined)('the embedded model on the CPU shim', () => {
  it('tells the same story', async () => {
    const wasm = await createWasmBackend({ threads: 1 }, await createNodeHost());
    const expected = await story(wasm, 24);
    await wasm.dispose();
    library!.shim('seed', 5);
    const backend = new TestBackend(library!.open());
    const got = await story(backend, 24);
    expect(got.ids).toEqual(expected.ids);
    expect(new Set(got.ids).size).toBeGreaterThan(12);
    expect(got.logits).toEqual(expected.logits);
    await backend.dispose();
  }, 300_000);
});
