/**
 * Receipts as the library makes and replays them: what is in them, by other means; every way in which one can be wrong.
 */
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BitnetError, loadModel, type Model, type Session } from '../../src/index.ts';
import { parseReceipt } from '../../src/oracle/receipt/parse.ts';
import {
  environmentOf,
  makeReceipt,
  type ReceiptOptions,
  type RunReceipt,
  receiptText,
  tokensDigest,
} from '../../src/oracle/receipt/receipt.ts';
import { replayRun } from '../../src/oracle/receipt/replay.ts';

const STORIES = fileURLToPath(new URL('../../fixtures/models/stories.gguf.gz', import.meta.url));
const machine = { version: '9.9.9', runtime: 'test 1', platform: 'here' };
const file = { sha256: 'ab'.repeat(32), bytes: 12, path: null, ternaryTypes: ['I2_S'] };
const PROMPT = 'Once upon a time';
const options: ReceiptOptions = {
  temperature: 0.9,
  topK: 30,
  topP: 0.9,
  minP: 0,
  repeatPenalty: 1.1,
  repeatLastN: 16,
  presencePenalty: 0,
  frequencyPenalty: 0,
  penalizeNewline: false,
  logitBias: [[300, '-inf']],
  seed: 11,
  maxTokens: 24,
  stop: [],
  ignoreEos: false,
};

let model: Model;
let receipt: RunReceipt;

async function record(of: Model, session: Session): Promise<RunReceipt> {
  const result = await session.generate(PROMPT, {
    ...options,
    logitBias: { 300: -Infinity },
    maxTokens: 24,
    special: true,
  }).result;
  return makeReceipt({
    ...machine,
    model: of,
    within: session,
    file,
    load: {
      pre: null,
      embeddingType: 'auto',
      i2sLayout: 'auto',
      tiles: 'auto',
      allowDense: false,
      activations: 'int8',
      saturateI16: false,
      batchSize: null,
    },
    session: { contextSize: session.contextSize, kType: 'f16', vType: 'f16' },
    prompt: { text: PROMPT, special: true },
    options,
    result,
  });
}

beforeAll(async () => {
  model = await loadModel(STORIES, { threads: 1 });
  receipt = await record(model, model.createSession({ contextSize: 64 }));
});

afterAll(() => model.dispose());

const context = (of: Model = model) => ({ file, environment: environmentOf(of, machine) });

/** The receipt with something else in it, by path. */
function altered(path: string, value: unknown): RunReceipt {
  const copy = structuredClone(receipt) as unknown as Record<string, unknown>;
  const keys = path.split('.');
  let at = copy;
  for (const key of keys.slice(0, -1)) at = at[key] as Record<string, unknown>;
  if (value === undefined) delete at[keys.at(-1)!];
  else at[keys.at(-1)!] = value;
  return copy as unknown as RunReceipt;
}

const replay = (of: RunReceipt, by: Model = model) => replayRun(by, of, context(by));

describe('a receipt', () => {
  it('has the digests that other code computes', async () => {
    const { prompt, output } = receipt;
    expect(prompt.tokens).toEqual(model.tokenizer.encodePrompt(PROMPT));
    expect(output.tokens).toHaveLength(24);
    expect(output.tokensSha256).toBe(createHash('sha256').update(Uint32Array.from(output.tokens)).digest('hex'));
    const session = model.createSession({ contextSize: 64 });
    const all = createHash('sha256');
    for (const [i, token] of output.tokens.entries()) {
      // One by one, where the receipt computed them together.
      const row = await (i === 0 ? session.prefill(prompt.tokens) : session.step(output.tokens[i - 1]));
      const digest = createHash('sha256').update(new Uint8Array(row.slice().buffer)).digest();
      expect(output.logits.rows[i]).toBe(digest.toString('hex', 0, 8));
      all.update(digest);
      const total = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
      expect(output.logprobs[i]).toBeCloseTo(row[token] - total, 9);
    }
    expect(output.logits.sha256).toBe(all.digest('hex'));
    await session.dispose();
  });

  it('has the same bytes every time, also after other work in the session', async () => {
    const session = model.createSession({ contextSize: 64 });
    await session.prefill([5, 6, 7, 8, 9]);
    expect(receiptText(await record(model, session))).toBe(receiptText(receipt));
    expect(receiptText(receipt)).not.toMatch(/"time"/);
    await session.dispose();
  });

  it('comes back from its text as it was', async () => {
    expect(await parseReceipt(receiptText(receipt), 'r.json')).toEqual(receipt);
  });

  it('of no tokens is one as well', async () => {
    const session = model.createSession({ contextSize: 64 });
    const result = await session.generate(PROMPT, { maxTokens: 0, seed: 1, special: true }).result;
    const empty = await makeReceipt({
      ...machine,
      model,
      within: session,
      file,
      load: receipt.load,
      session: receipt.session,
      prompt: { text: PROMPT, special: true },
      options: { ...options, maxTokens: 0 },
      result,
    });
    expect(empty.output.logits.rows).toEqual([]);
    const read = (await parseReceipt(receiptText(empty), 'r.json')) as RunReceipt;
    expect((await replay(read)).same).toBe(true);
    await session.dispose();
  });
});

