import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { urlSource } from '../../src/formats/sources.ts';
import { hubFetch } from '../../src/hub/fetch.ts';
import { clientDefaults, type HubClient } from '../../src/hub/http.ts';
import { refuses } from '../hostile/builder.ts';
import { type FakeHub, startHub } from './server.ts';

const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * i) >> 3);

let hub: FakeHub;
let client: HubClient;
let url: string;

beforeEach(async () => {
  hub = await startHub({ id: 'me/tiny', commit: 'a'.repeat(40), files: [{ path: 'm.gguf', bytes }] });
  client = { ...clientDefaults, endpoint: hub.endpoint, token: 'hf_secret', backoffMs: 1, silenceMs: 300 };
  url = `${hub.endpoint}/me/tiny/resolve/main/m.gguf`;
});

afterEach(() => hub.close());

async function read(from: number, to: number, signal?: AbortSignal): Promise<Uint8Array> {
  const source = await urlSource(url, { fetch: hubFetch(client), ...(signal === undefined ? {} : { signal }) });
  expect(source.byteLength).toBe(1000);
  const target = new Uint8Array(to - from);
  await source.readInto(target, from);
  return target;
}

describe('reading in place', () => {
  it.each([
    { cut: 0 },
    { cut: 1 },
    { cut: 200 },
    { cut: 399 },
    { cut: 5, chunked: true },
    { short: 7 },
    { stall: 50 },
    { status: 503 },
    { cutHeader: 10 },
  ])('goes on after %j', async (fault) => {
    hub.fault = ({ at, range }) => (at === 'storage' && range === 'bytes=500-899' ? once.shift() : undefined);
    const once = [fault];
    expect(await read(500, 900)).toEqual(bytes.slice(500, 900));
    expect(once).toEqual([]);
    for (const { at, token } of hub.seen) expect(token).toBe(at === 'hub' ? 'Bearer hf_secret' : undefined);
  });

  it('breaks off when it never gets further', async () => {
    hub.fault = ({ at, range }) => (at === 'storage' && range !== 'bytes=0-0' ? { cut: 0 } : undefined);
    await refuses(read(0, 10), 'http', /network failure/);
    expect(hub.bodies().length).toBeLessThan(10);
  });

  it('does not mix two versions', async () => {
    const faults = [{ cut: 100 }, { headers: { etag: '"other"' } }];
    hub.fault = ({ at, range }) => (at === 'storage' && range !== 'bytes=0-0' ? faults.shift() : undefined);
    await refuses(read(0, 900), 'http', /the file changed while it was read/);
  });

  it('can be left', async () => {
    hub.fault = ({ at, range }) => (at === 'storage' && range !== 'bytes=0-0' ? { slowMs: 50 } : undefined);
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('enough')), 200);
    const before = performance.now();
    await expect(read(0, 900, controller.signal)).rejects.toThrow('enough');
    expect(performance.now() - before).toBeLessThan(1500);
  });
});
