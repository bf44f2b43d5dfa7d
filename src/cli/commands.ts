/**
 * All commands, in the order of the help. What one of them needs is loaded when it is asked for: a program of many rooms should not
 * take longer to start for each of them.
 * @module
 */

import type { Command } from './command.ts';

export interface Listed {
  /** As typed; two words for a command of a group, e.g. `oracle logits`. */
  readonly name: string;
  /** One line. */
  readonly describe: string;
  readonly load: () => Promise<Command>;
}

export const commands: readonly Listed[] = [
  {
    name: 'run',
    describe: 'Continues a text. The built-in model tells a story.',
    load: async () => (await import('./run.ts')).run,
  },
  {
    name: 'chat',
    describe: 'Talks with a model that has a chat template. /help lists what can be typed.',
    load: async () => (await import('./chat.ts')).chat,
  },
  {
    name: 'inspect',
    describe:
      'Shows metadata, tensors, tokenizer and memory needs of a GGUF file, also of one that cannot be run here.',
    load: async () => (await import('./inspect.ts')).inspect,
  },
  {
    name: 'verify',
    describe: 'Says whether a model file is sound: checks it, lets the model speak, compares with known answers.',
    load: async () => (await import('./verify.ts')).verify,
  },
  {
    name: 'tokenize',
    describe: 'Turns text into token ids. Works on files that have a vocabulary and no tensors.',
    load: async () => (await import('./tokenize.ts')).tokenize,
  },
  {
    name: 'oracle logits',
    describe: 'Writes the logits after every token as float32 .npy (tokens, vocabulary) and prints their SHA-256.',
    load: async () => (await import('./oracle.ts')).oracleLogits,
  },
  {
    name: 'oracle endpoint',
    describe: 'Compares probabilities with those of an OpenAI-compatible server, and says why they differ.',
    load: async () => (await import('./oracle-endpoint.ts')).oracleEndpoint,
  },
  {
    name: 'oracle trace',
    describe: 'Writes every named intermediate of a run, as a folder of .npy files or one .npz, with a manifest.',
    load: async () => (await import('./oracle-trace.ts')).oracleTrace,
  },
  {
    name: 'oracle compare',
    describe:
      'Finds the first token, layer and tensor that differ, and what mistake they look like. Exit status 1 if any.',
    load: async () => (await import('./oracle-compare.ts')).oracleCompare,
  },
  {
    name: 'oracle kit',
    describe:
      'Writes tiny models, vectors of every op and expected answers, for the tests of other engines; or checks a copy.',
    load: async () => (await import('./oracle-kit.ts')).oracleKit,
  },
  {
    name: 'perplexity',
    describe: 'Measures a model: perplexity of a text, divergence from another model, tasks; as llama.cpp does.',
    load: async () => (await import('./perplexity.ts')).perplexity,
  },
  {
    name: 'embed',
    describe: 'Turns texts into vectors.',
    load: async () => (await import('./embed.ts')).embed,
  },
  {
    name: 'bench',
    describe: 'Measures prompt processing (pp) and token generation (tg), as llama-bench does.',
    load: async () => (await import('./bench.ts')).bench,
  },
  {
    name: 'replay',
    describe: 'Runs a receipt again: exit status 0 and "same", or 1 and where it differs.',
    load: async () => (await import('./replay.ts')).replay,
  },
  {
    name: 'convert',
    describe:
      'Converts a Hugging Face checkpoint of a ternary model (safetensors, packed or master weights) to GGUF, or back.',
    load: async () => (await import('./convert.ts')).convert,
  },
  {
    name: 'quantize',
    describe:
      'Writes a GGUF file with other tensor types: ternary ones keep their trits, whatever type they come from.',
    load: async () => (await import('./quantize.ts')).quantize,
  },
  {
    name: 'synth',
    describe: 'Writes a model of random weights in the shape of a published one, for benchmarks and tests.',
    load: async () => (await import('./synth.ts')).synth,
  },
  {
    name: 'pull',
    describe: 'Downloads a model from the Hugging Face hub into its cache, verified, and prints where it is.',
    load: async () => (await import('./pull.ts')).pull,
  },
  {
    name: 'build-cuda',
    describe: 'Compiles the library of --backend cuda with nvcc (CUDA 12 or newer). Takes minutes; needs no GPU.',
    load: async () => (await import('./build-cuda.ts')).buildCuda,
  },
];
