/**
 * What a model will take in a backend's memory, reckoned from its table of tensors before any weight is read; and what is
 * done where that is too much: tables of floats are requantised while they are loaded, or loading is refused.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { GgufFile, GgufTensor } from '../formats/gguf/types.ts';
import type { Backend, KvShape, Rehearsal, WeightShape } from '../kernels/interface.ts';
import { DENSE_FILE_TYPES, memoryBytes, memoryTypeOf } from '../tensors/dense-forms.ts';
import { packedBytes } from '../tensors/packed.ts';
import { canRequantize, type SmallType } from '../tensors/requantize.ts';
import { architectureOf } from './architectures.ts';
import { type ModelConfig, readConfig } from './config.ts';
import { type Form, type Forms, formOfType } from './forms.ts';
import { createScratch } from './graph.ts';
import { isTable, matchTensors, type TensorRule } from './tensors.ts';

/**
 * In which type embedding and head are kept. `file`: as they are, without loss (`tensors/dense-forms.ts`). `Q8_0`, `Q6_K`: those that
 * would take more are requantised while loading. `auto`: the first of these three with which the model fits.
 */
export type TableType = (typeof TABLE_TYPES)[number];
export const TABLE_TYPES = ['auto', 'file', 'Q8_0', 'Q6_K'] as const;

export interface PlanOptions {
  /** Tokens of one step. */
  readonly batchSize: number;
  /** What to make do with before a table is requantised or the model refused: a batch changes no result. */
  readonly smallerBatch?: number | undefined;
  /** The cache of one session. */
  readonly kv: KvShape;
  readonly tables?: TableType | undefined;
  /** What `decideForms` said of the projections; without it they are what their types say. */
  readonly forms?: Forms | undefined;
}

/** What a model takes in a backend's memory, reckoned before anything of it is there. The three parts add up to `totalBytes`. */
export interface PlannedMemory {
  /** As they lie there: on a GPU each matrix in whole blocks. */
  readonly weightBytes: number;
  /** Keys and values of one session of `contextSize` positions; each further session takes as much again. */
  readonly kvBytes: number;
  readonly contextSize: number;
  /** Activations of one step, what loading needs for a while, and what is lost between pieces. */
  readonly scratchBytes: number;
  readonly totalBytes: number;
  /** What there is: of a GPU what was free, less what its driver may need while the model runs. */
  readonly capacityBytes: number;
}

export interface MemoryPlan {
  readonly forms: Forms | undefined;
  /** Tokens of one step: what was asked for, or the smaller number. */
  readonly batchSize: number;
  /** Tensors that are kept in another type than the file's. */
  readonly requantized: ReadonlyMap<string, SmallType>;
  /** How long the backend's memory must be for all of it; undefined where it has no ceiling. */
  readonly spanBytes: number | undefined;
  /** The same by its parts. */
  readonly memory: PlannedMemory | undefined;
  /** What the user should know: which tables and projections are not as in the file, and why. */
  readonly notes: readonly string[];
}

/** The tensors that a model consists of, by name, and its hyper-parameters; refuses files that do not fit together. */
export function modelTensors(gguf: GgufFile): ModelTensors {
  const config = readModelConfig(gguf);
  const rules = architectureOf(config.architecture).tensors(config);
  const tensors = matchTensors(gguf, rules);
  for (const rule of rules) if (rule.kind === 'ignored') tensors.delete(rule.name);
  const matrices = new Set(rules.filter((rule) => rule.kind === 'matrix').map((rule) => rule.name));
  return { config, tensors, matrices, rules: rules.filter((rule) => tensors.has(rule.name)) };
}

export interface ModelTensors {
  readonly config: ModelConfig;
  /** All that are loaded. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  /** Names of those that multiply; the others are gains and factors. */
  readonly matrices: ReadonlySet<string>;
  /** The rules that they were matched with, in the order of the architecture's table. */
  readonly rules: readonly TensorRule[];
}

/** Reads hyper-parameters and architecture without loading anything. */
export function readModelConfig(gguf: GgufFile): ModelConfig {
  return readConfig(gguf, architectureOf(gguf.getString('general.architecture')));
}

/**
 * What a matrix is in memory: `packed` ones in two bits a weight, others in the form of the file's type or as `requantized`.
 * `where` is for messages.
 */
export function weightShape(
  tensor: GgufTensor,
  where: string,
  requantized?: SmallType,
  form: Form = formOfType(tensor),
): WeightShape {
  const { name, dtype } = tensor;
  const [columns, rows] = [tensor.shape[0] ?? 1, tensor.shape[1] ?? 1];
  if (form === 'packed') return { name, rows, columns, kind: 'ternary', byteLength: packedBytes(rows, columns) };
  const memory = requantized ?? memoryTypeOf(dtype, columns);
  want(memory !== undefined, 'unsupported-type', `type ${dtype.name} ${dtype.why ?? 'is not a weight'}`, () => ({
    where,
    expected: DENSE_FILE_TYPES.join(', '),
  }));
  return { name, rows, columns, kind: 'dense', dtype: memory, byteLength: memoryBytes(memory, rows * columns) };
}

