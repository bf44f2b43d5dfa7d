/**
 * The first promise: one set of bits. Backends, builds, threads, batch sizes, prefill against single steps, a cache
 * that was rewound, two sessions at once: the logits are the same to the last bit.
 */
import { createHash } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadModel, type Model } from '../../src/index.ts';
import { engineLogits, tinyModel } from './models.ts';

const ids = Array.from({ length: 70 }, (_, i) => (i * 37 + 5) % 500);
const digest = (logits: Float32Array) =>
  createHash('sha256')
    .update(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength))
    .digest('hex');

/** The first bytes of the digests. Whoever changes them changes what users compare against, and says why. */
const PINNED = {
  'bitnet-b1.58': 'fb9217b27577a8a6',
  bitnet: '30f969f3a65d1766',
  llama: 'c3c019ff8e50fbf2',
  qwen3: '6b94f2590b263639',
  gemma3: '915150fc8dd848b6',
} as const;

describe.each(Object.keys(PINNED) as (keyof typeof PINNED)[])('%s', (architecture) => {
  let file: Uint8Array;
  let want: string;
  beforeAll(async () => {
    file = await tinyModel({ architecture });
    want = digest(await engineLogits(file, ids, { backend: 'ts' }, {}));
  });

  it('are these, in every version: a change of bits is a breaking change', () => {
    expect(want.slice(0, 16)).toBe(PINNED[architecture]);
  });

  it('with any number of threads and any batch size', async () => {
    for (const threads of [1, 2, 3]) {
      for (const batchSize of [1, 7, 64, 128]) {
        const got = digest(await engineLogits(file, ids, { backend: 'wasm', threads, batchSize }, {}));
        expect(got, `threads ${threads}, batch ${batchSize}`).toBe(want);
      }
    }
  });

  it('on the ts backend with any batch size', async () => {
    expect(digest(await engineLogits(file, ids, { backend: 'ts', batchSize: 9 }, {}))).toBe(want);
  });

  it('step by step, after a rewind, and beside another session', async () => {
    const model = await loadModel(file, { backend: 'wasm', threads: 2 });
    try {
      const whole = await lastLogits(model, ids);
      const session = model.createSession();
      const other = model.createSession({ kType: 'f32', vType: 'f32' });
      await session.prefill(ids.slice(0, 30));
      await Promise.all([session.prefill(ids.slice(30, 50)), other.prefill(ids.slice(10, 60))]);
      session.rewind(20);
      expect(session.position).toBe(20);
      let last = new Float32Array(0);
      for (const id of ids.slice(20)) last = (await session.step(id)) as Float32Array<ArrayBuffer>;
      expect(digest(last)).toBe(digest(whole));
    } finally {
      await model.dispose();
    }
  });

  it('differs when the cache has another type', async () => {
    const got = digest(await engineLogits(file, ids, { backend: 'ts' }, { kType: 'f32', vType: 'f32' }));
    expect(got).not.toBe(want);
  });
});

async function lastLogits(model: Model, tokens: readonly number[]): Promise<Float32Array> {
  return model.createSession().prefill(tokens);
}
