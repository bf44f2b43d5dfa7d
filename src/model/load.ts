/**
 * From a file to weights in a backend: names are matched first, all at once; then every tensor is streamed from the
 * file straight into the backend's memory and checked on the way.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { GgufFile, GgufTensor } from '../formats/gguf/types.ts';
import type { Backend, Buf, DenseType, Weight, WeightSource } from '../kernels/interface.ts';
import { decodeInto, findNotFinite } from '../tensors/decode.ts';
import { isTernary } from '../tensors/dtype.ts';
import { inPieces, loadPacked } from '../tensors/load.ts';
import { packedBytes } from '../tensors/packed.ts';
import { architectureOf } from './architectures.ts';
import { type ModelConfig, readConfig } from './config.ts';
import type { LayerWeights, ModelWeights } from './graph.ts';
import { matchTensors } from './tensors.ts';

export interface LoadWeightsOptions {
  readonly onProgress?: ((progress: { loadedBytes: number; totalBytes: number; tensor: string }) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Bytes of a dense tensor read between two looks at the abort signal. */
const PIECE_BYTES = 16 << 20;

const DENSE_TYPES: readonly string[] = ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K'] satisfies DenseType[];

/** Reads hyper-parameters and architecture without loading anything. */
export function readModelConfig(gguf: GgufFile): ModelConfig {
  return readConfig(gguf, architectureOf(gguf.getString('general.architecture')));
}

/** Weights that the architecture uses; a copy of the embedding that some files carry does not count. */
export function countParameters(gguf: GgufFile, config: ModelConfig): number {
  const rules = architectureOf(config.architecture).tensors(config);
  return rules
    .filter((rule) => rule.kind !== 'ignored')
    .reduce((sum, rule) => sum + (gguf.findTensor(rule.name)?.elements ?? 0), 0);
}

/** Loads all weights of `gguf` into `backend`. */
export async function loadWeights(
  gguf: GgufFile,
  backend: Backend,
  options: LoadWeightsOptions = {},
): Promise<ModelWeights> {
  const config = readModelConfig(gguf);
  const architecture = architectureOf(config.architecture);
  const rules = architecture.tensors(config);
  const tensors = matchTensors(gguf, rules);
  for (const rule of rules) if (rule.kind === 'ignored') tensors.delete(rule.name);
  const loader = new Loader(gguf, tensors, backend, options);
  const scaled = await loader.separateScales();

  const embedding = await loader.matrix('token_embd.weight');
  if (embedding.kind === 'ternary') throw unsupported('token_embd.weight', tensors);
  const layers: LayerWeights[] = [];
  for (let layer = 0; layer < config.nLayers; layer++) {
    const at = (name: string) => `blk.${layer}.${name}.weight`;
    const matrix = (name: string) => loader.matrix(at(name), scaled.get(`blk.${layer}.${name}.scale`));
    layers.push({
      attnNorm: await loader.vector(at('attn_norm')),
      q: await matrix('attn_q'),
      k: await matrix('attn_k'),
      v: await matrix('attn_v'),
      attnSubNorm: await loader.optionalVector(at('attn_sub_norm')),
      o: await matrix('attn_output'),
      ffnNorm: await loader.vector(at('ffn_norm')),
      gate: await matrix('ffn_gate'),
      up: await matrix('ffn_up'),
      ffnSubNorm: await loader.optionalVector(at('ffn_sub_norm')),
      down: await matrix('ffn_down'),
    });
  }
  const head = tensors.has('output.weight') ? await loader.matrix('output.weight') : embedding;
  if (head.kind === 'ternary') throw unsupported('output.weight', tensors);
  return {
    config,
    embedding,
    layers,
    outputNorm: await loader.vector('output_norm.weight'),
    head,
    ropeFactors: tensors.has('rope_freqs.weight') ? await loader.values('rope_freqs.weight') : undefined,
  };
}

function unsupported(name: string, tensors: ReadonlyMap<string, GgufTensor>): BitnetError {
  return new BitnetError('unsupported-type', 'a ternary embedding or head is not supported', {
    where: name,
    expected: DENSE_TYPES.join(', '),
    got: tensors.get(name)?.dtype.name,
  });
}

class Loader {
  readonly #gguf: GgufFile;
  readonly #tensors: ReadonlyMap<string, GgufTensor>;
  readonly #backend: Backend;
  readonly #options: LoadWeightsOptions;
  readonly #totalBytes: number;
  #loadedBytes = 0;

  constructor(gguf: GgufFile, tensors: ReadonlyMap<string, GgufTensor>, backend: Backend, options: LoadWeightsOptions) {
    this.#gguf = gguf;
    this.#tensors = tensors;
    this.#backend = backend;
    this.#options = options;
    this.#totalBytes = [...tensors.values()].reduce((sum, tensor) => sum + tensor.byteLength, 0);
  }

