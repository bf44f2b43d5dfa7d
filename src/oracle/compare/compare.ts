/**
 * Compares a trace with a model, or with another trace: where they part first, and why.
 * @module
 */

import type { Model, TraceSite } from '../../engine/types.ts';
import { BitnetError, want } from '../../errors.ts';
import type { TraceSource } from '../source.ts';
import { Lockstep } from './lockstep.ts';
import type { CompareOptions, Comparison, MetVariant } from './types.ts';

/** Names in a message. */
const LISTED = 6;

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
  checkOrigin(model, candidate, options);
  let session = options.session ?? {};
  const probe = model.createSession({ ...session, contextSize: tokens.length });
  const sites = probe.traceSites(tokens.length);
  await probe.dispose();
  const names = checkShapes(model.info.name, sites, candidate);
  const adopted: MetVariant[] = [];
  for (;;) {
    const { found, adopt } = await new Lockstep(model, candidate, tokens, options).run(session);
    if (adopt !== undefined && adopted.length < 2) {
      session = adopt;
      adopted.push(...found.variants.filter(({ id }) => !adopted.some((one) => one.id === id)));
      continue;
    }
    const variants = [...adopted, ...found.variants.filter(({ id }) => !adopted.some((one) => one.id === id))];
    const verdict =
      found.divergence !== undefined
        ? 'different'
        : found.equal === found.compared && variants.length === 0
          ? 'equal'
          : 'within-bounds';
    return {
      verdict,
      a: { label: model.info.name, producer: `bitnet-ts, ${model.backend.name} ${model.backend.variant}` },
      b: { label: candidate.label, producer: candidate.origin.producer },
      method: 'model',
      tokens: tokens.length,
      ...found,
      ...names,
      variants,
    };
  }
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

export function sameTokens(label: string, ours: readonly number[], theirs: readonly number[]): void {
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

function checkOrigin(model: Model, { label, origin }: TraceSource, { modelSha256, anyFile }: CompareOptions): void {
  const { architecture } = model.info;
  want(
    origin.architecture === undefined || origin.architecture === architecture,
    'not-comparable',
    'of another architecture',
    () => ({
      where: label,
      expected: architecture,
      got: origin.architecture,
    }),
  );
  const isOther = modelSha256 !== undefined && origin.modelSha256 !== undefined && modelSha256 !== origin.modelSha256;
  want(!isOther || anyFile === true, 'not-comparable', 'of another model file', () => ({
    where: label,
    expected: `SHA-256 ${modelSha256}`,
    got: origin.modelSha256,
    hint: '--any-file compares all the same, e.g. two conversions of one model',
  }));
}

/** What names there are, all of one shape. */
function checkShapes(label: string, sites: readonly TraceSite[], candidate: TraceSource) {
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
  };
}

export function listed(names: readonly string[]): string {
  const more = names.length > LISTED ? `, and ${names.length - LISTED} more` : '';
  return names.length === 0 ? 'none' : names.slice(0, LISTED).join(', ') + more;
}
