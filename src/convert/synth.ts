/**
 * Models of random weights, in the shapes of published ones: for tests, for benchmarks without a download, and to try
 * whether a machine can run a model before fetching it. The same options give the same bytes on every runtime.
 *
 * A tensor's numbers depend on the seed and its name only; every ternary type of one seed holds the same matrices.
 * @module
 */

import { show, want } from '../errors.ts';
import { stringValue } from '../formats/gguf/writer.ts';
import type { ByteSink } from '../formats/sink.ts';
import { architectureOf } from '../model/architectures.ts';
import type { ModelConfig } from '../model/config.ts';
import { dtypeByName } from '../tensors/dtype.ts';
import { decodeTritsI2S } from '../tensors/i2s.ts';
import type { I2sLayout } from '../tensors/i2s-layouts.ts';
import {
  type Metadata,
  mayHaveHead,
  modelMetadata,
  type PlannedTensor,
  planTensors,
  u32,
  vectorType,
} from './layout.ts';
import { codeTable, fillCodes, fillIndices, gains, scaleOf, streamOf, valueTable } from './noise.ts';
import { type PresetName, presets, type Shape } from './presets.ts';
import {
  type EmbeddingType,
  encodeFloats,
  encoderOf,
  encodeTrits,
  type LinearForm,
  type LinearType,
  tailOf,
  wantWritable,
} from './types.ts';
import { FIRST_WORD, inventedVocabulary } from './vocabulary.ts';
import {
  beforeWriting,
  byteLengthOf,
  type FilledTensor,
  type WriteOptions,
  type Written,
  writeModel,
} from './write.ts';

export interface SynthOptions extends WriteOptions {
  readonly preset: PresetName;
  /** The preset's own if absent. */
  readonly architecture?: Shape['architecture'] | undefined;
  /** How many of the preset's layers [all]. */
  readonly layers?: number | undefined;
  /** Of the ternary matrices [I2_S]. */
  readonly type?: LinearType | undefined;
  /** Order of the values of I2_S [x86]. */
  readonly i2sLayout?: I2sLayout | undefined;
  /** Of the embedding and, where there is one, the head [F16]. */
  readonly embeddingType?: EmbeddingType | undefined;
  /** A safe integer >= 0 [1]. */
  readonly seed?: number | undefined;
}

/** Values made at a time: a multiple of every block, small enough to stay in cache. */
const RUN_VALUES = 1 << 16;

/** Writes a model of random weights and closes the sink; on failure aborts it. */
export async function synthesize(sink: ByteSink, options: SynthOptions): Promise<Written> {
  const plan = await beforeWriting(sink, () => makePlan(options));
  const { config, form, seed } = plan;
  const metadata: Metadata = [
    ...modelMetadata(config, form.type),
    ['general.description', stringValue(`random weights, seed ${seed}`)],
    ...inventedVocabulary(config.vocabulary),
    ['general.quantization_version', u32(2)],
  ];
  return writeModel(
    sink,
    metadata,
    plan.tensors.map((tensor) => ({ ...tensor, pieces: () => piecesOf(tensor, plan) })),
    options,
  );
}

interface Plan {
  readonly config: ModelConfig;
  readonly form: LinearForm;
  readonly embeddingType: EmbeddingType;
  readonly seed: number;
  /** See `codeTable`. */
  readonly codes: Uint8Array;
  readonly tensors: readonly TypedTensor[];
}

type TypedTensor = Omit<FilledTensor, 'pieces'>;

function makePlan(options: SynthOptions): Plan {
  const { preset, architecture, type = 'I2_S', i2sLayout, embeddingType = 'F16', seed = 1 } = options;
  const form = { type, i2sLayout };
  want(Object.hasOwn(presets, preset), 'bad-argument', 'no such preset', () => ({
    expected: Object.keys(presets).join(', '),
    got: show(preset),
  }));
  want(Number.isSafeInteger(seed) && seed >= 0, 'bad-argument', 'bad seed', () => ({
    expected: 'an integer of 0 to 2^53 - 1',
    got: show(seed),
  }));
  const { layers = presets[preset].nLayers } = options;
  want(Number.isInteger(layers) && layers >= 1, 'bad-argument', 'bad number of layers', () => ({
    expected: 'an integer of at least 1',
    got: show(layers),
  }));
  const shape: Shape = { ...presets[preset], nLayers: layers };
  const config = configOf(preset, shape, architecture ?? shape.architecture);
  const dtypes = { linear: type, embedding: embeddingType, vector: vectorType(config) } as const;
  const tensors = planTensors(config, shape.ownHead && mayHaveHead(config)).map((tensor) => {
    const typed = { ...tensor, dtype: dtypes[tensor.role] };
    // Refuse impossible shapes before anything is written.
    byteLengthOf(typed);
    if (tensor.role === 'linear') wantWritable(form, tensor.shape[1], tensor.shape[0], tensor.name);
    return typed;
  });
  return { config, form, embeddingType, seed, codes: codeTable(), tensors };
}

