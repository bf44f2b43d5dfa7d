/**
 * The model that comes with the package, on the CUDA library's own code: a story of the CPU shim, token for token and logit for logit
 * that of the wasm backend.
 */
import { describe, expect, it } from 'vitest';
import { type BackendFactory, wasm } from '../../src/engine/backends.ts';
import type { Session } from '../../src/engine/types.ts';
import { loadModel } from '../../src/index.ts';
import { onShim, open, shim, shimPath } from './shim.ts';

const stories = new URL('../../fixtures/models/stories.gguf.gz', import.meta.url);

async function withSession<T>(backend: BackendFactory, use: (session: Session) => Promise<T>): Promise<T> {
  const model = await loadModel(stories, { backend });
  try {
    return await use(model.createSession());
  } finally {
    await model.dispose();
  }
}

/** A prompt in two pieces, and the likeliest tokens after it. Every other step asks for the greatest logits alone. */
async function likeliest(session: Session, tokens: number) {
  const ids = Array.from({ length: 19 }, (_, i) => 5 + ((i * 29) % 400));
  const logits: Float32Array[] = [];
  await session.prefill(ids.slice(0, 16));
  let row = (await session.prefill(ids.slice(16))).slice();
  while (logits.length < tokens) {
    const best = row.reduce((at, value, i) => (value > row[at] ? i : at), 0);
    const asked = logits.length % 2 === 1;
    logits.push(asked ? row.slice(best, best + 1) : row);
    ids.push(best);
    row = (await session.step(best, asked ? undefined : { top: 10 })).slice();
  }
  return { ids, logits };
}

describe.skipIf(shimPath === undefined)('the embedded model on the CPU shim', () => {
  /** The whole context: a prompt of one token, and 512 after it, of which the last needs no position. */
  it('tells the greedy story of the wasm backend, 512 tokens', async () => {
    shim('seed', 0);
    const tell = (backend: BackendFactory) =>
      withSession(backend, (session) => session.generate('', { temperature: 0, ignoreEos: true }).result);
    const [ours, expected] = [await tell(onShim), await tell(wasm({ threads: 1 }))];
    expect([ours.tokens.length, ours.usage.promptTokens, ours.stopReason]).toEqual([512, 1, 'contextFull']);
    expect(ours.tokens).toEqual(expected.tokens);
    expect(ours.text).toBe(expected.text);
    expect(ours.text).toContain('Once upon a time');
  }, 600_000);

  it('has its logits as well, whatever the order of threads', async () => {
    const tell = (backend: BackendFactory) => withSession(backend, (session) => likeliest(session, 24));
    const [got, expected] = [await tell(async () => open(5)), await tell(wasm({ threads: 1 }))];
    expect(got.ids).toEqual(expected.ids);
    expect(new Set(got.ids).size).toBeGreaterThan(12);
    expect(got.logits).toEqual(expected.logits);
  }, 300_000);
});
