/**
 * GGUF reader: the header of a file (or of several shards) as checked data; tensor data is left where it is.
 *
 *      0  u8[4]  "GGUF"
 *      4  u32    version            2 and 3 are the same bytes (3 allowed big-endian writers; none is read here)
 *      8  u64    number of tensors
 *     16  u64    number of keys
 *     24  key[]     string name, u32 type, value                                    values.ts
 *         tensor[]  string name, u32 dimensions, u64 ne[dimensions], u32 type id, u64 offset
 *         zeros up to a multiple of general.alignment (32 if missing)  -> data start
 *         tensor data, each at data start + offset
 *
 * Upstream's two readers disagree on what to refuse (mainline wants offsets without gaps and in order, the fork
 * accepts anything within the file, even overlaps). Here: any order and any gap, because the fork's Python writer
 * puts nameless data between tensors; no overlaps, no duplicates, nothing beyond the end.
 * @module
 */

import { BitnetError, show, want } from '../../errors.ts';
import {
  type DType,
  dtypes,
  dtypesById,
  elementCount,
  removedByteLength,
  removedDType,
  tensorByteLength,
  unknownDType,
} from '../../tensors/dtype.ts';
import type { ByteSource } from '../source.ts';
import { DEFAULT_ALIGNMENT, isAlignment, roundUp } from './align.ts';
import { HeaderCursor } from './cursor.ts';
import { MAX_DIMENSIONS, MAX_KEY_BYTES, MAX_KEYS, MAX_NAME_BYTES, MAX_TENSORS } from './limits.ts';
import { MetadataReader } from './metadata.ts';
import { openOtherShards } from './split.ts';
import type { GgufFile, GgufTensor, GgufValue } from './types.ts';
import { parseValue } from './values.ts';

export interface OpenGgufOptions {
  /**
   * List tensors of types that cannot be decoded here instead of refusing the file: for programs that only show or
   * copy files. Their `dtype.readable` is false and `dtype.why` says why.
   */
  readonly allowUnreadable?: boolean;
}

/** One file's header. */
export interface GgufHeader {
  readonly source: ByteSource;
  readonly version: 2 | 3;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly GgufTensor[];
  readonly alignment: number;
  readonly headerBytes: number;
}

/** A tensor record as it stands in the file. */
interface TensorRecord {
  readonly name: string;
  readonly shape: readonly number[];
  readonly typeId: number;
  /** Relative to the data start. */
  readonly relativeOffset: number;
}

const MAGIC = 0x46554747; // "GGUF" read as a little-endian u32

/**
 * Reads and checks the header of a GGUF file and, if it is the first of several shards, of its siblings.
 * The result owns `source` from then on (`close()` closes it); when opening fails, the caller still does.
 */
export async function openGguf(source: ByteSource, options: OpenGgufOptions = {}): Promise<GgufFile> {
  const first = await readGgufHeader(source, options);
  const shards = [first, ...(await openOtherShards(first, (shard) => readGgufHeader(shard, options)))];
  return new OpenedGguf(shards);
}

/** The header of one file, whatever it says about shards. */
export async function readGgufHeader(source: ByteSource, options: OpenGgufOptions = {}): Promise<GgufHeader> {
  const cursor = new HeaderCursor(source);
  const version = await parseVersion(cursor);
  const nTensors = await cursor.count('the number of tensors');
  const nKeys = await cursor.count('the number of keys');
  // Smallest key: length, one byte of name, type, one byte. Smallest tensor: length, name, dimensions, type, offset.
  boundCount(cursor, 'keys', nKeys, MAX_KEYS, 14);
  boundCount(cursor, 'tensors', nTensors, MAX_TENSORS, 25);

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < nKeys; i++) {
    const key = await cursor.name(`key ${i}`, MAX_KEY_BYTES);
    want(!metadata.has(key), 'bad-container', 'key occurs twice', () => ({ where: `${source.label}: ${key}` }));
    metadata.set(key, await parseValue(cursor, key));
  }
  const records: TensorRecord[] = [];
  for (let i = 0; i < nTensors; i++) records.push(await parseTensorRecord(cursor, i));
  refuseDuplicates(source.label, records);

  const alignment = parseAlignment(source.label, metadata);
  const headerBytes = records.length === 0 ? cursor.position : roundUp(cursor.position, alignment);
  const isFork = writtenByFork(metadata);
  const tensors = placeTensors(source, records, headerBytes, { alignment, isFork, ...options });
  return { source, version, metadata, tensors, alignment, headerBytes };
}

