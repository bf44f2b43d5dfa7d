/**
 * Is a folder the kit that its manifest says it is? Hashes of all files, none missing; the manifest itself by its digest,
 * which is that of the whole kit.
 * @module
 */

import { BitnetError, show, want } from '../../errors.ts';
import type { RunningHash } from '../dump/files.ts';
import { MANIFEST } from './files.ts';
import { hashOf } from './models.ts';
import { KIT_FORMAT, KIT_VERSION, type KitManifest, type ListedFile } from './types.ts';

/** No kit is a hundredth of that. */
const MAX_FILES = 100_000;
const MAX_FILE_BYTES = 1 << 30;

/** The whole content of a file of the kit, or undefined where there is none; refuses what is longer than `mostBytes`. */
export type ReadKitFile = (path: string, mostBytes: number) => Promise<Uint8Array | undefined>;

export interface KitReport {
  /** SHA-256 of the manifest. */
  readonly digest: string;
  readonly files: number;
  readonly bytes: number;
  readonly numericsVersion: number;
  /** What is not as the manifest says, file by file; empty: all is well. */
  readonly faults: readonly string[];
}

export async function verifyKit(
  read: ReadKitFile,
  sha256: () => RunningHash,
  onFile?: (done: number, all: number) => void,
  signal?: AbortSignal,
): Promise<KitReport> {
  const bytes = await read(MANIFEST, MAX_FILE_BYTES);
  if (bytes === undefined) throw new BitnetError('io', 'not a kit: the manifest is missing', { where: MANIFEST });
  const { files, numericsVersion } = readManifest(bytes);
  const faults: string[] = [];
  let total = 0;
  for (const [i, file] of files.entries()) {
    signal?.throwIfAborted();
    const content = await read(file.path, MAX_FILE_BYTES);
    const fault = faultOf(sha256, file, content);
    if (fault !== undefined) faults.push(`${file.path}: ${fault}`);
    total += content?.length ?? 0;
    onFile?.(i + 1, files.length);
  }
  return { digest: hashOf(sha256, bytes), files: files.length, bytes: total, numericsVersion, faults };
}

function faultOf(sha256: () => RunningHash, file: ListedFile, content: Uint8Array | undefined): string | undefined {
  if (content === undefined) return 'missing';
  if (content.length !== file.bytes) return `expected ${file.bytes} bytes, got ${content.length}`;
  const got = hashOf(sha256, content);
  return got === file.sha256 ? undefined : `expected SHA-256 ${file.sha256}, got ${got}`;
}

/** Checks what `verifyKit` uses; the rest of a manifest is what its hash says. */
export function readManifest(bytes: Uint8Array): Pick<KitManifest, 'version' | 'numericsVersion' | 'files'> {
  const refuse = (where: string, expected: string, got: unknown): never => {
    throw new BitnetError('bad-argument', 'not the manifest of a kit', {
      where: `${MANIFEST} ${where}`.trim(),
      expected,
      got: show(got),
    });
  };
  let manifest: Partial<KitManifest>;
  try {
    manifest = JSON.parse(new TextDecoder().decode(bytes)) as Partial<KitManifest>;
  } catch (error) {
    return refuse('', 'JSON', String(error));
  }
  if (manifest === null || typeof manifest !== 'object') return refuse('', 'an object', manifest);
  const { format, version, numericsVersion, files } = manifest;
  if (format !== KIT_FORMAT) return refuse('format', JSON.stringify(KIT_FORMAT), format);
  if (version !== KIT_VERSION) return refuse('version', `${KIT_VERSION}`, version);
  if (!Number.isSafeInteger(numericsVersion)) return refuse('numericsVersion', 'an integer', numericsVersion);
  if (!Array.isArray(files)) return refuse('files', 'a list', files);
  want(files.length <= MAX_FILES, 'limit-exceeded', 'too many files', () => ({
    where: `${MANIFEST} files`,
    expected: `at most ${MAX_FILES}`,
    got: `${files.length}`,
  }));
  const seen = new Set<string>();
  for (const [i, file] of (files as Partial<ListedFile>[]).entries()) {
    const where = `files[${i}]`;
    if (!isInside(file?.path))
      return refuse(`${where}.path`, 'a path below the kit, with / between its parts', file?.path);
    if (seen.has(file.path)) return refuse(`${where}.path`, 'every path once', file.path);
    seen.add(file.path);
    const length = file.bytes;
    if (!Number.isSafeInteger(length) || length! < 0) return refuse(`${where}.bytes`, 'a number of bytes', length);
    if (!/^[0-9a-f]{64}$/.test(file.sha256 ?? '')) return refuse(`${where}.sha256`, '64 hex digits', file.sha256);
  }
  return { version, numericsVersion: numericsVersion as number, files: files as ListedFile[] };
}

/** Nothing that leads out of a folder, on any system. */
function isInside<T>(path: T): path is T & string {
  if (typeof path !== 'string' || !/^[A-Za-z0-9._/-]{1,200}$/.test(path)) return false;
  return path.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
}
