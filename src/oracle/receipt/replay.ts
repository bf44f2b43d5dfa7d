/**
 * Running a receipt again: the same, or where not.
 *
 * Two questions are asked. Does the model, left alone with prompt, options and seed, draw the same tokens? And are the logits the
 * same bits where it is made to follow the tokens of the receipt? The second finds a difference before it changes any token, and
 * tells a sampler that draws otherwise (same logits) from a model that computes otherwise.
 * @module
 */

import type { GenerateOptions, Model } from '../../engine/types.ts';
import { want } from '../../errors.ts';
import {
  type BenchProof,
  type BenchReceipt,
  type FileIdentity,
  type LogitsDigest,
  logitsOf,
  type ReceiptEnvironment,
  type ReceiptOptions,
  type RowsBehind,
  type RunReceipt,
  rowsBehind,
} from './receipt.ts';

export interface Difference {
  /** `prompt`: this tokenizer reads the text otherwise. `receipt`: it contradicts itself. */
  readonly what: 'prompt' | 'token' | 'logits' | 'text' | 'stop' | 'receipt';
  /** Index of the token, among those of the prompt or those generated. */
  readonly position?: number;
  readonly expected: string;
  readonly got: string;
  readonly note?: string;
}

/** Something of the run's surroundings that is not as it was. */
export interface Change {
  readonly what: string;
  readonly before: string;
  readonly now: string;
}

export interface Replay {
  readonly same: boolean;
  /** Tokens, or rows of logits, that were compared. */
  readonly compared: number;
  /** In the order of their positions. */
  readonly differences: readonly Difference[];
  readonly changes: readonly Change[];
}

