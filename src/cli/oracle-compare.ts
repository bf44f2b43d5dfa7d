/**
 * `bitnet oracle compare`: where two computations of the same thing part first, and what mistake that looks like.
 * @module
 */

import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { numericsVersion } from '../engine/numerics.ts';
import type { Model } from '../engine/types.ts';
import { openGguf } from '../formats/gguf/reader.ts';
import { isHubReference } from '../hub/reference.ts';
import { compareTraces, compareWithModel } from '../oracle/compare/compare.ts';
import { liveSource } from '../oracle/compare/live.ts';
import { reportText } from '../oracle/compare/report.ts';
import type { CompareOptions, Comparison } from '../oracle/compare/types.ts';
import { openTrace, openTraceFile } from '../oracle/dump/open.ts';
import type { TraceSource } from '../oracle/source.ts';
import { openFolder } from '../platform/folder-node.ts';
import { openFileSource } from '../platform/source-node.ts';
import { command } from './command.ts';
import { fileHash } from './file-hash.ts';
import { UsageError, type Values } from './flags.ts';
import { jsonFlag, quietFlag, runtimeFlags, sessionOptions } from './flags-common.ts';
import { percent } from './format.ts';
import type { Io } from './io.ts';
import { planLine } from './memory-plan.ts';
import { namesModel, openModel, openSource } from './open.ts';
import { inputFlags, inputOf } from './oracle-input.ts';

const B = 'Second run';

const flags = {
  ...runtimeFlags,
  ...inputFlags,
  'backend-b': {
    type: 'string',
    choices: runtimeFlags.backend.choices,
    group: B,
    describe: 'as --backend, of B [that of A]',
  },
  'device-b': { type: 'integer', min: 0, group: B, describe: 'as --device, of B [that of A]' },
  'kernels-b': {
    type: 'string',
    choices: runtimeFlags.kernels.choices,
    group: B,
    describe: 'as --kernels, of B [those of A]',
  },
  'threads-b': { type: 'integer', min: 1, max: 256, group: B, describe: 'as --threads, of B [those of A]' },
  'cache-type-b': { type: 'string', choices: ['f32', 'f16'], group: B, describe: 'type of keys and values of B' },
  'i2s-layout-b': { ...runtimeFlags['i2s-layout'], group: B, describe: 'as --i2s-layout, of B [that of A]' },
  exact: {
    type: 'boolean',
    group: 'Comparison',
    describe: 'every bit must be the same; default is what each op allows',
  },
  'any-file': {
    type: 'boolean',
    group: 'Comparison',
    describe: 'compare although a dump is of another model file, e.g. another conversion',
  },
  ...jsonFlag,
  ...quietFlag,
} as const;

type Args = Values<typeof flags>;

/** What a word names. */
type Word = { readonly kind: 'model' | 'dump'; readonly path: string };

export const oracleCompare = command({
  flags,
  words: { shown: '[A] [B]', min: 0, max: 2 },
  examples: [
    ['bitnet oracle compare -m model.gguf dump.npz', "a dump, step by step on the dump's own inputs"],
    ['bitnet oracle compare -m model.gguf --kernels-b simd -p "Hello"', 'two builds of the kernels'],
    ['bitnet oracle compare -m model.gguf --backend-b cuda -p "Hello"', 'a GPU against what runs here'],
    ['bitnet oracle compare a.gguf b.gguf -p "Hello"', 'two files of one model'],
    ['bitnet oracle compare a.npz b.npz', 'two dumps, number by number'],
    ['bitnet oracle compare -m model.gguf -p "Hello" native.log', 'what llama-eval-callback printed'],
  ],
  async run(args, io) {
    const words = await Promise.all(args.words.map(wordOf));
    const comparison = await compared(args, words, io);
    io.status('');
    await io.write(args.json ? `${asJson(comparison)}\n` : `${reportText(comparison)}\n`);
    return comparison.divergence === undefined ? 0 : 1;
  },
});

async function compared(args: Args, words: readonly Word[], io: Io): Promise<Comparison> {
  const dumps = words.filter(({ kind }) => kind === 'dump');
  const models = words.filter(({ kind }) => kind === 'model');
  if (dumps.length === 2) return twoDumps(args, dumps[0].path, dumps[1].path, io);
  const first = models.length === 0 ? args : { ...args, model: models[0].path };
  if (dumps.length === 1) return dumpAndModel(first, dumps[0].path, io);
  const isSame = models.length < 2 && (models.length === 0 || !namesModel(args));
  if (isSame && !hasSecond(args)) {
    throw new UsageError(
      'nothing to compare with: name two of dumps and models, or say what is other about B (--backend-b, --kernels-b)',
    );
  }
  if (models.length === 1 && namesModel(args)) return twoRuns(args, models[0].path, io);
  return twoRuns(first, models[1]?.path, io);
}

/** A folder, an archive or a log; or what `-m` takes. */
async function wordOf(path: string): Promise<Word> {
  const isRemote = isHubReference(path) || /^https?:/.test(path);
  const isFolder = !isRemote && (await stat(path).catch(() => undefined))?.isDirectory() === true;
  return { kind: isFolder || /\.(npz|log|txt)$/i.test(path) ? 'dump' : 'model', path };
}

function hasSecond(args: Args): boolean {
  const own = ['backend-b', 'device-b', 'kernels-b', 'threads-b', 'cache-type-b', 'i2s-layout-b'] as const;
  return own.some((name) => args[name] !== undefined);
}