describe('a replay', () => {
  it('is the same by the definition, with other batches', async () => {
    const slow = await loadModel(STORIES, { backend: 'ts', batchSize: 3 });
    try {
      const { same, changes, compared } = await replay(receipt, slow);
      expect({ same, compared }).toEqual({ same: true, compared: 24 });
      expect(changes.map(({ what }) => what)).toEqual(['backend']);
    } finally {
      await slow.dispose();
    }
  });

  it('finds the token that was changed, and does not blame the logits before it', async () => {
    const tokens = receipt.output.tokens.slice();
    tokens[9] = (tokens[9] + 1) % 4000;
    const other = altered('output', { ...receipt.output, tokens, tokensSha256: await tokensDigest(tokens) });
    const { same, differences } = await replay(other);
    expect(same).toBe(false);
    const token = differences.find(({ what }) => what === 'token');
    expect(token).toMatchObject({ position: 9, note: expect.stringContaining('same logits') });
    expect(token?.expected).toBe(`${tokens[9]} ${model.tokenizer.describe(tokens[9])}`);
    expect(token?.got).toContain(`${receipt.output.tokens[9]} `);
    // Behind another token the logits are others.
    expect(differences.find(({ what }) => what === 'logits')?.position).toBe(10);
  });

  it('says that the sampler differs where the logits do not', async () => {
    const { differences } = await replay(altered('options.seed', 12));
    expect(differences).toHaveLength(1);
    expect(differences[0]).toMatchObject({ what: 'token', note: expect.stringContaining('seed') });
  });

  it('finds other logits before they change a token', async () => {
    const { same, differences } = await replay(altered('session.kType', 'f32'));
    expect(same).toBe(false);
    expect(differences[0]).toMatchObject({
      what: 'logits',
      note: expect.stringMatching(/^24 of 24 rows differ; ln p of the token: -[\d.]+ then, -[\d.]+ now/),
    });
  });

  it.each([
    ['output.text', 'something else', 'text'],
    ['prompt.text', 'Once upon a tame', 'prompt'],
    ['output.logits.sha256', 'cd'.repeat(32), 'receipt'],
    ['output.stopReason', 'eos', 'stop'],
    ['options.maxTokens', 30, 'token'],
  ])('finds a changed %s', async (path, value, what) => {
    const { same, differences } = await replay(altered(path, value));
    expect(same).toBe(false);
    expect(differences.map((one) => one.what)).toEqual([what]);
  });

  it('finds a changed log-probability', async () => {
    const logprobs = receipt.output.logprobs.with(3, -0.25);
    const { differences } = await replay(altered('output.logprobs', logprobs));
    expect(differences).toMatchObject([{ what: 'receipt', position: 3 }]);
  });

  it('tells what is not as it was', async () => {
    const other = altered('environment', { ...receipt.environment, numericsVersion: 7, threads: 99 });
    const { same, changes } = await replayRun(model, other, { ...context(), file: { sha256: 'x', bytes: 1 } });
    expect(same).toBe(true);
    expect(changes).toEqual([
      { what: 'model (SHA-256)', before: file.sha256, now: 'x' },
      { what: 'numericsVersion', before: '7', now: `${receipt.environment.numericsVersion}` },
      { what: 'threads', before: '99', now: '1' },
    ]);
  });

  it('refuses ids that the model does not have', async () => {
    const tokens = receipt.prompt.tokens.with(1, 1 << 20);
    await expect(replay(altered('prompt.tokens', tokens))).rejects.toMatchObject({
      code: 'bad-token',
      facts: { where: 'receipt: $.prompt.tokens[1]' },
    });
  });
});

