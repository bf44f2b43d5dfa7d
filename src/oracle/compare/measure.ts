/**
 * How far one row of numbers is from another.
 * @module
 */

import type { TraceData } from '../../engine/types.ts';

/** How far values may be off. */
export interface RowBound {
  /** Of the value in this column. */
  readonly element: (expected: number, column: number) => number;
  /**
   * Beyond that, the relative RMS error that unknown differences of the inputs explain; 0 where the inputs were the same. See
   * `bounds.ts`.
   */
  readonly noise: number;
  /** By how much noise of 1 would move the value in this column; absent: all by the RMS of the row. */
  readonly spread?: ((column: number) => number) | undefined;
}

export interface Row {
  readonly data: TraceData;
  readonly start: number;
  readonly columns: number;
}

/** A row of a candidate: the values it has, and how far they are from what was computed there. */
export interface GotRow extends Row {
  /** By element of `data`; absent: all are. */
  readonly known?: Uint8Array | undefined;
  readonly resolution: number;
}

export interface Measure {
  /** The same bits in all values that are known; NaN is NaN, and zeros of both signs are one. */
  readonly isEqual: boolean;
  /** Number of known values, and of those beyond the bound of an element. */
  readonly known: number;
  readonly differing: number;
  /** RMS of the difference over RMS of what was expected, over known values. Infinity where only one is finite. */
  readonly relative: number;
  /** The row is within its bounds if this is at most 1. */
  readonly ratio: number;
  /** Column of the worst value, and its bound. */
  readonly column: number;
  readonly bound: number;
}

export function measure(expected: Row, got: GotRow, { element, noise, spread }: RowBound): Measure {
  let [known, differing, isEqual] = [0, 0, true];
  let [worst, column, bound] = [-1, 0, 0];
  let [sumError, sumExcess, sumExpected, sumSpread] = [0, 0, 0, 0];
  for (let i = 0; i < got.columns; i++) {
    if (got.known !== undefined && got.known[got.start + i] === 0) continue;
    known++;
    if (spread !== undefined) sumSpread += finiteSquare(spread(i));
    const [e, g] = [expected.data[expected.start + i], got.data[got.start + i]];
    if (Object.is(e, g)) {
      sumExpected += Number.isFinite(e) ? e * e : 0;
      continue;
    }
    const allowed = element(e, i) + got.resolution;
    const off = Math.abs(e - g);
    if (e !== g && !(off <= got.resolution)) isEqual = false;
    // NaN against a number, or an infinity against anything else: as far off as can be.
    const bothFinite = Number.isFinite(off);
    const ratio = e === g ? 0 : bothFinite ? (allowed === 0 ? Infinity : off / allowed) : Infinity;
    if (ratio > 1) differing++;
    if (
      ratio > worst ||
      (ratio === worst && off > Math.abs(expected.data[expected.start + column] - got.data[got.start + column]))
    ) {
      worst = ratio;
      column = i;
      bound = allowed;
    }
    if (!bothFinite && e !== g) sumError = Infinity;
    else if (bothFinite) {
      sumError += off * off;
      sumExcess += Math.max(0, off - allowed) ** 2;
      sumExpected += e * e;
    }
  }
  const relative = sumError === 0 ? 0 : Math.sqrt(sumError / sumExpected);
  let ratio = Math.max(worst, 0);
  if (noise > 0 && Number.isFinite(sumError)) {
    // Printed corners of a row say little of its size: what is quiet there may be loud elsewhere.
    const size = spread === undefined ? Math.max(sumExpected, meanSquare(expected) * known) : sumSpread;
    ratio = sumExcess === 0 ? 0 : Math.sqrt(sumExcess / size) / noise;
  }
  return { isEqual, known, differing, relative: relative || 0, ratio, column, bound };
}

/** What comes of NaN and infinities has no size: one of them would hide all others of a row. */
function finiteSquare(value: number): number {
  return Number.isFinite(value) ? value * value : 0;
}

export function meanSquare({ data, start, columns }: Row): number {
  let sum = 0;
  let count = 0;
  for (let i = start; i < start + columns; i++) {
    if (!Number.isFinite(data[i])) continue;
    sum += data[i] * data[i];
    count++;
  }
  return count === 0 ? 0 : sum / count;
}

export function rms(row: Row): number {
  return Math.sqrt(meanSquare(row));
}
