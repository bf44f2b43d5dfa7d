/**
 * `bitnet quantize`: a GGUF file in other tensor types, with llama-quantize's arguments.
 * @module
 */

import { stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { requantize } from '../convert/requantize.ts';
import { embeddingTypes, type LinearType, linearTypes } from '../convert/types.ts';
import { openGguf, openModelSource } from '../formats/index.ts';
import { createFileSink, openFileSource } from '../platform/source-node.ts';
import { command } from './command.ts';
import { UsageError } from './flags.ts';
import { layoutFlags, layoutOptions, quietFlag } from './flags-common.ts';
import { i2sLayoutFlag, typeNamed, writingProgress, writtenLine } from './written.ts';

const names = Object.keys(linearTypes) as LinearType[];

const tableFlag = { type: 'string', value: 'TYPE' } as const;

export const quantize = command({
  words: { shown: 'IN.gguf [OUT.gguf] TYPE', min: 2, max: 4 },
  flags: {
    'token-embedding-type': {
      ...tableFlag,
      describe: `of the embedding: ${embeddingTypes.join(', ').toLowerCase()} [f16 where it is f32 or bf16, else as it is]`,
    },
    'output-tensor-type': { ...tableFlag, describe: 'of the head, where it has a matrix of its own [the same]' },
    'allow-requantize': { type: 'boolean', describe: 'quantise tables that are quantised already' },
    ternarize: {
      type: 'boolean',
      describe: 'make projections of floats ternary that are not, by their mean magnitude as in training',
    },
    'output-i2s-layout': { ...i2sLayoutFlag, describe: 'order of the values of I2_S to write [x86]' },
    ...layoutFlags,
    ...quietFlag,
  },
  examples: [
    ['bitnet quantize model.gguf small.gguf tq1_0 --token-embedding-type q6_k', 'the same trits in fewer bytes'],
    ['bitnet quantize model-f32.gguf model.gguf i2_s', 'as llama-quantize'],
    [
      'bitnet quantize model.gguf arm.gguf i2_s --output-i2s-layout arm64',
      'for bitnet.cpp on ARM, as it is since November 2025',
    ],
  ],
  async run(args, io) {
    const { input, output, type } = wordsOf(args.words);
    const options = {
      type,
      tokenEmbeddingType: typeNamed('--token-embedding-type', args['token-embedding-type'], embeddingTypes),
      outputTensorType: typeNamed('--output-tensor-type', args['output-tensor-type'], embeddingTypes),
      allowRequantize: args['allow-requantize'],
      ternarize: args.ternarize,
      outputI2sLayout: args['output-i2s-layout'],
      ...layoutOptions(args),
      signal: io.signal,
      onProgress: writingProgress(io, args.quiet),
    };
    if (await isSameFile(input, output)) throw new UsageError('IN and OUT are the same file');
    const source = await openModelSource(input, { openPath: openFileSource, signal: io.signal });
    try {
      const gguf = await openGguf(source, { allowUnreadable: true });
      try {
        const written = await requantize(gguf, await createFileSink(output), options);
        io.status('');
        if (!args.quiet) for (const text of written.notes) io.note(`note: ${text}`);
        await io.write(writtenLine(output, written));
        return 0;
      } finally {
        await gguf.close();
      }
    } finally {
      io.status('');
      await source.close();
    }
  },
});

/** `IN TYPE` and `IN OUT TYPE`, both with a number of threads behind, which llama-quantize takes and nobody needs here. */
function wordsOf(words: readonly string[]): { input: string; output: string; type: LinearType | 'COPY' } {
  const [input, second, ...rest] = words;
  const short = typeOf(second);
  if (short !== undefined) {
    if (rest.length > 0) wantThreads(rest);
    if (/^[a-z]{2,}:/i.test(input)) throw new UsageError('OUT.gguf is missing: a URL has no folder to write beside');
    const file = `ggml-model-${short.toLowerCase()}.gguf`;
    return { input, output: join(dirname(input), file), type: short };
  }
  const type = rest[0] === undefined ? undefined : typeOf(rest[0]);
  if (type === undefined) {
    const known = names.map((name) => `${name.toLowerCase()} (${linearTypes[name]})`).join(', ');
    throw new UsageError(`TYPE is one of ${known}, copy; got ${JSON.stringify(rest[0] ?? second)}`);
  }
  wantThreads(rest.slice(1));
  return { input, output: second, type };
}

/** A type by name in any case, or by llama.cpp's number of the file type. */
function typeOf(text: string): LinearType | 'COPY' | undefined {
  const upper = text.toUpperCase();
  if (upper === 'COPY') return 'COPY';
  return names.find((name) => name === upper || `${linearTypes[name]}` === text);
}

function wantThreads(words: readonly string[]): void {
  const [threads] = words;
  if (words.length <= 1 && (threads === undefined || /^-?\d+$/.test(threads))) return;
  throw new UsageError(`unexpected argument ${JSON.stringify(words.at(-1))}`);
}

/** The output is renamed over whatever has its name: never over what is being read. */
async function isSameFile(input: string, output: string): Promise<boolean> {
  const [a, b] = await Promise.all([input, output].map((path) => stat(path).catch(() => undefined)));
  return a !== undefined && b !== undefined && a.ino === b.ino && a.dev === b.dev;
}
