/**
 * GGUF -> Hugging Face folder with packed weights, as transformers loads them: the way back of `hf.ts`.
 *
 *     bitnet-b1.58, bitnet   autobitlinear, offline:   value = trit * weight_scale
 *     llama                  bitlinear:                value = trit / weight_scale
 *
 * A folder made from a folder has the same matrices, byte for byte. A scale goes into bfloat16, as published ones are, if
 * that holds it, else into float32; where 1/scale has no float32 that leads back to it, that is said.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { GgufFile, GgufTensor } from '../formats/gguf/types.ts';
import { type SafetensorsTensorToWrite, writeSafetensors } from '../formats/safetensors/writer.ts';
import type { ByteSink } from '../formats/sink.ts';
import type { ModelConfig } from '../model/config.ts';
import type { TernaryLayout } from '../model/forms.ts';
import { findLayout, type LayoutOptions } from '../model/layout.ts';
import { modelTensors } from '../model/plan.ts';
import { bf16ToNumber, numberToBF16 } from '../numeric/bf16.ts';
import { encodeBF16, encodeF32 } from '../tensors/floats.ts';
import { wantScale } from '../tensors/i2s.ts';
import { COMMON_MODULES, type Family, families } from './hf-config.ts';
import { hfName } from './hf-tensors.ts';
import type { TritMatrix } from './linear.ts';
import { floatsOf, matrixShape, tritsOfTensor } from './requantize-matrix.ts';
import { FloatKinds } from './ternary-floats.ts';
import { tokenizerFiles } from './to-hf-tokenizer.ts';
import { encodeFloats } from './types.ts';
import { inverseRotaryOrder } from './weights.ts';
import type { WriteOptions } from './write.ts';

/** A folder to be: it appears under its name when it is complete. */
export interface HfWriter {
  readonly label: string;
  /** A file in it. */
  create(name: string): Promise<ByteSink>;
  close(): Promise<void>;
  /** Gives up and leaves nothing behind. Idempotent, also after `close` (when it does nothing). */
  abort(): Promise<void>;
}

export interface ToHfOptions extends WriteOptions, LayoutOptions {
  /** Type of embedding and head [as in the file; F32 for those that are quantised]. */
  readonly embeddingType?: 'F32' | 'F16' | 'BF16' | undefined;
  /** Pre-tokenizer, where the file's own is unknown or wrong. */
  readonly pre?: string | undefined;
  /** Make projections ternary that are not, by their mean magnitude as in training. */
  readonly force?: boolean | undefined;
}

export interface WrittenHf {
  readonly files: readonly string[];
  /** Of the weights. */
  readonly byteLength: number;
  readonly parameters: number;
  readonly notes: readonly string[];
}

/** Writes the folder and completes it; on failure aborts it. Leaves `gguf` open. */
export async function convertToHf(gguf: GgufFile, folder: HfWriter, options: ToHfOptions = {}): Promise<WrittenHf> {
  try {
    const written = await writeFolder(gguf, folder, options);
    await folder.close();
    return written;
  } catch (error) {
    await folder.abort();
    throw error;
  }
}

async function writeFolder(gguf: GgufFile, folder: HfWriter, options: ToHfOptions): Promise<WrittenHf> {
  const { config, tensors } = modelTensors(gguf);
  const [className, family] = familyOf(config.architecture);
  wantExpressible(gguf, tensors);
  const tokenizer = tokenizerFiles(gguf, options.pre);
  const hasHead = tensors.has('output.weight');
  const scales = new Scales(family.packedAs);
  const kinds = new FloatKinds();
  const { layout, finding, isNews } = await findLayout(gguf, options);
  const list: SafetensorsTensorToWrite[] = [];
  for (const tensor of tensors.values()) {
    if (tensor.name.endsWith('.scale')) continue; // goes into the scale of its matrix
    const name = hfName(tensor.name, { ...COMMON_MODULES, ...family.modules });
    const job: Job = { gguf, tensors, config, family, tensor, name, options, layout, scales, kinds };
    list.push(...(isProjection(tensor) ? await packed(job) : [plain(job)]));
  }
  const json = { ...configJson(config, className, family, hasHead), ...tokenizer.ids };
  const texts = new Map([['config.json', json as unknown], ...tokenizer.files]);
  for (const [name, value] of texts) await writeFile(folder, name, value);
  const bytes = await writeWeights(await folder.create('model.safetensors'), list, options);
  return {
    files: [...texts.keys(), 'model.safetensors'],
    byteLength: bytes,
    parameters: [...tensors.values()].reduce((sum, { elements }) => sum + elements, 0),
    notes: [
      ...(isNews && finding !== undefined ? [`read as ${finding}`] : []),
      ...classNotes(className),
      ...kinds.notes(),
      ...scales.notes(),
    ],
  };
}

