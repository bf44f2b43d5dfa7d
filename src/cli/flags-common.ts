/**
 * Flags that several commands share, under llama.cpp's names.
 * @module
 */

import type { LoadOptions, SessionOptions } from '../engine/types.ts';
import type { SamplingOptions } from '../sampling/chain.ts';
import { parseTilesChoice } from '../tensors/tiles.ts';
import { type Flags, UsageError, type Values } from './flags.ts';

const MODEL = 'Model';
const SAMPLING = 'Sampling';
const OUTPUT = 'Output';

/** Where models of the Hugging Face hub come from. */
export const hubFlags = {
  offline: {
    type: 'boolean',
    group: MODEL,
    describe: 'take models of the hub from its cache only, as with HF_HUB_OFFLINE=1',
  },
  'no-cache': {
    type: 'boolean',
    group: MODEL,
    describe: 'read models of the hub in place, by ranges, without looking at its cache or writing to it',
  },
} as const satisfies Flags;

export const modelFlag = {
  model: {
    type: 'string',
    also: ['-m'],
    value: 'PATH|URL|hf:USER/REPO',
    env: 'BITNET_MODEL',
    group: MODEL,
    describe: 'GGUF file, may be gzipped, or hf:USER/REPO[:QUANT] [the built-in story model]',
  },
  'model-url': { type: 'string', also: ['-mu'], value: 'URL', group: MODEL, describe: 'the same, by URL' },
  'hf-repo': {
    type: 'string',
    also: ['-hf'],
    value: 'USER/REPO[:QUANT]',
    group: MODEL,
    describe: 'the same, on the Hugging Face hub (HF_TOKEN, HF_ENDPOINT); downloaded to its cache (HF_HUB_CACHE) once',
  },
  'hf-file': { type: 'string', also: ['-hff'], value: 'FILE', group: MODEL, describe: 'which file of that repository' },
  ...hubFlags,
} as const satisfies Flags;

export const preFlag = {
  pre: {
    type: 'string',
    value: 'NAME',
    group: MODEL,
    describe: 'pre-tokenizer to use whatever the file says, e.g. llama-bpe; default is what bitnet.cpp falls back to',
  },
} as const satisfies Flags;

/** How ternary tensors lie in the file, where it does not say. */
export const layoutFlags = {
  'i2s-layout': {
    type: 'string',
    choices: ['auto', 'x86', 'arm64', 'rows4'],
    group: MODEL,
    describe:
      'order of the values of I2_S tensors: x86 is every published file, arm64 what llama-quantize writes on ARM [auto]',
  },
  'tl-tiles': {
    type: 'string',
    value: 'auto|codegen|preset|MxK=BM/BK/bm,...',
    group: MODEL,
    describe: "how TL1 and TL2 tensors are cut: one of bitnet.cpp's lists, or its kernel_config.ini by shape [auto]",
  },
} as const satisfies Flags;

/** Arithmetic of other engines. */
export const foreignFlags = {
  activations: {
    type: 'string',
    choices: ['int8', 'q8_k'],
    group: MODEL,
    describe: "inputs of ternary projections: int8 per token, as trained, or q8_k, llama.cpp's for TQ1_0, TQ2_0 [int8]",
  },
  'saturate-i16': {
    type: 'boolean',
    group: MODEL,
    describe: 'compute what native I2_S kernels (x86) do where their 16-bit sums overflow, and say where that was',
  },
} as const satisfies Flags;

