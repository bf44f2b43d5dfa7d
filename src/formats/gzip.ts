/**
 * Gzipped files, for models small enough to be carried compressed: inflated whole into memory.
 *
 *     1f 8b 08 flags ...   deflate data   crc32 u32   size u32 (modulo 2^32)         RFC 1952
 *
 * The size at the end is a claim of the file. Deflate cannot expand beyond 1032 times, so a claim larger than that is
 * refused before memory is given to it, and inflating stops as soon as the output exceeds the claim. fflate does not
 * compare the checksum; we do.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { ByteSource } from './source.ts';
import { memorySource } from './sources.ts';

/** Fixtures and demo models have a few MB. Whoever has more gunzips to disk, from where it can be read in pieces. */
const MAX_INFLATED_BYTES = 256 << 20;
/** A piece of input makes at most 1032 times as much output before the size is looked at again. */
const PIECE_BYTES = 16 << 10;
const MAX_RATIO = 1032;
/** 10 bytes of header, 8 of trailer; the deflate data between them has at least 2. */
const LEAST_BYTES = 20;

export interface GunzipOptions {
  /** Ceiling for the inflated size. */
  readonly maxBytes?: number;
}

/** Whether the source begins like gzip. */
export async function isGzip(source: ByteSource): Promise<boolean> {
  if (source.byteLength < 2) return false;
  const magic = new Uint8Array(2);
  await source.readInto(magic, 0);
  return magic[0] === 0x1f && magic[1] === 0x8b;
}

/** The inflated bytes as a source in memory; `source` is closed when it succeeds. */
export async function gunzipSource(source: ByteSource, { maxBytes }: GunzipOptions = {}): Promise<ByteSource> {
  const ceiling = maxBytes ?? MAX_INFLATED_BYTES;
  const where = source.label;
  want(source.byteLength >= LEAST_BYTES, 'truncated', 'the gzip file ends too early', () => ({
    where,
    expected: `at least ${LEAST_BYTES} bytes`,
    got: `${source.byteLength}`,
  }));
  const trailer = new Uint8Array(8);
  await source.readInto(trailer, source.byteLength - 8);
  const view = new DataView(trailer.buffer);
  const crc = view.getUint32(0, true);
  const size = view.getUint32(4, true);
  // Of a file that was cut off, the last bytes are no trailer: the size they seem to claim says nothing.
  want(
    Math.max(size, source.byteLength) <= ceiling,
    'limit-exceeded',
    'cut off, or too large to inflate in memory',
    () => ({
      where,
      expected: `at most ${ceiling} bytes`,
      got: `a claim of ${Math.max(size, source.byteLength)}`,
      hint: 'compare with the original: if it is whole, gunzip it first',
    }),
  );
  want(size <= source.byteLength * MAX_RATIO, 'bad-container', 'impossible inflated size', () => ({
    where,
    expected: `at most ${source.byteLength * MAX_RATIO} bytes out of ${source.byteLength}`,
    got: `${size}`,
  }));
  const out = await inflate(source, size);
  const actual = crc32(out);
  want(actual === crc, 'bad-container', 'damaged gzip file: wrong checksum', () => ({
    where,
    expected: crc.toString(16).padStart(8, '0'),
    got: actual.toString(16).padStart(8, '0'),
  }));
  await source.close();
  return memorySource(out, where);
}

async function inflate(source: ByteSource, size: number): Promise<Uint8Array> {
  const { Gunzip } = await import('fflate');
  const where = source.label;
  const out = new Uint8Array(size);
  let done = 0;
  const gunzip = new Gunzip((chunk) => {
    want(
      done + chunk.length <= size,
      'bad-container',
      'the gzip file is cut off, or inflates to more than it says',
      () => ({
        where,
        expected: `${size} bytes`,
      }),
    );
    out.set(chunk, done);
    done += chunk.length;
  });
  gunzip.onmember = () => {
    throw new BitnetError('bad-container', 'several gzip members in one file', { where, expected: 'one' });
  };
  for (let at = 0; at < source.byteLength; at += PIECE_BYTES) {
    // A new piece each time: fflate keeps views of what it was given.
    const piece = new Uint8Array(Math.min(PIECE_BYTES, source.byteLength - at));
    await source.readInto(piece, at);
    try {
      gunzip.push(piece, at + piece.length === source.byteLength);
    } catch (error) {
      if (error instanceof BitnetError) throw error;
      const isShort = String(error).includes('unexpected EOF');
      const what = isShort ? 'the gzip file ends too early' : 'damaged gzip file';
      throw new BitnetError(isShort ? 'truncated' : 'bad-container', what, { where, got: String(error) }, error);
    }
  }
  want(done === size, 'bad-container', 'the gzip file is cut off, or inflates to less than it says', () => ({
    where,
    expected: `${size} bytes`,
    got: `${done}`,
  }));
  return out;
}

/** The checksum of gzip: polynomial 0x04c11db7, reflected. */
export function crc32(bytes: Uint8Array, before = 0): number {
  const table = new Uint32Array(256);
  for (let n = 0; n < 256; n++) {
    let c = n;
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
    table[n] = c;
  }
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ table[(crc ^ bytes[i]) & 0xff];
  return ~crc >>> 0;
}
