/**
 * Loading a model and owning what it consists of: file, backend, weights, tokenizer, sessions.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { openGguf } from '../formats/gguf/reader.ts';
import type { GgufFile } from '../formats/gguf/types.ts';
import { isByteSource, openModelSource } from '../formats/open.ts';
import type { ByteSource } from '../formats/source.ts';
import {
  checkForeign,
  foreignSemantics,
  forgetOverflows,
  type OverflowReport,
  overflowsOf,
} from '../kernels/foreign/foreign.ts';
import type { Backend, BackendInfo, KvShape } from '../kernels/interface.ts';
import { type Forms, isDecidedByTypes } from '../model/forms.ts';
import type { ModelWeights } from '../model/graph.ts';
import { I2S_LAYOUTS } from '../model/layout.ts';
import { countParameters, loadWeights, readModelConfig } from '../model/load.ts';
import {
  type MemoryPlan,
  modelTensors,
  type PlannedMemory,
  type PlanOptions,
  planMemory,
  TABLE_TYPES,
} from '../model/plan.ts';
import { detectPlatform } from '../platform/detect.ts';
import { createTokenizer, type Tokenizer } from '../tokenizer/index.ts';
import { backendFactory } from './backends.ts';
import {
  type EmbedOptions,
  embeddingNotes,
  embedTexts,
  type QuantizedEmbedding,
  type QuantizedFormat,
} from './embed.ts';
import { openInLayout } from './layout-choice.ts';
import type { Speaker } from './layout-speech.ts';
import { readTokenizerSpec } from './read-tokenizer.ts';
import { kvShapeOf, SessionImpl } from './session.ts';
import { Stepper } from './stepper.ts';
import type { LoadOptions, Model, ModelInfo, ModelInput, Session, SessionOptions } from './types.ts';

/** Tokens of one pass: enough to spread the cost of reading weights, few enough for scratch to stay small. */
const DEFAULT_BATCH = 128;
const MAX_BATCH = 4096;

/** The batch that was asked for; else the backend's own, or less where that does not fit. */
export function batchOf(
  backend: Backend,
  { batchSize }: Pick<LoadOptions, 'batchSize'>,
): Pick<PlanOptions, 'batchSize' | 'smallerBatch'> {
  const { batchRows = DEFAULT_BATCH } = backend;
  if (batchSize !== undefined) return { batchSize };
  return batchRows > DEFAULT_BATCH ? { batchSize: batchRows, smallerBatch: DEFAULT_BATCH } : { batchSize: batchRows };
}

