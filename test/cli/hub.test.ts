import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { withLock } from '../../src/cli/hub/lock.ts';
import { type FakeHub, type Repo, sha256, startHub } from '../hub/server.ts';
import { checkpoint, filesOf } from '../unit/convert-checkpoint.ts';
import { bitnet, type RunOptions } from './program.ts';
import { writeTinyModel } from './tiny-model.ts';

vi.setConfig({ testTimeout: 120_000 });

const COMMIT = '1234567890'.repeat(4);
const STORY = ['-p', 'once', '-n', '8', '--seed', '5', '-q'];

let model: Buffer;
let folder: string;
let hub: FakeHub;
let env: Record<string, string>;

beforeAll(async () => {
  const path = join(await mkdtemp(join(tmpdir(), 'bitnet-hub-')), 'tiny.gguf');
  await writeTinyModel(path, { template: true });
  model = await readFile(path);
  await rm(join(path, '..'), { recursive: true });
});

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-hub-'));
  hub = await startHub(tiny());
  env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: join(folder, 'cache'), HF_TOKEN: 'hf_secret' };
});

afterEach(async () => {
  await hub.close();
  await rm(folder, { recursive: true, force: true });
});

function tiny(): Repo {
  const readme = new TextEncoder().encode('# tiny');
  // Other bytes, same model: a name in the metadata would do as well, but this is shorter.
  const other = Buffer.concat([model, Buffer.alloc(32)]);
  return {
    id: 'me/tiny',
    commit: COMMIT,
    files: [
      { path: 'README.md', bytes: readme },
      { path: 'tiny-i2_s.gguf', bytes: model },
      { path: 'more/tiny-tq1_0.gguf', bytes: other },
    ],
  };
}

const cache = (...path: string[]) => join(folder, 'cache', ...path);
const snapshot = (...path: string[]) => cache('models--me--tiny', 'snapshots', COMMIT, ...path);
const bitnetHere = (args: string[], options: RunOptions = {}) =>
  bitnet(args, { ...options, env: { ...env, ...options.env } });

/** Runs a command that must succeed; its stdout. */
async function ok(args: string[], options: RunOptions = {}): Promise<string> {
  const { code, out, err } = await bitnetHere(args, options);
  expect(code, err).toBe(0);
  return out;
}

async function refused(args: string[], options: RunOptions = {}): Promise<string> {
  const { code, out, err } = await bitnetHere(args, options);
  expect([code, out]).toEqual([1, '']);
  expect(err).not.toContain('hf_secret');
  return err;
}

