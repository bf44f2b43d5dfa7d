/**
 * A file of the hub into the cache: resumed where it was cut, verified, and only then under its name.
 *
 *     blobs/ETAG.bitnet.incomplete    what has come so far, a prefix of the content
 *     blobs/ETAG                      the content, after its length and hash were right and it was on the disk
 *     snapshots/COMMIT/PATH           the link to it
 *
 * The name of the prefix has the hash of the content in it (ETag), so what a later process finds is a prefix of the
 * same content: it goes on from there, and the hash at the end is over all of it. Bytes are written at their places,
 * never appended, and nothing is truncated: two processes writing the same prefix file write the same bytes to the
 * same places. The name is not the `ETAG.incomplete` of Python's client, whose older versions append to it.
 * @module
 */

import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, mkdir, open, rename, stat, statfs, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { BitnetError } from '../../errors.ts';
import { fileFacts, fileUrl, type HubFile, type HubFileFacts, type HubRepo, normalEtag } from '../../hub/api.ts';
import {
  askHub,
  eachChunk,
  type HubAnswer,
  type HubClient,
  TransientError,
  tryAgain,
  visible,
} from '../../hub/http.ts';
import { checkRelativePath } from '../../hub/reference.ts';
import { ioError } from '../../platform/source-node.ts';
import { linkBlob, repoFolder, tagCache } from './cache.ts';
import { withLock } from './lock.ts';

export interface DownloadOptions {
  readonly cache: string;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((path: string, doneBytes: number, totalBytes: number) => void) | undefined;
  /** Told once if another process is downloading the same file. */
  readonly onWait?: ((path: string) => void) | undefined;
}

export interface DownloadedFile {
  readonly path: string;
  /** Where it is: the link of the snapshot. */
  readonly file: string;
  readonly bytes: number;
  /** Unknown when only the cache was looked at. */
  readonly etag: string | undefined;
  /** It was here before. */
  readonly cached: boolean;
}

/** Progress that makes a broken connection a new failure and not one more in a row. */
const PROGRESS_BYTES = 1 << 20;
const READ_BYTES = 4 << 20;

/** Brings one file of `repo` into the cache, unless it is there. */
export async function downloadFile(
  client: HubClient,
  repo: HubRepo,
  wanted: HubFile,
  options: DownloadOptions,
): Promise<DownloadedFile> {
  const { path } = wanted;
  const { cache, signal, onWait } = options;
  checkRelativePath(path, `${repo.repo}: name of a file`);
  const home = repoFolder(cache, repo.repo);
  const facts = await fileFacts(client, repo, path, signal);
  checkAgreement(repo, wanted, facts);
  const { etag, size } = facts;
  const blob = join(home, 'blobs', etag);
  const file = join(home, 'snapshots', repo.commit, ...path.split('/'));
  const result = { path, file, bytes: size, etag };
  if ((await sizeOf(file)) === size) return { ...result, cached: true };

  const job: Job = { client, repo, path, facts, sha256: wanted.sha256, blob, options };
  await makeFolder(dirname(blob));
  await tagCache(cache);
  const lock = join(cache, '.locks', basename(home), `${etag}.bitnet.lock`);
  return withLock(lock, { signal, onWait: () => onWait?.(path) }, async () => {
    const cached = (await sizeOf(blob)) === size;
    if (!cached) await fetchBlob(job);
    await linkBlob(blob, file);
    return { ...result, cached };
  });
}

/** The hub says twice what a file is; a mirror that mixes two versions is found out here. */
function checkAgreement({ repo, commit }: HubRepo, wanted: HubFile, { etag, size }: HubFileFacts): void {
  const sameSize = wanted.size === undefined || wanted.size === size;
  if (sameSize && (wanted.sha256 === undefined || !isSha256(etag) || wanted.sha256 === etag)) return;
  throw new BitnetError('http', 'the server contradicts itself about a file', {
    where: `${repo}@${commit}: ${wanted.path}`,
    expected: `${wanted.size} bytes, SHA-256 ${wanted.sha256 ?? 'unknown'}`,
    got: `${size} bytes, etag ${etag}`,
  });
}

interface Job {
  readonly client: HubClient;
  readonly repo: HubRepo;
  readonly path: string;
  readonly facts: HubFileFacts;
  readonly sha256: string | undefined;
  readonly blob: string;
  readonly options: DownloadOptions;
}

