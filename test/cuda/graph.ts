/**
 * A graph of the architectures in `src/model` on any backend, with weights made of a seed: what the library puts together (launches
 * of several ops, graphs that are replayed) only shows in such lists.
 * @module
 */

import { values as makeValues, trits } from '../../src/kernels/conformance/values.ts';
import type { Backend, KvCache, KvType, Weight } from '../../src/kernels/interface.ts';
import { architectureOf } from '../../src/model/architectures.ts';
import type { ModelConfig } from '../../src/model/config.ts';
import { createScratch, type LayerWeights, type ModelWeights, type Scratch } from '../../src/model/graph.ts';
import { createRopeAngles } from '../../src/model/rope-angles.ts';
import { encodeF16 } from '../../src/tensors/floats.ts';
import { packRows } from '../../src/tensors/packed.ts';

export interface Piece {
  /** Number of the sequence. */
  readonly sequence: number;
  readonly position: number;
  readonly count: number;
}

const values = (length: number, seed: number) => makeValues('normal', length, seed);

export function configOf(architecture: string, over: Partial<ModelConfig> = {}): ModelConfig {
  const { activation, ropeStyle } = architectureOf(architecture);
  return {
    architecture,
    name: 'made of a seed',
    nLayers: 2,
    hidden: 256,
    ffn: 352,
    nHeads: 4,
    nKvHeads: 2,
    headDim: 64,
    vocabulary: 50,
    contextLength: 96,
    rmsEps: 1e-5,
    ropeBase: 10000,
    ropeFactor: 1,
    activation,
    ropeStyle,
    ...over,
  };
}

export class Graph {
  readonly config: ModelConfig;
  readonly #backend: Backend;
  readonly #weights: ModelWeights;
  readonly #scratch: Scratch;
  readonly #caches: KvCache[] = [];

  private constructor(config: ModelConfig, backend: Backend, weights: ModelWeights, rows: number) {
    this.config = config;
    this.#backend = backend;
    this.#weights = weights;
    this.#scratch = createScratch(backend, config, rows);
  }

  static async make(config: ModelConfig, backend: Backend, rows: number): Promise<Graph> {
    const { hidden, ffn, nHeads, nKvHeads, headDim, vocabulary } = config;
    let seed = 1;
    const gain = (columns: number) => {
      const buf = backend.alloc('f32', [columns]);
      backend.write(buf, values(columns, seed++));
      return buf;
    };
    const ternary = (name: string, m: number, k: number): Promise<Weight> => {
      const bytes = packRows(trits('random', m * k, seed++), m, k);
      const fill = async (to: Uint8Array) => {
        to.set(bytes);
        return 0.02;
      };
      return backend.upload({ kind: 'ternary', name, rows: m, columns: k, byteLength: bytes.length, fill });
    };
    const table = encodeF16(values(vocabulary * hidden, seed++));
    const embedding = await backend.upload({
      kind: 'dense',
      dtype: 'F16',
      name: 'embedding',
      rows: vocabulary,
      columns: hidden,
      byteLength: table.length,
      fill: async (to) => {
        to.set(table);
        return 1;
      },
    });
    const layers: LayerWeights[] = [];
    for (let i = 0; i < config.nLayers; i++) {
      layers.push({
        attnNorm: gain(hidden),
        q: await ternary('q', nHeads * headDim, hidden),
        k: await ternary('k', nKvHeads * headDim, hidden),
        v: await ternary('v', nKvHeads * headDim, hidden),
        o: await ternary('o', hidden, nHeads * headDim),
        ffnNorm: gain(hidden),
        gate: await ternary('gate', ffn, hidden),
        up: await ternary('up', ffn, hidden),
        down: await ternary('down', hidden, ffn),
        gains: {
          attn_sub_norm: gain(nHeads * headDim),
          ffn_sub_norm: gain(ffn),
          attn_q_norm: gain(headDim),
          attn_k_norm: gain(headDim),
          post_attention_norm: gain(hidden),
          post_ffw_norm: gain(hidden),
        },
      });
    }
    const outputNorm = gain(hidden);
    const weights = { config, embedding, layers, outputNorm, head: embedding, ropeFactors: undefined };
    return new Graph(config, backend, weights, rows);
  }

  #cache(sequence: number): KvCache {
    const { nLayers, nHeads, nKvHeads, headDim, contextLength } = this.config;
    const type: KvType = 'f16';
    const shape = { nLayers, nHeads, nKvHeads, headDim, contextSize: contextLength, kType: type, vType: type };
    this.#caches[sequence] ??= this.#backend.allocKv(shape);
    return this.#caches[sequence];
  }

  /** Forgets a sequence. */
  free(sequence: number): void {
    const cache = this.#caches[sequence];
    if (cache !== undefined) this.#backend.free(cache);
    delete this.#caches[sequence];
  }

  /** One step; the residual stream of all rows and the logits of the first. */
  async step(pieces: readonly Piece[]): Promise<{ x: Float32Array; logits: Float32Array }> {
    const { config } = this;
    const { ids, angles, x, h, logits } = this.#scratch;
    const setAngles = createRopeAngles(config, undefined);
    const n = pieces.reduce((sum, { count }) => sum + count, 0);
    const [idRows, angleRows] = [new Int32Array(n), new Float32Array(n * config.headDim)];
    let row = 0;
    const segments = pieces.map(({ sequence, position, count }) => {
      const segment = { kv: this.#cache(sequence), row, count, position };
      for (let i = 0; i < count; i++, row++) {
        idRows[row] = (7 * (position + i) + 11 * sequence) % config.vocabulary;
        setAngles(angleRows, row, position + i);
      }
      return segment;
    });
    const backend = this.#backend;
    backend.write(ids, idRows);
    backend.write(angles, angleRows);
    const step = { backend, scratch: this.#scratch, n, segments };
    architectureOf(config.architecture).forward(step, this.#weights);
    backend.rmsNorm(h, x, this.#weights.outputNorm, config.rmsEps, n);
    const rows = Math.min(n, 16); // for which every backend has room
    backend.denseMatmul(logits, this.#weights.head, h, rows);
    const out = await backend.read(logits, rows * config.vocabulary);
    return { x: await backend.read(x, n * config.hidden), logits: out };
  }
}
