import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readSnapshot, writeRef } from '../../src/cli/hub/cache.ts';
import { type DownloadOptions, downloadFile } from '../../src/cli/hub/download.ts';
import { BitnetError } from '../../src/errors.ts';
import { listRepo } from '../../src/hub/api.ts';
import { clientDefaults, type HubClient } from '../../src/hub/http.ts';
import { parseHubReference } from '../../src/hub/reference.ts';
import { refuses } from '../hostile/builder.ts';
import { etagOf, type FakeHub, type Fault, gitBlob, type Repo, sha256, startHub, storageEtag } from './server.ts';

const COMMIT = 'c0ffee'.padEnd(40, '0');
const TOKEN = 'hf_secret';
const model = { path: 'sub/m.gguf', bytes: Uint8Array.from({ length: 1000 }, (_, i) => (i * i) >> 3) };
const config = { path: 'config.json', bytes: new TextEncoder().encode('{"a": "b"}') };
const empty = { path: 'empty.txt', bytes: new Uint8Array(0) };
const tiny: Repo = { id: 'me/tiny', commit: COMMIT, files: [model, config, empty] };

let hub: FakeHub;
let cache: string;
let client: HubClient;

beforeEach(async () => {
  hub = await startHub({ ...tiny });
  cache = await mkdtemp(join(tmpdir(), 'bitnet-hub-'));
  client = { ...clientDefaults, endpoint: hub.endpoint, token: TOKEN, backoffMs: 1, silenceMs: 5_000 };
});

afterEach(async () => {
  await hub.close();
  await rm(cache, { recursive: true, force: true });
});

const home = () => join(cache, 'models--me--tiny');
const blob = (file = model) => join(home(), 'blobs', etagOf(file));
const partial = () => `${blob()}.bitnet.incomplete`;
const pointer = (file = model) => join(home(), 'snapshots', COMMIT, file.path);
const here = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

async function get(file = model, options: Partial<DownloadOptions> = {}, through = client) {
  const repo = await listRepo(through, parseHubReference('me/tiny'));
  return downloadFile(through, repo, repo.files.find(({ path }) => path === file.path)!, { cache, ...options });
}

/** What the first requests for contents do; later ones are right. */
function faults(...list: Fault[]): void {
  hub.fault = (seen) => (seen.at === 'storage' ? list.shift() : undefined);
}

async function isWhole(file = model): Promise<void> {
  expect((await readFile(pointer(file))).equals(file.bytes)).toBe(true);
  expect(await readlink(pointer(file))).toBe(`${file.path.includes('/') ? '../' : ''}../../blobs/${etagOf(file)}`);
  expect((await readdir(join(home(), 'blobs'))).filter((name) => name.includes('incomplete'))).toEqual([]);
}

async function isNothing(): Promise<void> {
  expect(await here(blob())).toBe(false);
  expect(await here(pointer())).toBe(false);
  const locks = join(cache, '.locks', 'models--me--tiny');
  expect(await readdir(locks).catch(() => [])).toEqual([]);
}

