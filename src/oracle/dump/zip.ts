/**
 * Zip archives as numpy's `.npz` are: written stored, so that they can be mapped, and read by ranges, stored or deflated.
 *
 *     [local header, name, extra, bytes]...   [central directory: one entry a member]   [end record]
 *
 * Only the central directory is believed for sizes: streamed members have none in their local header.
 * Format: APPNOTE 6.3.10 (PKWARE), 4.3 and 4.5.3 (ZIP64, of which numpy makes use).
 * @module
 */

import { BitnetError, show, want } from '../../errors.ts';
import { crc32 } from '../../formats/gzip.ts';
import type { ByteSink } from '../../formats/sink.ts';
import type { ByteSource } from '../../formats/source.ts';
import { memorySource } from '../../formats/sources.ts';
import type { FileSet } from './files.ts';

/** What fflate can write: it knows no ZIP64. */
export const MAX_ARCHIVE_BYTES = 2 ** 32 - 2 ** 20;
export const MAX_ARCHIVE_MEMBERS = 65_000;

const MAX_DIRECTORY_BYTES = 64 << 20;
/** A deflated member is unpacked in memory. Larger ones are for stored archives. */
const MAX_DEFLATED_BYTES = 1 << 30;
const END_BYTES = 22;
const MAX_KEPT_BYTES = 256 << 20;
const CHUNK = 1 << 20;
/** Deflate gives at most 1032 bytes for one: what unpacks is counted before it is much. */
const DEFLATED_CHUNK = 1 << 14;
const MAX_RATIO = 1032;

interface Member {
  readonly name: string;
  readonly method: 0 | 8;
  readonly packedBytes: number;
  readonly bytes: number;
  readonly crc: number;
  readonly headerAt: number;
  /** Where the next member, or the directory, begins. */
  readonly end: number;
}

/** Writes the files one after the other, dated 1980-01-01: the same files give the same bytes. */
export async function writeArchive(
  sink: ByteSink,
  names: readonly string[],
  open: (name: string) => Promise<ByteSource>,
  signal?: AbortSignal,
): Promise<void> {
  const { Zip, ZipPassThrough } = await import('fflate');
  const ready: Uint8Array[] = [];
  const zip = new Zip((error, chunk) => {
    if (error) throw error;
    ready.push(chunk);
  });
  const flush = async () => {
    for (const chunk of ready.splice(0)) await sink.write(chunk);
  };
  for (const name of names) {
    const member = new ZipPassThrough(name);
    member.mtime = new Date(1980, 0, 1); // fflate takes the local time apart again
    zip.add(member);
    const source = await open(name);
    try {
      for (let at = 0; at < source.byteLength; at += CHUNK) {
        signal?.throwIfAborted();
        const chunk = new Uint8Array(Math.min(CHUNK, source.byteLength - at));
        await source.readInto(chunk, at);
        member.push(chunk);
        await flush();
      }
      member.push(new Uint8Array(0), true);
      await flush();
    } finally {
      await source.close();
    }
  }
  zip.end();
  await flush();
}

/** The members of an archive. Closing it closes `source`. */
export async function openArchive(source: ByteSource): Promise<FileSet> {
  const members = await readDirectory(source);
  const unpacked = new Unpacked(source);
  return {
    label: source.label,
    names: [...members.keys()],
    async open(name) {
      const member = members.get(name);
      if (member === undefined)
        throw new BitnetError('bad-container', 'no such member', { where: `${source.label}: ${name}` });
      return openMember(source, member, unpacked);
    },
    async verify() {
      for (const member of members.values()) await verifyMember(source, member, unpacked);
    },
    close: () => source.close(),
  };
}

/** Deflated members are held against their CRC whenever they are opened. */
async function verifyMember(source: ByteSource, member: Member, unpacked: Unpacked): Promise<void> {
  const opened = await openMember(source, member, unpacked);
  if (member.method === 8) return;
  let crc = 0;
  for (let at = 0; at < member.bytes; at += CHUNK) {
    const chunk = new Uint8Array(Math.min(CHUNK, member.bytes - at));
    await opened.readInto(chunk, at);
    crc = crc32(chunk, crc);
  }
  checkCrc(crc, member.crc, opened.label);
}

/** The bytes `at` .. `at + length` as a view. */
async function view(source: ByteSource, at: number, length: number): Promise<DataView> {
  const bytes = new Uint8Array(length);
  await source.readInto(bytes, at);
  return new DataView(bytes.buffer);
}

