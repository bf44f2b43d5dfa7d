/**
 * GGUF -> GGUF with other tensor types, in llama-quantize's way: projections take the type of the file, tables their own,
 * everything else is copied. Between ternary types trits are kept and only a scale may be rounded, which is said.
 *
 *     from                 to a ternary type               to F32, F16, BF16       tables to F32 .. Q2_K
 *     ternary              trits kept                      trits times scale       trits times scale
 *     TQ, block scales     kept in TQ1_0 and TQ2_0 only    trits times scale       trits times scale
 *     floats, ternary      trits kept                      converted               converted
 *     floats, other        only with `ternarize`           converted               converted
 *     quantised            as floats                       with `allowRequantize`  with `allowRequantize`
 *
 * Upstream's quantiser takes the sign of whatever floats it is given and their maximum as scale: fed with master weights it
 * writes garbage without a word. Here such a file is refused, with its distance from ternary.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { GgufFile, GgufTensor, GgufValue } from '../formats/gguf/types.ts';
import { copyOf } from '../formats/gguf/writer.ts';
import type { ByteSink } from '../formats/sink.ts';
import type { TernaryLayout } from '../model/forms.ts';
import { findLayout, type LayoutOptions } from '../model/layout.ts';
import { HEAD, isTable } from '../model/tensors.ts';
import { type DTypeName, dtypeByName, isTernary } from '../tensors/dtype.ts';
import type { I2sLayout } from '../tensors/i2s-layouts.ts';
import { NEARLY_TERNARY, ternarinessOf } from '../tensors/ternariness.ts';
import { type Metadata, type Role, u32 } from './layout.ts';
import { encodeMatrix, RoundedScales } from './linear.ts';
import { firstPiece, floatsOf, matrixShape, severalScales, tritsOfTensor, wantHoldable } from './requantize-matrix.ts';
import { type Distance, FloatKinds, worstOf } from './ternary-floats.ts';
import {
  type EmbeddingType,
  embeddingTypes,
  encodeFloats,
  encoderOf,
  fittingTableType,
  type LinearForm,
  type LinearType,
  linearTypes,
  wantWritable,
} from './types.ts';
import { surveyFloats } from './weights.ts';
import {
  beforeWriting,
  byteLengthOf,
  type FilledTensor,
  type WriteOptions,
  type Written,
  writeModel,
} from './write.ts';

export interface RequantizeOptions extends WriteOptions, LayoutOptions {
  /** Of the projections; COPY leaves every tensor as it is. */
  readonly type: LinearType | 'COPY';
  /** Order of the values of I2_S that is written [x86]. */
  readonly outputI2sLayout?: I2sLayout | undefined;
  /** [F16 for float tables and a ternary `type`; else as it is in the file] */
  readonly tokenEmbeddingType?: EmbeddingType | undefined;
  readonly outputTensorType?: EmbeddingType | undefined;
  /** Let tensors be quantised that are quantised already. */
  readonly allowRequantize?: boolean | undefined;
  /** Make floats ternary that are not, by their mean magnitude as in training. */
  readonly ternarize?: boolean | undefined;
}

export interface Requantized extends Written {
  readonly notes: readonly string[];
}

/** What a file of this type is made of, by the name that llama.cpp gives its parts. */
function roleOf({ name, shape, elements }: GgufTensor): Role {
  if (isTable(name)) return 'embedding';
  const isMatrix = elements > (shape[0] ?? 1) && (shape[0] ?? 1) > 1;
  return isMatrix && /^blk\.\d+\..*\.weight$/.test(name) ? 'linear' : 'vector';
}

/** Writes `gguf` with other types and closes the sink; on failure aborts it. Leaves `gguf` open. */
export async function requantize(gguf: GgufFile, sink: ByteSink, options: RequantizeOptions): Promise<Requantized> {
  const plan = await beforeWriting(sink, () => makePlan(gguf, options));
  const written = await writeModel(sink, plan.metadata, plan.tensors, options);
  return { ...written, notes: [...plan.notes, ...plan.kinds.notes(), ...(plan.rounded?.notes() ?? [])] };
}

interface Plan {
  readonly metadata: Metadata;
  readonly tensors: readonly FilledTensor[];
  readonly notes: string[];
  readonly kinds: FloatKinds;
  readonly rounded: RoundedScales | undefined;
  /** Of the file that is read. */
  readonly layout: TernaryLayout;
}

