/**
 * Opens what somebody has dumped: our traces, and folders or archives of `.npy` files under our names or llama.cpp's.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import { decodeNpy, type NpyArray, parseNpyHeader } from '../npy.ts';
import type { SourceTensor, TraceSource } from '../source.ts';
import type { FileSet, RunningHash } from './files.ts';
import { MANIFEST, MAX_MANIFEST_BYTES, type Manifest, parseManifest } from './manifest.ts';
import { ourName } from './names.ts';

/** Longest header that is looked for at the beginning of a file. */
const HEADER_BYTES = 4096;

interface Part {
  readonly file: string;
  readonly array: NpyArray;
  readonly tensor: SourceTensor;
}

/** A trace out of files. Closing it closes them. */
export async function openTrace(
  files: FileSet,
  architecture?: string,
): Promise<TraceSource & { verify(hash: () => RunningHash): Promise<void> }> {
  const manifest = files.names.includes(MANIFEST) ? await readManifest(files) : undefined;
  const parts = manifest === undefined ? await looseParts(files, architecture) : await listedParts(files, manifest);
  const partOf = (name: string): Part => {
    const part = parts.get(name);
    if (part === undefined)
      throw new BitnetError('bad-argument', 'no such tensor', { where: `${files.label}: ${name}` });
    return part;
  };
  return {
    label: files.label,
    origin: {
      modelSha256: manifest?.model.sha256,
      modelName: manifest?.model.name,
      architecture: manifest?.model.architecture,
      tokens: manifest?.tokens,
      numericsVersion: manifest?.numericsVersion,
      producer: manifest?.producer,
      kv: manifest?.kv,
    },
    tensors: new Map([...parts].map(([name, { tensor }]) => [name, tensor])),
    async read(name, position, rows) {
      const { file, array, tensor } = partOf(name);
      const from = position - tensor.position;
      want(from >= 0 && from + rows <= tensor.rows, 'bad-argument', 'rows that the trace does not have', () => ({
        where: `${files.label}: ${name}`,
        expected: `positions ${tensor.position} to ${tensor.position + tensor.rows - 1}`,
        got: `${position} to ${position + rows - 1}`,
      }));
      const rowBytes = tensor.columns * array.bytesPerValue;
      const bytes = new Uint8Array(rows * rowBytes);
      const source = await files.open(file);
      try {
        await source.readInto(bytes, array.dataOffset + from * rowBytes);
      } finally {
        await source.close();
      }
      return { data: decodeNpy(array.descr, bytes) };
    },
    /** Reads everything and compares with the digests of the manifest. */
    async verify(hash) {
      for (const { name, sha256 } of manifest?.tensors ?? []) {
        const got = await digestOf(files, partOf(name), hash());
        want(got === sha256, 'bad-container', 'the numbers are not those that the manifest tells of', () => ({
          where: `${files.label}: ${name}`,
          expected: `SHA-256 ${sha256}`,
          got,
        }));
      }
    },
    close: () => files.close(),
  };
}

async function digestOf(files: FileSet, { file, array, tensor }: Part, hash: RunningHash): Promise<string> {
  const source = await files.open(file);
  const length = tensor.rows * tensor.columns * array.bytesPerValue;
  try {
    for (let at = 0; at < length; at += 1 << 20) {
      const chunk = new Uint8Array(Math.min(1 << 20, length - at));
      await source.readInto(chunk, array.dataOffset + at);
      hash.update(chunk);
    }
  } finally {
    await source.close();
  }
  return hash.digest('hex');
}

async function readManifest(files: FileSet): Promise<Manifest> {
  const where = `${files.label}: ${MANIFEST}`;
  const source = await files.open(MANIFEST);
  try {
    want(source.byteLength <= MAX_MANIFEST_BYTES, 'limit-exceeded', 'the manifest is too long', () => ({
      where,
      expected: `at most ${MAX_MANIFEST_BYTES} bytes`,
      got: `${source.byteLength}`,
    }));
    const bytes = new Uint8Array(source.byteLength);
    await source.readInto(bytes, 0);
    return parseManifest(new TextDecoder().decode(bytes), where);
  } finally {
    await source.close();
  }
}

async function arrayOf(files: FileSet, file: string): Promise<NpyArray> {
  const source = await files.open(file);
  try {
    const head = new Uint8Array(Math.min(HEADER_BYTES, source.byteLength));
    await source.readInto(head, 0);
    return parseNpyHeader(head, source.byteLength, `${files.label}: ${file}`);
  } finally {
    await source.close();
  }
}

/** What the manifest lists, held against the files. */
async function listedParts(files: FileSet, { tensors }: Manifest): Promise<Map<string, Part>> {
  const known = new Set(files.names);
  const parts = new Map<string, Part>();
  for (const { name, file, dtype, shape } of tensors) {
    const where = `${files.label}: ${file}`;
    want(known.has(file), 'truncated', 'the manifest lists a file that is not there', () => ({ where }));
    const array = await arrayOf(files, file);
    want(
      array.type === dtype && array.shape.join() === shape.join(),
      'bad-container',
      'the file is not what the manifest says',
      () => ({
        where,
        expected: `(${shape.join(', ')}) ${dtype}`,
        got: `(${array.shape.join(', ')}) ${array.descr}`,
      }),
    );
    const [rows, columns] = shape;
    parts.set(name, { file, array, tensor: { name, type: dtype, position: 0, rows, columns } });
  }
  return parts;
}

/** Every `.npy` file whose name is one of ours, or of llama.cpp's; (tokens, ...) with the rest flattened. */
async function looseParts(files: FileSet, architecture: string | undefined): Promise<Map<string, Part>> {
  const parts = new Map<string, Part>();
  for (const file of files.names.filter((name) => name.endsWith('.npy')).toSorted()) {
    const name = ourName(file.slice(0, -4), architecture);
    if (name === undefined) continue;
    want(!parts.has(name), 'bad-container', 'two files of one tensor', () => ({
      where: files.label,
      got: `${parts.get(name)?.file} and ${file}`,
    }));
    const array = await arrayOf(files, file);
    const [rows = 0, ...rest] = array.shape;
    const columns = rest.reduce((a, b) => a * b, 1);
    parts.set(name, { file, array, tensor: { name, type: array.type, position: 0, rows, columns } });
  }
  want(parts.size > 0, 'bad-container', 'no trace: neither a manifest nor files of a known name', () => ({
    where: files.label,
    expected: `${MANIFEST}, or NAME.npy such as blk.0.attn_norm.npy or attn_norm-0.npy`,
    got: files.names.slice(0, 5).join(', ') || 'nothing',
  }));
  return parts;
}
