/**
 * `bitnet perplexity`: how well a model predicts a text, by llama.cpp's method or document by document.
 * @module
 */

import type { Model, Session } from '../engine/types.ts';
import { BitnetError, want } from '../errors.ts';
import { command } from './command.ts';
import { UsageError, type Values } from './flags.ts';
import { jsonFlag, quietFlag, runtimeFlags, sessionOptions } from './flags-common.ts';
import { grouped, plural } from './format.ts';
import type { Io } from './io.ts';
import { openModel, readTextFile } from './open.ts';
import { Score, scoreWindow } from './score.ts';

/** llama-perplexity's default window. */
const WINDOW = 512;

const flags = {
  ...runtimeFlags,
  'ctx-size': {
    ...runtimeFlags['ctx-size'],
    min: 2,
    describe: 'tokens in a window [512; with --documents the model decides]',
  },
  file: { type: 'string', also: ['-f'], value: 'PATH', group: 'Text', describe: 'the text' },
  chunks: { type: 'integer', min: 1, group: 'Text', describe: 'windows, or documents, to score [all]' },
  documents: {
    type: 'string',
    value: 'SEPARATOR',
    group: 'Text',
    describe: 'score every document whole, from its first token to its end; e.g. "<|endoftext|>"',
  },
  'stride-none': { type: 'boolean', hidden: true, group: 'Text', describe: 'windows do not overlap; always so' },
  ...jsonFlag,
  ...quietFlag,
} as const;

type Args = Values<typeof flags>;

interface Outcome {
  readonly method: 'windows' | 'documents';
  /** Windows or documents. */
  readonly chunks: number;
  readonly contextSize: number;
  readonly score: Score;
  /** UTF-8 bytes of the text that the scored tokens stand for. */
  readonly textBytes: number;
}

export const perplexity = command({
  name: 'perplexity',
  describe: 'Measures how well a model predicts a text: perplexity as llama.cpp computes it, and bits per byte.',
  flags,
  examples: [
    ['bitnet perplexity -m model.gguf -f wiki.test.raw', 'comparable with llama-perplexity'],
    ['bitnet perplexity -f stories.txt --documents "<|endoftext|>"', 'every story on its own'],
  ],
  async run(args, io) {
    if (args.file === undefined) throw new UsageError('-f is missing');
    const text = await readTextFile(args.file);
    const model = await openModel(args, io);
    try {
      const outcome =
        args.documents === undefined
          ? await byWindows(model, text, args, io)
          : await byDocuments(model, text, args.documents, args, io);
      io.status('');
      await io.write(args.json ? `${JSON.stringify(asJson(model, outcome), null, 2)}\n` : asText(outcome));
      return 0;
    } finally {
      await model.dispose();
    }
  },
});

/**
 * llama-perplexity: the text as one row of tokens, cut into windows side by side. Of each window the second half is
 * scored, so that every scored token has at least half a window before it.
 */
async function byWindows(model: Model, text: string, args: Args, io: Io): Promise<Outcome> {
  const { tokenizer, info } = model;
  const size = args['ctx-size'] ?? WINDOW;
  const ids = tokenizer.encodePrompt(text, { special: false });
  want(ids.length >= 2 * size, 'bad-argument', 'the text is too short', () => ({
    where: args.file!,
    expected: `at least two windows, ${2 * size} tokens`,
    got: `${ids.length}`,
    hint: 'a smaller -c',
  }));
  const chunks = Math.min(Math.floor(ids.length / size), args.chunks ?? Infinity);
  const first = Math.floor(size / 2) + 1;
  const session = model.createSession({ ...sessionOptions(args, info.contextLength), contextSize: size });
  const score = new Score();
  let textBytes = 0;
  for (let chunk = 0; chunk < chunks; chunk++) {
    const window = ids.slice(chunk * size, (chunk + 1) * size);
    if (tokenizer.spec.addBos) window[0] = tokenizer.spec.bosId!;
    await scoreWindow(session, window, first, info.vocabularySize, score, io.signal);
    for (const id of window.slice(first)) textBytes += tokenizer.tokenBytes(id, true).length;
    running(io, args, chunk + 1, chunks, score);
  }
  return { method: 'windows', chunks, contextSize: size, score, textBytes };
}

/**
 * Every document by itself: begin token, text, end token; everything after the begin token is scored. A document
 * longer than the context is scored in windows that overlap by half, every token once.
 */
async function byDocuments(model: Model, text: string, separator: string, args: Args, io: Io): Promise<Outcome> {
  if (separator === '') throw new UsageError('--documents needs a separator');
  const { tokenizer, info } = model;
  const { bosId, eosId } = tokenizer.spec;
  if (bosId === undefined) {
    throw new BitnetError(
      'bad-token',
      'the vocabulary has no begin-of-sequence token, which every document starts from',
      {
        where: info.name,
      },
    );
  }
  const documents = text
    .split(separator)
    .map((document) => document.replace(/^[\r\n]+|[\r\n]+$/g, ''))
    .filter((document) => document !== '')
    .slice(0, args.chunks);
  want(documents.length > 0, 'bad-argument', 'there is no document', () => ({ where: args.file! }));
  const session = model.createSession(sessionOptions(args, info.contextLength));
  const score = new Score();
  let textBytes = 0;
  for (const [index, document] of documents.entries()) {
    const ids = tokenizer.encode(document, { bos: true, eos: eosId !== undefined });
    await scoreLong(session, ids, info.vocabularySize, score, io.signal);
    textBytes += new TextEncoder().encode(document).length;
    running(io, args, index + 1, documents.length, score);
  }
  return { method: 'documents', chunks: documents.length, contextSize: session.contextSize, score, textBytes };
}

async function scoreLong(
  session: Session,
  ids: readonly number[],
  vocabulary: number,
  score: Score,
  signal: AbortSignal,
): Promise<void> {
  // The last token of a window is predicted and not evaluated: a window has one token more than the context.
  const size = session.contextSize;
  for (let done = 0; done < ids.length - 1; ) {
    const first = done === 0 ? 0 : Math.max(0, done - Math.floor(size / 2));
    const last = Math.min(ids.length - 1, first + size);
    await scoreWindow(session, ids.slice(first, last + 1), done - first + 1, vocabulary, score, signal);
    done = last;
  }
}

function running(io: Io, args: Args, done: number, total: number, score: Score): void {
  if (args.quiet) return;
  io.status(`${grouped(done)} of ${grouped(total)}  PPL = ${score.perplexity.toFixed(4)}`);
}

function asText({ method, chunks, score, textBytes }: Outcome): string {
  const what = plural(chunks, method === 'windows' ? 'window' : 'document');
  return (
    `Final estimate: PPL = ${score.perplexity.toFixed(4)} +/- ${score.error.toFixed(5)}\n` +
    `${(score.bits / textBytes).toFixed(4)} bits per byte (${plural(score.count, 'token')} for ` +
    `${grouped(textBytes)} bytes in ${what})\n`
  );
}

function asJson(model: Model, { method, chunks, contextSize, score, textBytes }: Outcome): Record<string, unknown> {
  return {
    model: { name: model.info.name, architecture: model.info.architecture, backend: model.backend },
    method,
    chunks,
    contextSize,
    tokens: score.count,
    bytes: textBytes,
    perplexity: score.perplexity,
    error: score.error,
    bitsPerToken: score.bits / score.count,
    bitsPerByte: score.bits / textBytes,
  };
}