/** Bytes of a tensor in a backend's memory as the file has it; those of the file where it cannot be loaded. */
export function loadedBytes({ name, dtype, shape, elements, byteLength }: GgufTensor): number {
  const [columns, rows] = [shape[0] ?? 1, shape[1] ?? 1];
  if (formOfType({ name, dtype }) === 'packed') return packedBytes(rows, columns);
  const memory = memoryTypeOf(dtype, columns);
  return memory === undefined ? byteLength : memoryBytes(memory, elements);
}

/** Reckons the memory of `gguf` in `backend` and decides how its tables are kept. Throws `out-of-memory` with the numbers. */
export function planMemory(gguf: GgufFile, backend: Backend, options: PlanOptions): MemoryPlan {
  const { tables = 'auto', forms, batchSize, smallerBatch } = options;
  const model = { label: gguf.label, forms, ...modelTensors(gguf) };
  const only = tables === 'auto' ? 'file' : tables;
  if (backend.rehearse === undefined) {
    const requantized = requantizedAs(model, only);
    const notes = notesOf(model, requantized, 'as asked');
    return { forms, batchSize, requantized, spanBytes: undefined, memory: undefined, notes };
  }
  const candidates = tables === 'auto' ? (['file', 'Q8_0', 'Q6_K'] as const) : [only];
  const batches = smallerBatch === undefined ? [batchSize] : [batchSize, smallerBatch];
  const reckonings = candidates.flatMap((candidate) => {
    const requantized = requantizedAs(model, candidate);
    return batches.map((rows) => {
      const asked = { ...options, batchSize: rows };
      return { requantized, batchSize: rows, ...reckon(model, rehearsalOf(backend), requantized, asked) };
    });
  });
  const found = reckonings.find((one) => one.spanBytes <= one.capacityBytes);
  if (found !== undefined) {
    const { requantized, spanBytes } = found;
    const first = reckonings[batches.length - 1];
    const why =
      tables === 'auto'
        ? `since it would need ${gib(first.spanBytes)} and there are ${gib(first.capacityBytes)}`
        : 'as asked';
    const memory = partsOf(found, options.kv);
    return {
      forms,
      batchSize: found.batchSize,
      requantized,
      spanBytes,
      memory,
      notes: notesOf(model, requantized, why),
    };
  }
  const last = reckonings[reckonings.length - 1];
  throw tooLarge(model, backend, last, { ...options, batchSize: last.batchSize });
}

interface PlannedModel extends ModelTensors {
  readonly label: string;
  readonly forms: Forms | undefined;
}

/** Bytes of the parts, and of the whole with what lies between them. */
interface Reckoning {
  readonly projections: number;
  readonly tables: number;
  /** Projections and tables as they lie in memory. */
  readonly weights: number;
  readonly scratch: number;
  readonly kv: number;
  readonly spanBytes: number;
  readonly capacityBytes: number;
}

function partsOf({ weights, spanBytes, capacityBytes }: Reckoning, kv: KvShape): PlannedMemory {
  const { nLayers, nKvHeads, headDim, contextSize } = kv;
  const elementBytes = [kv.kType, kv.vType].reduce((sum, type) => sum + (type === 'f32' ? 4 : 2), 0);
  const kvBytes = nLayers * nKvHeads * headDim * contextSize * elementBytes;
  const scratchBytes = spanBytes - weights - kvBytes;
  return { weightBytes: weights, kvBytes, contextSize, scratchBytes, totalBytes: spanBytes, capacityBytes };
}

/** Read when loading, or used by TypeScript, so never in a backend's memory. */
function isFactor(name: string): boolean {
  return name.endsWith('.scale') || name === 'rope_freqs.weight';
}

function requantizedAs({ label, tensors }: PlannedModel, type: 'file' | SmallType): Map<string, SmallType> {
  const found = new Map<string, SmallType>();
  if (type === 'file') return found;
  for (const tensor of tensors.values()) {
    if (!isTable(tensor.name)) continue;
    // Q6_K has longer blocks: rows that do not fill them may still fill those of Q8_0.
    const fitting = ([type, 'Q8_0'] as const).find((one) => canRequantize(tensor.dtype, tensor.shape[0] ?? 1, one));
    if (fitting !== undefined) found.set(tensor.name, fitting);
    weightShape(tensor, `${label}: ${tensor.name}`, fitting);
  }
  return found;
}

