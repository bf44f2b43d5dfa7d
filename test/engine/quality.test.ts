/** Measurements of the built-in model against the plain way to compute them: every text by itself, from an empty cache. */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { memorySource } from '../../src/formats/sources.ts';
import type { Model } from '../../src/index.ts';
import { loadModel } from '../../src/index.ts';
import { openFileSource } from '../../src/platform/source-node.ts';
import { rowWords } from '../../src/quality/base-file.ts';
import {
  BaseFile,
  choiceAccuracy,
  createSubject,
  divergenceFrom,
  documentPerplexity,
  encodeBaseHeader,
  encodeLogProbs,
  hellaSwagChoices,
  lambada,
  lambadaPassages,
  type Measurement,
  multipleChoices,
  normaliserOf,
  parseHellaSwag,
  parseLambada,
  parseWinogrande,
  readCheckpoint,
  type Subject,
  textWindows,
  type Windows,
  windowPerplexity,
  winograndeChoices,
  writeCheckpoint,
} from '../../src/quality/index.ts';
import { refuses } from '../hostile/builder.ts';
import { tinyModel } from '../model/models.ts';

const EMBEDDED = new URL('../../fixtures/models/stories.gguf.gz', import.meta.url);

const STORY =
  'Once upon a time there was a little girl named Lily. She liked to play in the park with her dog. One day she found ' +
  'a big red ball under a tree. "Look what I found!" she said. The dog ran to the ball and pushed it with his nose. ' +
  'They played all day, and when the sun went down they went home and told mom about the ball. Mom smiled and gave ' +
  'them both a hug. Lily was very happy, and the dog was happy too. The next day they went back to the park again.';

let model: Model;
let subject: Subject;

beforeAll(async () => {
  const source = await openFileSource(EMBEDDED);
  const gzipped = new Uint8Array(source.byteLength);
  await source.readInto(gzipped, 0);
  await source.close();
  model = await loadModel(gzipped, { backend: 'wasm', threads: 1 });
  subject = await createSubject(model, { contextSize: 128 });
});

afterAll(() => model.dispose());

const encode = (text: string) => model.tokenizer.encodePrompt(text, { special: false });