/** How a model is loaded and run. */
export const runtimeFlags = {
  ...modelFlag,
  ...preFlag,
  backend: {
    type: 'string',
    choices: ['auto', 'wasm', 'ts', 'cuda'],
    env: 'BITNET_BACKEND',
    group: MODEL,
    describe: 'what computes: wasm (fast), ts (the definition, slow), cuda (an NVIDIA GPU) [auto: not cuda]',
  },
  device: {
    type: 'integer',
    min: 0,
    group: MODEL,
    describe: 'number of the GPU of the cuda backend [0]',
  },
  threads: {
    type: 'integer',
    also: ['-t'],
    min: 1,
    max: 256,
    env: 'BITNET_THREADS',
    group: MODEL,
    describe: 'threads of the wasm backend [physical cores]',
  },
  kernels: {
    type: 'string',
    choices: ['dot', 'relaxed', 'simd', 'scalar', 'fastest'],
    env: 'BITNET_KERNELS',
    group: MODEL,
    describe: 'build of the wasm kernels to use and no other; fastest times them [the first that works]',
  },
  'no-wide-vectors': {
    type: 'boolean',
    group: MODEL,
    describe: 'leave alone the switch of V8 that joins vectors to 256 bits (Node 22 and 26 on x86)',
  },
  'embd-type': {
    type: 'string',
    choices: ['auto', 'file', 'q8_0', 'q6_k'],
    group: MODEL,
    describe: "embedding and head in memory; auto is the file's type if that fits, else q8_0, else q6_k [auto]",
  },
  ...layoutFlags,
  'allow-dense': {
    type: 'boolean',
    group: MODEL,
    describe: 'run a model whose projections are not ternary instead of refusing it',
  },
  ...foreignFlags,
  'ctx-size': {
    type: 'integer',
    also: ['-c'],
    min: 0,
    group: MODEL,
    describe: "positions to keep; 0 is the model's own length [that, at most 2048]",
  },
  'batch-size': {
    type: 'integer',
    also: ['-b', '--batch'],
    min: 1,
    group: MODEL,
    describe: 'tokens computed in one pass; never changes a result [128, cuda 1024]',
  },
  'cache-type-k': {
    type: 'string',
    also: ['-ctk'],
    choices: ['f32', 'f16'],
    group: MODEL,
    describe: 'type of cached keys [f16]',
  },
  'cache-type-v': {
    type: 'string',
    also: ['-ctv'],
    choices: ['f32', 'f16'],
    group: MODEL,
    describe: 'type of cached values [f16]',
  },
  // Part of every llama.cpp command line, and without meaning here.
  'gpu-layers': {
    type: 'integer',
    also: ['-ngl', '--n-gpu-layers'],
    hidden: true,
    group: MODEL,
    describe: 'accepted and ignored: --backend cuda runs all layers on a GPU',
  },
  'ubatch-size': {
    type: 'integer',
    also: ['-ub'],
    hidden: true,
    group: MODEL,
    describe: 'accepted and ignored: see --batch-size',
  },
  'threads-batch': {
    type: 'integer',
    also: ['-tb'],
    hidden: true,
    group: MODEL,
    describe: 'accepted and ignored: see --threads',
  },
  // How llama.cpp maps the file, warms up and logs: nothing that a result or a user of this program would notice.
  'no-mmap': {
    type: 'boolean',
    also: ['--mmap', '--mlock', '--no-warmup', '--no-perf', '--perf', '--log-disable', '--simple-io'],
    hidden: true,
    group: MODEL,
    describe: 'accepted and ignored: the file is read once, and nothing of it is mapped',
  },
} as const satisfies Flags;

export const samplingFlags = {
  temp: {
    type: 'number',
    also: ['-temp', '--temperature'],
    group: SAMPLING,
    describe: 'temperature; 0 takes the most likely token [0.8; 0.7 for built-in stories]',
  },
  'top-k': { type: 'integer', group: SAMPLING, describe: 'keep the k most likely tokens; 0 keeps all [40]' },
  'top-p': {
    type: 'number',
    min: 0,
    max: 1,
    group: SAMPLING,
    describe: 'keep this much probability; 1 keeps all [0.95]',
  },
  'min-p': {
    type: 'number',
    min: 0,
    max: 1,
    group: SAMPLING,
    describe: 'keep tokens at least this likely, relative to the most likely one [0.05]',
  },
  'repeat-penalty': { type: 'number', group: SAMPLING, describe: 'divides logits of recent tokens; 1 is off [1]' },
  'repeat-last-n': {
    type: 'integer',
    min: -1,
    group: SAMPLING,
    describe: 'how many tokens count as recent; 0 none, -1 all [64]',
  },
  'presence-penalty': { type: 'number', group: SAMPLING, describe: 'subtracted once from logits of recent tokens [0]' },
  'frequency-penalty': { type: 'number', group: SAMPLING, describe: 'subtracted for every recent occurrence [0]' },
  'penalize-nl': { type: 'boolean', group: SAMPLING, describe: 'penalise newlines as well' },
  'logit-bias': {
    type: 'list',
    also: ['-l'],
    value: 'ID(+|-)BIAS',
    group: SAMPLING,
    describe: 'add to the logit of a token, e.g. 15043+1, 15043-inf; may be repeated',
  },
  seed: {
    type: 'integer',
    also: ['-s'],
    min: -1,
    group: SAMPLING,
    describe: 'same seed, same text; -1 is random [-1]',
  },
} as const satisfies Flags;

