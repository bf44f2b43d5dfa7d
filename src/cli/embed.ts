/**
 * `bitnet embed`: texts to vectors, with the flags and the output of llama-embedding.
 * @module
 */

import type { EmbeddingFormat, EmbedOptions, Pooling, QuantizedEmbedding } from '../engine/embed.ts';
import type { Model } from '../engine/types.ts';
import { cosineSimilarity, embeddingCodes } from '../model/embedding.ts';
import { command } from './command.ts';
import { UsageError, type Values } from './flags.ts';
import { quietFlag, runtimeFlags, sessionOptions } from './flags-common.ts';
import { openModel, readTextFile } from './open.ts';
import { readEscapes } from './prompt.ts';

const { 'ctx-size': contextFlag, ...modelFlags } = runtimeFlags;

const flags = {
  ...modelFlags,
  'ctx-size': { ...contextFlag, describe: "longest text in tokens; 0 is the model's own length [that]" },
  prompt: { type: 'list', also: ['-p'], value: 'TEXT', group: 'Text', describe: 'the texts; may be repeated' },
  file: { type: 'string', also: ['-f'], value: 'PATH', group: 'Text', describe: 'the texts, from a file' },
  'embd-separator': {
    type: 'string',
    value: 'TEXT',
    group: 'Text',
    describe: 'what stands between two texts of one -p or file [\\n]',
  },
  instruction: {
    type: 'string',
    value: 'TASK',
    group: 'Text',
    describe: 'for queries: what the text is wanted for; or a whole template with {text} in it',
  },
  truncate: { type: 'boolean', group: 'Text', describe: 'cut texts that are too long, instead of refusing them' },
  'no-parse-special': {
    type: 'boolean',
    group: 'Text',
    describe: 'special tokens written out in the texts stay plain text',
  },
  pooling: {
    type: 'string',
    choices: ['mean', 'cls', 'last'],
    group: 'Vectors',
    describe: 'which tokens make the vector [what the file says, else last]',
  },
  'embd-normalize': {
    type: 'integer',
    min: -1,
    max: 64,
    group: 'Vectors',
    describe: '-1 none, 0 to int16, 1 taxicab, 2 euclidean, more: p-norm [2]',
  },
  quantize: {
    type: 'string',
    choices: ['float', 'int8', 'int4', 'int2', 'binary'],
    group: 'Vectors',
    describe: 'store vectors in 8, 4, 2 or 1 bits a value: codes and a scale [float]',
  },
  'embd-output-format': {
    type: 'string',
    choices: ['', 'array', 'json', 'json+'],
    group: 'Output',
    describe: 'array of arrays; json as of OpenAI; json+ with the cosine of every pair [text]',
  },
  ...quietFlag,
} as const;

type Args = Values<typeof flags>;

export const embed = command({
  flags,
  examples: [
    [
      'bitnet embed -m embedding.gguf -p "A cat sleeps." -p "A dog runs." --embd-output-format json+',
      'and their cosine',
    ],
    [
      'bitnet embed -m embedding.gguf -f queries.txt --instruction "Given a question, retrieve passages"',
      'a text a line',
    ],
    ['bitnet embed -m embedding.gguf -f texts.txt --quantize int8 --embd-output-format json', 'codes and scales'],
  ],
  async run(args, io) {
    const texts = await textsOf(args);
    const model = await openModel(args, io);
    try {
      const vectors = await vectorsOf(model, texts, args, io.signal);
      await io.write(FORMATS[args['embd-output-format'] ?? ''](vectors, texts, args['embd-normalize'] === 0));
      return 0;
    } finally {
      await model.dispose();
    }
  },
});

/** llama-embedding splits its one prompt at the separator; here every -p is split. */
async function textsOf(args: Args): Promise<string[]> {
  const fromFile = args.file === undefined ? [] : [(await readTextFile(args.file)).replace(/\r?\n$/, '')];
  const given = [...args.prompt.map(readEscapes), ...fromFile];
  if (given.length === 0) throw new UsageError('give -p or -f');
  const separator = readEscapes(args['embd-separator'] ?? '\n');
  if (separator === '') throw new UsageError('--embd-separator is empty');
  return given.flatMap((text) => text.split(separator));
}

