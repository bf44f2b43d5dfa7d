/**
 * Whole models on a candidate: what no single op shows. Tiny models of every architecture, made on the spot.
 *
 *     trace    every intermediate against the `ts` backend: same names, integers exactly, floats bit for bit (`info.exact`) or within
 *              the bounds of their ops. A candidate that is not exact goes on with the expected values after each op, so that no
 *              difference grows, and what is named is what is wrong.
 *     splits   the same logits however tokens are cut into passes
 *     cache    the same logits after a rewind, and beside another session
 *     top      the greatest logits are the same where only those were asked for
 *     memory   disposed sessions leave nothing behind
 *     types    the same logits from every type of file that has the same trits
 *     same     the same logits from the same backend opened otherwise, with other threads
 *
 * Bits are compared in all but `trace`, whether the candidate is exact or not: rows are independent by contract.
 * @module
 */

import type { BackendFactory } from '../engine/backends.ts';
import { ts } from '../engine/backends.ts';
import { loadModel } from '../engine/model.ts';
import type { LoadOptions, Model, SessionOptions, TraceTensor } from '../engine/types.ts';
import type { Outcome } from '../kernels/conformance/run.ts';
import { type Bound, boundOf, ofRoundings, ofSum } from '../kernels/conformance/tolerance.ts';
import { ARCHITECTURES } from '../model/architectures.ts';
import type { I2sLayout } from '../tensors/i2s-layouts.ts';
import { presetOf, synthesized } from './kit/models.ts';

export interface ModelConformanceOptions {
  /** Default: all, those that are one graph under two names once. */
  readonly architectures?: readonly string[] | undefined;
  /** The same backend opened otherwise: with more threads, on another device. */
  readonly same?: readonly BackendFactory[] | undefined;
  readonly onOutcome?: ((outcome: Outcome) => void) | undefined;
}

/** More than one pass of a trace; no multiple of anything. */
const IDS: readonly number[] = Array.from({ length: 19 }, (_, i) => (i * 37 + 5) % 500);

/** The first name of each. */
const GRAPHS: readonly string[] = [...ARCHITECTURES]
  .filter(([name, graph]) => [...ARCHITECTURES].find(([, other]) => other === graph)?.[0] === name)
  .map(([name]) => name);

/** Opens the candidate some twenty times, and disposes of each. Never throws because of the candidate: that is an outcome. */
export async function runModelConformance(
  open: BackendFactory,
  { architectures = GRAPHS, same = [], onOutcome }: ModelConformanceOptions = {},
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const run = async (name: string, check: () => Promise<string>): Promise<void> => {
    const detail = await check().catch((error: unknown) => `failed: ${error instanceof Error ? error.message : error}`);
    const outcome = { name: `model ${name}`, ok: detail === '', detail };
    outcomes.push(outcome);
    onOutcome?.(outcome);
  };
  for (const architecture of architectures) {
    const file = await synthesized({ preset: presetOf(architecture), architecture });
    for (const type of ['f16', 'f32'] as const) {
      const cache = { kType: type, vType: type };
      await run(`${architecture}: trace, keys and values as ${type}`, () => traces(file, open, cache));
    }
    await run(`${architecture}: splits`, () => splits(file, open));
    await run(`${architecture}: cache`, () => withModel(file, open, {}, cache));
    await run(`${architecture}: top`, () => withModel(file, open, {}, top));
    await run(`${architecture}: memory`, () => withModel(file, open, {}, memory));
    for (const [i, other] of same.entries()) {
      await run(`${architecture}: same, opened as number ${i}`, async () => {
        return sameBits(await logitsOf(file, open), await logitsOf(file, other), `opened as number ${i}`);
      });
    }
  }
  const [architecture] = architectures;
  if (architecture !== undefined && presetOf(architecture) === 'tiny')
    await run(`${architecture}: types`, () => types(architecture, open));
  return outcomes;
}

async function withModel<T>(
  file: Uint8Array,
  open: BackendFactory,
  options: LoadOptions,
  use: (model: Model) => Promise<T>,
): Promise<T> {
  const model = await loadModel(file, { ...options, backend: open });
  try {
    return await use(model);
  } finally {
    await model.dispose();
  }
}

function logitsOf(file: Uint8Array, open: BackendFactory, options: LoadOptions = {}): Promise<Float32Array> {
  return withModel(file, open, options, async (model) => {
    const { vocabularySize } = model.info;
    const out = new Float32Array(IDS.length * vocabularySize);
    let at = 0;
    for await (const rows of model.createSession().logits(IDS)) {
      out.set(rows, at);
      at += rows.length;
    }
    return out;
  });
}

function traces(file: Uint8Array, open: BackendFactory, cache: SessionOptions): Promise<string> {
  return withModel(file, ts(), {}, (reference) =>
    withModel(file, open, {}, async (candidate) => {
      const { exact } = candidate.backend;
      const select = () => true;
      const expected = reference.createSession(cache).trace(IDS, { select })[Symbol.asyncIterator]();
      for await (const got of candidate.createSession(cache).trace(IDS, { select })) {
        const { value: want, done } = await expected.next();
        if (done === true) return `${got.name}: more than the reference shows`;
        const place = `${want.name}, rows from position ${want.position}`;
        if (got.name !== want.name || got.rows !== want.rows || got.data.length !== want.data.length) {
          return `${place}: got ${got.name}, ${got.rows} rows, ${got.data.length} values`;
        }
        const detail = firstDifference(want, got, exact);
        if (detail !== '') return `${place}, ${want.op} of ${want.inputs.join(' and ') || 'tokens'}: ${detail}`;
        if (!exact && want.data instanceof Float32Array) await got.replace?.(want.data);
      }
      const { value: missing, done } = await expected.next();
      return done === true ? '' : `${missing.name}: missing`;
    }),
  );
}

