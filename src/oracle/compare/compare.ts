/**
 * Compares a trace with a model, or with another trace: where they part first, and why.
 * @module
 */

import type { Model, TraceOp, TraceSite } from '../../engine/types.ts';
import { BitnetError, want } from '../../errors.ts';
import type { TraceOrigin, TraceSource } from '../source.ts';
import { traceReference } from './direct.ts';
import { Lockstep, type Reference, type SessionChoice } from './lockstep.ts';
import { listed } from './report.ts';
import type { CompareOptions, Comparison, MetVariant } from './types.ts';

/** Rows of the embedding that are asked for together. */
const EMBEDDED_AT_ONCE = 16;
const ANY_FILE = '--any-file compares all the same, e.g. two conversions of one model';

/**
 * Runs `model` beside what `candidate` says, every op on the candidate's own inputs.
 *
 * @throws BitnetError `not-comparable` where the two are not of the same model, tokens and shapes.
 */
export async function compareWithModel(
  model: Model,
  candidate: TraceSource,
  options: CompareOptions = {},
): Promise<Comparison> {
  const tokens = tokensOf(candidate, options);
  const { architecture } = model.info;
  checkOrigin({ architecture, modelSha256: options.modelSha256 }, candidate, options);
  const session = options.session ?? {};
  const probe = model.createSession({ ...session, contextSize: tokens.length });
  const sites = probe.traceSites(tokens.length);
  await probe.dispose();
  const names = checkShapes(model.info.name, sites, candidate);
  const found = await compared(modelReference(model, tokens), candidate, tokens, options);
  const a = {
    label: options.label ?? model.info.name,
    producer: `bitnet-ts, ${model.backend.name} ${model.backend.variant}`,
  };
  return { ...found, ...names, a, b: sideOf(candidate), method: 'model', tokens: tokens.length };
}

/**
 * Compares two traces number by number. There is nobody to compute an op from the inputs of B, so each bound allows for what
 * the inputs differ by, and mistakes are told as far as that needs no weights.
 *
 * @throws BitnetError `not-comparable` where the two are not of the same model, tokens and shapes.
 */
export async function compareTraces(a: TraceSource, b: TraceSource, options: CompareOptions = {}): Promise<Comparison> {
  if (a.origin.tokens !== undefined && b.origin.tokens !== undefined) {
    sameTokens(b.label, a.origin.tokens, b.origin.tokens);
  }
  const tokens = options.tokens ?? a.origin.tokens ?? b.origin.tokens ?? unknownTokens(a, b);
  for (const source of [a, b]) tokensOf({ ...source, origin: { ...source.origin, tokens } }, {});
  checkOrigin(a.origin, b, options);
  const names = checkShapes(a.label, [...a.tensors.values()], b);
  const sameNumerics = options.sameNumerics ?? isSame(a.origin.numericsVersion, b.origin.numericsVersion);
  const found = await compared(traceReference(a, b, tokens.length), b, tokens, { ...options, sameNumerics });
  return { ...found, ...names, a: sideOf(a), b: sideOf(b), method: 'direct', tokens: tokens.length };
}

function isSame<T>(a: T | undefined, b: T | undefined): boolean {
  return a !== undefined && a === b;
}

function sideOf({ label, origin }: TraceSource): Comparison['b'] {
  return { label, producer: origin.producer };
}

/** As many as the longest tensor has rows: nothing is computed from them. */
function unknownTokens(...sources: readonly TraceSource[]): number[] {
  const ends = sources.map(({ tensors }) =>
    Math.max(0, ...[...tensors.values()].map(({ position, rows }) => position + rows)),
  );
  want(ends[0] === ends[1], 'not-comparable', 'of other length', () => ({
    where: sources[1].label,
    expected: `${ends[0]} tokens`,
    got: `${ends[1]}`,
  }));
  return new Array<number>(ends[0]).fill(-1);
}

/** Runs until what is known of the candidate's way of computing is taken into account. */
async function compared(
  reference: Reference,
  candidate: TraceSource,
  tokens: readonly number[],
  options: CompareOptions,
) {
  let session: SessionChoice = options.session ?? {};
  const adopted: MetVariant[] = [];
  for (;;) {
    const { found, adopt } = await new Lockstep(reference, candidate, tokens, options).run(session);
    const variants = [...adopted, ...found.variants.filter(({ id }) => !adopted.some((one) => one.id === id))];
    if (adopt !== undefined && adopted.length < 2) {
      session = { ...session, ...adopt };
      adopted.splice(0, adopted.length, ...variants);
      continue;
    }
    want(found.compared > 0, 'not-comparable', 'no values in common', () => ({
      where: candidate.label,
      expected: 'values of the same tensors and tokens',
    }));
    const isEqual = found.equal === found.compared && variants.length === 0;
    const verdict = found.divergence !== undefined ? 'different' : isEqual ? 'equal' : 'within-bounds';
    return { ...found, variants, verdict } as const;
  }
}

