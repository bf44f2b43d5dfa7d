/**
 * What has been seen of the pass that is being compared, with the values that the graph went on with.
 * @module
 */

import type { TraceData, TraceTensor } from '../../engine/types.ts';

export interface Seen {
  readonly tensor: TraceTensor;
  /** (rows, columns): the candidate's where it has them all, else ours. */
  readonly rows: TraceData;
  /** Whether the candidate has any of them. */
  readonly isKnown: boolean;
  /** Relative RMS by which the candidate's own rows may differ from `rows`; 0 where they are its own. */
  readonly noise: number;
}

/** The greatest of the keys and values of a layer so far, for bounds of attention. */
export interface KvSize {
  /** Length of the longest key of a head. */
  key: number;
  /** Largest magnitude. */
  value: number;
}

export class Scene {
  readonly #seen = new Map<string, Seen>();
  readonly #kv = new Map<number, KvSize>();
  #layer = 0;

  /** In the order of the graph. */
  add(seen: Seen): void {
    const { name, layer } = seen.tensor;
    // Nothing reaches back further than the layer before, whose end the next one adds to.
    if (layer !== undefined && layer !== this.#layer) {
      this.#layer = layer;
      for (const [old, { tensor }] of this.#seen) if (tensor.layer !== layer - 1) this.#seen.delete(old);
    }
    this.#seen.set(name, seen);
  }

  get(name: string): Seen | undefined {
    return this.#seen.get(name);
  }

  all(): Iterable<Seen> {
    return this.#seen.values();
  }

  floats(name: string): Float32Array | undefined {
    const rows = this.#seen.get(name)?.rows;
    return rows instanceof Float32Array ? rows : undefined;
  }

  /** What an op was given, without the codes in between: queries, keys and values, gate and up, the rows that were quantised. */
  sources(tensor: TraceTensor): string[] {
    return tensor.inputs.filter((name) => !name.endsWith('.scales')).map((name) => name.replace(/\.codes$/, ''));
  }

  /** A pass ends: its rows are forgotten, the sizes of keys and values are not. */
  endPass(): void {
    this.#seen.clear();
    this.#layer = 0;
  }

  /** Before the attention of a layer is looked at. */
  kvSize(attention: TraceTensor): KvSize {
    const layer = attention.layer ?? 0;
    const size = this.#kv.get(layer) ?? { key: 0, value: 0 };
    this.#kv.set(layer, size);
    const headDim = headDimOf(attention);
    const keys = this.floats(attention.inputs[1]);
    for (let at = 0; keys !== undefined && at < keys.length; at += headDim) {
      let sum = 0;
      for (let i = at; i < at + headDim; i++) sum += keys[i] * keys[i];
      size.key = Math.max(size.key, Math.sqrt(sum) || 0);
    }
    for (const value of this.floats(attention.inputs[2]) ?? []) size.value = Math.max(size.value, Math.abs(value) || 0);
    return size;
  }
}

/** As usual where nobody says: traces do not. */
export function headDimOf({ facts }: TraceTensor): number {
  return Number(facts.headDim ?? 128);
}
