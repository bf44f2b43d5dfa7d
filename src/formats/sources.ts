/**
 * Byte sources made of web standards only: memory, Blob (a picked file), URL with range requests.
 * Paths need a runtime: `src/platform/source-node.ts`.
 *
 * Targets of `readInto` may be views of shared memory. Web APIs hand out their own buffers, so there is always one
 * copy here; big reads go through bounded pieces, so that copy stays small.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { joinChunks } from './chunks.ts';
import type { ByteSource } from './source.ts';

/** Blob pieces: large enough to be fast, small beside a model. */
const BLOB_PIECE_BYTES = 16 << 20;

/**
 * Without range support a file must be downloaded whole and kept in memory. Enough for tiny models and vocabularies;
 * whoever wants to hold gigabytes says so with `maxWholeBytes`.
 */
const MAX_WHOLE_BYTES = 512 << 20;

/** Bytes that are already in memory. Nothing is copied: changing them changes what is read. */
export function memorySource(bytes: Uint8Array, label = 'memory'): ByteSource {
  return {
    label,
    byteLength: bytes.length,
    async readInto(target, offsetBytes) {
      checkRange(label, bytes.length, target.length, offsetBytes);
      target.set(bytes.subarray(offsetBytes, offsetBytes + target.length));
    },
    async close() {},
  };
}

/** A `Blob` or `File`. */
export function blobSource(blob: Blob, label?: string): ByteSource {
  const name = label ?? ('name' in blob && typeof blob.name === 'string' ? blob.name : 'Blob');
  return {
    label: name,
    byteLength: blob.size,
    async readInto(target, offsetBytes) {
      checkRange(name, blob.size, target.length, offsetBytes);
      for (let done = 0; done < target.length; done += BLOB_PIECE_BYTES) {
        const end = Math.min(done + BLOB_PIECE_BYTES, target.length);
        const piece = await ioOf(name, blob.slice(offsetBytes + done, offsetBytes + end).arrayBuffer());
        want(piece.byteLength === end - done, 'io', 'short read', () => ({
          where: name,
          expected: `${end - done} bytes`,
          got: `${piece.byteLength}`,
        }));
        target.set(new Uint8Array(piece), done);
      }
    },
    async close() {},
  };
}

export interface UrlSourceOptions {
  /** For headers (tokens), caches, proxies or tests. */
  readonly fetch?: typeof fetch;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Ceiling for servers that ignore ranges, where the whole file must fit in memory. */
  readonly maxWholeBytes?: number;
}

/**
 * A file behind http(s). One small ranged request tells whether the server cuts ranges and how long the file is;
 * if it does not, the answer to that very request is the whole file and is kept. Nothing is retried: a failure is
 * reported with its status, and the caller knows better whether to wait.
 *
 * Trap: a server may change the file between requests. Every answer must carry the same total length, and the same
 * strong ETag where there is one.
 */
export async function urlSource(url: string | URL, options: UrlSourceOptions = {}): Promise<ByteSource> {
  const label = String(url);
  const request = options.fetch ?? fetch;
  const first = await fetchRange(request, label, 0, 1, options);
  if (first.status === 200) {
    const whole = await readWhole(label, first, options.maxWholeBytes ?? MAX_WHOLE_BYTES);
    return { ...memorySource(whole, label), sibling: (name) => urlSource(siblingUrl(label, name), options) };
  }
  const { total } = contentRange(label, first, 0, 1);
  const etag = strongEtag(first);
  await readExactly(label, first, new Uint8Array(1));
  return {
    label,
    byteLength: total,
    async readInto(target, offsetBytes) {
      checkRange(label, total, target.length, offsetBytes);
      if (target.length === 0) return;
      const response = await fetchRange(request, label, offsetBytes, offsetBytes + target.length, options);
      if (response.status === 200) {
        await response.body?.cancel();
        throw new BitnetError('http', 'the server stopped answering ranges', {
          where: label,
          expected: '206',
          got: '200',
        });
      }
      const range = contentRange(label, response, offsetBytes, offsetBytes + target.length);
      const tag = strongEtag(response);
      const same = range.total === total && (etag === undefined || tag === undefined || tag === etag);
      if (!same) await response.body?.cancel();
      want(same, 'http', 'the file changed while it was read', () => ({
        where: label,
        expected: `${total} bytes, etag ${etag ?? 'none'}`,
        got: `${range.total} bytes, etag ${tag ?? 'none'}`,
      }));
      await readExactly(label, response, target);
    },
    sibling: (name) => urlSource(siblingUrl(label, name), options),
    async close() {},
  };
}

/** Throws unless `length` bytes from `offsetBytes` on lie within a source of `byteLength`. */
export function checkRange(label: string, byteLength: number, length: number, offsetBytes: number): void {
  want(Number.isSafeInteger(offsetBytes) && offsetBytes >= 0, 'bad-argument', 'bad offset', () => ({
    where: label,
    expected: 'an integer of 0 to 2^53-1',
    got: show(offsetBytes),
  }));
  want(offsetBytes + length <= byteLength, 'truncated', 'read beyond the end', () => ({
    where: label,
    expected: `at least ${offsetBytes + length} bytes`,
    got: `${byteLength}`,
  }));
}

