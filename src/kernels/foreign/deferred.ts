/**
 * A backend around another one, in which some ops need to look at numbers while the graph goes on enqueuing.
 *
 * Only `read` may wait, and other arithmetic needs what `read` gives. So from the first such op on everything is put in a
 * list, in order, and the list is played when somebody reads: what the contract allows any backend to do. Ops that come while
 * nothing is waiting go straight to the inner backend.
 * @module
 */

import type { TopRow } from '../../tensors/top-row.ts';
import type {
  Backend,
  BackendInfo,
  Buf,
  BufType,
  KvCache,
  KvShape,
  QuantizedBuf,
  Rehearsal,
  RopeStyle,
  Segment,
  Weight,
  WeightSource,
} from '../interface.ts';

/** Everything as the inner backend does it, in the order of the calls. Those who extend it say what is done otherwise. */
export abstract class DeferredBackend implements Backend {
  readonly info: BackendInfo;
  readonly batchRows: number | undefined;
  readonly headRows: number | undefined;
  readonly rehearse?: () => Rehearsal;
  readonly reserve?: (bytes: number) => void;
  protected readonly inner: Backend;
  readonly #waiting: (() => unknown)[] = [];
  #playing: Promise<void> | undefined;

  constructor(inner: Backend, what: string, note: string, activationBlock?: number) {
    this.inner = inner;
    this.batchRows = inner.batchRows;
    this.headRows = inner.headRows;
    const { name, variant, nThreads, notes } = inner.info;
    // Never exact, whatever is inside: exact means the bits of the definition, and these are others on purpose.
    this.info = {
      name,
      variant: `${variant}+${what}`,
      nThreads,
      exact: false,
      activationBlock,
      notes: [...notes, note],
    };
    if (inner.rehearse !== undefined) this.rehearse = () => this.rehearseIn((inner.rehearse as () => Rehearsal)());
    if (inner.reserve !== undefined) this.reserve = (bytes) => inner.reserve?.(bytes);
  }

  protected abstract rehearseIn(inner: Rehearsal): Rehearsal;
  abstract allocQuantized(rows: number, columns: number): QuantizedBuf;
  abstract upload(source: WeightSource): Promise<Weight>;
  abstract readQuantized(from: QuantizedBuf, n: number): Promise<{ codes: Int8Array; scales: Float32Array }>;
  abstract quantizeRows(out: QuantizedBuf, x: Buf, n: number): void;
  abstract rmsNormQuantize(out: QuantizedBuf, x: Buf, gain: Buf, eps: number, n: number): void;
  abstract ternaryMatmul(out: Buf, weight: Weight, x: QuantizedBuf, n: number): void;
  /** Gives back a quantised buffer of one's own. */
  protected abstract release(memory: QuantizedBuf): void;

  /** Something that waits: its turn comes when somebody reads. */
  protected later(act: () => Promise<void>): void {
    this.#waiting.push(act);
  }

  /** Something that does not: done at once if nothing is waiting before it. */
  protected inTurn(act: () => void): void {
    if (this.#waiting.length === 0 && this.#playing === undefined) act();
    else this.#waiting.push(act);
  }

  /** Plays what is waiting. When one thing fails the rest is forgotten: it was computed from what is not there. */
  protected async played(): Promise<void> {
    while (this.#playing !== undefined) await this.#playing.catch(() => undefined);
    if (this.#waiting.length === 0) return;
    this.#playing = this.#play();
    try {
      await this.#playing;
    } finally {
      this.#playing = undefined;
    }
  }

  async #play(): Promise<void> {
    try {
      for (let at = 0; at < this.#waiting.length; at++) {
        const pending = this.#waiting[at]();
        if (pending !== undefined) await pending;
      }
    } finally {
      this.#waiting.length = 0;
    }
  }

  alloc(type: BufType, shape: readonly number[]): Buf {
    return this.inner.alloc(type, shape);
  }

  allocKv(shape: KvShape): KvCache {
    return this.inner.allocKv(shape);
  }

  /** What is waiting may still write there: the memory must not go to somebody else before. */
  free(memory: Buf | QuantizedBuf | KvCache): void {
    this.inTurn(() => {
      if (memory.type === 'q8') this.release(memory);
      else this.inner.free(memory);
    });
  }

  memory(): { usedBytes: number; peakBytes: number } {
    return this.inner.memory();
  }

  async read(from: Buf, count: number): Promise<Float32Array> {
    await this.played();
    return this.inner.read(from, count);
  }

  async readTop(from: Buf, n: number): Promise<TopRow[]> {
    await this.played();
    return this.inner.readTop(from, n);
  }

  async readKv(from: KvCache, layer: number, position: number, count: number) {
    await this.played();
    return this.inner.readKv(from, layer, position, count);
  }

  dispose(): Promise<void> {
    return this.inner.dispose();
  }

  write(to: Buf, data: Float32Array | Int32Array): void {
    // A copy: the caller goes on using his array.
    const copy = data.slice();
    this.inTurn(() => this.inner.write(to, copy));
  }

  embed(out: Buf, table: Weight, ids: Buf, n: number): void {
    this.inTurn(() => this.inner.embed(out, table, ids, n));
  }

  rmsNorm(out: Buf, x: Buf, gain: Buf, eps: number, n: number): void {
    this.inTurn(() => this.inner.rmsNorm(out, x, gain, eps, n));
  }

  denseMatmul(out: Buf, weight: Weight, x: Buf, n: number): void {
    this.inTurn(() => this.inner.denseMatmul(out, weight, x, n));
  }

  denseTopK(out: Buf, weight: Weight, x: Buf, k: number, n: number): void {
    this.inTurn(() => this.inner.denseTopK(out, weight, x, k, n));
  }

  rope(x: Buf, angles: Buf, nHeads: number, headDim: number, style: RopeStyle, n: number): void {
    this.inTurn(() => this.inner.rope(x, angles, nHeads, headDim, style, n));
  }

  kvAppend(segment: Segment, layer: number, k: Buf, v: Buf): void {
    this.inTurn(() => this.inner.kvAppend(segment, layer, k, v));
  }

  attention(out: Buf, q: Buf, segment: Segment, layer: number, scale: number): void {
    this.inTurn(() => this.inner.attention(out, q, segment, layer, scale));
  }

  gatedRelu2(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.inTurn(() => this.inner.gatedRelu2(out, gate, up, n));
  }

  gatedSilu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.inTurn(() => this.inner.gatedSilu(out, gate, up, n));
  }

  gatedGelu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.inTurn(() => this.inner.gatedGelu(out, gate, up, n));
  }

  scale(out: Buf, x: Buf, factor: number, n: number): void {
    this.inTurn(() => this.inner.scale(out, x, factor, n));
  }

  add(out: Buf, a: Buf, b: Buf, n: number): void {
    this.inTurn(() => this.inner.add(out, a, b, n));
  }

  copyRows(out: Buf, outRow: number, from: Buf, fromRow: number, count: number): void {
    this.inTurn(() => this.inner.copyRows(out, outRow, from, fromRow, count));
  }
}