async function parseVersion(cursor: HeaderCursor): Promise<2 | 3> {
  const label = cursor.source.label;
  want(cursor.source.byteLength > 0, 'truncated', 'the file is empty', () => ({ where: label }));
  const magic = cursor.source.byteLength < 4 ? 0 : await cursor.u32('the magic bytes');
  want(magic === MAGIC, 'bad-container', 'not a GGUF file', () => ({
    where: label,
    expected: 'magic bytes 47 47 55 46 ("GGUF")',
    got: [...cursor.bytes.subarray(0, 4)].map((byte) => byte.toString(16).padStart(2, '0')).join(' '),
    hint: magicHint(cursor.bytes),
  }));
  const version = await cursor.u32('the version');
  // Versions are small numbers: a zero low half means the bytes are in the other order.
  want((version & 0xffff) !== 0 || version === 0, 'unsupported-version', 'big-endian GGUF file', () => ({
    where: label,
    expected: 'little-endian',
    hint: 'convert the model again without --bigendian',
  }));
  if (version === 2 || version === 3) return version;
  throw new BitnetError('unsupported-version', 'GGUF version', { where: label, expected: '2 or 3', got: `${version}` });
}

/** What else the file may be, told by its first bytes. */
function magicHint(bytes: Uint8Array): string | undefined {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) return 'this is gzip: open it through openModelSource';
  if (bytes[0] === 0x3c) return 'this looks like an HTML page; was the download a web page?';
  if (new TextDecoder().decode(bytes.subarray(0, 7)) === 'version')
    return 'this is a git-lfs pointer: run git lfs pull';
  if (bytes[0] === 0x50 && bytes[1] === 0x4b) return 'this is a zip or PyTorch file; those are not supported';
  if (bytes[8] === 0x7b) return 'this looks like a safetensors file: bitnet convert makes a GGUF file of its folder';
  return undefined;
}

function boundCount(cursor: HeaderCursor, what: string, count: number, ceiling: number, leastBytes: number): void {
  want(count <= ceiling, 'limit-exceeded', `too many ${what}`, () => ({
    where: cursor.source.label,
    expected: `at most ${ceiling}`,
    got: `${count}`,
  }));
  want(count * leastBytes <= cursor.left, 'truncated', `more ${what} than the file can hold`, () => ({
    where: cursor.source.label,
    expected: `at least ${count * leastBytes} more bytes for ${count}`,
    got: `${cursor.left}`,
  }));
}

async function parseTensorRecord(cursor: HeaderCursor, index: number): Promise<TensorRecord> {
  const name = await cursor.name(`the name of tensor ${index}`, MAX_NAME_BYTES);
  const nDims = await cursor.u32(`the dimensions of ${name}`);
  want(nDims <= MAX_DIMENSIONS, 'bad-tensor', 'too many dimensions', () => ({
    where: `${cursor.source.label}: ${name}`,
    expected: `at most ${MAX_DIMENSIONS}`,
    got: `${nDims}`,
  }));
  const shape: number[] = [];
  for (let i = 0; i < nDims; i++) shape.push(await cursor.count(`ne[${i}] of ${name}`));
  elementCount(shape, `${cursor.source.label}: ${name}`);
  const typeId = await cursor.u32(`the type of ${name}`);
  const relativeOffset = await cursor.count(`the offset of ${name}`);
  return { name, shape, typeId, relativeOffset };
}

function refuseDuplicates(label: string, records: readonly TensorRecord[]): void {
  const seen = new Set<string>();
  for (const { name } of records) {
    want(!seen.has(name), 'bad-container', 'tensor occurs twice', () => ({ where: `${label}: ${name}` }));
    seen.add(name);
  }
}

function parseAlignment(label: string, metadata: ReadonlyMap<string, GgufValue>): number {
  const key = 'general.alignment';
  const alignment = new MetadataReader(label, metadata).uint(key) ?? DEFAULT_ALIGNMENT;
  want(isAlignment(alignment), 'bad-metadata', 'bad alignment', () => ({
    where: `${label}: ${key}`,
    expected: 'a power of two',
    got: `${alignment}`,
  }));
  return alignment;
}

