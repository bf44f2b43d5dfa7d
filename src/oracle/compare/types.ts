/**
 * The public shapes of a comparison: what is asked, and what is found.
 * @module
 */

import type { SessionOptions, TraceOp } from '../../engine/types.ts';

export interface CompareOptions {
  /** What the model is called in the report. Default: its name. */
  readonly label?: string | undefined;
  /** Token ids from position 0 on. Default: what the trace says of itself. */
  readonly tokens?: readonly number[] | undefined;
  /** Bits must be the same; default: bounds derived from each op. */
  readonly exact?: boolean | undefined;
  /** SHA-256 of the model's file, hex, to be held against what the trace says. Not compared if absent. */
  readonly modelSha256?: string | undefined;
  /** Compare although the trace was made with another file, e.g. another conversion of the model. */
  readonly anyFile?: boolean | undefined;
  /** That both sides compute by the same rules to the bit, so that nothing that is not shown may differ either. */
  readonly sameNumerics?: boolean | undefined;
  /** Of the session that the reference runs in; its length is that of the tokens. */
  readonly session?: Omit<SessionOptions, 'contextSize'> | undefined;
  readonly onProgress?: ((progress: CompareProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface CompareProgress {
  readonly name: string;
  readonly position: number;
  readonly positions: number;
}

/** A way of computing that reproduces numbers which are not ours. */
export interface Finding {
  /** Stable, e.g. `activation-silu`. */
  readonly id: string;
  /** As a phrase: `SiLU in place of squared ReLU`. */
  readonly says: string;
  /** `variant`: a known other way of computing, which is no mistake. */
  readonly kind: 'mistake' | 'variant';
  /** Relative RMS error of the rows that differ, computed in this way; and without. */
  readonly error: number;
  readonly errorWithout: number;
}

/** A variant and where it was first met. */
export interface MetVariant extends Finding {
  readonly name: string;
  readonly position: number;
  /** Tensors, 16 tokens at a time, that it explained. */
  readonly times: number;
}

/** Some neighbouring values of a row. */
export interface Excerpt {
  readonly name: string;
  /** Column of the first value. */
  readonly column: number;
  /** null where B does not show it. */
  readonly values: readonly (number | null)[];
  /** Root mean square of the row, as far as it is known. */
  readonly rms: number;
}

/** The first difference. */
export interface Divergence {
  readonly position: number;
  readonly token: number | undefined;
  readonly name: string;
  readonly op: TraceOp | undefined;
  readonly layer: number | undefined;
  readonly weight: string | undefined;
  /** Values of the row, those of them that the candidate has, and those that are beyond the bound. */
  readonly columns: number;
  readonly known: number;
  readonly differing: number;
  /** Worst column, and its head where rows are made of heads. */
  readonly column: number;
  readonly head: number | undefined;
  readonly expected: Excerpt;
  readonly got: Excerpt;
  readonly inputs: readonly Excerpt[];
  /** What the worst value may be off by, and how many times that it is. */
  readonly bound: number;
  readonly ratio: number;
  readonly relativeError: number;
  /** Whether the inputs were the candidate's own, so that the op itself is to blame. */
  readonly sameInputs: boolean;
  /** Rows of the pass that differ in this tensor, as positions. */
  readonly positions: readonly number[];
  /** What reproduces the candidate's numbers; the first is the best. */
  readonly findings: readonly Finding[];
  /** What can be said of the numbers by themselves. */
  readonly descriptions: readonly string[];
}

export interface Side {
  readonly label: string;
  readonly producer: string | undefined;
}

export interface Comparison {
  /** `equal`: every number that both have, to the bit. */
  readonly verdict: 'equal' | 'within-bounds' | 'different';
  readonly a: Side;
  readonly b: Side;
  /** `model`: B's inputs through A's ops, one by one. `direct`: number against number. */
  readonly method: 'model' | 'direct';
  readonly tokens: number;
  /** Names that both have, and those that only one has. */
  readonly compared: number;
  readonly onlyA: readonly string[];
  readonly onlyB: readonly string[];
  /** Files of B that have no name of a tensor, and were not looked at. */
  readonly unread: readonly string[];
  /** Tensors of which both have the same bits throughout; of those in print, the same digits. */
  readonly equal: number;
  /** What came nearest to its bound; ratios are below 1 unless it is the divergence. */
  readonly nearest: { readonly name: string; readonly position: number; readonly ratio: number } | undefined;
  readonly variants: readonly MetVariant[];
  readonly divergence: Divergence | undefined;
}
