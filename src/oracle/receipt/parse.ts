/**
 * Reading receipts of strangers. Everything is checked before anything is used: types and ranges by JSON path, sizes, and what one
 * part says of another. A receipt only ever chooses among options; nothing of it is run, and no address in it is opened by itself.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import { JsonAt } from '../json-path.ts';
import {
  type BenchProof,
  type LogitsDigest,
  RECEIPT_FORMAT,
  RECEIPT_VERSION,
  type Receipt,
  type ReceiptEnvironment,
  type ReceiptLoad,
  type ReceiptModel,
  type ReceiptOptions,
  type ReceiptOutput,
  type ReceiptSession,
  type RunReceipt,
  tokensDigest,
} from './receipt.ts';

/** A context of 2^20 tokens has receipts of some 60 MB; whoever reads a file asks for its size first. */
export const MAX_RECEIPT_BYTES = 64 << 20;
const MAX_TOKENS = 1 << 20;
const MAX_TEXT = 16 << 20;
/** Names, notes, versions. */
const MAX_LINE = 4096;
const MAX_ENTRIES = 4096;
const MAX_ID = 2 ** 31 - 1;
/** What resolving a seed gives, and what a user may ask for. */
const MAX_SEED = Number.MAX_SAFE_INTEGER;

/** A receipt from the text of a file; `label` is for messages. */
export async function parseReceipt(text: string, label: string): Promise<Receipt> {
  want(text.length <= MAX_RECEIPT_BYTES, 'limit-exceeded', 'too long for a receipt', () => ({
    where: label,
    expected: `at most ${MAX_RECEIPT_BYTES} bytes`,
    got: `${text.length}`,
  }));
  const root = new JsonAt(parseJson(text, label), label);
  const isObject = typeof root.value === 'object' && root.value !== null && !Array.isArray(root.value);
  const isReceipt = isObject && root.at('format').value === RECEIPT_FORMAT;
  want(isReceipt, 'bad-container', 'not a receipt', () => ({
    where: label,
    expected: `"format": "${RECEIPT_FORMAT}"`,
    hint: 'write one with "bitnet run --receipt FILE"',
  }));
  const version = root.at('version').integer(1, Number.MAX_SAFE_INTEGER);
  want(version <= RECEIPT_VERSION, 'unsupported-version', 'written by a newer bitnet-ts', () => ({
    where: `${label}: $.version`,
    expected: `at most ${RECEIPT_VERSION}`,
    got: `${version}`,
  }));
  const head = {
    format: RECEIPT_FORMAT,
    version: RECEIPT_VERSION,
    ...(root.has('time') ? { time: root.at('time').text(MAX_LINE) } : {}),
  } as const;
  const model = modelAt(root.at('model'));
  if (root.at('kind').oneOf(['run', 'bench']) === 'bench') {
    const proofs = root.at('proofs').list(MAX_ENTRIES).map(proofAt);
    if (proofs.length === 0) root.at('proofs').refuse('at least one proof', 'none');
    return { ...head, kind: 'bench', model, proofs, measurements: root.at('measurements').list(MAX_ENTRIES) };
  }
  const receipt: RunReceipt = {
    ...head,
    kind: 'run',
    model,
    load: loadAt(root.at('load')),
    session: sessionAt(root.at('session')),
    prompt: promptAt(root.at('prompt')),
    options: optionsAt(root.at('options')),
    output: outputAt(root.at('output')),
    environment: environmentAt(root.at('environment')),
  };
  await checkConsistent(receipt, label);
  return receipt;
}

function parseJson(text: string, label: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    // What runtimes say of an early end differs; a whole receipt ends with a brace.
    const isCut = /^\s*\{/.test(text) && !text.trimEnd().endsWith('}');
    const what = isCut ? 'the receipt ends too early' : 'not JSON';
    throw new BitnetError(isCut ? 'truncated' : 'bad-container', what, { where: label }, error);
  }
}

