/**
 * Models on the Hugging Face hub, for commands: from the cache, by download into it, or read in place.
 *
 * Environment, as for every client of the hub: HF_ENDPOINT, HF_TOKEN (or the file that `hf auth login` writes),
 * HF_HUB_CACHE, HF_HOME, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT.
 * @module
 */

import { join } from 'node:path';
import { BitnetError } from '../errors.ts';
import { type ByteSource, openModelSource } from '../formats/index.ts';
import { fileUrl, type HubRepo, listRepo } from '../hub/api.ts';
import { checkpointFiles, chooseFile, findFile, partsOf } from '../hub/choose.ts';
import { hubFetch } from '../hub/fetch.ts';
import { clientDefaults, type HubClient } from '../hub/http.ts';
import { type HubReference, parseHubReference } from '../hub/reference.ts';
import { openFileSource } from '../platform/source-node.ts';
import { UsageError } from './flags.ts';
import { bytes, duration, percent } from './format.ts';
import { type CachedSnapshot, hubCache, hubToken, isTrue, readSnapshot, writeRef } from './hub/cache.ts';
import { type DownloadedFile, downloadFile } from './hub/download.ts';
import type { Io } from './io.ts';

export interface HubChoices {
  /** Nothing on stderr but errors. */
  readonly quiet: boolean;
  /** Only the cache. */
  readonly offline: boolean;
}

/** Files of one commit in the cache. */
export interface Pulled {
  readonly commit: string;
  /** The folder of the snapshot. */
  readonly folder: string;
  readonly files: readonly DownloadedFile[];
}

const SPEED_WINDOW_MS = 5_000;

/** The hub as the environment describes it. */
export async function hubClient(io: Io, quiet: boolean): Promise<HubClient> {
  const { HF_ENDPOINT, HF_HUB_DOWNLOAD_TIMEOUT } = io.env;
  const endpoint = (HF_ENDPOINT || clientDefaults.endpoint).replace(/\/+$/, '');
  if (!/^https?:\/\/[^/]+/i.test(endpoint) || !URL.canParse(endpoint)) {
    throw new BitnetError('bad-argument', 'not a URL', { where: 'HF_ENDPOINT', got: endpoint.slice(0, 200) });
  }
  const seconds = Number(HF_HUB_DOWNLOAD_TIMEOUT || Number.NaN);
  return {
    ...clientDefaults,
    endpoint,
    token: await hubToken(io.env),
    ...(seconds > 0 && seconds < 1e6 ? { silenceMs: seconds * 1000 } : {}),
    ...(quiet
      ? {}
      : { onRetry: (failure, waitMs) => io.note(`${failure.message}; trying again in ${duration(waitMs)}`) }),
  };
}

/** A reference from the command line, where a wrong one is a wrong command line. */
export function referenceOf(what: string, text: string): HubReference {
  try {
    return parseHubReference(text);
  } catch (error) {
    throw error instanceof BitnetError ? new UsageError(`${what}: ${error.message}`) : error;
  }
}

/** Whether the hub must not be asked. */
export function isOffline(io: Io, flag: boolean): boolean {
  return flag || isTrue(io.env.HF_HUB_OFFLINE || io.env.TRANSFORMERS_OFFLINE);
}

/**
 * The bytes of a model on the hub. What is in the cache is taken as it is, without asking whether the hub has a newer
 * one: `pull` asks. `inPlace` reads by ranges what is not in the cache, `ignoreCache` in any case.
 */
export async function openHubModel(
  reference: HubReference,
  choices: HubChoices & { readonly inPlace: boolean; readonly ignoreCache: boolean },
  io: Io,
): Promise<ByteSource> {
  if (!choices.ignoreCache) {
    const snapshot = await readSnapshot(hubCache(io.env), reference);
    const file = snapshot === undefined ? undefined : cachedFile(snapshot, reference);
    if (file !== undefined) return openModelSource(file, { openPath: openFileSource, signal: io.signal });
  }
  if (choices.offline) throw await notCached(reference, io);
  if (choices.inPlace || choices.ignoreCache) {
    const client = await hubClient(io, choices.quiet);
    const { repo, commit, files } = await listRepo(client, reference, io.signal);
    const url = fileUrl(client, repo, commit, chooseFile(repo, namesOf(files), reference));
    return openModelSource(url, { fetch: hubFetch(client), signal: io.signal });
  }
  const { files } = await pullModel(reference, choices, io);
  return openModelSource(files[0].file, { openPath: openFileSource, signal: io.signal });
}

