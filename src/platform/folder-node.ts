/**
 * Folders for Node, Deno and Bun that appear when they are complete.
 * @module
 */

import { want } from '../errors.ts';
import type { ByteSink } from '../formats/sink.ts';
import { createFileSink, ioError, onExit } from './source-node.ts';

export interface FolderSink {
  readonly label: string;
  /** Of a name with `/`, the folders before it are made too. */
  create(name: string): Promise<ByteSink>;
  close(): Promise<void>;
  abort(): Promise<void>;
}

/**
 * A folder that is filled under a temporary name beside its own: `close` renames, `abort` removes. What exists already is
 * refused, unless it is an empty folder.
 */
export async function createFolderSink(path: string): Promise<FolderSink> {
  const { mkdir, readdir, rename, rm, rmdir } = await import('node:fs/promises');
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
