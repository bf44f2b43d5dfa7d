/**
 * What can be said of a row that is not as expected, without knowing why: which values, and how they lie to ours.
 * @module
 */

import type { Question } from './hypotheses/question.ts';

/** Sentences without a full stop, the telling ones first. `isBad`: by column of the row. */
export function describeRow(question: Question, row: number, isBad: (column: number) => boolean): string[] {
  const { tensor, expected, got, known } = question;
  const { columns } = tensor;
  const start = row * columns;
  const of = (data: ArrayLike<number>, i: number) => data[start + i];
  const all = Array.from({ length: columns }, (_, i) => i).filter((i) => known?.[start + i] !== 0);
  const bad = all.filter(isBad);
  const list = [...notFinite(question, row, all)];
  if (list.length > 0) return list;
  const values = all.map((i) => of(got, i));
  const ours = all.map((i) => of(expected, i));
  if (values.every((value) => value === 0) && ours.some((value) => value !== 0)) return ['all values are 0'];
  list.push(...whichColumns(question, all, bad));
  list.push(
    ...asNumbers(
      bad.map((i) => of(expected, i)),
      bad.map((i) => of(got, i)),
    ),
  );
  list.push(...saturated(values, ours));
  list.push(...permuted(ours, values));
  return list;
}

/** Where NaN or an infinity comes from. */
function notFinite({ tensor, expected, got, inputs, scene }: Question, row: number, all: readonly number[]): string[] {
  const at = all.filter((i) => !Number.isFinite(got[row * tensor.columns + i]));
  const oursToo = all.filter((i) => !Number.isFinite(expected[row * tensor.columns + i]));
  const name = (i: number) => String(got[row * tensor.columns + i]);
  if (at.length === 0) {
    return oursToo.length === 0 ? [] : [`${oursToo.length} values that should be NaN or infinite are numbers`];
  }
  if (oursToo.length >= at.length) return [];
  const sources = scene.sources(tensor);
  const fromInput = inputs.some((values, i) => {
    const width = scene.get(sources[i])?.tensor.columns ?? 0;
    return values?.subarray(row * width, (row + 1) * width).some((value) => !Number.isFinite(value));
  });
  const where = at.length === 1 ? `column ${at[0]}` : `${at.length} of ${all.length} values, first column ${at[0]}`;
  return [
    fromInput
      ? `${name(at[0])} in ${where}, which its input has, too`
      : `${name(at[0])} arises here, in ${where}: what went in is finite`,
  ];
}

function whichColumns({ tensor }: Question, all: readonly number[], bad: readonly number[]): string[] {
  const { columns, facts } = tensor;
  if (bad.length === 0 || bad.length >= 0.9 * all.length) return [];
  const [first, last] = [bad[0], bad[bad.length - 1]];
  const list: string[] = [];
  const headDim = Number(facts.headDim ?? 0);
  if (headDim > 0) {
    const heads = [...new Set(bad.map((i) => Math.floor(i / headDim)))];
    if (heads.length < columns / headDim)
      list.push(`only in head ${heads.slice(0, 16).join(', ')} of ${columns / headDim}`);
  }
  const isDense = bad.length >= 0.8 * (last - first + 1);
  if (bad.length === 1) list.push(`only column ${first} of ${columns}`);
  else if (isDense && last === columns - 1 && first > 0)
    list.push(`only the last ${columns - first} columns of ${columns}`);
  else if (isDense && first === 0 && last < columns - 1) list.push(`only the first ${last + 1} columns of ${columns}`);
  else if (isDense && first > 0)
    list.push(`only columns ${first} to ${last} of ${columns}, as if of one thread or block`);
  else {
    const step = bad.slice(1).reduce((divisor, i) => gcd(divisor, i - first), 0);
    if (step > 1) list.push(`only columns ${first % step} + ${step}n`);
    else list.push(`only some values: ${bad.length} of ${all.length}`);
  }
  return list;
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** A factor or a summand that all have in common. */
function asNumbers(expected: readonly number[], got: readonly number[]): string[] {
  if (expected.length < 2) return [];
  const n = expected.length;
  let [product, square, gotSquare, sum] = [0, 0, 0, 0];
  for (let i = 0; i < n; i++) {
    product += expected[i] * got[i];
    square += expected[i] * expected[i];
    gotSquare += got[i] * got[i];
    sum += got[i] - expected[i];
  }
  const factor = product / square;
  const offset = sum / n;
  const apart = (of: (i: number) => number) =>
    Math.sqrt(expected.reduce((total, _, i) => total + (got[i] - of(i)) ** 2, 0) / gotSquare);
  if (apart((i) => factor * expected[i]) < 1e-4) return [`${Number(factor.toPrecision(5))} times ours throughout`];
  if (apart((i) => expected[i] + offset) < 1e-4) return [`ours and ${Number(offset.toPrecision(5))} throughout`];
  const cosine = product / Math.sqrt(square * gotSquare);
  const size = Math.sqrt(gotSquare / square);
  return [`cosine ${cosine.toFixed(4)} to ours, ${Number(size.toPrecision(3))} times as large`];
}

function saturated(got: readonly number[], expected: readonly number[]): string[] {
  const top = got.reduce((most, value) => Math.max(most, value), -Infinity);
  const bottom = got.reduce((least, value) => Math.min(least, value), Infinity);
  const count = (values: readonly number[], value: number) => values.filter((one) => one === value).length;
  for (const [limit, word] of [
    [top, 'above'],
    [bottom, 'below'],
  ] as const) {
    const beyond = expected.filter((value) => (word === 'above' ? value > limit : value < limit)).length;
    if (limit !== 0 && count(got, limit) >= 3 && beyond >= 3)
      return [`cut off at ${limit}: ours go ${word} it in ${beyond} places`];
  }
  return [];
}

/** The same values in another order. */
function permuted(expected: readonly number[], got: readonly number[]): string[] {
  const [a, b] = [Float64Array.from(expected).sort(), Float64Array.from(got).sort()];
  const size = a.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (!a.every((value, i) => Math.abs(value - b[i]) <= 1e-5 * size)) return [];
  const n = expected.length;
  const isShift = (by: number) => got.every((value, i) => Math.abs(value - expected[(i + by + n) % n]) <= 1e-5 * size);
  for (let by = 1; by <= Math.min(n - 1, 256); by++) {
    for (const sign of [1, -1]) {
      if (isShift(sign * by)) return [`the same values, shifted by ${by} ${by === 1 ? 'column' : 'columns'}`];
    }
  }
  return ['the same values in another order'];
}
