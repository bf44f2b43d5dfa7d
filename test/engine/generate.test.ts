/** Generation as a user meets it: streaming, stopping, aborting, breaking off, errors, and a session that survives. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BackendFactory, ts, wasm } from '../../src/engine/backends.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { BitnetError, loadModel, type Model, type Piece, type Run, type Session } from '../../src/index.ts';
import { tinyModel } from '../model/models.ts';

let file: Uint8Array;
let model: Model;
let session: Session;

beforeAll(async () => {
  file = await tinyModel({ architecture: 'bitnet-b1.58' });
  model = await loadModel(file, { threads: 1 });
  session = model.createSession({ contextSize: 96 });
});
afterAll(() => model.dispose());

async function collect(run: Run): Promise<Piece[]> {
  const pieces: Piece[] = [];
  for await (const piece of run) pieces.push(piece);
  return pieces;
}

/** The error's code, or what came instead. */
async function codeOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    return { resolved: await promise };
  } catch (error) {
    return error instanceof BitnetError ? error.code : error;
  }
}

const greedy = { temperature: 0, ignoreEos: true } as const;

describe('generate', () => {
  it('streams pieces whose texts make up the result', async () => {
    const run = session.generate('Once upon', { ...greedy, maxTokens: 12 });
    const pieces = await collect(run);
    const result = await run.result;
    expect(pieces.length).toBe(12);
    expect(pieces.map((piece) => piece.text).join('')).toBe(result.text);
    expect(pieces.map((piece) => piece.token)).toEqual(result.tokens);
    expect(result.stopReason).toBe('maxTokens');
    expect(result.usage.generatedTokens).toBe(12);
    expect(result.usage.promptTokens).toBe(model.tokenizer.encodePrompt('Once upon').length);
  });

  it('gives the same from result alone, from ids, and from a fresh session', async () => {
    const want = (await session.generate('Once upon', { ...greedy, maxTokens: 8 }).result).tokens;
    const ids = model.tokenizer.encodePrompt('Once upon');
    expect((await session.generate(ids, { ...greedy, maxTokens: 8 }).result).tokens).toEqual(want);
    const fresh = model.createSession();
    expect((await fresh.generate('Once upon', { ...greedy, maxTokens: 8 }).result).tokens).toEqual(want);
    await fresh.dispose();
  });

  it('is lazy', async () => {
    const before = session.tokens;
    session.generate('something else altogether', greedy);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(session.tokens).toEqual(before);
  });

  it('reuses what the cache holds', async () => {
    const ids = Array.from({ length: 20 }, (_, i) => i + 3);
    await session.generate(ids, { ...greedy, maxTokens: 4 }).result;
    const again = await session.generate(session.tokens, { ...greedy, maxTokens: 2 }).result;
    expect(again.usage.cachedTokens).toBe(again.usage.promptTokens - 1);
  });

  it('samples the same text for the same seed, and reports the seed it drew', async () => {
    const one = await session.generate('x', { maxTokens: 16, temperature: 1.5, topK: 0, seed: 7 }).result;
    const two = await session.generate('x', { maxTokens: 16, temperature: 1.5, topK: 0, seed: 7 }).result;
    const other = await session.generate('x', { maxTokens: 16, temperature: 1.5, topK: 0, seed: 8 }).result;
    expect(two.tokens).toEqual(one.tokens);
    expect(other.tokens).not.toEqual(one.tokens);
    const drawn = await session.generate('x', { maxTokens: 4, temperature: 1.5 }).result;
    const replayed = await session.generate('x', { maxTokens: 4, temperature: 1.5, seed: drawn.seed }).result;
    expect(replayed.tokens).toEqual(drawn.tokens);
  });

  it('reports log-probabilities that are those of the logits', async () => {
    const [piece] = await collect(session.generate([5, 6], { ...greedy, maxTokens: 1, logprobs: true }));
    session.rewind(0);
    const logits = await session.prefill([5, 6]);
    const max = Math.max(...logits);
    const total = logits.reduce((sum, value) => sum + Math.exp(value - max), 0);
    expect(piece.logprob).toBeCloseTo(logits[piece.token] - max - Math.log(total), 6);
  });
});

