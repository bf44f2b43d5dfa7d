/**
 * Sampling looks at few logits, so the engine asks for no more (`Sampler.reach`, `denseTopK`). The tokens must be those of the
 * whole row: here the wasm backend, which leaves most of it out, beside the ts backend, which leaves out nothing.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ts, wasm } from '../../src/engine/backends.ts';
import { BitnetError, type GenerateOptions, loadModel, type Model, type Session } from '../../src/index.ts';
import { wideModel } from '../model/models.ts';

const VOCABULARY = 2100;
/** Rows of the output matrix that are no tokens. They are the loudest. */
const PADDING = 50;
const prompt = Array.from({ length: 9 }, (_, i) => i * 211 + 300);

/** The k of every call of `denseTopK`, and whether anything was left out of the last logits read. */
const asked: number[] = [];
const models: Model[] = [];
let screened: Session;
let whole: Session;

beforeAll(async () => {
  const file = await wideModel({ vocabulary: VOCABULARY, padding: PADDING });
  const spied = async () => {
    const backend = await wasm({ threads: 2 })();
    const denseTopK = backend.denseTopK.bind(backend);
    backend.denseTopK = (out, weight, x, k, n) => {
      asked.push(k);
      denseTopK(out, weight, x, k, n);
    };
    return backend;
  };
  for (const backend of [spied, ts()]) models.push(await loadModel(file, { backend }));
  [screened, whole] = models.map((model) => model.createSession({ contextSize: 128 }));
});
afterAll(async () => {
  for (const model of models) await model.dispose();
});

const N = 8;
const common = { maxTokens: N, ignoreEos: true, seed: 5 } as const;
const greedy = { temperature: 0 } as const;

/** The ids of the `count` greatest logits after the prompt, of tokens alone, the greatest first. */
async function likely(count: number): Promise<number[]> {
  whole.rewind(0);
  const logits = (await whole.prefill(prompt)).subarray(0, VOCABULARY);
  return Array.from(logits.keys())
    .sort((a, b) => logits[b] - logits[a])
    .slice(0, count);
}

/** Generates on both; returns what `denseTopK` was asked for on the way. */
async function both(options: GenerateOptions): Promise<number[]> {
  asked.length = 0;
  const got = await pieces(screened, options);
  expect(got).toEqual(await pieces(whole, options));
  expect(got.length).toBe(N);
  return asked.slice();
}

async function pieces(session: Session, options: GenerateOptions) {
  const out = [];
  for await (const { token, logprob } of session.generate(prompt, { ...common, ...options })) {
    out.push({ token, logprob });
  }
  return out;
}

const every = (k: number) => new Array<number>(N).fill(k + PADDING);

