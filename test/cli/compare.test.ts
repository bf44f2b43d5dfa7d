import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { bitnet } from './program.ts';

// Every case starts a few processes, which on a busy machine take their time.
vi.setConfig({ testTimeout: 120_000 });

let folder: string;
const at = (name: string) => join(folder, name);
const tokens = ['--tokens', '1,300,310,5'];
const compare = (...args: string[]) => bitnet(['oracle', 'compare', '-q', ...args]);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-compare-'));
  await bitnet(['synth', '-o', at('a.gguf'), '-q']);
  await bitnet(['synth', '-o', at('other.gguf'), '--seed', '2', '-q']);
  await bitnet(['oracle', 'trace', '-m', at('a.gguf'), ...tokens, '-o', at('a.npz'), '-q']);
  await bitnet(['oracle', 'trace', '-m', at('other.gguf'), ...tokens, '-o', at('other'), '-q']);
}, 120_000);

afterAll(() => rm(folder, { recursive: true, force: true }));

describe('oracle compare', () => {
  it('a dump and a model: the same', async () => {
    const done = await compare('-m', at('a.gguf'), at('a.npz'));
    expect(done).toMatchObject({ code: 0, err: '' });
    expect(done.out).toMatch(
      /^A {2}.*a\.gguf .*\nB {2}.*a\.npz .*\n4 tokens, 67 tensors compared[\s\S]*\nthe same, bit for bit\n$/,
    );
    expect((await compare(at('a.npz'), at('a.gguf'), '--exact', '--backend', 'ts')).code).toBe(0);
  });

  it('two builds of the kernels, and two types of cache', async () => {
    const builds = await compare('-m', at('a.gguf'), ...tokens, '--kernels-b', 'scalar', '--threads-b', '1');
    expect(builds).toMatchObject({
      code: 0,
      out: expect.stringMatching(/B .*wasm scalar[\s\S]*the same, bit for bit/),
    });
    const caches = await compare('-m', at('a.gguf'), ...tokens, '--cache-type-b', 'f32');
    expect(caches).toMatchObject({ code: 0, out: expect.stringMatching(/another way.*keys and values kept in f32/) });
  });

  it('a wrong layout: named, with exit status 1, and for programs', async () => {
    const args = ['-m', at('a.gguf'), ...tokens, '--i2s-layout', 'x86', '--i2s-layout-b', 'rows4'];
    const done = await compare(...args);
    expect(done.code).toBe(1);
    expect(done.out).toMatch(/first difference: token 0 \(id 1\), layer 0, blk\.0\.attn_q\.acc/);
    expect(done.out).toMatch(/looks like I2_S of layout x86 read as rows4: with it the values agree to 0/);
    const json = await compare(...args, '--json');
    expect(json.code).toBe(1);
    expect(JSON.parse(json.out)).toMatchObject({
      verdict: 'different',
      divergence: {
        position: 0,
        token: 1,
        name: 'blk.0.attn_q.acc',
        ratio: 'Infinity',
        findings: [{ id: 'layout-x86-as-rows4' }],
      },
    });
  });

  it('files and dumps of other models', async () => {
    expect(await compare('-m', at('a.gguf'), at('other'))).toMatchObject({
      code: 1,
      out: '',
      err: expect.stringMatching(/not-comparable: .*another model file.*--any-file/),
    });
    const forced = await compare('-m', at('a.gguf'), at('other'), '--any-file');
    expect(forced).toMatchObject({ code: 1, out: expect.stringMatching(/first difference: token 0 \(id 1\), embd/) });
    const files = await compare(at('a.gguf'), at('other.gguf'), ...tokens);
    expect(files).toMatchObject({ code: 1, out: expect.stringMatching(/first difference: token 0 \(id 1\), embd/) });
    const dumps = await compare(at('a.npz'), at('other'), '--any-file');
    expect(dumps).toMatchObject({
      code: 1,
      out: expect.stringMatching(/number against number\n[\s\S]*token 0 \(id 1\), embd/),
    });
    expect((await compare(at('a.npz'), at('a.npz'))).out).toMatch(/the same, bit for bit/);
  });

  it('refuses what is no comparison', async () => {
    await writeFile(at('text.log'), 'Once upon a time\n');
    await writeFile(at('cut.npz'), 'PK');
    const cases: [string[], RegExp][] = [
      [['-m', at('a.gguf')], /nothing to compare with/],
      [['-m', at('a.gguf'), '--kernels-b', 'simd'], /give one of --tokens, -p and -f/],
      [['-m', at('a.gguf'), at('a.npz'), '--kernels-b', 'simd'], /a dump is not run/],
      [['-m', at('a.gguf'), at('a.npz'), '--tokens', '1,2'], /not-comparable: .*of other tokens/],
      [['-m', at('a.gguf'), at('text.log'), ...tokens], /not a log of llama-eval-callback/],
      [['-m', at('a.gguf'), at('cut.npz')], /bad-container|truncated/],
      [['-m', at('a.gguf'), at('absent.npz')], /absent\.npz/],
      [['-m', at('a.gguf'), '--backend-b', 'metal', '-p', 'x'], /--backend-b takes auto, wasm, ts, cuda/],
    ];
    for (const [args, message] of cases) {
      const done = await compare(...args);
      expect(done.code, args.join(' ')).not.toBe(0);
      expect(done.err, args.join(' ')).toMatch(message);
      expect(done.err, args.join(' ')).not.toMatch(/\n.*\n/);
      expect(done.out).toBe('');
    }
  });
});