describe('the end', () => {
  it('comes at a stop text, which is not part of the output', async () => {
    const whole = (await session.generate('Once upon', { ...greedy, maxTokens: 20 }).result).text;
    const stop = whole.slice(7, 12);
    const run = session.generate('Once upon', { ...greedy, maxTokens: 20, stop: ['never this', stop] });
    const text = (await collect(run)).map((piece) => piece.text).join('');
    expect(text).toBe(whole.slice(0, whole.indexOf(stop)));
    expect((await run.result).stopReason).toBe('stop');
    expect((await run.result).stopText).toBe(stop);
  });

  it('takes a single stop text as it stands', async () => {
    const whole = (await session.generate('Once upon', { ...greedy, maxTokens: 20 }).result).text;
    const stop = whole.slice(7, 12);
    const { text } = await session.generate('Once upon', { ...greedy, maxTokens: 20, stop }).result;
    expect(text).toBe(whole.slice(0, whole.indexOf(stop)));
  });

  it('comes when the context is full', async () => {
    const small = model.createSession({ contextSize: 10 });
    const run = small.generate([3, 4, 5, 6], greedy);
    // Four prompt tokens and six computed ones fill the cache; one more can be sampled from the last logits.
    expect((await collect(run)).length).toBe(7);
    expect((await run.result).stopReason).toBe('contextFull');
    await small.dispose();
  });

  it('comes at an end-of-generation token', async () => {
    const [end] = model.tokenizer.eogIds;
    const run = session.generate([3, 4], { temperature: 0, logitBias: { [end]: 1000 }, maxTokens: 5 });
    expect((await collect(run)).map((piece) => piece.token)).toEqual([end]);
    expect((await run.result).stopReason).toBe('eos');
    expect((await run.result).text).toBe('');
  });

  it('comes at once for maxTokens 0', async () => {
    const result = await session.generate('Once', { maxTokens: 0 }).result;
    expect(result.tokens).toEqual([]);
    expect(result.stopReason).toBe('maxTokens');
  });
});

describe('breaking off', () => {
  it('by break leaves a usable session and a result that says so', async () => {
    const run = session.generate('Once upon', { ...greedy, maxTokens: 50 });
    let count = 0;
    for await (const _ of run) if (++count === 3) break;
    expect((await run.result).stopReason).toBe('cancelled');
    expect((await run.result).tokens.length).toBe(3);
    expect((await session.generate('Once', { ...greedy, maxTokens: 2 }).result).tokens.length).toBe(2);
  });

  it('by signal rejects with its reason, before, during the prompt and during generation', async () => {
    const reason = new Error('enough');
    const aborted = AbortSignal.abort(reason);
    await expect(session.generate('Once', { signal: aborted }).result).rejects.toBe(reason);
    const controller = new AbortController();
    const run = session.generate('Once', { ...greedy, maxTokens: 90, signal: controller.signal });
    let count = 0;
    const loop = (async () => {
      for await (const _ of run) if (++count === 3) controller.abort(reason);
    })();
    await expect(loop).rejects.toBe(reason);
    expect(count).toBe(3);
    await expect(run.result).rejects.toBe(reason);
    expect((await session.generate('Once', { ...greedy, maxTokens: 2 }).result).tokens.length).toBe(2);
  });

  it('by timeout works during pure computation', async () => {
    const long = model.createSession({ contextSize: 512 });
    const signal = AbortSignal.timeout(30);
    await expect(long.generate([3], { ...greedy, signal }).result).rejects.toThrow(/timeout/);
    await long.dispose();
  });
});

describe('refusals', () => {
  it('have codes', async () => {
    expect(await codeOf(session.generate(Array.from({ length: 97 }, () => 3)).result)).toBe('context-full');
    expect(await codeOf(session.generate([512]).result)).toBe('bad-token');
    expect(await codeOf(session.generate([-1]).result)).toBe('bad-token');
    expect(await codeOf(session.generate([1.5]).result)).toBe('bad-token');
    expect(await codeOf(session.generate([]).result)).toBe('bad-argument');
    expect(await codeOf(session.generate([3, undefined as unknown as number, 4]).result)).toBe('bad-token');
    expect(await codeOf(session.step(undefined as unknown as number))).toBe('bad-token');
    expect(await codeOf(session.generate(7 as unknown as string).result)).toBe('bad-argument');
    expect(await codeOf(session.generate('x', { stop: 7 as unknown as string }).result)).toBe('bad-argument');
    expect(await codeOf(session.generate('x', { maxTokens: -1 }).result)).toBe('bad-argument');
    expect(await codeOf(session.generate('x', { stop: [''] }).result)).toBe('bad-argument');
    expect(await codeOf(session.generate('x', { temperature: Number.NaN }).result)).toBe('bad-argument');
    expect(await codeOf(loadModel(file, { threads: 0 }))).toBe('bad-argument');
    expect(await codeOf(loadModel(file, { batchSize: 1e9 }))).toBe('bad-argument');
    expect(await codeOf(loadModel(file, { backend: 'gpu' as 'ts' }))).toBe('bad-argument');
    expect(() => model.createSession({ contextSize: 1e9 })).toThrow(/context size/);
    expect(() => model.createSession({ kType: 'q4' as 'f16' })).toThrow(/KV cache type/);
    expect(() => session.rewind(10_000)).toThrow(/bad position/);
  });

  it('leave the cache as it was', async () => {
    await session.generate([3, 4, 5], { ...greedy, maxTokens: 2 }).result;
    const before = session.tokens;
    expect(await codeOf(session.generate([]).result)).toBe('bad-argument');
    expect(await codeOf(session.generate(Array.from({ length: 97 }, () => 3)).result)).toBe('context-full');
    expect(session.tokens).toEqual(before);
  });

  it('of a second run in a busy session', async () => {
    const first = session.generate('Once', { ...greedy, maxTokens: 20 });
    const iterator = first[Symbol.asyncIterator]();
    await iterator.next();
    expect(await codeOf(session.generate('Once').result)).toBe('session-busy');
    expect(await codeOf(session.step(3))).toBe('session-busy');
    await iterator.return?.();
    expect((await session.generate('Once', { ...greedy, maxTokens: 1 }).result).tokens.length).toBe(1);
  });

  it('after dispose, which is idempotent', async () => {
    const mine = await loadModel(file, { threads: 2 });
    const s = mine.createSession();
    await s.prefill([3, 4]);
    await mine.dispose();
    await mine.dispose();
    expect(await codeOf(s.step(3))).toBe('disposed');
    expect(() => mine.createSession()).toThrow(/disposed/);
  });
});