async function readDirectory(source: ByteSource): Promise<Map<string, Member>> {
  const where = source.label;
  const { entries, directoryAt, directoryBytes } = await findDirectory(source);
  want(directoryBytes <= MAX_DIRECTORY_BYTES, 'limit-exceeded', 'the directory of the archive is too long', () => ({
    where,
    expected: `at most ${MAX_DIRECTORY_BYTES} bytes`,
    got: `${directoryBytes}`,
  }));
  want(directoryAt + directoryBytes <= source.byteLength, 'truncated', 'the archive ends before its directory', () => ({
    where,
    expected: `${directoryAt + directoryBytes} bytes`,
    got: `${source.byteLength}`,
  }));
  const directory = await view(source, directoryAt, directoryBytes);
  const members = new Map<string, Omit<Member, 'end'>>();
  let at = 0;
  for (let i = 0; i < entries; i++) {
    want(
      at + 46 <= directoryBytes && directory.getUint32(at, true) === 0x02014b50,
      'bad-container',
      'the directory of the archive is damaged',
      () => ({ where, expected: `${entries} entries`, got: `${i}` }),
    );
    const [nameBytes, extraBytes, commentBytes] = [28, 30, 32].map((field) => directory.getUint16(at + field, true));
    const next = at + 46 + nameBytes + extraBytes + commentBytes;
    want(next <= directoryBytes, 'truncated', 'the directory of the archive ends inside an entry', () => ({ where }));
    const name = new TextDecoder().decode(new Uint8Array(directory.buffer, at + 46, nameBytes));
    want(
      !/[\\/\0]/.test(name) && !name.startsWith('.') && name !== '',
      'bad-container',
      'a member of the archive is no plain file',
      () => ({ where, got: show(name) }),
    );
    want(!members.has(name), 'bad-container', 'two members of one name', () => ({ where, got: show(name) }));
    const extra = new DataView(directory.buffer, at + 46 + nameBytes, extraBytes);
    members.set(name, memberOf(name, directory, at, extra, where));
    at = next;
  }
  return setApart([...members.values()], directoryAt);
}

/** Where the central directory is, by the end record; that of ZIP64 where the small one is full. */
async function findDirectory(
  source: ByteSource,
): Promise<{ entries: number; directoryAt: number; directoryBytes: number }> {
  const where = source.label;
  const tailBytes = Math.min(source.byteLength, END_BYTES + 0xffff);
  const tail = await view(source, source.byteLength - tailBytes, tailBytes);
  let end = tailBytes - END_BYTES;
  while (end >= 0 && tail.getUint32(end, true) !== 0x06054b50) end--;
  want(end >= 0, 'bad-container', 'not a zip archive, or one that was cut off', () => ({
    where,
    expected: 'an end record',
  }));
  const small = {
    entries: tail.getUint16(end + 10, true),
    directoryBytes: tail.getUint32(end + 12, true),
    directoryAt: tail.getUint32(end + 16, true),
  };
  const isFull = small.entries === 0xffff || small.directoryBytes === 0xffffffff || small.directoryAt === 0xffffffff;
  if (!isFull || end < 20 || tail.getUint32(end - 20, true) !== 0x07064b50) return small;
  const largeAt = tail.getBigUint64(end - 12, true);
  want(largeAt + 56n <= BigInt(source.byteLength), 'truncated', 'the archive ends before its directory', () => ({
    where,
  }));
  const large = await view(source, Number(largeAt), 56);
  want(large.getUint32(0, true) === 0x06064b50, 'bad-container', 'the end record of the archive is damaged', () => ({
    where,
  }));
  const [entries, directoryBytes, directoryAt] = [32, 40, 48].map((field) => Number(large.getBigUint64(field, true)));
  want(entries <= directoryBytes / 46, 'bad-container', 'the archive claims more members than fit', () => ({
    where,
    got: `${entries}`,
  }));
  return { entries, directoryBytes, directoryAt };
}

function memberOf(name: string, directory: DataView, at: number, extra: DataView, label: string): Omit<Member, 'end'> {
  const where = `${label}: ${name}`;
  const method = directory.getUint16(at + 10, true);
  want(method === 0 || method === 8, 'unsupported-type', 'packed by another method', () => ({
    where,
    expected: '0 (stored) or 8 (deflated)',
    got: `${method}`,
  }));
  want((directory.getUint16(at + 8, true) & 1) === 0, 'unsupported-type', 'encrypted', () => ({ where }));
  const sizes = [24, 20, 42].map((field) => directory.getUint32(at + field, true));
  // ZIP64: those of the three that do not fit stand in the extra field 1, in this order.
  for (let e = 0; e + 4 <= extra.byteLength; e += 4 + extra.getUint16(e + 2, true)) {
    if (extra.getUint16(e, true) !== 1) continue;
    let from = e + 4;
    for (let i = 0; i < 3; i++) {
      if (sizes[i] !== 0xffffffff || from + 8 > extra.byteLength) continue;
      sizes[i] = Number(extra.getBigUint64(from, true));
      from += 8;
    }
  }
  const [bytes, packedBytes, headerAt] = sizes;
  want(method === 8 || bytes === packedBytes, 'bad-container', 'a stored member of two sizes', () => ({
    where,
    expected: `${bytes} bytes`,
    got: `${packedBytes}`,
  }));
  // What cannot be is told before there is memory for it.
  want(
    method === 0 || bytes <= packedBytes * MAX_RATIO,
    'bad-container',
    'a member unpacks to less than its size',
    () => ({
      where,
      expected: `at most ${packedBytes * MAX_RATIO} bytes of ${packedBytes}`,
      got: `${bytes}`,
    }),
  );
  return { name, method, packedBytes, bytes, crc: directory.getUint32(at + 16, true), headerAt };
}

