/**
 * What can be known of a GGUF file without loading it: everything `inspect` prints, as data.
 *
 * Nothing here refuses a file that opens: what the library cannot run is described as such.
 * @module
 */

import { readTokenizerSpec } from '../engine/read-tokenizer.ts';
import { BitnetError } from '../errors.ts';
import type { GgufFile, GgufTensor, GgufValue } from '../formats/index.ts';
import { architectureOf } from '../model/architectures.ts';
import { type ModelConfig, readConfig } from '../model/config.ts';
import type { I2sLayout } from '../model/layout.ts';
import { loadedBytes } from '../model/plan.ts';
import { createTokenizer, type Tokenizer } from '../tokenizer/index.ts';

/** Something, or the reason why it is not there. */
export type Attempt<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly why: string };

export interface Description {
  readonly file: string;
  readonly version: number;
  readonly fileBytes: number;
  readonly shards: number;
  readonly name: string | undefined;
  readonly architecture: string | undefined;
  readonly activation: Attempt<{ readonly name: string; readonly reason: string }>;
  readonly config: Attempt<ModelConfig>;
  /** Values in tensors of the file. */
  readonly parameters: number;
  readonly types: readonly TypeCount[];
  readonly tokenizer: Attempt<TokenizerFacts>;
  /** Bytes of weights once loaded; ternary ones are repacked to two bits a weight. */
  readonly weightBytes: number;
}

export interface TypeCount {
  readonly type: string;
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
  /** How the values lie in the file, and what is wrong with that, if anything. */
  readonly layout: string;
}

export interface TokenizerFacts {
  readonly model: string;
  readonly tokens: number;
  readonly merges: number;
  readonly pre: { readonly name: string; readonly origin: string };
  readonly addBos: boolean;
  readonly addEos: boolean;
  readonly bos: string | undefined;
  readonly bosPrefixRemoved: boolean;
  /** Tokens that end a generation, as `128009 "<|eot_id|>"`. */
  readonly stop: readonly string[];
  readonly chatTemplate: { readonly source: string; readonly origin: string } | undefined;
}

/** `i2s` is the order that values of I2_S were found in. */
export function describeFile(gguf: GgufFile, pre: string | undefined, i2s?: I2sLayout): Description {
  const architecture = attempt(() => gguf.getString('general.architecture'));
  const known = attempt(() => architectureOf(gguf.getString('general.architecture')));
  const name = attempt(() => gguf.findString('general.name'));
  return {
    file: gguf.label,
    version: gguf.version,
    fileBytes: gguf.byteLength,
    shards: gguf.sources.length,
    name: name.ok ? name.value : undefined,
    architecture: architecture.ok ? architecture.value : undefined,
    activation: known.ok
      ? { ok: true, value: { name: known.value.activation, reason: known.value.activationReason } }
      : known,
    config: known.ok ? attempt(() => readConfig(gguf, known.value)) : known,
    parameters: gguf.tensors.reduce((sum, tensor) => sum + tensor.elements, 0),
    types: countTypes(gguf.tensors, i2s),
    tokenizer: attempt(() => tokenizerFacts(tokenizerOf(gguf, pre))),
    weightBytes: gguf.tensors.reduce((sum, tensor) => sum + loadedBytes(tensor), 0),
  };
}

/** What `act` gives, or why it was refused. */
export function attempt<T>(act: () => T): Attempt<T> {
  try {
    return { ok: true, value: act() };
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    return { ok: false, why: error.message };
  }
}

/** The tokenizer of a file; needs no tensors. */
export function tokenizerOf(gguf: GgufFile, pre: string | undefined): Tokenizer {
  return createTokenizer(readTokenizerSpec(gguf, pre));
}

/** A metadata value without its tag. */
export function plain(value: GgufValue | undefined): unknown {
  if (value === undefined) return undefined;
  if (value.type === 'array') return value.values;
  return value.type === 'string' ? value.text : value.value;
}

function tokenizerFacts(tokenizer: Tokenizer): TokenizerFacts {
  const { spec } = tokenizer;
  const token = (id: number): string => `${id} ${tokenizer.describe(id)}`;
  return {
    model: spec.model,
    tokens: tokenizer.vocabSize,
    merges: spec.merges.length,
    pre: spec.pre,
    addBos: spec.addBos,
    addEos: spec.addEos,
    bos: spec.bosId === undefined ? undefined : token(spec.bosId),
    bosPrefixRemoved: spec.bosPrefixRemoved,
    stop: tokenizer.eogIds.map(token),
    chatTemplate: spec.chatTemplate,
  };
}

function countTypes(tensors: readonly GgufTensor[], i2s: I2sLayout | undefined): TypeCount[] {
  const byType = new Map<string, GgufTensor[]>();
  for (const tensor of tensors) byType.set(tensor.dtype.name, [...(byType.get(tensor.dtype.name) ?? []), tensor]);
  return [...byType].map(([type, group]) => ({
    type,
    tensors: group.length,
    parameters: group.reduce((sum, { elements }) => sum + elements, 0),
    bytes: group.reduce((sum, { byteLength }) => sum + byteLength, 0),
    layout: layoutOf(group[0], i2s),
  }));
}

const I2S_BLOCKS: Readonly<Record<I2sLayout, string>> = {
  x86: '128-value blocks of 32 bytes',
  arm64: '64-value blocks of 16 bytes',
  rows4: 'four rows at a time, a column to a byte',
};

function layoutOf({ dtype }: GgufTensor, i2s: I2sLayout = 'x86'): string {
  if (!dtype.readable) return `cannot be run: ${dtype.why ?? 'not readable'}`;
  if (dtype.blockElements === 1) return '';
  if (dtype.name === 'TL1' || dtype.name === 'TL2') return 'tiles by shape, one scale at the end';
  if (dtype.name === 'I2_S') return `${I2S_BLOCKS[i2s]}, one scale at the end`;
  return `${dtype.blockElements}-value blocks of ${dtype.blockBytes} bytes`;
}

/** Bytes of keys and values for `positions` tokens. */
export function cacheBytes(config: ModelConfig, positions: number, kBytes: number, vBytes: number): number {
  return config.nLayers * config.nKvHeads * config.headDim * positions * (kBytes + vBytes);
}