describe('bitnet pull', () => {
  it('prints where the file is, and asks again only what is new', async () => {
    const first = await bitnetHere(['pull', 'hf:me/tiny']);
    expect(first).toMatchObject({ code: 0, out: `${snapshot('tiny-i2_s.gguf')}\n` });
    expect(first.err).toMatch(/^1 file, \d.* KiB, 1 downloaded and verified, commit 123456789012\n$/);
    expect(model.equals(await readFile(first.out.trim()))).toBe(true);
    expect(await readFile(cache('models--me--tiny', 'refs', 'main'), 'utf8')).toBe(COMMIT);
    expect(await ok(['run', '-m', first.out.trim(), ...STORY])).toMatch(/^once/);

    const second = await bitnetHere(['pull', 'me/tiny:I2_S']);
    expect(second.err).toMatch(/all in the cache already/);
    expect(hub.bodies().length).toBe(1);
    // The branch moves on; content that stayed is not fetched again.
    hub.repos[0] = { ...tiny(), commit: 'd'.repeat(40) };
    expect(await ok(['pull', 'me/tiny', '-q'])).toBe(`${snapshot('tiny-i2_s.gguf').replace(COMMIT, 'd'.repeat(40))}\n`);
    expect(await ok(['pull', `me/tiny@${COMMIT}`, '--offline', '-q'])).toBe(first.out);
    expect(hub.bodies().length).toBe(1);
  });

  it('names files, revisions and results for programs', async () => {
    hub.repos[0] = { ...tiny(), revisions: ['v1', 'refs/pr/2'] };
    const result = JSON.parse(
      await ok(['pull', 'me/tiny/more/tiny-tq1_0.gguf', '--revision', 'refs/pr/2', '--json', '-q']),
    );
    const path = snapshot('more', 'tiny-tq1_0.gguf');
    expect(result).toEqual({
      repo: 'me/tiny',
      revision: 'refs/pr/2',
      path,
      commit: COMMIT,
      folder: snapshot(),
      files: [
        {
          path: 'more/tiny-tq1_0.gguf',
          file: path,
          bytes: model.length + 32,
          etag: sha256(tiny().files[2].bytes),
          cached: false,
        },
      ],
    });
    expect(await readFile(cache('models--me--tiny', 'refs', 'refs', 'pr', '2'), 'utf8')).toBe(COMMIT);
    expect(await ok(['pull', 'me/tiny@v1', '-hff', 'README.md', '-q'])).toBe(`${snapshot('README.md')}\n`);
  });

  it('fetches all parts of a split file, and refuses one with a hole', async () => {
    const part = (n: number) => ({ path: `x-0000${n}-of-00003.gguf`, bytes: Uint8Array.of(n) });
    hub.repos[0] = { ...tiny(), files: [part(1), part(2), part(3)] };
    expect(await ok(['pull', 'me/tiny', '-q'])).toBe(`${snapshot('x-00001-of-00003.gguf')}\n`);
    expect(await readdir(snapshot())).toEqual([1, 2, 3].map((n) => part(n).path));
    hub.repos[0] = { ...tiny(), files: [part(1), part(3)], commit: 'e'.repeat(40) };
    expect(await refused(['pull', 'me/tiny', '-q'])).toMatch(/x-00002-of-00003\.gguf: no such file, got x-00001-of/);
    expect(await readFile(cache('models--me--tiny', 'refs', 'main'), 'utf8')).toBe(COMMIT);
  });

  it.each([
    [['pull'], /USER\/REPO\[:QUANT\] is missing/],
    [['pull', 'tiny'], /pull: not the name of a model on the hub/],
    [['pull', 'me/tiny:tq1_0', '--checkpoint'], /--checkpoint takes USER\/REPO/],
    [['run', '-hf', '../tiny'], /-hf: not the name of a model/],
    [['run', '-m', 'hf:tiny'], /-m: not the name of a model/],
    [['run', '-hff', 'x.gguf'], /-hff needs -hf/],
  ])('%j is a wrong command line', async (args, message) => {
    const { code, err } = await bitnetHere(args);
    expect([code, err]).toEqual([2, expect.stringMatching(message)]);
  });

  it('says what there is and what to do', async () => {
    expect(await refused(['pull', 'me/tiny:q4_k'])).toMatch(
      /^bitnet: bad-argument: me\/tiny: no such GGUF file, expected one with q4_k in its name, got tiny-i2_s.gguf, more\/tiny-tq1_0.gguf/,
    );
    expect(await refused(['pull', 'me/none'])).toMatch(/^bitnet: http: .*no such repository, got 401 RepoNotFound/);
    hub.repos[0] = { ...tiny(), gatedFor: 'hf_other' };
    expect(await refused(['pull', 'me/tiny'])).toMatch(/^bitnet: http: .*access is restricted.*HF_TOKEN/);
    expect(await refused(['pull', 'me/tiny'], { env: { HF_TOKEN: 'a\u00e4b' } })).toMatch(
      /HF_TOKEN: a token with char/,
    );
    expect(await refused(['pull', 'me/tiny'], { env: { HF_ENDPOINT: 'nowhere' } })).toMatch(/HF_ENDPOINT: not a URL/);
    expect(await readdir(folder)).toEqual([]);
  });

  it('takes the token that hf auth login has left', async () => {
    await mkdir(join(folder, 'home'));
    await writeFile(join(folder, 'home', 'token'), 'hf_file\n');
    hub.repos[0] = { ...tiny(), gatedFor: 'hf_file' };
    const home = { HF_HOME: join(folder, 'home'), HF_HUB_CACHE: '', HF_TOKEN: '' };
    const path = await ok(['pull', 'me/tiny', '-q'], { env: home });
    expect(path.startsWith(join(folder, 'home', 'hub', 'models--me--tiny'))).toBe(true);
  });

  it('tries again, and says so', async () => {
    let left = 2;
    hub.fault = ({ at }) => (at === 'storage' && left-- > 0 ? { status: 500 } : undefined);
    const { code, err } = await bitnetHere(['pull', 'me/tiny']);
    expect(code).toBe(0);
    expect(err).toMatch(/the server is busy, got 500.*; trying again in 500 ms\n.*trying again in 1\.00 s\n1 file/s);
  });

  it('goes on where it was killed, at once', async () => {
    hub.fault = ({ at }) => (at === 'storage' ? { stall: 1000 } : undefined);
    const dead = await bitnetHere(['pull', 'me/tiny'], {
      meanwhile: (child) => {
        const timer = setInterval(async () => {
          const path = cache('models--me--tiny', 'blobs', `${sha256(model)}.bitnet.incomplete`);
          const size = await stat(path).then(
            (facts) => facts.size,
            () => 0,
          );
          if (size < 1000) return;
          clearInterval(timer);
          child.kill('SIGKILL');
        }, 20);
      },
    });
    expect(dead.code).toBe(null);
    expect(await readdir(cache('.locks', 'models--me--tiny'))).toHaveLength(1);
    hub.fault = () => undefined;
    hub.seen.length = 0;
    const before = performance.now();
    await ok(['pull', 'me/tiny', '-q']);
    expect(performance.now() - before).toBeLessThan(20_000);
    expect(hub.bodies().map(({ range }) => range)).toEqual(['bytes=1000-']);
    expect(model.equals(await readFile(snapshot('tiny-i2_s.gguf')))).toBe(true);
    expect(await readdir(cache('.locks', 'models--me--tiny'))).toEqual([]);
  });

  it('goes on after Ctrl-C', async () => {
    hub.fault = ({ at }) => (at === 'storage' ? { stall: 1000 } : undefined);
    const { code } = await bitnetHere(['pull', 'me/tiny'], {
      meanwhile: (child) => {
        const timer = setInterval(() => {
          if (hub.bodies().length === 0) return;
          clearInterval(timer);
          setTimeout(() => child.kill('SIGINT'), 300);
        }, 20);
      },
    });
    expect(code).toBe(130);
    expect(await readdir(cache('.locks', 'models--me--tiny'))).toEqual([]);
    hub.fault = () => undefined;
    await ok(['pull', 'me/tiny', '-q']);
    expect(hub.bodies().at(-1)?.range).toBe('bytes=1000-');
  });

  it('downloads once for several processes', async () => {
    let release = () => {};
    const waiting = new Promise<void>((resolve) => {
      release = resolve;
    });
    hub.fault = ({ at }) => (at === 'storage' && hub.bodies().length === 1 ? { stall: 500 } : undefined);
    // The first stalls until the second waits for it; then it is asked to go on by cutting its connection.
    const pulls = ['a', 'b', 'c'].map(() =>
      bitnetHere(['pull', 'me/tiny'], {
        env: { HF_HUB_DOWNLOAD_TIMEOUT: '3' },
        meanwhile: (child) => child.stderr.on('data', (text) => String(text).includes('waiting for') && release()),
      }),
    );
    await waiting;
    const results = await Promise.all(pulls);
    for (const { code, out } of results) expect([code, out]).toEqual([0, `${snapshot('tiny-i2_s.gguf')}\n`]);
    expect(results.filter(({ err }) => err.includes('1 downloaded')).length).toBe(1);
    expect(hub.bodies().map(({ range }) => range)).toEqual([undefined, 'bytes=500-']);
    expect(model.equals(await readFile(snapshot('tiny-i2_s.gguf')))).toBe(true);
  });
});

