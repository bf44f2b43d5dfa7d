/**
 * What is said about one aspect of a file.
 * @module
 */

/** `warn`: it runs, and may be worse than it should be. `bad`: it cannot be run, or what comes out is wrong. */
export type Grade = 'ok' | 'warn' | 'bad';

export interface Verdict {
  readonly grade: Grade;
  /** The aspect, a word or two: `activation`, `blk.*.ffn_down`. */
  readonly what: string;
  readonly finding: string;
  /** What to do about it; never with `ok`. */
  readonly todo?: string;
}

export function ok(what: string, finding: string): Verdict {
  return { grade: 'ok', what, finding };
}

export function warn(what: string, finding: string, todo: string): Verdict {
  return { grade: 'warn', what, finding, todo };
}

export function bad(what: string, finding: string, todo: string): Verdict {
  return { grade: 'bad', what, finding, todo };
}
