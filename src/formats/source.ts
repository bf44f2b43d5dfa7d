/**
 * Where bytes come from. Container readers see only this interface, so a path, a `Blob`, a
 * `Uint8Array` or a URL with range requests all read alike; `src/platform` implements it per runtime.
 * @module
 */

/** Random-access bytes of known length. */
export interface ByteSource {
  /** For error messages: a path, a URL or "memory". */
  readonly label: string;
  /** Length in bytes. Always a safe integer. */
  readonly byteLength: number;
  /**
   * Fills `target` from `offsetBytes` on, straight into the caller's memory (which may be shared).
   * Rejects with `BitnetError('truncated')` when the source ends early, `'io'` or `'http'` when reading fails.
   */
  readInto(target: Uint8Array, offsetBytes: number): Promise<void>;
  /**
   * A sibling of this source by file name (for split files), or undefined where the source has no siblings.
   */
  sibling?(fileName: string): Promise<ByteSource>;
  /** Gives the file handle or connection back. Idempotent. */
  close(): Promise<void>;
}
