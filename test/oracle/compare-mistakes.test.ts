/** The catalogue of `compare`, mistake by mistake: each made on purpose in one op, and called by its name. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadModel, type Model } from '../../src/index.ts';
import { quantizeRows } from '../../src/kernels/ts/quantize.ts';
import { expF32 } from '../../src/numeric/exp.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { compareWithModel } from '../../src/oracle/compare/compare.ts';
import { CODING_WAYS, countNearHalf } from '../../src/oracle/compare/hypotheses/quantize.ts';
import { liveSource } from '../../src/oracle/compare/live.ts';
import { changed, type Loose } from '../cli/mutants.ts';
import { tinyModel } from '../model/models.ts';
import { attentive, type Bug, gated, norm, product, quantised, rms, sickBackend } from './bugs.ts';
import { ids } from './pairs.ts';

const f = Math.fround;
const EMBEDDING = 256; // of the tiny model, which has 4 heads of 64 and 2 of keys

/** What is made of a product (tokens, rows), whose value is sum / scale * weightScale. */
const scaledBy = (factor: (scale: number, weightScale: number) => number): Bug =>
  product((out, weight, { scales }, n) => {
    for (let i = 0; i < n * weight.rows; i++) out[i] *= factor(scales[Math.floor(i / weight.rows)], weight.scale);
  });

/** Every sum of two (tokens, embedding) anew. */
const added = (of: (a: number, b: number) => number): Bug => {
  return ({ data }) => ({
    add: (out, a, b, n) => {
      const [x, y, to] = [data(a), data(b), data(out)];
      for (let i = 0; i < n * EMBEDDING; i++) to[i] = of(x[i], y[i]);
    },
  });
};

const embedded = (change: (rows: Float32Array, n: number) => void): Bug => {
  return ({ real, data }) => ({
    embed: (out, table, list, n) => {
      real.embed(out, table, list, n);
      change(data(out), n);
    },
  });
};

/** A norm that multiplies by something else than 1 / sqrt(mean square + eps). */
const normBy = (factorOf: (squares: number, columns: number, eps: number) => number): Bug =>
  norm((out, x, gain, eps) => {
    const squares = x.reduce((sum, value) => sum + value * value, 0);
    const factor = factorOf(squares, x.length, eps);
    for (let i = 0; i < x.length; i++) out[i] = x[i] * factor * gain[i];
  });

const ACT = 'blk.0.ffn_act';
const NORM = 'blk.0.attn_norm';
const ATTENTION = 'blk.0.attn';
const QUERIES = 'blk.0.attn_q';
const RESIDUAL = 'blk.0.attn_residual';