describe('a download', () => {
  it('lies in the cache as Python expects it', async () => {
    const progress: number[] = [];
    const done = await get(model, { onProgress: (_path, bytes) => progress.push(bytes) });
    expect(done).toEqual({ path: model.path, file: pointer(), bytes: 1000, etag: sha256(model.bytes), cached: false });
    await isWhole();
    expect(progress.at(-1)).toBe(1000);
    expect(await readFile(join(cache, 'CACHEDIR.TAG'), 'utf8')).toMatch(
      /^Signature: 8a477f597d28d172789f06886806bc55\n/,
    );
    for (const file of [config, empty]) {
      expect(await get(file)).toMatchObject({ cached: false, etag: gitBlob(file.bytes) });
      await isWhole(file);
    }
    await writeRef(cache, parseHubReference('me/tiny'), COMMIT);
    expect(await readFile(join(home(), 'refs', 'main'), 'utf8')).toBe(COMMIT);
    expect(await readSnapshot(cache, parseHubReference('me/tiny'))).toEqual({
      commit: COMMIT,
      folder: join(home(), 'snapshots', COMMIT),
      files: [config.path, empty.path, model.path],
    });
    // Nothing of it twice, and another commit with the same content links to it.
    expect(await get()).toMatchObject({ cached: true });
    hub.repos[0] = { ...tiny, commit: 'd'.repeat(40) };
    expect(await get()).toMatchObject({ cached: true, file: pointer().replace(COMMIT, 'd'.repeat(40)) });
    expect(hub.bodies().length).toBe(1);
  });

  it('sends the token to the hub and to nobody else', async () => {
    await get();
    await get(config);
    for (const { at, token } of hub.seen) expect(token).toBe(at === 'hub' ? `Bearer ${TOKEN}` : undefined);
    expect(hub.bodies().length).toBe(1);
    hub.fault = ({ at, method }) =>
      at === 'hub' && method === 'HEAD' ? { redirect: `${hub.storage}/elsewhere` } : undefined;
    await get(config).catch(() => {});
    expect(hub.seen.filter(({ at, token }) => at === 'storage' && token !== undefined)).toEqual([]);
  });

  // 0: nothing of the body; 1, 2, n-1: the ends of ranges; the rest: anywhere.
  it.each([0, 1, 2, 499, 998, 999])('cut after %i bytes goes on there', async (cut) => {
    faults({ cut });
    await get();
    await isWhole();
    const [, second] = hub.bodies();
    expect(second).toMatchObject(
      cut === 0
        ? { range: undefined, ifRange: undefined }
        : { range: `bytes=${cut}-`, ifRange: storageEtag(model.bytes) },
    );
  });

  it('cut at each byte of its headers begins again', async () => {
    for (let cutHeader = 0; cutHeader <= 45; cutHeader++) {
      await rm(home(), { recursive: true, force: true });
      faults({ cutHeader });
      await get();
      await isWhole();
    }
  });

  it('cut without an announced length is not taken for complete', async () => {
    faults({ cut: 300, chunked: true }, { short: 300 });
    await get();
    await isWhole();
    expect(hub.bodies().map(({ range }) => range)).toEqual([undefined, 'bytes=300-', 'bytes=600-']);
  });

  it('that breaks off again and again fails, keeps what has come, and a later one goes on', async () => {
    for (const cut of [0, 7, 400]) {
      await rm(home(), { recursive: true, force: true });
      let first = true;
      hub.fault = ({ at }) => {
        if (at !== 'storage') return undefined;
        const fault = { cut: first ? cut : 0 };
        first = false;
        return fault;
      };
      await refuses(get(), 'http', /network failure|connection was cut/);
      await isNothing();
      expect((await readFile(partial())).equals(model.bytes.subarray(0, cut))).toBe(true);
      hub.fault = () => undefined;
      hub.seen.length = 0;
      await get();
      await isWhole();
      expect(hub.bodies().map(({ range }) => range)).toEqual([cut === 0 ? undefined : `bytes=${cut}-`]);
    }
    expect(clientDefaults.maxTries).toBe(6);
  });

  it('of which all bytes are there needs none', async () => {
    await mkdir(join(home(), 'blobs'), { recursive: true });
    await writeFile(partial(), model.bytes);
    await get();
    await isWhole();
    expect(hub.bodies()).toEqual([]);
  });

  it('begins again where the server knows no ranges', async () => {
    faults({ cut: 600 }, { ignoreRange: true });
    await get();
    await isWhole();
    expect(hub.bodies().map(({ range }) => range)).toEqual([undefined, 'bytes=600-']);
  });

  it('begins again when the storage says that it has another file now', async () => {
    const other = Uint8Array.from(model.bytes, (byte) => byte ^ 1);
    faults({ bytes: other, claim: -1 });
    await refuses(get(), 'http', /wrong content/);
    faults({ cut: 600 }, { headers: { etag: '"new"' } });
    await get();
    await isWhole();
  });

  it('refuses to mix two versions', async () => {
    let bodies = 0;
    hub.fault = ({ at, method }) => {
      if (at === 'storage') return bodies++ === 0 ? { cut: 500 } : undefined;
      return bodies > 0 && method === 'GET' ? { headers: { 'x-linked-etag': '"changed"' } } : undefined;
    };
    await refuses(get(), 'http', /resolve\/.*the file changed while it was downloaded, expected .*, got changed/);
    await isNothing();
  });

  it('begins again after 416', async () => {
    faults({ cut: 500 }, { status: 416 });
    await get();
    await isWhole();
    expect(hub.bodies().map(({ range }) => range)).toEqual([undefined, 'bytes=500-', undefined]);
  });

  it('removes wrong content, whoever brought it', async () => {
    const wrong = Uint8Array.from(model.bytes);
    wrong[999] ^= 1;
    faults({ bytes: wrong });
    await refuses(get(), 'http', /^me\/tiny: sub\/m.gguf: wrong content, removed, expected SHA-256 .*, got /);
    await isNothing();
    expect(await here(partial())).toBe(false);

    hub.fault = ({ url }) =>
      url.startsWith('/api/resolve-cache') ? { bytes: new TextEncoder().encode('{"a": "c"}') } : undefined;
    await refuses(get(config), 'http', /wrong content, removed, expected git blob /);
    expect(await here(blob(config))).toBe(false);
  });

  it.each([
    ['of other bytes', new Uint8Array(400).fill(9)],
    ['longer than the file', new Uint8Array(5000)],
    ['of other bytes and as long', new Uint8Array(1000)],
  ])('survives a prefix %s', async (_name, bytes) => {
    await mkdir(join(home(), 'blobs'), { recursive: true });
    await writeFile(partial(), bytes);
    await get();
    await isWhole();
  });

  it('survives a blob that was cut under its final name', async () => {
    await get();
    await writeFile(blob(), model.bytes.subarray(0, 10));
    expect(await get()).toMatchObject({ cached: false });
    await isWhole();
  });

  it('refuses more bytes, fewer bytes, and answers to other questions', async () => {
    const longer = new Uint8Array([...model.bytes, 0]);
    faults({ bytes: longer });
    await refuses(get(), 'http', /wrong length, expected 1000 bytes, got 1001/);
    faults({ bytes: longer, claim: -1 });
    await refuses(get(), 'http', /more bytes than the file has/);
    await rm(home(), { recursive: true, force: true });
    faults({ cut: 500 }, { headers: { 'content-range': 'bytes 400-999/1000' } });
    await refuses(get(), 'http', /wrong content-range, expected bytes 500-999\/1000, got bytes 400-999\/1000/);
    await isNothing();
  });
});

