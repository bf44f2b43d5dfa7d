/** What cannot be compared is refused, and said why. */
import { beforeAll, describe, expect, it } from 'vitest';
import { BitnetError, type ErrorCode, loadModel, type Model } from '../../src/index.ts';
import { compareTraces, compareWithModel, liveSource, reportText, type TraceSource } from '../../src/oracle/index.ts';
import { tinyModel } from '../model/models.ts';
import { ids } from './pairs.ts';
import { type KeptOptions, keptSource } from './sources.ts';

let model: Model;
let whole: TraceSource;

beforeAll(async () => {
  model = await loadModel(await tinyModel({}), { threads: 1 });
  whole = await keptSource(model, ids);
  return () => model.dispose();
});

const sha = (letter: string) => letter.repeat(64);
const kept = (options: KeptOptions) => keptSource(model, ids, options);
const renamed = (source: TraceSource, name: (old: string) => string): TraceSource => ({
  ...source,
  tensors: new Map(
    [...source.tensors.values()].map((tensor) => [name(tensor.name), { ...tensor, name: name(tensor.name) }]),
  ),
});

async function refused(act: Promise<unknown>, code: ErrorCode, text: RegExp): Promise<void> {
  const error = await act.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(BitnetError);
  expect(error).toMatchObject({ code, message: expect.stringMatching(text) });
}

describe('a trace beside a model', () => {
  it('of another file, unless that is allowed', async () => {
    const other = await kept({ origin: { tokens: ids, modelSha256: sha('a') } });
    await refused(
      compareWithModel(model, other, { modelSha256: sha('b') }),
      'not-comparable',
      /another model file.*--any-file/,
    );
    for (const options of [{ modelSha256: sha('b'), anyFile: true }, { modelSha256: sha('a') }, {}]) {
      expect(await compareWithModel(model, other, options)).toMatchObject({ verdict: 'equal' });
    }
  });

  it('of another architecture', async () => {
    const other = await kept({ origin: { tokens: ids, architecture: 'llama' } });
    await refused(compareWithModel(model, other, { anyFile: true }), 'not-comparable', /bitnet-b1\.58, got llama/);
  });

  it('of other tokens, more or fewer of them, or of unknown ones', async () => {
    const changed = ids.with(4, 7);
    await refused(
      compareWithModel(model, whole, { tokens: changed }),
      'not-comparable',
      /kept, token 4: .*expected 7, got 153/,
    );
    await refused(
      compareWithModel(model, whole, { tokens: ids.slice(0, 9) }),
      'not-comparable',
      /expected 9 tokens, got 19/,
    );
    await refused(
      compareWithModel(model, whole, { tokens: [...ids, 1] }),
      'not-comparable',
      /expected 20 tokens, got 19/,
    );
    const silent = await kept({ origin: {} });
    await refused(compareWithModel(model, silent), 'bad-argument', /which tokens.*--tokens or -p/);
    await refused(
      compareWithModel(model, silent, { tokens: ids.slice(0, 9) }),
      'not-comparable',
      /at most 9 rows, got 19/,
    );
    expect(await compareWithModel(model, silent, { tokens: ids })).toMatchObject({ verdict: 'equal' });
  });

  it('of tokens that the model does not have', async () => {
    const far = { ...whole, origin: { tokens: ids.with(2, 100_000) } };
    await refused(compareWithModel(model, far), 'bad-token', /prompt token 2/);
  });

  it('without a tensor in common, or of other shapes', async () => {
    await refused(
      compareWithModel(
        model,
        renamed(whole, (name) => `x.${name}`),
      ),
      'not-comparable',
      /no tensor in common.*embd.*x\.embd/,
    );
    const wide = {
      ...whole,
      tensors: new Map(whole.tensors).set('embd', { ...whole.tensors.get('embd')!, columns: 512 }),
    };
    await refused(compareWithModel(model, wide), 'not-comparable', /other shapes.*embd 256.*got 512/);
  });

  it('that gives fewer values than it promised', async () => {
    const short: TraceSource = {
      ...whole,
      read: async (...asked) => ({ data: (await whole.read(...asked)).data.slice(1) }),
    };
    await refused(compareWithModel(model, short), 'bad-container', /embd: not as many values as promised/);
  });

  it("may have names that are nobody's, and begin late", async () => {
    const some = renamed(whole, (name) => (name === 'embd' ? 'mystery' : name));
    const read = (name: string, at: number, rows: number) => whole.read(name === 'mystery' ? 'embd' : name, at, rows);
    const result = await compareWithModel(model, { ...some, read });
    expect(result).toMatchObject({ verdict: 'equal', onlyA: ['embd'], onlyB: ['mystery'] });
    const late: TraceSource = {
      ...whole,
      tensors: new Map([...whole.tensors].map(([name, tensor]) => [name, { ...tensor, position: 17, rows: 2 }])),
    };
    expect(await compareWithModel(model, late)).toMatchObject({ verdict: 'equal', divergence: undefined });
  });

  it('may have arrays of no known name, and the report says so', async () => {
    const result = await compareWithModel(model, { ...whole, unread: ['blk.0.attn_Q.npy'] });
    expect(reportText(result)).toMatch(/^not read in B, since no tensor has such a name: blk\.0\.attn_Q\.npy$/m);
    expect(reportText(await compareWithModel(model, whole))).not.toContain('not read');
  });

  it('stops when it is told to, and gives its memory back', async () => {
    const before = model.memory().usedBytes;
    const controller = new AbortController();
    const onProgress = ({ name }: { name: string }) => {
      if (name === 'blk.1.attn_norm') controller.abort(new Error('enough'));
    };
    await expect(compareWithModel(model, whole, { signal: controller.signal, onProgress })).rejects.toThrow('enough');
    const running = liveSource(model, ids, 'itself');
    expect(await compareWithModel(model, running, { exact: true })).toMatchObject({ verdict: 'equal' });
    await running.close();
    expect(model.memory().usedBytes).toBe(before);
  });
});

describe('two traces', () => {
  it('of other files, architectures, tokens, lengths or names', async () => {
    const of = (origin: TraceSource['origin']): TraceSource => ({ ...whole, origin });
    const [a, b] = [of({ modelSha256: sha('a') }), of({ modelSha256: sha('b') })];
    await refused(compareTraces(a, b), 'not-comparable', /another model file.*--any-file/);
    expect(await compareTraces(a, b, { anyFile: true })).toMatchObject({ verdict: 'equal', method: 'direct' });
    await refused(
      compareTraces(of({ architecture: 'llama' }), of({ architecture: 'bitnet' })),
      'not-comparable',
      /llama, got bitnet/,
    );
    await refused(compareTraces(of({ tokens: ids }), of({ tokens: ids.with(0, 1) })), 'not-comparable', /token 0/);
    const shorter = await keptSource(model, ids.slice(0, 9), { origin: {} });
    await refused(compareTraces(of({}), shorter), 'not-comparable', /expected 19 tokens, got 9/);
    await refused(
      compareTraces(
        whole,
        renamed(whole, (name) => `x.${name}`),
      ),
      'not-comparable',
      /no tensor in common/,
    );
  });
});
