/**
 * `--receipt FILE` of `run` and `bench`: what the command line adds to `oracle/receipt/receipt.ts`, and the writing.
 * @module
 */

import { stat } from 'node:fs/promises';
import type { GenerateOptions, Model } from '../engine/types.ts';
import { BitnetError } from '../errors.ts';
import { type ByteSink, type GgufFile, openGguf } from '../formats/index.ts';
import { projectionsOf } from '../model/forms.ts';
import { modelTensors } from '../model/plan.ts';
import {
  type BenchProof,
  type BenchReceipt,
  environmentOf,
  logitsOf,
  RECEIPT_FORMAT,
  RECEIPT_VERSION,
  type Receipt,
  type ReceiptLoad,
  type ReceiptModel,
  type ReceiptOptions,
  receiptText,
} from '../oracle/receipt/receipt.ts';
import { createFileSink } from '../platform/source-node.ts';
import { resolveSampling } from '../sampling/chain.ts';
import type { BenchRow } from './bench-rows.ts';
import { fileHash } from './file-hash.ts';
import type { Flags, Values } from './flags.ts';
import { layoutOptions, type modelFlag, type quietFlag, type runtimeFlags } from './flags-common.ts';
import type { Io } from './io.ts';
import { describeMachine } from './machine.ts';
import { openSource, TABLE_TYPES } from './open.ts';

export const receiptFlags = {
  receipt: {
    type: 'string',
    value: 'FILE.json',
    group: 'Output',
    describe: 'write what was run, with what, and digests of tokens and logits, for bitnet replay',
  },
  'receipt-time': { type: 'boolean', group: 'Output', describe: 'put the time into the receipt as well' },
} as const satisfies Flags;

type ReceiptArgs = Values<typeof receiptFlags>;
type ModelArgs = Values<typeof modelFlag> & Partial<Values<typeof quietFlag>>;

/** Of the file that a receipt is to be written for. */
export type FileFacts = Omit<ReceiptModel, 'name' | 'architecture' | 'layout'>;

/** Where a receipt goes, found out to be writable before minutes of work, and the file it will speak of. */
export class ReceiptWriter {
  readonly file: FileFacts;
  /** ISO 8601, if it was asked for. */
  readonly time: string | undefined;
  readonly #sink: ByteSink;

  constructor(sink: ByteSink, file: FileFacts, time: string | undefined) {
    this.#sink = sink;
    this.file = file;
    this.time = time;
  }

  /** Undefined where no receipt is wanted. Reads the whole model once, which takes a second or two for each GB. */
  static async open(args: ReceiptArgs & ModelArgs, io: Io): Promise<ReceiptWriter | undefined> {
    const { receipt } = args;
    if (receipt === undefined) return undefined;
    await refuseModelItself(receipt, args.model);
    const sink = await createFileSink(receipt);
    try {
      const time = args['receipt-time'] ? new Date().toISOString() : undefined;
      return new ReceiptWriter(sink, await identify(args, io), time);
    } catch (error) {
      await sink.abort();
      throw error;
    }
  }

  async write(receipt: Receipt): Promise<void> {
    await this.#sink.write(new TextEncoder().encode(receiptText(receipt)));
    await this.#sink.close();
  }

  /** Leaves nothing behind; does nothing once written. */
  async abort(): Promise<void> {
    await this.#sink.abort();
  }
}

/** A receipt replaces a file of its name: it must not be the model. */
async function refuseModelItself(receipt: string, model: string | undefined): Promise<void> {
  const [a, b] = await Promise.all([receipt, model ?? receipt].map((path) => stat(path).catch(() => undefined)));
  const isModel = model !== undefined && a !== undefined && b !== undefined && a.dev === b.dev && a.ino === b.ino;
  if (!isModel) return;
  throw new BitnetError('bad-argument', 'is the model itself', {
    where: `--receipt ${receipt}`,
    expected: 'another file',
  });
}

async function identify(args: ModelArgs, io: Io): Promise<FileFacts> {
  const source = await openSource(args, io);
  try {
    return await factsOf(await openGguf(source), pathOf(args), io);
  } finally {
    await source.close();
  }
}