/** The URL of a file beside `url`; the query stays, because download links carry their access in it. */
function siblingUrl(url: string, fileName: string): string {
  const sibling = new URL(url);
  const folder = sibling.pathname.slice(0, sibling.pathname.lastIndexOf('/') + 1);
  sibling.pathname = folder + fileName.split('/').map(encodeURIComponent).join('/');
  return sibling.href;
}

async function fetchRange(
  request: typeof fetch,
  label: string,
  begin: number,
  end: number,
  { headers, signal }: UrlSourceOptions,
): Promise<Response> {
  // Compressed transfer would make ranges count compressed bytes.
  const ranged = { ...headers, Range: `bytes=${begin}-${end - 1}`, 'Accept-Encoding': 'identity' };
  const response = await httpOf(
    label,
    request(label, signal === undefined ? { headers: ranged } : { headers: ranged, signal }),
    signal,
  );
  if (response.status === 200 || response.status === 206) return response;
  await response.body?.cancel();
  throw new BitnetError('http', 'request failed', {
    where: label,
    expected: 'status 206',
    got: `${response.status} ${response.statusText}`.trim(),
  });
}

/** Checks `Content-Range: bytes begin-last/total` against what was asked for. */
function contentRange(label: string, response: Response, begin: number, end: number): { total: number } {
  const text = response.headers.get('content-range') ?? '';
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16})$/i.exec(text);
  const [from, last, total] = (match ?? []).slice(1).map(Number);
  const right = match !== null && from === begin && last === end - 1 && Number.isSafeInteger(total) && total >= end;
  if (!right) void response.body?.cancel();
  want(right, 'http', 'wrong content-range', () => ({
    where: label,
    expected: `bytes ${begin}-${end - 1}/total`,
    got: text === '' ? 'none (a cross-origin server must expose the header)' : text,
  }));
  return { total };
}

function strongEtag(response: Response): string | undefined {
  const tag = response.headers.get('etag');
  return tag === null || tag.startsWith('W/') ? undefined : tag;
}

/** The body of `response`, which must be exactly as long as `target`. */
async function readExactly(label: string, response: Response, target: Uint8Array): Promise<void> {
  let done = 0;
  await eachChunk(label, response, (chunk) => {
    want(done + chunk.length <= target.length, 'http', 'answer longer than the range', () => ({
      where: label,
      expected: `${target.length} bytes`,
    }));
    target.set(chunk, done);
    done += chunk.length;
  });
  want(done === target.length, 'http', 'answer shorter than the range', () => ({
    where: label,
    expected: `${target.length} bytes`,
    got: `${done}`,
  }));
}

/** The whole body, refused as soon as it is known to exceed the ceiling. */
async function readWhole(label: string, response: Response, ceiling: number): Promise<Uint8Array> {
  const refuse = (got: string) =>
    new BitnetError('limit-exceeded', 'the server does not answer ranges and the file is too large to hold', {
      where: label,
      expected: `at most ${ceiling} bytes`,
      got,
      hint: 'download the file, or raise maxWholeBytes',
    });
  const announced = Number(response.headers.get('content-length') ?? 0);
  if (announced > ceiling) {
    await response.body?.cancel();
    throw refuse(`${announced}`);
  }
  const chunks: Uint8Array[] = [];
  let length = 0;
  await eachChunk(label, response, (chunk) => {
    length += chunk.length;
    if (length > ceiling) throw refuse(`more than ${ceiling}`);
    chunks.push(chunk);
  });
  return joinChunks(chunks, length);
}

/** Feeds the body to `take`; cancels the transfer if that throws. */
async function eachChunk(label: string, response: Response, take: (chunk: Uint8Array) => void): Promise<void> {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  try {
    for (;;) {
      const { done, value } = await httpOf(label, reader.read());
      if (done) return;
      take(value);
    }
  } catch (error) {
    await reader.cancel().catch(() => {});
    throw error;
  }
}

/** Network failures as `BitnetError('http')`; an abort passes with the caller's own reason. */
async function httpOf<T>(label: string, pending: Promise<T>, signal?: AbortSignal): Promise<T> {
  try {
    return await pending;
  } catch (error) {
    if (signal?.aborted || (error instanceof Error && error.name === 'AbortError')) throw error;
    if (error instanceof BitnetError) throw error; // of the caller's own fetch
    // fetch says only that it failed; the reason (ENOTFOUND, ECONNREFUSED) is in its cause.
    const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : '';
    throw new BitnetError('http', 'network failure', { where: label, got: `${error}${cause}` }, error);
  }
}

async function ioOf<T>(label: string, pending: Promise<T>): Promise<T> {
  try {
    return await pending;
  } catch (error) {
    throw new BitnetError('io', 'cannot read', { where: label, got: String(error) }, error);
  }
}
