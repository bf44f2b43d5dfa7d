/**
 * One download of a file at a time, among processes.
 *
 * Python's client locks with flock(2), which JavaScript has no call for, so this lock is a file that exists: created
 * exclusively, its time renewed while its owner lives, removed at the end. It has a name of its own, because the files
 * of flock stay behind when nobody holds them. It says who owns it, "PID HOST": a dead owner's is taken over, at once if
 * the process is known to be gone, else when it was not renewed for a while.
 *
 * The lock spares downloading twice; nothing depends on it for correctness (download.ts says why), so two processes
 * that get past it at once, by a clock that jumped or a file system that lies, do no harm.
 * @module
 */

import { mkdir, readFile, rename, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import process from 'node:process';
import { pause } from '../../hub/http.ts';
import { ioError } from '../../platform/source-node.ts';

const RENEW_MS = 5_000;
/** Long enough for a machine that swaps. */
const STALE_MS = 30_000;
const POLL_MS = 250;

export interface LockOptions {
  readonly signal?: AbortSignal | undefined;
  /** Told once if somebody else has the lock. */
  readonly onWait?: (() => void) | undefined;
  readonly staleMs?: number;
}

/** Does `work` while holding the lock. */
export async function withLock<T>(path: string, options: LockOptions, work: () => Promise<T>): Promise<T> {
  await acquire(path, options);
  const renewal = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => {});
  }, RENEW_MS);
  renewal.unref();
  try {
    return await work();
  } finally {
    clearInterval(renewal);
    await unlink(path).catch(() => {});
  }
}

async function acquire(path: string, { signal, onWait, staleMs = STALE_MS }: LockOptions): Promise<void> {
  let told = false;
  // The owner's clock may be another machine's: what counts is for how long, here, the file's time has not changed.
  let seen: number | undefined;
  let sinceMs = 0;
  for (;;) {
    signal?.throwIfAborted();
    if (await create(path)) return;
    const mtime = (await stat(path).catch(() => undefined))?.mtimeMs;
    if (mtime !== seen) [seen, sinceMs] = [mtime, performance.now()];
    const stale = mtime !== undefined && performance.now() - sinceMs > staleMs;
    if (stale || (await isOrphan(path))) {
      await takeAway(path);
      continue;
    }
    if (!told) onWait?.();
    told = true;
    await pause(POLL_MS, signal);
  }
}

async function create(path: string): Promise<boolean> {
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, `${process.pid} ${hostname()}`, { flag: 'wx' });
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false;
    throw ioError(path, 'cannot lock', error);
  }
}

/** Whether the owner was a process of this machine that is gone. */
async function isOrphan(path: string): Promise<boolean> {
  const owner = /^(\d+) (.+)$/.exec(await readFile(path, 'utf8').catch(() => ''));
  if (owner === null || owner[2] !== hostname()) return false;
  try {
    process.kill(Number(owner[1]), 0);
    return false;
  } catch (error) {
    return codeOf(error) === 'ESRCH';
  }
}

/** Renamed first: of several that find it dead, one gets to remove it. */
async function takeAway(path: string): Promise<void> {
  const grave = `${path}.${crypto.randomUUID().slice(0, 8)}`;
  await rename(path, grave).then(
    () => unlink(grave),
    () => {},
  );
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}
