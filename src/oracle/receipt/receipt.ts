/**
 * A receipt: what was run, with what, and digests of what came out, so that anybody can run it again and say "same" or where not.
 *
 *     { format, version, kind,
 *       model        the file, by SHA-256 and length; the path is only where to look for it
 *       load         options of loading that can change a result; threads, kernels and batch size cannot
 *       session      context and types of its cache
 *       prompt       text and ids
 *       options      of sampling and stopping, defaults filled in, seed drawn
 *       output       ids, text, and for every generated token a digest of the logits it was drawn from
 *       environment  who ran it; compared by nobody, shown where something differs
 *     }
 *
 * The digest of a row is SHA-256 over its logits, all of the vocabulary, as little-endian f32 with one NaN; `rows` has its first
 * 64 bits. `sha256` is taken over the whole 32 bytes of each row's digest, one after the other: digests of digests, because
 * `crypto.subtle` cannot be fed in pieces and rows of a long generation do not fit into memory together.
 *
 * Nothing in it depends on the clock or the machine's speed: the same run gives the same bytes. Only `bench` adds what it measured.
 * @module
 */

import { numericsVersion } from '../../engine/numerics.ts';
import type { GenerateResult, Model, Session } from '../../engine/types.ts';
import { logProbability } from '../../sampling/softmax.ts';
import { littleEndianBytes } from '../npy.ts';

export const RECEIPT_FORMAT = 'bitnet-ts receipt';
export const RECEIPT_VERSION = 1;

/** Bytes of a model, over all shards one after the other; of a gzipped file those it unpacks to. */
export interface FileIdentity {
  readonly sha256: string;
  readonly bytes: number;
}

export interface ReceiptModel extends FileIdentity {
  /** As named when it was run; null for the model inside the package. */
  readonly path: string | null;
  readonly name: string;
  readonly architecture: string;
  /** Types of its ternary matrices, e.g. `["I2_S"]`. */
  readonly ternaryTypes: readonly string[];
  /** In which order their values lie, and how that is known; null where types tell. */
  readonly layout: string | null;
}

/** As asked for; null where it was left open. */
export interface ReceiptLoad {
  readonly pre: string | null;
  readonly embeddingType: string;
  readonly i2sLayout: string;
  readonly tiles: string | Readonly<Record<string, string>>;
  readonly allowDense: boolean;
  readonly activations: string;
  readonly saturateI16: boolean | string;
  readonly batchSize: number | null;
}

export interface ReceiptSession {
  readonly contextSize: number;
  readonly kType: 'f16' | 'f32';
  readonly vType: 'f16' | 'f32';
}

/** Every option that decides about tokens. */
export interface ReceiptOptions {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repeatPenalty: number;
  readonly repeatLastN: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly penalizeNewline: boolean;
  /** JSON has no infinity: `"-inf"` bans a token. */
  readonly logitBias: readonly (readonly [id: number, bias: number | '-inf'])[];
  readonly seed: number;
  /** null: until the model ends or the context is full. */
  readonly maxTokens: number | null;
  readonly stop: readonly string[];
  readonly ignoreEos: boolean;
}

/** Digests of rows of logits. */
export interface LogitsDigest {
  readonly sha256: string;
  /** 16 hex digits for each row. */
  readonly rows: readonly string[];
}

export interface ReceiptOutput {
  readonly tokens: readonly number[];
  /** Over the ids as little-endian u32. */
  readonly tokensSha256: string;
  readonly text: string;
  readonly stopReason: 'eos' | 'stop' | 'maxTokens' | 'contextFull';
  readonly stopText: string | null;
  /** Of the row that each token was drawn from, before anything of the sampler. */
  readonly logits: LogitsDigest;
  /** Natural logarithm of each token's probability under the model: says how far off other bits are. */
  readonly logprobs: readonly number[];
}

export interface ReceiptEnvironment {
  /** Of this package. */
  readonly version: string;
  readonly numericsVersion: number;
  /** `node 20.20.2`. */
  readonly runtime: string;
  /** `linux x64`. */
  readonly platform: string;
  readonly backend: string;
  readonly variant: string;
  readonly threads: number;
  /** `model.notes`: tables that were requantised, for instance. */
  readonly notes: readonly string[];
}

interface Head {
  readonly format: typeof RECEIPT_FORMAT;
  readonly version: typeof RECEIPT_VERSION;
  /** ISO 8601; only where asked for. */
  readonly time?: string;
  readonly model: ReceiptModel;
}

export interface RunReceipt extends Head {
  readonly kind: 'run';
  readonly load: ReceiptLoad;
  readonly session: ReceiptSession;
  readonly prompt: { readonly text: string | null; readonly special: boolean; readonly tokens: readonly number[] };
  readonly options: ReceiptOptions;
  readonly output: ReceiptOutput;
  readonly environment: ReceiptEnvironment;
}

/** The bits that a measured setting computes: logits after every one of these tokens. */
export interface BenchProof {
  readonly load: ReceiptLoad;
  readonly session: ReceiptSession;
  readonly tokens: readonly number[];
  readonly logits: LogitsDigest;
  readonly environment: ReceiptEnvironment;
}

export interface BenchReceipt extends Head {
  readonly kind: 'bench';
  readonly proofs: readonly BenchProof[];
  /** Rows of `bitnet bench -o json`; never compared. */
  readonly measurements: readonly unknown[];
}

export type Receipt = RunReceipt | BenchReceipt;

/** What a model does not know of itself. */
export interface ReceiptContext {
  readonly version: string;
  readonly runtime: string;
  readonly platform: string;
}