async function makePlan(gguf: GgufFile, options: RequantizeOptions): Promise<Plan> {
  const { type } = options;
  const rounded = type === 'COPY' ? undefined : new RoundedScales(type);
  const { layout, finding, isNews } = await findLayout(gguf, type === 'COPY' ? { i2sLayout: 'x86' } : options);
  const notes = isNews && finding !== undefined ? [`read as ${finding}`] : [];
  const metadata = metadataOf(gguf, type);
  const plan: Plan = { metadata, tensors: [], notes, kinds: new FloatKinds(), rounded, layout };
  if (type === 'COPY') return { ...plan, tensors: gguf.tensors.map((tensor) => copied(tensor, roleOf(tensor))) };
  await wantTernarisable(gguf, type, options);
  const scales = await blockScalesOf(gguf, type, options);
  const tensors = gguf.tensors.map((tensor) => {
    const several = scales.get(tensor);
    return several === undefined
      ? filled(gguf, tensor, type, options, plan)
      : inBlocks(gguf, tensor, several, type, options, plan);
  });
  return { ...plan, tensors };
}

/** The projections that have to be written in another type and have a scale for each block. */
async function blockScalesOf(gguf: GgufFile, type: LinearType, { signal }: RequantizeOptions) {
  const found = new Map<GgufTensor, ReadonlySet<number>>();
  for (const tensor of gguf.tensors) {
    if (roleOf(tensor) !== 'linear' || tensor.dtype.name === type) continue;
    const scales = await severalScales(tensor, `${gguf.label}: ${tensor.name}`, signal);
    if (scales !== undefined) found.set(tensor, scales);
  }
  return found;
}

/** A projection with a scale for each block, by way of floats: they quantise to the same trits and scales again. */
function inBlocks(
  gguf: GgufFile,
  tensor: GgufTensor,
  scales: ReadonlySet<number>,
  type: LinearType,
  options: RequantizeOptions,
  { rounded }: Plan,
): FilledTensor {
  const where = `${gguf.label}: ${tensor.name}`;
  want(type !== 'I2_S' && type !== 'TL1' && type !== 'TL2', 'unsupported-type', 'block scales differ', () => ({
    where,
    expected: `one scale for the tensor, which is what ${type} has room for`,
    got: `${scales.size}`,
    hint: 'TQ1_0, TQ2_0, F16 and F32 keep them all',
  }));
  for (const scale of scales) rounded?.add(scale, tensor.name);
  return plainly(tensor, where, 'linear', type, options);
}

function filled(
  gguf: GgufFile,
  tensor: GgufTensor,
  type: LinearType,
  options: RequantizeOptions,
  plan: Plan,
): FilledTensor {
  const where = `${gguf.label}: ${tensor.name}`;
  const role = roleOf(tensor);
  if (role === 'vector') return copied(tensor, role);
  if (role === 'embedding') {
    const wanted = tableTypeOf(tensor, type, options, plan.notes);
    return wanted === tensor.dtype.name ? copied(tensor, role) : plainly(tensor, where, role, wanted, options);
  }
  const form: LinearForm = { type, i2sLayout: options.outputI2sLayout };
  if (tensor.dtype.name === type && isSameOrder(form, plan.layout)) return copied(tensor, role);
  if (!isTernary(tensor.dtype) && !isTernaryType(type))
    return plainly(tensor, where, role, type, options, plan.rounded);
  const { name, shape, elements } = tensor;
  const [columns, rows] = matrixShape(tensor);
  wantWritable(form, rows, columns, where);
  if (typeof encoderOf(form) === 'function') wantHoldable(tensor, elements, where);
  return sized({
    name,
    role,
    shape,
    elements,
    dtype: type,
    async *pieces() {
      const { matrix, survey } = await tritsOfTensor(tensor, where, { layout: plan.layout, signal: options.signal });
      // Looked at as a whole now; a first look at its first rows may have been too kind.
      if (survey?.kind === 'master' && survey.mean > 0 && options.ternarize !== true) {
        throw notTernary(gguf.label, [[name, survey.ternariness.distance]]);
      }
      if (survey !== undefined) plan.kinds.add(survey);
      plan.rounded?.add(matrix.scale, name);
      yield* encodeMatrix(form, matrix);
    },
  });
}

/** Whether bytes of the file are those that would be written. */
function isSameOrder(
  { type, i2sLayout = 'x86' }: LinearForm,
  { i2s = 'x86', tiles = 'codegen' }: TernaryLayout,
): boolean {
  if (type === 'I2_S') return i2sLayout === i2s;
  return (type !== 'TL1' && type !== 'TL2') || tiles === 'codegen';
}

