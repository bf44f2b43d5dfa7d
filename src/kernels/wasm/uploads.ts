/**
 * Getting matrices in: several reads are under way at a time, and what arrives is checked and repacked by all threads.
 *
 * Bytes that stay as they are go from the file to their place; others pass through a small area of staging, a lane of it for
 * each read. The kernels (`assembly/repack.ts`) only tell whether a piece is in order. If one is not, the matrix is
 * loaded again by `fill`, which goes by the rules of `tensors/` and says what is wrong.
 * @module
 */

import { f16ToNumber } from '../../numeric/f16.ts';
import { dtypeByName } from '../../tensors/dtype.ts';
import { scaleOfI2S } from '../../tensors/i2s.ts';
import { allSettled, createTurns, type TakeTurn } from '../../tensors/turns.ts';
import type { EncodedWeight, WeightShape, WeightSource } from '../interface.ts';
import type { Arena } from './arena.ts';
import { Op } from './commands.ts';
import { DENSE_CODE } from './memory.ts';

/** Reads under way at a time: as many as Node's pool of threads for files has. */
const LANES = 4;
/** Bytes of one read that goes straight into place. */
const PIECE_BYTES = 4 << 20;
/** Bytes of one read that is repacked; longer rows are left to `fill`. */
const STAGE_BYTES = 1 << 20;
/** Each thread answers in a cache line of its own. */
const ANSWER_BYTES = 64;

/** As in `assembly/repack.ts`. */
const TYPE_CODE = { ...DENSE_CODE, I2_S: 5, TQ1_0: 6, TQ2_0: 7 } as const;

/** How a matrix is read: so many rows at a time. */
interface Route {
  readonly kind: 'inPlace' | 'staged';
  readonly rows: number;
}

/** What the uploads need of their backend. */
export interface UploadParts {
  readonly memory: WebAssembly.Memory;
  readonly arena: Arena;
  readonly nThreads: number;
  /** Runs one command on all threads and waits for it. */
  run(op: Op, args: readonly number[]): void;
}

export class Uploads {
  readonly #parts: UploadParts;
  readonly #turn: TakeTurn = createTurns(LANES);
  readonly #pending = new Set<Promise<unknown>>();
  readonly #answers: number;
  #staging: number | undefined;

  constructor(parts: UploadParts) {
    this.#parts = parts;
    this.#answers = parts.arena.alloc(ANSWER_BYTES * parts.nThreads, 'answers of loading threads');
  }

  /** Takes room for a matrix; gives its address. Whoever only reckons does not know whether it will be repacked. */
  place(shape: WeightShape, isStaged = true): number {
    const { arena } = this.#parts;
    // Before the matrix: given back in the end, it is room for what is small.
    if (isStaged) this.#staging ??= arena.take(LANES * STAGE_BYTES, 'staging');
    return arena.take(shape.byteLength, shape.name);
  }