/** ln p of ids[1 ...], with Math's own functions. */
async function plain(ids: readonly number[]): Promise<{ logprobs: number[]; greedy: boolean[]; rows: Float32Array[] }> {
  const session = model.createSession({ contextSize: ids.length });
  const rows: Float32Array[] = [];
  for await (const part of session.logits(ids)) {
    for (let at = 0; at < part.length; at += 4096) rows.push(part.slice(at, at + 4096));
  }
  await session.dispose();
  const logprobs = ids.slice(1).map((id, i) => {
    const max = Math.max(...rows[i]);
    return rows[i][id] - max - Math.log(rows[i].reduce((sum, x) => sum + Math.exp(x - max), 0));
  });
  return { logprobs, greedy: ids.slice(1).map((id, i) => rows[i].indexOf(Math.max(...rows[i])) === id), rows };
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

async function all<R>(measurement: Measurement<R>): Promise<R> {
  for (let i = 0; i < measurement.steps; i++) await measurement.step(i);
  return measurement.result();
}

describe('perplexity', () => {
  it('scores the second half of windows that begin with a begin token', async () => {
    const windows = textWindows(model.tokenizer, STORY, 32);
    const ids = encode(STORY);
    expect(windows.count).toBe(Math.floor(ids.length / 32));
    expect(windows.ids).toEqual(ids.slice(0, windows.count * 32));
    const scored: number[] = [];
    for (let at = 0; at < windows.ids.length; at += 32) {
      const { logprobs } = await plain([model.tokenizer.spec.bosId!, ...ids.slice(at + 1, at + 32)]);
      scored.push(...logprobs.slice(16));
    }
    const result = await all(windowPerplexity(subject, windows));
    expect(result.tokens).toBe(15 * windows.count);
    expect(result.perplexity).toBeCloseTo(Math.exp(-sum(scored) / scored.length), 8);
    expect(result.bits).toBeCloseTo(-sum(scored) / Math.LN2, 8);
  });

  it('reads a text without its last newline, as llama-perplexity', () => {
    expect(textWindows(model.tokenizer, `${STORY}\n`, 32).ids).toEqual(textWindows(model.tokenizer, STORY, 32).ids);
    const ids = encode(`${STORY}\n\n`);
    const size = Math.floor(ids.length / 2);
    // With both newlines the text would have two windows of this size and not one token more.
    const cut = () => textWindows(model.tokenizer, `${STORY}\n\n`, size).count;
    if (encode(`${STORY}\n`).length < 2 * size) expect(cut).toThrow('too short');
    else expect(cut()).toBe(2);
  });

  it('goes on from a state to the same bits, whenever it was interrupted', async () => {
    const windows = textWindows(model.tokenizer, STORY, 32);
    const uninterrupted = await all(windowPerplexity(subject, windows));
    for (let stop = 1; stop < windows.count; stop++) {
      const before = windowPerplexity(subject, windows);
      for (let i = 0; i < stop; i++) await before.step(i);
      const interrupt = new AbortController();
      interrupt.abort(new Error('enough'));
      await expect(before.step(stop, interrupt.signal)).rejects.toThrow('enough');
      const state = await writeCheckpoint({}, stop, before);
      const after = windowPerplexity(subject, windows);
      for (let i = await readCheckpoint(state, 's', {}, after); i < after.steps; i++) await after.step(i);
      expect(after.result()).toEqual(uninterrupted);
    }
  });

  it('scores a document that is longer than the context, every token once', async () => {
    const small = await createSubject(model, { contextSize: 20 });
    const ids = model.tokenizer.encode(STORY, { bos: true, eos: true });
    const result = await all(documentPerplexity(small, [STORY]));
    expect(result.tokens).toBe(ids.length - 1);
    expect(result.textBytes).toBe(STORY.length);
    const scored = (await plain(ids.slice(0, 21))).logprobs;
    // From then on windows begin half a context before what they score.
    for (let done = 20; done < ids.length - 1; ) {
      const from = done - 10;
      const last = Math.min(ids.length - 1, from + 20);
      scored.push(...(await plain(ids.slice(from, last + 1))).logprobs.slice(done - from));
      done = last;
    }
    expect(result.perplexity).toBeCloseTo(Math.exp(-sum(scored) / scored.length), 8);
    await small.session.dispose();
  });
});

describe('divergence', () => {
  let windows: Windows;
  let rows: Float32Array[];
  const SCORED = 15;

  beforeAll(async () => {
    windows = textWindows(model.tokenizer, STORY, 32);
    rows = [];
    for (let window = 0; window < windows.count; window++) {
      const ids = windows.ids.slice(window * 32, window * 32 + 32);
      rows.push(...(await plain([model.tokenizer.spec.bosId!, ...ids.slice(1)])).rows.slice(16, 31));
    }
  });

  /** What a model would have saved whose logits are these. */
  async function baseOf(logits: readonly Float32Array[]): Promise<BaseFile> {
    const header = encodeBaseHeader(windows, 4096);
    const rowBytes = 2 * rowWords(4096);
    const file = new Uint8Array(header.length + logits.length * rowBytes);
    file.set(header);
    for (const [i, row] of logits.entries()) {
      encodeLogProbs(row, normaliserOf(row), new DataView(file.buffer, header.length + i * rowBytes, rowBytes));
    }
    return BaseFile.open(memorySource(file, 'base'));
  }

  it('of a model from what it saved itself is what 16 bits cost', async () => {
    const parts: Uint8Array[] = [encodeBaseHeader(windows, 4096)];
    const saving = windowPerplexity(subject, windows, async (bytes) => void parts.push(bytes.slice()));
    const { perplexity } = await all(saving);
    // Saving changes nothing, and saves the rows that predict the scored tokens.
    expect(perplexity).toBe((await all(windowPerplexity(subject, windows))).perplexity);
    const file = new Uint8Array(Buffer.concat(parts));
    const base = await BaseFile.open(memorySource(file, 'base'));
    expect(await base.digest()).toBe(await (await baseOf(rows)).digest());
    const result = await all(divergenceFrom(subject, base));
    expect(result.tokens).toBe(SCORED * windows.count);
    expect(result.perplexity.value).toBeCloseTo(perplexity, 9);
    expect(Math.abs(result.divergence.value)).toBeLessThan(2e-5);
    expect(result.sameTop).toEqual({ value: 1, error: 0 });
    expect(result.correlation).toBeGreaterThan(0.999);
    expect(result.rmsDifference.value).toBeLessThan(1e-4);
  });

  it('of another model is that of the formulas, in every figure', async () => {
    // A base that is less sure, and of every fourth row something else.
    const base = await baseOf(rows.map((row, i) => row.map((x, id) => (i % 4 === 0 ? row[4095 - id] : 0.75 * x))));
    const result = await all(divergenceFrom(subject, base));
    const targets = rows.map((_, i) => windows.ids[Math.floor(i / SCORED) * 32 + 17 + (i % SCORED)]);
    const [nats, baseNats, divergences, differences]: number[][] = [[], [], [], []];
    let same = 0;
    for (const [i, row] of rows.entries()) {
      const saved = (await base.rows(Math.floor(i / SCORED)))[i % SCORED];
      const max = Math.max(...row);
      const total = Math.log(row.reduce((s, x) => s + Math.exp(x - max), 0));
      const p = Array.from(row, (x) => x - max - total);
      const q = Array.from(row, (_, id) => saved.least + saved.scale * saved.code(id));
      nats.push(-p[targets[i]]);
      baseNats.push(-q[targets[i]]);
      divergences.push(sum(q.map((x, id) => (x > -16 ? Math.exp(x) * (x - p[id]) : 0))));
      differences.push(Math.exp(p[targets[i]]) - Math.exp(q[targets[i]]));
      if (p.indexOf(Math.max(...p)) === q.indexOf(Math.max(...q))) same++;
    }
    const n = rows.length;
    const mean = (values: number[]) => sum(values) / n;
    const variance = (a: number[], b = a) => mean(a.map((x, i) => (x - mean(a)) * (b[i] - mean(b)))) / (n - 1);
    const near = ({ value, error }: { value: number; error: number }, v: number, e: number) => {
      expect(value).toBeCloseTo(v, 6);
      expect(error).toBeCloseTo(e, 6);
    };
    const [ppl, basePpl] = [Math.exp(mean(nats)), Math.exp(mean(baseNats))];
    const [error, baseError] = [Math.sqrt(variance(nats)), Math.sqrt(variance(baseNats))];
    expect(result.tokens).toBe(n);
    near(result.perplexity, ppl, ppl * error);
    near(result.basePerplexity, basePpl, basePpl * baseError);
    expect(result.correlation).toBeCloseTo(variance(nats, baseNats) / (error * baseError), 6);
    const logRatioError = Math.sqrt(variance(nats.map((x, i) => x - baseNats[i])));
    near(result.logRatio, Math.log(ppl / basePpl), logRatioError);
    near(result.ratio, ppl / basePpl, (ppl / basePpl) * logRatioError);
    const weighted = nats.map((x, i) => ppl * x - basePpl * baseNats[i]);
    near(result.perplexityDifference, ppl - basePpl, Math.sqrt(variance(weighted)));
    near(result.divergence, mean(divergences), Math.sqrt(variance(divergences)));
    near(result.difference, mean(differences), Math.sqrt(variance(differences)));
    const squares = differences.map((x) => x * x);
    const rms = Math.sqrt(mean(squares));
    near(result.rmsDifference, rms, Math.sqrt(variance(squares)) / (2 * rms));
    expect(same).toBeGreaterThan(0);
    expect(same).toBeLessThan(n);
    near(result.sameTop, same / n, Math.sqrt(((same / n) * (1 - same / n)) / (n - 1)));
    divergences.sort((a, b) => a - b);
    differences.sort((a, b) => a - b);
    expect(result.divergence.maximum).toBeCloseTo(divergences[n - 1], 5);
    expect(result.difference.minimum).toBeCloseTo(differences[0], 6);
    expect(result.divergence.median).toBeCloseTo((divergences[(n - 1) >> 1] + divergences[n >> 1]) / 2, 5);
    const at = 0.9 * (n - 1);
    const below = Math.floor(at);
    const share = at - below;
    expect(result.difference.percentiles['90']).toBeCloseTo(
      differences[below] * (1 - share) + differences[below + 1] * share,
      6,
    );

    // Interrupted: the percentiles need every value, so the state has them.
    const before = divergenceFrom(subject, base);
    await before.step(0);
    const after = divergenceFrom(subject, base);
    const state = await writeCheckpoint({}, 1, before);
    for (let i = await readCheckpoint(state, 's', {}, after); i < after.steps; i++) await after.step(i);
    expect(after.result()).toEqual(result);
    expect((await all(divergenceFrom(subject, base, 1))).tokens).toBe(SCORED);
  });

  it('is refused for another vocabulary, windows that are too long, and rows that are no distribution', async () => {
    const other = await loadModel(await tinyModel({}), { backend: 'wasm', threads: 1 });
    const small = await createSubject(other, { contextSize: 128 });
    const base = await baseOf(rows);
    await refuses(() => divergenceFrom(small, base), 'bad-argument', /^base: .*another vocabulary, .*got 4096/);
    await other.dispose();
    const narrow = await createSubject(model, { contextSize: 31 });
    await refuses(() => divergenceFrom(narrow, base), 'context-full', /at most 31 tokens, got 32 \(-c 32\)/);
    await narrow.session.dispose();
    const header = encodeBaseHeader(windows, 4096);
    const zeros = new Uint8Array(header.length + rows.length * 2 * rowWords(4096));
    zeros.set(header);
    const measurement = divergenceFrom(subject, await BaseFile.open(memorySource(zeros, 'zeros')));
    await refuses(measurement.step(0), 'bad-container', /^zeros, window 1, row 1: .*sum to 1, .*got 4096/);
    expect(measurement.save()).toMatchObject({ count: 0 });
  });
});

describe('tasks', () => {
  const endings = ['She ran to the park.', 'The sea is cold.', 'Lily was very happy.', 'She'];

  /** Mean ln p of ids[from .. to), from an evaluation of the whole text. */
  const scoreOf = async (ids: readonly number[], from: number, to: number) =>
    sum((await plain(ids)).logprobs.slice(from - 1, to - 1)) / (to - from);

  it('HellaSwag takes the ending that is most likely per token', async () => {
    const contexts = ['Story: Lily and mom went out', 'Story: One day there was', 'Story: Tom said'];
    const tasks = parseHellaSwag(contexts.map((one, i) => `${one}\n${i}\n${endings.join('\n')}\n`).join(''));
    const expected: number[] = [];
    for (const context of contexts) {
      const texts = endings.map((ending) => encode(`${context} ${ending}`));
      // "She" is how another ending begins: one token of it is left to be scored.
      const prefix = encode(`${context}`).length;
      const scores = await Promise.all(texts.map((ids) => scoreOf(ids, prefix, ids.length)));
      expected.push(scores.indexOf(Math.max(...scores)));
    }
    const choices = hellaSwagChoices(model.tokenizer, tasks, 400);
    const second = choices.find(({ label }) => label === 'task 2')!;
    expect(second.alternatives.map(({ ids }) => ids)).toEqual(endings.map((one) => encode(`${contexts[1]} ${one}`)));
    expect(choices.map(({ label }) => label).sort()).toEqual(['task 1', 'task 2', 'task 3']);
    expect(choices.map(({ label }) => label)).not.toEqual(['task 1', 'task 2', 'task 3']);
    const result = await all(choiceAccuracy(subject, choices));
    expect(result.chosen).toEqual(choices.map(({ label }) => expected[Number(label.at(-1)) - 1]));
    const right = expected.filter((pick, i) => pick === i).length;
    expect(result).toMatchObject({ tasks: 3, correct: right, chance: 0.25, accuracy: { value: right / 3 } });

    const before = choiceAccuracy(subject, choices);
    for (const i of [0, 1]) await before.step(i);
    const after = choiceAccuracy(subject, choices);
    const state = await writeCheckpoint({}, 2, before);
    for (let i = await readCheckpoint(state, 's', {}, after); i < after.steps; i++) await after.step(i);
    expect(after.result()).toEqual(result);
  });

  it('Winogrande scores what is behind the gap, without the last token', async () => {
    const csv = [
      '0,The dog and Lily went home because _ was very tired after all the play.,the dog,Lily,2',
      '1,Mom gave the ball to Tom and _.,Lily,the dog,1',
    ].join('\n');
    const { tasks } = parseWinogrande(csv);
    const choices = winograndeChoices(model.tokenizer, tasks, 0);
    const [long, short] = choices;
    const encoded = ['the dog', 'Lily'].map((name) => encode(`The dog and Lily went home because ${name}`).length);
    expect(long.alternatives.map(({ from }) => from)).toEqual(encoded);
    expect(long.alternatives.every(({ ids, to }) => to === ids.length - 1)).toBe(true);
    // Hardly anything is behind this gap: the names are scored too.
    expect(short.alternatives.map(({ from }) => from)).toEqual([short.prefix, short.prefix]);
    const expected: number[] = [];
    for (const { alternatives } of choices) {
      const [a, b] = await Promise.all(alternatives.map(({ ids, from, to }) => scoreOf(ids, from, to)));
      expected.push(a > b ? 0 : 1);
    }
    const result = await all(choiceAccuracy(subject, choices));
    expect(result.chosen).toEqual(expected);
    expect(result.correct).toBe(expected.filter((pick, i) => tasks[i].gold === pick).length);
    // Two texts that are one: the second, as `a > b ? 1 : 2` has it.
    const same = winograndeChoices(model.tokenizer, [{ ...tasks[0], choices: ['Lily', 'Lily'] }], 0);
    expect((await all(choiceAccuracy(subject, same))).chosen).toEqual([1]);
  });

  it('multiple choice counts any answer with label 1, and takes the first of equals', async () => {
    const task = { number: 1, question: 'Lily was', answers: ['sad', 'happy', 'sad'], right: [false, true, true] };
    const [choice] = multipleChoices(model.tokenizer, [task]);
    const scores = await Promise.all(
      choice.alternatives.map(({ ids }) => scoreOf(ids, encode('Lily was').length, ids.length)),
    );
    const result = await all(choiceAccuracy(subject, [choice]));
    expect(result.chosen).toEqual([scores.indexOf(Math.max(...scores))]);
    expect(result.chosen[0]).toBe(0);
    expect(result).toMatchObject({ correct: 0, chance: 1 / 3 });
  });

  it('refuse texts that the context does not hold, and texts that begin differently', async () => {
    const tasks = parseHellaSwag(`${STORY}\n0\n${endings.join('\n')}\n`);
    const small = await createSubject(model, { contextSize: 40 });
    await refuses(
      choiceAccuracy(small, hellaSwagChoices(model.tokenizer, tasks, 1)).step(0),
      'context-full',
      /^task 1: longer than the context, expected at most 40 tokens/,
    );
    await small.session.dispose();
    const [choice] = hellaSwagChoices(model.tokenizer, tasks, 1);
    const bare = { ...choice, prefix: 0 };
    await refuses(choiceAccuracy(subject, [bare]).step(0), 'bad-argument', /^task 1: nothing stands before/);
  });

  it('LAMBADA asks for every token of the last word', async () => {
    const texts = ['Once upon a time', 'Lily liked to play with her dog', 'The zoo had a rhinoceros', 'She was happy'];
    const passages = lambadaPassages(
      model.tokenizer,
      parseLambada(texts.map((text) => JSON.stringify({ text })).join('\n')),
    );
    let [correct, nats] = [0, 0];
    for (const [i, text] of texts.entries()) {
      const ids = encode(text);
      const from = encode(text.slice(0, text.lastIndexOf(' '))).length;
      expect(passages[i]).toEqual({ line: i + 1, ids, from });
      const { logprobs, greedy } = await plain(ids);
      nats -= sum(logprobs.slice(from - 1));
      if (greedy.slice(from - 1).every(Boolean)) correct++;
    }
    // Its first token comes as a surprise, the others follow: not solved.
    const { ids, from } = passages[2];
    expect((await plain(ids)).greedy.slice(from - 1)).toEqual([false, true, true, true]);
    const result = await all(lambada(subject, passages));
    expect(correct).toBeGreaterThan(0);
    expect(correct).toBeLessThan(4);
    expect(result).toMatchObject({ passages: 4, correct, accuracy: { value: correct / 4 } });
    expect(result.perplexity.value).toBeCloseTo(Math.exp(nats / 4), 6);
  });
});

describe('the fingerprint', () => {
  it('is of the logits after eight tokens from all over the vocabulary', async () => {
    const session = model.createSession({ contextSize: 8 });
    const logits = await session.prefill([0, 511, 1023, 1535, 2047, 2559, 3071, 3583]);
    await session.dispose();
    expect(subject.fingerprint).toBe(
      createHash('sha256')
        .update(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength))
        .digest('hex'),
    );
  });

  it('is the same whatever computes, and another where numbers are', async () => {
    const file = await tinyModel({});
    const print = async (load: Parameters<typeof loadModel>[1], session = {}) => {
      const one = await loadModel(file, load);
      const { fingerprint } = await createSubject(one, session);
      await one.dispose();
      return fingerprint;
    };
    const first = await print({ backend: 'wasm', threads: 2 });
    expect(first).toMatch(/^[0-9a-f]{64}$/);
    expect(await print({ backend: 'ts' }, { contextSize: 3 })).toBe(first);
    expect(await print({ backend: 'ts' }, { kType: 'f32' })).not.toBe(first);
  });
});
