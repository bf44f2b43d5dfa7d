/** Comparing with servers: right ones in every shape, wrong ones by name, hostile ones without harm. */
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { BitnetError, loadModel, type Model } from '../../src/index.ts';
import { complete, type Endpoint, endpointUrl } from '../../src/oracle/endpoint/client.ts';
import {
  type CompareEndpointOptions,
  compareEndpoint,
  type EndpointReport,
} from '../../src/oracle/endpoint/compare.ts';
import { idOf } from '../../src/oracle/endpoint/position.ts';
import { readCompletion } from '../../src/oracle/endpoint/shapes.ts';
import { endpointText } from '../../src/oracle/endpoint/text.ts';
import { type Behaviour, type FakeServer, type Shape, serve } from './endpoint-server.ts';

const STORIES = fileURLToPath(new URL('../../fixtures/models/stories.gguf.gz', import.meta.url));
const PROMPT = 'Once upon a time';
const KEY = 'sk-a-secret-that-nobody-sees';

let model: Model;
let server: FakeServer;

beforeAll(async () => {
  model = await loadModel(STORIES, { threads: 1 });
});
afterEach(() => server?.close());
afterAll(() => model.dispose());

async function compare(
  behaviour: Behaviour,
  options: Partial<CompareEndpointOptions> = {},
  endpoint: Partial<Endpoint> = {},
): Promise<EndpointReport> {
  server = await serve(model, behaviour);
  return compareEndpoint(model, { url: server.url, ...endpoint }, { prompt: PROMPT, maxTokens: 8, ...options });
}

const kinds = ({ findings }: EndpointReport) => findings.map(({ kind }) => kind);
const distances = ({ positions }: EndpointReport) =>
  positions.map(({ worst }) => Math.abs((worst?.here ?? Infinity) - (worst?.there ?? 0)));

describe('a server that is right', () => {
  it.each<[Shape, string]>([
    ['openai', 'completions'],
    ['vllm', 'completions'],
    ['content', 'content'],
    ['llama-old', 'llama'],
    ['llama-new', 'llama'],
  ])('in the shape of %s', async (shape, named) => {
    const report = await compare({ shape });
    expect(report).toMatchObject({ verdict: 'same', first: null, findings: [], shape: named });
    expect(report.prompt).toEqual({ tokens: 5, theirs: 5 });
    expect(report.positions).toHaveLength(8);
    for (const { tokens, verdict } of report.positions) expect([tokens, verdict]).toEqual([5, 'same']);
    // The same model, so the same numbers: only how they are summed up differs.
    expect(Math.max(...distances(report))).toBeLessThan(1e-9);
    expect(report.noise).toBeGreaterThan(1e-5);
    expect(endpointText(report)).toMatch(/\nsame: 8 positions, 40 probabilities, ln p apart by /);
  });

  it('led along our tokens, one request each, by ids', async () => {
    const report = await compare({ shape: 'openai' }, { step: true });
    expect(report).toMatchObject({ verdict: 'same', first: null });
    expect(report.positions).toHaveLength(8);
    expect(server.seen).toHaveLength(8);
    const ids = model.tokenizer.encodePrompt(PROMPT);
    expect(server.seen[0]).toMatchObject({ prompt: ids, max_tokens: 1, temperature: 0, logprobs: 5 });
    expect((server.seen[7].prompt as number[]).length).toBe(ids.length + 7);
  });

  it('that knows nothing but the API of OpenAI, and wants a key and a model', async () => {
    const report = await compare(
      { shape: 'openai', strict: true, requireKey: KEY, requireModel: 'm' },
      {},
      { apiKey: KEY, model: 'm' },
    );
    expect(report.verdict).toBe('same');
    expect(server.seen.map((body) => 'n_probs' in body)).toEqual([true, false]);
  });

  it('that shows the prompt as well', async () => {
    const report = await compare({ shape: 'vllm' }, { echo: true });
    expect(report).toMatchObject({ verdict: 'same', findings: [] });
    expect(report.positions).toHaveLength(8);
  });

  it('that cuts off before softmax, as llama-server does', async () => {
    const report = await compare({ shape: 'llama-old', renormalise: true });
    expect(kinds(report)).toEqual(['renormalised']);
    expect(report.verdict).toBe('same');
    expect(Math.max(...distances(report))).toBeLessThan(1e-9);
  });

  it('given ids', async () => {
    const report = await compare({ shape: 'openai', bos: 'missing' }, { prompt: model.tokenizer.encodePrompt(PROMPT) });
    expect(report.verdict).toBe('same');
  });
});