/** Makes the calls of loading, of the first step and of one session. */
function reckon(
  { label, forms, config, tensors, matrices }: PlannedModel,
  memory: Rehearsal,
  requantized: ReadonlyMap<string, SmallType>,
  { batchSize, kv }: PlanOptions,
): Reckoning {
  const used = () => memory.memory().usedBytes;
  const atFirst = used(); // a backend may have begun with memory of its own
  let tables = 0;
  let projections = 0;
  for (const [name, tensor] of tensors) {
    if (matrices.has(name)) {
      const shape = weightShape(tensor, `${label}: ${name}`, requantized.get(name), forms?.of.get(name));
      memory.place(shape);
      if (isTable(name)) tables += shape.byteLength;
      else projections += shape.byteLength;
    } else if (!isFactor(name)) {
      memory.alloc('f32', [tensor.elements]);
      projections += tensor.elements * 4;
    }
  }
  const weights = used() - atFirst;
  createScratch(memory, config, batchSize);
  const scratch = used() - tables - projections;
  const before = used();
  memory.allocKv(kv);
  const { spanBytes, capacityBytes } = memory;
  return { projections, tables, weights, scratch, kv: used() - before, spanBytes, capacityBytes };
}

function rehearsalOf(backend: Backend): Rehearsal {
  const rehearsal = backend.rehearse?.();
  if (rehearsal === undefined) throw new Error('not a backend with a ceiling');
  return rehearsal;
}

/** One note for the tables of one type that become another. */
function notesOf({ forms, tensors }: PlannedModel, requantized: ReadonlyMap<string, SmallType>, why: string): string[] {
  const groups = new Map<string, { names: string[]; bytes: number; plainBytes: number }>();
  for (const [name, type] of requantized) {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new Error(`${name} was not matched`);
    const kept = `kept as ${type} instead of the file's ${tensor.dtype.name}`;
    const { names, bytes, plainBytes } = groups.get(kept) ?? { names: [], bytes: 0, plainBytes: 0 };
    const { byteLength } = weightShape(tensor, name, type);
    groups.set(kept, {
      names: [...names, name],
      bytes: bytes + byteLength,
      plainBytes: plainBytes + weightShape(tensor, name).byteLength,
    });
  }
  const ofTables = [...groups].map(([kept, { names, bytes, plainBytes }]) => {
    const sizes = `${gib(bytes)} instead of ${gib(plainBytes)}`;
    return `${names.join(' and ')} ${kept} (${sizes}), ${why}: logits are those of the requantised values`;
  });
  return [...(forms?.notes ?? []), ...ofTables];
}

function tooLarge(
  model: PlannedModel,
  backend: Backend,
  last: Reckoning & { readonly requantized: ReadonlyMap<string, SmallType> },
  options: PlanOptions,
): BitnetError {
  const fits = (contextSize: number, batchSize = options.batchSize) => {
    const kv = { ...options.kv, contextSize };
    const asked = { ...options, kv, batchSize };
    const { spanBytes, capacityBytes } = reckon(model, rehearsalOf(backend), last.requantized, asked);
    return spanBytes <= capacityBytes;
  };
  let [largest, beyond] = [0, options.kv.contextSize];
  while (beyond - largest > 1) {
    const middle = Math.floor((largest + beyond) / 2);
    if (fits(middle)) largest = middle;
    else beyond = middle;
  }
  let batch = 1;
  while (batch * 2 < options.batchSize && fits(options.kv.contextSize, batch * 2)) batch *= 2;
  const smallerBatch = fits(options.kv.contextSize, batch) ? batch : undefined;
  const types = new Set(last.requantized.values());
  const kept = types.size === 0 ? '' : ` (as ${[...types].join(' and ')})`;
  const parts = [
    `projections and norms ${gib(last.projections)}`,
    `embedding and head ${gib(last.tables)}${kept}`,
    `KV cache of ${options.kv.contextSize} positions ${gib(last.kv)}`,
    `scratch ${gib(last.scratch)}`,
  ];
  return new BitnetError('out-of-memory', `does not fit into the memory of backend ${backend.info.name}`, {
    where: model.label,
    expected: `at most ${gib(last.capacityBytes)} (${last.capacityBytes} bytes)`,
    got: `${gib(last.spanBytes)} (${last.spanBytes} bytes): ${parts.join(', ')}`,
    hint: adviceOf(largest, smallerBatch, options),
  });
}

function adviceOf(largestContext: number, smallerBatch: number | undefined, { tables = 'auto' }: PlanOptions): string {
  const ways = [
    ...(largestContext === 0 ? [] : [`a context of ${largestContext} positions would fit: -c, or planFor.contextSize`]),
    ...(smallerBatch === undefined ? [] : [`a batch of ${smallerBatch} tokens would fit: -b, or batchSize`]),
  ];
  if (ways.length === 0) ways.push('not even one position would fit: it takes a smaller model');
  if (tables === 'file') ways.push('--embd-type auto, or embeddingType, makes the tables smaller');
  return ways.join('; ');
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