describe('a receipt that is wrong', () => {
  const long = 'x'.repeat(5000);
  it.each<[path: string, value: unknown, code: string, where: string]>([
    ['format', 'bitnet-ts answers', 'bad-container', 'r.json'],
    ['version', 2, 'unsupported-version', '$.version'],
    ['version', '1', 'bad-metadata', '$.version'],
    ['version', 0, 'bad-metadata', '$.version'],
    ['kind', 'chat', 'bad-metadata', '$.kind'],
    ['model', undefined, 'bad-metadata', '$.model'],
    ['model.sha256', 'AB'.repeat(32), 'bad-metadata', '$.model.sha256'],
    ['model.bytes', -1, 'bad-metadata', '$.model.bytes'],
    ['model.path', 7, 'bad-metadata', '$.model.path'],
    ['model.name', long, 'limit-exceeded', '$.model.name'],
    ['load.i2sLayout', 'arm', 'bad-metadata', '$.load.i2sLayout'],
    ['load.tiles', [], 'bad-metadata', '$.load.tiles'],
    ['load.allowDense', 1, 'bad-metadata', '$.load.allowDense'],
    ['session.contextSize', 1e9, 'bad-metadata', '$.session.contextSize'],
    ['session.contextSize', 20, 'bad-container', '$.output.tokens'],
    ['session.kType', 'q8_0', 'bad-metadata', '$.session.kType'],
    ['prompt.tokens', [], 'bad-metadata', '$.prompt.tokens'],
    ['prompt.tokens', [1, -2], 'bad-metadata', '$.prompt.tokens[1]'],
    ['prompt.tokens', [1, 2.5], 'bad-metadata', '$.prompt.tokens[1]'],
    ['prompt.tokens', { length: 2 ** 40 }, 'bad-metadata', '$.prompt.tokens'],
    ['prompt.special', 'yes', 'bad-metadata', '$.prompt.special'],
    ['options.temperature', null, 'bad-metadata', '$.options.temperature'],
    ['options.seed', -1, 'bad-metadata', '$.options.seed'],
    ['options.logitBias', [[1]], 'bad-metadata', '$.options.logitBias[0]'],
    ['options.logitBias', [[1, 'inf']], 'bad-metadata', '$.options.logitBias[0][1]'],
    ['options.stop', [3], 'bad-metadata', '$.options.stop[0]'],
    ['options.stop', new Array(5000).fill('a'), 'limit-exceeded', '$.options.stop'],
    ['options.maxTokens', 23, 'bad-container', '$.output.tokens'],
    ['output.tokensSha256', '00'.repeat(32), 'bad-container', '$.output.tokensSha256'],
    ['output.logits.rows', [], 'bad-container', '$.output.logits.rows'],
    ['output.logits.rows', ['12'], 'bad-metadata', '$.output.logits.rows[0]'],
    ['output.logprobs', [1], 'bad-container', '$.output.logprobs'],
    ['output.stopReason', 'cancelled', 'bad-metadata', '$.output.stopReason'],
    ['output.stopText', 'END', 'bad-container', '$.output.stopText'],
    ['environment.notes', 'none', 'bad-metadata', '$.environment.notes'],
    ['environment.numericsVersion', {}, 'bad-metadata', '$.environment.numericsVersion'],
    ['time', 5, 'bad-metadata', '$.time'],
  ])('%s as %j is %s', async (path, value, code, where) => {
    const refusal = await parseReceipt(JSON.stringify(altered(path, value)), 'r.json').catch((error) => error);
    expect(refusal).toBeInstanceOf(BitnetError);
    expect(refusal.code).toBe(code);
    expect(refusal.facts.where.replace('r.json: ', '')).toBe(where);
  });

  it('wherever it is cut', async () => {
    const text = receiptText(receipt);
    for (let end = 1; end < text.length - 2; end += 97) {
      const refusal = await parseReceipt(text.slice(0, end), 'r.json').catch((error) => error);
      expect(refusal, `${end}`).toBeInstanceOf(BitnetError);
      // A cut behind an inner brace looks like any other broken JSON.
      expect(refusal.code).toBe(
        text[end - 1] === '}' || text.slice(0, end).trimEnd().endsWith('}') ? 'bad-container' : 'truncated',
      );
    }
  });

  it('or broken in the middle, which is no early end', async () => {
    const text = receiptText(receipt);
    const broken = text.replace('"version": 1', '"version": ');
    await expect(parseReceipt(broken, 'r.json')).rejects.toMatchObject({ code: 'bad-container' });
    const inner = text.slice(0, text.indexOf('}') + 1);
    await expect(parseReceipt(inner, 'r.json')).rejects.toMatchObject({ code: 'bad-container' });
  });

  it.each(['', 'null', '[]', '7', '"text"', '{}', '{"__proto__": {"format": "bitnet-ts receipt"}}'])(
    'or not one: %s',
    async (text) => {
      await expect(parseReceipt(text, 'r.json')).rejects.toMatchObject({ code: 'bad-container' });
    },
  );
});