/** Opens a container from anywhere. The caller closes it. */
export async function openModelFile(input: ModelInput, signal?: AbortSignal): Promise<GgufFile> {
  const { openPath } = detectPlatform();
  const own = isByteSource(input) ? borrowed(input) : input;
  const source = await openModelSource(own, { openPath, ...(signal === undefined ? {} : { signal }) });
  try {
    return await openGguf(source);
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** A source that the caller made stays the caller's: closing this one does nothing. */
function borrowed(source: ByteSource): ByteSource {
  return {
    label: source.label,
    byteLength: source.byteLength,
    readInto: (target, offsetBytes) => source.readInto(target, offsetBytes),
    ...(source.sibling === undefined ? {} : { sibling: source.sibling.bind(source) }),
    close: async () => undefined,
  };
}

/**
 * Loads a model: reads the file, checks it, and uploads the weights to a backend.
 *
 * @throws BitnetError with a stable code for everything that can be wrong with a file, an option or the runtime;
 *   the signal's reason when aborted.
 */
export async function loadModel(input: ModelInput, options: LoadOptions = {}): Promise<Model> {
  const startMs = performance.now();
  const { signal } = options;
  const { batchSize: asked = 1 } = options;
  want(Number.isInteger(asked) && asked >= 1 && asked <= MAX_BATCH, 'bad-argument', 'bad batch size', () => ({
    where: 'batchSize',
    expected: `1 to ${MAX_BATCH}`,
    got: String(asked),
  }));
  const { backend: choice, device, threads, kernels, wideVectors, embeddingType = 'auto' } = options;
  want(
    options.i2sLayout === undefined || ['auto', ...I2S_LAYOUTS].includes(options.i2sLayout),
    'bad-argument',
    'no such layout',
    () => ({ where: 'i2sLayout', expected: `auto, ${I2S_LAYOUTS.join(', ')}`, got: String(options.i2sLayout) }),
  );
  want(TABLE_TYPES.includes(embeddingType), 'bad-argument', 'no such type for embedding and head', () => ({
    where: 'embeddingType',
    expected: TABLE_TYPES.join(', '),
    got: String(embeddingType),
  }));
  checkForeign(options);
  const openInner = backendFactory(choice, { device, threads, kernels, wideVectors });
  const openBackend = async () => foreignSemantics(await openInner(), options);
  signal?.throwIfAborted();
  const gguf = await openModelFile(input, signal);
  const opened: Backend[] = [];
  try {
    const tokenizer = createTokenizer(readTokenizerSpec(gguf, options.pre));
    opened.push(await openBackend());
    // A model that does not fit is refused before anything of its weights is read, where that can be known.
    if (isDecidedByTypes(modelTensors(gguf))) planParts(gguf, opened[0], undefined, options);
    const nextBackend = async () => opened.pop() ?? (await openBackend());
    const found = await openInLayout(gguf, options, (forms) =>
      openParts({ gguf, tokenizer, nextBackend }, forms, options),
    );
    forgetOverflows(found.backend);
    return new LoadedModel(found, performance.now() - startMs);
  } finally {
    await opened.pop()?.dispose();
    // Everything needed is in memory now.
    await gguf.close();
  }
}

interface Opening {
  readonly gguf: GgufFile;
  readonly tokenizer: Tokenizer;
  readonly nextBackend: () => Promise<Backend>;
}

/** Loads the weights into a backend of their own. */
async function openParts(
  { gguf, tokenizer, nextBackend }: Opening,
  forms: Forms,
  options: LoadOptions,
): Promise<OpenedParts> {
  const { onProgress, signal } = options;
  const backend = await nextBackend();
  try {
    const plan = planParts(gguf, backend, forms, options);
    const weights = await loadWeights(gguf, backend, { plan, onProgress, signal });
    const stepper = new Stepper(backend, weights, plan.batchSize);
    const notes = [...backend.info.notes, ...plan.notes, ...embeddingNotes(weights.config)];
    return { gguf, config: weights.config, backend, tokenizer, stepper, weights, notes, memoryPlan: plan.memory };
  } catch (error) {
    await backend.dispose();
    throw error;
  }
}

function planParts(gguf: GgufFile, backend: Backend, forms: Forms | undefined, options: LoadOptions): MemoryPlan {
  const { embeddingType: tables } = options;
  return planMemory(gguf, backend, {
    ...batchOf(backend, options),
    kv: plannedKv(gguf, options),
    tables,
    forms,
  });
}

/** The cache that memory is planned for. */
function plannedKv(gguf: GgufFile, { planFor = {} }: LoadOptions): KvShape {
  const config = readModelConfig(gguf);
  const { contextSize } = planFor;
  const limited = contextSize === undefined ? {} : { contextSize: Math.min(contextSize, config.contextLength) };
  return kvShapeOf(config, { ...planFor, ...limited });
}

interface OpenedParts extends Speaker {
  readonly gguf: GgufFile;
  readonly weights: ModelWeights;
  readonly notes: readonly string[];
  readonly memoryPlan: PlannedMemory | undefined;
}

interface ModelParts extends OpenedParts {
  readonly layout: string | undefined;
}

class LoadedModel implements Model {
  readonly info: ModelInfo;
  readonly loadMs: number;
  readonly tokenizer: Tokenizer;
  readonly #parts: ModelParts;
  readonly #sessions = new Set<SessionImpl>();
  #disposing: Promise<void> | undefined;

  constructor(parts: ModelParts, loadMs: number) {
    const { gguf, config } = parts;
    this.info = {
      name: config.name,
      architecture: config.architecture,
      activation: config.activation,
      parameters: countParameters(gguf, config),
      vocabularySize: config.vocabulary,
      contextLength: config.contextLength,
      embeddingLength: config.hidden,
      blockCount: config.nLayers,
      fileBytes: gguf.byteLength,
      ...(parts.layout === undefined ? {} : { layout: parts.layout }),
    };
    this.loadMs = loadMs;
    this.tokenizer = parts.tokenizer;
    this.#parts = parts;
  }

  get backend(): BackendInfo {
    return this.#parts.backend.info;
  }

  get batchSize(): number {
    return this.#parts.stepper.maxRows;
  }

  get notes(): readonly string[] {
    return this.#parts.notes;
  }

  get memoryPlan(): PlannedMemory | undefined {
    return this.#parts.memoryPlan;
  }

  get overflows(): OverflowReport | undefined {
    return overflowsOf(this.#parts.backend);
  }

  createSession(options: SessionOptions = {}): Session {
    if (this.#disposing !== undefined) throw new BitnetError('disposed', 'the model was disposed');
    const onDispose = (session: SessionImpl) => this.#sessions.delete(session);
    const session = new SessionImpl({ ...this.#parts, onDispose }, options);
    this.#sessions.add(session);
    return session;
  }

  embed(
    texts: readonly string[],
    options?: EmbedOptions & { readonly quantize?: 'float' | undefined },
  ): Promise<Float32Array[]>;
  embed(
    texts: readonly string[],
    options: EmbedOptions & { readonly quantize: QuantizedFormat },
  ): Promise<QuantizedEmbedding[]>;
  embed(texts: readonly string[], options?: EmbedOptions): Promise<Float32Array[] | QuantizedEmbedding[]>;
  async embed(texts: readonly string[], options: EmbedOptions = {}): Promise<Float32Array[] | QuantizedEmbedding[]> {
    if (this.#disposing !== undefined) throw new BitnetError('disposed', 'the model was disposed');
    return embedTexts(this.#parts, texts, options);
  }

  memory(): { usedBytes: number; peakBytes: number } {
    return this.#parts.backend.memory();
  }

  dispose(): Promise<void> {
    this.#disposing ??= this.#dispose();
    return this.#disposing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #dispose(): Promise<void> {
    await Promise.all([...this.#sessions].map((session) => session.dispose()));
    await this.#parts.stepper.idle();
    await this.#parts.backend.dispose();
  }
}
