/**
 * Downloads from a hub that breaks, in every runtime: their `fetch` differ most where something goes wrong (a body
 * that ends early, a redirect with a token, an abort), and file handles and locks differ, too.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type onTestFinished } from 'vitest';
import { writeTinyModel } from '../cli/tiny-model.ts';
import { type Fault, sha256, startHub } from '../hub/server.ts';
import { type Runtime, root, runtimes, wantRuntime } from './runtimes.ts';

const COMMIT = 'ab'.repeat(20);

/** A hub, a folder and a cache for one test. */
async function world(runtime: Runtime, finished: typeof onTestFinished) {
  wantRuntime(runtime);
  const folder = await mkdtemp(join(tmpdir(), 'bitnet-hub-'));
  finished(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'tiny.gguf');
  await writeTinyModel(path, { template: false });
  const model = await readFile(path);
  const hub = await startHub({ id: 'me/tiny', commit: COMMIT, files: [{ path: 'tiny.gguf', bytes: model }] });
  finished(() => hub.close());
  const cache = join(folder, 'cache');
  const file = join(cache, 'models--me--tiny', 'snapshots', COMMIT, 'tiny.gguf');

  async function bitnet(...args: string[]): Promise<{ code: unknown; out: string; err: string }> {
    const hubEnv = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cache, HF_TOKEN: 'hf_secret' };
    const env = { ...process.env, NO_COLOR: '1', DENO_NO_UPDATE_CHECK: '1', HF_HUB_DOWNLOAD_TIMEOUT: '2', ...hubEnv };
    return new Promise((resolve) => {
      const all = [...runtime.args, join(root, 'dist/cli/main.js'), ...args];
      execFile(runtime.command, all, { env, timeout: 60_000 }, (error, out, err) => {
        resolve({ code: error === null ? 0 : error.code, out, err });
      });
    });
  }

  return { path, model, hub, cache, file, bitnet };
}

// All at the same time: nearly all of it is waiting, for a hub that is silent and before it is asked again.
describe.concurrent.each(runtimes)('$name', (runtime) => {
  it('goes on after every kind of cut, within one process and in the next', async ({ expect, onTestFinished }) => {
    const { model, hub, cache, file, bitnet } = await world(runtime, onTestFinished);
    const breaks: Fault[] = [{ cutHeader: 20 }, { cut: 5000 }, { status: 404 }];
    hub.fault = ({ at }) => (at === 'storage' ? breaks.shift() : undefined);
    const first = await bitnet('pull', 'me/tiny', '-q');
    expect([first.code, first.out, first.err]).toEqual([1, '', expect.stringMatching(/^bitnet: http: .*\n$/)]);
    const blobs = join(cache, 'models--me--tiny', 'blobs');
    const name = `${sha256(model)}.bitnet.incomplete`;
    expect(await readdir(blobs)).toEqual([name]);
    // Whatever a runtime hands out of a broken body, it is the beginning of the file.
    const came = await readFile(join(blobs, name));
    expect(came.equals(model.subarray(0, came.length))).toBe(true);

    breaks.push({ cut: 3, chunked: true }, { short: 10 }, { stall: 100 });
    const second = await bitnet('pull', 'me/tiny', '-q');
    expect(second).toMatchObject({ code: 0, out: `${file}\n` });
    expect((await readFile(file)).equals(model)).toBe(true);
    expect(await readdir(blobs)).toEqual([sha256(model)]);

    await rm(cache, { recursive: true });
    breaks.push({ cut: 0 }, { cut: model.length - 1 });
    expect(await bitnet('pull', 'me/tiny', '-q')).toMatchObject({ code: 0 });
    expect(hub.bodies().at(-1)?.range).toMatch(/^bytes=\d+-$/);
    for (const { at, token } of hub.seen) expect(token).toBe(at === 'hub' ? 'Bearer hf_secret' : undefined);
  }, 120_000);

  it('keeps nothing wrong, reads in place, and runs from the cache', async ({ expect, onTestFinished }) => {
    const { path, model, hub, cache, bitnet } = await world(runtime, onTestFinished);
    const wrong = Uint8Array.from(model);
    wrong[1] ^= 1;
    hub.fault = ({ at }) => (at === 'storage' ? { bytes: wrong } : undefined);
    expect(await bitnet('run', '-hf', 'me/tiny', '-n', '4', '-q')).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^bitnet: http: me\/tiny: tiny.gguf: wrong content, removed, expected SHA-256/),
    });
    expect(await readdir(join(cache, 'models--me--tiny', 'blobs'))).toEqual([]);
    hub.fault = () => undefined;
    const once: Fault[] = [{ cut: 9 }];
    hub.fault = ({ at, range }) => (at === 'storage' && range !== 'bytes=0-0' ? once.shift() : undefined);
    expect((await bitnet('inspect', '-hf', 'me/tiny')).out).toContain('bitnet-b1.58');
    expect(once).toEqual([]);
    const story = ['-p', 'a', '-n', '8', '--temp', '0', '-q'];
    const here = await bitnet('run', '-hf', 'me/tiny', ...story);
    expect(here.code, here.err).toBe(0);
    expect(await bitnet('run', '-hf', 'me/tiny', '--offline', ...story)).toEqual(here);
    expect(await bitnet('run', '-m', path, ...story)).toEqual(here);
  }, 120_000);
});
