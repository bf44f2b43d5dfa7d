/** Dumps and logs that say more than they hold, or in another order than they were computed. */
import { describe, expect, it } from 'vitest';
import { memorySource } from '../../src/formats/sources.ts';
import { loadModel, type Tokenizer } from '../../src/index.ts';
import { measure } from '../../src/oracle/compare/measure.ts';
import { comparePosition } from '../../src/oracle/endpoint/position.ts';
import { readCompletion } from '../../src/oracle/endpoint/shapes.ts';
import { compareTraces, type FileSet, openEvalCallback, openTrace } from '../../src/oracle/index.ts';
import { npyHeaderOf } from '../../src/oracle/npy.ts';

import { tinyModel } from '../model/models.ts';

const folder = (files: Readonly<Record<string, Uint8Array>>): FileSet => ({
  label: 'folder',
  names: Object.keys(files),
  open: async (name) => memorySource(files[name], name),
  close: async () => undefined,
});

/** numpy.save of f32. */
function npy(shape: readonly number[], values: readonly number[] = []): Uint8Array {
  const header = npyHeaderOf('<f4', shape);
  const out = new Uint8Array(header.length + 4 * values.length);
  out.set(header);
  out.set(new Uint8Array(Float32Array.from(values).buffer), header.length);
  return out;
}

const text = (value: string) => new TextEncoder().encode(value);

describe('arrays', () => {
  it.each([
    [2 ** 53 - 1, 0],
    [2 ** 32, 0],
    [1e8, 0],
    [0, 2 ** 53 - 1],
    [0, 0],
    [1, 5, 0],
  ])('of the shape (%d, %d) are refused: there is nothing behind it', async (...shape) => {
    const files = folder({ 'blk.0.attn_norm.npy': npy(shape.filter(Number.isFinite)) });
    await expect(openTrace(files)).rejects.toMatchObject({
      code: 'bad-container',
      message: expect.stringMatching(/not the values of tokens.*at least one value/),
    });
  });

  it('of no columns are refused in a manifest, too', async () => {
    const tensor = { name: 'embd', file: 'embd.npy', dtype: 'f32', shape: [1, 0], sha256: '0'.repeat(64) };
    const manifest = { format: 'bitnet-trace', formatVersion: 1, model: {}, tokens: [1], tensors: [tensor] };
    const files = folder({ 'manifest.json': text(JSON.stringify(manifest)), 'embd.npy': npy([1, 0]) });
    await expect(openTrace(files)).rejects.toMatchObject({ code: 'bad-metadata' });
  });

  it('in lists in lists, deeper than a stack, are shown in short', async () => {
    const deep = '['.repeat(1e5) + ']'.repeat(1e5);
    const manifest = `{"format":"bitnet-trace","formatVersion":1,"tokens":[${deep}]}`;
    await expect(openTrace(folder({ 'manifest.json': text(manifest) }))).rejects.toMatchObject({
      code: 'bad-metadata',
      message: expect.stringContaining('got ((((...))))'),
    });
  });
});

describe('two folders of arrays', () => {
  const values = [1, 2, 3, 4];
  const off = values.map((value) => 3 * value);
  const opened = (files: Readonly<Record<string, readonly number[]>>) =>
    openTrace(
      folder(Object.fromEntries(Object.entries(files).map(([name, row]) => [`${name}.npy`, npy([1, 4], row)]))),
    );

  it('are compared in the order of the graph, not of the alphabet', async () => {
    const graph = [
      'embd',
      'blk.0.attn_norm',
      'blk.0.attn_q',
      'blk.0.attn_q_rope',
      'blk.0.attn',
      'blk.0.attn_residual',
      'blk.0.ffn_act',
      'blk.0.ffn_down',
      'blk.0.out',
      'blk.2.attn_norm',
      'blk.10.attn_norm',
      'output_norm',
      'logits',
    ];
    for (let first = 0; first < graph.length; first++) {
      const of = (wrong: readonly number[]) =>
        opened(Object.fromEntries(graph.map((name, i) => [name, i < first ? values : wrong])));
      const { divergence } = await compareTraces(await of(values), await of(off));
      expect(divergence?.name).toBe(graph[first]);
    }
    const trace = await opened(Object.fromEntries(graph.map((name) => [name, values])));
    expect([...trace.tensors.keys()]).toEqual(graph);
  });

  it('may have a projection without what went into it', async () => {
    const { divergence } = await compareTraces(
      await opened({ 'blk.0.attn_q': values }),
      await opened({ 'blk.0.attn_q': off }),
    );
    expect(divergence?.name).toBe('blk.0.attn_q');
  });

  it('are not the same where nothing could be compared', async () => {
    const rows = async (first: number) => {
      const whole = await openTrace(folder({ 'embd.npy': npy([2, 4], [...values, ...values]) }));
      return {
        ...whole,
        read: async (name: string, position: number, count: number) => ({
          ...(await whole.read(name, position, count)),
          known: Uint8Array.from({ length: 4 * count }, (_, i) => (Math.floor(i / 4) === first ? 1 : 0)),
        }),
      };
    };
    expect(await compareTraces(await rows(0), await rows(0))).toMatchObject({ compared: 1, verdict: 'equal' });
    await expect(compareTraces(await rows(0), await rows(1))).rejects.toMatchObject({ code: 'not-comparable' });
  });
});