/** Brings a model into the cache: one file, or all parts of a split one, the first part first. */
export async function pullModel(reference: HubReference, choices: HubChoices, io: Io): Promise<Pulled> {
  return pull(reference, choices, io, (names) => {
    const parts = partsOf(chooseFile(reference.repo, names, reference));
    for (const part of parts) chooseFile(reference.repo, names, { file: part, quant: undefined });
    return parts;
  });
}

/** Brings into the cache what `bitnet convert` reads. */
export async function pullCheckpoint(reference: HubReference, choices: HubChoices, io: Io): Promise<Pulled> {
  return pull(reference, choices, io, (names) => checkpointFiles(reference.repo, names));
}

async function pull(
  reference: HubReference,
  choices: HubChoices,
  io: Io,
  choose: (names: readonly string[]) => string[],
): Promise<Pulled> {
  const cache = hubCache(io.env);
  if (choices.offline) return pullNothing(reference, io, choose);
  const client = await hubClient(io, choices.quiet);
  const repo = await listRepo(client, reference, io.signal);
  const files: DownloadedFile[] = [];
  try {
    for (const name of choose(namesOf(repo.files))) {
      files.push(
        await downloadFile(client, repo, repo.files.find(({ path }) => path === name)!, {
          cache,
          signal: io.signal,
          onProgress: choices.quiet ? undefined : downloadProgress(io),
          onWait: choices.quiet ? undefined : (path) => io.note(`${path}: waiting for another process to download it`),
        }),
      );
    }
  } finally {
    io.status('');
  }
  // Last: until then the branch stays what it was, and what was cached of it stays usable.
  await writeRef(cache, reference, repo.commit);
  return { commit: repo.commit, folder: folderOf(files), files };
}

/** What there is of it, offline. */
async function pullNothing(
  reference: HubReference,
  io: Io,
  choose: (names: readonly string[]) => string[],
): Promise<Pulled> {
  const snapshot = await readSnapshot(hubCache(io.env), reference);
  if (snapshot === undefined) throw await notCached(reference, io);
  const { commit, folder } = snapshot;
  const files: DownloadedFile[] = [];
  for (const path of choose(snapshot.files)) {
    const file = join(folder, ...path.split('/'));
    const source = await openFileSource(file);
    files.push({ path, file, bytes: source.byteLength, etag: undefined, cached: true });
    await source.close();
  }
  return { commit, folder, files };
}

/** The path of a model that is here with all its parts. */
function cachedFile({ folder, files }: CachedSnapshot, reference: HubReference): string | undefined {
  const file = findFile(files, reference);
  const whole = file !== undefined && partsOf(file).every((part) => files.includes(part));
  return whole ? join(folder, ...file.split('/')) : undefined;
}

async function notCached(reference: HubReference, io: Io): Promise<BitnetError> {
  const cache = hubCache(io.env);
  const snapshot = await readSnapshot(cache, reference);
  return new BitnetError('io', 'not in the cache, and offline', {
    where: `${reference.repo}@${reference.revision}`,
    expected: `${reference.file ?? reference.quant ?? 'a GGUF file'} in ${cache}`,
    got: snapshot === undefined ? 'nothing of it' : snapshot.files.join(', '),
  });
}

function namesOf(files: HubRepo['files']): string[] {
  return files.map(({ path }) => path);
}

/** The folder of the snapshot: where the first file is, less its own folders. */
function folderOf([first]: readonly DownloadedFile[]): string {
  return join(first.file, ...first.path.split('/').map(() => '..'));
}

/** `downloading  42%  1.20 GiB of 2.80 GiB  35.1 MiB/s  model.gguf`. */
function downloadProgress(io: Io): ((path: string, doneBytes: number, totalBytes: number) => void) | undefined {
  if (!io.errIsTerminal) return undefined;
  let [fromMs, fromBytes] = [Number.NaN, 0];
  let speed = 0;
  return (path, doneBytes, totalBytes) => {
    const now = performance.now();
    // What was on the disk already is no speed of the network: the first report only sets the start.
    if (Number.isNaN(fromMs) || now - fromMs > SPEED_WINDOW_MS) [fromMs, fromBytes] = [now, doneBytes];
    if (now - fromMs > 200) speed = (1000 * (doneBytes - fromBytes)) / (now - fromMs);
    const rate = speed > 0 ? `  ${bytes(Math.round(speed))}/s` : '';
    io.status(
      `downloading ${percent(doneBytes, totalBytes)}  ${bytes(doneBytes)} of ${bytes(totalBytes)}${rate}  ${path}`,
    );
  };
}
