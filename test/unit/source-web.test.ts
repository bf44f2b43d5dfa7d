import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { blobSource, memorySource, urlSource } from '../../src/formats/sources.ts';
import { refuses } from '../hostile/builder.ts';

const data = Uint8Array.from({ length: 1000 }, (_, i) => i * 7);

/** What a server may do. */
interface Behaviour {
  ranges?: boolean;
  status?: number;
  total?: number;
  contentRange?: string | null;
  body?: Uint8Array<ArrayBuffer>;
  headers?: Record<string, string>;
  fail?: unknown;
  /** Applies from this request on (the first is 0). */
  from?: number;
}

function server(behaviour: Behaviour = {}) {
  const requests: { url: string; range: string | null; token: string | null }[] = [];
  const request = async (input: RequestInfo | URL, init?: RequestInit): Promise<Response> => {
    const headers = new Headers(init?.headers);
    const range = headers.get('range');
    requests.push({ url: String(input), range, token: headers.get('authorization') });
    const b = requests.length > (behaviour.from ?? 0) ? behaviour : {};
    if (b.fail !== undefined) throw b.fail;
    const [begin, last] = /^bytes=(\d+)-(\d+)$/
      .exec(range ?? '')!
      .slice(1)
      .map(Number);
    if (b.status !== undefined) return new Response('no', { status: b.status, statusText: 'Nope' });
    if (b.ranges === false) return new Response(b.body ?? data, { headers: b.headers ?? {} });
    const contentRange =
      b.contentRange === undefined ? `bytes ${begin}-${last}/${b.total ?? data.length}` : b.contentRange;
    return new Response(b.body ?? data.slice(begin, last + 1), {
      status: 206,
      headers: { ...(contentRange === null ? {} : { 'content-range': contentRange }), ...b.headers },
    });
  };
  return { fetch: request as typeof fetch, requests };
}

async function read(source: { readInto(target: Uint8Array, at: number): Promise<void> }, at: number, length: number) {
  const target = new Uint8Array(new SharedArrayBuffer(length + 2), 1, length);
  await source.readInto(target, at);
  return Uint8Array.from(target);
}

describe('memory and blobs', () => {
  it.each([
    ['memory', memorySource(data)],
    ['Blob', blobSource(new Blob([data]))],
  ])('%s: reads ranges into shared memory, refuses others', async (_name, source) => {
    expect(source.byteLength).toBe(1000);
    expect(await read(source, 10, 20)).toEqual(data.slice(10, 30));
    expect(await read(source, 1000, 0)).toEqual(new Uint8Array(0));
    await refuses(read(source, 990, 11), 'truncated', /expected at least 1001 bytes, got 1000/);
    for (const offset of [-1, 1.5, Number.NaN, 2 ** 53])
      await refuses(read(source, offset, 1), 'bad-argument', /bad offset/);
  });

  it('a File keeps its name, a big Blob comes in pieces', async () => {
    expect(blobSource(new File([data], 'm.gguf')).label).toBe('m.gguf');
    const big = new Uint8Array(40 << 20);
    big.set(data, (32 << 20) - 500);
    expect(Buffer.compare(await read(blobSource(new Blob([big])), 0, big.length), big)).toBe(0);
  });
});

