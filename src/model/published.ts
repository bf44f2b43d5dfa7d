/**
 * Published ternary models, known by their shapes: which one a file is, whatever it calls itself, and what follows from that.
 *
 * A table of expectations, and the shapes of synthetic models; never of settings: models are run by what their file says. Falcon-E
 * is missing because its dimensions are nowhere to be had but in its files.
 * @module
 */

import type { ModelConfig } from './config.ts';

export interface Published {
  /** As on the Hugging Face hub; several where only the tuning differs. */
  readonly name: string;
  /** Names by which the file or `general.name` may claim to be this. */
  readonly claims: RegExp;
  /** `tokenizer.ggml.model`. */
  readonly vocabularyKind: 'gpt2' | 'llama';
  /** The right values of `general.architecture`. */
  readonly architectures: readonly string[];
  readonly activation: string;
  readonly shape: Pick<ModelConfig, 'hidden' | 'ffn' | 'nLayers' | 'nHeads' | 'nKvHeads' | 'headDim' | 'vocabulary'>;
  readonly ropeBase: number;
  readonly rmsEps: number;
  /** It continues texts; embedding models do not. */
  readonly speaks: boolean;
}

function shapeOf(hidden: number, ffn: number, nLayers: number, heads: [number, number, number], vocabulary: number) {
  const [nHeads, nKvHeads, headDim] = heads;
  return { hidden, ffn, nLayers, nHeads, nKvHeads, headDim, vocabulary };
}

const BITNET = {
  vocabularyKind: 'llama',
  architectures: ['bitnet'],
  activation: 'silu',
  ropeBase: 10000,
  rmsEps: 1e-5,
  speaks: true,
} as const;
const LLAMA = { vocabularyKind: 'gpt2', architectures: ['llama'], activation: 'silu', speaks: true } as const;
const FALCON3 = { ...LLAMA, ropeBase: 1000042, rmsEps: 1e-6 } as const;

export const PUBLISHED: readonly Published[] = [
  {
    name: 'microsoft/BitNet-b1.58-2B-4T',
    claims: /2b[-_.]?4t|bitnet2b/i,
    vocabularyKind: 'gpt2',
    architectures: ['bitnet-b1.58', 'bitnet-25'],
    activation: 'relu2',
    shape: shapeOf(2560, 6912, 30, [20, 5, 128], 128256),
    ropeBase: 500000,
    rmsEps: 1e-5,
    speaks: true,
  },
  {
    ...BITNET,
    name: '1bitLLM/bitnet_b1_58-large',
    claims: /b1[._]58[-_]large/i,
    shape: shapeOf(1536, 4096, 24, [16, 16, 96], 32002),
  },
  {
    ...BITNET,
    name: '1bitLLM/bitnet_b1_58-3B',
    claims: /b1[._]58[-_]3b/i,
    shape: shapeOf(3200, 8640, 26, [32, 32, 100], 32002),
  },
  {
    ...LLAMA,
    name: 'HF1BitLLM/Llama3-8B-1.58-100B-tokens',
    claims: /llama-?3-8b-1\.58/i,
    shape: shapeOf(4096, 14336, 32, [32, 8, 128], 128256),
    ropeBase: 500000,
    rmsEps: 1e-5,
  },
  {
    ...FALCON3,
    name: 'tiiuae/Falcon3-1B-Instruct-1.58bit',
    claims: /falcon-?3-1b/i,
    shape: shapeOf(2048, 8192, 18, [8, 4, 256], 131072),
  },
  {
    ...FALCON3,
    name: 'tiiuae/Falcon3-3B-1.58bit or -Instruct',
    claims: /falcon-?3-3b/i,
    shape: shapeOf(3072, 9216, 22, [12, 4, 256], 131072),
  },
  {
    ...FALCON3,
    name: 'tiiuae/Falcon3-7B-1.58bit or -Instruct',
    claims: /falcon-?3-7b/i,
    shape: shapeOf(3072, 23040, 28, [12, 4, 256], 131072),
  },
  {
    ...FALCON3,
    name: 'tiiuae/Falcon3-10B-1.58bit or -Instruct',
    claims: /falcon-?3-10b/i,
    shape: shapeOf(3072, 23040, 40, [12, 4, 256], 131072),
  },
  {
    name: 'microsoft/bitnet-embedding-0.6b',
    claims: /bitnet-embedding-0\.6b/i,
    vocabularyKind: 'gpt2',
    architectures: ['qwen3'],
    activation: 'silu',
    shape: shapeOf(1024, 3072, 28, [16, 8, 128], 151936),
    ropeBase: 1000000,
    rmsEps: 1e-6,
    speaks: false,
  },
  {
    name: 'microsoft/bitnet-embedding-270m',
    claims: /bitnet-embedding-270m/i,
    vocabularyKind: 'llama',
    architectures: ['gemma3'],
    activation: 'gelu',
    shape: shapeOf(640, 2048, 18, [4, 1, 256], 262144),
    ropeBase: 10000,
    rmsEps: 1e-6,
    speaks: false,
  },
  {
    name: 'the story model of bitnet-ts',
    claims: /bitnet-ts stories/i,
    vocabularyKind: 'gpt2',
    architectures: ['bitnet-b1.58'],
    activation: 'relu2',
    shape: shapeOf(256, 768, 6, [4, 2, 64], 4096),
    ropeBase: 10000,
    rmsEps: 1e-5,
    speaks: true,
  },
];

/** The published model of exactly this shape. */
export function publishedOf(config: ModelConfig): Published | undefined {
  return PUBLISHED.find(({ shape }) =>
    (Object.keys(shape) as (keyof typeof shape)[]).every((key) => shape[key] === config[key]),
  );
}
