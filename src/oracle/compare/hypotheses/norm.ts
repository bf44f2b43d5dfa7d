/** Mistakes of RMSNorm. @module */

import { rmsNorm } from '../../../kernels/ts/norm.ts';
import { type Alternative, DEFINITION, mistake, type Question } from './question.ts';

const OTHER_EPS = [0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3];

export async function normAlternatives(question: Question): Promise<Alternative[]> {
  const {
    tensor,
    inputs: [x],
    rows,
  } = question;
  if (x === undefined || tensor.gain === undefined) return [];
  const read = tensor.gain;
  const eps = Number(tensor.facts.eps);
  /** x * r(mean, sum) * gain' of rows of the gain's own length; `whole`: normalised as one row however many heads it has. */
  const by = (
    gainOf: (gain: number) => number,
    r: ((mean: number, sum: number, average: number) => number) | undefined,
    { whole = false, centred = false } = {},
  ) => {
    return async () => {
      const gain = await read();
      const length = whole ? tensor.columns : gain.length;
      const out = new Float32Array(x.length);
      for (const row of rows) {
        for (let at = row * tensor.columns; at < (row + 1) * tensor.columns; at += length) {
          const values = x.subarray(at, at + length);
          const average = values.reduce((sum, value) => sum + value, 0) / length;
          const shift = centred ? average : 0;
          const sum = values.reduce((total, value) => total + (value - shift) * (value - shift), 0);
          const factor = r === undefined ? 1 / Math.sqrt(sum / length + eps) : r(sum / length, sum, average);
          for (let i = 0; i < length; i++) out[at + i] = (values[i] - shift) * factor * gainOf(gain[i % gain.length]);
        }
      }
      return out;
    };
  };
  const same = (gain: number) => gain;
  const solved = solvedEps(question, await read());
  return [
    mistake('reference-differs', DEFINITION, by(same, undefined)),
    mistake('norm-missing', 'no norm at all: the input as it is', () => x),
    mistake(
      'gain-missing',
      'normalised, but not multiplied by the gain',
      by(() => 1, undefined),
    ),
    mistake(
      'normalise-missing',
      'multiplied by the gain, but not normalised',
      by(same, () => 1),
    ),
    mistake(
      'gain-plus-one',
      'multiplied by gain + 1',
      by((gain) => gain + 1, undefined),
    ),
    mistake(
      'gain-minus-one',
      'multiplied by gain - 1',
      by((gain) => gain - 1, undefined),
    ),
    mistake(
      'gain-twice',
      'multiplied by the gain twice',
      by((gain) => gain * gain, undefined),
    ),
    ...OTHER_EPS.filter((other) => Math.fround(other) !== Math.fround(eps)).map((other) =>
      mistake(
        'norm-eps',
        `eps ${other} in place of ${Number(eps.toPrecision(6))}`,
        by(same, (mean) => 1 / Math.sqrt(mean + other)),
      ),
    ),
    mistake(
      'norm-eps-solved',
      `another eps than ${Number(eps.toPrecision(6))}, about ${Number((solved ?? 0).toPrecision(4))}`,
      solved === undefined ? () => undefined : by(same, (mean) => 1 / Math.sqrt(mean + solved)),
    ),
    mistake(
      'norm-eps-outside',
      'eps added to the root, not under it',
      by(same, (mean) => 1 / (Math.sqrt(mean) + eps)),
    ),
    mistake(
      'norm-of-sum',
      'the sum of squares in place of their mean',
      by(same, (_, sum) => 1 / Math.sqrt(sum + eps)),
    ),
    mistake(
      'norm-without-root',
      'divided by the mean square, without the root',
      by(same, (mean) => 1 / (mean + eps)),
    ),
    mistake('layer-norm', 'LayerNorm: the mean is subtracted first', by(same, undefined, { centred: true })),
    mistake(
      'norm-of-whole-row',
      'the whole row normalised at once, not head by head',
      by(same, undefined, { whole: true }),
    ),
  ];
}

/**
 * The eps that gives the worst rows, out of their greatest values. Any factor of one row is that of some eps; so it takes rows of
 * different mean squares that agree.
 */
function solvedEps({ tensor, inputs: [x], rows, got, known }: Question, gain: Float32Array): number | undefined {
  const { columns } = tensor;
  if (x === undefined || gain.length !== columns || rows.length < 2) return undefined;
  const means: number[] = [];
  const found: number[] = [];
  for (const row of rows) {
    let mean = 0;
    let most = 0;
    let factor = Number.NaN;
    for (let i = 0; i < columns; i++) {
      const at = row * columns + i;
      mean += (x[at] * x[at]) / columns;
      const product = x[at] * gain[i];
      if (Math.abs(product) <= most || known?.[at] === 0) continue;
      most = Math.abs(product);
      factor = got[at] / product;
    }
    means.push(mean);
    found.push(1 / (factor * factor) - mean);
  }
  const [least, greatest] = [Math.min(...found), Math.max(...found)];
  const isOne = least > 0 && greatest < 1.01 * least; // false of NaN
  return isOne && Math.max(...means) > 1.01 * Math.min(...means) ? (least + greatest) / 2 : undefined;
}

/** The same rows under another gain: whether two norms of a model are swapped shows only once the other has been met. */
export async function withGainOf(
  { tensor, inputs: [x] }: Question,
  other: NonNullable<Question['tensor']['gain']>,
): Promise<Float32Array | undefined> {
  const gain = await other();
  if (x === undefined || x.length % gain.length !== 0) return undefined;
  const out = new Float32Array(x.length);
  rmsNorm(out, x, gain, Number(tensor.facts.eps), gain.length, x.length / gain.length);
  return out;
}