describe('the lock of a download', () => {
  it('of an owner on another machine holds while it is renewed, and not for ever', async () => {
    const path = join(folder, 'lock');
    await writeFile(path, '1 some-other-machine');
    let waited = 0;
    const before = performance.now();
    let renewals = 10;
    const owner = setInterval(() => {
      if (renewals-- > 0) void utimes(path, renewals, renewals);
      else clearInterval(owner);
    }, 100);
    await withLock(path, { staleMs: 500, onWait: () => waited++ }, async () => {
      expect(await readFile(path, 'utf8')).toBe(`${process.pid} ${hostname()}`);
    });
    expect(performance.now() - before).toBeGreaterThan(1400);
    expect(waited).toBe(1);
    expect(await readdir(folder)).toEqual([]);
  });

  it('is given back when the work fails, and waiting can be ended', async () => {
    const path = join(folder, 'lock');
    const controller = new AbortController();
    await expect(
      withLock(path, {}, async () => {
        setTimeout(() => controller.abort(new Error('enough')), 50);
        await withLock(path, { signal: controller.signal }, async () => {});
      }),
    ).rejects.toThrow('enough');
    expect(await readdir(folder)).toEqual([]);
  });

  it('lets one in at a time', async () => {
    const path = join(folder, 'lock');
    let [inside, most] = [0, 0];
    await Promise.all(
      Array.from({ length: 5 }, () =>
        withLock(path, {}, async () => {
          most = Math.max(most, ++inside);
          await new Promise((resolve) => setTimeout(resolve, 20));
          inside--;
        }),
      ),
    );
    expect(most).toBe(1);
  });
});