describe('timings', () => {
  it('end with the last token, not when they are looked at', async () => {
    const run = session.generate('Once upon', { ...greedy, maxTokens: 4 });
    await collect(run);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect((await run.result).timings.generateMs).toBeLessThan(250);
  });
});

describe('loading', () => {
  it('reports progress up to the end', async () => {
    const seen: number[] = [];
    const mine = await loadModel(file, {
      threads: 1,
      onProgress: ({ loadedBytes, totalBytes }) => seen.push(loadedBytes / totalBytes),
    });
    await mine.dispose();
    expect(seen.length).toBeGreaterThan(10);
    expect(seen.at(-1)).toBe(1);
    expect([...seen].sort((a, b) => a - b)).toEqual(seen);
  });

  it('can be aborted while a server does not answer', async () => {
    const server = createServer(() => undefined); // accepts and says nothing
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const loading = loadModel(`http://127.0.0.1:${port}/model.gguf`, { signal: AbortSignal.timeout(100) });
    await expect(loading).rejects.toThrow(/timeout/);
    server.closeAllConnections();
    server.close();
  });

  it("leaves a caller's own source open", async () => {
    let closed = 0;
    const source = { ...memorySource(file), close: async () => void closed++ };
    const mine = await loadModel({ ...source, readInto: memorySource(file).readInto }, { threads: 1 });
    await mine.dispose();
    expect(closed).toBe(0);
  });

  it('can be aborted', async () => {
    const controller = new AbortController();
    const reason = new Error('no');
    const loading = loadModel(file, { signal: controller.signal, onProgress: () => controller.abort(reason) });
    await expect(loading).rejects.toBe(reason);
  });

  it('takes a backend as a value', async () => {
    const mine = await loadModel(file, { backend: wasm({ threads: 1, kernels: 'simd' }) });
    expect(mine.backend.variant).toBe('simd');
    await mine.dispose();
    const plain = await loadModel(file, { backend: ts() });
    expect(plain.backend.name).toBe('ts');
    await plain.dispose();
  });

  it('tells a factory that opens no backend from one', async () => {
    for (const [backend, got] of [
      [wasm, 'a function that returns a function: it wants to be called'],
      [async () => undefined, 'one that gives undefined'],
      [() => ({ info: {} }), 'one that gives [object Object]'],
    ] as const) {
      await expect(loadModel(file, { backend: backend as unknown as BackendFactory })).rejects.toMatchObject({
        code: 'bad-argument',
        message: `backend: not a backend, expected a function that opens one, such as wasm() of bitnet-ts/backends, got ${got}`,
      });
    }
  });

  it('tells what runs', () => {
    expect(model.backend.name).toBe('wasm');
    expect(model.info.architecture).toBe('bitnet-b1.58');
    expect(model.info.activation).toBe('relu2');
    expect(model.info.parameters).toBeGreaterThan(1_000_000);
    expect(model.memory().usedBytes).toBeGreaterThan(300_000);
  });

  it('gives memory back when sessions end', async () => {
    const before = model.memory().usedBytes;
    for (let i = 0; i < 5; i++) {
      const s = model.createSession({ contextSize: 128 });
      expect(model.memory().usedBytes).toBeGreaterThan(before);
      await s.dispose();
    }
    expect(model.memory().usedBytes).toBe(before);
  });
});