/** Turns records into tensors: absolute offsets, spans, types and sizes, all within the file and apart. */
function placeTensors(
  source: ByteSource,
  records: readonly TensorRecord[],
  dataStart: number,
  { alignment, isFork, allowUnreadable = false }: OpenGgufOptions & { alignment: number; isFork: boolean },
): GgufTensor[] {
  const spans = spanOfEach(source, records, dataStart, alignment);
  const tensors: GgufTensor[] = [];
  for (const { name, shape, typeId, relativeOffset } of records) {
    const where = `${source.label}: ${name}`;
    const spanBytes = spans.get(name)!;
    const dtype = resolveType(typeId, shape, spanBytes, alignment, isFork);
    want(dtype.readable || allowUnreadable, 'unsupported-type', `type ${dtype.name} ${dtype.why}`, () => ({
      where,
      hint: `types that can be read: ${dtypes.flatMap(({ name, readable }) => (readable ? [name] : [])).join(' ')}`,
    }));
    const byteLength = tensorByteLength(dtype, shape, where) ?? spanBytes;
    const offsetBytes = dataStart + relativeOffset;
    tensors.push({ name, dtype, shape, elements: elementCount(shape), source, offsetBytes, byteLength, spanBytes });
  }
  refuseTruncated(source, tensors);
  for (const tensor of tensors) {
    want(tensor.byteLength <= tensor.spanBytes, 'bad-container', 'tensor overlaps the next one', () => ({
      where: `${source.label}: ${tensor.name}`,
      expected: `room for ${tensor.byteLength} bytes of ${tensor.dtype.name} (${tensor.shape.join(', ')})`,
      got: `${tensor.spanBytes}`,
    }));
  }
  return tensors;
}

/** Bytes from each tensor's begin to the next begin in the file, whatever the order of the records. */
function spanOfEach(
  source: ByteSource,
  records: readonly TensorRecord[],
  dataStart: number,
  alignment: number,
): Map<string, number> {
  const sorted = records.toSorted((a, b) => a.relativeOffset - b.relativeOffset);
  const spans = new Map<string, number>();
  sorted.forEach(({ name, relativeOffset }, i) => {
    const where = `${source.label}: ${name}`;
    want(relativeOffset % alignment === 0, 'bad-container', 'tensor offset is not aligned', () => ({
      where,
      expected: `a multiple of ${alignment}`,
      got: `${relativeOffset}`,
    }));
    const begin = dataStart + relativeOffset;
    want(begin < source.byteLength, 'truncated', 'tensor begins beyond the end of the file', () => ({
      where,
      expected: `more than ${begin} bytes`,
      got: `${source.byteLength}`,
    }));
    const end = i + 1 < sorted.length ? dataStart + sorted[i + 1].relativeOffset : source.byteLength;
    want(end > begin, 'bad-container', 'two tensors at the same offset', () => ({
      where,
      got: `${sorted[i + 1].name} at ${relativeOffset} too`,
    }));
    spans.set(name, end - begin);
  });
  return spans;
}

/**
 * The type an id stands for. For 39 (TL2 or MXFP4) the room in the file decides: the type whose padded size is exactly the
 * span; else TL2 where the file says that it comes from bitnet.cpp; else the largest that fits. They are far apart: MXFP4
 * takes 0.53 bytes a value, TL2 about 0.21. For 36 to 38 a room that is exactly that of mainline's removed types tells those.
 */
function resolveType(
  id: number,
  shape: readonly number[],
  spanBytes: number,
  alignment: number,
  isFork: boolean,
): DType {
  const isSpan = (bytes: number | undefined) =>
    bytes !== undefined && (bytes === spanBytes || roundUp(bytes, alignment) === spanBytes);
  const candidates = dtypesById(id);
  const removed = removedByteLength(id, shape);
  if (isSpan(removed) && !candidates.some((dtype) => isSpan(sizeIfPossible(dtype, shape)))) return removedDType(id);
  if (candidates.length < 2) return candidates[0] ?? unknownDType(id);
  const sized = candidates
    .map((dtype) => ({ dtype, bytes: sizeIfPossible(dtype, shape) }))
    .toSorted((a, b) => b.bytes - a.bytes);
  const found =
    sized.find(({ bytes }) => isSpan(bytes)) ??
    (isFork ? sized.find(({ dtype, bytes }) => dtype.name === 'TL2' && bytes <= spanBytes) : undefined) ??
    sized.find(({ bytes }) => bytes <= spanBytes) ??
    sized[sized.length - 1];
  return found.dtype;
}

