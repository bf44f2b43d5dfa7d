/**
 * A model's hyper-parameters, read from GGUF metadata and checked. Keys of llama.cpp, verbatim.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { GgufFile } from '../formats/gguf/types.ts';
import type { RopeStyle } from '../kernels/interface.ts';

export type Activation = 'relu2' | 'silu' | 'gelu';

/** By the numbers of `{arch}.pooling_type`: how an embedding is made of the rows of a text. */
export const POOLINGS = ['none', 'mean', 'cls', 'last', 'rank'] as const;
export type PoolingType = (typeof POOLINGS)[number];

export interface ModelConfig {
  readonly architecture: string;
  readonly name: string;
  readonly nLayers: number;
  /** Width of the residual stream. */
  readonly hidden: number;
  readonly ffn: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly vocabulary: number;
  readonly contextLength: number;
  readonly rmsEps: number;
  readonly ropeBase: number;
  /** Positions are divided by this (linear rope scaling). */
  readonly ropeFactor: number;
  readonly ropeStyle: RopeStyle;
  readonly activation: Activation;
  /** What the file of an embedding model says; undefined in all others. */
  readonly pooling?: PoolingType | undefined;
}

/** Ceilings for hyper-parameters: several times the largest published ternary model, small enough to multiply safely. */
const LIMITS = {
  layers: 1024,
  width: 1 << 20,
  heads: 1024,
  // headDim is bounded by the scratch that attention keeps for one key (`assembly/index.ts`).
  headDim: 1024,
  vocabulary: 1 << 22,
  context: 1 << 24,
} as const;

/** What the architecture, and not the file, decides. */
export interface ArchitectureFacts {
  readonly activation: Activation;
  readonly ropeStyle: RopeStyle;
  /** Refuses a file that asks for what this graph does not do. */
  check?(gguf: GgufFile): void;
}

/** Reads the hyper-parameters of `gguf`, whose architecture has the given facts. */
export function readConfig(gguf: GgufFile, facts: ArchitectureFacts): ModelConfig {
  const a = gguf.getString('general.architecture');
  const count = (key: string, limit: number, fallback?: number): number => {
    const full = `${a}.${key}`;
    const value = fallback === undefined ? gguf.getUint(full) : (gguf.findUint(full) ?? fallback);
    want(value >= 1 && value <= limit, 'bad-metadata', 'value out of range', () => ({
      where: full,
      expected: `1 to ${limit}`,
      got: `${value}`,
    }));
    return value;
  };
  const hidden = count('embedding_length', LIMITS.width);
  const nHeads = count('attention.head_count', LIMITS.heads);
  const nKvHeads = count('attention.head_count_kv', LIMITS.heads, nHeads);
  const evenly = () => divide(hidden, nHeads, `${a}.attention.head_count`);
  const headDim = count('attention.key_length', LIMITS.headDim, gguf.findUint(`${a}.attention.key_length`) ?? evenly());
  divide(nHeads, nKvHeads, `${a}.attention.head_count_kv`);
  want(headDim % 2 === 0, 'bad-metadata', 'odd head dimension', () => ({ where: a, got: `${headDim}` }));
  same(`${a}.attention.value_length`, count('attention.value_length', LIMITS.headDim, headDim), headDim);
  same(`${a}.rope.dimension_count`, count('rope.dimension_count', LIMITS.headDim, headDim), headDim);
  const tokens = gguf.findStrings('tokenizer.ggml.tokens')?.length;
  const config: ModelConfig = {
    architecture: a,
    name: gguf.findString('general.name') ?? '',
    nLayers: count('block_count', LIMITS.layers),
    hidden,
    ffn: count('feed_forward_length', LIMITS.width),
    nHeads,
    nKvHeads,
    headDim,
    vocabulary: count('vocab_size', LIMITS.vocabulary, tokens),
    contextLength: count('context_length', LIMITS.context),
    rmsEps: positive(gguf, `${a}.attention.layer_norm_rms_epsilon`, 1e-5),
    ropeBase: positive(gguf, `${a}.rope.freq_base`, 10000),
    ropeFactor: ropeFactor(gguf, a),
    activation: facts.activation,
    ropeStyle: facts.ropeStyle,
    ...pooling(gguf, a),
  };
  refuse(gguf, `${a}.attention.causal`, (isCausal) => isCausal === false, 'attention to what comes later');
  facts.check?.(gguf);
  if (tokens !== undefined) {
    want(tokens <= config.vocabulary, 'bad-metadata', 'more tokens than the vocabulary has rows', () => ({
      where: 'tokenizer.ggml.tokens',
      expected: `at most ${config.vocabulary}`,
      got: `${tokens}`,
    }));
  }
  return config;
}

/** Refuses a file whose value of `key`, where it has one, means that a token is computed in a way that no graph here does. */
export function refuse(
  gguf: GgufFile,
  key: string,
  isMeant: (value: boolean | number | bigint) => boolean,
  what: string,
): void {
  const found = gguf.metadata.get(key);
  if (found === undefined || found.type === 'string' || found.type === 'array' || !isMeant(found.value)) return;
  throw new BitnetError('unsupported-architecture', `${what} is not supported`, { where: key, got: `${found.value}` });
}

function pooling(gguf: GgufFile, a: string): { pooling?: PoolingType } {
  const where = `${a}.pooling_type`;
  const type = gguf.findUint(where);
  if (type === undefined) return {};
  want(type < POOLINGS.length, 'bad-metadata', 'no such pooling', () => ({
    where,
    expected: POOLINGS.map((name, i) => `${i} (${name})`).join(', '),
    got: `${type}`,
  }));
  return { pooling: POOLINGS[type] };
}

function divide(whole: number, parts: number, where: string): number {
  want(whole % parts === 0, 'bad-metadata', 'does not divide evenly', () => ({
    where,
    expected: `a divisor of ${whole}`,
    got: `${parts}`,
  }));
  return whole / parts;
}

function same(where: string, value: number, expected: number): void {
  want(value === expected, 'bad-metadata', 'not supported', () => ({
    where,
    expected: `${expected}, the key length`,
    got: `${value}`,
  }));
}

function positive(gguf: GgufFile, key: string, fallback: number): number {
  const value = gguf.findFloat(key) ?? fallback;
  want(value > 0 && Number.isFinite(value), 'bad-metadata', 'value out of range', () => ({
    where: key,
    expected: 'a positive number',
    got: `${value}`,
  }));
  return value;
}

/** Linear scaling only; YaRN changes the angles in ways that no published ternary model uses. */
function ropeFactor(gguf: GgufFile, a: string): number {
  const type = gguf.findString(`${a}.rope.scaling.type`) ?? 'linear';
  if (type === 'none') return 1;
  if (type !== 'linear') {
    throw new BitnetError('unsupported-architecture', 'rope scaling is not supported', {
      where: `${a}.rope.scaling.type`,
      expected: 'none or linear',
      got: type,
    });
  }
  return positive(gguf, `${a}.rope.scaling.factor`, gguf.findFloat(`${a}.rope.scale_linear`) ?? 1);
}