function firstDifference(want: TraceTensor, got: TraceTensor, exact: boolean): string {
  const { relative, absolute } = exact ? { relative: 0, absolute: 0 } : boundOfSite(want);
  // Bounds of sums are for numbers of order 1.
  const size = absolute === 0 ? 0 : greatest(want.data);
  for (let i = 0; i < want.data.length; i++) {
    const [a, b] = [want.data[i], got.data[i]];
    if (Object.is(a, b)) continue;
    const bound = relative * Math.abs(a) + absolute * size;
    if (bound > 0 && Math.abs(a - b) <= bound) continue;
    return `[${Math.floor(i / want.columns)}, ${i % want.columns}]: expected ${a}, got ${b}, bound ${bound}`;
  }
  if ((got.unexplained ?? 0) > 0) return `${got.unexplained} products that are no integer times their scales`;
  return '';
}

function greatest(data: TraceTensor['data']): number {
  let most = 0;
  for (const value of data) most = Math.max(most, Math.abs(value));
  return most;
}

function boundOfSite({ op, type, columns, facts }: TraceTensor): Bound {
  const n = IDS.length;
  if (type !== 'f32') return ofRoundings(0);
  switch (op) {
    case 'embed':
      return ofRoundings(0);
    case 'rmsNorm':
    case 'gatedSilu':
    case 'gatedGelu':
    case 'gatedRelu2':
    case 'add':
      return boundOf({ op, seed: 0, n, columns, kind: 'normal' });
    case 'scale':
      return boundOf({ op, seed: 0, n, columns, kind: 'normal', factor: 1 });
    case 'rope':
      return ofSum(2);
    case 'denseMatmul':
      return ofSum(columns);
    case 'attention':
    case 'attentionWeights':
      return ofSum(Number(facts.headDim) + n);
    default: // a few roundings behind integers
      return ofRoundings(4);
  }
}

async function splits(file: Uint8Array, open: BackendFactory): Promise<string> {
  const whole = await logitsOf(file, open);
  for (const batchSize of [1, 5, 16]) {
    const detail = sameBits(whole, await logitsOf(file, open, { batchSize }), `${batchSize} tokens a pass`);
    if (detail !== '') return detail;
  }
  return withModel(file, open, {}, async (model) => {
    const session = model.createSession();
    for (const [i, id] of IDS.entries()) {
      const { vocabularySize } = model.info;
      const row = whole.subarray(i * vocabularySize, (i + 1) * vocabularySize);
      const detail = sameBits(row, await session.step(id), `single steps, token ${i}`);
      if (detail !== '') return detail;
    }
    return '';
  });
}

async function cache(model: Model): Promise<string> {
  const session = model.createSession();
  const whole = await session.prefill(IDS);
  session.rewind(4);
  const again = sameBits(whole, await session.prefill(IDS.slice(4)), 'after a rewind');
  if (again !== '') return again;
  session.rewind(0);
  const other = model.createSession({ kType: 'f32', vType: 'f32' });
  let last = new Float32Array(0);
  for (const id of IDS) {
    last = (await session.step(id)) as Float32Array<ArrayBuffer>;
    await other.step((id + 1) % 500);
  }
  return sameBits(whole, last, 'beside another session');
}

async function top(model: Model): Promise<string> {
  const k = 7;
  const session = model.createSession();
  const all = await session.prefill(IDS);
  session.rewind(IDS.length - 1);
  const few = await session.prefill(IDS.slice(-1), { top: k });
  const least = all.slice().sort()[all.length - k];
  return sameBits(
    all.filter((logit) => logit >= least),
    few.filter((logit) => logit >= least),
    `the ${k} greatest`,
  );
}

async function memory(model: Model): Promise<string> {
  const use = async () => {
    const session = model.createSession({ contextSize: 64 });
    await session.prefill(IDS);
    await session.dispose();
    return model.memory().usedBytes;
  };
  const [first, second] = [await use(), await use()];
  return first === second ? '' : `a disposed session leaves ${second - first} bytes behind`;
}

async function types(architecture: string, open: BackendFactory): Promise<string> {
  const make = (form: { type: 'I2_S' | 'TL1' | 'TL2' | 'TQ1_0' | 'TQ2_0' | 'F16' | 'F32'; i2sLayout?: I2sLayout }) =>
    synthesized({ preset: 'tiny', architecture, layers: 1, ...form });
  const expected = await logitsOf(await make({ type: 'I2_S' }), open);
  for (const form of [
    { type: 'I2_S', i2sLayout: 'arm64' },
    { type: 'I2_S', i2sLayout: 'rows4' },
    ...(['TL1', 'TL2', 'TQ1_0', 'TQ2_0', 'F16', 'F32'] as const).map((type) => ({ type })),
  ] as const) {
    const options = 'i2sLayout' in form ? { i2sLayout: form.i2sLayout } : {};
    const detail = sameBits(expected, await logitsOf(await make(form), open, options), Object.values(form).join(' '));
    if (detail !== '') return detail;
  }
  return '';
}

function sameBits(want: Float32Array, got: Float32Array, what: string): string {
  if (want.length !== got.length) return `${what}: expected ${want.length} logits, got ${got.length}`;
  const at = want.findIndex((value, i) => !Object.is(value, got[i]));
  return at < 0 ? '' : `${what}: logit ${at} expected ${want[at]}, got ${got[at]}`;
}