/** Whether bitnet.cpp's programs wrote the file: by its architecture, or by a file type of 39, which they give TL2. */
function writtenByFork(metadata: ReadonlyMap<string, GgufValue>): boolean {
  const architecture = metadata.get('general.architecture');
  const fileType = metadata.get('general.file_type');
  return (
    (architecture?.type === 'string' && architecture.text.startsWith('bitnet')) ||
    (fileType?.type === 'u32' && fileType.value === 39)
  );
}

/** Infinity for shapes the type cannot have. */
function sizeIfPossible(dtype: DType, shape: readonly number[]): number {
  try {
    return tensorByteLength(dtype, shape) ?? Number.POSITIVE_INFINITY;
  } catch (error) {
    if (error instanceof BitnetError) return Number.POSITIVE_INFINITY;
    throw error;
  }
}

/** One message about the whole file: how long it should be, how long it is. */
function refuseTruncated(source: ByteSource, tensors: readonly GgufTensor[]): void {
  const last = tensors.reduce<GgufTensor | undefined>(
    (max, tensor) => (max === undefined || tensor.offsetBytes > max.offsetBytes ? tensor : max),
    undefined,
  );
  if (last === undefined) return;
  const end = last.offsetBytes + last.byteLength;
  want(end <= source.byteLength, 'truncated', `the file ends inside tensor ${last.name}`, () => ({
    where: source.label,
    expected: `at least ${end} bytes`,
    got: `${source.byteLength}`,
    hint: 'is the download complete?',
  }));
}

class OpenedGguf implements GgufFile {
  readonly label: string;
  readonly version: 2 | 3;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly GgufTensor[];
  readonly alignment: number;
  readonly headerBytes: number;
  readonly byteLength: number;
  readonly sources: readonly ByteSource[];
  readonly #reader: MetadataReader;
  readonly #byName: ReadonlyMap<string, GgufTensor>;

  constructor(shards: readonly GgufHeader[]) {
    const first = shards[0];
    this.label = first.source.label;
    this.version = first.version;
    this.metadata = first.metadata;
    this.tensors = shards.flatMap((shard) => shard.tensors);
    this.alignment = first.alignment;
    this.headerBytes = first.headerBytes;
    this.sources = shards.map((shard) => shard.source);
    this.byteLength = this.sources.reduce((sum, source) => sum + source.byteLength, 0);
    this.#reader = new MetadataReader(this.label, this.metadata);
    this.#byName = new Map(this.tensors.map((tensor) => [tensor.name, tensor]));
  }

  findTensor(name: string): GgufTensor | undefined {
    return this.#byName.get(name);
  }
  tensor(name: string): GgufTensor {
    const found = this.#byName.get(name);
    want(found !== undefined, 'missing-tensor', 'no such tensor', () => ({ where: this.label, expected: show(name) }));
    return found;
  }

  findString = (key: string) => this.#reader.string(key);
  findUint = (key: string) => this.#reader.uint(key);
  findFloat = (key: string) => this.#reader.float(key);
  findBool = (key: string) => this.#reader.bool(key);
  findStrings = (key: string) => this.#reader.strings(key);
  getString = (key: string) => this.#reader.required(key, 'a string', this.#reader.string(key));
  getUint = (key: string) => this.#reader.required(key, 'an integer', this.#reader.uint(key));
  getFloat = (key: string) => this.#reader.required(key, 'a number', this.#reader.float(key));
  getBool = (key: string) => this.#reader.required(key, 'a bool', this.#reader.bool(key));
  getStrings = (key: string) => this.#reader.required(key, 'an array of string', this.#reader.strings(key));
  findArray: GgufFile['findArray'] = (key, of) => this.#reader.array(key, of);
  getArray: GgufFile['getArray'] = (key, of) =>
    this.#reader.required(key, `an array of ${of}`, this.#reader.array(key, of));

  async close(): Promise<void> {
    for (const source of this.sources) await source.close();
  }
}