function familyOf(architecture: string): [className: string, family: Family] {
  // The first upload of the 2B model had a name of its own; class and tensors are the same.
  const name = architecture === 'bitnet-25' ? 'bitnet-b1.58' : architecture;
  const found = Object.entries(families).find(([, family]) => family.architecture === name);
  if (found !== undefined) return found;
  throw new BitnetError('unsupported-architecture', 'no packed checkpoints of this architecture exist', {
    where: 'general.architecture',
    expected: Object.values(families)
      .map((family) => family.architecture)
      .join(', '),
    got: architecture,
  });
}

function classNotes(className: string): string[] {
  return className === 'BitnetForCausalLM'
    ? ["transformers has no class BitnetForCausalLM: its code is in the repositories of 1bitLLM's models"]
    : [];
}

function wantExpressible(gguf: GgufFile, tensors: ReadonlyMap<string, GgufTensor>): void {
  want(!tensors.has('rope_freqs.weight'), 'unsupported-architecture', 'rope factors cannot be expressed', () => ({
    where: `${gguf.label}: rope_freqs.weight`,
    hint: 'config.json has the parameters they were made from, not the factors',
  }));
  for (const tensor of tensors.values()) {
    const [, rows] = matrixShape(tensor);
    want(!isProjection(tensor) || rows % 4 === 0, 'bad-tensor', 'rows cannot be packed', () => ({
      where: `${gguf.label}: ${tensor.name}`,
      expected: 'a multiple of 4',
      got: `${rows}`,
    }));
  }
}

/** A gain may be written as a matrix of one row. */
function isProjection({ name, shape, elements }: GgufTensor): boolean {
  return name.startsWith('blk.') && elements > (shape[0] ?? 1);
}

interface Job {
  readonly gguf: GgufFile;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  readonly config: ModelConfig;
  readonly family: Family;
  readonly tensor: GgufTensor;
  readonly name: string;
  readonly options: ToHfOptions;
  readonly layout: TernaryLayout;
  readonly scales: Scales;
  readonly kinds: FloatKinds;
}

/**
 * A matrix and its scale. The header names the type of the scale before any matrix is written, so every matrix is read twice;
 * which also means that all of them have been checked by then.
 */
async function packed(job: Job): Promise<SafetensorsTensorToWrite[]> {
  const { tensor, name, scales, kinds } = job;
  const [columns, rows] = matrixShape(tensor);
  const { scale } = await matrixOf(job, kinds);
  const stored = scales.stored(scale, tensor.name);
  const dtype = bf16ToNumber(numberToBF16(stored)) === stored ? 'BF16' : 'F32';
  const value = Float32Array.of(stored);
  return [
    {
      name,
      dtype: 'U8',
      shape: [rows / 4, columns],
      data: async function* () {
        yield* quarters(await matrixOf(job), job);
      },
    },
    { name: `${name}_scale`, dtype, shape: [1], data: () => [dtype === 'BF16' ? encodeBF16(value) : encodeF32(value)] },
  ];
}

/** The trits of a projection, and its scale with the factor that some files keep apart. */
async function matrixOf({ gguf, tensors, tensor, options, layout }: Job, kinds?: FloatKinds): Promise<TritMatrix> {
  const where = `${gguf.label}: ${tensor.name}`;
  const { matrix, survey } = await tritsOfTensor(tensor, where, { layout, signal: options.signal });
  if (survey?.kind === 'master' && survey.mean > 0 && options.force !== true) {
    throw new BitnetError('unsupported-type', 'a projection that is not ternary', {
      where,
      expected: '-s, 0 and s',
      got: `distance from ternary ${survey.ternariness.distance.toFixed(3)}`,
      hint: 'master weights of a ternary model are made ternary with --force',
    });
  }
  if (survey !== undefined) kinds?.add(survey);
  const apart = tensors.get(tensor.name.replace(/weight$/, 'scale'));
  if (apart === undefined) return matrix;
  let factor = 1;
  for await (const values of floatsOf(apart, `${gguf.label}: ${apart.name}`)()) factor = values[0];
  wantScale(factor, `${gguf.label}: ${apart.name}`);
  return { ...matrix, scale: Math.fround(matrix.scale * factor) };
}

/** Four rows to a byte, a quarter of the matrix apart: see weights.ts. */
async function* quarters(matrix: TritMatrix, { tensor, config, family }: Job): AsyncGenerator<Uint8Array> {
  const { rows, columns } = matrix;
  const isRotated = family.permuted && /\.attn_[qk]\.weight$/.test(tensor.name);
  const order = isRotated ? inverseRotaryOrder(config.headDim) : (row: number) => row;
  // Where each row of the file goes; the whole is a quarter of a byte a trit.
  const targetOf = new Uint32Array(rows);
  for (let row = 0; row < rows; row++) targetOf[order(row)] = row;
  const quarter = rows / 4;
  const out = new Uint8Array(quarter * columns);
  let row = 0;
  for await (const trits of matrix.pieces()) {
    for (let at = 0; at < trits.length; at += columns, row++) {
      const target = targetOf[row];
      const to = (target % quarter) * columns;
      const shift = 2 * Math.floor(target / quarter);
      for (let c = 0; c < columns; c++) out[to + c] |= (trits[at + c] + 1) << shift;
    }
  }
  yield out;
}

