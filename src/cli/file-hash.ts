/**
 * Which file this is, and which bytes: SHA-256.
 * @module
 */

import { createHash } from 'node:crypto';
import type { GgufFile } from '../formats/index.ts';
import { percent } from './format.ts';
import type { Io } from './io.ts';

const PIECE_BYTES = 4 << 20;

/** Hex. */
export function sha256(content: Uint8Array | string): string {
  return createHash('sha256').update(content).digest('hex');
}

/** Read in pieces. Over all shards, one after the other: for a single file the sum that hubs show. Of a gzipped file, unpacked. */
export async function fileHash(gguf: GgufFile, io: Io): Promise<string> {
  const hash = createHash('sha256');
  const buffer = new Uint8Array(PIECE_BYTES);
  for (const source of gguf.sources) {
    for (let at = 0; at < source.byteLength; at += buffer.length) {
      io.signal.throwIfAborted();
      const piece = buffer.subarray(0, Math.min(buffer.length, source.byteLength - at));
      await source.readInto(piece, at);
      hash.update(piece);
      io.status(`hashing ${percent(at, source.byteLength)}`);
    }
  }
  io.status('');
  return hash.digest('hex');
}