function modelReference(model: Model, tokens: readonly number[]): Reference {
  return {
    isFixed: false,
    vocabulary: model.info.vocabularySize,
    async *trace(session, select, signal) {
      const own = model.createSession({ ...session, contextSize: tokens.length });
      try {
        yield* own.trace(tokens, { select, signal });
      } finally {
        await own.dispose();
      }
    },
    /** By traces that are left after their first tensor. */
    async embeddings(ids) {
      const rows: Float32Array[] = [];
      const own = model.createSession({ contextSize: Math.min(EMBEDDED_AT_ONCE, model.info.contextLength) });
      try {
        for (let at = 0; at < ids.length; at += own.contextSize) {
          own.rewind(0);
          for await (const { data, columns, rows: count } of own.trace(ids.slice(at, at + own.contextSize))) {
            if (!(data instanceof Float32Array)) throw new Error('an embedding is not f32');
            for (let row = 0; row < count; row++) rows.push(data.slice(row * columns, (row + 1) * columns));
            break;
          }
        }
      } finally {
        await own.dispose();
      }
      return rows;
    },
  };
}

/** The tokens of both. */
export function tokensOf(
  { label, origin, tensors }: TraceSource,
  { tokens: given }: CompareOptions,
): readonly number[] {
  const told = origin.tokens;
  if (given !== undefined && told !== undefined) sameTokens(label, given, told);
  const tokens = given ?? told;
  if (tokens === undefined) {
    throw new BitnetError('bad-argument', 'the trace does not say which tokens it is of', {
      where: label,
      hint: 'give them: --tokens or -p',
    });
  }
  for (const { name, position, rows } of tensors.values()) {
    want(
      position >= 0 && position + rows <= tokens.length,
      'not-comparable',
      'of other length than the tokens',
      () => ({
        where: `${label}: ${name}`,
        expected: `at most ${tokens.length} rows`,
        got: `${position + rows}`,
      }),
    );
  }
  return tokens;
}

function sameTokens(label: string, ours: readonly number[], theirs: readonly number[]): void {
  const at = theirs.findIndex((id, i) => id !== ours[i]);
  want(at < 0 && theirs.length === ours.length, 'not-comparable', 'of other tokens', () =>
    at < 0 || at >= ours.length
      ? { where: label, expected: `${ours.length} tokens`, got: `${theirs.length}`, hint: 'another length' }
      : {
          where: `${label}, token ${at}`,
          expected: String(ours[at]),
          got: String(theirs[at]),
          hint: 'another text or another tokenizer',
        },
  );
}

/** That both say the same of where they are from, as far as they say it. */
function checkOrigin(ours: TraceOrigin, { label, origin }: TraceSource, { anyFile }: CompareOptions): void {
  const isOther = (a: string | undefined, b: string | undefined) => a !== undefined && b !== undefined && a !== b;
  want(!isOther(ours.architecture, origin.architecture), 'not-comparable', 'of another architecture', () => ({
    where: label,
    expected: ours.architecture,
    got: origin.architecture,
  }));
  const isOtherFile = isOther(ours.modelSha256, origin.modelSha256);
  want(!isOtherFile || anyFile === true, 'not-comparable', 'of another model file', () => ({
    where: label,
    expected: `SHA-256 ${ours.modelSha256}`,
    got: origin.modelSha256,
    hint: ANY_FILE,
  }));
}

/** What names there are, all of one shape. */
function checkShapes(
  label: string,
  sites: readonly (Pick<TraceSite, 'name' | 'columns'> & { readonly op?: TraceOp })[],
  candidate: TraceSource,
) {
  const ours = new Map(sites.map((site) => [site.name, site]));
  const common = [...candidate.tensors.values()].filter(({ name }) => ours.has(name));
  want(common.length > 0, 'not-comparable', 'no tensor in common', () => ({
    where: candidate.label,
    expected: listed(sites.map(({ name }) => name)),
    got: listed([...candidate.tensors.keys()]),
  }));
  const wrong = common.filter(({ name, columns }) => {
    const site = ours.get(name);
    return site?.op !== 'attentionWeights' && site?.columns !== columns;
  });
  want(wrong.length === 0, 'not-comparable', `of other shapes than ${label}`, () => ({
    where: candidate.label,
    expected: listed(wrong.map(({ name }) => `${name} ${ours.get(name)?.columns}`)),
    got: listed(wrong.map(({ columns }) => `${columns}`)),
    hint: 'columns of a token',
  }));
  return {
    onlyA: sites
      .filter(({ name, op }) => op !== 'attentionWeights' && !candidate.tensors.has(name))
      .map(({ name }) => name),
    onlyB: [...candidate.tensors.keys()].filter((name) => !ours.has(name)),
    unread: candidate.unread ?? [],
  };
}