async function twoDumps(args: Args, a: string, b: string, io: Io): Promise<Comparison> {
  const [first, second] = [await openDump(a), await openDump(b)];
  try {
    return await compareTraces(first, second, options(args, io));
  } finally {
    await Promise.all([first.close(), second.close()]);
  }
}

async function dumpAndModel(args: Args, path: string, io: Io): Promise<Comparison> {
  if (hasSecond(args)) throw new UsageError('a dump is not run: flags for the run of B do not go with it');
  const given = args.tokens !== undefined || args.prompt !== undefined || args.file !== undefined;
  const idsOf = given ? await inputOf(args) : undefined;
  const told = await openDump(path);
  const modelSha256 = told.origin.modelSha256 === undefined ? undefined : await modelHash(args, io);
  await told.close();
  const model = await openModel(args, io);
  const dump = await openDump(path, model.info.architecture);
  try {
    const { kType, vType } = sessionOptions(args, model.info.contextLength);
    const { origin } = dump;
    return await compareWithModel(model, dump, {
      ...options(args, io),
      tokens: idsOf?.(model),
      modelSha256,
      sameNumerics: origin.numericsVersion === numericsVersion,
      session: { kType: kType ?? cacheType(origin.kv?.k), vType: vType ?? cacheType(origin.kv?.v) },
    });
  } finally {
    await dump.close();
    await model.dispose();
  }
}

async function twoRuns(args: Args, other: string | undefined, io: Io): Promise<Comparison> {
  const idsOf = await inputOf(args);
  const a = await openModel(firstArgs(args), io);
  let b: Model | undefined;
  let run: TraceSource | undefined;
  try {
    b = await openModel(secondArgs(args, other), io);
    // Of the second run of one file nothing else is new.
    const plan = args.quiet || other !== undefined ? undefined : planLine(b);
    if (plan !== undefined) io.note(plan);
    const tokens = idsOf(a);
    const { kType, vType } = sessionOptions(args, a.info.contextLength);
    const session = { kType, vType };
    const type = args['cache-type-b'];
    run = liveSource(
      b,
      tokens,
      other ?? args['hf-repo'] ?? args['model-url'] ?? args.model ?? b.info.name,
      type === undefined ? session : { kType: type, vType: type },
    );
    return await compareWithModel(a, run, { ...options(args, io), tokens, session, sameNumerics: true });
  } finally {
    await run?.close();
    await b?.dispose();
    await a.dispose();
  }
}

/**
 * What A is opened with. A flag that only one backend has is meant for the run that has this backend: `--device 1` of the two runs
 * `--backend ts --backend-b cuda` for B. Where neither has it, it stays with A, which refuses it.
 */
function firstArgs(args: Args): Args {
  const [a, b] = [args.backend, args['backend-b'] ?? args.backend];
  return {
    ...args,
    device: hasDevices(a) || !hasDevices(b) ? args.device : undefined,
    kernels: hasKernels(a) || !hasKernels(b) ? args.kernels : undefined,
  };
}

function hasDevices(backend: Args['backend']): boolean {
  return backend === 'cuda';
}

/** And threads. */
function hasKernels(backend: Args['backend']): boolean {
  return backend !== 'ts' && backend !== 'cuda';
}

/** What is not said of B is as for A. */
function secondArgs(args: Args, other: string | undefined): Args {
  const backend = args['backend-b'] ?? args.backend;
  return {
    ...args,
    quiet: args.quiet || other === undefined,
    ...(other === undefined ? {} : { model: other, 'model-url': undefined, 'hf-repo': undefined }),
    backend,
    device: args['device-b'] ?? (hasDevices(backend) ? args.device : undefined),
    kernels: args['kernels-b'] ?? (hasKernels(backend) ? args.kernels : undefined),
    threads: args['threads-b'] ?? (hasKernels(backend) ? args.threads : undefined),
    'i2s-layout': args['i2s-layout-b'] ?? args['i2s-layout'],
  };
}

function options(args: Args, io: Io): CompareOptions {
  return {
    label: args['hf-repo'] ?? args['model-url'] ?? args.model,
    exact: args.exact,
    anyFile: args['any-file'],
    signal: io.signal,
    onProgress: ({ name, position, positions }) => {
      if (!args.quiet) io.status(`${percent(position, positions)}  ${name}`);
    },
  };
}

function cacheType(type: string | undefined): 'f16' | 'f32' | undefined {
  return type === 'f16' || type === 'f32' ? type : undefined;
}

/** `architecture` is for names of foreign dumps. Dumps of ours are held against their digests first. */
async function openDump(path: string, architecture?: string): Promise<TraceSource> {
  const isFolder = (await stat(path).catch(() => undefined))?.isDirectory() === true;
  const files = isFolder ? await openFolder(path) : await openFileSource(path);
  try {
    const source = await ('names' in files ? openTrace(files, architecture) : openTraceFile(files, architecture));
    await source.verify(() => createHash('sha256'));
    return source;
  } catch (error) {
    await files.close();
    throw error;
  }
}

async function modelHash(args: Args, io: Io): Promise<string> {
  const source = await openSource(args, io);
  try {
    return await fileHash(await openGguf(source), io);
  } finally {
    await source.close();
  }
}

/** JSON has no NaN and no infinities: they become words. */
function asJson(comparison: Comparison): string {
  const plain = (_: string, value: unknown) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value;
  return JSON.stringify(comparison, plain, 2);
}