describe('a server that is wrong', () => {
  it('at one position: it is named, with the numbers', async () => {
    const report = await compare({ shape: 'llama-new', wrongAt: { position: 4, by: 0.6 } });
    expect(report).toMatchObject({ verdict: 'differs', first: 4 });
    expect(kinds(report)).toEqual(['numbers']);
    expect(report.positions.map(({ verdict }) => verdict === 'same')).toEqual([1, 1, 1, 1, 0, 1, 1, 1].map(Boolean));
    expect(endpointText(report)).toMatch(
      /differs at position 4 first, at 1 of 8\n.*\n {2}farthest apart: \d+ ".*", ln p -/,
    );
  });

  it('by so much that another token is likeliest', async () => {
    const other = model.tokenizer.encodePrompt('The cat');
    const report = await compare({ shape: 'openai', prompt: () => other });
    const { verdict, best, chosen } = report.positions[report.first!];
    expect(verdict).toBe('token');
    expect(best.id).not.toBe(chosen.id);
    expect(endpointText(report)).toContain(`likeliest here: ${best.id} ${best.text}`);
  });

  it('about tokens that it does not tell', async () => {
    const report = await compare({ shape: 'openai', hidesAt: 1 });
    expect(report).toMatchObject({ verdict: 'differs', first: 1 });
    expect(report.positions[1].verdict).toBe('missing');
    expect(endpointText(report)).toContain('was not told');
  });

  it('by less than the bound is the same, and by more is not', async () => {
    const { bound } = await compare({ shape: 'openai' });
    await server.close();
    expect((await compare({ shape: 'openai', wrongAt: { position: 0, by: bound / 20 } })).verdict).toBe('same');
    await server.close();
    expect((await compare({ shape: 'openai', wrongAt: { position: 0, by: 2 * bound } })).verdict).toBe('differs');
    await server.close();
    const strict = await compare({ shape: 'openai', wrongAt: { position: 0, by: bound / 20 } }, { tolerance: 1e-6 });
    expect(strict).toMatchObject({ verdict: 'differs', first: 0, bound: 1e-6 });
  });

  it('by little everywhere: no single number is too far off, their mean is', async () => {
    const { mean, positions } = await compare({ shape: 'openai' });
    const bound = Math.min(...positions.map((one) => one.bound));
    expect(mean.difference).toBeLessThan(1e-9);
    expect(mean.bound).toBeGreaterThan(3 * mean.noise);
    await server.close();
    const report = await compare({ shape: 'openai', wrongAt: { position: 'all', by: 0.45 * bound } });
    expect(report).toMatchObject({ verdict: 'differs', first: null });
    expect(kinds(report)).toEqual(['numbers']);
    expect(endpointText(report)).toMatch(/\ndiffers\n {2}on average 0\.\d+ \(bound 0\.0/);
  });

  it.each([
    ['missing', 'begin-of-sequence token .* were missing .*counts 4 tokens of prompt, here there are 5'],
    ['double', 'begin-of-sequence token .* were there twice .*counts 6 tokens'],
  ] as const)('about the first token: %s', async (bos, text) => {
    const report = await compare({ shape: 'openai', bos });
    expect(report.verdict).toBe('differs');
    expect(kinds(report)).toEqual(['prompt']);
    expect(report.findings[0].text).toMatch(new RegExp(text));
  });

  it('about blanks at the end of the prompt', async () => {
    const prompt = (text: string) => model.tokenizer.encodePrompt(text.trimEnd());
    const report = await compare({ shape: 'openai', prompt }, { prompt: 'The cat ' });
    expect(kinds(report)).toEqual(['prompt']);
    expect(report.findings[0].text).toContain('blanks at the end');
  });

  it('about the tokens of the prompt, which it shows', async () => {
    const prompt = (text: string) => [...model.tokenizer.encodePrompt(text.slice(0, -1)), 101];
    const report = await compare({ shape: 'vllm', prompt }, { echo: true });
    expect(report.verdict).toBe('differs');
    expect(kinds(report)).toContain('tokenizer');
    expect(report.findings[0].text).toMatch(
      /reads the prompt otherwise: token \d+ is " time" here, "token_id:\d+" there/,
    );
  });

  it('because it samples', async () => {
    const report = await compare({ shape: 'content', samplesAt: 2 });
    expect(report.verdict).toBe('differs');
    expect(kinds(report)).toEqual(['sampling']);
    expect(report.findings[0].text).toMatch(/at position 2 the server chose ".*" though it found ".*" likelier/);
  });

  it('because it tells probabilities after a temperature', async () => {
    const report = await compare({ shape: 'openai', temperature: 0.7 });
    expect(kinds(report)).toEqual(['temperature']);
    expect(report.findings[0].text).toContain('a temperature of 0.700');
  });

  it('because its vocabulary is another', async () => {
    const report = await compare({ shape: 'openai', rename: (text) => `${text}\u{1f40c}` });
    expect(report).toMatchObject({ verdict: 'differs', first: 0 });
    expect(report.positions[0].verdict).toBe('unknown');
    expect(kinds(report)).toEqual(['tokenizer']);
  });

  it('because its ids are other texts', async () => {
    const report = await compare({ shape: 'llama-new', answer: (document) => shiftIds(document) });
    expect(report.positions[0].verdict).toBe('unknown');
    expect(kinds(report)).toEqual(['tokenizer']);
  });

  it('or tells text alone', async () => {
    const report = await compare({ shape: 'text' });
    expect(report).toMatchObject({ verdict: 'not-comparable', first: null, positions: [] });
    expect(report.findings[0]).toMatchObject({ kind: 'only-text', text: expect.stringContaining('the same as here') });
    await server.close();
    const other = await compare({ shape: 'text', samplesAt: 1 });
    expect(other.findings[0].text).toMatch(/another from character \d+ on: here "/);
  });

  it('or ends early', async () => {
    server = await serve(model, { shape: 'openai' });
    const early: Endpoint = {
      url: server.url,
      fetch: (url, init) => {
        const body = JSON.parse(String(init?.body)) as object;
        return fetch(url, { ...init, body: JSON.stringify({ ...body, max_tokens: 3 }) });
      },
    };
    const report = await compareEndpoint(model, early, { prompt: PROMPT, maxTokens: 8 });
    expect(report.verdict).toBe('same');
    expect(kinds(report)).toEqual(['ended']);
  });
});

/** Ids one off, texts as they were: bytes say what is meant. */
function shiftIds(document: unknown): unknown {
  return JSON.parse(JSON.stringify(document), (key, value) => (key === 'id' ? value + 1 : value));
}

describe('a hostile server', () => {
  const json = (text: string): Behaviour => ({ shape: 'text', raw: (_, response) => void response.end(text) });
  const good = (logprobs: unknown) => JSON.stringify({ choices: [{ text: 'a', logprobs }] });
  const columns = (tops: unknown, own: unknown = [-1]) =>
    good({ tokens: ['a'], token_logprobs: own, top_logprobs: tops });

  it.each<[name: string, body: string, code: string, message: RegExp]>([
    ['no JSON', '<html>\u001b[2J', 'bad-container', /not JSON, got <html>\?\[2J$/],
    ['nothing', '', 'bad-container', /not JSON/],
    ['half of it', columns([{ a: -1 }]).slice(0, -9), 'bad-container', /not JSON/],
    ['NaN', columns([{ a: 0 }]).replace(':0}', ':NaN}'), 'not-finite', /got NaN/],
    ['infinity', columns([{ a: 0 }]).replace(':0}', ': -Infinity }'), 'not-finite', /got -Infinity/],
    ['a number beyond f64', columns([{ a: 0 }]).replace(':0}', ':-1e999}'), 'bad-metadata', /top_logprobs\[0\]\.a/],
    [
      'text for a number',
      columns([{ a: 'NaN' }]),
      'bad-metadata',
      /\$\.choices\[0\]\.logprobs\.top_logprobs\[0\]\.a.*"NaN"/,
    ],
    ['null for a number', columns([{ a: null }]), 'bad-metadata', /got null/],
    ['ln p above 0', columns([{ a: 0.5 }]), 'bad-metadata', /at most 0/],
    [
      'a probability above 1',
      '{"content":"","completion_probabilities":[{"content":"a","probs":[{"tok_str":"a","prob":2}]}]}',
      'bad-metadata',
      /from 0 to 1/,
    ],
    ['lists of other lengths', columns([]), 'bad-metadata', /1 items, one for each token/],
    ['no choices', '{"choices":[]}', 'bad-metadata', /at least one choice/],
    ['choices of nothing', '{"choices":[7]}', 'bad-metadata', /\$\.choices\[0\]/],
    ['an answer of nothing', '7', 'bad-metadata', /an object/],
    [
      'tokens that are no text',
      good({ tokens: [5], token_logprobs: [-1], top_logprobs: [null] }),
      'bad-metadata',
      /tokens\[0\]/,
    ],
    [
      'bytes beyond a byte',
      good({ content: [{ token: 'a', bytes: [256], logprob: -1, top_logprobs: [] }] }),
      'bad-metadata',
      /bytes\[0\]/,
    ],
    ['prompt tokens below 0', '{"content":"a","tokens_evaluated":-1}', 'bad-metadata', /tokens_evaluated/],
  ])('%s', async (_, body, code, message) => {
    const refusal = await compare(json(body)).catch((error) => error);
    expect(refusal).toBeInstanceOf(BitnetError);
    expect(refusal.message).toMatch(message);
    expect(refusal.code).toBe(code);
  });

  it('endless', async () => {
    const piece = Buffer.alloc(1 << 20, 0x20);
    let sent = 0;
    const raw: Behaviour['raw'] = (_, response) => {
      const go = (): void => {
        while (!response.destroyed && sent++ < 4096) if (!response.write(piece)) return void response.once('drain', go);
      };
      go();
    };
    await expect(compare({ shape: 'text', raw })).rejects.toMatchObject({ code: 'limit-exceeded' });
    expect(sent).toBeLessThan(64);
  });

  it('silent, at once or in the middle', async () => {
    const endpoint = { timeoutMs: 200 };
    await expect(compare({ shape: 'text', raw: () => {} }, {}, endpoint)).rejects.toMatchObject({
      code: 'http',
      message: expect.stringMatching(/no whole answer, expected one within 0.2 s/),
    });
    await server.close();
    const half: Behaviour = { shape: 'text', raw: (_, response) => void response.write('{"content"') };
    await expect(compare(half, {}, endpoint)).rejects.toMatchObject({ code: 'http' });
  });

  it('left by the user', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 50);
    await expect(compare({ shape: 'text', raw: () => {} }, { signal: controller.signal })).rejects.toBe(reason);
  });

  it('that redirects', async () => {
    const other = await serve(model, { shape: 'openai' });
    const raw: Behaviour['raw'] = (_, response) => void response.writeHead(307, { location: other.url }).end();
    await expect(compare({ shape: 'text', raw }, {}, { apiKey: KEY })).rejects.toMatchObject({
      code: 'http',
      message: expect.stringContaining('redirected, which is not followed'),
    });
    expect(other.seen).toEqual([]);
    await other.close();
  });

  it('that refuses: first line, without the key', async () => {
    const refusal = await compare({ shape: 'openai', requireKey: 'another' }, {}, { apiKey: KEY }).catch(
      (error) => error,
    );
    expect(refusal).toMatchObject({ code: 'http', facts: { got: '401 wrong key: Bearer ***' } });
    await server.close();
    const raw: Behaviour['raw'] = (_, response) => void response.writeHead(503).end(`\n busy ${KEY}\nmore`);
    const busy = await compare({ shape: 'text', raw }, {}, { apiKey: KEY }).catch((error) => error);
    expect(busy.facts.got).toBe('503 busy ***');
    await server.close();
    const echo: Behaviour['raw'] = (_, response) => void response.end(`not json ${KEY}`);
    const mad = await compare({ shape: 'text', raw: echo }, {}, { apiKey: KEY }).catch((error) => error);
    for (const error of [refusal, busy, mad]) {
      expect(error).toBeInstanceOf(BitnetError);
      expect(`${error.message} ${JSON.stringify(error.facts)} ${error.stack}`).not.toContain(KEY);
    }
  });

  it('that is not there', async () => {
    const gone = await serve(model, { shape: 'text' });
    await gone.close();
    await expect(complete({ url: gone.url }, { prompt: 'a', maxTokens: 1, top: 1 })).rejects.toMatchObject({
      code: 'http',
      message: expect.stringContaining('network failure'),
    });
  });
});

describe('tokens that are no whole character', () => {
  it.each([
    ['bytes:\\xe2\\x80', [0xe2, 0x80]],
    ['byte: \\xf0', [0xf0]],
  ])('%s', (text, bytes) => {
    const answer = { choices: [{ text: '', logprobs: { tokens: [text], top_logprobs: [{ [text]: -1 }] } }] };
    const [{ chosen, top }] = readCompletion(answer, 'here').positions;
    expect([...chosen.bytes!]).toEqual(bytes);
    expect([...top[0].bytes!]).toEqual(bytes);
    // The vocabulary has a token for every byte.
    expect(idOf(model.tokenizer, { text, bytes: Uint8Array.of(bytes[0]), logprob: -1 })).toBeGreaterThanOrEqual(0);
  });

  it('are told by their bytes where text has only U+FFFD', () => {
    const item = { id: 7, token: '\ufffd', bytes: [0xe2], logprob: -1, top_logprobs: [] };
    const [{ chosen }] = readCompletion({ content: '', completion_probabilities: [item] }, 'here').positions;
    expect(chosen).toMatchObject({ id: 7, text: '\ufffd' });
    expect([...chosen.bytes!]).toEqual([0xe2]);
  });
});

describe('addresses', () => {
  it.each([
    ['http://h:1', 'http://h:1/v1/completions'],
    ['http://h:1/', 'http://h:1/v1/completions'],
    ['https://h/v1/', 'https://h/v1/completions'],
    ['https://h/api/v1', 'https://h/api/v1/completions'],
    ['https://h/completion?api-version=2&key=x', 'https://h/completion'],
  ])('%s', (given, label) => {
    expect(endpointUrl(given).label).toBe(label);
  });

  it.each(['h:1', 'ftp://h', 'file:///etc/passwd', 'http://user:word@h/', ''])('refused: %s', (given) => {
    let refusal: unknown;
    try {
      endpointUrl(given);
    } catch (error) {
      refusal = error;
    }
    expect(refusal).toMatchObject({ code: 'bad-argument' });
    expect(String(refusal)).not.toContain('word@');
  });
});