/** How far a download is: the prefix on disk, and its hash so far. */
interface Transfer {
  readonly handle: FileHandle;
  readonly partial: string;
  hash: Hash;
  done: number;
  /** ETag of the last body, which is the storage's and not the hub's: only good for If-Range. */
  bodyEtag: string | undefined;
}

async function fetchBlob(job: Job): Promise<void> {
  const partial = `${job.blob}.bitnet.incomplete`;
  let found = await transfer(job, partial);
  // The prefix was from somewhere else, or has rotted on the disk: once more, from the first byte.
  if (found.mismatch !== undefined && found.resumed) found = await transfer(job, partial);
  if (found.mismatch === undefined) return;
  throw new BitnetError('http', 'wrong content, removed', {
    where: `${job.repo.repo}: ${job.path}`,
    ...found.mismatch,
  });
}

interface Mismatch {
  readonly expected: string;
  readonly got: string;
}

/** Fetches what is missing, verifies all, and gives it its name; wrong content is removed. */
async function transfer(job: Job, partial: string): Promise<{ resumed: boolean; mismatch: Mismatch | undefined }> {
  const { client, facts, options, blob } = job;
  if (((await sizeOf(partial)) ?? 0) > facts.size) await unlink(partial).catch(() => {});
  // Neither truncated if it exists, nor anything but created if not.
  const handle = await open(partial, 'r+')
    .catch(() => open(partial, 'wx+'))
    .catch((error) => {
      throw ioError(partial, 'cannot create', error);
    });
  const state: Transfer = { handle, partial, hash: newHash(job), done: 0, bodyEtag: undefined };
  let mismatch: Mismatch | undefined;
  let resumed = false;
  try {
    await readPrefix(job, state);
    resumed = state.done > 0;
    await checkSpace(partial, facts.size - state.done);
    await tryAgain(client, options.signal, (progress) => fetchRest(job, state, progress));
    mismatch = compare(job, state);
    // On the disk before it has its name: a power cut must not leave a name with nothing behind it.
    if (mismatch === undefined) await ioOf(partial, handle.sync());
  } finally {
    await handle.close().catch(() => {});
  }
  if (mismatch !== undefined) {
    await unlink(partial).catch(() => {});
    return { resumed, mismatch };
  }
  await rename(partial, blob).catch(async (error) => {
    // Somebody who got past the lock was faster.
    if ((await sizeOf(blob)) !== facts.size) throw ioError(partial, 'cannot rename the finished file', error);
  });
  return { resumed, mismatch };
}

/** Hashes what an earlier process left. */
async function readPrefix({ options, facts, path }: Job, state: Transfer): Promise<void> {
  const buffer = new Uint8Array(READ_BYTES);
  while (state.done < facts.size) {
    options.signal?.throwIfAborted();
    const length = Math.min(buffer.length, facts.size - state.done);
    const { bytesRead } = await ioOf(state.partial, state.handle.read(buffer, 0, length, state.done));
    if (bytesRead === 0) break;
    state.hash.update(buffer.subarray(0, bytesRead));
    state.done += bytesRead;
    options.onProgress?.(path, state.done, facts.size);
  }
}

/** One connection: from where we are to the end, or to where it breaks. */
async function fetchRest(job: Job, state: Transfer, progress: () => void): Promise<void> {
  const { client, repo, path, facts, options } = job;
  const { size } = facts;
  if (state.done === size) return;
  const url = fileUrl(client, repo.repo, repo.commit, path);
  let answer: HubAnswer;
  try {
    answer = await askHub(client, url, { signal: options.signal, headers: rangeHeaders(state) });
  } catch (error) {
    // 416: no such range. Then what we have is not a prefix of what the server has.
    if (state.done > 0 && error instanceof BitnetError && error.facts.got?.startsWith('416')) {
      restart(job, state);
      throw new TransientError('the server refused to go on', { where: url, got: error.facts.got });
    }
    throw error;
  }
  const { response, hubHeader } = answer;
  try {
    checkSame(url, facts, hubHeader);
    if (response.status === 206) checkRange(url, response, state.done, size);
    // The whole file: the server knows no ranges, or If-Range found another one.
    else if (state.done > 0) restart(job, state);
    checkLength(url, response, size - state.done);
  } catch (error) {
    await response.body?.cancel().catch(() => {});
    throw error;
  }
  const tag = response.headers.get('etag');
  state.bodyEtag = tag === null || tag.startsWith('W/') ? undefined : tag;
  let mark = state.done;
  await eachChunk(client, response, options.signal, async (chunk) => {
    if (state.done + chunk.length > size) throw tooLong(url, size);
    await writeAll(state, chunk);
    state.hash.update(chunk);
    state.done += chunk.length;
    options.onProgress?.(path, state.done, size);
    if (state.done - mark < PROGRESS_BYTES) return;
    mark = state.done;
    progress();
  });
  if (state.done < size) {
    throw new TransientError('the connection was cut', { where: url, expected: `${size} bytes`, got: `${state.done}` });
  }
}