/** Norms, embedding and head. */
function plain({ gguf, tensor, name, options }: Job): SafetensorsTensorToWrite {
  const { dtype } = tensor;
  const isTable = tensor.elements > (tensor.shape[0] ?? 1);
  const own = dtype.name === 'F16' || dtype.name === 'BF16' ? dtype.name : 'F32';
  const type = (isTable ? options.embeddingType : undefined) ?? own;
  const pieces = floatsOf(tensor, `${gguf.label}: ${tensor.name}`);
  return {
    name,
    dtype: type,
    shape: isTable ? [...tensor.shape].reverse() : [tensor.elements],
    async *data() {
      for await (const values of pieces()) yield encodeFloats(type, values, tensor.name);
    },
  };
}

/** Bytes, or a JSON value. */
async function writeFile(folder: HfWriter, name: string, value: unknown): Promise<void> {
  const json = () => new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
  const sink = await folder.create(name);
  try {
    await sink.write(value instanceof Uint8Array ? value : json());
    await sink.close();
  } catch (error) {
    await sink.abort();
    throw error;
  }
}

async function writeWeights(
  sink: ByteSink,
  tensors: readonly SafetensorsTensorToWrite[],
  { signal, onProgress }: WriteOptions,
): Promise<number> {
  const sizes = { U8: 1, BF16: 2, F16: 2, F32: 4 } as const;
  const totalBytes = tensors.reduce(
    (sum, { dtype, shape }) => sum + shape.reduce((product, extent) => product * extent, sizes[dtype as 'U8']),
    0,
  );
  let doneBytes = 0;
  const watched = tensors.map(({ data, ...tensor }) => ({
    ...tensor,
    async *data() {
      for await (const piece of data()) {
        signal?.throwIfAborted();
        yield piece;
        doneBytes += piece.length;
        onProgress?.({ tensor: tensor.name, doneBytes, totalBytes });
      }
    },
  }));
  // transformers refuses files that do not say this.
  await writeSafetensors(sink, watched, new Map([['format', 'pt']]));
  return totalBytes;
}

/** `config.json` as published, without what says nothing about the model. */
function configJson(c: ModelConfig, className: string, family: Family, hasHead: boolean): Record<string, unknown> {
  const multiply = family.packedAs === 'packed, multiply';
  return {
    architectures: [className],
    model_type: c.architecture === 'llama' ? 'llama' : 'bitnet',
    hidden_size: c.hidden,
    intermediate_size: c.ffn,
    num_hidden_layers: c.nLayers,
    num_attention_heads: c.nHeads,
    num_key_value_heads: c.nKvHeads,
    head_dim: c.headDim,
    hidden_act: family.activation,
    vocab_size: c.vocabulary,
    max_position_embeddings: c.contextLength,
    rms_norm_eps: shortest(c.rmsEps),
    rope_theta: shortest(c.ropeBase),
    ...(c.ropeFactor === 1 ? {} : { rope_scaling: { rope_type: 'linear', factor: shortest(c.ropeFactor) } }),
    tie_word_embeddings: !hasHead,
    torch_dtype: 'bfloat16',
    quantization_config: {
      quant_method: 'bitnet',
      linear_class: multiply ? 'autobitlinear' : 'bitlinear',
      quantization_mode: 'offline',
      modules_to_not_convert: hasHead ? ['lm_head'] : null,
    },
  };
}

/** An f32 by the fewest digits that mean it: 0.00001, not 0.000009999999747378752. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

/** Scales as the checkpoint has them, and those that cannot be. */
class Scales {
  readonly #divides: boolean;
  #count = 0;
  #inexact = 0;

  constructor(packedAs: Family['packedAs']) {
    this.#divides = packedAs === 'packed, divide';
  }

  /** `weight_scale` of a matrix, so that reading it gives `scale` again, if any number does. */
  stored(scale: number, where: string): number {
    this.#count++;
    if (!this.#divides) return scale;
    const inverse = Math.fround(1 / scale);
    wantScale(inverse, where);
    // bfloat16 first: what came from a published checkpoint goes back to it.
    const candidates = [bf16ToNumber(numberToBF16(inverse)), inverse, neighbour(inverse, 1), neighbour(inverse, -1)];
    const found = candidates.find((candidate) => Math.fround(1 / candidate) === scale);
    if (found === undefined) this.#inexact++;
    return found ?? inverse;
  }

  notes(): string[] {
    if (this.#inexact === 0) return [];
    return [
      `${this.#inexact} of ${this.#count} scales have no inverse in float32 that leads back to them: off by one part in 2^24`,
    ];
  }
}

/** The next float32, up or down, of a positive one. */
function neighbour(value: number, step: 1 | -1): number {
  const floats = Float32Array.of(value);
  new Uint32Array(floats.buffer)[0] += step;
  return floats[0];
}