describe('a NaN on both sides', () => {
  it('hides nothing of its row', () => {
    const expected = { data: Float32Array.of(Number.NaN, 1, 2, 3), start: 0, columns: 4 };
    const got = { data: Float32Array.of(Number.NaN, -5, 7, 9), start: 0, columns: 4, resolution: 0 };
    for (const nothing of [Number.NaN, Infinity]) {
      const spread = (column: number) => (column === 0 ? nothing : 1);
      expect(measure(expected, got, { element: () => 0, noise: 1e-6, spread }).ratio).toBeGreaterThan(1e5);
    }
  });
});

describe('a log', () => {
  const block = (dims: string, rows: string) =>
    memorySource(text(`ggml_debug: inp_embd = (f32) GET_ROWS(a{1}, b{1}) = {${dims}}\n[\n [\n${rows} ],\n]\n`), 'log');

  it('of a whole tensor of hundreds of thousands of values is read', async () => {
    const source = block('300000, 1, 1, 1', `  [${new Array(300_000).fill('1.0000').join(', ')}],\n`);
    const { tensors } = await openEvalCallback(source);
    expect(tensors.get('embd')).toMatchObject({ rows: 1, columns: 300_000 });
  });

  it('that prints corners of what nobody could lay out is refused', async () => {
    const corner = '  [ 1.0, 2.0, 3.0, ..., 4.0, 5.0, 6.0],\n';
    await expect(openEvalCallback(block('67108864, 1, 1, 1', corner))).rejects.toMatchObject({
      code: 'limit-exceeded',
    });
  });

  it('of results without values is none', async () => {
    await expect(openEvalCallback(block('0, 1, 1, 1', '  [ ],\n'))).rejects.toMatchObject({ code: 'bad-container' });
  });
});

describe('a server', () => {
  it('that tells its whole vocabulary is heard out', () => {
    const size = 1 << 18;
    const top = Array.from({ length: size }, (_, id) => ({ text: `${id}`, id, logprob: -1 - id / size }));
    const tokenizer = {
      vocabSize: size,
      tokenBytes: (id: number) => text(`${id}`),
      describe: (id: number) => `${id}`,
    } as unknown as Tokenizer;
    const logprobs = new Map(top.map(({ id, logprob }) => [id, logprob]));
    const ours = { logprobs, best: 0, bestLogprob: -1, likeliest: [{ id: 0, logprob: -1 }], spread: 1 };
    const compared = comparePosition(tokenizer, 0, { chosen: top[0], top }, ours, { bound: 0.1, renormalised: false });
    expect(compared).toMatchObject({ tokens: size, verdict: 'same' });
  });

  it('that gives a token millions of bytes is refused', () => {
    const bytes = new Array(1e6).fill(0);
    const answer = { choices: [{ text: 'a', logprobs: { content: [{ token: 'a', logprob: -1, bytes }] } }] };
    expect(() => readCompletion(answer, 'server')).toThrow(/at most 4096 items, got 1000000/);
  });
});

describe('a tensor of a trace', () => {
  it('is replaced as a whole or not at all', async () => {
    const model = await loadModel(await tinyModel({}), { threads: 1 });
    const session = model.createSession({ contextSize: 4 });
    let asked = 0;
    for await (const { replace, data } of session.trace([1, 2])) {
      if (replace === undefined) continue;
      asked++;
      for (const length of [0, data.length - 1, data.length + 1])
        await expect(replace(new Float32Array(length))).rejects.toMatchObject({ code: 'bad-argument' });
    }
    expect(asked).toBeGreaterThan(10);
    await model.dispose();
  });
});