export interface ReplayContext {
  readonly file: FileIdentity;
  /** Of this run. */
  readonly environment: ReceiptEnvironment;
  readonly onProgress?: ((tokens: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** `model` was loaded with the receipt's options. */
export async function replayRun(model: Model, receipt: RunReceipt, context: ReplayContext): Promise<Replay> {
  const { signal, onProgress } = context;
  const { prompt, output } = receipt;
  checkTokens(model, '$.prompt.tokens', prompt.tokens);
  checkTokens(model, '$.output.tokens', output.tokens);
  const differences: Difference[] = [];
  if (prompt.text !== null) {
    const ids = model.tokenizer.encodePrompt(prompt.text, { special: prompt.special });
    const at = firstDifference(ids, prompt.tokens);
    if (at >= 0)
      differences.push({
        what: 'prompt',
        position: at,
        expected: named(model, prompt.tokens[at]),
        got: named(model, ids[at]),
        note: 'this tokenizer reads the prompt otherwise; what follows is of the ids in the receipt',
      });
  }
  const session = model.createSession(receipt.session);
  try {
    const run = session.generate(prompt.tokens, { ...generateOptions(receipt.options), signal });
    let drawn = 0;
    let other: number | undefined;
    let text = '';
    for await (const piece of run) {
      if (piece.token !== output.tokens[drawn]) {
        other = piece.token;
        break;
      }
      text += piece.text;
      drawn++;
      onProgress?.(drawn);
    }
    const rows = await rowsBehind(model, session, prompt.tokens, output.tokens, signal);
    const firstRow = compareRows(rows, receipt, differences);
    if (drawn < output.tokens.length || other !== undefined) {
      const sameLogits = firstRow < 0 || firstRow > drawn;
      differences.push({
        what: 'token',
        position: drawn,
        expected: named(model, output.tokens[drawn]),
        got: named(model, other),
        ...(sameLogits
          ? { note: 'drawn from the same logits: seed, options or sampler are not those of the run' }
          : {}),
      });
    } else {
      const result = await run.result;
      if (text !== output.text) differences.push({ what: 'text', expected: quoted(output.text), got: quoted(text) });
      const ends = [output.stopReason, output.stopText].join(' ');
      const now = [result.stopReason, result.stopText ?? null].join(' ');
      if (ends !== now) differences.push({ what: 'stop', expected: ends.trimEnd(), got: now.trimEnd() });
    }
  } finally {
    await session.dispose();
  }
  return {
    same: differences.length === 0,
    compared: output.tokens.length,
    differences,
    changes: changesOf(receipt.model, receipt.environment, context),
  };
}

/** The bits that were measured, not the measurements. */
export async function replayProof(model: Model, proof: BenchProof, signal?: AbortSignal): Promise<Difference[]> {
  checkTokens(model, '$.proofs[].tokens', proof.tokens);
  return differentRows(await logitsOf(model, proof, signal), proof.logits, proof.tokens.length);
}

export function changesOf(
  model: BenchReceipt['model'],
  then: ReceiptEnvironment,
  { file, environment: now }: Pick<ReplayContext, 'file' | 'environment'>,
): Change[] {
  const all: [string, string, string][] = [
    ['model (SHA-256)', model.sha256, file.sha256],
    ['version', then.version, now.version],
    ['numericsVersion', `${then.numericsVersion}`, `${now.numericsVersion}`],
    ['runtime', then.runtime, now.runtime],
    ['platform', then.platform, now.platform],
    ['backend', `${then.backend} ${then.variant}`, `${now.backend} ${now.variant}`],
    ['threads', `${then.threads}`, `${now.threads}`],
    ['notes', then.notes.join('; '), now.notes.join('; ')],
  ];
  return all.filter(([, a, b]) => a !== b).map(([what, a, b]) => ({ what, before: a, now: b }));
}

/** Appends what differs; the index of the first row that does, or -1. */
function compareRows(rows: RowsBehind, { output }: RunReceipt, differences: Difference[]): number {
  const found = differentRows(rows.logits, output.logits, output.tokens.length);
  const at = found[0]?.position ?? -1;
  for (const difference of found) {
    if (difference.position === undefined) differences.push(difference);
    else {
      const [then, now] = [output.logprobs[at], rows.logprobs[at]];
      const note = `${difference.note}; ln p of the token: ${then} then, ${now} now`;
      differences.push({ ...difference, note });
    }
  }
  // The same logits have the same log-probabilities.
  const wrong = rows.logprobs.findIndex((now, i) => (at < 0 || i < at) && now !== output.logprobs[i]);
  if (wrong >= 0)
    differences.push({
      what: 'receipt',
      position: wrong,
      expected: `ln p ${output.logprobs[wrong]}`,
      got: `ln p ${rows.logprobs[wrong]}`,
      note: 'of logits with the same digest: the number was changed',
    });
  return at;
}

/** At most one: the first row, or digests that contradict their rows. */
function differentRows(now: LogitsDigest, then: LogitsDigest, tokens: number): Difference[] {
  const at = firstDifference(now.rows, then.rows);
  if (at >= 0) {
    const others = now.rows.filter((row, i) => row !== then.rows[i]).length;
    const what = { what: 'logits', position: at, expected: then.rows[at], got: now.rows[at] } as const;
    return [{ ...what, note: `${others} of ${tokens} rows differ` }];
  }
  if (now.sha256 === then.sha256) return [];
  const note = 'every row has the digest of the receipt, but not all of them together';
  return [{ what: 'receipt', expected: then.sha256, got: now.sha256, note }];
}

function generateOptions(options: ReceiptOptions): GenerateOptions {
  const { maxTokens, stop, logitBias, ...rest } = options;
  return {
    ...rest,
    logitBias: new Map(logitBias.map(([id, bias]) => [id, bias === '-inf' ? -Infinity : bias])),
    ...(maxTokens === null ? {} : { maxTokens }),
    ...(stop.length === 0 ? {} : { stop }),
  };
}

function checkTokens(model: Model, where: string, tokens: readonly number[]): void {
  const vocabulary = Math.min(model.tokenizer.vocabSize, model.info.vocabularySize);
  const bad = tokens.findIndex((id) => id >= vocabulary);
  want(bad < 0, 'bad-token', 'no token of this model', () => ({
    where: `receipt: ${where}[${bad}]`,
    expected: `0 to ${vocabulary - 1}`,
    got: `${tokens[bad]}`,
  }));
}

function firstDifference(a: readonly unknown[], b: readonly unknown[]): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) if (a[i] !== b[i]) return i;
  return -1;
}

/** `345 " cat"`. */
function named(model: Model, id: number | undefined): string {
  return id === undefined ? 'the end' : `${id} ${model.tokenizer.describe(id)}`;
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 60 ? `...${text.slice(-60)}` : text);
}
