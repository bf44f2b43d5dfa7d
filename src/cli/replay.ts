/**
 * `bitnet replay`: runs a receipt again and says "same", or where not.
 * @module
 */

import { open, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { LoadOptions, Model } from '../engine/types.ts';
import { BitnetError, want } from '../errors.ts';
import { type ByteSource, openGguf } from '../formats/index.ts';
import { isHubReference } from '../hub/reference.ts';
import { MAX_RECEIPT_BYTES, parseReceipt } from '../oracle/receipt/parse.ts';
import { environmentOf, type Receipt, type ReceiptLoad, type ReceiptSession } from '../oracle/receipt/receipt.ts';
import {
  type Change,
  changesOf,
  type Difference,
  type Replay,
  replayProof,
  replayRun,
} from '../oracle/receipt/replay.ts';
import { ioError } from '../platform/source-node.ts';
import { command } from './command.ts';
import type { Values } from './flags.ts';
import { jsonFlag, modelFlag, quietFlag, runtimeFlags } from './flags-common.ts';
import { plural } from './format.ts';
import type { Io } from './io.ts';
import { planLine } from './memory-plan.ts';
import { namesModel, openSource } from './open.ts';
import { type FileFacts, factsOf, machineOf } from './receipt.ts';

// Without BITNET_MODEL: the receipt names its model.
const { env: _, ...model } = modelFlag.model;

const flags = {
  ...modelFlag,
  model: { ...model, describe: 'the model, if it is no longer where the receipt says; its SHA-256 must be the same' },
  backend: runtimeFlags.backend,
  device: runtimeFlags.device,
  threads: runtimeFlags.threads,
  kernels: runtimeFlags.kernels,
  'no-wide-vectors': runtimeFlags['no-wide-vectors'],
  'batch-size': runtimeFlags['batch-size'],
  force: { type: 'boolean', describe: 'run another model than that of the receipt, to see what it does' },
  ...jsonFlag,
  ...quietFlag,
} as const;

type Args = Values<typeof flags>;

export const replay = command({
  word: { name: 'FILE.json', describe: 'written by --receipt', required: true },
  flags,
  examples: [
    ['bitnet replay run.json', 'with the model where it was'],
    [
      'bitnet replay run.json -m copy.gguf -t 4 --kernels simd',
      'elsewhere, with other threads and kernels: the same bits',
    ],
  ],
  async run({ word, ...args }, io) {
    const path = word!;
    const receipt = await parseReceipt(await readReceipt(path), path);
    const source = await openModelOf(receipt, path, args, io);
    try {
      const file = await checkFile(source, receipt, args, io);
      const outcome =
        receipt.kind === 'run' ? runAgain(receipt, source, file, args, io) : prove(receipt, source, file, args, io);
      return await tell(await outcome, receipt, args, io);
    } finally {
      io.status('');
      await source.close();
    }
  },
});

/** A file's text, of which no more is read than a receipt can have. */
async function readReceipt(path: string): Promise<string> {
  const read = async (): Promise<Uint8Array> => {
    const handle = await open(path, 'r');
    try {
      const info = await handle.stat();
      want(info.isFile(), 'io', 'is not a regular file', () => ({ where: path }));
      want(info.size <= MAX_RECEIPT_BYTES, 'limit-exceeded', 'too long for a receipt', () => ({
        where: path,
        expected: `at most ${MAX_RECEIPT_BYTES} bytes`,
        got: `${info.size}`,
      }));
      return await handle.readFile();
    } finally {
      await handle.close();
    }
  };
  let bytes: Uint8Array;
  try {
    bytes = await read();
  } catch (error) {
    throw error instanceof BitnetError ? error : ioError(path, 'cannot read', error);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new BitnetError('bad-container', 'not UTF-8 text', { where: path }, error);
  }
}

/**
 * The bytes that `-m` names, or those at the path of the receipt, or beside the receipt under the same name. A receipt cannot make
 * this program talk to a server: what is not a local file, the user has to name.
 */
async function openModelOf({ model }: Receipt, path: string, args: Args, io: Io): Promise<ByteSource> {
  const open = (named: string | undefined) => openSource({ ...args, model: named }, io);
  if (namesModel(args)) return open(args.model);
  if (model.path === null) return open(undefined);
  const isElsewhere = /^[a-z][a-z0-9+.-]+:/i.test(model.path) || isHubReference(model.path);
  if (!isElsewhere) {
    for (const candidate of [model.path, join(dirname(path), basename(model.path))]) {
      if ((await stat(candidate).catch(() => undefined))?.isFile()) return open(candidate);
    }
  }
  const what = isElsewhere ? 'a receipt does not open addresses by itself' : 'the model of the receipt is not here';
  throw new BitnetError('io', what, {
    where: JSON.stringify(model.path),
    hint: `give the file with sha256 ${model.sha256} by -m, -hf or -mu`,
  });
}

/** Before anything is loaded. */
async function checkFile(source: ByteSource, { model }: Receipt, args: Args, io: Io): Promise<FileFacts> {
  const gguf = await openGguf(source);
  const refuse = (expected: string, got: string): void => {
    if (args.force) return;
    throw new BitnetError('bad-argument', 'not the model of the receipt', {
      where: source.label,
      expected,
      got,
      hint: '--force runs it all the same',
    });
  };
  // Told by the length, another file need not be read.
  if (gguf.byteLength !== model.bytes) refuse(`${model.bytes} bytes`, `${gguf.byteLength}`);
  const file = await factsOf(gguf, null, io);
  if (file.sha256 !== model.sha256) refuse(`sha256 ${model.sha256}`, file.sha256);
  return file;
}

async function load(
  source: ByteSource,
  asked: ReceiptLoad,
  session: ReceiptSession,
  args: Args,
  io: Io,
): Promise<Model> {
  const { backend, device, threads, kernels } = args;
  const options: LoadOptions = {
    backend,
    device,
    threads,
    kernels,
    wideVectors: !args['no-wide-vectors'],
    pre: asked.pre ?? undefined,
    i2sLayout: asked.i2sLayout as LoadOptions['i2sLayout'],
    tiles: asked.tiles as LoadOptions['tiles'],
    allowDense: asked.allowDense,
    activations: asked.activations as LoadOptions['activations'],
    saturateI16: asked.saturateI16 as LoadOptions['saturateI16'],
    embeddingType: asked.embeddingType as LoadOptions['embeddingType'],
    // Never changes a result, so the receipt's is not imposed on this machine.
    batchSize: args['batch-size'],
    planFor: session,
    signal: io.signal,
  };
  if (!args.quiet) io.status('loading');
  const { loadModel } = await import('../index.ts');
  const loaded = await loadModel(source, options);
  const plan = args.quiet ? undefined : planLine(loaded);
  if (plan !== undefined) io.note(plan);
  return loaded;
}

type Outcome = Replay & { readonly unit: 'token' | 'row' };

async function runAgain(
  receipt: Receipt & { readonly kind: 'run' },
  source: ByteSource,
  file: FileFacts,
  args: Args,
  io: Io,
): Promise<Outcome> {
  const model = await load(source, receipt.load, receipt.session, args, io);
  try {
    const environment = environmentOf(model, machineOf());
    const onProgress = (n: number) => {
      if (!args.quiet) io.status(`${n} of ${plural(receipt.output.tokens.length, 'token')}`);
    };
    return {
      ...(await replayRun(model, receipt, { file, environment, onProgress, signal: io.signal })),
      unit: 'token',
    };
  } finally {
    await model.dispose();
  }
}

/** What was measured is not measured again: the bits are what has to be the same. */
async function prove(
  receipt: Receipt & { readonly kind: 'bench' },
  source: ByteSource,
  file: FileFacts,
  args: Args,
  io: Io,
): Promise<Outcome> {
  const differences: Difference[] = [];
  let changes: readonly Change[] = [];
  let compared = 0;
  // Proofs of several thread counts are of one model, loaded once.
  let loaded: { readonly as: string; readonly model: Model } | undefined;
  try {
    for (const [i, proof] of receipt.proofs.entries()) {
      const as = JSON.stringify({ ...proof.load, batchSize: null });
      if (loaded?.as !== as) {
        await loaded?.model.dispose();
        loaded = undefined;
        loaded = { as, model: await load(source, proof.load, proof.session, args, io) };
      }
      const { model } = loaded;
      const found = await replayProof(model, proof, io.signal);
      differences.push(...found.map((one) => ({ ...one, note: `$.proofs[${i}]; ${one.note ?? ''}` })));
      compared += proof.tokens.length;
      if (i > 0) continue;
      const environment = environmentOf(model, machineOf());
      changes = changesOf(receipt.model, proof.environment, { file, environment });
    }
  } finally {
    await loaded?.model.dispose();
  }
  return { same: differences.length === 0, compared, differences, changes, unit: 'row' };
}

async function tell(outcome: Outcome, receipt: Receipt, args: Args, io: Io): Promise<number> {
  const { same, compared, differences, changes, unit } = outcome;
  io.status('');
  if (args.json) {
    const { unit: _, ...document } = outcome;
    await io.write(`${JSON.stringify({ kind: receipt.kind, ...document }, null, 2)}\n`);
    return same ? 0 : 1;
  }
  const lines: string[] = [];
  if (same) {
    const what =
      receipt.kind === 'run' ? `${plural(compared, unit)} and their logits` : `${plural(compared, unit)} of logits`;
    lines.push(`same: ${what}, bit for bit`);
    if (receipt.kind === 'bench') lines.push('(measurements are not compared)');
  } else {
    lines.push(`differs, ${plural(compared, unit)} compared`);
    for (const { what, position, expected, got, note } of differences) {
      const at = position === undefined ? what : `${what} ${position}`;
      lines.push(`  ${at}: expected ${expected}, got ${got}${note === undefined ? '' : ` (${note})`}`);
    }
  }
  // Where it is the same, what differed around it is what makes it worth knowing.
  for (const { what, before, now } of changes) lines.push(`  ${what}: ${shown(before)} then, ${shown(now)} now`);
  if (!same && changes.length === 0) lines.push('  nothing in the environment differs');
  if (!args.quiet || !same) await io.write(`${lines.join('\n')}\n`);
  return same ? 0 : 1;
}

/** A receipt may hold what would command a terminal. */
function shown(text: string): string {
  return text === '' ? 'none' : JSON.stringify(text).slice(1, -1);
}
