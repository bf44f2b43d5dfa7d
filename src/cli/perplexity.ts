/**
 * `bitnet perplexity`: how well a model predicts a text, how far it is from another model, how well it solves tasks; with
 * the flags and the conventions of llama-perplexity.
 * @module
 */

import { command } from './command.ts';
import { UsageError, type Values } from './flags.ts';
import { jsonFlag, quietFlag, runtimeFlags } from './flags-common.ts';
import { openModel, readBytesFile } from './open.ts';
import { measured } from './quality-methods.ts';
import { asJson, asText } from './quality-report.ts';

const TEXT = 'Text';
const TASKS = 'Tasks';

export const perplexityFlags = {
  ...runtimeFlags,
  'ctx-size': {
    ...runtimeFlags['ctx-size'],
    min: 3,
    describe: 'tokens in a window [512; of the base; with --documents the model decides; for tasks the longest]',
  },
  file: {
    type: 'string',
    also: ['-f', '-bf', '--binary-file'],
    value: 'PATH',
    group: TEXT,
    describe: 'the text, or the tasks',
  },
  chunks: {
    type: 'integer',
    min: -1,
    group: TEXT,
    describe: 'windows, documents or passages to score; -1 is all [-1]',
  },
  documents: {
    type: 'string',
    value: 'SEPARATOR',
    group: TEXT,
    describe: 'score every document whole, from its first token to its end; e.g. "<|endoftext|>"',
  },
  'stride-none': { type: 'boolean', hidden: true, group: TEXT, describe: 'windows do not overlap; always so' },
  'ppl-stride': { type: 'integer', hidden: true, group: TEXT, describe: 'only 0: windows do not overlap' },
  'kl-divergence-base': {
    type: 'string',
    also: ['--save-all-logits'],
    value: 'PATH',
    group: 'Divergence',
    describe: "llama.cpp's file of log-probabilities: to write, or to compare with",
  },
  'kl-divergence': {
    type: 'boolean',
    group: 'Divergence',
    describe: 'compare with the base: KL divergence, same most likely token; needs no -f, but checks one',
  },
  hellaswag: { type: 'boolean', group: TASKS, describe: 'HellaSwag: six lines a task' },
  'hellaswag-tasks': { type: 'integer', min: 1, group: TASKS, describe: 'how many, drawn as llama.cpp draws [400]' },
  winogrande: { type: 'boolean', group: TASKS, describe: 'Winogrande: CSV of index, sentence, two choices, answer' },
  'winogrande-tasks': { type: 'integer', min: 0, group: TASKS, describe: 'how many, drawn; 0 is all [0]' },
  'multiple-choice': { type: 'boolean', group: TASKS, describe: "ARC, MMLU, TruthfulQA as llama.cpp's binary file" },
  'multiple-choice-tasks': { type: 'integer', min: 0, group: TASKS, describe: 'how many, drawn; 0 is all [0]' },
  lambada: { type: 'boolean', group: TASKS, describe: 'LAMBADA: {"text": ...} a line, the last word is guessed' },
  state: {
    type: 'string',
    value: 'PATH',
    group: 'Output',
    describe: 'keep how far it is in this file; the same command goes on from there, to the same bits',
  },
  ...jsonFlag,
  ...quietFlag,
} as const;

export type PerplexityArgs = Values<typeof perplexityFlags>;

export const perplexity = command({
  flags: perplexityFlags,
  examples: [
    ['bitnet perplexity -m model.gguf -f wiki.test.raw', 'comparable with llama-perplexity'],
    ['bitnet perplexity -f stories.txt --documents "<|endoftext|>"', 'every story on its own'],
    ['bitnet perplexity -m f16.gguf -f wiki.test.raw --kl-divergence-base f16.kld', 'save what a model predicts'],
    ['bitnet perplexity -m q.gguf --kl-divergence-base f16.kld --kl-divergence', 'compare another with it'],
    ['bitnet perplexity -m model.gguf -f hellaswag_val_full.txt --hellaswag --state hs.json', 'go on after Ctrl-C'],
  ],
  async run(args, io) {
    check(args);
    const file = args.file === undefined ? undefined : await readBytesFile(args.file);
    const model = await openModel(args, io);
    try {
      const outcome = await measured(model, file, args, io);
      await io.write(args.json ? `${JSON.stringify(asJson(model, outcome), null, 2)}\n` : asText(outcome));
      return 0;
    } finally {
      await model.dispose();
    }
  },
});

/** Flags that exclude or need one another. */
function check(args: PerplexityArgs): void {
  const methods = [
    args.documents !== undefined && '--documents',
    args['kl-divergence'] && '--kl-divergence',
    args.hellaswag && '--hellaswag',
    args.winogrande && '--winogrande',
    args['multiple-choice'] && '--multiple-choice',
    args.lambada && '--lambada',
  ].filter((name) => name !== false);
  if (methods.length > 1) throw new UsageError(`${methods.join(' and ')} exclude each other`);
  const [method] = methods;
  const base = args['kl-divergence-base'];
  if (method === '--kl-divergence') {
    if (base === undefined) throw new UsageError('--kl-divergence needs --kl-divergence-base');
  } else {
    if (args.file === undefined) throw new UsageError('-f is missing');
    if (base !== undefined && method !== undefined)
      throw new UsageError(`${method} and --kl-divergence-base exclude each other`);
  }
  for (const task of ['hellaswag', 'winogrande', 'multiple-choice'] as const) {
    if (args[`${task}-tasks`] !== undefined && !args[task]) throw new UsageError(`--${task}-tasks needs --${task}`);
    if (args.chunks !== undefined && args[task]) throw new UsageError(`--${task} takes --${task}-tasks, not --chunks`);
  }
  if (args.chunks === 0) throw new UsageError('--chunks takes an integer of at least 1, or -1 for all; got "0"');
  if ((args['ppl-stride'] ?? 0) > 0) {
    // There the windows are longer than -c by half the stride, and further by as much as the batch is.
    throw new UsageError('--ppl-stride is not supported: in llama.cpp its result depends on the batch size');
  }
  if (args.documents === '') throw new UsageError('--documents needs a separator');
}
