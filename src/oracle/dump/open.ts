/**
 * Opens what somebody has dumped: our traces, and folders or archives of `.npy` files under our names or llama.cpp's.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import type { ByteSource } from '../../formats/source.ts';
import { decodeNpy, MAX_HEADER_BYTES, type NpyArray, parseNpyHeader } from '../npy.ts';
import type { SourceTensor, TraceSource } from '../source.ts';
import { openEvalCallback } from './eval-callback.ts';
import type { FileSet, RunningHash } from './files.ts';
import { MANIFEST, MAX_MANIFEST_BYTES, type Manifest, parseManifest } from './manifest.ts';
import { inGraphOrder, ourName } from './names.ts';
import { openArchive } from './zip.ts';

/** Token ids beside loose files, by our name and by llama.cpp's. */
const TOKEN_FILES = ['tokens.npy', 'inp_tokens.npy'];
const MAX_TOKENS = 1 << 24;

interface Part {
  readonly file: string;
  readonly array: NpyArray;
  readonly tensor: SourceTensor;
}

/** A trace whose every byte can be held against the digests that came with it. */
export type StoredTrace = TraceSource & { verify(hash: () => RunningHash): Promise<void> };

/**
 * A trace out of one file, whatever that is: an archive of arrays, or a log of llama-eval-callback. Closing it closes `source`.
 * `architecture` tells names apart that mean several things, where the file does not say.
 */
export async function openTraceFile(source: ByteSource, architecture?: string): Promise<StoredTrace> {
  const magic = new Uint8Array(Math.min(4, source.byteLength));
  await source.readInto(magic, 0);
  // "PK" and the kind of the first record: a member, or the end of an empty archive.
  const isZip = magic[0] === 0x50 && magic[1] === 0x4b && (magic[2] === 3 || magic[2] === 5);
  if (isZip) return openTrace(await openArchive(source), architecture);
  want(magic[0] !== 0x93, 'bad-argument', 'a single array, not a trace', () => ({
    where: source.label,
    expected: 'a folder of .npy files, an .npz, or a log of llama-eval-callback',
  }));
  return { ...(await openEvalCallback(source, architecture)), verify: async () => undefined };
}

/** A trace out of files. Closing it closes them. */
export async function openTrace(files: FileSet, architecture?: string): Promise<StoredTrace> {
  const manifest = files.names.includes(MANIFEST) ? await readManifest(files) : undefined;
  const parts = manifest === undefined ? await looseParts(files, architecture) : await listedParts(files, manifest);
  const tokens = manifest?.tokens ?? (await looseTokens(files, parts));
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
      architecture: manifest?.model.architecture ?? architecture,
      tokens,
      numericsVersion: manifest?.numericsVersion,
      producer: manifest?.producer,
      kv: manifest?.kv,
    },
    tensors: new Map([...parts].map(([name, { tensor }]) => [name, tensor])),
    unread: arraysBeside(files, parts),
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
    async verify(hash) {
      await files.verify?.();
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

/** A misspelt name would otherwise look like a tensor that agrees. */
function arraysBeside({ names }: FileSet, parts: ReadonlyMap<string, Part>): string[] {
  const read = new Set([...parts.values()].map(({ file }) => file));
  return names.filter((name) => name.endsWith('.npy') && !read.has(name) && !TOKEN_FILES.includes(name)).toSorted();
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
    const head = new Uint8Array(Math.min(MAX_HEADER_BYTES, source.byteLength));
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
    const extra = array.byteLength - array.dataOffset - rows * columns * array.bytesPerValue;
    want(extra === 0, 'bad-container', 'bytes behind the numbers', () => ({ where, expected: '0', got: `${extra}` }));
    parts.set(name, { file, array, tensor: { name, type: dtype, position: 0, rows, columns } });
  }
  return parts;
}

/**
 * Every `.npy` file whose name is one of ours, or of llama.cpp's: (tokens, columns), (tokens, heads, headDim), or either in a batch
 * of one. A tensor of one row among others of many is of the last token, as logits often are.
 *
 * Trap: what llama.cpp calls `Qcur` is (tokens, columns) as projected, and (tokens, heads, headDim) behind rope, which is the one
 * that stays when a dump overwrites.
 */