export interface RunToRecord extends ReceiptContext {
  readonly load: ReceiptLoad;
  readonly session: ReceiptSession;
  readonly model: Model;
  /** The session of the run, as the run left it. */
  readonly within: Session;
  readonly file: Omit<ReceiptModel, 'name' | 'architecture' | 'layout'>;
  readonly prompt: { readonly text: string | null; readonly special: boolean };
  /** Everything resolved; `seed` is that of the result. */
  readonly options: ReceiptOptions;
  readonly result: GenerateResult;
  readonly time?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The receipt of a finished run. The rows behind its tokens are computed again, all of the vocabulary (a run screens the greatest)
 * and many at a time, from the cache that the run left: that takes about as long as a prompt of that many tokens.
 */
export async function makeReceipt(run: RunToRecord): Promise<RunReceipt> {
  const { model, within, result, options, signal } = run;
  const { stopReason } = result;
  if (stopReason === 'cancelled') throw new Error('a cancelled run has no receipt');
  const promptTokens = within.tokens.slice(0, result.usage.promptTokens);
  const { logits, logprobs } = await rowsBehind(model, within, promptTokens, result.tokens, signal);
  return {
    format: RECEIPT_FORMAT,
    version: RECEIPT_VERSION,
    kind: 'run',
    ...(run.time === undefined ? {} : { time: run.time }),
    model: modelOf(model, run.file),
    load: run.load,
    session: run.session,
    prompt: { text: run.prompt.text, special: run.prompt.special, tokens: promptTokens },
    options,
    output: {
      tokens: result.tokens,
      tokensSha256: await tokensDigest(result.tokens),
      text: result.text,
      stopReason,
      stopText: result.stopText ?? null,
      logits,
      logprobs,
    },
    environment: environmentOf(model, run),
  };
}

export function modelOf(model: Model, file: RunToRecord['file']): ReceiptModel {
  const { name, architecture, layout } = model.info;
  const { path, sha256, bytes, ternaryTypes } = file;
  return { sha256, bytes, path, name, architecture, ternaryTypes, layout: layout ?? null };
}

export function environmentOf(model: Model, context: ReceiptContext): ReceiptEnvironment {
  const { name, variant, nThreads } = model.backend;
  const { version, runtime, platform } = context;
  return {
    version,
    numericsVersion,
    runtime,
    platform,
    backend: name,
    variant,
    threads: nThreads,
    notes: model.notes,
  };
}

export interface RowsBehind {
  readonly logits: LogitsDigest;
  readonly logprobs: readonly number[];
}

/** Digests and log-probabilities of `tokens`, which follow `prompt`. What the session has cached of the prompt is kept. */
export async function rowsBehind(
  model: Model,
  session: Session,
  prompt: readonly number[],
  tokens: readonly number[],
  signal?: AbortSignal,
): Promise<RowsBehind> {
  const logprobs: number[] = [];
  if (tokens.length === 0) return { logits: await digestRows(model, (async function* () {})()), logprobs };
  const cached = commonLength(session.tokens, prompt.slice(0, -1));
  session.rewind(cached);
  const start = prompt.slice(cached, -1);
  if (start.length > 0) await session.prefill(start, { top: 1, signal });
  const rows = session.logits([...prompt.slice(-1), ...tokens.slice(0, -1)], { signal });
  const logits = await digestRows(model, rows, (row) => {
    // Of the vocabulary only: a matrix may have more rows than there are tokens.
    const real = row.subarray(0, model.tokenizer.vocabSize);
    logprobs.push(logProbability(real, tokens[logprobs.length]));
  });
  return { logits, logprobs };
}

/** Digests of the logits after every one of `tokens`, from position 0. */
export async function logitsOf(
  model: Model,
  { session, tokens }: Pick<BenchProof, 'session' | 'tokens'>,
  signal?: AbortSignal,
): Promise<LogitsDigest> {
  const within = model.createSession(session);
  try {
    return await digestRows(model, within.logits(tokens, { signal }));
  } finally {
    await within.dispose();
  }
}

async function digestRows(
  model: Model,
  chunks: AsyncIterable<Float32Array>,
  onRow: (row: Float32Array) => void = () => {},
): Promise<LogitsDigest> {
  const { vocabularySize } = model.info;
  const digests: Uint8Array[] = [];
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; at += vocabularySize) {
      const row = chunk.subarray(at, at + vocabularySize);
      onRow(row);
      digests.push(await sha256(littleEndianBytes(row)));
    }
  }
  const all = new Uint8Array(32 * digests.length);
  for (const [i, digest] of digests.entries()) all.set(digest, 32 * i);
  return { sha256: hex(await sha256(all)), rows: digests.map((digest) => hex(digest.subarray(0, 8))) };
}

/** SHA-256 over ids as little-endian u32. */
export async function tokensDigest(tokens: readonly number[]): Promise<string> {
  const bytes = new DataView(new ArrayBuffer(4 * tokens.length));
  for (const [i, id] of tokens.entries()) bytes.setUint32(4 * i, id, true);
  return hex(await sha256(new Uint8Array(bytes.buffer)));
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function commonLength(a: readonly number[], b: readonly number[]): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}

/** The bytes of a receipt: JSON with lists of numbers and digests on one line each. */
export function receiptText(receipt: Receipt): string {
  return `${indented(receipt, '')}\n`;
}

function indented(value: unknown, margin: string): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const inner = `${margin}  `;
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((item) => indented(item, inner))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${indented(item, inner)}`);
  const [open, close] = isList ? '[]' : '{}';
  const isFlat = isList && value.every((item) => typeof item !== 'object' || item === null);
  if (items.length === 0 || isFlat) return `${open}${items.join(', ')}${close}`;
  return `${open}\n${inner}${items.join(`,\n${inner}`)}\n${margin}${close}`;
}
