/** Traces: what is shown is what was computed, and what is set is what is gone on with. */
import { describe, expect, it } from 'vitest';
import { accumulators } from '../../src/engine/trace/accumulators.ts';
import { Recorder } from '../../src/engine/trace/recorder.ts';
import type { LoadOptions, Model, TraceTensor } from '../../src/index.ts';
import { loadModel } from '../../src/index.ts';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { ARCHITECTURES } from '../../src/model/architectures.ts';
import type { ModelWeights } from '../../src/model/graph.ts';
import { engineLogits, tinyModel } from '../model/models.ts';

const ids = Array.from({ length: 19 }, (_, i) => (i * 37 + 5) % 500);

/** Rows of every name, joined; and all pieces. */
async function traceOf(model: Model, select?: (name: string) => boolean) {
  const pieces: TraceTensor[] = [];
  const options = select === undefined ? {} : { select: ({ name }: { name: string }) => select(name) };
  for await (const tensor of model.createSession().trace(ids, options)) pieces.push(tensor);
  const rows = new Map<string, number[]>();
  for (const { name, data } of pieces) rows.set(name, [...(rows.get(name) ?? []), ...data]);
  return { pieces, rows };
}

async function withModel<T>(file: Uint8Array, options: LoadOptions, use: (model: Model) => Promise<T>): Promise<T> {
  const model = await loadModel(file, options);
  try {
    return await use(model);
  } finally {
    await model.dispose();
  }
}

/** The first piece of that name; the session stays where it is, so that its cache can be read. */
async function traceUntil(model: Model, wanted: string): Promise<TraceTensor> {
  const pieces = model.createSession().trace(ids)[Symbol.asyncIterator]();
  for (;;) {
    const { value, done } = await pieces.next();
    if (done === true) throw new Error(`no ${wanted}`);
    if (value.name === wanted) return value;
  }
}

describe.each([...ARCHITECTURES.keys()])('%s', (architecture) => {
  const options = { architecture: architecture as 'llama' };

  it('shows the same on both backends, with the logits that every other way gives', async () => {
    const file = await tinyModel(options);
    const all = () => true;
    const [ts, wasm] = await Promise.all([
      withModel(file, { backend: 'ts' }, (model) => traceOf(model, all)),
      withModel(file, { backend: 'wasm', threads: 2 }, (model) => traceOf(model, all)),
    ]);
    const logits = await engineLogits(file, ids, { backend: 'wasm', threads: 1 }, {});
    expect(wasm.rows.get('logits')).toEqual([...logits]);
    expect([...wasm.rows.keys()]).toEqual([...ts.rows.keys()]);
    for (const [name, values] of ts.rows) expect(wasm.rows.get(name), name).toEqual(values);
    expect(wasm.pieces.filter(({ unexplained }) => unexplained !== undefined && unexplained > 0)).toEqual([]);
  });

  it('knows beforehand what there will be, and what goes into what', async () => {
    await withModel(await tinyModel(options), { threads: 1 }, async (model) => {
      const { pieces } = await traceOf(model, () => true);
      const sites = model.createSession().traceSites(ids.length);
      const first = pieces.filter(({ position }) => position === 0);
      expect(first.map(({ name, op, columns, inputs }) => ({ name, op, columns, inputs }))).toEqual(
        sites.map(({ name, op, columns, inputs }) => ({ name, op, columns, inputs })),
      );
      const known = new Set(sites.map(({ name }) => name));
      expect(known.size).toBe(sites.length);
      for (const { inputs } of sites) for (const input of inputs) expect(known).toContain(input);
      for (const { name, rows, columns, data } of pieces) expect(data.length, name).toBe(rows * columns);
    });
  });

  it('runs every op again on what went in', async () => {
    await withModel(await tinyModel(options), { threads: 1 }, async (model) => {
      const seen = new Map<string, Float32Array>();
      const again = new Set<string>();
      const used: number[] = [];
      for await (const tensor of model.createSession().trace(ids.slice(0, 7))) {
        const { name, op, inputs, data, rerun, columns } = tensor;
        if (data instanceof Float32Array) seen.set(name, data);
        if (rerun === undefined) continue;
        const names = op === 'ternaryMatmul' ? [inputs[0].replace(/\.codes$/, '')] : inputs;
        const result = await rerun(names.map((input) => seen.get(input) ?? new Float32Array(0)));
        expect(result.length, name).toBe(7 * columns);
        expect(result, name).toEqual(data);
        again.add(op);
        used.push(model.memory().usedBytes);
      }
      expect(used.at(-1)).toBe(used[0]);
      expect([...again].sort()).toEqual(
        expect.arrayContaining(['add', 'denseMatmul', 'rmsNorm', 'rope', 'ternaryMatmul']),
      );
    });
  });
});

