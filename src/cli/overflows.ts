/**
 * `--saturate-i16`: what the 16-bit sums of native kernels would have changed, told when a model is put away.
 * @module
 */

import type { Model, OverflowReport } from '../engine/types.ts';
import { grouped, plural } from './format.ts';
import type { Io } from './io.ts';

/** Tensors that are told one by one. */
const LISTED = 12;

/** Notes on stderr when the model is disposed, whichever way the command ends. */
export function tellOverflowsAtEnd(model: Model, io: Io): void {
  const dispose = model.dispose.bind(model);
  let told = false;
  model.dispose = () => {
    if (!told && model.overflows !== undefined) for (const line of overflowLines(model.overflows)) io.note(line);
    told = true;
    return dispose();
  };
}

export function overflowLines({ kernel, outputs, suspects, tensors }: OverflowReport): string[] {
  const examined = `of ${plural(outputs, 'output')} of ternary products`;
  if (tensors.length === 0) {
    const looked = suspects === 0 ? '' : `; ${plural(suspects, 'input')} large enough to, and the trits do not`;
    return [`16-bit sums (${kernel}): nothing overflows, ${examined} none would be another${looked}`];
  }
  const count = tensors.reduce((sum, tensor) => sum + tensor.outputs, 0);
  const lines = tensors.slice(0, LISTED).map(({ tensor, outputs, first, worst }) => {
    const where = `first at token ${first.token}, row ${first.row}: ${first.native} instead of ${first.exact}`;
    const most =
      worst === first
        ? ''
        : `; worst at token ${worst.token}, row ${worst.row}: ${worst.native} instead of ${worst.exact}`;
    return `  ${tensor}: ${plural(outputs, 'output')}, ${where}${most}`;
  });
  if (tensors.length > LISTED) lines.push(`  and ${plural(tensors.length - LISTED, 'more tensor')}`);
  return [
    `16-bit sums (${kernel}): ${grouped(count)} ${examined} are another in native kernels, in ${plural(tensors.length, 'tensor')}`,
    ...lines,
  ];
}
