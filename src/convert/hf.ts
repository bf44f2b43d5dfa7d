/**
 * Hugging Face checkpoint -> GGUF. Ternary weights go over without loss: trits stay trits, and the scale stays what it
 * is where the type has room for it (I2_S, F32). The same folder gives the same bytes.
 *
 * Memory: one piece of a table, or one packed matrix, at a time.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import { type JsonObject, parseJsonObject } from '../formats/safetensors/json.ts';
import { openSafetensors } from '../formats/safetensors/reader.ts';
import type { SafetensorsFile } from '../formats/safetensors/types.ts';
import type { ByteSink } from '../formats/sink.ts';
import type { ByteSource } from '../formats/source.ts';
import type { I2sLayout } from '../tensors/i2s-layouts.ts';
import { type HfConfig, readHfConfig, windowNote } from './hf-config.ts';
import { type PairedTensor, pairTensors } from './hf-tensors.ts';
import { modelMetadata, u32, vectorType } from './layout.ts';
import { encodeMatrix, RoundedScales, type TritMatrix } from './linear.ts';
import { readPooling } from './pooling.ts';
import { FloatKinds, wantTernaryMaster } from './ternary-floats.ts';
import { type FolderReader, readTokenizerFiles, tokenizerMetadata } from './tokenizer.ts';
import { type EmbeddingType, encodeFloats, fittingTableType, type LinearType, wantWritable } from './types.ts';
import { floatPieces, floatTrits, packedTrits, rotaryOrder, sampleOf, surveyFloats } from './weights.ts';
import {
  beforeWriting,
  byteLengthOf,
  type FilledTensor,
  type WriteOptions,
  type Written,
  writeModel,
} from './write.ts';

/** A folder with a checkpoint. */
export interface HfReader {
  /** For messages, and the model's name where none is given: a path. */
  readonly label: string;
  /** A file of the folder, or undefined where there is none of that name. */
  open(name: string): Promise<ByteSource | undefined>;
}

export interface ConvertOptions extends WriteOptions {
  /** Of the ternary matrices [I2_S]. */
  readonly outType?: LinearType | undefined;
  /** Order of the values of I2_S [x86]. */
  readonly i2sLayout?: I2sLayout | undefined;
  /** Of the embedding and, where there is one, the head [F16]. */
  readonly embeddingType?: EmbeddingType | undefined;
  /** `general.name` [the folder's]. */
  readonly name?: string | undefined;
  /** Pre-tokenizer, where tokenizer.json has one that is not recognised. */
  readonly pre?: string | undefined;
  /** Make a model ternary that neither says nor shows that it is one. */
  readonly force?: boolean | undefined;
}

export interface Converted extends Written {
  readonly architecture: string;
  /** What did not go over as it was, in sentences. */
  readonly notes: readonly string[];
}

/** The largest tokenizer.json in use has 35 MB. */
const MAX_TEXT_BYTES = 256 << 20;

/** Writes the checkpoint of `reader` and closes the sink; on failure aborts it. */
export async function convertHf(reader: HfReader, sink: ByteSink, options: ConvertOptions = {}): Promise<Converted> {
  const { outType = 'I2_S', embeddingType = 'F16', i2sLayout } = options;
  const form = { type: outType, i2sLayout };
  const { config, metadata, weights, notes } = await beforeWriting(sink, () => readCheckpoint(reader, options));
  try {
    const rounded = new RoundedScales(outType);
    const kinds = new FloatKinds();
    const tensors = await beforeWriting(sink, async () => {
      const paired = pairTensors(weights, config);
      notes.push(...paired.notes);
      if (!config.isDeclared) await wantShown(reader.label, paired.tensors, options);
      const tableType = fittingTableType(embeddingType, config.model.hidden);
      if (tableType !== embeddingType) {
        notes.push(
          `rows of ${config.model.hidden} values are no whole ${embeddingType} blocks: tables are ${tableType}`,
        );
      }
      const vector = vectorType(config.model);
      const dtypes = { linear: outType, embedding: tableType, vector } as const;
      return paired.tensors.map((tensor): FilledTensor => {
        const typed = { ...tensor, dtype: dtypes[tensor.role] };
        byteLengthOf(typed);
        if (tensor.role === 'linear') wantWritable(form, tensor.shape[1], tensor.shape[0], tensor.name);
        const plain = tensor.role === 'vector' ? vector : tableType;
        const pieces = async function* () {
          if (tensor.role !== 'linear') return yield* plainPieces(tensor, plain, addend(tensor, config));
          const matrix = await linearMatrix(tensor, config, kinds, options.signal);
          rounded.add(matrix.scale, tensor.name);
          yield* encodeMatrix(form, matrix);
        };
        return { ...typed, pieces };
      });
    });
    const written = await writeModel(
      sink,
      [...modelMetadata(config.model, outType), ...metadata, ['general.quantization_version', u32(2)]],
      tensors,
      options,
    );
    return {
      ...written,
      architecture: config.model.architecture,
      notes: [...notes, ...kinds.notes(), ...rounded.notes()],
    };
  } finally {
    await weights.close();
  }
}

