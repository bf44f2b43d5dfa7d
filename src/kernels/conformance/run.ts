/**
 * Runs the conformance suite: every case on the candidate and on the `ts` backend, and compares.
 *
 * An exact backend must agree bit for bit; NaNs count as equal, since WebAssembly does not fix their payloads.
 * Another must agree within a bound that follows from the case: see `tolerance.ts`.
 *
 * @example
 * for (const outcome of await runConformance(myBackend)) if (!outcome.ok) console.error(outcome.name, outcome.detail);
 * @module
 */

import type { Backend } from '../interface.ts';
import { createTsBackend } from '../ts/backend.ts';
import { type ConformanceCase, caseName, conformanceCases } from './cases.ts';
import { type Outputs, programs } from './programs.ts';
import { toleranceOf } from './tolerance.ts';

export { type ConformanceCase, caseName, conformanceCases } from './cases.ts';

export interface Outcome {
  readonly name: string;
  readonly ok: boolean;
  /** The worst difference: where, expected, got, bound. Empty when `ok`. */
  readonly detail: string;
}

/**
 * Runs `cases` (default: all) on `candidate`. Who tests several candidates has the answers computed once, by
 * `expectedOutputs`.
 */
export async function runConformance(
  candidate: Backend,
  cases: readonly ConformanceCase[] = conformanceCases(),
  expected?: readonly Outputs[],
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const [i, one] of cases.entries()) {
    const want = expected?.[i] ?? (await expectedOutputs([one]))[0];
    const got = await runCase(candidate, one);
    const detail = compare(want, got, candidate.info.exact ? () => 0 : toleranceOf(one));
    outcomes.push({ name: caseName(one), ok: detail === '', detail });
  }
  return outcomes;
}

/** What the `ts` backend answers, case by case. */
export async function expectedOutputs(cases: readonly ConformanceCase[]): Promise<Outputs[]> {
  const reference = createTsBackend();
  const outputs: Outputs[] = [];
  for (const one of cases) outputs.push(await runCase(reference, one));
  await reference.dispose();
  return outputs;
}

/** One case on one backend. */
export function runCase(backend: Backend, one: ConformanceCase): Promise<Outputs> {
  return (programs[one.op] as (backend: Backend, one: ConformanceCase) => Promise<Outputs>)(backend, one);
}

function compare(expected: Outputs, got: Outputs, bound: (expected: number) => number): string {
  for (const [name, want] of Object.entries(expected)) {
    const have = got[name];
    if (have === undefined || have.length !== want.length)
      return `${name}: expected ${want.length} values, got ${have?.length}`;
    for (let i = 0; i < want.length; i++) {
      if (Object.is(want[i], have[i])) continue;
      const allowed = bound(want[i]);
      if (allowed > 0 && Math.abs(want[i] - have[i]) <= allowed) continue;
      return `${name}[${i}]: expected ${want[i]}, got ${have[i]}, bound ${allowed}`;
    }
  }
  return '';
}
