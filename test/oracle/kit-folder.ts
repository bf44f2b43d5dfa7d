/** The kit in a folder, and its files read back by a second reader: nothing here uses the code that wrote them. */

import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { kitFiles } from '../../src/oracle/kit/files.ts';
import type { KitManifest } from '../../src/oracle/kit/types.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const pages = join(root, 'src/oracle/kit/pages');

export async function writeKit(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'bitnet-kit-'));
  const names = readdirSync(pages)
    .filter((name) => /\.(c|md|py)$/.test(name))
    .sort();
  const stories = join(root, 'fixtures/models/stories.gguf.gz');
  const sha256 = () => createHash('sha256');
  for await (const { path, bytes } of kitFiles(
    stories,
    names.map((path) => ({ path, bytes: readFileSync(join(pages, path)) })),
    sha256,
  )) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), bytes);
  }
  return folder;
}

export const readManifest = (folder: string) =>
  JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')) as KitManifest;

const KINDS = {
  '<f4': Float32Array,
  '<f8': Float64Array,
  '|i1': Int8Array,
  '|u1': Uint8Array,
  '<u2': Uint16Array,
  '<i4': Int32Array,
  '<u4': Uint32Array,
} as const;

/** An .npy file by NumPy's description of the format. */
export function readNpy(path: string): { descr: string; shape: number[]; data: number[] } {
  const bytes = readFileSync(path);
  if (bytes.toString('latin1', 0, 8) !== '\x93NUMPY\x01\x00') throw new Error(`${path} is no .npy`);
  const start = 10 + bytes.readUInt16LE(8);
  const header = bytes.toString('latin1', 10, start);
  const match = /^\{'descr': '(.+?)', 'fortran_order': False, 'shape': \((.*?),?\), \} *\n$/.exec(header)!;
  const [, descr, shape] = match;
  const Kind = KINDS[descr as keyof typeof KINDS];
  const data = Array.from(new Kind(new Uint8Array(bytes.subarray(start)).buffer));
  return { descr, shape: shape === '' ? [] : shape.split(',').map(Number), data };
}
