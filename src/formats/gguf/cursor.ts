/**
 * The header as it arrives: a growing prefix of the file and a position in it.
 *
 * A header's length is known only after it is parsed. The prefix begins at 1 MiB and at least doubles whenever the
 * parser asks for more, so a file is read in a handful of ranges (of which HTTP makes requests) and parsing never
 * starts over: it waits where it stands. Tensor data is at most touched as the surplus of the last range.
 * @module
 */

import { BitnetError, show, want } from '../../errors.ts';
import type { ByteSource } from '../source.ts';
import { FIRST_READ_BYTES, MAX_HEADER_BYTES } from './limits.ts';

const EMPTY = new Uint8Array(0);

export class HeaderCursor {
  /** Offset of the next byte to parse. */
  position = 0;
  /** The prefix read so far. Replaced when it grows: take it anew after each `need`. */
  bytes: Uint8Array = EMPTY;
  view: DataView = new DataView(EMPTY.buffer);
  readonly source: ByteSource;

  constructor(source: ByteSource) {
    this.source = source;
  }

  /** Bytes of the file behind the position. Every count is bounded by it before anything is allocated. */
  get left(): number {
    return this.source.byteLength - this.position;
  }

  /** True when `count` bytes from the position on are already here. */
  has(count: number): boolean {
    return this.position + count <= this.bytes.length;
  }

  /** Makes `count` bytes from the position on available. `what` names them if the file has no such bytes. */
  async need(count: number, what: string): Promise<void> {
    if (this.has(count)) return;
    const end = this.position + count;
    const fileBytes = this.source.byteLength;
    want(end <= fileBytes, 'truncated', `the file ends inside ${what}`, () => ({
      where: this.source.label,
      expected: `at least ${end} bytes`,
      got: `${fileBytes}`,
    }));
    want(end <= MAX_HEADER_BYTES, 'limit-exceeded', `header too long at ${what}`, () => ({
      where: this.source.label,
      expected: `at most ${MAX_HEADER_BYTES} bytes before the tensor data`,
      got: `more than ${end}`,
    }));
    const size = Math.min(fileBytes, MAX_HEADER_BYTES, Math.max(end, 2 * this.bytes.length, FIRST_READ_BYTES));
    const grown = new Uint8Array(size);
    grown.set(this.bytes);
    await this.source.readInto(grown.subarray(this.bytes.length), this.bytes.length);
    this.bytes = grown;
    this.view = new DataView(grown.buffer);
  }

  async u8(what: string): Promise<number> {
    await this.need(1, what);
    return this.bytes[this.position++];
  }

  async u32(what: string): Promise<number> {
    await this.need(4, what);
    const value = this.view.getUint32(this.position, true);
    this.position += 4;
    return value;
  }

  /** A u64 that must be usable as a length or offset; beyond 2^53 - 1 it is an error. */
  async count(what: string): Promise<number> {
    await this.need(8, what);
    const value = this.peekCount();
    want(Number.isSafeInteger(value), 'limit-exceeded', `${what} too large`, () => ({
      where: this.source.label,
      expected: 'at most 2^53-1',
      got: `${this.view.getBigUint64(this.position, true)}`,
    }));
    this.position += 8;
    return value;
  }

  /** The u64 at the position as a number, rounded beyond 2^53; the caller checks. Its 8 bytes must be here. */
  peekCount(): number {
    return this.view.getUint32(this.position, true) + this.view.getUint32(this.position + 4, true) * 2 ** 32;
  }

  /** u64 length, then as many bytes; copied out of the prefix. */
  async string(what: string, ceiling: number): Promise<Uint8Array> {
    const length = await this.count(`the length of ${what}`);
    want(length <= ceiling, 'limit-exceeded', `${what} too long`, () => ({
      where: this.source.label,
      expected: `at most ${ceiling} bytes`,
      got: `${length}`,
    }));
    await this.need(length, what);
    const bytes = this.bytes.slice(this.position, this.position + length);
    this.position += length;
    return bytes;
  }

  /** A string that must be UTF-8, because programs compare it: keys and tensor names. */
  async name(what: string, ceiling: number): Promise<string> {
    const bytes = await this.string(what, ceiling);
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      throw new BitnetError('bad-container', `${what} is not UTF-8`, {
        where: this.source.label,
        got: show(new TextDecoder().decode(bytes.subarray(0, 80))),
      });
    }
  }
}
