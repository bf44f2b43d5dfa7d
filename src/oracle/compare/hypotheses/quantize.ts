/** Other ways of making int8 codes of a row. @module */

import { QUANTIZE_EPS } from '../../../kernels/ts/quantize.ts';
import { roundHalfEven } from '../../../numeric/exp.ts';
import { type Alternative, DEFINITION, mistake, type Question, variant } from './question.ts';

const f = Math.fround;

/** Codes of one row, and what one step of them is worth, block by block. */
export interface Coded {
  readonly codes: Float64Array;
  /** Values of a block; the row's length where there is one. */
  readonly block: number;
  /** x is near code * step. */
  readonly steps: Float64Array;
}

export interface CodingWay {
  readonly id: string;
  readonly says: string;
  readonly kind: 'mistake' | 'variant';
  /** `row` of `columns` values at `start` of `x`, which is `rows` of them. */
  readonly code: (x: Float32Array, start: number, columns: number) => Coded;
}

export const CODING_WAYS: readonly CodingWay[] = [
  rounding(
    'round-half-away',
    'codes rounded half away from zero in place of half to even',
    (value) => Math.sign(value) * Math.floor(Math.abs(value) + 0.5),
  ),
  rounding('round-half-up', 'codes rounded half up in place of half to even', (value) => Math.floor(value + 0.5)),
  rounding('round-truncate', 'codes cut towards zero in place of rounded', Math.trunc),
  rounding('round-floor', 'codes rounded down', Math.floor),
  {
    id: 'codes-128',
    says: 'codes scaled to 128 and cut at 127',
    kind: 'mistake',
    code: (x, start, columns) =>
      inBlocks(
        x,
        start,
        columns,
        columns,
        (absmax) => f(128 / absmax),
        (value) => Math.min(127, Math.max(-128, roundHalfEven(value))),
      ),
  },
  {
    id: 'codes-per-tensor',
    says: 'one scale for all rows in place of one for each',
    kind: 'mistake',
    code: (x, start, columns) => {
      const scale = f(127 / absmaxOf(x, 0, x.length));
      return inBlocks(x, start, columns, columns, () => scale);
    },
  },
  ordered('x / absmax * 127', (value, absmax) => f(f(value / absmax) * 127)),
  ordered('x * 127 / absmax', (value, absmax) => f(f(value * 127) / absmax)),
  ordered('x / (absmax / 127)', (value, absmax) => f(value / f(absmax / 127))),
  ordered('x * 127 / absmax in f64', (value, absmax) => (value * 127) / absmax),
  {
    id: 'codes-q8_k',
    says: 'codes in blocks of 256 with a scale each, as llama.cpp quantises for TQ1_0 and TQ2_0 (Q8_K)',
    kind: 'variant',
    code: q8k,
  },
  ...[32, 64, 128, 256].map(
    (block): CodingWay => ({
      id: `codes-per-block-${block}`,
      says: `codes in blocks of ${block} values with a scale each, in place of one scale a row`,
      kind: 'mistake',
      code: (x, start, columns) => inBlocks(x, start, columns, block, (absmax) => f(127 / absmax)),
    }),
  ),
];

const BY_DEFINITION = rounding('reference-differs', DEFINITION, roundHalfEven);

function rounding(id: string, says: string, round: (value: number) => number): CodingWay {
  return {
    id,
    says,
    kind: 'mistake',
    code: (x, start, columns) => inBlocks(x, start, columns, columns, (absmax) => f(127 / absmax), round),
  };
}

function ordered(formula: string, scaled: (value: number, absmax: number) => number): CodingWay {
  return {
    id: 'codes-order',
    says: `codes computed as ${formula}, which rounds otherwise beside a half`,
    kind: 'variant',
    code: (x, start, columns) => {
      const absmax = absmaxOf(x, start, columns);
      const codes = new Float64Array(columns);
      for (let i = 0; i < columns; i++) codes[i] = roundHalfEven(scaled(x[start + i], absmax)) || 0;
      return { codes, block: columns, steps: Float64Array.of(1 / f(127 / absmax)) };
    },
  };
}

