/**
 * What the hub tells about a repository and its files.
 *
 *     GET  /api/models/USER/REPO/revision/REV?blobs=true   commit, and for each file: name, size, git blob id, LFS SHA-256
 *     HEAD /USER/REPO/resolve/REV/PATH                     x-repo-commit, x-linked-etag, x-linked-size; redirects
 *
 * `etag` names the content: the SHA-256 of an LFS file, the git blob id (SHA-1) of a small one. The answers are checked
 * as input from outside: names become paths in the cache.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { askHub, eachChunk, type HubClient, TransientError, tryAgain, visible } from './http.ts';
import { checkRelativePath, type HubReference } from './reference.ts';

/** A list of a hundred thousand files is 20 MB. */
const MAX_LIST_BYTES = 64 << 20;
const MAX_FILES = 200_000;

export interface HubFile {
  readonly path: string;
  /** Undefined where the server does not say. */
  readonly size: number | undefined;
  /** Of the content, for files under LFS. */
  readonly sha256: string | undefined;
}

export interface HubRepo {
  readonly repo: string;
  /** 40 hexadecimal digits. */
  readonly commit: string;
  readonly files: readonly HubFile[];
}

/** What must be known of a file before it is fetched. */
export interface HubFileFacts {
  /** Without quotes; a file name in the cache. */
  readonly etag: string;
  readonly size: number;
}

/** The commit of a revision and its files. */
export async function listRepo(
  client: HubClient,
  { repo, revision }: HubReference,
  signal?: AbortSignal,
): Promise<HubRepo> {
  const url = `${client.endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const text = await tryAgain(client, signal, async () => {
    const { response } = await askHub(client, url, { signal, headers: { accept: 'application/json' } });
    return readText(client, url, response, signal);
  });
  return parseRepo(repo, url, text);
}

/** Etag and length of a file; the body is not asked for. */
export async function fileFacts(
  client: HubClient,
  { repo, commit }: HubRepo,
  path: string,
  signal?: AbortSignal,
): Promise<HubFileFacts> {
  const url = fileUrl(client, repo, commit, path);
  const { response, hubHeader } = await tryAgain(client, signal, () =>
    askHub(client, url, { method: 'HEAD', signal, stayOnHub: true }),
  );
  await response.body?.cancel().catch(() => {});
  const told = hubHeader('x-repo-commit');
  want(told === null || told === commit, 'http', 'answer for another commit', () => ({
    where: url,
    expected: commit,
    got: visible(`${told}`),
  }));
  const etag = normalEtag(hubHeader('x-linked-etag') ?? hubHeader('etag'));
  want(etag !== undefined, 'http', 'no usable etag', () => ({
    where: url,
    expected: 'x-linked-etag or etag',
    got: visible(hubHeader('x-linked-etag') ?? hubHeader('etag') ?? 'none'),
  }));
  // A redirect has a length of its own, that of its body.
  const length = hubHeader('x-linked-size') ?? (response.ok ? response.headers.get('content-length') : null);
  const size = length !== null && /^\d{1,16}$/.test(length) ? Number(length) : Number.NaN;
  want(Number.isSafeInteger(size), 'http', 'no usable length', () => ({
    where: url,
    expected: 'x-linked-size or content-length',
    got: visible(length ?? 'none'),
  }));
  return { etag, size };
}

export function fileUrl(client: HubClient, repo: string, revision: string, path: string): string {
  const escaped = path.split('/').map(encodeURIComponent).join('/');
  return `${client.endpoint}/${repo}/resolve/${encodeURIComponent(revision)}/${escaped}`;
}

/** `W/"abc"` and `"abc"` as `abc`; undefined if that could not be the name of a file. */
export function normalEtag(text: string | null): string | undefined {
  const bare = text?.replace(/^W\//, '').replaceAll('"', '') ?? '';
  return /^[\w-][\w.-]{0,127}$/.test(bare) ? bare : undefined;
}

async function readText(
  client: HubClient,
  url: string,
  response: Response,
  signal: AbortSignal | undefined,
): Promise<string> {
  const decoder = new TextDecoder();
  let text = '';
  let length = 0;
  await eachChunk(client, response, signal, (chunk) => {
    length += chunk.length;
    want(length <= MAX_LIST_BYTES, 'limit-exceeded', 'answer too long', () => ({
      where: url,
      expected: `at most ${MAX_LIST_BYTES} bytes`,
    }));
    text += decoder.decode(chunk, { stream: true });
  });
  const announced = response.headers.get('content-length');
  if (announced !== null && Number(announced) !== length && response.headers.get('content-encoding') === null) {
    throw new TransientError('answer cut short', { where: url, expected: `${announced} bytes`, got: `${length}` });
  }
  return text + decoder.decode();
}

function parseRepo(repo: string, url: string, text: string): HubRepo {
  const bad = (got: string): never => {
    throw new BitnetError('http', 'not an answer of the hub', {
      where: url,
      expected: 'JSON with sha and siblings',
      got: visible(got),
    });
  };
  const { sha, siblings } = record(parseJson(text)) ?? bad(`${text.slice(0, 80)}`);
  if (typeof sha !== 'string' || !/^[0-9a-f]{40}$/.test(sha)) return bad(`sha ${String(sha).slice(0, 80)}`);
  if (!Array.isArray(siblings) || siblings.length > MAX_FILES)
    return bad('siblings that are no list, or a very long one');
  const files = siblings.map((sibling: unknown): HubFile => {
    const { rfilename, size, lfs } = record(sibling) ?? bad('a file that is no object');
    if (typeof rfilename !== 'string') return bad('a file without a name');
    checkRelativePath(rfilename, `${repo}: name of a file`);
    const { sha256 } = record(lfs) ?? {};
    return {
      path: rfilename,
      size: Number.isSafeInteger(size) && (size as number) >= 0 ? (size as number) : undefined,
      sha256: typeof sha256 === 'string' && /^[0-9a-f]{64}$/.test(sha256) ? sha256 : undefined,
    };
  });
  return { repo, commit: sha, files };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function record(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
}