/** A vector as it is printed: its numbers, which are codes where it was quantised, and then their scale. */
interface Printed {
  readonly numbers: ArrayLike<number> & Iterable<number>;
  readonly quantized: QuantizedEmbedding | undefined;
}

async function vectorsOf(model: Model, texts: readonly string[], args: Args, signal: AbortSignal): Promise<Printed[]> {
  const { contextLength } = model.info;
  const { contextSize, kType, vType } = sessionOptions(args, contextLength);
  const options: Omit<EmbedOptions, 'quantize'> = {
    instruction: args.instruction,
    pooling: args.pooling as Pooling | undefined,
    normalize: args['embd-normalize'] ?? 2,
    maxTokens: contextSize,
    truncate: args.truncate,
    // Whoever types a prompt is trusted with special tokens, as in llama-embedding.
    special: !args['no-parse-special'],
    kType,
    vType,
    signal,
  };
  const quantize = (args.quantize ?? 'float') as EmbeddingFormat;
  if (quantize === 'float') {
    const vectors = await model.embed(texts, options);
    return vectors.map((numbers) => ({ numbers, quantized: undefined }));
  }
  const vectors = await model.embed(texts, { ...options, quantize });
  return vectors.map((quantized) => ({ numbers: embeddingCodes(quantized), quantized }));
}

type Formatter = (vectors: readonly Printed[], texts: readonly string[], isInt16: boolean) => string;

/** The layouts, blanks included, of llama-embedding: scripts read them. Codes and scales are an addition. */
const FORMATS: Record<NonNullable<Args['embd-output-format']>, Formatter> = {
  '': asText,
  array: (vectors, _, isInt16) => `[${vectors.map((vector) => list(vector, isInt16)).join(',')}]\n`,
  json: (vectors, _, isInt16) => `${openJson(vectors, isInt16)}\n}\n`,
  'json+': (vectors, _, isInt16) => {
    if (vectors.length < 2) return `${openJson(vectors, isInt16)}\n}\n`;
    const rows = vectors.map((a) => `    [${vectors.map((b) => cosine(a, b)).join(', ')} ]`);
    return `${openJson(vectors, isInt16)},\n  "cosineSimilarity": [\n${rows.join(',\n')}\n  ]\n}\n`;
  },
};

function openJson(vectors: readonly Printed[], isInt16: boolean): string {
  const entries = vectors.map((vector, i) => {
    const { quantized } = vector;
    const stored =
      quantized === undefined ? '' : `,\n      "format": "${quantized.format}",\n      "scale": ${quantized.scale}`;
    const numbers = list(vector, isInt16);
    return `    {\n      "object": "embedding",\n      "index": ${i},\n      "embedding": ${numbers}${stored}\n    }`;
  });
  return `{\n  "object": "list",\n  "data": [\n${entries.join(',\n')}\n  ]`;
}

function list({ numbers, quantized }: Printed, isInt16: boolean): string {
  return `[${Array.from(numbers, (x) => x.toFixed(isInt16 || quantized !== undefined ? 0 : 7)).join(',')}]`;
}

/** Of more than one vector only the beginnings, and all cosines. */
function asText(vectors: readonly Printed[], texts: readonly string[], isInt16: boolean): string {
  const shown = vectors.length > 1 ? 16 : Infinity;
  const lines = vectors.map(({ numbers, quantized }, i) => {
    const whole = isInt16 || quantized !== undefined;
    const cells = Array.from(numbers)
      .slice(0, shown)
      .map((x) => (whole ? x.toFixed(0).padStart(6) : x.toFixed(6).padStart(9)));
    return `embedding ${i}: ${cells.join(' ')} ${quantized === undefined ? '' : `scale ${quantized.scale}`}\n`;
  });
  if (vectors.length === 1) return `\n${lines[0]}`;
  const heads = texts.map((text) => `${[...text].slice(0, 6).join('').padStart(6)} `).join('');
  const rows = vectors.map((a, i) => {
    return `${vectors.map((b) => `${cosine(a, b)} `).join('')}${[...texts[i]].slice(0, 10).join('')}\n`;
  });
  return `\n${lines.join('')}\ncosine similarity matrix:\n\n${heads}\n${rows.join('')}`;
}

/** The scale of a vector takes no part in it. */
function cosine(a: Printed, b: Printed): string {
  return cosineSimilarity(a.numbers, b.numbers).toFixed(2).padStart(6);
}
