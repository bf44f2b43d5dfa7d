/**
 * What a trace needs of the world: a set of named files to read, and a folder to fill. `src/platform` has them on disks, `zip.ts`
 * in an archive.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import { type ByteSink, memorySink } from '../../formats/sink.ts';
import type { ByteSource } from '../../formats/source.ts';
import { memorySource } from '../../formats/sources.ts';

/** Named files, read only. */
export interface FileSet {
  readonly label: string;
  /** Without folders. */
  readonly names: readonly string[];
  open(name: string): Promise<ByteSource>;
  /** Reads everything and compares with the checksums that the set has of its own, if any. */
  verify?(): Promise<void>;
  close(): Promise<void>;
}

/** A folder that appears under its name when it is complete. */
export interface FolderTarget {
  readonly label: string;
  /** Adds to the end of a file; many may be under way without being open. */
  append(name: string, chunk: Uint8Array): Promise<void>;
  /** A file of it, to read again. */
  open(name: string): Promise<ByteSource>;
  /** Completes the folder under its name. */
  close(): Promise<void>;
  /** Removes what is not complete. Idempotent, does nothing after `close`. */
  abort(): Promise<void>;
}

/** A SHA-256 that takes its input piece by piece, which web standards do not have. */
export interface RunningHash {
  update(chunk: Uint8Array): unknown;
  digest(encoding: 'hex'): string;
}

/** Where a trace goes: a folder; or a folder for the parts and a sink for the archive that they become. */
export type TraceTarget =
  | { readonly folder: FolderTarget; readonly archive?: undefined }
  | { readonly folder: FolderTarget; readonly archive: ByteSink };

/** A folder in memory, to fill and to read: for browsers, and for traces that are looked at and forgotten. */
export function memoryFolder(label = 'memory'): FolderTarget & FileSet {
  const files = new Map<string, ReturnType<typeof memorySink>>();
  const state = { isComplete: false };
  return {
    label,
    get names() {
      return [...files.keys()];
    },
    async append(name, chunk) {
      const file = files.get(name) ?? memorySink(name);
      files.set(name, file);
      await file.write(chunk);
    },
    async open(name) {
      const file = files.get(name);
      if (file === undefined) throw new BitnetError('io', 'no such file', { where: `${label}: ${name}` });
      return memorySource(file.bytes(), `${label}: ${name}`);
    },
    async close() {
      state.isComplete = true;
    },
    async abort() {
      if (!state.isComplete) files.clear();
    },
  };
}
