/**
 * Files for Node, Deno and Bun, which all offer `node:fs/promises`.
 *
 * Reads go straight into the caller's memory, also when that is shared (a model in a SharedArrayBuffer for worker
 * threads). Whether a runtime reads into shared views is found out by trying: where the first such read is refused
 * as an argument, this source goes on through a bounce buffer of its own.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { ByteSink } from '../formats/sink.ts';
import type { ByteSource } from '../formats/source.ts';
import { checkRange } from '../formats/sources.ts';

/**
 * One read call. Linux transfers at most 2^31 - 4096 bytes at once and Node refuses lengths above 2^31 - 1; pieces of
 * 64 MiB are as fast and leave other reads of the process their turn.
 */
const READ_PIECE_BYTES = 64 << 20;
const BOUNCE_BYTES = 4 << 20;

/** Opens a regular file for reading; its siblings are the files of its folder. */
export async function openFileSource(file: string | URL): Promise<ByteSource> {
  const { open } = await import('node:fs/promises');
  const path = typeof file === 'string' ? file : (await import('node:url')).fileURLToPath(file);
  const handle = await ioOf(path, 'cannot open', open(path, 'r'));
  try {
    const stat = await ioOf(path, 'cannot read', handle.stat());
    want(stat.isFile(), 'io', stat.isDirectory() ? 'is a directory' : 'is not a regular file', () => ({
      where: path,
      expected: 'a file',
      hint: stat.isDirectory() ? 'of a folder with safetensors, bitnet convert makes a GGUF file' : undefined,
    }));
    return new FileSource(path, stat.size, handle);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** The two calls this source makes of a `FileHandle`; tests give it a runtime that refuses shared memory. */
export interface ReadHandle {
  read(target: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }>;
  close(): Promise<void>;
}

/** A source over an open handle; `openFileSource` is the way to get one. */
export class FileSource implements ByteSource {
  readonly label: string;
  readonly byteLength: number;
  #handle: ReadHandle | undefined;
  /** Set once this runtime has refused to read into shared memory. */
  #refusesShared = false;

  constructor(label: string, byteLength: number, handle: ReadHandle) {
    this.label = label;
    this.byteLength = byteLength;
    this.#handle = handle;
  }

  async readInto(target: Uint8Array, offsetBytes: number): Promise<void> {
    const handle = this.#handle;
    want(handle !== undefined, 'disposed', 'read after close', () => ({ where: this.label }));
    checkRange(this.label, this.byteLength, target.length, offsetBytes);
    let done = 0;
    while (done < target.length) {
      const piece = target.subarray(done, Math.min(target.length, done + READ_PIECE_BYTES));
      const count = await this.#readSome(handle, piece, offsetBytes + done);
      // The size was right when the file was opened: somebody has cut it since.
      want(count > 0, 'truncated', 'the file became shorter while it was read', () => ({
        where: this.label,
        expected: `${this.byteLength} bytes`,
        got: `${offsetBytes + done}`,
      }));
      done += count;
    }
  }

  async #readSome(handle: ReadHandle, piece: Uint8Array, position: number): Promise<number> {
    const shared = isShared(piece);
    if (!shared || !this.#refusesShared) {
      try {
        return (await handle.read(piece, 0, piece.length, position)).bytesRead;
      } catch (error) {
        // A refused argument is a TypeError; whatever the file system says is an Error with an errno code.
        if (!shared || !(error instanceof TypeError)) throw ioError(this.label, 'cannot read', error);
        this.#refusesShared = true;
      }
    }
    // A buffer of its own for each call: reads may overlap in time.
    const bounce = new Uint8Array(Math.min(piece.length, BOUNCE_BYTES));
    const { bytesRead } = await ioOf(this.label, 'cannot read', handle.read(bounce, 0, bounce.length, position));
    piece.set(bounce.subarray(0, bytesRead));
    return bytesRead;
  }

  async sibling(fileName: string): Promise<ByteSource> {
    const { dirname, join } = await import('node:path');
    return openFileSource(join(dirname(this.label), fileName));
  }

  async close(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close();
  }
}

function isShared(view: Uint8Array): boolean {
  return typeof SharedArrayBuffer !== 'undefined' && view.buffer instanceof SharedArrayBuffer;
}

/**
 * A file that appears under its name only when it is complete: bytes go to a temporary name in the same folder
 * (another folder might be another file system, where renaming is copying), `close` renames, `abort` removes.
 */
export async function createFileSink(path: string): Promise<ByteSink> {
  const { open, rename, stat, unlink } = await import('node:fs/promises');
  const existing = await stat(path).catch(() => undefined);
  want(existing === undefined || existing.isFile(), 'io', 'exists and is not a regular file', () => ({ where: path }));
  const temporary = `${path}.${crypto.randomUUID().slice(0, 8)}.partial`;
  // "wx": never write through somebody else's file or link of that name.
  const handle = await ioOf(path, 'cannot create', open(temporary, 'wx'));
  const forget = await onExit(({ unlinkSync }) => unlinkSync(temporary));
  let state: 'open' | 'closed' = 'open';
  return {
    label: path,
    async write(chunk) {
      want(state === 'open', 'disposed', 'write after close', () => ({ where: path }));
      let done = 0;
      while (done < chunk.length) {
        const length = Math.min(chunk.length - done, READ_PIECE_BYTES);
        const { bytesWritten } = await ioOf(path, 'cannot write', handle.write(chunk, done, length));
        done += bytesWritten;
      }
    },
    async close() {
      if (state === 'closed') return;
      state = 'closed';
      try {
        await ioOf(path, 'cannot write', handle.close());
        await ioOf(path, 'cannot rename the finished file', rename(temporary, path));
      } catch (error) {
        await unlink(temporary).catch(() => {});
        throw error;
      } finally {
        forget();
      }
    },
    async abort() {
      if (state === 'closed') return;
      state = 'closed';
      await handle.close().catch(() => {});
      await unlink(temporary).catch(() => {});
      forget();
    },
  };
}

/** Cleans up when the process ends before the work does (the second Ctrl-C), until the returned function is called. */
export async function onExit(clean: (fs: typeof import('node:fs')) => void): Promise<() => void> {
  const fs = await import('node:fs');
  const listener = () => {
    try {
      clean(fs);
    } catch {
      // nobody is left to be told
    }
  };
  process.on('exit', listener);
  return () => void process.off('exit', listener);
}

const reasons: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or folder',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EISDIR: 'is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  ENOSPC: 'no space left',
  EMFILE: 'too many open files',
  EROFS: 'read-only file system',
};

/** A failure of the file system, in our words. */
export function ioError(path: string, what: string, error: unknown): BitnetError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : undefined;
  const got = (code !== undefined && reasons[code]) || String(error);
  return new BitnetError('io', what, { where: path, got }, error);
}

async function ioOf<T>(path: string, what: string, pending: Promise<T>): Promise<T> {
  try {
    return await pending;
  } catch (error) {
    throw error instanceof BitnetError ? error : ioError(path, what, error);
  }
}