/** What one part says of another. */
async function checkConsistent({ session, prompt, options, output }: RunReceipt, label: string): Promise<void> {
  const lie = (path: string, what: string, expected: string, got: string): never => {
    throw new BitnetError('bad-container', what, { where: `${label}: ${path}`, expected, got });
  };
  const { tokens, logits, logprobs, stopReason } = output;
  const digest = await tokensDigest(tokens);
  if (digest !== output.tokensSha256)
    lie('$.output.tokensSha256', 'not the digest of the tokens', digest, output.tokensSha256);
  for (const [path, { length }] of [
    ['$.output.logits.rows', logits.rows],
    ['$.output.logprobs', logprobs],
  ] as const) {
    if (length !== tokens.length) lie(path, 'not one for each token', `${tokens.length}`, `${length}`);
  }
  // The last token that is drawn is not computed any more.
  const positions = prompt.tokens.length + Math.max(0, tokens.length - 1);
  if (positions > session.contextSize)
    lie('$.output.tokens', 'more tokens than the context holds', `at most ${session.contextSize}`, `${positions}`);
  const { maxTokens } = options;
  if (maxTokens !== null && tokens.length > maxTokens)
    lie('$.output.tokens', 'more than was asked for', `at most ${maxTokens}`, `${tokens.length}`);
  if (stopReason === 'maxTokens' && tokens.length !== maxTokens)
    lie('$.output.stopReason', 'it did not end by maxTokens', `${maxTokens} tokens`, `${tokens.length}`);
  if ((stopReason === 'stop') !== (output.stopText !== null))
    lie('$.output.stopText', 'stopText and stopReason contradict each other', stopReason, `${output.stopText}`);
}

const digestAt = (at: JsonAt): string => at.matching(/^[0-9a-f]{64}$/, '64 hexadecimal digits');
const tokensAt = (at: JsonAt): number[] => at.list(MAX_TOKENS).map((id) => id.integer(0, MAX_ID));
const orNull = <T>(at: JsonAt, read: (at: JsonAt) => T): T | null => (at.isNull ? null : read(at));
const lineAt = (at: JsonAt): string => at.text(MAX_LINE);

function modelAt(at: JsonAt): ReceiptModel {
  return {
    sha256: digestAt(at.at('sha256')),
    bytes: at.at('bytes').integer(0, Number.MAX_SAFE_INTEGER),
    path: orNull(at.at('path'), lineAt),
    name: lineAt(at.at('name')),
    architecture: lineAt(at.at('architecture')),
    ternaryTypes: at.at('ternaryTypes').list(MAX_ENTRIES).map(lineAt),
    layout: orNull(at.at('layout'), lineAt),
  };
}

function loadAt(at: JsonAt): ReceiptLoad {
  return {
    pre: orNull(at.at('pre'), lineAt),
    embeddingType: at.at('embeddingType').oneOf(['auto', 'file', 'Q8_0', 'Q6_K']),
    i2sLayout: at.at('i2sLayout').oneOf(['auto', 'x86', 'arm64', 'rows4']),
    tiles: tilesAt(at.at('tiles')),
    allowDense: at.at('allowDense').boolean(),
    activations: at.at('activations').oneOf(['int8', 'q8_k']),
    saturateI16: saturateAt(at.at('saturateI16')),
    batchSize: orNull(at.at('batchSize'), (size) => size.integer(1, 1 << 20)),
  };
}

function saturateAt(at: JsonAt): ReceiptLoad['saturateI16'] {
  return typeof at.value === 'boolean' ? at.value : at.oneOf(['avx2', 'neon']);
}

function tilesAt(at: JsonAt): ReceiptLoad['tiles'] {
  if (typeof at.value === 'string') return at.oneOf(['auto', 'codegen', 'preset']);
  const keys = at.keys();
  if (keys.length > MAX_ENTRIES) at.refuse(`at most ${MAX_ENTRIES} shapes`, `${keys.length}`, 'limit-exceeded');
  return Object.fromEntries(keys.map((key) => [key, lineAt(at.at(key))]));
}

