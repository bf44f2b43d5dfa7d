/**
 * A hub that tests can break: it speaks the API, redirects and storage of huggingface.co as its clients see them, on
 * two names and ports, so that hub and storage are two origins (Python's client compares names only).
 *
 *     hub      GET  /api/models/ID[/revision/REV][?blobs=true]    sha, siblings
 *              GET  /api/models/ID/tree/REV[/...]?recursive=true  the same as a tree
 *              HEAD|GET /ID/resolve/REV/PATH                      LFS: 302 to the storage; others: 307 to resolve-cache
 *              HEAD|GET /api/resolve-cache/models/ID/SHA/PATH     the bytes of small files
 *     storage  GET  /blobs/SHA256?sig=...                         bytes, ranges, an ETag of its own
 *
 * Shares no code with the client.
 * @module
 */

import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface RepoFile {
  readonly path: string;
  readonly bytes: Uint8Array;
  /** Large files are; default is by name: .gguf and .safetensors. */
  readonly lfs?: boolean;
}

export interface Repo {
  readonly id: string;
  readonly commit: string;
  readonly files: readonly RepoFile[];
  /** Readable only with this token. */
  readonly gatedFor?: string;
  readonly revisions?: readonly string[];
}

/** What one answer does instead of the right thing. */
export type Fault =
  | { readonly status: number; readonly headers?: Record<string, string> }
  /** All headers, `cut` bytes of the body, and the connection is gone. */
  | { readonly cut: number; readonly chunked?: boolean }
  /** So many bytes and a proper end, without a length announced: a proxy that lost its own connection. */
  | { readonly short: number }
  /** Part of a header, and the connection is gone. */
  | { readonly cutHeader: number }
  /** `stall` bytes of the body and then silence. */
  | { readonly stall: number }
  /** One byte every so many milliseconds. */
  | { readonly slowMs: number }
  | { readonly ignoreRange: true }
  | { readonly bytes: Uint8Array; readonly claim?: number }
  | { readonly redirect: string }
  | { readonly headers: Record<string, string> };

export interface Seen {
  readonly at: 'hub' | 'storage';
  readonly method: string;
  readonly url: string;
  readonly range: string | undefined;
  readonly ifRange: string | undefined;
  readonly token: string | undefined;
}

