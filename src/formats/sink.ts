/**
 * Where bytes go. Writers see only this interface; `src/platform` implements it for files.
 * @module
 */

import { joinChunks } from './chunks.ts';

/** An append-only target. */
export interface ByteSink {
  /** For error messages. */
  readonly label: string;
  /** Appends; `chunk` may be reused once the promise resolves. */
  write(chunk: Uint8Array): Promise<void>;
  /** Completes the target; what was written becomes visible. Idempotent. */
  close(): Promise<void>;
  /** Gives up and leaves nothing behind. Idempotent, also after `close` (when it does nothing). */
  abort(): Promise<void>;
}

/** A sink that collects in memory, for small files. `bytes` copies everything written so far into one piece. */
export function memorySink(label = 'memory'): ByteSink & { bytes(): Uint8Array<ArrayBuffer> } {
  let chunks: Uint8Array[] = [];
  let length = 0;
  let closed = false;
  return {
    label,
    async write(chunk) {
      chunks.push(chunk.slice());
      length += chunk.length;
    },
    async close() {
      closed = true;
    },
    async abort() {
      if (closed) return;
      chunks = [];
      length = 0;
    },
    bytes() {
      return joinChunks(chunks, length);
    },
  };
}
