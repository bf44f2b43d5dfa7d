/**
 * What commands that write models share: names of types, progress, and the line at the end.
 * @module
 */

import { embeddingTypes, linearTypes } from '../convert/types.ts';
import type { WriteProgress, Written } from '../convert/write.ts';
import { I2S_LAYOUTS } from '../model/layout.ts';
import { UsageError } from './flags.ts';
import { bytes, count, percent } from './format.ts';
import type { Io } from './io.ts';

/** Flag of the type of ternary matrices; commands name it differently. */
export const linearTypeFlag = {
  type: 'string',
  value: 'TYPE',
  describe: `of the ternary matrices: ${Object.keys(linearTypes).join(', ').toLowerCase()} [i2_s]`,
} as const;

/** Flag of the order of I2_S's values in a file that is written. */
export const i2sLayoutFlag = {
  type: 'string',
  choices: I2S_LAYOUTS,
  describe: 'order of the values of I2_S: x86 is every published file [x86]',
} as const;

export const embeddingTypeFlag = {
  type: 'string',
  value: 'TYPE',
  describe: `of embedding and head: ${embeddingTypes.join(', ').toLowerCase()} [f16]`,
} as const;

/** A tensor type in any case, as people write it. */
export function typeNamed<T extends string>(
  flag: string,
  text: string | undefined,
  types: readonly T[],
): T | undefined {
  if (text === undefined) return undefined;
  const found = types.find((type) => type === text.toUpperCase());
  if (found !== undefined) return found;
  throw new UsageError(`${flag} takes one of ${types.join(', ').toLowerCase()}; got ${JSON.stringify(text)}`);
}

/** Shows how far a file is, on a terminal. */
export function writingProgress(io: Io, quiet: boolean): ((progress: WriteProgress) => void) | undefined {
  if (quiet || !io.errIsTerminal) return undefined;
  return ({ tensor, doneBytes, totalBytes }) => {
    io.status(`writing ${percent(doneBytes, totalBytes)}  ${bytes(doneBytes)} of ${bytes(totalBytes)}  ${tensor}`);
  };
}

/** `2b.gguf: 1.10 GiB (1182663584 bytes), 2.41 B parameters`. */
export function writtenLine(path: string, { byteLength, parameters }: Written): string {
  return `${path}: ${bytes(byteLength)} (${byteLength} bytes), ${count(parameters)} parameters\n`;
}