describe('models of the hub, for commands', () => {
  it('come through the cache, and once there without the hub', async () => {
    await writeFile(join(folder, 'local.gguf'), model);
    const local = await ok(['run', '-m', join(folder, 'local.gguf'), ...STORY]);
    expect(await ok(['run', '-hf', 'me/tiny', ...STORY])).toBe(local);
    expect(hub.bodies().length).toBe(1);
    const { length } = hub.seen;
    const offline = { env: { HF_HUB_OFFLINE: '1' } };
    for (const named of [
      ['-hf', 'me/tiny:i2_s'],
      ['-m', 'hf:me/tiny'],
      ['-hf', 'me/tiny', '-hff', 'tiny-i2_s.gguf'],
    ]) {
      expect(await ok(['run', ...named, ...STORY])).toBe(local);
      expect(await ok(['run', ...named, ...STORY], offline)).toBe(local);
    }
    expect(await ok(['run', ...STORY, '--offline'], { env: { BITNET_MODEL: 'hf:me/tiny' } })).toBe(local);
    await writeFile(join(folder, 'text.txt'), 'a cat '.repeat(20));
    await ok(['oracle', 'logits', '-hf', 'me/tiny', '--tokens', '1,5']);
    await ok(['perplexity', '-hf', 'me/tiny', '-f', join(folder, 'text.txt'), '-c', '32']);
    await ok(['bench', '-hf', 'me/tiny', '-p', '8', '-n', '2', '-r', '1', '-t', '1']);
    await ok(['chat', '-hf', 'me/tiny', '-n', '4', '-q'], { stdin: 'hello\n' });
    await ok(['inspect', 'hf:me/tiny']);
    expect(hub.seen.length).toBe(length);

    expect(await refused(['run', '-hf', 'me/tiny:tq1_0', ...STORY], offline)).toMatch(
      /^bitnet: io: me\/tiny@main: not in the cache, and offline, expected tq1_0 in .*cache, got tiny-i2_s.gguf/,
    );
    expect(await refused(['pull', 'me/other', '--offline'])).toMatch(
      /not in the cache, and offline.*got nothing of it/,
    );
  });

  it('are read in place by commands that read little, and when asked to', async () => {
    const text = await ok(['inspect', '-hf', 'me/tiny']);
    expect(text).toContain('bitnet-b1.58');
    expect(text).toContain('tiny-i2_s.gguf');
    expect(await ok(['tokenize', '-m', 'hf:me/tiny', '-p', 'abc', '--ids'])).toMatch(/^\[1, /);
    await ok(['run', '-hf', 'me/tiny', '--no-cache', ...STORY]);
    await expect(stat(cache())).rejects.toThrow('ENOENT');
    for (const { at, range, token } of hub.seen) {
      expect(token).toBe(at === 'hub' ? 'Bearer hf_secret' : undefined);
      if (at === 'storage') expect(range).toMatch(/^bytes=\d+-\d+$/);
    }
    expect(hub.bodies().length).toBeGreaterThan(3);
    const busy = { times: 1 };
    hub.fault = ({ at }) => (at === 'storage' && busy.times-- > 0 ? { status: 503 } : undefined);
    expect(await ok(['inspect', '-hf', 'me/tiny'])).toBe(text);
    hub.fault = ({ at }) => (at === 'storage' ? { status: 404 } : undefined);
    expect(await refused(['inspect', '-hf', 'me/tiny'])).toMatch(
      /^bitnet: http: .*tiny-i2_s.gguf: request failed, got 404/,
    );
  });
});

describe('checkpoints of the hub', () => {
  it('become folders and GGUF files', async () => {
    const files = await filesOf(checkpoint('BitNetForCausalLM', 'packed, multiply'), 2);
    const all = [...files].map(([path, bytes]) => ({ path, bytes }));
    const extra = { path: 'pytorch_model.bin', bytes: new Uint8Array(100) };
    hub.repos[0] = { id: 'me/tiny', commit: COMMIT, files: [...all, extra] };
    expect(await refused(['run', '-hf', 'me/tiny', ...STORY])).toMatch(
      /got safetensors, no GGUF files \(bitnet convert hf:me\/tiny -o model\.gguf\)/,
    );
    expect(await ok(['pull', 'me/tiny', '--checkpoint', '-q'])).toBe(`${snapshot()}\n`);
    expect((await readdir(snapshot())).sort()).toEqual([...files.keys()].sort());

    const [direct, through] = ['direct.gguf', 'through.gguf'].map((name) => join(folder, name));
    await ok(['convert', snapshot(), '-o', direct, '--name', 'tiny', '-q']);
    const { length } = hub.bodies();
    await ok(['convert', 'hf:me/tiny', '-o', through, '-q']);
    expect(hub.bodies().length).toBe(length);
    expect((await readFile(through)).equals(await readFile(direct))).toBe(true);
    const asked = hub.seen.length;
    await ok(['convert', 'hf:me/tiny', '-o', through, '-q'], { env: { HF_HUB_OFFLINE: 'ON' } });
    await ok(['convert', 'hf:me/tiny', '-o', through, '-q', '--offline']);
    expect(hub.seen.length).toBe(asked);
  });
});
