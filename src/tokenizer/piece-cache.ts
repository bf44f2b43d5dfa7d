/**
 * Short pieces of text and the tokens they became. Text repeats its words, so most pieces are found here.
 *
 * Direct-mapped, fixed size, flat arrays: a piece that hashes to an occupied slot replaces what is there. Nothing
 * grows, nothing is allocated after the first use, and no JS string is kept (a short substring can keep the whole
 * text it was cut from alive).
 * @module
 */

const SLOTS = 1 << 14;
const MAX_BYTES = 20;
const MAX_TOKENS = 7;

export class PieceCache {
  /** (SLOTS, MAX_BYTES) */
  readonly #bytes = new Uint8Array(SLOTS * MAX_BYTES);
  /** (SLOTS) Length of the piece in bytes; 0 for a free slot. */
  readonly #lengths = new Uint8Array(SLOTS);
  /** (SLOTS, 1 + MAX_TOKENS) The number of tokens, then the tokens. */
  readonly #tokens = new Int32Array(SLOTS * (MAX_TOKENS + 1));

  /** Appends the tokens of bytes[start..end) to `out`, if they are known. */
  recall(bytes: Uint8Array, start: number, end: number, hash: number, out: number[]): boolean {
    const length = end - start;
    if (length > MAX_BYTES) return false;
    const slot = slotOf(hash);
    if (this.#lengths[slot] !== length) return false;
    const kept = this.#bytes;
    for (let i = 0, at = slot * MAX_BYTES; i < length; i++) if (kept[at + i] !== bytes[start + i]) return false;
    const tokens = this.#tokens;
    const at = slot * (MAX_TOKENS + 1);
    const end0 = at + tokens[at];
    for (let i = at + 1; i <= end0; i++) out.push(tokens[i]);
    return true;
  }

  /** Remembers that bytes[start..end) became out[from..]. */
  remember(bytes: Uint8Array, start: number, end: number, hash: number, out: readonly number[], from: number): void {
    const length = end - start;
    const nTokens = out.length - from;
    if (length > MAX_BYTES || nTokens > MAX_TOKENS) return;
    const slot = slotOf(hash);
    this.#lengths[slot] = length;
    for (let i = 0, at = slot * MAX_BYTES; i < length; i++) this.#bytes[at + i] = bytes[start + i];
    const at = slot * (MAX_TOKENS + 1);
    this.#tokens[at] = nTokens;
    for (let i = 0; i < nTokens; i++) this.#tokens[at + 1 + i] = out[from + i];
  }
}

function slotOf(hash: number): number {
  const mixed = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b);
  return (mixed ^ (mixed >>> 15)) & (SLOTS - 1);
}