/**
 * Members lie one behind the other, before the directory: overlapping ones are how a small archive becomes a large one. That a
 * member ends where it must is checked when it is opened, as its second header has a length of its own.
 */
function setApart(members: readonly Omit<Member, 'end'>[], directoryAt: number): Map<string, Member> {
  const sorted = members.toSorted((a, b) => a.headerAt - b.headerAt);
  const ends = new Map(sorted.map(({ name }, i) => [name, sorted[i + 1]?.headerAt ?? directoryAt]));
  return new Map(members.map((member) => [member.name, { ...member, end: ends.get(member.name) ?? directoryAt }]));
}

function checkFits({ end, packedBytes }: Member, dataAt: number, where: string): void {
  want(dataAt + packedBytes <= end, 'bad-container', 'a member runs into what follows', () => ({
    where,
    expected: `at most ${Math.max(0, end - dataAt)} bytes`,
    got: `${packedBytes}`,
  }));
}

/** Deflated members that were read last: rows are asked for a few at a time, and each would unpack the whole again. */
class Unpacked {
  readonly #source: ByteSource;
  readonly #kept = new Map<string, Uint8Array>();

  constructor(source: ByteSource) {
    this.#source = source;
  }

  async bytesOf(member: Member, dataAt: number, where: string): Promise<Uint8Array> {
    const bytes = this.#kept.get(member.name) ?? (await inflate(this.#source, dataAt, member, where));
    this.#kept.delete(member.name); // and behind all others
    this.#kept.set(member.name, bytes);
    let total = [...this.#kept.values()].reduce((sum, { length }) => sum + length, 0);
    for (const [name, { length }] of this.#kept) {
      if (total <= MAX_KEPT_BYTES || name === member.name) break;
      this.#kept.delete(name);
      total -= length;
    }
    return bytes;
  }
}

async function openMember(source: ByteSource, member: Member, unpacked: Unpacked): Promise<ByteSource> {
  const { name, method, bytes, headerAt } = member;
  const label = `${source.label}: ${name}`;
  const header = await view(source, headerAt, 30);
  want(header.getUint32(0, true) === 0x04034b50, 'bad-container', 'a member does not begin where it should', () => ({
    where: label,
  }));
  const [nameBytes, extraBytes] = [header.getUint16(26, true), header.getUint16(28, true)];
  const dataAt = headerAt + 30 + nameBytes + extraBytes;
  checkFits(member, dataAt, label);
  const localName = new TextDecoder().decode((await view(source, headerAt + 30, nameBytes)).buffer);
  want(localName === name, 'bad-container', 'a member is called otherwise in the directory', () => ({
    where: label,
    got: show(localName),
  }));
  if (method === 8) return memorySource(await unpacked.bytesOf(member, dataAt, label), label);
  return {
    label,
    byteLength: bytes,
    async readInto(target, offsetBytes) {
      want(offsetBytes >= 0 && offsetBytes + target.length <= bytes, 'truncated', 'beyond the end', () => ({
        where: label,
        expected: `at most ${bytes} bytes`,
        got: `${offsetBytes + target.length}`,
      }));
      await source.readInto(target, dataAt + offsetBytes);
    },
    close: async () => undefined,
  };
}

async function inflate(
  source: ByteSource,
  at: number,
  { packedBytes, bytes, crc }: Member,
  where: string,
): Promise<Uint8Array> {
  want(bytes <= MAX_DEFLATED_BYTES, 'limit-exceeded', 'a deflated member is too large to unpack in memory', () => ({
    where,
    expected: `at most ${MAX_DEFLATED_BYTES} bytes`,
    got: `${bytes}`,
    hint: 'store it: numpy.savez instead of numpy.savez_compressed',
  }));
  const { Inflate } = await import('fflate');
  const out = new Uint8Array(bytes);
  let length = 0;
  const unpack = new Inflate((chunk) => {
    // Counted before it is kept: what unpacks to more than it says is no array of ours.
    want(length + chunk.length <= bytes, 'bad-container', 'a member unpacks to more than its size', () => ({
      where,
      expected: `${bytes} bytes`,
    }));
    out.set(chunk, length);
    length += chunk.length;
  });
  try {
    for (let from = 0; from < packedBytes; from += DEFLATED_CHUNK) {
      const chunk = new Uint8Array(Math.min(DEFLATED_CHUNK, packedBytes - from));
      await source.readInto(chunk, at + from);
      unpack.push(chunk, from + chunk.length === packedBytes);
    }
  } catch (cause) {
    if (cause instanceof BitnetError) throw cause;
    throw new BitnetError('bad-container', 'a member cannot be unpacked', { where, got: String(cause) }, cause);
  }
  want(length === bytes, 'truncated', 'a member unpacks to less than its size', () => ({
    where,
    expected: `${bytes} bytes`,
    got: `${length}`,
  }));
  checkCrc(crc32(out), crc, where);
  return out;
}

function checkCrc(got: number, expected: number, where: string): void {
  want(got === expected, 'bad-container', 'a member is damaged', () => ({
    where,
    expected: `CRC-32 ${expected.toString(16)}`,
    got: got.toString(16),
  }));
}