function sessionAt(at: JsonAt): ReceiptSession {
  return {
    contextSize: at.at('contextSize').integer(1, MAX_TOKENS),
    kType: at.at('kType').oneOf(['f16', 'f32']),
    vType: at.at('vType').oneOf(['f16', 'f32']),
  };
}

function promptAt(at: JsonAt): RunReceipt['prompt'] {
  const tokens = tokensAt(at.at('tokens'));
  if (tokens.length === 0) at.at('tokens').refuse('at least one token', 'none');
  return {
    text: orNull(at.at('text'), (text) => text.text(MAX_TEXT)),
    special: at.at('special').boolean(),
    tokens,
  };
}

function optionsAt(at: JsonAt): ReceiptOptions {
  const number = (key: string) => at.at(key).number();
  return {
    temperature: number('temperature'),
    topK: at.at('topK').integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
    topP: number('topP'),
    minP: number('minP'),
    repeatPenalty: number('repeatPenalty'),
    repeatLastN: at.at('repeatLastN').integer(-1, Number.MAX_SAFE_INTEGER),
    presencePenalty: number('presencePenalty'),
    frequencyPenalty: number('frequencyPenalty'),
    penalizeNewline: at.at('penalizeNewline').boolean(),
    logitBias: at.at('logitBias').list(MAX_TOKENS).map(biasAt),
    seed: at.at('seed').integer(0, MAX_SEED),
    maxTokens: orNull(at.at('maxTokens'), (most) => most.integer(0, Number.MAX_SAFE_INTEGER)),
    stop: at
      .at('stop')
      .list(MAX_ENTRIES)
      .map((text) => text.text(MAX_TEXT)),
    ignoreEos: at.at('ignoreEos').boolean(),
  };
}

function biasAt(at: JsonAt): readonly [number, number | '-inf'] {
  const pair = at.list(2);
  if (pair.length !== 2) at.refuse('an id and a bias', `${pair.length} items`);
  const [id, bias] = pair;
  return [id.integer(0, MAX_ID), bias.value === '-inf' ? '-inf' : bias.number()];
}

function outputAt(at: JsonAt): ReceiptOutput {
  return {
    tokens: tokensAt(at.at('tokens')),
    tokensSha256: digestAt(at.at('tokensSha256')),
    text: at.at('text').text(MAX_TEXT),
    stopReason: at.at('stopReason').oneOf(['eos', 'stop', 'maxTokens', 'contextFull']),
    stopText: orNull(at.at('stopText'), (text) => text.text(MAX_TEXT)),
    logits: logitsAt(at.at('logits')),
    logprobs: at
      .at('logprobs')
      .list(MAX_TOKENS)
      .map((one) => one.number()),
  };
}

function logitsAt(at: JsonAt): LogitsDigest {
  const row = (one: JsonAt) => one.matching(/^[0-9a-f]{16}$/, '16 hexadecimal digits');
  return { sha256: digestAt(at.at('sha256')), rows: at.at('rows').list(MAX_TOKENS).map(row) };
}

function environmentAt(at: JsonAt): ReceiptEnvironment {
  return {
    version: lineAt(at.at('version')),
    numericsVersion: at.at('numericsVersion').integer(0, Number.MAX_SAFE_INTEGER),
    runtime: lineAt(at.at('runtime')),
    platform: lineAt(at.at('platform')),
    backend: lineAt(at.at('backend')),
    variant: lineAt(at.at('variant')),
    threads: at.at('threads').integer(0, 1 << 20),
    notes: at.at('notes').list(MAX_ENTRIES).map(lineAt),
  };
}

function proofAt(at: JsonAt): BenchProof {
  const tokens = tokensAt(at.at('tokens'));
  const logits = logitsAt(at.at('logits'));
  if (logits.rows.length !== tokens.length)
    at.at('logits').at('rows').refuse(`${tokens.length} items, one for each token`, `${logits.rows.length}`);
  return {
    load: loadAt(at.at('load')),
    session: sessionAt(at.at('session')),
    tokens,
    logits,
    environment: environmentAt(at.at('environment')),
  };
}