describe('a trace', () => {
  it('goes on with what is set', async () => {
    const file = await tinyModel({});
    await withModel(file, { threads: 1 }, async (model) => {
      const usual = await traceOf(model);
      const set = async (which: string, change: (value: number) => number) => {
        const rows = new Map<string, number[]>();
        for await (const tensor of model.createSession().trace(ids)) {
          const { name, data, position, replace } = tensor;
          // Later tokens look back at keys that came from what was set.
          if (position === 0) rows.set(name, [...data]);
          if (name === which) await replace?.(Float32Array.from(data, change));
        }
        return rows;
      };
      for (const which of ['embd', 'blk.0.attn_norm', 'blk.0.attn_norm.codes', 'blk.1.attn_k_rope', 'blk.1.ffn_act']) {
        const same = await set(which, (value) => value);
        for (const [name, values] of same) {
          // A scale may move by its last bit when codes are set.
          const close = values.map((value, i) => Math.abs(value - usual.rows.get(name)![i]) <= 1e-5);
          expect(close.includes(false) && which, name).toBe(false);
        }
        const other = await set(which, (value) => -value);
        const at = [...usual.rows.keys()].indexOf(which);
        [...other].forEach(([name, values], i) => {
          if (i <= at) expect(values, name).toEqual(usual.rows.get(name)!.slice(0, values.length));
        });
        expect(other.get('logits'), which).not.toEqual(same.get('logits'));
      }
    });
  });

  it('shows probabilities that sum to one, zero where a token cannot look', async () => {
    await withModel(await tinyModel({ architecture: 'llama' }), { threads: 1 }, async (model) => {
      const { pieces } = await traceOf(model, (name) => name.endsWith('attn_weights'));
      expect(pieces.length).toBe(2 * 2);
      for (const { data, rows, position, columns } of pieces) {
        for (let i = 0; i < (rows * columns) / ids.length; i++) {
          const row = Array.from(data.slice(i * ids.length, (i + 1) * ids.length));
          const visible = position + Math.floor((i * ids.length) / columns) + 1;
          expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
          expect(row.slice(visible).every((value) => value === 0)).toBe(true);
          expect(row[visible - 1]).toBeGreaterThan(0);
        }
      }
    });
  });

  it('shows what attention adds up', async () => {
    await withModel(await tinyModel({ architecture: 'llama' }), { threads: 1 }, async (model) => {
      const { pieces } = await traceOf(model, (name) => /^blk.1.attn(_weights)?$/.test(name));
      const [weights, attn] = pieces;
      expect(attn.inputs).toEqual(['blk.1.attn_q_rope', 'blk.1.attn_k_rope', 'blk.1.attn_v']);
      const { nHeads, nKvHeads, headDim } = attn.facts as Record<string, number>;
      expect(nHeads).toBeGreaterThan(nKvHeads);
      const { v } = await (await traceUntil(model, 'blk.1.attn')).cache!();
      for (let at = 0; at < attn.data.length; at++) {
        const [row, head, d] = [Math.floor(at / attn.columns), Math.floor(at / headDim) % nHeads, at % headDim];
        const first = Math.floor(head / (nHeads / nKvHeads)) * attn.rows * headDim + d;
        let sum = 0;
        for (let j = 0; j <= row; j++) {
          sum += weights.data[(row * nHeads + head) * ids.length + j] * v[first + j * headDim];
        }
        expect(Math.abs(sum - attn.data[at])).toBeLessThan(1e-5);
      }
    });
  });

  it('of foreign arithmetic shows its blocks, and no sums that are not there', async () => {
    await withModel(await tinyModel({}), { threads: 1, activations: 'q8_k' }, async (model) => {
      const { pieces, rows } = await traceOf(model);
      for (const { name, data, rows: n, columns } of pieces) expect(data.length, name).toBe(n * columns);
      const scales = pieces.find(({ name }) => name === 'blk.0.attn_norm.scales');
      expect(scales?.columns).toBe(model.info.embeddingLength / 256);
      expect([...rows.keys()].filter((name) => name.endsWith('.acc'))).toEqual([]);
      const logits: number[] = [];
      for await (const part of model.createSession().logits(ids)) logits.push(...part);
      expect(rows.get('logits')).toEqual(logits);
    });
  });

  it('leaves other sessions alone, gives its memory back, and leaves the session usable', async () => {
    await withModel(await tinyModel({}), { threads: 1 }, async (model) => {
      const session = model.createSession();
      const expected = await session.prefill(ids);
      session.rewind(0);
      const other = model.createSession();
      const before = model.memory().usedBytes;
      let looks = 0;
      for await (const { rows } of session.trace(ids)) {
        if (looks++ < 5) expect(await other.prefill(ids)).toEqual(expected);
        other.rewind(0);
        expect(rows).toBeLessThanOrEqual(16);
      }
      expect(session.position).toBe(ids.length);
      expect(model.memory().usedBytes).toBe(before);
      session.rewind(3);
      for await (const { position } of session.trace(ids.slice(3))) {
        expect(position).toBeGreaterThanOrEqual(3);
        break;
      }
      expect(session.position).toBe(3);
      expect(model.memory().usedBytes).toBe(before);
      expect(await session.prefill(ids.slice(3))).toEqual(expected);
      await expect(
        (async () => {
          for await (const _ of session.trace([1], { signal: AbortSignal.abort(new Error('enough')) }));
        })(),
      ).rejects.toThrow('enough');
      await expect(session.trace([1e9])[Symbol.asyncIterator]().next()).rejects.toThrow('out of range');
    });
  });
});

