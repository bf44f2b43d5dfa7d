/** Mistakes of rotary position embedding. @module */

import type { RopeStyle } from '../../../kernels/interface.ts';
import { rope } from '../../../kernels/ts/rope.ts';
import { createRopeAngles } from '../../../model/rope-angles.ts';
import { type Alternative, mistake, type Question } from './question.ts';

const BASES = [10000, 50000, 100000, 160000, 500000, 1000000, 1000042];
const FACTORS = [2, 4, 8, 32];

/** Which `count` rows of angles, (headDim): cosines, then sines. */
type Angles = Float32Array;

export async function ropeAlternatives({ tensor, inputs: [x] }: Question): Promise<Alternative[]> {
  if (x === undefined) return [];
  const { rows: count, columns, position } = tensor;
  const headDim = Number(tensor.facts.headDim);
  const style = tensor.facts.style as RopeStyle;
  const half = headDim / 2;
  const heads = columns / headDim;
  const turned = (angles: Angles, as: RopeStyle = style, of: Float32Array = x) => {
    const out = Float32Array.from(of);
    rope(out, angles, heads, headDim, as, count);
    return out;
  };
  const made = (base: number, at: (position: number) => number = (p) => p): Angles => {
    const angles = new Float32Array(count * headDim);
    const write = createRopeAngles({ headDim, ropeBase: base, ropeFactor: 1 }, undefined);
    for (let row = 0; row < count; row++) write(angles, row, at(position + row));
    return angles;
  };
  const own = await anglesOf();
  const other: RopeStyle = style === 'neox' ? 'norm' : 'neox';
  const pairs = { neox: '(i, i + d/2)', norm: '(2i, 2i + 1)' };
  const ownBase = own === undefined ? undefined : BASES.find((base) => isClose(made(base), own));
  const list: Alternative[] = [
    mistake('rope-missing', 'no rotation', () => x),
    mistake(
      `rope-style-${other}`,
      `rope of style ${other}, pairs ${pairs[other]}, in place of ${style}, pairs ${pairs[style]}`,
      () => own && turned(own, other),
    ),
    mistake('rope-backwards', 'rotated backwards: sines with the other sign', () => own && turned(conjugate(own))),
    mistake('rope-twice', 'rotated twice', () => own && turned(own, style, turned(own))),
    ...[1, -1].map((by) =>
      mistake('rope-position', `positions off by one: rotated by ${by > 0 ? 'p + 1' : 'p - 1'} in place of p`, () => {
        const step = own === undefined ? undefined : stepOf(own);
        return own && step && turned(times(own, by > 0 ? step : conjugate(step)));
      }),
    ),
    ...BASES.filter((base) => base !== ownBase).map((base) =>
      mistake('rope-base', `rope base ${base}${ownBase === undefined ? '' : ` in place of ${ownBase}`}`, () =>
        turned(made(base)),
      ),
    ),
  ];
  if (ownBase !== undefined) {
    for (const by of FACTORS) {
      list.push(mistake('rope-factor', `positions divided by ${by}`, () => turned(made(ownBase, (p) => p / by))));
      list.push(mistake('rope-factor', `positions multiplied by ${by}`, () => turned(made(ownBase, (p) => p * by))));
    }
  }
  return list;

  /** The angles in use, by turning the pair (1, 0) in every row. */
  async function anglesOf(): Promise<Angles | undefined> {
    const { ropeBase } = tensor.facts;
    if (tensor.rerun === undefined) return ropeBase === undefined ? undefined : made(Number(ropeBase));
    const [first, second] =
      style === 'neox' ? [(i: number) => i, (i: number) => i + half] : [(i: number) => 2 * i, (i: number) => 2 * i + 1];
    const probe = new Float32Array(count * columns);
    for (let row = 0; row < count; row++) for (let i = 0; i < half; i++) probe[row * columns + first(i)] = 1;
    const result = await tensor.rerun([probe]);
    const angles = new Float32Array(count * headDim);
    for (let row = 0; row < count; row++) {
      for (let i = 0; i < half; i++) {
        angles[row * headDim + i] = result[row * columns + first(i)];
        angles[row * headDim + half + i] = result[row * columns + second(i)];
      }
    }
    return angles;
  }

  function conjugate(angles: Angles): Angles {
    return angles.map((value, i) => (i % headDim < half ? value : -value));
  }

  /** What turns a row into the next one, the same for all; there must be two. */
  function stepOf(angles: Angles): Angles | undefined {
    if (count < 2) return undefined;
    const last = angles.subarray((count - 1) * headDim);
    const before = angles.subarray((count - 2) * headDim, (count - 1) * headDim);
    const step = times(last, conjugate(before), 1);
    return Float32Array.from(angles, (_, i) => step[i % headDim]);
  }

  /** Angles added, as products of complex numbers. */
  function times(a: Angles, b: Angles, rows = count): Angles {
    const out = new Float32Array(rows * headDim);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < half; i++) {
        const [re, im] = [row * headDim + i, row * headDim + half + i];
        out[re] = a[re] * b[re] - a[im] * b[im];
        out[im] = a[re] * b[im] + a[im] * b[re];
      }
    }
    return out;
  }
}

function isClose(a: Angles, b: Angles): boolean {
  return a.every((value, i) => Math.abs(value - b[i]) <= 1e-6);
}