async function readCheckpoint(reader: HfReader, options: ConvertOptions) {
  const json = await readJson(reader, 'config.json');
  want(json !== undefined, 'io', 'not a checkpoint', () => ({
    where: reader.label,
    expected: 'a folder with config.json',
  }));
  const pooling = await readPooling(folderOf(reader));
  const config = readHfConfig(json, options.name ?? lastName(reader.label), pooling);
  const files = await readTokenizerFiles(folderOf(reader), json);
  const tokenizer = tokenizerMetadata(files, config.model.vocabulary, options.pre);
  const notes = [...tokenizer.notes];
  const unsaid = config.family.pooling !== undefined && pooling === undefined;
  if (unsaid) notes.push(`no modules.json with a pooling: taken to be ${config.model.pooling}`);
  const window = windowNote(json, config.model);
  if (window !== undefined) notes.push(window);
  return { config, metadata: tokenizer.metadata, notes, weights: await openWeights(reader) };
}

function folderOf(reader: HfReader): FolderReader {
  return {
    label: reader.label,
    bytes: (name) => readBytes(reader, name),
    json: (name) => readJson(reader, name),
  };
}

/** One file, or the files of an index. */
async function openWeights(reader: HfReader): Promise<SafetensorsFile> {
  for (const name of ['model.safetensors', 'model.safetensors.index.json']) {
    const source = await reader.open(name);
    if (source === undefined) continue;
    try {
      return await openSafetensors(withSiblings(source, reader, name));
    } catch (error) {
      await source.close();
      throw error;
    }
  }
  for (const name of ['pytorch_model.bin', 'pytorch_model.bin.index.json']) {
    const pickle = await reader.open(name);
    await pickle?.close();
    if (pickle === undefined) continue;
    throw new BitnetError('unsupported-type', 'PyTorch pickle files are not read', {
      where: `${reader.label}: ${name}`,
      expected: 'model.safetensors',
      hint: 'pickle files execute code when read; save the model again with save_pretrained(safe_serialization=True)',
    });
  }
  throw new BitnetError('io', 'no weights', { where: reader.label, expected: 'model.safetensors' });
}

/** The same source, named by its file, whose siblings are the files of the folder. */
function withSiblings(source: ByteSource, reader: HfReader, name: string): ByteSource {
  return {
    label: `${reader.label}: ${name}`,
    byteLength: source.byteLength,
    readInto: (target, offsetBytes) => source.readInto(target, offsetBytes),
    close: () => source.close(),
    async sibling(other) {
      const found = await reader.open(other);
      if (found !== undefined) return withSiblings(found, reader, other);
      throw new BitnetError('io', 'a file of the index is missing', { where: reader.label, expected: other });
    },
  };
}

async function readJson(reader: HfReader, name: string): Promise<JsonObject | undefined> {
  const bytes = await readBytes(reader, name);
  return bytes === undefined ? undefined : parseJsonObject(bytes, `${reader.label}: ${name}`);
}

async function readBytes(reader: HfReader, name: string): Promise<Uint8Array | undefined> {
  const source = await reader.open(name);
  if (source === undefined) return undefined;
  try {
    want(source.byteLength <= MAX_TEXT_BYTES, 'limit-exceeded', 'file too long', () => ({
      where: `${reader.label}: ${name}`,
      expected: `at most ${MAX_TEXT_BYTES} bytes`,
      got: `${source.byteLength}`,
    }));
    const bytes = new Uint8Array(source.byteLength);
    await source.readInto(bytes, 0);
    return bytes;
  } finally {
    await source.close();
  }
}

function lastName(label: string): string {
  return label.split(/[/\\]/).findLast((part) => part !== '' && part !== '.') ?? 'model';
}

/** The weights of a model that does not say that it is ternary must be, or the user must insist. */
async function wantShown(label: string, tensors: readonly PairedTensor[], { force, signal }: ConvertOptions) {
  if (force === true) return;
  const samples: [name: string, values: Float32Array][] = [];
  for (const { role, source } of tensors) {
    signal?.throwIfAborted();
    if (role === 'linear') samples.push([source.name, await sampleOf(source)]);
  }
  wantTernaryMaster(label, samples);
}

async function linearMatrix(
  tensor: PairedTensor,
  { family, model, storedAs }: HfConfig,
  kinds: FloatKinds,
  signal: AbortSignal | undefined,
): Promise<TritMatrix> {
  const isRotated = /\.attn_[qk]\.weight$/.test(tensor.name);
  const order = family.permuted && isRotated ? rotaryOrder(model.headDim) : undefined;
  if (storedAs !== 'master') return packedTrits(tensor.source, tensor.scale!, storedAs, order);
  const survey = await surveyFloats(() => floatPieces(tensor.source), signal);
  kinds.add(survey);
  return floatTrits(survey, [tensor.shape[0], tensor.shape[1]], () => floatPieces(tensor.source, order));
}

/** One, for gains that are stored less one. */
function addend({ name, role }: PairedTensor, { family }: HfConfig): 0 | 1 {
  return family.gainsLessOne === true && role === 'vector' && !name.endsWith('_norm_in.weight') ? 1 : 0;
}

async function* plainPieces(
  { source, name }: PairedTensor,
  type: EmbeddingType,
  plus: 0 | 1,
): AsyncGenerator<Uint8Array> {
  for await (const values of floatPieces(source)) {
    if (plus !== 0) for (let i = 0; i < values.length; i++) values[i] += plus;
    yield encodeFloats(type, values, name);
  }
}