it('finds the integers, and says where there are none', () => {
  const f = Math.fround;
  const [scale, weightScale] = [f(127 / 3.7), f(0.0371)];
  const sums = [0, 1, -1, 127 * 14336, -127 * 14336, 2 ** 22 - 1, 12345];
  const outputs = Float32Array.from(sums, (sum) => f(f(sum / scale) * weightScale));
  const scales = Float32Array.of(scale);
  expect(accumulators(outputs, scales, weightScale, sums.length)).toEqual({
    sums: Int32Array.from(sums),
    unexplained: 0,
  });
  outputs[2] *= 1.3;
  outputs[5] = Number.NaN;
  expect(accumulators(outputs, scales, weightScale, sums.length).unexplained).toBe(2);
});

it('gives every site a name of its own', () => {
  const backend = createTsBackend();
  const weights = { layers: [] } as unknown as ModelWeights;
  const rowsOf = (columns: number) => backend.alloc('f32', [1, columns]);
  const recorder = new Recorder({ backend, weights, n: 1, positions: 1, rowsOf });
  const [x, ids] = [rowsOf(4), backend.alloc('i32', [1])];
  recorder.embed(x, { kind: 'dense', name: 'token_embd.weight', rows: 1, columns: 4, scale: 1 }, ids, 1);
  for (let i = 0; i < 3; i++) recorder.scale(rowsOf(4), x, 2, 1);
  const names = recorder.calls.flatMap(({ shown }) => shown.map(({ site }) => site.name));
  expect(names).toEqual(['embd', 'embd_scaled', 'embd_scaled.2', 'embd_scaled.3']);
  expect(() => recorder.add(x, x, rowsOf(4), 1)).toThrow('reads what nothing has written');
});
