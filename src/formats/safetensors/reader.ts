/**
 * safetensors reader: one file, or the files of an index.
 *
 *     0      u64   N, length of the header
 *     8      JSON  {"__metadata__": {string: string}, "name": {"dtype", "shape", "data_offsets": [begin, end]}, ...}
 *                  possibly padded with spaces
 *     8 + N  data  tensor bytes at 8 + N + begin; little-endian, row-major, no gaps and nothing behind the last
 *
 * The rules are those of the reference implementation (huggingface/safetensors), which refuses holes, overlaps, extra
 * bytes and headers beyond 100 MB.
 *
 * Several files: model.safetensors.index.json = {"metadata": {...}, "weight_map": {tensor: file}} beside them.
 * @module
 */

import { BitnetError, show, want } from '../../errors.ts';
import type { ByteSource } from '../source.ts';
import { isObject, type JsonObject, parseJsonObject } from './json.ts';
import { elementBytes, type SafetensorsDType, type SafetensorsFile, type SafetensorsTensor } from './types.ts';

/** The cap of the reference implementation. Real headers have some hundred KB. */
const MAX_HEADER_BYTES = 100_000_000;
/** An index has one line for each tensor. */
const MAX_INDEX_BYTES = 64 << 20;
/** Each file of an index is an open file. */
const MAX_FILES = 1024;
/** Beyond this the product of a shape is not worth the loop. */
const MAX_DIMENSIONS = 32;

/**
 * Opens a `.safetensors` file, or all files of an index if the label of `source` ends in `.json`.
 * The result owns `source` from then on; when opening fails, the caller still does.
 */
