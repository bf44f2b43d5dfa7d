/**
 * Shapes of published models, for files of random weights that are as large and as fast as the real ones.
 * @module
 */

import type { PoolingType } from '../model/config.ts';

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
    hidden: 512,
    ffn: 1280,
    nLayers: 2,
    nHeads: 6,
    nKvHeads: 2,
    headDim: 128,
    vocabulary: 640,
    contextLength: 512,
    ropeBase: 10000,
    rmsEps: 1e-6,
    ownHead: false,
    pooling: 'mean',
  },
  /** 1bitLLM/bitnet_b1_58-large. */
  '700m': {
    architecture: 'bitnet',
    hidden: 1536,
    ffn: 4096,
    nLayers: 24,
    nHeads: 16,
    nKvHeads: 16,
    headDim: 96,
    vocabulary: 32002,
    contextLength: 2048,
    ropeBase: 10000,
    rmsEps: 1e-5,
    ownHead: false,
  },
  /** microsoft/BitNet-b1.58-2B-4T. */
  '2b': {
    architecture: 'bitnet-b1.58',
    hidden: 2560,
    ffn: 6912,
    nLayers: 30,
    nHeads: 20,
    nKvHeads: 5,
    headDim: 128,
    vocabulary: 128256,
    contextLength: 4096,
    ropeBase: 500000,
    rmsEps: 1e-5,
    ownHead: false,
  },
  /** 1bitLLM/bitnet_b1_58-3B: 8640 = 67.5 * 128, so rows of I2_S begin inside blocks and TQ types are impossible. */
  '3b': {
    architecture: 'bitnet',
    hidden: 3200,
    ffn: 8640,
    nLayers: 26,
    nHeads: 32,
    nKvHeads: 32,
    headDim: 100,
    vocabulary: 32002,
    contextLength: 2048,
    ropeBase: 10000,
    rmsEps: 1e-5,
    ownHead: false,
  },
  /** tiiuae/Falcon3-1B-Instruct-1.58bit. */
  'falcon3-1b': {
    architecture: 'llama',
    hidden: 2048,
    ffn: 8192,
    nLayers: 18,
    nHeads: 8,
    nKvHeads: 4,
    headDim: 256,
    vocabulary: 131072,
    contextLength: 8192,
    ropeBase: 1000042,
    rmsEps: 1e-6,
    ownHead: true,
  },
  /** tiiuae/Falcon3-3B-Instruct-1.58bit. */
  'falcon3-3b': {
    architecture: 'llama',
    hidden: 3072,
    ffn: 9216,
    nLayers: 22,
    nHeads: 12,
    nKvHeads: 4,
    headDim: 256,
    vocabulary: 131072,
    contextLength: 32768,
    ropeBase: 1000042,
    rmsEps: 1e-6,
    ownHead: true,
  },
  /** tiiuae/Falcon3-7B-Instruct-1.58bit. */
  'falcon3-7b': {
    architecture: 'llama',
    hidden: 3072,
    ffn: 23040,
    nLayers: 28,
    nHeads: 12,
    nKvHeads: 4,
    headDim: 256,
    vocabulary: 131072,
    contextLength: 32768,
    ropeBase: 1000042,
    rmsEps: 1e-6,
    ownHead: true,
  },
  /** tiiuae/Falcon3-10B-Instruct-1.58bit. */
  'falcon3-10b': {
    architecture: 'llama',
    hidden: 3072,
    ffn: 23040,
    nLayers: 40,
    nHeads: 12,
    nKvHeads: 4,
    headDim: 256,
    vocabulary: 131072,
    contextLength: 32768,
    ropeBase: 1000042,
    rmsEps: 1e-6,
    ownHead: true,
  },
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
  /** microsoft/bitnet-embedding-0.6b, an embedding model on the shape of Qwen3-0.6B: q is wider than the residual stream. */
  'embedding-0.6b': {
    architecture: 'qwen3',
    hidden: 1024,
    ffn: 3072,
    nLayers: 28,
    nHeads: 16,
    nKvHeads: 8,
    headDim: 128,
    vocabulary: 151936,
    contextLength: 32768,
    ropeBase: 1000000,
    rmsEps: 1e-6,
    ownHead: false,
    pooling: 'mean', // what the published file says, whatever its card says
  },
  /** microsoft/bitnet-embedding-270m, on the shape of Gemma 3 270M: 640 columns leave no whole blocks of 256 for TQ types. */
  'embedding-270m': {
    architecture: 'gemma3',
    hidden: 640,
    ffn: 2048,
    nLayers: 18,
    nHeads: 4,
    nKvHeads: 1,
    headDim: 256,
    vocabulary: 262144,
    contextLength: 32768,
    ropeBase: 10000,
    rmsEps: 1e-6,
    ownHead: false,
    pooling: 'mean',
  },
  /** HF1BitLLM/Llama3-8B-1.58-100B-tokens. */
  'llama3-8b': {
    architecture: 'llama',
    hidden: 4096,
    ffn: 14336,
    nLayers: 32,
    nHeads: 32,
    nKvHeads: 8,
    headDim: 128,
    vocabulary: 128256,
    contextLength: 8192,
    ropeBase: 500000,
    rmsEps: 1e-5,
    ownHead: true,
  },
} as const satisfies Record<string, Shape>;

export type PresetName = keyof typeof presets;
