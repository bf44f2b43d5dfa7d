/**
 * Tiny models of random weights with their expected answers.
 *
 * One of every architecture, in two layers, with all its intermediates; and one layer of bitnet-b1.58 in every type that keeps
 * trits. Those are one matrix in many containers: they have one set of logits, and one file of them.
 * @module
 */

import { type PresetName, presets } from '../../convert/presets.ts';
import { type SynthOptions, synthesize } from '../../convert/synth.ts';
import { loadModel } from '../../engine/model.ts';
import { numericsVersion } from '../../engine/numerics.ts';
import type { Model, SessionOptions } from '../../engine/types.ts';
import { joinChunks } from '../../formats/chunks.ts';
import { memorySink } from '../../formats/sink.ts';
import { memorySource } from '../../formats/sources.ts';
import { ARCHITECTURES } from '../../model/architectures.ts';
import { I2S_LAYOUTS } from '../../tensors/i2s-layouts.ts';
import type { RunningHash } from '../dump/files.ts';
import { writeTrace } from '../dump/write.ts';
import { array, type KitArray, npyFile, numbersOf } from './array.ts';
import type { KitFile, ListedModel } from './types.ts';

/** Words and bytes of the invented vocabulary, one of them twice. */
export const KIT_TOKENS: readonly number[] = [1, 300, 310, 320, 77, 99, 300, 41];

type CacheTypes = { readonly kType: 'f32' | 'f16'; readonly vType: 'f32' | 'f16' };

const F32: CacheTypes = { kType: 'f32', vType: 'f32' };
const F16: CacheTypes = { kType: 'f16', vType: 'f16' };
/** What bitnet.cpp can be made to compute with and without rounding keys: see README.md of the kit. */
const MIXED: CacheTypes = { kType: 'f32', vType: 'f16' };

/** The preset of that architecture's shape. */
export function presetOf(architecture: string): PresetName {
  const own = `tiny-${architecture}`;
  return own in presets ? (own as PresetName) : 'tiny';
}

export async function synthesized(options: SynthOptions): Promise<Uint8Array> {
  const sink = memorySink();
  await synthesize(sink, options);
  return sink.bytes();
}

/** Yields files; returns what the manifest says of them. */
export async function* modelFiles(sha256: () => RunningHash): AsyncGenerator<KitFile, ListedModel[]> {
  const listed: ListedModel[] = [];
  for (const architecture of ARCHITECTURES.keys()) {
    const options = { preset: presetOf(architecture), architecture, type: 'I2_S' } as const;
    // bitnet-25 is another name for the same graph: its answers show as much.
    const traces = architecture === 'bitnet-25' ? [] : [F32, F16];
    listed.push(yield* oneModel(sha256, `models/${architecture}`, options, [F32, F16, MIXED], traces));
  }
  const containers = [
    ...I2S_LAYOUTS.map((i2sLayout) => ({ type: 'I2_S', i2sLayout }) as const),
    ...(['TL1', 'TL2', 'TQ1_0', 'TQ2_0', 'F16', 'F32'] as const).map((type) => ({ type })),
  ];
  let first: ListedModel | undefined;
  for (const form of containers) {
    const options = { preset: 'tiny', architecture: 'bitnet-b1.58', layers: 1, ...form } as const;
    const name = `models/types/${Object.values(form).join('-')}`;
    const model: ListedModel = yield* oneModel(sha256, name, options, [F32, F16, MIXED], [], first);
    first ??= model;
    listed.push(model);
  }
  return listed;
}

