/**
 * Folders for Node, Deno and Bun that appear when they are complete.
 * @module
 */

import { want } from '../errors.ts';
import type { ByteSink } from '../formats/sink.ts';
import type { ByteSource } from '../formats/source.ts';
import { createFileSink, ioError, onExit, openFileSource } from './source-node.ts';

export interface FolderSink {
  readonly label: string;
  /** A file of it, which appears when it is complete. Of a name with `/`, the folders before it are made too. */
  create(name: string): Promise<ByteSink>;
  /** Adds to the end of a file; a thousand of them may be under way, none stays open. */
  append(name: string, chunk: Uint8Array): Promise<void>;
  /** A file of it, to read again. */
  open(name: string): Promise<ByteSource>;
  close(): Promise<void>;
  abort(): Promise<void>;
}

/** The plain files of a folder. */
export async function openFolder(path: string): Promise<{
  readonly label: string;
  readonly names: readonly string[];
  open(name: string): Promise<ByteSource>;
  close(): Promise<void>;
}> {
  const { readdir } = await import('node:fs/promises');
  const { join } = await import('node:path');
  const entries = await readdir(path, { withFileTypes: true }).catch((error) => {
    throw ioError(path, 'cannot read the folder', error);
  });
  const names = entries.filter((entry) => entry.isFile()).map(({ name }) => name);
  return {
    label: path,
    names: names.toSorted(),
    open: (name) => openFileSource(join(path, name)),
    close: async () => undefined,
  };
}

/** Bytes that are left for a file of this path; undefined where the system does not tell. */
export async function freeBytesAt(path: string): Promise<number | undefined> {
  const { statfs } = await import('node:fs/promises');
  const { dirname, resolve } = await import('node:path');
  try {
    const { bavail, bsize } = await statfs(dirname(resolve(path)));
    return bavail * bsize;
  } catch {
    return undefined;
  }
}

/**
 * A folder that is filled under a temporary name beside its own: `close` renames, `abort` removes. What exists already is
 * refused, unless it is an empty folder.
 */
export async function createFolderSink(path: string): Promise<FolderSink> {
  const { appendFile, mkdir, readdir, rename, rm, rmdir } = await import('node:fs/promises');
  const { dirname, join, resolve } = await import('node:path');
  const target = resolve(path);
  const existing = await readdir(target).catch((error) => {
    if (error.code === 'ENOENT') return undefined;
    throw ioError(path, 'exists and is not a folder', error);
  });
  want(existing === undefined || existing.length === 0, 'io', 'the folder is not empty', () => ({ where: path }));
  const temporary = `${target}.${crypto.randomUUID().slice(0, 8)}.partial`;
  await mkdir(temporary).catch((error) => {
    throw ioError(path, 'cannot create', error);
  });
  const forget = await onExit(({ rmSync }) => rmSync(temporary, { recursive: true, force: true }));
  let state: 'open' | 'closed' = 'open';
  const remove = () => rm(temporary, { recursive: true, force: true }).catch(() => {});
  return {
    label: path,
    async create(name) {
      const file = join(temporary, name);
      await mkdir(dirname(file), { recursive: true }).catch((error) => {
        throw ioError(path, 'cannot create', error);
      });
      return createFileSink(file);
    },
    append: (name, chunk) =>
      appendFile(join(temporary, name), chunk).catch((error) => {
        throw ioError(path, 'cannot write', error);
      }),
    open: (name) => openFileSource(join(temporary, name)),
    async close() {
      if (state === 'closed') return;
      state = 'closed';
      try {
        if (existing !== undefined) await rmdir(target);
        await rename(temporary, target);
      } catch (error) {
        await remove();
        throw ioError(path, 'cannot rename the finished folder', error);
      } finally {
        forget();
      }
    },
    async abort() {
      if (state === 'closed') return;
      state = 'closed';
      await remove();
      forget();
    },
  };
}
