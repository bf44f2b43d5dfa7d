/**
 * Verdicts as lines, and how to get them with progress on a terminal.
 * @module
 */

import { type Verdict, type VerifyFileOptions, verifyFile } from '../engine/verify/file.ts';
import type { GgufFile } from '../formats/index.ts';
import { bytes, percent, plural, table } from './format.ts';
import type { Io } from './io.ts';

/** One line each; what to do follows an arrow. */
export function verdictLines(verdicts: readonly Verdict[], beside: readonly Verdict[] = []): string {
  // Lines that follow others stand under them.
  const width = beside.reduce((widest, { what }) => Math.max(widest, printable(what).length), 0);
  return table(
    verdicts.map(({ grade, what, finding, todo }) => [
      grade.padEnd(4),
      printable(what).padEnd(width),
      printable(todo === undefined ? finding : `${finding}  -> ${todo}`),
    ]),
  );
}

/** Names come out of files: control characters among them are not for the terminal. */
function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, '\ufffd');
}

export function isAnyBad(verdicts: readonly Verdict[]): boolean {
  return verdicts.some(({ grade }) => grade === 'bad');
}

/** `24 ok, 1 warning, 0 bad`. */
export function verdictCounts(verdicts: readonly Verdict[]): string {
  const n = (grade: string) => verdicts.filter((verdict) => verdict.grade === grade).length;
  return `${n('ok')} ok, ${plural(n('warn'), 'warning')}, ${n('bad')} bad`;
}

/** All verdicts on the file, with progress on a terminal. */
export async function verdictsOn(gguf: GgufFile, io: Io, options: VerifyFileOptions = {}): Promise<Verdict[]> {
  const startMs = performance.now();
  try {
    return await verifyFile(gguf, {
      ...options,
      signal: io.signal,
      onProgress: ({ doneBytes, totalBytes, tensor }) => {
        const perSecond = bytes(Math.round((1000 * doneBytes) / Math.max(1, performance.now() - startMs)));
        io.status(`checking ${percent(doneBytes, totalBytes)}  ${bytes(doneBytes)}, ${perSecond}/s  ${tensor}`);
      },
    });
  } finally {
    io.status('');
  }
}