const MISTAKES: Readonly<Record<string, readonly [at: string, bug: Bug]>> = {
  'weight-scale-twice': [QUERIES, scaledBy((_, w) => w)],
  'activation-scale-missing': [QUERIES, scaledBy((s) => s)],
  'activation-scale-127': [QUERIES, scaledBy(() => 127)],
  'codes-negated': [`${NORM}.codes`, quantised((value) => -Math.round(value))],
  'activation-missing': [ACT, gated((g, u) => g * u)],
  'activation-square': [ACT, gated((g, u) => g * g * u)],
  'activation-quick-gelu': [ACT, gated((g, u) => (g / (1 + expF32(f(-1.702 * g)))) * u)],
  'up-missing': [ACT, gated((g) => Math.max(g, 0) ** 2)],
  'gate-missing': [ACT, gated((_, u) => u)],
  'change-missing': [RESIDUAL, added((a) => a)],
  'residual-subtracted': [RESIDUAL, added((a, b) => a - b)],
  'norm-eps': [NORM, norm((out, x, gain) => rms(out, x, 0, (i) => gain[i]))],
  'gain-twice': [NORM, norm((out, x, gain, eps) => rms(out, x, eps, (i) => gain[i] * gain[i]))],
  'normalise-missing': [NORM, normBy(() => 1)],
  'norm-of-sum': [NORM, normBy((squares, _, eps) => 1 / Math.sqrt(squares + eps))],
  'norm-eps-outside': [NORM, normBy((squares, columns, eps) => 1 / (Math.sqrt(squares / columns) + eps))],
  'norm-without-root': [NORM, normBy((squares, columns, eps) => 1 / (squares / columns + eps))],
  'attention-scale': [ATTENTION, attentive({ scale: (scale) => scale * scale })],
  'gqa-first': [ATTENTION, attentive({ head: () => 0 })],
  'gqa-reversed': [ATTENTION, attentive({ head: (h, kvHeads) => kvHeads - 1 - Math.floor((h * kvHeads) / 4) })],
  'mask-missing': [ATTENTION, attentive({ reach: 1000 })],
  'embedding-first': [
    'embd',
    ({ real, data }) => ({
      embed: (out, table, list, n) => {
        data(list).fill(0, 0, n);
        real.embed(out, table, list, n);
      },
    }),
  ],
  'embedding-scaled': [
    'embd',
    embedded((rows, n) => {
      for (let i = 0; i < n * EMBEDDING; i++) rows[i] *= Math.sqrt(EMBEDDING);
    }),
  ],
  'rope-twice': [
    'blk.0.attn_q_rope',
    ({ real }) => ({
      rope: (...args) => {
        real.rope(...args);
        real.rope(...args);
      },
    }),
  ],
};

const TRITS: Readonly<Record<string, (i: number, old: Int8Array) => number>> = {
  'trits-negated': (i, old) => -old[i],
  'trits-unsigned': (i, old) => Math.abs(old[i]),
  'rows-shifted': (i, old) => old[(i + EMBEDDING) % old.length],
  'columns-shifted': (i, old) => old[(i + 1) % old.length],
};

describe('a mistake made on purpose is called by its name', () => {
  let model: Model;
  let file: Uint8Array;
  beforeAll(async () => {
    file = await tinyModel({});
    model = await loadModel(file, { threads: 1 });
  });
  afterAll(() => model.dispose());

  const firstOf = async (other: Model) => {
    try {
      const { divergence } = await compareWithModel(model, liveSource(other, ids, 'B'));
      return { at: divergence?.name, id: divergence?.findings[0]?.id };
    } finally {
      await other.dispose();
    }
  };

  it.each(Object.entries(MISTAKES))('%s', async (id, [at, bug]) => {
    expect(await firstOf(await loadModel(file, { backend: sickBackend(bug) }))).toEqual({ at, id });
  });

  it.each(Object.entries(TRITS))('%s', async (id, trit) => {
    const other = await changed(file, (loose: Loose) => loose.setTrits('blk.0.attn_q.weight', trit));
    expect(await firstOf(await loadModel(other, { threads: 1 }))).toEqual({ at: 'blk.0.attn_q.acc', id });
  });
});

describe('codes computed in another order', () => {
  const [rows, columns] = [4, 4096];
  const rng = Rng.fromSeed(12);
  const x = Float32Array.from({ length: rows * columns }, () => rng.nextFloat() * 2 - 1);
  const own = new Int8Array(x.length);
  quantizeRows(own, new Float32Array(rows), x, columns, rows);
  const ways = CODING_WAYS.filter(({ id }) => id === 'codes-order');

  it.each(ways)('$says: differ beside a half only, by one', ({ code }) => {
    for (let row = 0; row < rows; row++) {
      const codes = code(x, row * columns, columns).codes;
      const apart = codes.map((value, i) => Math.abs(value - own[row * columns + i]));
      expect(Math.max(...apart)).toBeLessThanOrEqual(1);
      const differing = apart.reduce((a, b) => a + b, 0);
      expect(differing).toBeLessThanOrEqual(countNearHalf(x, row * columns, columns));
    }
  });
});