function rangeHeaders({ done, bodyEtag }: Transfer): Record<string, string> {
  if (done === 0) return {};
  return { range: `bytes=${done}-`, ...(bodyEtag === undefined ? {} : { 'if-range': bodyEtag }) };
}

/** From the first byte. What is on the disk is written over, not cut: it may be another process's, too. */
function restart(job: Job, state: Transfer): void {
  state.hash = newHash(job);
  state.done = 0;
  state.bodyEtag = undefined;
}

function checkSame(url: string, { etag }: HubFileFacts, hubHeader: (name: string) => string | null): void {
  const now = normalEtag(hubHeader('x-linked-etag'));
  if (now === undefined || now === etag) return;
  throw new BitnetError('http', 'the file changed while it was downloaded', { where: url, expected: etag, got: now });
}

function checkRange(url: string, response: Response, done: number, size: number): void {
  const got = response.headers.get('content-range');
  if (done > 0 && got?.toLowerCase() === `bytes ${done}-${size - 1}/${size}`) return;
  throw new BitnetError('http', 'wrong content-range', {
    where: url,
    expected: done > 0 ? `bytes ${done}-${size - 1}/${size}` : 'the whole file',
    got: visible(got ?? 'none'),
  });
}

/** A length that cannot be right is known before the first byte. */
function checkLength(url: string, response: Response, expected: number): void {
  const announced = response.headers.get('content-length');
  if (announced === null || response.headers.get('content-encoding') !== null || Number(announced) === expected) return;
  throw new BitnetError('http', 'wrong length', { where: url, expected: `${expected} bytes`, got: visible(announced) });
}

function tooLong(url: string, size: number): BitnetError {
  return new BitnetError('http', 'more bytes than the file has', { where: url, expected: `${size} bytes` });
}

async function writeAll({ handle, partial, done }: Transfer, chunk: Uint8Array): Promise<void> {
  for (let at = 0; at < chunk.length; ) {
    const { bytesWritten } = await ioOf(partial, handle.write(chunk, at, chunk.length - at, done + at));
    at += bytesWritten;
  }
}

const isSha256 = (etag: string): boolean => /^[0-9a-f]{64}$/.test(etag);
const isSha1 = (etag: string): boolean => /^[0-9a-f]{40}$/.test(etag);

/** SHA-256 of the content, or, for files that are no LFS files, the id of a git blob: SHA-1 of "blob LENGTH\0" and it. */
function newHash({ facts: { etag, size }, sha256 }: Job): Hash {
  return sha256 === undefined && isSha1(etag) ? createHash('sha1').update(`blob ${size}\0`) : createHash('sha256');
}

function compare({ facts: { etag }, sha256 }: Job, { hash }: Transfer): Mismatch | undefined {
  const got = hash.digest('hex');
  if (sha256 === undefined && isSha1(etag)) {
    return got === etag ? undefined : { expected: `git blob ${etag}`, got };
  }
  const expected = sha256 ?? (isSha256(etag) ? etag : undefined);
  // A server that is not the hub may name contents as it likes; then the length is all there is.
  return expected === undefined || got === expected ? undefined : { expected: `SHA-256 ${expected}`, got };
}

async function checkSpace(path: string, needed: number): Promise<void> {
  let free: number;
  try {
    const { bavail, bsize } = await statfs(dirname(path));
    free = bavail * bsize;
  } catch {
    return; // not every runtime and file system tells
  }
  if (free >= needed) return;
  throw new BitnetError('io', 'not enough space', {
    where: dirname(path),
    expected: `${needed} bytes free`,
    got: `${free}`,
    hint: 'HF_HUB_CACHE names another folder',
  });
}

/** Length of a regular file, through links. */
async function sizeOf(path: string): Promise<number | undefined> {
  const facts = await stat(path).catch(() => undefined);
  return facts?.isFile() ? facts.size : undefined;
}

async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true }).catch((error) => {
    throw ioError(path, 'cannot create the folder', error);
  });
}

async function ioOf<T>(path: string, pending: Promise<T>): Promise<T> {
  try {
    return await pending;
  } catch (error) {
    throw ioError(path, 'cannot write', error);
  }
}
