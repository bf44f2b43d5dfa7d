/**
 * What things take in device memory, reckoned without a device: for `memory()`, and for `rehearse()` before a model is loaded.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import type { Buf, BufType, KvCache, KvShape, QuantizedBuf, Rehearsal, WeightShape } from '../interface.ts';
import { AS_IN_FILES, DENSE_CODE } from './abi.ts';
import type { DeviceInfo } from './device.ts';
import { bufBytes, CudaBuf, CudaKv, CudaQuantized, kvBytes, quantizedBytes } from './memory.ts';

/** Matrices that the device rearranges get there in pieces of about this size. */
export const STAGING_BYTES = 64 << 20;

/** A prompt in pieces of so many tokens: for 128 columns of 2560 rows most of a card would have nothing to do. */
export const BATCH_ROWS = 1024;

/** A batch of so many sequences reads the output matrix once; its logits stay on the device (33 MB for 128256). */
export const HEAD_ROWS = 64;

/** The driver gives memory in blocks of 2 MiB, of which small buffers share one. */
const LARGE_BLOCK = 2 << 20;
const SMALL_BLOCK = 512;
const LARGE = 1 << 20;

/**
 * What has to stay free, of the memory of the whole device: kernels, graphs and the driver's own come and go while a model runs.
 * A thirty-second of it, at most 256 MiB. What no plan names lives there as well: 12 bytes for each row of a head that estimates first
 * (`screen.ts`), the pairs of the top-k, counts.
 */
export function capacityOf(freeBytes: number, totalBytes: number): number {
  return Math.max(0, freeBytes - reserveOf(totalBytes));
}

export function reserveOf(totalBytes: number): number {
  return Math.min(256 << 20, Math.floor(totalBytes / 32));
}

/** What a context would take, what there is, and the longest context for which that is enough. */
export function noRoomFor(
  { contextSize }: KvShape,
  bytes: number,
  { freeBytes, totalBytes }: Pick<DeviceInfo, 'freeBytes' | 'totalBytes'>,
  cause?: BitnetError,
): BitnetError {
  const fits = Math.floor(capacityOf(freeBytes, totalBytes) / (bytes / contextSize));
  const facts = {
    where: 'context',
    expected: `${bytes} bytes`,
    got: `${freeBytes} bytes free of ${totalBytes} on the device, some of which the driver needs`,
    hint: fits > 0 && fits < contextSize ? `a context of ${fits} fits` : 'a smaller context, batch or model',
  };
  return new BitnetError('out-of-memory', `no room for the keys and values of ${contextSize} positions`, facts, cause);
}

/** MAX_SCORE_FLOATS of `native/run.cu`: more rows of attention are done one after the other. */
const MAX_SCORE_FLOATS = 64 << 20;
/** Heads whose scores lie together in `native/attention.cu`, and pairs of head and row in `native/attention_tile.cu`. */
const HEADS_TOGETHER = 4;
const PAIRS_OF_TILE = 16;
/**
 * Of contexts from FAR_POSITION of `native/kernels.h` on, `native/attention_split.cu` keeps the greatest score of each split: at most 16
 * floats for each multiprocessor, of which no card has 1024.
 */
const FAR_POSITION = 512;
const MAX_SPLIT_FLOATS = 16 * 1024;

/** At most so much do the scores (and what goes with them) of `rows` rows take besides buffers: where shared memory is enough, nothing. */
function scoreBytes({ nHeads, nKvHeads, contextSize }: KvShape, rows: number): number {
  const heads = nKvHeads * Math.ceil(nHeads / nKvHeads / HEADS_TOGETHER) * HEADS_TOGETHER;
  const stride = Math.ceil(contextSize / 4) * 4;
  const splits = contextSize > FAR_POSITION ? MAX_SPLIT_FLOATS : 0;
  const floats = (heads * rows + nKvHeads * PAIRS_OF_TILE) * stride + splits;
  // In pieces of rows, of at least one.
  return Math.max(heads * stride + splits, Math.min(MAX_SCORE_FLOATS, floats)) * 4 * 1.25; // grown with a quarter to spare
}

/** Bytes in use, now and at most. */
export class Books {
  usedBytes = 0;
  peakBytes = 0;

  take(bytes: number): void {
    this.usedBytes += bytes;
    this.peakBytes = Math.max(this.peakBytes, this.usedBytes);
  }

  give(bytes: number): void {
    this.usedBytes -= bytes;
  }
}

/** The backend's calls without its memory. */
export class CudaRehearsal implements Rehearsal {
  readonly headRows = HEAD_ROWS;
  readonly capacityBytes: number;
  readonly #denseBytes: (dtype: number, rows: number, columns: number) => number;
  readonly #books = new Books();
  #rows = 1;
  #scores = 0;

  constructor(capacityBytes: number, denseBytes: (dtype: number, rows: number, columns: number) => number) {
    this.capacityBytes = capacityBytes;
    this.#denseBytes = denseBytes;
  }

  get spanBytes(): number {
    return this.#books.peakBytes;
  }

  memory(): { usedBytes: number; peakBytes: number } {
    const { usedBytes, peakBytes } = this.#books;
    return { usedBytes, peakBytes };
  }

  alloc(type: BufType, shape: readonly number[]): Buf {
    this.#take(bufBytes(shape));
    return new CudaBuf(type, shape, this, 0);
  }

  allocQuantized(rows: number, columns: number): QuantizedBuf {
    const { codes, meta } = quantizedBytes(rows, columns);
    this.#take(codes);
    this.#take(meta);
    this.#rows = Math.max(this.#rows, rows);
    return new CudaQuantized(rows, columns, this, 0, 0);
  }

  allocKv(shape: KvShape): KvCache {
    this.#take(kvBytes(shape, shape.kType));
    this.#take(kvBytes(shape, shape.vType));
    const scores = scoreBytes(shape, this.#rows);
    if (scores > this.#scores) {
      this.#books.take(scores - this.#scores);
      this.#scores = scores;
    }
    return new CudaKv(shape, this, 0, 0);
  }

  place(shape: WeightShape): void {
    if (shape.kind === 'ternary' || AS_IN_FILES.includes(shape.dtype)) {
      this.#take(shape.byteLength);
      return;
    }
    this.#take(this.#denseBytes(DENSE_CODE[shape.dtype], shape.rows, shape.columns));
    const staging = blocks(stagedRows(shape) * (shape.byteLength / shape.rows));
    this.#books.take(staging);
    this.#books.give(staging);
  }

  free(memory: Buf | QuantizedBuf | KvCache): void {
    for (const bytes of partsOf(memory)) this.#books.give(blocks(bytes));
  }

  #take(bytes: number): void {
    this.#books.take(blocks(bytes));
  }
}

/** Rows of a matrix that are sent to be rearranged at a time. */
export function stagedRows({ rows, byteLength }: WeightShape, stagingBytes = STAGING_BYTES): number {
  return Math.max(1, Math.min(rows, Math.floor((stagingBytes * rows) / byteLength)));
}

function partsOf(memory: Buf | QuantizedBuf | KvCache): number[] {
  if (memory instanceof CudaBuf) return [memory.bytes];
  if (memory instanceof CudaQuantized) return Object.values(quantizedBytes(memory.rows, memory.columns));
  if (memory instanceof CudaKv)
    return [memory.shape.kType, memory.shape.vType].map((type) => kvBytes(memory.shape, type));
  return [];
}

function blocks(bytes: number): number {
  const block = bytes >= LARGE ? LARGE_BLOCK : SMALL_BLOCK;
  return Math.ceil(bytes / block) * block;
}