describe('the same tokens as from all logits', () => {
  it('greedy', async () => {
    expect(await both(greedy)).toEqual(every(1));
  });

  it.each([1, 5, 40])('top-k %i', async (topK) => {
    expect(await both({ topK, topP: 1, minP: 0, temperature: 2 })).toEqual(every(topK));
    expect(await both({ topK, temperature: 0.6 })).toEqual(every(topK));
  });

  it('top-p and min-p within the top-k, and without it, for which all logits are needed', async () => {
    expect(await both({ topP: 0.5, temperature: 1.5 })).toEqual(every(40));
    expect(await both({ minP: 0.4, topP: 1, temperature: 1.5 })).toEqual(every(40));
    expect(await both({ topK: 0, topP: 0.7, temperature: 1 })).toEqual([]);
    expect(await both({ topK: 0, topP: 1, minP: 0.1, temperature: 1 })).toEqual([]);
    expect(await both({ topK: VOCABULARY, topP: 0.9, temperature: 1 })).toEqual([]);
  });

  it('penalties, whose window reaches further with every token', async () => {
    for (const penalty of [{ repeatPenalty: 1.3 }, { presencePenalty: 3 }, { frequencyPenalty: 2.5 }]) {
      const ks = await both({ ...greedy, ...penalty });
      expect(ks[0]).toBe(1 + PADDING + prompt.length);
      expect(ks.at(-1)).toBe(ks[0] + N - 1); // all different
      await both({ topK: 5, topP: 1, minP: 0, temperature: 2, ...penalty });
      await both({ ...greedy, ...penalty, repeatLastN: 4 });
      await both({ ...greedy, ...penalty, repeatLastN: -1, penalizeNewline: true });
    }
  });

  it('penalties that raise, for which all logits are needed', async () => {
    for (const reward of [{ repeatPenalty: 0.3 }, { presencePenalty: -6 }, { frequencyPenalty: -6 }]) {
      expect(await both({ ...greedy, ...reward })).toEqual([]);
      expect(await both({ topK: 5, temperature: 1, ...reward })).toEqual([]);
    }
    // The raised tokens do come from far away, or this would test nothing.
    const raised = await pieces(whole, { ...greedy, presencePenalty: -6 });
    expect(raised.map(({ token }) => token)).not.toEqual((await pieces(whole, greedy)).map(({ token }) => token));
  });

  it('bias: bans of all that is likely, lowering, raising', async () => {
    const most = await likely(60);
    const biased = (ids: readonly number[], bias: number) => ({ logitBias: new Map(ids.map((id) => [id, bias])) });
    for (const bias of [-Infinity, -2, -100]) {
      expect(await both({ ...greedy, ...biased(most, bias) })).toEqual(every(1 + most.length));
      expect(await both({ topK: 5, temperature: 1, ...biased(most, bias) })).toEqual(every(5 + most.length));
    }
    const [first] = await pieces(whole, { ...greedy, ...biased(most, -Infinity) });
    expect(most).not.toContain(first.token);
    expect(await both({ ...greedy, ...biased([most[59]], 1.5) })).toEqual([]);
    expect(await both({ ...greedy, logitBias: { [most[0]]: -3, [most[40]]: 20 } })).toEqual([]);
  });

  it('with logprobs, which are those of the whole row', async () => {
    expect(await both({ ...greedy, logprobs: true })).toEqual([]);
    expect(await both({ topK: 5, logprobs: true })).toEqual([]);
  });

  it('one token after the other, in two generations', async () => {
    for (const session of [screened, whole]) session.rewind(0);
    const next = [];
    for (const session of [screened, whole]) {
      const { tokens } = await session.generate(prompt, { ...common, ...greedy }).result;
      next.push([tokens, (await session.generate([...session.tokens, 7], { ...common, topK: 3 }).result).tokens]);
    }
    expect(next[0]).toEqual(next[1]);
  });
});

describe('top of prefill and step', () => {
  it('leaves the greatest as they are and others as they are or out', async () => {
    for (const top of [1, 5, 100]) {
      for (const session of [screened, whole]) session.rewind(0);
      const wanted = [await whole.prefill(prompt), await whole.step(7)];
      const got = [await screened.prefill(prompt, { top }), await screened.step(7, { top })];
      got.forEach((logits, i) => {
        expect(logits.length).toBe(VOCABULARY + PADDING);
        const least = wanted[i].slice().sort().at(-top)!;
        const wrong = logits.findIndex((x, id) => x !== wanted[i][id] && !(x === -Infinity && wanted[i][id] < least));
        expect(wrong, `top ${top}, logits ${i}`).toBe(-1);
        expect(logits.filter((x) => x === -Infinity).length).toBeGreaterThan(VOCABULARY / 2);
      });
    }
  });

  it('without it, or with more than there are, nothing is missing', async () => {
    for (const options of [{}, { top: VOCABULARY + PADDING }, { top: 1e9 }]) {
      for (const session of [screened, whole]) session.rewind(0);
      expect(await screened.prefill(prompt, options)).toEqual(await whole.prefill(prompt));
    }
  });

  it.each([0, -1, 1.5, Number.NaN, Infinity, '5', null])('refuses %s', async (top) => {
    for (const session of [screened, whole]) {
      session.rewind(0);
      const refusal = await session.prefill(prompt, { top: top as number }).catch((error: unknown) => error);
      expect(refusal).toBeInstanceOf(BitnetError);
      expect((refusal as BitnetError).code).toBe('bad-argument');
      expect((refusal as BitnetError).facts.where).toBe('top');
      expect(session.position).toBe(0);
    }
    await screened.prefill(prompt); // not left busy
  });
});
