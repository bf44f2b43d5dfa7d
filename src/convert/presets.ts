/**
 * Shapes of published models, for files of random weights that are as large and as fast as the real ones.
 * @module
 */

import type { PoolingType } from '../model/config.ts';
import { PUBLISHED } from '../model/published.ts';

/** Everything about a model that its architecture does not decide. */
export interface Shape {
  readonly hidden: number;
  readonly ffn: number;
  readonly nLayers: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly vocabulary: number;
  readonly contextLength: number;
  readonly ropeBase: number;
  readonly rmsEps: number;
  /** Whether the head has a matrix of its own, where the architecture allows one. */
  readonly ownHead: boolean;
  /** The architecture of the model that has this shape; any other may be combined with it. */
  readonly architecture: string;
  /** Of an embedding model. */
  readonly pooling?: PoolingType;
}

/** A model of the table, and what that does not say of it. */
function published(name: string, rest: Pick<Shape, 'contextLength' | 'ownHead' | 'pooling'>): Shape {
  const found = PUBLISHED.find((one) => one.name === name);
  if (found === undefined) throw new Error(`${name} is in no table`);
  const { architectures, shape, ropeBase, rmsEps } = found;
  return { architecture: architectures[0], ...shape, ropeBase, rmsEps, ...rest };
}

export const presets = {
  /** Nobody's: small enough for tests, every dimension different. */
  tiny: {
    architecture: 'bitnet-b1.58',
    hidden: 256,
    ffn: 768,
    nLayers: 2,
    nHeads: 4,
    nKvHeads: 2,
    headDim: 64,
    vocabulary: 512,
    contextLength: 2048,
    ropeBase: 10000,
    rmsEps: 1e-5,
    ownHead: false,
  },
  /** As tiny, of the shape of an embedding model: heads * headDim is not the width. */
  'tiny-qwen3': {
    architecture: 'qwen3',
    hidden: 256,
    ffn: 1024,
    nLayers: 2,
    nHeads: 8,
    nKvHeads: 2,
    headDim: 96,
    vocabulary: 640,
    contextLength: 512,
    ropeBase: 1000000,
    rmsEps: 1e-6,
    ownHead: false,
    pooling: 'last',
  },
  'tiny-gemma3': {
    architecture: 'gemma3',
    hidden: 256,
    ffn: 1024,
    nLayers: 2,
    nHeads: 6,
    nKvHeads: 3,
    headDim: 128,
    vocabulary: 640,
    contextLength: 512,
    ropeBase: 10000,
    rmsEps: 1e-6,
    ownHead: false,
    pooling: 'mean',
  },
  '700m': published('1bitLLM/bitnet_b1_58-large', { contextLength: 2048, ownHead: false }),
  '2b': published('microsoft/BitNet-b1.58-2B-4T', { contextLength: 4096, ownHead: false }),
  /** 8640 = 67.5 * 128, so rows of I2_S begin inside blocks and TQ types are impossible. */
  '3b': published('1bitLLM/bitnet_b1_58-3B', { contextLength: 2048, ownHead: false }),
  'falcon3-1b': published('tiiuae/Falcon3-1B-Instruct-1.58bit', { contextLength: 8192, ownHead: true }),
  'falcon3-3b': published('tiiuae/Falcon3-3B-1.58bit or -Instruct', { contextLength: 32768, ownHead: true }),
  'falcon3-7b': published('tiiuae/Falcon3-7B-1.58bit or -Instruct', { contextLength: 32768, ownHead: true }),
  'falcon3-10b': published('tiiuae/Falcon3-10B-1.58bit or -Instruct', { contextLength: 32768, ownHead: true }),
  /**
   * tiiuae/Falcon-E-1B-Instruct. Published: 24 layers, 168 ternary matrices, two tables of their own and 666,324,256 bytes.
   * Widths, heads, vocabulary, rope and context are assumed: they give that size but for 1.1 MB, which a vocabulary takes.
   */
  'falcon-e-1b': {
    architecture: 'llama',
    hidden: 2048,
    ffn: 9216,
    nLayers: 24,
    nHeads: 16,
    nKvHeads: 2,
    headDim: 128,
    vocabulary: 32768,
    contextLength: 4096,
    ropeBase: 1000042,
    rmsEps: 1e-5,
    ownHead: true,
  },
  /** tiiuae/Falcon-E-3B-Instruct. Published: 32 layers, 224 ternary matrices, about 1.0 GB. All else is assumed, as above. */
  'falcon-e-3b': {
    architecture: 'llama',
    hidden: 2048,
    ffn: 13312,
    nLayers: 32,
    nHeads: 16,
    nKvHeads: 2,
    headDim: 128,
    vocabulary: 32768,
    contextLength: 4096,
    ropeBase: 1000042,
    rmsEps: 1e-5,
    ownHead: true,
  },
  'embedding-0.6b': published('microsoft/bitnet-embedding-0.6b', {
    contextLength: 32768,
    ownHead: false,
    pooling: 'mean', // what the published file says, whatever its card says
  }),
  /** On the shape of Gemma 3 270M: 640 columns leave no whole blocks of 256 for TQ types. */
  'embedding-270m': published('microsoft/bitnet-embedding-270m', {
    contextLength: 32768,
    ownHead: false,
    pooling: 'mean',
  }),
  'llama3-8b': published('HF1BitLLM/Llama3-8B-1.58-100B-tokens', { contextLength: 8192, ownHead: true }),
} as const satisfies Record<string, Shape>;

export type PresetName = keyof typeof presets;