async function looseParts(files: FileSet, architecture: string | undefined): Promise<Map<string, Part>> {
  const found: Part[] = [];
  for (const file of files.names.filter((name) => name.endsWith('.npy')).toSorted()) {
    if (TOKEN_FILES.includes(file)) continue;
    const plain = file.slice(0, -4);
    if (ourName(plain, architecture) === undefined) continue;
    const array = await arrayOf(files, file);
    const isRoped = /^[QK]cur-/.test(plain) && array.shape.length > 2;
    const name = ourName(plain, architecture, isRoped ? 'ROPE' : undefined) ?? plain;
    const { rows, columns } = dimensions(name, array.shape);
    // Without values a shape may say anything; with them, the file is as long as it says.
    const isFine = array.shape.every((dim) => dim > 0) && rows <= MAX_TOKENS;
    want(isFine, 'bad-container', 'not the values of tokens', () => ({
      where: `${files.label}: ${file}`,
      expected: `1 to ${MAX_TOKENS} rows of at least one value`,
      got: `(${array.shape.join(', ')})`,
    }));
    found.push({ file, array, tensor: { name, type: array.type, position: 0, rows, columns } });
  }
  want(found.length > 0, 'bad-container', 'no trace: neither a manifest nor files of a known name', () => ({
    where: files.label,
    expected: `${MANIFEST}, or NAME.npy such as blk.0.attn_norm.npy or attn_norm-0.npy`,
    got: files.names.slice(0, 5).join(', ') || 'nothing',
  }));
  const most = found.reduce((max, { tensor }) => Math.max(max, tensor.rows), 0);
  const parts = new Map<string, Part>();
  for (const part of found.toSorted((a, b) => inGraphOrder(a.tensor.name, b.tensor.name))) {
    const { rows, name } = part.tensor;
    want(!parts.has(name), 'bad-container', 'two files of one tensor', () => ({
      where: files.label,
      got: `${parts.get(name)?.file} and ${part.file}`,
    }));
    want(rows === most || rows === 1, 'bad-container', 'tensors of different numbers of tokens', () => ({
      where: `${files.label}: ${part.file}`,
      expected: `${most} rows, or 1`,
      got: `(${part.array.shape.join(', ')})`,
    }));
    parts.set(name, { ...part, tensor: { ...part.tensor, position: rows === most ? 0 : most - 1 } });
  }
  return parts;
}

/** Of what is split into heads, two dimensions belong to a token. */
const IN_HEADS = /\.attn(_q|_k|_v|_q_norm|_k_norm|_q_rope|_k_rope|_q_scaled|_weights)?$/;

function dimensions(name: string, shape: readonly number[]): { rows: number; columns: number } {
  const own = IN_HEADS.test(name) ? 3 : 2;
  const dims = shape.length > own && shape[0] === 1 ? shape.slice(1) : shape;
  // One dimension is one row, but for the factors of rows.
  const [rows, ...rest] = dims.length === 1 && !name.endsWith('.scales') ? [1, ...dims] : dims;
  return { rows: rows ?? 1, columns: rest.reduce((a, b) => a * b, 1) };
}

/** Ids beside loose files, as many as rows. */
async function looseTokens(files: FileSet, parts: ReadonlyMap<string, Part>): Promise<number[] | undefined> {
  const file = TOKEN_FILES.find((name) => files.names.includes(name));
  if (file === undefined) return undefined;
  const where = `${files.label}: ${file}`;
  const array = await arrayOf(files, file);
  const count = array.shape.reduce((a, b) => a * b, 1);
  const rows = Math.max(...[...parts.values()].map(({ tensor }) => tensor.position + tensor.rows));
  want(array.type === 'i32' && count === rows && count <= MAX_TOKENS, 'bad-container', 'no ids of these rows', () => ({
    where,
    expected: `(${rows}) of integers`,
    got: `(${array.shape.join(', ')}) ${array.descr}`,
  }));
  const bytes = new Uint8Array(count * array.bytesPerValue);
  const source = await files.open(file);
  try {
    await source.readInto(bytes, array.dataOffset);
  } finally {
    await source.close();
  }
  const ids = Array.from(decodeNpy(array.descr, bytes));
  want(
    ids.every((id) => id >= 0),
    'bad-token',
    'a negative id',
    () => ({ where }),
  );
  return ids;
}
