/**
 * From a file to weights in a backend: names are matched first, all at once; then the tensors are streamed from the
 * file straight into the backend's memory, a few at a time, and checked on the way.
 * @module
 */

import { want } from '../errors.ts';
import type { GgufFile, GgufTensor } from '../formats/gguf/types.ts';
import type { Backend, Buf, EncodedWeight, Weight } from '../kernels/interface.ts';
import { decodeInto, findNotFinite } from '../tensors/decode.ts';
import { DENSE_FILE_TYPES, loadDense, memoryTypeOf } from '../tensors/dense-forms.ts';
import { isBlockTernary, isReadable, isTernary } from '../tensors/dtype.ts';
import { loadPacked } from '../tensors/load.ts';
import { loadRequantized } from '../tensors/requantize.ts';
import { allSettled, createTurns, type TakeTurn } from '../tensors/turns.ts';
import { architectureOf } from './architectures.ts';
import type { ModelConfig } from './config.ts';
import { type Form, formOfType } from './forms.ts';
import type { LayerWeights, ModelWeights } from './graph.ts';
import { type MemoryPlan, modelTensors, weightShape } from './plan.ts';
import { EMBEDDING, HEAD, type TensorRule } from './tensors.ts';

export { readModelConfig } from './plan.ts';

export interface LoadWeightsOptions {
  /** What `planMemory` said; without it tables stay as they are in the file. */
  readonly plan?: MemoryPlan | undefined;
  readonly onProgress?: ((progress: { loadedBytes: number; totalBytes: number; tensor: string }) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Tensors on their way at a time: enough for small ones to keep a disk busy. One where no memory was reserved: taking room
 * for a second one may then move the memory under the first.
 */
const AT_ONCE = 6;

/** Weights that the architecture uses; a copy of the embedding that some files carry does not count. */
export function countParameters(gguf: GgufFile, config: ModelConfig): number {
  const rules = architectureOf(config.architecture).tensors(config);
  return rules
    .filter((rule) => rule.kind !== 'ignored')
    .reduce((sum, rule) => sum + (gguf.findTensor(rule.name)?.elements ?? 0), 0);
}

/**
 * Loads all weights of `gguf` into `backend`. When it throws, the error is that of the first bad tensor in the order of the
 * table, whichever was read first, and nothing is being read any more.
 */
export async function loadWeights(
  gguf: GgufFile,
  backend: Backend,
  options: LoadWeightsOptions = {},
): Promise<ModelWeights> {
  const { config, tensors, rules } = modelTensors(gguf);
  const { plan } = options;
  if (plan?.spanBytes !== undefined) backend.reserve?.(plan.spanBytes);
  const loader = new Loader(gguf, tensors, backend, options);
  const scaled = await loader.separateScales();

  // All is asked for at once, layer by layer in the order of the table, and taken up in that order.
  const embedding = loader.matrix(EMBEDDING);
  const parts: TensorRule[][] = Array.from({ length: config.nLayers }, () => []);
  for (const rule of rules) if (rule.part !== undefined) parts[rule.part.layer].push(rule);
  const layers = parts.map((rules) => loadLayer(loader, rules, scaled));
  const head = tensors.has(HEAD) ? loader.matrix(HEAD) : embedding;
  const outputNorm = loader.vector('output_norm.weight');
  const ropeFactors = tensors.has('rope_freqs.weight') ? loader.values('rope_freqs.weight') : undefined;
  await allSettled<unknown>([
    embedding,
    ...layers,
    head,
    outputNorm,
    ...(ropeFactors === undefined ? [] : [ropeFactors]),
  ]);
  const factors = await ropeFactors;
  const bad = factors?.findIndex((factor) => !(factor > 0)) ?? -1;
  want(bad < 0, 'bad-tensor', 'a divisor of a frequency is not positive', () => ({
    where: `${gguf.label}: rope_freqs.weight element ${bad}`,
    expected: 'more than 0',
    got: `${factors?.[bad]}`,
  }));
  return {
    config,
    embedding: await embedding,
    layers: await Promise.all(layers),
    outputNorm: await outputNorm,
    head: await head,
    ropeFactors: factors,
  };
}

/** The parts of one layer, as the architecture's table lists them. */
async function loadLayer(
  loader: Loader,
  rules: readonly TensorRule[],
  scaled: ReadonlyMap<string, number>,
): Promise<LayerWeights> {
  const matrices = new Map<string, Promise<Weight>>();
  const gains = new Map<string, Promise<Buf>>();
  const asked: Promise<unknown>[] = [];
  for (const { name, kind, part } of rules) {
    if (part === undefined) continue;
    if (kind === 'vector') {
      const gain = loader.vector(name);
      gains.set(part.name, gain);
      asked.push(gain);
    } else {
      const matrix = loader.matrix(name, scaled.get(name.replace(/weight$/, 'scale')));
      matrices.set(part.name, matrix);
      asked.push(matrix);
    }
  }
  await allSettled<unknown>(asked);
  const part = <T>(parts: ReadonlyMap<string, Promise<T>>, name: string): Promise<T> => {
    const found = parts.get(name);
    if (found === undefined) throw new Error(`${name} is not in the table of this architecture`);
    return found;
  };
  return {
    attnNorm: await part(gains, 'attn_norm'),
    q: await part(matrices, 'attn_q'),
    k: await part(matrices, 'attn_k'),
    v: await part(matrices, 'attn_v'),
    o: await part(matrices, 'attn_output'),
    ffnNorm: await part(gains, 'ffn_norm'),
    gate: await part(matrices, 'ffn_gate'),
    up: await part(matrices, 'ffn_up'),
    down: await part(matrices, 'ffn_down'),
    gains: Object.fromEntries(await Promise.all([...gains].map(async ([name, gain]) => [name, await gain] as const))),
  };
}

class Loader {
  readonly #gguf: GgufFile;
  readonly #tensors: ReadonlyMap<string, GgufTensor>;
  readonly #backend: Backend;
  readonly #options: LoadWeightsOptions;
  readonly #totalBytes: number;
  readonly #turn: TakeTurn;
  /** Bytes of each tensor that count as loaded. */
  readonly #loaded = new Map<GgufTensor, number>();
  #loadedBytes = 0;
  #failed = false;

  constructor(gguf: GgufFile, tensors: ReadonlyMap<string, GgufTensor>, backend: Backend, options: LoadWeightsOptions) {
    this.#gguf = gguf;
    this.#tensors = tensors;
    this.#backend = backend;
    this.#options = options;
    this.#turn = createTurns(options.plan?.spanBytes === undefined ? 1 : AT_ONCE);
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
  matrix(name: string, factor = 1): Promise<Weight> {
    const tensor = this.#tensor(name);
    return this.#take(tensor, async () => {
      const where = this.#where(tensor);
      const { plan } = this.#options;
      const form = plan?.forms?.of.get(name) ?? formOfType(tensor);
      const requantized = plan?.requantized.get(name);
      const shape = weightShape(tensor, where, requantized, form);
      want(
        factor === 1 || shape.kind === 'ternary',
        'unsupported-type',
        'a separate scale with a dense weight',
        () => ({
          where,
          expected: 'a ternary weight',
        }),
      );
      const fill = async (target: Uint8Array) => {
        if (form === 'packed') return Math.fround((await this.#packed(tensor, target)) * factor);
        if (requantized === undefined) await this.#dense(tensor, target);
        else await this.#requantize(tensor, requantized, target);
        return 1;
      };
      const encoded = this.#encoded(tensor, form, factor);
      return this.#backend.upload({ ...shape, fill, ...(encoded === undefined ? {} : { encoded }) });
    });
  }

  /** The file's bytes, where they are what backends know how to repack; other forms and layouts are left to `fill`. */
  #encoded(tensor: GgufTensor, form: Form, factor: number): EncodedWeight | undefined {
    const { dtype } = tensor;
    const { i2s = 'x86' } = this.#options.plan?.forms?.layout ?? {};
    const read = (target: Uint8Array, at: number) => this.#read(tensor, target, at);
    if (form !== 'packed') {
      // Only types that keep their form, and floats to be made smaller.
      const isKnown = dtype.name === memoryTypeOf(dtype, tensor.shape[0] ?? 1);
      return isKnown ? { dtype: dtype.name as EncodedWeight['dtype'], factor, read } : undefined;
    }
    if (!isBlockTernary(dtype) || (dtype.name === 'I2_S' && i2s !== 'x86')) return undefined;
    return { dtype: dtype.name, factor, read };
  }

  /** Packed rows of a ternary tensor; gives its scale. */
  #packed(tensor: GgufTensor, target: Uint8Array): Promise<number> {
    const { dtype } = tensor;
    if (!isReadable(dtype)) throw new Error(`${tensor.name} cannot be read`);
    const { i2s: layout, tiles } = this.#options.plan?.forms?.layout ?? {};
    const [columns, rows] = [tensor.shape[0] ?? 1, tensor.shape[1] ?? 1];
    const matrix = { where: this.#where(tensor), dtype: dtype.name, rows, columns, layout, tiles };
    const { signal } = this.#options;
    const read = (piece: Uint8Array, at: number) => this.#read(tensor, piece, at);
    return loadPacked(matrix, read, target, signal === undefined ? {} : { signal });
  }

  /** In the form that the type has in memory. */
  #dense(tensor: GgufTensor, target: Uint8Array): Promise<void> {
    const { dtype, shape } = tensor;
    const matrix = { where: this.#where(tensor), dtype, rows: shape[1] ?? 1, columns: shape[0] ?? 1 };
    const read = (piece: Uint8Array, at: number) => this.#read(tensor, piece, at);
    return loadDense(matrix, read, target, this.#options.signal);
  }

  #requantize(tensor: GgufTensor, to: 'Q8_0' | 'Q6_K', target: Uint8Array): Promise<void> {
    const { dtype, elements } = tensor;
    const read = (piece: Uint8Array, at: number) => this.#read(tensor, piece, at);
    return loadRequantized({ where: this.#where(tensor), dtype, elements, to }, read, target, this.#options.signal);
  }

  /** A gain, as f32. */
  vector(name: string): Promise<Buf> {
    const tensor = this.#tensor(name);
    return this.#take(tensor, async () => {
      // Taken before anything is waited for: so memory is given out in the order of the graph.
      const buf = this.#backend.alloc('f32', [tensor.elements]);
      this.#backend.write(buf, await this.#decoded(tensor));
      return buf;
    });
  }

  /** A small tensor decoded to f32. */
  values(name: string): Promise<Float32Array> {
    const tensor = this.#tensor(name);
    return this.#take(tensor, () => this.#decoded(tensor));
  }

  async #decoded(tensor: GgufTensor): Promise<Float32Array> {
    const isDense = !isTernary(tensor.dtype) && memoryTypeOf(tensor.dtype, tensor.shape[0] ?? 1) !== undefined;
    want(isDense, 'unsupported-type', 'not a type for this tensor', () => ({
      where: this.#where(tensor),
      expected: DENSE_FILE_TYPES.filter((name) => !/^I2|^TQ/.test(name)).join(', '),
      got: tensor.dtype.name,
    }));
    const bytes = new Uint8Array(tensor.byteLength);
    await this.#read(tensor, bytes, 0);
    const bad = findNotFinite(tensor.dtype, bytes);
    want(bad < 0, 'bad-tensor', 'a weight is not a finite number', () => ({
      where: `${this.#where(tensor)} element ${bad}`,
    }));
    const out = new Float32Array(tensor.elements);
    decodeInto(tensor.dtype, bytes, 0, tensor.elements, out);
    return out;
  }

  /** Loads a tensor when its turn has come, unless one before it has failed. */
  #take<T>(tensor: GgufTensor, load: () => Promise<T>): Promise<T> {
    return this.#turn(async () => {
      if (this.#failed) throw new Error(`${tensor.name} was not loaded: another tensor failed`);
      try {
        const loaded = await load();
        this.#progress(tensor, tensor.byteLength);
        return loaded;
      } catch (error) {
        this.#failed = true;
        throw error;
      }
    });
  }

  async #read(tensor: GgufTensor, target: Uint8Array, at: number): Promise<void> {
    this.#options.signal?.throwIfAborted();
    await tensor.source.readInto(target, tensor.offsetBytes + at);
    this.#progress(tensor, (this.#loaded.get(tensor) ?? 0) + target.length);
  }

  /** `bytes` of the tensor are loaded. What is read twice counts once, so the sum never goes back nor beyond the total. */
  #progress(tensor: GgufTensor, bytes: number): void {
    const before = this.#loaded.get(tensor) ?? 0;
    const now = Math.min(bytes, tensor.byteLength);
    if (now <= before) return;
    this.#loaded.set(tensor, now);
    this.#loadedBytes += now - before;
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