async function* oneModel(
  sha256: () => RunningHash,
  path: string,
  options: SynthOptions,
  logitsOf: readonly CacheTypes[],
  tracesOf: readonly CacheTypes[],
  /** Has the same logits, whose files are not written again. */
  same?: ListedModel,
): AsyncGenerator<KitFile, ListedModel> {
  const bytes = await synthesized(options);
  const file = `${path}.gguf`;
  yield { path: file, bytes };
  const { i2sLayout } = options;
  const model = await loadModel(bytes, { backend: 'ts', ...(i2sLayout === undefined ? {} : { i2sLayout }) });
  try {
    const logits: ListedModel['logits'][number][] = [];
    for (const types of logitsOf) {
      const values = await logitsWith(model, types);
      const digest = hashOf(sha256, numbersOf(values.data));
      const known = same?.logits.find(({ kType, vType }) => kType === types.kType && vType === types.vType);
      if (known !== undefined && known.sha256 !== digest)
        throw new Error(`${path} has other logits than ${same?.file}`);
      const target = known?.file ?? `${path}/logits-${nameOf(types)}.npy`;
      if (known === undefined) yield { path: target, bytes: npyFile(values) };
      logits.push({ ...types, file: target, sha256: digest });
    }
    const traces: ListedModel['traces'][number][] = [];
    for (const types of tracesOf) {
      const folder = `${path}/trace-${nameOf(types)}`;
      for (const [name, content] of await traceWith(sha256, model, types, hashOf(sha256, bytes))) {
        yield { path: `${folder}/${name}`, bytes: content };
      }
      traces.push({ ...types, folder });
    }
    return {
      name: path.replace('models/', ''),
      architecture: model.info.architecture,
      type: options.type ?? 'I2_S',
      ...(options.type === 'I2_S' ? { i2sLayout: i2sLayout ?? 'x86' } : {}),
      file,
      tokens: KIT_TOKENS,
      graph: graphOf(model),
      logits,
      traces,
    };
  } finally {
    await model.dispose();
  }
}

function nameOf({ kType, vType }: CacheTypes): string {
  return kType === vType ? `kv-${kType}` : `k-${kType}-v-${vType}`;
}

async function logitsWith(model: Model, types: SessionOptions): Promise<KitArray> {
  const session = model.createSession({ contextSize: KIT_TOKENS.length, ...types });
  const { vocabularySize } = model.info;
  const out = new Float32Array(KIT_TOKENS.length * vocabularySize);
  let at = 0;
  for await (const rows of session.logits(KIT_TOKENS)) {
    out.set(rows, at);
    at += rows.length;
  }
  await session.dispose();
  return array(out, KIT_TOKENS.length, vocabularySize);
}

/** As traces show it, probabilities of attention included. */
function graphOf(model: Model): ListedModel['graph'] {
  const sites = model.createSession({ contextSize: KIT_TOKENS.length }).traceSites(KIT_TOKENS.length);
  return sites.map(({ name, op, inputs, weight, facts }) => {
    return { name, op, inputs, ...(weight === undefined ? {} : { weight }), facts };
  });
}

/** The files of a dump of all intermediates, as `bitnet oracle trace` writes them, but for who made it: no kit depends on that. */
async function traceWith(
  sha256: () => RunningHash,
  model: Model,
  session: CacheTypes,
  modelSha256: string,
): Promise<Map<string, Uint8Array>> {
  const chunks = new Map<string, Uint8Array[]>();
  const joined = (name: string) => {
    const list = chunks.get(name) ?? [];
    return joinChunks(
      list,
      list.reduce((length, chunk) => length + chunk.length, 0),
    );
  };
  const folder = {
    label: 'kit',
    append: async (name: string, chunk: Uint8Array) => void chunks.set(name, [...(chunks.get(name) ?? []), chunk]),
    open: async (name: string) => memorySource(joined(name)),
    close: async () => undefined,
    abort: async () => undefined,
  };
  const facts = { numericsVersion, modelSha256 };
  await writeTrace(model, KIT_TOKENS, { folder }, { stages: { attentionWeights: true }, session, sha256, facts });
  return new Map(Array.from(chunks.keys(), (name) => [name, joined(name)]));
}

export function hashOf(sha256: () => RunningHash, bytes: Uint8Array): string {
  const hash = sha256();
  hash.update(bytes);
  return hash.digest('hex');
}