  /** Resolves to address and scale. */
  async upload(source: WeightSource): Promise<{ readonly address: number; readonly scale: number }> {
    const { arena, memory } = this.#parts;
    const isShared = typeof SharedArrayBuffer !== 'undefined' && memory.buffer instanceof SharedArrayBuffer;
    const fits = isShared || arena.fits(source.byteLength + LANES * STAGE_BYTES);
    // Growing a memory that is not shared detaches what others are being read into.
    const begin = fits ? this.#start(source) : this.#afterOthers(source);
    this.#pending.add(begin);
    try {
      return await begin;
    } finally {
      this.#pending.delete(begin);
      if (this.#pending.size === 0 && this.#staging !== undefined) {
        arena.free(this.#staging);
        this.#staging = undefined;
      }
    }
  }

  async #afterOthers(source: WeightSource) {
    await Promise.allSettled([...this.#pending]);
    return this.#start(source);
  }

  async #start(source: WeightSource): Promise<{ address: number; scale: number }> {
    const { arena, memory } = this.#parts;
    const { encoded } = source;
    const route = encoded === undefined ? undefined : routeOf(source, encoded);
    const address = this.place(source, route?.kind === 'staged');
    try {
      let scale: number | undefined;
      if (encoded !== undefined && route !== undefined) scale = await this.#read(source, encoded, route, address);
      scale ??= await source.fill(new Uint8Array(memory.buffer, address, source.byteLength));
      if (source.kind === 'dense' && source.dtype === 'Q6_K') {
        // From here on in the form of `assembly/q6_k.ts`; nobody sees the file's bytes again.
        this.#parts.run(Op.ARRANGE_Q6_K, [address, source.byteLength / dtypeByName('Q6_K').blockBytes]);
      }
      return { address, scale };
    } catch (error) {
      arena.free(address);
      throw error;
    }
  }

  /** Reads, checks and repacks a matrix; gives its scale, or undefined where something is not as it should be. */
  async #read(
    source: WeightSource,
    encoded: EncodedWeight,
    route: Route,
    address: number,
  ): Promise<number | undefined> {
    const { rows, byteLength } = source;
    const targetRowBytes = byteLength / rows;
    const seen: Seen = { inOrder: true, failed: false, scaleBits: 0 };
    const load = async (row: number, lane: number) => {
      if (seen.failed || !seen.inOrder) return;
      const nRows = Math.min(route.rows, rows - row);
      const to = address + row * targetRowBytes;
      try {
        if (route.kind === 'inPlace') await this.#intoPlace(source, encoded, to, row * targetRowBytes, nRows, seen);
        else await this.#throughStaging(source, encoded, to, row, nRows, lane, seen);
      } catch (error) {
        seen.failed = true;
        throw error;
      }
    };
    const pieces: Promise<void>[] = [];
    for (let row = 0; row < rows; row += route.rows) pieces.push(this.#turn((lane) => load(row, lane)));
    await allSettled(pieces);
    return seen.inOrder ? scaleOf(source, encoded, seen.scaleBits) : undefined;
  }

  async #intoPlace(
    source: WeightSource,
    encoded: EncodedWeight,
    to: number,
    offsetBytes: number,
    nRows: number,
    seen: Seen,
  ): Promise<void> {
    const bytes = (nRows * source.byteLength) / source.rows;
    await encoded.read(this.#bytes(to, bytes), offsetBytes);
    if (!this.#run(Op.CHECK_WEIGHTS, [TYPE_CODE[encoded.dtype], to, bytes])) seen.inOrder = false;
  }

  async #throughStaging(
    source: WeightSource,
    encoded: EncodedWeight,
    to: number,
    row: number,
    nRows: number,
    lane: number,
    seen: Seen,
  ): Promise<void> {
    const { columns } = source;
    const { dtype } = encoded;
    const code = TYPE_CODE[dtype];
    const from = (this.#staging ?? 0) + lane * STAGE_BYTES;
    const { blockElements, blockBytes } = dtypeByName(dtype);
    // Rows of I2_S may begin and end inside blocks.
    const begin = Math.floor((row * columns) / blockElements);
    const end = Math.ceil(((row + nRows) * columns) / blockElements);
    const bytes = (end - begin) * blockBytes;
    await encoded.read(this.#bytes(from, bytes), begin * blockBytes);
    if (source.kind === 'dense') {
      if (!this.#run(Op.REQUANTIZE, [code, DENSE_CODE[source.dtype], from, to, nRows * columns])) seen.inOrder = false;
      return;
    }
    let detail = row * columns - begin * blockElements;
    if (dtype !== 'I2_S') {
      if (seen.scaleBits === 0) seen.scaleBits = firstScale(this.#bytes(from, bytes), blockBytes);
      detail = seen.scaleBits;
    }
    if (!this.#run(Op.REPACK, [code, from, to, nRows, columns, detail])) seen.inOrder = false;
  }

  #bytes(address: number, bytes: number): Uint8Array {
    return new Uint8Array(this.#parts.memory.buffer, address, bytes);
  }

  /** Runs an op on all threads; whether all found everything in order. */
  #run(op: Op, args: readonly number[]): boolean {
    const { memory, nThreads } = this.#parts;
    this.#parts.run(op, [this.#answers, ...args]);
    const answers = new Int32Array(memory.buffer, this.#answers, (ANSWER_BYTES / 4) * nThreads);
    for (let thread = 0; thread < nThreads; thread++) if (answers[(ANSWER_BYTES / 4) * thread] !== 0) return false;
    return true;
  }
}

/** What the pieces of a matrix have shown so far. */
interface Seen {
  inOrder: boolean;
  failed: boolean;
  /** The first scale of a block that is not zero, as the bits of a half. */
  scaleBits: number;
}

/** How to read a matrix, or undefined where only `fill` can. */
function routeOf(source: WeightSource, { dtype }: EncodedWeight): Route | undefined {
  const { rows, columns, byteLength } = source;
  const { blockElements, blockBytes } = dtypeByName(dtype);
  if (source.kind === 'dense' ? source.dtype === dtype : dtype === 'I2_S' && columns % 128 === 0) {
    return { kind: 'inPlace', rows: Math.max(1, Math.floor(PIECE_BYTES / (byteLength / rows))) };
  }
  if (source.kind === 'dense') {
    const isMade = source.dtype === 'Q8_0' || source.dtype === 'Q6_K';
    const isFloat = dtype === 'F32' || dtype === 'F16' || dtype === 'BF16';
    if (!isMade || !isFloat || columns % dtypeByName(source.dtype).blockElements !== 0) return undefined;
  } else if (dtype === 'I2_S') {
    // The kernel moves planes of 32 columns; a tensor must end with a block.
    if (columns % 32 !== 0 || (rows * columns) % blockElements !== 0) return undefined;
  } else if ((dtype !== 'TQ1_0' && dtype !== 'TQ2_0') || columns % blockElements !== 0) return undefined;
  const rowsOfStage = Math.floor((STAGE_BYTES - 2 * blockBytes) / ((columns * blockBytes) / blockElements));
  return rowsOfStage < 1 ? undefined : { kind: 'staged', rows: rowsOfStage };
}

/** Bits of the first scale that is not zero, 0 if there is none. Scales are the last two bytes of a block. */
function firstScale(bytes: Uint8Array, blockBytes: number): number {
  for (let at = blockBytes - 2; at < bytes.length; at += blockBytes) {
    const bits = bytes[at] | (bytes[at + 1] << 8);
    if (bits !== 0) return bits;
  }
  return 0;
}

/** The scale of a weight; undefined where the file has none that is good. */
async function scaleOf(source: WeightSource, encoded: EncodedWeight, scaleBits: number): Promise<number | undefined> {
  if (source.kind === 'dense') return 1;
  let scale = scaleBits === 0 ? 1 : f16ToNumber(scaleBits);
  if (encoded.dtype === 'I2_S') {
    const tail = new Uint8Array(4);
    await encoded.read(tail, (source.rows * source.columns) / 4);
    scale = scaleOfI2S(tail, 0);
  }
  return Number.isFinite(scale) && scale > 0 ? Math.fround(scale * encoded.factor) : undefined;
}