export async function openSafetensors(source: ByteSource): Promise<SafetensorsFile> {
  const label = source.label.replace(/[?#].*$/s, '');
  if (label.endsWith('.json')) return openIndex(source);
  want(!/\.(bin|pt|pth|pickle|pkl|ckpt)$/.test(label), 'unsupported-type', 'PyTorch pickle file', () => ({
    where: source.label,
    expected: 'safetensors',
    hint: 'pickle files execute code when read; save the model again with save_pretrained(safe_serialization=True)',
  }));
  const { metadata, tensors } = await readHeader(source);
  return opened(source.label, metadata, tensors, [source]);
}

interface Header {
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: readonly SafetensorsTensor[];
}

async function readHeader(source: ByteSource): Promise<Header> {
  const where = source.label;
  const length = await readHeaderLength(source);
  const bytes = new Uint8Array(length);
  await source.readInto(bytes, 8);
  want(bytes[0] === 0x7b, 'bad-container', 'not a safetensors file', () => ({
    where,
    expected: 'a header that begins with {',
    got: `byte 0x${bytes[0].toString(16).padStart(2, '0')}`,
  }));
  const { __metadata__: metadata, ...entries } = parseJsonObject(bytes, where);
  const tensors = Object.entries(entries).map(([name, entry]) => parseEntry(source, 8 + length, name, entry));
  tensors.sort((a, b) => a.offsetBytes - b.offsetBytes || a.byteLength - b.byteLength);
  wantContiguous(source, 8 + length, tensors);
  return { metadata: parseMetadata(where, metadata), tensors };
}

async function readHeaderLength(source: ByteSource): Promise<number> {
  const where = source.label;
  want(source.byteLength >= 10, 'truncated', 'too short for a safetensors file', () => ({
    where,
    expected: 'at least 10 bytes',
    got: `${source.byteLength}`,
  }));
  const bytes = new Uint8Array(8);
  await source.readInto(bytes, 0);
  const length = new DataView(bytes.buffer).getBigUint64(0, true);
  want(length >= 2n && length <= BigInt(MAX_HEADER_BYTES), 'limit-exceeded', 'bad length of the header', () => ({
    where,
    expected: `2 to ${MAX_HEADER_BYTES} bytes`,
    got: `${length}`,
  }));
  want(8 + Number(length) <= source.byteLength, 'truncated', 'the file ends inside the header', () => ({
    where,
    expected: `at least ${8 + Number(length)} bytes`,
    got: `${source.byteLength}`,
  }));
  return Number(length);
}

function parseEntry(source: ByteSource, dataStart: number, name: string, entry: unknown): SafetensorsTensor {
  const where = `${source.label}: ${name}`;
  want(isObject(entry), 'bad-container', 'bad tensor entry', () => ({
    where,
    expected: 'an object',
    got: show(entry),
  }));
  const dtype = parseDType(where, entry);
  const shape = parseShape(where, entry);
  const offsets = entry.data_offsets;
  want(
    isIndexList(offsets) && offsets.length === 2 && offsets[0] <= offsets[1],
    'bad-container',
    'bad offsets',
    () => ({
      where,
      expected: '[begin, end]',
      got: show(offsets),
    }),
  );
  const [begin, end] = offsets;
  const byteLength = shape.reduce((product, extent) => product * extent, elementBytes[dtype]);
  want(end - begin === byteLength, 'bad-container', 'offsets do not fit the shape', () => ({
    where,
    expected: `${byteLength} bytes of ${dtype} (${shape.join(', ')})`,
    got: `${end - begin}`,
  }));
  return { name, dtype, shape, source, offsetBytes: dataStart + begin, byteLength };
}

function parseDType(where: string, entry: JsonObject): SafetensorsDType {
  const { dtype } = entry;
  if (typeof dtype === 'string' && Object.hasOwn(elementBytes, dtype)) return dtype as SafetensorsDType;
  throw new BitnetError('unsupported-type', 'element type', {
    where,
    expected: Object.keys(elementBytes).join(' '),
    got: show(dtype),
  });
}

function parseShape(where: string, entry: JsonObject): readonly number[] {
  const { shape } = entry;
  want(isIndexList(shape) && shape.length <= MAX_DIMENSIONS, 'bad-container', 'bad shape', () => ({
    where,
    expected: `a list of at most ${MAX_DIMENSIONS} integers >= 0`,
    got: show(shape),
  }));
  // Whatever the order of the factors, a zero among them included, no product may leave the safe integers.
  const product = shape.reduce((n, extent) => n * Math.max(extent, 1), 8);
  want(Number.isSafeInteger(product), 'limit-exceeded', 'too many values', () => ({
    where,
    expected: 'fewer than 2^53 bytes',
    got: show(shape),
  }));
  return shape;
}

function isIndexList(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function parseMetadata(where: string, metadata: unknown): ReadonlyMap<string, string> {
  if (metadata === undefined) return new Map();
  const entries = isObject(metadata) ? Object.entries(metadata) : [];
  const good = isObject(metadata) && entries.every(([, text]) => typeof text === 'string');
  want(good, 'bad-container', 'bad __metadata__', () => ({ where, expected: 'an object of strings' }));
  return new Map(entries as [string, string][]);
}

/** Sorted tensors must follow each other without gap or overlap and end with the file. */
function wantContiguous(source: ByteSource, dataStart: number, tensors: readonly SafetensorsTensor[]): void {
  let end = dataStart;
  for (const { name, offsetBytes, byteLength } of tensors) {
    want(offsetBytes === end, 'bad-container', 'tensor data with a gap or overlap', () => ({
      where: `${source.label}: ${name}`,
      expected: `begin at ${end - dataStart}`,
      got: `${offsetBytes - dataStart}`,
    }));
    end = offsetBytes + byteLength;
  }
  want(end <= source.byteLength, 'truncated', 'the file ends inside the tensor data', () => ({
    where: source.label,
    expected: `${end} bytes`,
    got: `${source.byteLength}`,
    hint: 'is the download complete?',
  }));
  want(end === source.byteLength, 'bad-container', 'bytes behind the last tensor', () => ({
    where: source.label,
    expected: `${end} bytes`,
    got: `${source.byteLength}`,
  }));
}

async function openIndex(source: ByteSource): Promise<SafetensorsFile> {
  const where = source.label;
  want(source.byteLength <= MAX_INDEX_BYTES, 'limit-exceeded', 'index too long', () => ({
    where,
    expected: `at most ${MAX_INDEX_BYTES} bytes`,
    got: `${source.byteLength}`,
  }));
  const bytes = new Uint8Array(source.byteLength);
  await source.readInto(bytes, 0);
  const weightMap = parseWeightMap(where, parseJsonObject(bytes, where).weight_map);
  const fileNames = [...new Set(weightMap.values())].sort();
  want(fileNames.length <= MAX_FILES, 'limit-exceeded', 'too many files', () => ({
    where,
    expected: `at most ${MAX_FILES}`,
    got: `${fileNames.length}`,
  }));
  const sources: ByteSource[] = [];
  try {
    const metadata = new Map<string, string>();
    const tensors: SafetensorsTensor[] = [];
    for (const fileName of fileNames) {
      want(source.sibling !== undefined, 'bad-argument', 'an index cannot be opened from memory or a Blob', () => ({
        where,
        expected: `${fileName} beside it`,
      }));
      const file = await source.sibling(fileName);
      sources.push(file);
      const header = await readHeader(file);
      for (const [key, text] of header.metadata) if (!metadata.has(key)) metadata.set(key, text);
      wantMapped(where, weightMap, fileName, header.tensors);
      tensors.push(...header.tensors);
    }
    return opened(where, metadata, tensors, [source, ...sources]);
  } catch (error) {
    for (const file of sources) await file.close();
    throw error;
  }
}

function parseWeightMap(where: string, value: unknown): ReadonlyMap<string, string> {
  const entries = isObject(value) ? Object.entries(value) : [];
  want(entries.length > 0, 'bad-container', 'bad weight_map', () => ({
    where,
    expected: 'an object',
    got: show(value),
  }));
  for (const [name, file] of entries) {
    // A plain name: an index must not reach into other folders or hosts.
    const plain = typeof file === 'string' && /^[^/\\:]+\.safetensors$/.test(file) && !file.startsWith('.');
    want(plain, 'bad-container', 'bad file name in weight_map', () => ({
      where: `${where}: ${name}`,
      expected: 'NAME.safetensors in the same folder',
      got: show(file),
    }));
  }
  return new Map(entries as [string, string][]);
}

/** The file has exactly the tensors that the index says. */
function wantMapped(
  where: string,
  weightMap: ReadonlyMap<string, string>,
  fileName: string,
  tensors: readonly SafetensorsTensor[],
): void {
  const present = new Set<string>();
  for (const { name } of tensors) {
    want(
      weightMap.get(name) === fileName,
      'bad-container',
      `${fileName} has a tensor that the index does not have there`,
      () => ({
        where: `${where}: ${name}`,
        got: weightMap.get(name) ?? 'not in the index',
      }),
    );
    present.add(name);
  }
  for (const [name, file] of weightMap) {
    want(file !== fileName || present.has(name), 'missing-tensor', `${fileName} lacks a tensor of the index`, () => ({
      where: `${where}: ${name}`,
    }));
  }
}

function opened(
  label: string,
  metadata: ReadonlyMap<string, string>,
  tensors: readonly SafetensorsTensor[],
  sources: readonly ByteSource[],
): SafetensorsFile {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  return {
    label,
    metadata,
    tensors,
    sources,
    findTensor: (name) => byName.get(name),
    tensor(name) {
      const found = byName.get(name);
      want(found !== undefined, 'missing-tensor', 'no such tensor', () => ({ where: label, expected: show(name) }));
      return found;
    },
    async close() {
      for (const source of sources) await source.close();
    },
  };
}