  /** Factors kept apart from their weights (`blk.N.attn_q.scale`), by name. */
  async separateScales(): Promise<Map<string, number>> {
    const scales = new Map<string, number>();
    for (const name of this.#tensors.keys()) {
      if (name.endsWith('.scale')) scales.set(name, (await this.values(name))[0]);
    }
    return scales;
  }

  /** A projection or table; a separate `factor` becomes part of the weight's own scale. */
  async matrix(name: string, factor = 1): Promise<Weight> {
    const tensor = this.#tensor(name);
    const [columns, rows] = [tensor.shape[0] ?? 1, tensor.shape[1] ?? 1];
    const weight = await this.#backend.upload({
      name,
      rows,
      columns,
      ...(isTernary(tensor.dtype) ? this.#ternary(tensor, rows, columns, factor) : this.#dense(tensor, factor)),
    });
    this.#progress(tensor);
    return weight;
  }

  #ternary(tensor: GgufTensor, rows: number, columns: number, factor: number) {
    const where = this.#where(tensor);
    const { dtype, source, offsetBytes } = tensor;
    if (!isTernary(dtype)) throw new Error(`${tensor.name} is not ternary`);
    const matrix = { where, dtype: dtype.name, rows, columns };
    const read = (target: Uint8Array, at: number) => source.readInto(target, offsetBytes + at);
    const signal = this.#options.signal;
    return {
      kind: 'ternary',
      byteLength: packedBytes(rows, columns),
      fill: async (target: Uint8Array) => {
        const scale = await loadPacked(matrix, read, target, signal === undefined ? {} : { signal });
        return Math.fround(scale * factor);
      },
    } satisfies Partial<WeightSource>;
  }

  #dense(tensor: GgufTensor, factor: number) {
    const where = this.#where(tensor);
    const { dtype } = tensor;
    want(
      DENSE_TYPES.includes(dtype.name),
      'unsupported-type',
      `type ${dtype.name} ${dtype.why ?? 'is not a weight'}`,
      () => ({
        where,
        expected: `I2_S, TQ1_0, TQ2_0, ${DENSE_TYPES.join(', ')}`,
      }),
    );
    want(factor === 1, 'unsupported-type', 'a separate scale with a dense weight is not supported', () => ({ where }));
    return {
      kind: 'dense',
      dtype: dtype.name as DenseType,
      byteLength: tensor.byteLength,
      fill: async (target: Uint8Array) => {
        await this.#stream(tensor, target);
        return 1;
      },
    } satisfies Partial<WeightSource>;
  }

  /** A gain, as f32. */
  async vector(name: string): Promise<Buf> {
    const values = await this.values(name);
    const buf = this.#backend.alloc('f32', [values.length]);
    this.#backend.write(buf, values);
    return buf;
  }

  async optionalVector(name: string): Promise<Buf | undefined> {
    return this.#tensors.has(name) ? this.vector(name) : undefined;
  }

  /** A small tensor decoded to f32. */
  async values(name: string): Promise<Float32Array> {
    const tensor = this.#tensor(name);
    want(DENSE_TYPES.includes(tensor.dtype.name), 'unsupported-type', 'not a type for this tensor', () => ({
      where: this.#where(tensor),
      expected: DENSE_TYPES.join(', '),
      got: tensor.dtype.name,
    }));
    const bytes = new Uint8Array(tensor.byteLength);
    await this.#stream(tensor, bytes);
    const out = new Float32Array(tensor.elements);
    decodeInto(tensor.dtype, bytes, 0, tensor.elements, out);
    this.#progress(tensor);
    return out;
  }

  /** Reads a tensor into `target` piece by piece; every value must be finite. */
  async #stream(tensor: GgufTensor, target: Uint8Array): Promise<void> {
    const { blockBytes, blockElements } = tensor.dtype;
    const pieceBytes = Math.floor(PIECE_BYTES / blockBytes) * blockBytes;
    await inPieces(target.length, pieceBytes, this.#options.signal, {
      read: (at, n) => tensor.source.readInto(target.subarray(at, at + n), tensor.offsetBytes + at),
      use: (at, n) => {
        const bad = findNotFinite(tensor.dtype, target.subarray(at, at + n));
        want(bad < 0, 'bad-tensor', 'a weight is not a finite number', () => ({
          where: `${this.#where(tensor)} element ${(at / blockBytes) * blockElements + bad}`,
        }));
      },
    });
  }

  #progress(tensor: GgufTensor): void {
    this.#loadedBytes += tensor.byteLength;
    this.#options.onProgress?.({
      loadedBytes: this.#loadedBytes,
      totalBytes: this.#totalBytes,
      tensor: tensor.name,
    });
  }

  #tensor(name: string): GgufTensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new Error(`${name} was not matched`); // matchTensors has checked
    return tensor;
  }

  #where(tensor: GgufTensor): string {
    return `${this.#gguf.label}: ${tensor.name}`;
  }
}
