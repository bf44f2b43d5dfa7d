/**
 * The table of `bitnet inspect --kernels`.
 * @module
 */

import type { KernelSurvey, VariantReport } from '../engine/backends.ts';
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