export async function factsOf(gguf: GgufFile, path: string | null, io: Io): Promise<FileFacts> {
  const types = new Set(projectionsOf(modelTensors(gguf)).map(({ dtype }) => dtype.name));
  return { sha256: await fileHash(gguf, io), bytes: gguf.byteLength, path, ternaryTypes: [...types].sort() };
}

/** As the user named the model; null for the one in the package. What follows `?` in a URL may be a secret. */
function pathOf(args: ModelArgs): string | null {
  const { model, 'model-url': url, 'hf-repo': repo, 'hf-file': file } = args;
  const inRepo = file === undefined ? '' : ` ${file}`;
  if (repo !== undefined) return `hf:${repo.replace(/^hf:/, '')}${inRepo}`;
  const named = url ?? model;
  if (named === undefined) return null;
  if (!/^https?:/i.test(named)) return named + inRepo;
  const { origin, pathname } = new URL(named);
  return origin + pathname;
}

type LoadArgs = Partial<
  Pick<
    Values<typeof runtimeFlags>,
    'pre' | 'embd-type' | 'i2s-layout' | 'tl-tiles' | 'allow-dense' | 'activations' | 'saturate-i16'
  >
>;

/** Loading as asked for. Whatever flag can change a result belongs here, and into `ReceiptLoad`. */
export function loadOf(args: LoadArgs, batchSize: number | undefined): ReceiptLoad {
  const { i2sLayout = 'auto', tiles = 'auto' } = layoutOptions({
    'i2s-layout': args['i2s-layout'],
    'tl-tiles': args['tl-tiles'],
  });
  return {
    pre: args.pre ?? null,
    embeddingType: TABLE_TYPES[args['embd-type'] ?? 'auto'],
    i2sLayout,
    tiles,
    allowDense: args['allow-dense'] ?? false,
    activations: args.activations ?? 'int8',
    saturateI16: args['saturate-i16'] ?? false,
    batchSize: batchSize ?? null,
  };
}

/** Who ran it. */
export function machineOf(): { readonly version: string; readonly runtime: string; readonly platform: string } {
  const { version, runtime, os } = describeMachine();
  return { version, runtime, platform: os };
}

/** Options of a generation as a receipt has them. */
export function receiptOptions(options: GenerateOptions): ReceiptOptions {
  const { maxTokens, stop = [], ignoreEos = false } = options;
  const { logitBias, ...sampling } = resolveSampling(options);
  return {
    ...sampling,
    logitBias: logitBias.map(([id, bias]) => [id, bias === -Infinity ? '-inf' : bias]),
    maxTokens: maxTokens === undefined || maxTokens === Infinity ? null : maxTokens,
    stop: typeof stop === 'string' ? [stop] : stop,
    ignoreEos,
  };
}

/** So many tokens show the bits of a measured setting: a batch of several rows, and attention over some positions. */
const PROOF_TOKENS = 32;

/** What a setting that was measured computes, on random tokens as it was measured with. */
export async function proofOf(
  model: Model,
  load: ReceiptLoad,
  cache: Pick<BenchProof['session'], 'kType' | 'vType'>,
  random: () => number,
  signal: AbortSignal,
): Promise<BenchProof> {
  const { contextLength, vocabularySize } = model.info;
  const vocabulary = Math.min(vocabularySize, model.tokenizer.vocabSize);
  const tokens = Array.from({ length: Math.min(PROOF_TOKENS, contextLength) }, () => random() % vocabulary);
  const session = { contextSize: tokens.length, ...cache };
  const logits = await logitsOf(model, { session, tokens }, signal);
  return { load, session, tokens, logits, environment: environmentOf(model, machineOf()) };
}

export function benchReceipt(
  { file, time }: ReceiptWriter,
  model: Pick<ReceiptModel, 'name' | 'architecture' | 'layout'>,
  proofs: readonly BenchProof[],
  rows: readonly BenchRow[],
): BenchReceipt {
  const { name, architecture, layout } = model;
  const { path, sha256, bytes, ternaryTypes } = file;
  return {
    format: RECEIPT_FORMAT,
    version: RECEIPT_VERSION,
    kind: 'bench',
    ...(time === undefined ? {} : { time }),
    model: { sha256, bytes, path, name, architecture, ternaryTypes, layout },
    proofs,
    measurements: time === undefined ? rows.map(({ test_time: _, ...row }) => row) : rows,
  };
}