/** The type of embedding or head. */
function tableTypeOf(tensor: GgufTensor, type: LinearType, options: RequantizeOptions, notes: string[]): DTypeName {
  const { name, dtype } = tensor;
  const asked = name === HEAD ? options.outputTensorType : options.tokenEmbeddingType;
  const isFloat = dtype.blockElements === 1;
  // As llama-quantize: tables of a ternary file are F16, those of a float file as the rest. What is quantised stays so.
  const wanted = asked ?? (isFloat ? (isTernaryType(type) ? 'F16' : (type as EmbeddingType)) : undefined);
  if (wanted === undefined) {
    if (!isTernaryType(type)) notes.push(`${name} stays ${dtype.name}; --token-embedding-type changes it`);
    return dtype.name as DTypeName;
  }
  const [columns] = matrixShape(tensor);
  const fitting = fittingTableType(wanted, columns);
  if (fitting !== wanted) notes.push(`${name}: rows of ${columns} values are no whole ${wanted} blocks: ${fitting}`);
  return fitting;
}

/** By way of floats. `rounded` hears of the scale of those that are ternary. */
function plainly(
  tensor: GgufTensor,
  where: string,
  role: Role,
  dtype: DTypeName,
  { allowRequantize, signal }: RequantizeOptions,
  rounded?: RoundedScales,
): FilledTensor {
  const { name, shape, elements } = tensor;
  const isLossless = tensor.dtype.blockElements === 1 || isTernary(tensor.dtype) || dtype === 'F32';
  want(isLossless || allowRequantize === true, 'bad-argument', `requantising ${tensor.dtype.name} is off`, () => ({
    where,
    hint: 'start from the F16 or F32 file, or allow it with --allow-requantize: it loses twice',
  }));
  want(tensor.dtype.readable, 'unsupported-type', `type ${tensor.dtype.name} ${tensor.dtype.why}`, () => ({ where }));
  const type = embeddingTypes.find((one) => one === dtype)!; // all float types of projections are among them
  return sized({
    name,
    role,
    shape,
    elements,
    dtype,
    async *pieces() {
      const survey = rounded === undefined ? undefined : await surveyFloats(floatsOf(tensor, where), signal);
      if (survey?.kind === 'ternary') rounded?.add(survey.ternariness.scale, name);
      for await (const values of floatsOf(tensor, where)()) yield encodeFloats(type, values, name);
    },
  });
}

function copied(tensor: GgufTensor, role: Role): FilledTensor {
  const { name, shape, elements, dtype } = tensor;
  return { name, shape, elements, role, dtype, pieces: copyOf(tensor).data };
}

/** Refuses shapes that do not fit the type while nothing has been written. */
function sized(tensor: FilledTensor): FilledTensor {
  byteLengthOf(tensor);
  return tensor;
}

function isTernaryType(type: LinearType): boolean {
  return isTernary(dtypeByName(type));
}

/** A look at every projection of floats before the first byte is written. */
async function wantTernarisable(gguf: GgufFile, type: LinearType, options: RequantizeOptions): Promise<void> {
  if (!isTernaryType(type)) return;
  const distances: Distance[] = [];
  for (const tensor of gguf.tensors) {
    options.signal?.throwIfAborted();
    if (roleOf(tensor) !== 'linear' || isTernary(tensor.dtype)) continue;
    const values = await firstPiece(tensor, `${gguf.label}: ${tensor.name}`);
    distances.push([tensor.name, ternarinessOf(values).distance]);
  }
  if (options.ternarize === true || distances.every(([, distance]) => distance <= NEARLY_TERNARY)) return;
  throw notTernary(gguf.label, distances);
}

function notTernary(where: string, distances: readonly Distance[]): BitnetError {
  return new BitnetError('unsupported-type', 'projections that are not ternary', {
    where,
    expected: `a distance from ternary of at most ${NEARLY_TERNARY}`,
    got: worstOf(distances),
    hint: 'master weights of a ternary model are made ternary with --ternarize; an ordinary model is destroyed by it',
  });
}

/** All keys as they are but for those that the types decide and those of shards: one file is written. */
function metadataOf(gguf: GgufFile, type: LinearType | 'COPY'): Metadata {
  const changed = new Map<string, GgufValue>(
    type === 'COPY'
      ? []
      : [
          ['general.file_type', u32(linearTypes[type])],
          ['general.quantization_version', u32(2)],
        ],
  );
  const kept = [...gguf.metadata].filter(([key]) => !key.startsWith('split.'));
  const metadata: Metadata = kept.map(([key, value]) => [key, changed.get(key) ?? value]);
  for (const [key, value] of changed) if (!gguf.metadata.has(key)) metadata.push([key, value]);
  return metadata;
}