function configOf(preset: string, shape: Shape, architecture: Shape['architecture']): ModelConfig {
  const { activation, ropeStyle } = architectureOf(architecture);
  const { ownHead: _, ...numbers } = shape;
  return { ...numbers, architecture, name: `synthetic ${preset}`, ropeFactor: 1, activation, ropeStyle };
}

function piecesOf(tensor: PlannedTensor, plan: Plan): Iterable<Uint8Array> {
  const rng = streamOf(plan.seed, tensor.name);
  switch (tensor.role) {
    case 'vector':
      return [encodeFloats(vectorType(plan.config), gains(rng, tensor.elements), tensor.name)];
    case 'linear':
      return ternaryPieces(tensor, plan, rng);
    case 'embedding':
      return embeddingPieces(tensor, plan, rng);
  }
}

type Stream = ReturnType<typeof streamOf>;

/** Random bytes are the codes of I2_S; other types are made from the trits they stand for. */
function* ternaryPieces({ shape, elements }: PlannedTensor, { form, codes }: Plan, rng: Stream): Generator<Uint8Array> {
  const scale = scaleOf(shape[0]);
  const encoder = encoderOf(form);
  const asWhole = typeof encoder === 'function';
  const bytes = new Uint8Array(RUN_VALUES / 4);
  const trits = new Int8Array(asWhole ? elements : encoder === 'I2_S' ? 0 : RUN_VALUES);
  for (let done = 0; done < elements; done += RUN_VALUES) {
    const count = Math.min(RUN_VALUES, elements - done);
    const piece = bytes.subarray(0, count / 4);
    fillCodes(rng, codes, piece);
    if (asWhole) decodeTritsI2S(piece, 0, count, trits, done);
    else if (encoder === 'I2_S') yield piece;
    else {
      decodeTritsI2S(piece, 0, count, trits);
      yield encodeTrits(encoder, trits.subarray(0, count), scale);
    }
  }
  if (asWhole) yield encoder(trits, shape[1], shape[0], scale);
  else yield tailOf(encoder, scale);
}

/**
 * Deviation 1/sqrt(hidden), which makes logits of unit deviation. Rows of tokens that are no words are a quarter of
 * that: as input it makes no difference, the first norm takes it out; as output their logits stay small, so that what is
 * generated is words.
 */
function* embeddingPieces(tensor: PlannedTensor, { embeddingType }: Plan, rng: Stream): Generator<Uint8Array> {
  const { shape, elements, name } = tensor;
  const loud = valueTable(1 / Math.sqrt(shape[0]));
  const quiet = valueTable(0.25 / Math.sqrt(shape[0]));
  const firstLoud = FIRST_WORD * shape[0];
  const indices = new Uint16Array(RUN_VALUES);
  const pick = picker(embeddingType, loud, quiet, name);
  for (let done = 0; done < elements; done += RUN_VALUES) {
    const run = indices.subarray(0, Math.min(RUN_VALUES, elements - done));
    fillIndices(rng, run);
    yield pick(run, Math.max(0, Math.min(run.length, firstLoud - done)));
  }
}

/** Encodes the values at `indices`, the first `nQuiet` of them from the quiet table. */
type Pick = (indices: Uint16Array, nQuiet: number) => Uint8Array;

/** Plain floats are picked already encoded, as whole elements, whose bytes a copy keeps in order; blocks cannot be. */
function picker(type: EmbeddingType, loud: Float32Array, quiet: Float32Array, name: string): Pick {
  const { blockElements, blockBytes } = dtypeByName(type);
  if (blockElements > 1) {
    const values = new Float32Array(RUN_VALUES);
    return (indices, nQuiet) => {
      choose(loud, quiet, indices, nQuiet, values);
      return encodeFloats(type, values.subarray(0, indices.length), name);
    };
  }
  const Elements = blockBytes === 2 ? Uint16Array : Uint32Array;
  const encoded = (table: Float32Array) => new Elements(encodeFloats(type, table, name).buffer as ArrayBuffer);
  const [loudBits, quietBits] = [encoded(loud), encoded(quiet)];
  const out = new Elements(RUN_VALUES);
  return (indices, nQuiet) => {
    choose(loudBits, quietBits, indices, nQuiet, out);
    return new Uint8Array(out.buffer, 0, indices.length * blockBytes);
  };
}

type Table = Float32Array | Uint16Array | Uint32Array;

function choose(loud: Table, quiet: Table, indices: Uint16Array, nQuiet: number, out: Table): void {
  for (let i = 0; i < nQuiet; i++) out[i] = quiet[indices[i]];
  for (let i = nQuiet; i < indices.length; i++) out[i] = loud[indices[i]];
}