describe('a server that', () => {
  it('is busy is asked again, as late as it wishes', async () => {
    faults({ status: 500 }, { status: 503 }, { status: 429, headers: { 'retry-after': '1' } });
    const waits: number[] = [];
    const before = performance.now();
    await get(model, {}, { ...client, onRetry: (_failure, ms) => waits.push(ms) });
    expect(performance.now() - before).toBeGreaterThan(990);
    expect(waits).toEqual([1, 2, 1000]);
    await isWhole();
  });

  it('is busy for too long is given up', async () => {
    faults({ status: 429, headers: { 'retry-after': '3600' } });
    await refuses(get(), 'http', /the server is busy, got 429/);
    hub.fault = () => ({ status: 500 });
    await refuses(get(), 'http', /api\/models\/me\/tiny\/.*: the server is busy, got 500/);
    expect(hub.seen.filter(({ url }) => url.startsWith('/api')).length).toBe(1 + 6);
  });

  it('falls silent counts as cut', async () => {
    faults({ stall: 100 }, { stall: 100 });
    await get(model, {}, { ...client, silenceMs: 200 });
    await isWhole();
    expect(hub.bodies().map(({ range }) => range)).toEqual([undefined, 'bytes=100-', 'bytes=200-']);
  });

  it.each([{ slowMs: 20 }, { stall: 100 }])('lets one wait can be left: %j', async (fault) => {
    faults(fault);
    const controller = new AbortController();
    const reason = new Error('enough');
    let [calls, at] = [0, 0];
    const onProgress = () => {
      if (++calls === 1)
        setTimeout(() => {
          at = performance.now();
          controller.abort(reason);
        }, 100);
    };
    await expect(get(model, { signal: controller.signal, onProgress })).rejects.toBe(reason);
    expect(performance.now() - at).toBeLessThan(1000);
    await isNothing();
    const { length } = await readFile(partial());
    expect(length).toBeGreaterThan(0);
    await get();
    await isWhole();
  });

  it('wants a token, or another one, is explained', async () => {
    hub.repos[0] = { ...tiny, gatedFor: 'hf_other' };
    await refuses(get(), 'http', /access is restricted, got 403 GatedRepo\. \(accept the conditions .* HF_TOKEN/);
    const error = await get(model, {}, { ...client, token: undefined }).catch((reason: unknown) => reason);
    expect(String(error)).toMatch(/access is restricted, got 401 GatedRepo\. \(set HF_TOKEN/);
    expect(await get().catch(String)).not.toContain(TOKEN);
    hub.repos.length = 0;
    await refuses(get(), 'http', /no access, or no such repository, got 401 RepoNotFound/);
  });

  it('does not have it says what is missing', async () => {
    const repo = await listRepo(client, parseHubReference('me/tiny'));
    const missing = { path: 'no.gguf', size: undefined, sha256: undefined };
    await refuses(
      downloadFile(client, repo, missing, { cache }),
      'http',
      /no\.gguf: no such file, got 404 EntryNotFound/,
    );
    await refuses(listRepo(client, parseHubReference('me/tiny@v9')), 'http', /no such revision, got 404/);
  });

  it('redirects in circles or to strange places is not followed', async () => {
    faults(
      ...Array.from({ length: 60 }, () => ({ redirect: `${hub.storage}/blobs/${sha256(model.bytes)}?sig=secret` })),
    );
    await refuses(get(), 'http', /too many redirects, expected at most 20, got http:.*\?\.\.\.$/);
    for (const redirect of ['file:///etc/passwd', 'http://', 'ftp://h/x']) {
      faults({ redirect });
      await refuses(get(), 'http', /redirected to where we do not follow/);
    }
    await isNothing();
  });

  it('does not exist is no mystery', async () => {
    await refuses(
      get(model, {}, { ...client, endpoint: 'http://127.0.0.1:9' }),
      'http',
      /network failure, got .*(ECONNREFUSED|bad port)/,
    );
  });

  it('lies about a file is caught', async () => {
    const lie = (headers: Record<string, string>) => {
      hub.fault = ({ method }) => (method === 'HEAD' ? { headers } : undefined);
    };
    lie({ 'x-repo-commit': 'e'.repeat(40) });
    await refuses(get(), 'http', /answer for another commit/);
    lie({ 'x-linked-size': '999' });
    await refuses(get(), 'http', /contradicts itself/);
    lie({ 'x-linked-size': '-1' });
    await refuses(get(), 'http', /no usable length/);
    lie({ 'x-linked-etag': '"f"'.replace('f', 'f'.repeat(64)) });
    await refuses(get(), 'http', /contradicts itself/);
    lie({ 'x-linked-etag': '"../../../evil"' });
    await refuses(get(), 'http', /no usable etag/);
    await isNothing();
  });

  it.each([
    ['no JSON', '<html>', /not an answer of the hub/],
    ['no commit', '{"sha": "../../x", "siblings": []}', /got sha \.\.\/\.\.\/x/],
    ['no list', `{"sha": "${COMMIT}"}`, /siblings/],
    ['a path that leaves', `{"sha": "${COMMIT}", "siblings": [{"rfilename": "../../x.gguf"}]}`, /unsafe path/],
    ['an absolute path', `{"sha": "${COMMIT}", "siblings": [{"rfilename": "/etc/x.gguf"}]}`, /unsafe path/],
    ['a nameless file', `{"sha": "${COMMIT}", "siblings": [{}]}`, /without a name/],
  ])('lists %s is refused', async (_name, text, message) => {
    hub.fault = ({ url }) => (url.startsWith('/api/models') ? { bytes: new TextEncoder().encode(text) } : undefined);
    const error = await get().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(BitnetError);
    expect(String(error)).toMatch(message);
  });
});

describe('a disk', () => {
  it('that is too small is noticed before the first byte', async () => {
    const huge = 2 ** 52;
    hub.fault = ({ url, method }) => {
      if (method === 'HEAD') return { headers: { 'x-linked-size': `${huge}` } };
      if (!url.startsWith('/api/models')) return undefined;
      const sibling = { rfilename: model.path, size: huge, lfs: { sha256: sha256(model.bytes) } };
      return { bytes: new TextEncoder().encode(JSON.stringify({ sha: COMMIT, siblings: [sibling] })) };
    };
    await refuses(get(), 'io', /not enough space, expected 4503599627370496 bytes free, got \d+ \(HF_HUB_CACHE/);
    expect(hub.bodies()).toEqual([]);
    await isNothing();
  });

  it('that may not be written to is named', async () => {
    await mkdir(home(), { recursive: true });
    await writeFile(join(home(), 'blobs'), 'a file where a folder should be');
    await refuses(get(), 'io', /blobs: cannot create the folder/);
    await refuses(get(model, { cache: join(home(), 'blobs', 'cache') }), 'io', /cannot create the folder/);
  });
});
