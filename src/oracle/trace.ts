/**
 * Traces of a model, by stages.
 * @module
 */

import type { Model, SessionOptions, TraceOptions, TraceSite, TraceTensor } from '../engine/types.ts';
import { want } from '../errors.ts';

/** Which intermediates to show. */
export interface Stages {
  /** First and last layer; those outside of layers (`embd`, `logits`) are not asked for then, unless `tensors` names them. */
  readonly layers?: readonly [first: number, last: number] | undefined;
  /** Names, in which `*` stands for any text: `logits`, `blk.*.attn_q*`. */
  readonly tensors?: readonly string[] | undefined;
  /** Probabilities of attention as well; also where `tensors` names them. Default false. */
  readonly attentionWeights?: boolean | undefined;
}

/**
 * Every named intermediate of `ids`, from position 0, a few tokens at a time, in the order of the graph; see
 * `engine/trace/types.ts` for the names.
 *
 * @throws BitnetError `bad-argument` where a stage matches nothing, with names that are near.
 */
export async function* trace(
  model: Model,
  ids: readonly number[],
  { stages, signal, ...options }: SessionOptions & { readonly stages?: Stages; readonly signal?: AbortSignal } = {},
): AsyncGenerator<TraceTensor> {
  const session = model.createSession({ contextSize: Math.max(1, ids.length), ...options });
  try {
    const wanted = selectSites(session.traceSites(ids.length), stages);
    const names = new Set(wanted.map(({ name }) => name));
    const select: TraceOptions['select'] = ({ name }) => names.has(name);
    yield* session.trace(ids, { select, ...(signal === undefined ? {} : { signal }) });
  } finally {
    await session.dispose();
  }
}

/** The sites that `stages` asks for, in the order of the graph. */
export function selectSites(sites: readonly TraceSite[], stages: Stages = {}): TraceSite[] {
  const { layers, tensors, attentionWeights = false } = stages;
  const last = Math.max(...sites.map(({ layer }) => layer ?? 0));
  want(
    layers === undefined || (layers[0] >= 0 && layers[0] <= layers[1] && layers[1] <= last),
    'bad-argument',
    'no such layers',
    () => ({ where: 'layers', expected: `first-last within 0-${last}`, got: layers?.join('-') }),
  );
  const patterns = tensors?.map((pattern) => ({ pattern, test: globOf(pattern) }));
  for (const { pattern, test } of patterns ?? []) {
    want(
      sites.some(({ name }) => test.test(name)),
      'bad-argument',
      'no tensor of the trace has such a name',
      () => ({ where: 'tensors', got: pattern, hint: `there are ${nearNames(pattern, sites).join(', ')}` }),
    );
  }
  const chosen = sites.filter((site) => {
    const named = patterns?.some(({ test }) => test.test(site.name));
    if (named === false) return false;
    if (site.op === 'attentionWeights' && !attentionWeights && named !== true) return false;
    if (layers === undefined) return true;
    return site.layer === undefined ? named === true : site.layer >= layers[0] && site.layer <= layers[1];
  });
  want(chosen.length > 0, 'bad-argument', 'the stages leave nothing of the trace', () => ({ where: 'stages' }));
  return chosen;
}

function globOf(pattern: string): RegExp {
  const parts = pattern.split('*').map((part) => part.replace(/[^\w]/g, '\\$&'));
  return new RegExp(`^${parts.join('.*')}$`);
}

/** Names that share most of their letters with the pattern, one of each kind. */
function nearNames(pattern: string, sites: readonly TraceSite[]): string[] {
  const plain = (text: string) => text.replace(/\d+/g, '*');
  const kinds = [...new Set(sites.map(({ name }) => plain(name)))];
  const wanted = plain(pattern).split(/[^a-z]+/i);
  const score = (kind: string) => wanted.filter((part) => part !== '' && kind.includes(part)).length;
  return kinds.toSorted((a, b) => score(b) - score(a)).slice(0, 5);
}
