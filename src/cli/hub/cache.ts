/**
 * The cache of files from the Hugging Face hub, in the layout of Python's huggingface_hub, so that both find what
 * either has downloaded (its docs: "Understand caching"; checked against version 2.0.0):
 *
 *     CACHE/CACHEDIR.TAG                        backup programs pass it by
 *     CACHE/.locks/models--USER--REPO/          locks, see lock.ts
 *     CACHE/models--USER--REPO/refs/main        the commit of a branch or tag, 40 digits and no newline
 *     CACHE/models--USER--REPO/blobs/ETAG       contents, named by what they are
 *     CACHE/models--USER--REPO/snapshots/COMMIT/PATH -> ../../blobs/ETAG
 *
 * A name under snapshots or blobs appears only when the content is complete and verified.
 * @module
 */

import { copyFile, link, mkdir, readdir, readFile, rename, stat, symlink, unlink, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { BitnetError } from '../../errors.ts';
import { checkRelativePath, type HubReference } from '../../hub/reference.ts';
import { ioError } from '../../platform/source-node.ts';

type Env = Readonly<Record<string, string | undefined>>;

/** Files of one commit that are all here. */
export interface CachedSnapshot {
  readonly commit: string;
  readonly folder: string;
  /** Paths in the repository, with `/`. */
  readonly files: readonly string[];
}

/** Deep enough for any repository, and an end for links in a circle. */
const MAX_DEPTH = 16;
const COMMIT = /^[0-9a-f]{40}$/;
/** The standard of bford.info/cachedir. */
const CACHE_TAG = 'Signature: 8a477f597d28d172789f06886806bc55\n# Files downloaded from the Hugging Face hub.\n';

/** The folder of the user's Hugging Face files: HF_HOME. */
export function hubHome(env: Env): string {
  const base = given(env, 'XDG_CACHE_HOME') ?? join(homedir(), '.cache');
  return given(env, 'HF_HOME') ?? join(base, 'huggingface');
}

/** HF_HUB_CACHE, its old name, or `hub` in HF_HOME. */
export function hubCache(env: Env): string {
  return given(env, 'HF_HUB_CACHE') ?? given(env, 'HUGGINGFACE_HUB_CACHE') ?? join(hubHome(env), 'hub');
}

/** A path from the environment, with `~` and `$NAME` as Python expands them. */
function given(env: Env, name: string): string | undefined {
  const text = env[name];
  if (text === undefined || text === '') return undefined;
  const expanded = text
    .replace(/^~(?=$|[/\\])/, () => homedir())
    .replace(/\$(?:\{(\w+)\}|(\w+))/g, (whole, braced, bare) => env[braced ?? bare] ?? whole);
  return resolve(expanded);
}

/** The token of HF_TOKEN or, as written by `hf auth login`, of a file. */
export async function hubToken(env: Env): Promise<string | undefined> {
  let text = env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN;
  let from = 'HF_TOKEN';
  if (text === undefined || text.trim() === '') {
    if (isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return undefined;
    from = given(env, 'HF_TOKEN_PATH') ?? join(hubHome(env), 'token');
    text = await readFile(from, 'utf8').catch(() => '');
  }
  const token = text.trim();
  if (token === '') return undefined;
  // fetch would refuse it too, but with the token in its message.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new BitnetError('bad-argument', 'a token with characters that no token has', { where: from });
  }
  return token;
}

/** What counts as yes in the variables of the hub's clients. */
export function isTrue(text: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(text ?? '');
}

export function repoFolder(cache: string, repo: string): string {
  return join(cache, `models--${repo.replace('/', '--')}`);
}

/** What is here of a revision; undefined if nothing is. */
export async function readSnapshot(
  cache: string,
  { repo, revision }: HubReference,
): Promise<CachedSnapshot | undefined> {
  checkRelativePath(revision, `${repo}: revision`);
  const home = repoFolder(cache, repo);
  let commit = revision;
  if (!COMMIT.test(revision)) {
    commit = (await readFile(join(home, 'refs', ...revision.split('/')), 'utf8').catch(() => '')).trim();
    if (!COMMIT.test(commit)) return undefined;
  }
  const folder = join(home, 'snapshots', commit);
  const files = await listFolder(folder, '', 0);
  return files.length === 0 ? undefined : { commit, folder, files };
}

async function listFolder(folder: string, prefix: string, depth: number): Promise<string[]> {
  const found: string[] = [];
  for (const { name } of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
    const path = join(folder, name);
    // Through links; one that leads nowhere is a file that is not here.
    const facts = await stat(path).catch(() => undefined);
    if (facts?.isFile()) found.push(prefix + name);
    else if (facts?.isDirectory() && depth < MAX_DEPTH) {
      found.push(...(await listFolder(path, `${prefix}${name}/`, depth + 1)));
    }
  }
  return found.sort();
}

/** Writes `refs/REVISION`; nothing to do where the revision is the commit itself. */
export async function writeRef(cache: string, { repo, revision }: HubReference, commit: string): Promise<void> {
  if (revision === commit) return;
  const path = join(repoFolder(cache, repo), 'refs', ...revision.split('/'));
  if ((await readFile(path, 'utf8').catch(() => undefined)) === commit) return;
  await ioOf(path, 'cannot write', async () => {
    await mkdir(dirname(path), { recursive: true });
    await replaceBy(path, (temporary) => writeFile(temporary, commit, { flag: 'wx' }));
  });
}

/** Marks the folder as a cache, once. */
export async function tagCache(cache: string): Promise<void> {
  // Not worth failing for: it exists, or the folder is not ours to write in, and then the download will say so.
  await writeFile(join(cache, 'CACHEDIR.TAG'), CACHE_TAG, { flag: 'wx' }).catch(() => {});
}

/**
 * Makes `pointer` a relative link to `blob`. Where symbolic links are not allowed (Windows without developer mode),
 * a hard link; where those are not either, a copy.
 */
export async function linkBlob(blob: string, pointer: string): Promise<void> {
  await ioOf(pointer, 'cannot write', async () => {
    await mkdir(dirname(pointer), { recursive: true });
    await replaceBy(pointer, async (temporary) => {
      try {
        await symlink(relative(dirname(pointer), blob), temporary);
      } catch {
        await link(blob, temporary).catch(() => copyFile(blob, temporary));
      }
    });
  });
}

/** Whatever `make` makes under a temporary name gets its own by renaming. */
async function replaceBy(path: string, make: (temporary: string) => Promise<void>): Promise<void> {
  const temporary = `${path}.${crypto.randomUUID().slice(0, 8)}.tmp`;
  try {
    await make(temporary);
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => {});
    throw error;
  }
}

async function ioOf<T>(path: string, what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw error instanceof BitnetError ? error : ioError(path, what, error);
  }
}