function absmaxOf(x: Float32Array, start: number, count: number): number {
  let absmax: number = QUANTIZE_EPS;
  for (let i = start; i < start + count; i++) absmax = Math.max(absmax, Math.abs(x[i]) || 0);
  return absmax;
}

function inBlocks(
  x: Float32Array,
  start: number,
  columns: number,
  block: number,
  scaleOf: (absmax: number) => number,
  round: (value: number) => number = roundHalfEven,
): Coded {
  const codes = new Float64Array(columns);
  const steps = new Float64Array(Math.ceil(columns / block));
  for (let at = 0; at < columns; at += block) {
    const end = Math.min(columns, at + block);
    const scale = scaleOf(absmaxOf(x, start + at, end - at));
    for (let i = at; i < end; i++) codes[i] = round(f(x[start + i] * scale)) || 0;
    steps[at / block] = 1 / scale;
  }
  return { codes, block, steps };
}

/** quantize_row_q8_K of llama.cpp: the value of the largest magnitude, first of equals, becomes -127. */
function q8k(x: Float32Array, start: number, columns: number): Coded {
  const block = 256;
  const codes = new Float64Array(columns);
  const steps = new Float64Array(Math.ceil(columns / block));
  for (let at = 0; at < columns; at += block) {
    const end = Math.min(columns, at + block);
    let greatest = 0;
    for (let i = at; i < end; i++) if (Math.abs(x[start + i]) > Math.abs(greatest)) greatest = x[start + i];
    if (greatest === 0) continue;
    const inverse = f(-127 / greatest);
    for (let i = at; i < end; i++) codes[i] = Math.min(127, roundHalfEven(f(inverse * x[start + i]))) || 0;
    steps[at / block] = 1 / inverse;
  }
  return { codes, block, steps };
}

/** Values so near a half that one rounding on the way decides on their code. */
function nearHalf(value: number): boolean {
  const size = Math.abs(value);
  return Math.abs(size - Math.floor(size) - 0.5) <= 4 * 2 ** -24 * size;
}

/** How many codes of a row may be the one beside. */
export function countNearHalf(x: Float32Array, start: number, columns: number): number {
  const scale = f(127 / absmaxOf(x, start, columns));
  let count = 0;
  for (let i = start; i < start + columns; i++) if (nearHalf(x[i] * scale)) count++;
  return count;
}

export function quantizeAlternatives({ tensor, inputs: [x], rows, expected, got }: Question): Alternative[] {
  if (x === undefined) return [];
  const { columns: outputs } = tensor;
  const columns = x.length / tensor.rows;
  const isCodes = tensor.type === 'i8';
  return [
    ...[BY_DEFINITION, ...CODING_WAYS].map(({ id, says, kind, code }): Alternative => {
      const make = () => {
        const out = new Float32Array(tensor.rows * outputs);
        for (const row of rows) {
          const { codes, block, steps } = code(x, row * columns, columns);
          if (!isCodes && block < columns) return undefined;
          out.set(isCodes ? codes : steps.map((step) => 1 / step), row * outputs);
        }
        return out;
      };
      return { id, says, kind, rows: make };
    }),
    ...(isCodes
      ? [
          mistake('codes-negated', 'codes with the other sign', () => Float32Array.from(expected, (code) => -code)),
          variant('codes-near-half', 'codes beside ours where a value lies within four roundings of a half', () => {
            const out = Float32Array.from(expected);
            for (const row of rows) {
              const scale = f(127 / absmaxOf(x, row * columns, columns));
              for (let i = row * columns; i < (row + 1) * columns; i++) {
                if (Math.abs(got[i] - expected[i]) === 1 && nearHalf(x[i] * scale)) out[i] = got[i];
              }
            }
            return out;
          }),
        ]
      : [
          mistake('scales-inverse', 'absmax / 127 in place of 127 / absmax', () =>
            Float32Array.from(expected, (s) => 1 / s),
          ),
          mistake('scales-absmax', 'absmax in place of 127 / absmax', () =>
            Float32Array.from(expected, (s) => 127 / s),
          ),
        ]),
  ];
}