/** When a generation ends. */
export const stopFlags = {
  predict: {
    type: 'integer',
    also: ['-n', '--n-predict'],
    min: -2,
    group: SAMPLING,
    describe: 'tokens to generate; -1 until the model ends or the context is full [-1]',
  },
  stop: {
    type: 'list',
    also: ['-r', '--reverse-prompt'],
    value: 'TEXT',
    group: SAMPLING,
    describe: 'end before this text; may be repeated',
  },
  'ignore-eos': { type: 'boolean', group: SAMPLING, describe: 'go on where the model would end' },
} as const satisfies Flags;

export const chatFlags = {
  'system-prompt': {
    type: 'string',
    also: ['-sys'],
    value: 'TEXT',
    group: 'Chat',
    describe: 'what the model is told before the conversation',
  },
  'chat-template': { type: 'string', value: 'JINJA', group: 'Chat', describe: "replaces the model's own template" },
  'chat-template-file': { type: 'string', value: 'PATH', group: 'Chat', describe: 'the same, from a file' },
} as const satisfies Flags;

export const quietFlag = {
  quiet: { type: 'boolean', also: ['-q'], group: OUTPUT, describe: 'nothing on stderr but errors' },
} as const satisfies Flags;

export const jsonFlag = {
  json: { type: 'boolean', group: OUTPUT, describe: 'one JSON document instead of text' },
} as const satisfies Flags;

/** Sampling options as far as they were given; the library knows the defaults. */
export function samplingOptions(args: Values<typeof samplingFlags>): SamplingOptions {
  const options: Record<string, unknown> = {
    temperature: args.temp,
    topK: args['top-k'],
    topP: args['top-p'],
    minP: args['min-p'],
    repeatPenalty: args['repeat-penalty'],
    repeatLastN: args['repeat-last-n'],
    presencePenalty: args['presence-penalty'],
    frequencyPenalty: args['frequency-penalty'],
    seed: args.seed,
  };
  if (args['penalize-nl']) options.penalizeNewline = true;
  if (args['logit-bias'].length > 0) options.logitBias = logitBias(args['logit-bias']);
  // Absent, not undefined: that is what exactOptionalPropertyTypes promises the library.
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

/** `15043+1.5`, `15043-inf`: llama.cpp's form. The sign belongs to the bias. */
export function logitBias(texts: readonly string[]): Map<number, number> {
  const bias = new Map<number, number>();
  for (const text of texts) {
    const match = /^(\d+)([+-])(inf|\d+\.?\d*|\.\d+)$/i.exec(text);
    const size = match === null ? Number.NaN : match[3].toLowerCase() === 'inf' ? Infinity : Number(match[3]);
    const value = match?.[2] === '-' ? -size : size;
    if (match === null || Number.isNaN(value) || value === Infinity) {
      throw new UsageError(
        `--logit-bias takes ID+BIAS or ID-BIAS, e.g. 15043+1 or 15043-inf; got ${JSON.stringify(text)}`,
      );
    }
    bias.set(Number(match[1]), value);
  }
  return bias;
}

/** Layout options as far as they were given. */
export function layoutOptions(args: Values<typeof layoutFlags>): Pick<LoadOptions, 'i2sLayout' | 'tiles'> {
  const tiles = args['tl-tiles'];
  return {
    ...(args['i2s-layout'] === undefined ? {} : { i2sLayout: args['i2s-layout'] }),
    ...(tiles === undefined ? {} : { tiles: tiles === 'auto' ? tiles : parseTilesChoice(tiles) }),
  };
}

type ContextArgs = Pick<Values<typeof runtimeFlags>, 'ctx-size' | 'cache-type-k' | 'cache-type-v'>;

/** Session options as far as they were given. `contextLength` is what 0 stands for. */
export function sessionOptions(args: ContextArgs, contextLength: number): SessionOptions {
  const size = args['ctx-size'];
  return {
    ...(size === undefined ? {} : { contextSize: size === 0 ? contextLength : size }),
    ...(args['cache-type-k'] === undefined ? {} : { kType: args['cache-type-k'] }),
    ...(args['cache-type-v'] === undefined ? {} : { vType: args['cache-type-v'] }),
  };
}