describe('URLs', () => {
  it('are read by ranges, with the given headers', async () => {
    const { fetch, requests } = server();
    const source = await urlSource('https://h/m.gguf', { fetch, headers: { authorization: 'Bearer t' } });
    expect([source.byteLength, source.label]).toEqual([1000, 'https://h/m.gguf']);
    expect(await read(source, 100, 50)).toEqual(data.slice(100, 150));
    expect(await read(source, 0, 1000)).toEqual(data);
    expect(await read(source, 5, 0)).toEqual(new Uint8Array(0));
    expect(requests.map((r) => r.range)).toEqual(['bytes=0-0', 'bytes=100-149', 'bytes=0-999']);
    expect(requests.every((r) => r.token === 'Bearer t')).toBe(true);
    await refuses(read(source, 999, 2), 'truncated', /read beyond the end/);
    expect(requests.length).toBe(3);
  });

  it('are downloaded whole where there are no ranges, up to a ceiling', async () => {
    const { fetch, requests } = server({ ranges: false });
    const source = await urlSource('https://h/m', { fetch });
    expect(await read(source, 100, 50)).toEqual(data.slice(100, 150));
    expect(requests.length).toBe(1);
    await refuses(
      urlSource('https://h/m', { fetch, maxWholeBytes: 999 }),
      'limit-exceeded',
      /at most 999 bytes, got more than 999/,
    );
    const announced = server({ ranges: false, headers: { 'content-length': '5000' } });
    await refuses(
      urlSource('https://h/m', { fetch: announced.fetch, maxWholeBytes: 999 }),
      'limit-exceeded',
      /got 5000/,
    );
  });

  it('have siblings that keep the query', async () => {
    const { fetch, requests } = server();
    const source = await urlSource('https://h/a/b%20c/m-1.gguf?token=x', { fetch });
    await source.sibling!('m 2.gguf');
    expect(requests[1].url).toBe('https://h/a/b%20c/m%202.gguf?token=x');
  });

  it.each<[string, Behaviour, RegExp]>([
    ['404', { status: 404 }, /^https:\/\/h\/m: request failed, expected status 206, got 404 Nope/],
    ['500', { status: 500 }, /got 500/],
    ['a network failure', { fail: new TypeError('fetch failed') }, /network failure, got TypeError: fetch failed/],
    ['no content-range', { contentRange: null }, /wrong content-range.*got none/],
    ['another content-range', { contentRange: 'bytes 1-1/1000' }, /expected bytes 0-0\/total, got bytes 1-1\/1000/],
    ['a longer content-range', { contentRange: 'bytes 0-5/1000' }, /wrong content-range.*got bytes 0-5\/1000/],
    ['an unknown total', { contentRange: 'bytes 0-0/*' }, /wrong content-range/],
    ['a total of 2^60', { contentRange: 'bytes 0-0/1152921504606846976' }, /wrong content-range/],
    ['a long answer', { body: data }, /answer longer than the range/],
    ['a short answer', { body: new Uint8Array(0) }, /answer shorter than the range, expected 1 bytes, got 0/],
  ])('opening with %s is refused', async (_what, behaviour, message) => {
    await refuses(urlSource('https://h/m', { fetch: server(behaviour).fetch }), 'http', message);
  });

  it.each<[string, Behaviour, RegExp]>([
    ['403', { status: 403 }, /got 403/],
    ['another length', { total: 1001 }, /file changed while it was read, expected 1000 bytes.*got 1001/],
    ['another etag', { headers: { etag: '"b"' } }, /file changed.*"b"/],
    ['the whole file', { ranges: false }, /stopped answering ranges/],
    ['a short answer', { body: data.slice(0, 9) }, /shorter than the range, expected 10 bytes, got 9/],
    ['a long answer', { body: data.slice(0, 11) }, /longer than the range/],
    ['a network failure', { fail: new Error('reset') }, /network failure/],
  ])('reading with %s is refused', async (_what, behaviour, message) => {
    const later = server({ ...behaviour, from: 1 });
    // The first answer carries an etag where the later one does.
    const fetch: typeof globalThis.fetch = async (input, init) => {
      const response = await later.fetch(input, init);
      if (behaviour.headers && later.requests.length === 1) response.headers.set('etag', '"a"');
      return response;
    };
    const source = await urlSource('https://h/m', { fetch });
    await refuses(read(source, 0, 10), 'http', message);
  });

  it('pass the reason of an abort on', async () => {
    const controller = new AbortController();
    const fetch: typeof globalThis.fetch = async (_input, init) => {
      controller.abort(new Error('mine'));
      throw init?.signal?.reason;
    };
    await expect(urlSource('https://h/m', { fetch, signal: controller.signal })).rejects.toThrow('mine');
  });
});

describe('a real server', () => {
  const http = createServer((request, response) => {
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    if (request.url === '/plain' || range === null) return void response.end(data);
    const [begin, last] = range.slice(1).map(Number);
    response.writeHead(206, { 'content-range': `bytes ${begin}-${last}/${data.length}`, etag: '"1"' });
    response.end(data.subarray(begin, last + 1));
  });
  let origin = '';
  beforeAll(async () => {
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    origin = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
  });
  afterAll(() => void http.close());

  it.each(['/ranged', '/plain'])('%s', async (path) => {
    const source = await urlSource(origin + path);
    expect(await read(source, 3, 500)).toEqual(data.slice(3, 503));
    await source.close();
  });

  it('that is not there', async () => {
    await refuses(urlSource('http://127.0.0.1:1/x'), 'http', /network failure/);
  });
});