export interface FakeHub {
  readonly endpoint: string;
  readonly storage: string;
  readonly repos: Repo[];
  readonly seen: Seen[];
  /** Called for each request; what it returns goes wrong. */
  fault: (seen: Seen) => Fault | undefined;
  /** Requests for contents, in order. */
  bodies(): Seen[];
  close(): Promise<void>;
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
export const gitBlob = (bytes: Uint8Array): string =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

const isLfs = ({ path, lfs }: RepoFile): boolean => lfs ?? /\.(gguf|safetensors)$/.test(path);
export const etagOf = (file: RepoFile): string => (isLfs(file) ? sha256(file.bytes) : gitBlob(file.bytes));
/** As S3 makes them: of the storage, and nothing to do with the hub's. */
export const storageEtag = (bytes: Uint8Array): string => `"${createHash('md5').update(bytes).digest('hex')}"`;

export async function startHub(...repos: Repo[]): Promise<FakeHub> {
  const hub = createServer((request, response) => answerHub(request, response));
  const storage = createServer((request, response) => answerStorage(request, response));
  const [endpoint, cdn] = [await listen(hub, '127.0.0.1'), await listen(storage, 'localhost')];

  const fake: FakeHub = {
    endpoint,
    storage: cdn,
    repos,
    seen: [],
    fault: () => undefined,
    bodies: () => fake.seen.filter((one) => one.at === 'storage'),
    async close() {
      for (const server of [hub, storage]) {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      }
    },
  };

  function note(at: 'hub' | 'storage', request: IncomingMessage): Fault | undefined {
    const seen: Seen = {
      at,
      method: request.method!,
      url: request.url!,
      range: request.headers.range,
      ifRange: request.headers['if-range'] as string | undefined,
      token: request.headers.authorization,
    };
    fake.seen.push(seen);
    return fake.fault(seen);
  }

  function answerHub(request: IncomingMessage, response: ServerResponse): unknown {
    const fault = note('hub', request);
    if (fault !== undefined && 'status' in fault) return response.writeHead(fault.status, fault.headers).end();
    if (fault !== undefined && 'redirect' in fault) return response.writeHead(302, { location: fault.redirect }).end();
    const url = new URL(request.url!, endpoint);
    const path = decodeURIComponent(url.pathname);
    const refuse = (status: number, code: string): unknown =>
      response.writeHead(status, { 'x-error-code': code, 'x-error-message': `${code}.` }).end();

    const api = /^\/api\/models\/([^/]+\/[^/]+)(?:\/(revision|tree)\/(.+))?$/.exec(path);
    const resolved = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    const direct = /^\/api\/resolve-cache\/models\/([^/]+\/[^/]+)\/([^/]+)\/(.+)$/.exec(path);
    const repo = fake.repos.find(({ id }) => id === (api ?? resolved ?? direct)?.[1]);
    if (repo === undefined) return refuse(401, 'RepoNotFound');
    const revision = (api?.[3] ?? resolved?.[2] ?? direct?.[2] ?? 'main').replace(/\/$/, '');
    if (![repo.commit, 'main', ...(repo.revisions ?? [])].includes(revision)) return refuse(404, 'RevisionNotFound');
    if (api !== null) {
      response.setHeader('content-type', 'application/json');
      if (fault !== undefined && 'bytes' in fault) return response.end(fault.bytes);
      return response.end(JSON.stringify(api[2] === 'tree' ? tree(repo) : info(repo)));
    }
    if (repo.gatedFor !== undefined && request.headers.authorization !== `Bearer ${repo.gatedFor}`)
      return refuse(request.headers.authorization === undefined ? 401 : 403, 'GatedRepo');
    const file = repo.files.find((one) => one.path === (resolved ?? direct)![3]);
    if (file === undefined) return refuse(404, 'EntryNotFound');
    if (direct !== null) {
      return send(request, response, file.bytes, { etag: `"${etagOf(file)}"`, 'x-repo-commit': repo.commit }, fault);
    }
    response.writeHead(isLfs(file) ? 302 : 307, {
      'x-repo-commit': repo.commit,
      'x-linked-etag': `"${etagOf(file)}"`,
      'x-linked-size': file.bytes.length,
      location: isLfs(file)
        ? `${cdn}/blobs/${sha256(file.bytes)}?sig=secret`
        : `/api/resolve-cache/models/${repo.id}/${repo.commit}/${encodeURIComponent(file.path)}`,
      ...(fault !== undefined && 'headers' in fault ? fault.headers : {}),
    });
    return response.end('Found. Redirecting');
  }

  function answerStorage(request: IncomingMessage, response: ServerResponse): unknown {
    const fault = note('storage', request);
    const file = fake.repos
      .flatMap(({ files }) => files)
      .find((one) => request.url === `/blobs/${sha256(one.bytes)}?sig=secret`);
    if (file === undefined) return response.writeHead(403).end();
    return send(request, response, file.bytes, { etag: storageEtag(file.bytes) }, fault);
  }

  return fake;
}

/** Bytes, or the range of them that was asked for. */
function send(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Uint8Array,
  headers: Record<string, string>,
  fault: Fault | undefined,
): unknown {
  if (fault !== undefined && 'status' in fault) return response.writeHead(fault.status, fault.headers).end();
  if (fault !== undefined && 'redirect' in fault) return response.writeHead(302, { location: fault.redirect }).end();
  if (fault !== undefined && 'cutHeader' in fault) {
    const socket = response.socket!;
    const head = `HTTP/1.1 200 OK\r\ncontent-length: ${bytes.length}\r\n\r\n`;
    if (fault.cutHeader === 0) return socket.destroy();
    return socket.end(head.slice(0, fault.cutHeader));
  }
  const whole = fault !== undefined && 'bytes' in fault ? fault.bytes : bytes;
  const all = fault !== undefined && 'headers' in fault ? { ...headers, ...fault.headers } : headers;
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const ifRange = request.headers['if-range'];
  const ignore = (fault !== undefined && 'ignoreRange' in fault) || (ifRange !== undefined && ifRange !== all.etag);
  let body = whole;
  if (range !== null && !ignore) {
    const from = Number(range[1]);
    const to = Math.min(range[2] === '' ? whole.length : Number(range[2]) + 1, whole.length);
    if (from >= whole.length) return response.writeHead(416, { 'content-range': `bytes */${whole.length}` }).end();
    body = whole.subarray(from, to);
    response.statusCode = 206;
    response.setHeader('content-range', `bytes ${from}-${to - 1}/${whole.length}`);
  }
  for (const [name, value] of Object.entries(all)) response.setHeader(name, value);
  const claim = fault !== undefined && 'claim' in fault ? fault.claim : body.length;
  if (fault !== undefined && 'short' in fault) return endWithoutLength(response, body.subarray(0, fault.short));
  if (claim === -1) return endWithoutLength(response, body);
  if (!(fault !== undefined && 'chunked' in fault && fault.chunked)) {
    response.setHeader('content-length', claim ?? body.length);
  }
  if (request.method === 'HEAD') return response.end();
  if (fault !== undefined && 'cut' in fault) {
    response.flushHeaders();
    // Destroyed only after the bytes have left: otherwise nobody would know how many arrive.
    return response.write(body.subarray(0, fault.cut), () => setTimeout(() => response.socket?.destroy(), 5));
  }
  if (fault !== undefined && 'stall' in fault) {
    response.flushHeaders();
    return response.write(body.subarray(0, fault.stall));
  }
  if (fault !== undefined && 'slowMs' in fault) {
    let at = 0;
    const timer = setInterval(() => {
      if (at >= body.length) {
        clearInterval(timer);
        response.end();
      } else response.write(body.subarray(at, ++at));
    }, fault.slowMs);
    return response.on('close', () => clearInterval(timer));
  }
  return response.end(body);
}

/** Node would announce the length of a body that is given whole. */
function endWithoutLength(response: ServerResponse, body: Uint8Array): unknown {
  response.flushHeaders();
  response.write(body);
  return response.end();
}

function info({ id, commit, files }: Repo): unknown {
  return {
    id,
    sha: commit,
    siblings: files.map((file) => ({
      rfilename: file.path,
      size: file.bytes.length,
      blobId: gitBlob(file.bytes),
      ...(isLfs(file) ? { lfs: { sha256: sha256(file.bytes), size: file.bytes.length, pointerSize: 134 } } : {}),
    })),
  };
}

function tree({ files }: Repo): unknown {
  return files.map((file) => ({
    type: 'file',
    path: file.path,
    size: file.bytes.length,
    oid: gitBlob(file.bytes),
    ...(isLfs(file) ? { lfs: { oid: sha256(file.bytes), size: file.bytes.length, pointerSize: 134 } } : {}),
  }));
}

async function listen(server: Server, host: string): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  return `http://${host}:${(server.address() as AddressInfo).port}`;
}
