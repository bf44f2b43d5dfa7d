/**
 * Which numbers this version of the package computes.
 * @module
 */

/**
 * Raised whenever any bit of any logit changes for the same file, tokens and types of the cache: whoever keeps digests,
 * dumps or golden vectors sees by it that they are of another time, and finds here why. Speed, refusals and new kinds of
 * files raise nothing.
 */
export const numericsVersion = 1;

/** Every version that was, oldest first. `test/runtime/matrix/numerics.json` has the digests of the last. */
export const numericsHistory: readonly {
  readonly version: number;
  /** The day of the change. */
  readonly date: string;
  /** What changed, and why it had to. */
  readonly reason: string;
}[] = [
  {
    version: 1,
    date: '2026-11-22',
    reason: 'the first numbers that are promised: the plain TypeScript kernels as they stood on that day',
  },
];
