/** `bitnet oracle endpoint` as a user meets it. */
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { loadModel, type Model } from '../../src/index.ts';
import type { EndpointReport } from '../../src/oracle/endpoint/compare.ts';
import { type Behaviour, type FakeServer, serve } from '../oracle/endpoint-server.ts';
import { bitnet, type Outcome } from './program.ts';

vi.setConfig({ testTimeout: 60_000 });

const STORIES = fileURLToPath(new URL('../../fixtures/models/stories.gguf.gz', import.meta.url));
const KEY = 'sk-a-secret-that-nobody-sees';

let model: Model;
let server: FakeServer;

beforeAll(async () => {
  model = await loadModel(STORIES, { threads: 1 });
});
afterEach(() => server?.close());
afterAll(() => model.dispose());

async function ask(behaviour: Behaviour, args: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  server = await serve(model, behaviour);
  return bitnet(['oracle', 'endpoint', server.url, '-n', '6', '-t', '1', ...args], { env });
}

describe('bitnet oracle endpoint', () => {
  it('says same, with exit status 0', async () => {
    const { code, out, err } = await ask({ shape: 'content' }, ['-p', 'One day', '--top', '7']);
    expect([code, err]).toEqual([0, '']);
    expect(out).toMatch(
      /^http:\/\/127.0.0.1:\d+\/v1\/completions: probabilities as content, 3 tokens of prompt\nsame: 6 positions, 42 /,
    );
  });

  it('says where it differs and what it looks like, with 1', async () => {
    const args = ['-p', 'One day', '--tolerance', '0.01', '--json'];
    const { code, out } = await ask({ shape: 'vllm', bos: 'missing' }, args);
    expect(code).toBe(1);
    const report = JSON.parse(out) as EndpointReport;
    expect(report).toMatchObject({ verdict: 'differs', first: 0, findings: [{ kind: 'prompt' }] });
  });

  it('takes ids, step by step', async () => {
    const ids = model.tokenizer.encodePrompt('One day');
    const { code } = await ask({ shape: 'openai' }, ['--tokens', ids.join(','), '--step']);
    expect(code).toBe(0);
    expect(server.seen.map(({ prompt }) => (prompt as number[]).length)).toEqual(
      [0, 1, 2, 3, 4, 5].map((n) => n + ids.length),
    );
  });

  it('takes the key from a flag or the environment, and never shows it', async () => {
    const behaviour = { shape: 'openai', requireKey: KEY } as const;
    expect((await ask(behaviour, ['-p', 'a', '--api-key', KEY])).code).toBe(0);
    await server.close();
    expect((await ask(behaviour, ['-p', 'a'], { OPENAI_API_KEY: KEY })).code).toBe(0);
    await server.close();
    const none = await ask(behaviour, ['-p', 'a'], { OPENAI_API_KEY: '' });
    expect([none.code, none.err]).toEqual([
      1,
      expect.stringMatching(/^bitnet: http: .*401 wrong key.*--api-key or OPENAI_API_KEY/),
    ]);
    await server.close();
    const wrong = await ask({ ...behaviour, requireKey: 'x' }, ['-p', 'a', '--api-key', KEY]);
    expect(wrong.code).toBe(1);
    expect(wrong.err + wrong.out).not.toContain(KEY);
  });

  it('is refused before a model is loaded', async () => {
    for (const args of [['-p', 'a', '--tokens', '1'], []]) {
      const { code, err } = await bitnet(['oracle', 'endpoint', 'http://localhost:1', ...args]);
      expect([code, err]).toEqual([2, expect.stringContaining('give one of --tokens, -p and -f')]);
    }
    const bad = await bitnet(['oracle', 'endpoint', 'localhost:8080', '-p', 'a', '-m', '/not/here.gguf']);
    expect([bad.code, bad.err]).toEqual([1, expect.stringContaining('not an address of a server')]);
    expect((await bitnet(['oracle', 'endpoint', '-p', 'a'])).code).toBe(2);
  });
});
