/**
 * The tables of `bitnet inspect --kernels`.
 * @module
 */

import type { BackendSurvey, KernelSurvey, VariantReport } from '../engine/backends.ts';
import type { Outcome } from '../oracle/conformance.ts';
import { plural, table } from './format.ts';

/** Kernels down, builds across; what went wrong, in full, below. */
export function kernelTable({ runtime, cores, noThreads, chosen, variants }: KernelSurvey): string {
  const row = (title: string, cell: (variant: VariantReport) => string) => [title, ...variants.map(cell)];
  const ops = variants.find(({ kernels }) => kernels.length > 0)?.kernels ?? [];
  const speed = (gmacs: number | undefined) => (gmacs === undefined ? '-' : `${gmacs.toFixed(1)} GMAC/s`);
  const rows = [
    row('kernels', ({ name }) => name),
    row('compiles', ({ refused }) => (refused === undefined ? 'yes' : 'no')),
    ...ops.map(({ op, cases }, i) =>
      row(`${op}, ${plural(cases, 'case')}`, ({ kernels }) => {
        if (kernels.length === 0) return '-';
        return kernels[i].fault === undefined ? 'passed' : 'WRONG';
      }),
    ),
    row('matrix x 1 token', ({ vectorGmacs }) => speed(vectorGmacs)),
    row('matrix x 32 tokens', ({ promptGmacs }) => speed(promptGmacs)),
    row('chosen', ({ name }) => (name === chosen ? 'yes' : '-')),
  ];
  const faults = variants.flatMap(({ name, refused, kernels }) => [
    ...(refused === undefined ? [] : [`${name} does not compile: ${refused}`]),
    ...kernels.flatMap(({ op, fault }) => (fault === undefined ? [] : [`${name} ${op} is wrong: ${fault}`])),
  ]);
  const threads = noThreads === undefined ? 'threads with shared memory' : `one thread: ${noThreads}`;
  return [
    `${runtime}, ${plural(cores, 'core')}, ${threads}`,
    table(rows),
    ...(chosen === undefined ? ['none works: the ts backend is used'] : []),
    ...(faults.length === 0 ? [] : [faults.join('\n')]),
  ].join('\n\n');
}

/** A backend that was tested by the whole conformance suite. */
export interface Conformance extends BackendSurvey {
  /** Whole models. */
  readonly models: readonly Outcome[];
}

export function conforms({ kernels, models }: Conformance): boolean {
  return kernels.every(({ fault }) => fault === undefined) && models.every(({ ok }) => ok);
}

/** Ops, models, what went wrong in full, and a line that says it all. */
export function conformanceTable(conformance: Conformance): string {
  const { runtime, backend, kernels, models } = conformance;
  const badOps = kernels.filter(({ fault }) => fault !== undefined);
  const badModels = models.filter(({ ok }) => !ok);
  const rows = [
    ['kernels', backend.name],
    ...kernels.map(({ op, cases, fault }) => [
      `${op}, ${plural(cases, 'case')}`,
      fault === undefined ? 'passed' : 'WRONG',
    ]),
    [
      `whole models, ${plural(models.length, 'check')}`,
      badModels.length === 0 ? 'passed' : `${badModels.length} WRONG`,
    ],
  ];
  const faults = [
    ...badOps.map(({ op, fault }) => `${op} is wrong: ${fault}`),
    ...badModels.map(({ name, detail }) => `${name} is wrong: ${detail}`),
  ];
  const nCases = kernels.reduce((sum, { cases }) => sum + cases, 0);
  const all = `${plural(kernels.length, 'kernel')} in ${plural(nCases, 'case')}, ${plural(models.length, 'check')} of whole models`;
  const verdict = conforms(conformance)
    ? `the same as the definition, ${backend.exact ? 'bit for bit' : 'within the bounds of each op'}: ${all}`
    : `NOT THE SAME as the definition: ${badOps.length} of ${plural(kernels.length, 'kernel')}, ` +
      `${badModels.length} of ${plural(models.length, 'check')} of whole models`;
  return [
    `${runtime}, ${backend.name} ${backend.variant}`,
    table(rows),
    ...(faults.length === 0 ? [] : [faults.join('\n')]),
    verdict,
  ].join('\n\n');
}
