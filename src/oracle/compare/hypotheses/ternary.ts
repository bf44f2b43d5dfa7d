/** Mistakes of products with ternary matrices: of layout, of scale, of sums, of codes. @module */

import type { TraceTensor } from '../../../engine/types.ts';
import { elementAt, I2S_LAYOUTS, type I2sLayout } from '../../../tensors/i2s-layouts.ts';
import { CODING_WAYS, type Coded, countNearHalf } from './quantize.ts';
import { type Alternative, mistake, type Question, variant } from './question.ts';

const f = Math.fround;

/**
 * Codes that tell five trits from one sum: 127 t0 + 27 t1 + 9 t2 + 3 t3 + t4, each greater than twice the sum of those behind it.
 * The first pins the scale of the row to 1.
 */
const DIGITS = [127, 27, 9, 3, 1];

/**
 * The trits (M, K) of the matrix of a ternary product, as the reference multiplies by them: read off its own products, five
 * columns a row. Undefined where the weight's scale is 0.
 */
export async function tritsOf(tensor: TraceTensor, columns: number): Promise<Int8Array | undefined> {
  const { rerun, rows: count, columns: outputs } = tensor;
  const weightScale = Number(tensor.facts.weightScale);
  if (rerun === undefined || weightScale === 0) return undefined;
  const trits = new Int8Array(outputs * columns);
  const step = DIGITS.length * count;
  for (let first = 0; first < columns; first += step) {
    const given = new Float32Array(count * columns);
    for (let i = 0; i < step && first + i < columns; i++) {
      given[Math.floor(i / DIGITS.length) * columns + first + i] = DIGITS[i % DIGITS.length];
    }
    const products = await rerun([given]);
    for (let row = 0; row < count; row++) {
      const at = first + row * DIGITS.length;
      for (let output = 0; output < outputs && at < columns; output++) {
        let rest = Math.round(products[row * outputs + output] / weightScale);
        for (let i = 0; i < DIGITS.length && at + i < columns; i++) {
          const trit = 2 * rest > DIGITS[i] ? 1 : 2 * rest < -DIGITS[i] ? -1 : 0;
          trits[output * columns + at + i] = trit;
          rest -= trit * DIGITS[i];
        }
      }
    }
  }
  return trits;
}

/** Rows by which products are judged: a mistake shows in any, and a large matrix takes its time. */
export const JUDGED_ROWS = 4;

export async function ternaryAlternatives(question: Question): Promise<Alternative[]> {
  const { tensor, scene, inputs, rows } = question;
  const [codesName] = tensor.inputs;
  if (codesName === undefined) return []; // a trace without what went in
  const codes = scene.get(codesName)?.rows;
  const scales = scene.floats(codesName.replace(/codes$/, 'scales'));
  if (!(codes instanceof Int8Array) || scales === undefined) return [];
  const outputs = tensor.columns;
  const columns = codes.length / tensor.rows;
  const weightScale = Number(tensor.facts.weightScale);
  const trits = await tritsOf(tensor, columns);
  if (trits === undefined) return [];
  const isSum = tensor.op === 'acc';
  const [x] = inputs;

  /** The result from sums made by `sum` of the trits of an output and the codes of a row. */
  const result = (sum: (output: number, row: number) => number, ofSum?: (sum: number, scale: number) => number) => {
    const out = new Float32Array(tensor.rows * outputs);
    for (const row of rows) {
      for (let output = 0; output < outputs; output++) {
        const d = sum(output, row);
        const scale = scales[row];
        out[row * outputs + output] = isSum ? d : ofSum === undefined ? f(f(d / scale) * weightScale) : ofSum(d, scale);
      }
    }
    return out;
  };
  const dot = (matrix: Int8Array) => (output: number, row: number) => {
    let sum = 0;
    for (let i = 0; i < columns; i++) sum += matrix[output * columns + i] * codes[row * columns + i];
    return sum;
  };
  const ofMatrix = (matrix: () => Int8Array | undefined) => () => {
    const other = matrix();
    return other && result(dot(other));
  };
  const ofSum = (change: (sum: number) => number) => () => result((output, row) => change(dot(trits)(output, row)));
  const scaled = (of: (sum: number, scale: number) => number) => () => (isSum ? undefined : result(dot(trits), of));

  return [
    ...layouts(trits, columns).map(({ id, says, matrix }) => mistake(id, says, ofMatrix(matrix))),
    mistake(
      'matrix-transposed',
      'the matrix transposed: read column by column',
      ofMatrix(() => transposed(trits, columns)),
    ),
    mistake(
      'trits-negated',
      'weights with the other sign',
      ofSum((sum) => -sum),
    ),
    mistake(
      'trits-codes',
      'codes 0, 1, 2 in place of trits -1, 0, 1: the sum of the activations is not subtracted',
      ofMatrix(() => trits.map((trit) => trit + 1)),
    ),
    mistake(
      'trits-unsigned',
      'weights without their sign',
      ofMatrix(() => trits.map((trit) => Math.abs(trit))),
    ),
    mistake(
      'rows-shifted',
      'rows of the matrix off by one',
      ofMatrix(() => rotated(trits, columns)),
    ),
    mistake(
      'columns-shifted',
      'columns of the matrix off by one',
      ofMatrix(() => rotated(trits, 1)),
    ),
    mistake(
      'sums-i16-wrapped',
      'sums wrapped around in 16 bits',
      ofSum((sum) => (sum << 16) >> 16),
    ),
    mistake(
      'sums-i16-saturated',
      'sums cut off at 16 bits',
      ofSum((sum) => Math.max(-32768, Math.min(32767, sum))),
    ),
    mistake(
      'sums-i16-lanes',
      'overflow of sixteen 16-bit lanes over 32 blocks, as the AVX2 kernels of bitnet.cpp add them',
      () =>
        result((output, row) =>
          lanesOf(trits, output * columns, codes, row * columns, columns, (sum) => (sum << 16) >> 16),
        ),
    ),
    mistake('sums-i16-lanes-saturated', 'sixteen 16-bit lanes over 32 blocks, cut off where they overflow', () =>
      result((output, row) =>
        lanesOf(trits, output * columns, codes, row * columns, columns, (sum) =>
          Math.max(-32768, Math.min(32767, sum)),
        ),
      ),
    ),
    mistake(
      'weight-scale-missing',
      `not multiplied by the scale of the weights, ${weightScale}`,
      scaled((d, s) => d / s),
    ),
    mistake(
      'weight-scale-divided',
      `divided by the scale of the weights, ${weightScale}, in place of multiplied`,
      scaled((d, s) => d / s / weightScale),
    ),
    mistake(
      'weight-scale-twice',
      'multiplied by the scale of the weights twice',
      scaled((d, s) => (d / s) * weightScale * weightScale),
    ),
    mistake(
      'activation-scale-missing',
      'not divided by the scale of the activations',
      scaled((d) => d * weightScale),
    ),
    mistake(
      'activation-scale-multiplied',
      'multiplied by the scale of the activations, 127 / absmax, in place of divided',
      scaled((d, s) => d * s * weightScale),
    ),
    mistake(
      'activation-scale-127',
      'multiplied by absmax and not divided by 127',
      scaled((d, s) => ((d * 127) / s) * weightScale),
    ),
    mistake(
      'activation-absmax-missing',
      'divided by 127, but not multiplied by the absmax of the activations',
      scaled((d) => (d / 127) * weightScale),
    ),
    ...(x === undefined ? [] : ofCodings(question, x, trits, columns, weightScale)),
  ];
}

/** The product with the activations coded in other ways, for traces without codes. */
function ofCodings(
  { tensor, rows, expected, got, scene }: Question,
  x: Float32Array,
  trits: Int8Array,
  columns: number,
  weightScale: number,
): Alternative[] {
  const outputs = tensor.columns;
  if (tensor.op === 'acc') return [];
  const result = (code: (start: number) => Coded) => () => {
    const out = new Float32Array(tensor.rows * outputs);
    for (const row of rows) {
      const { codes, block, steps } = code(row * columns);
      for (let output = 0; output < outputs; output++) {
        let sum = 0;
        for (let at = 0; at < columns; at += block) {
          let part = 0;
          for (let i = at; i < Math.min(columns, at + block); i++) part += trits[output * columns + i] * codes[i];
          sum += part * steps[at / block];
        }
        out[row * outputs + output] = sum * weightScale;
      }
    }
    return out;
  };
  return [
    ...CODING_WAYS.map(({ id, says, kind, code }) => ({
      id,
      says,
      kind,
      rows: result((start) => code(x, start, columns)),
    })),
    mistake(
      'activations-float',
      'activations not quantised',
      result((start) => ({
        codes: Float64Array.from(x.subarray(start, start + columns)),
        block: columns,
        steps: Float64Array.of(1),
      })),
    ),
    variant('codes-near-half', 'sums beside ours by codes of values within four roundings of a half', () => {
      const scales = scene.floats(tensor.inputs[1]);
      if (scales === undefined) return undefined;
      const out = Float32Array.from(expected);
      for (const row of rows) {
        const step = weightScale / scales[row];
        const most = countNearHalf(x, row * columns, columns) * Math.abs(step);
        for (let i = row * outputs; i < (row + 1) * outputs; i++) {
          const steps = (got[i] - expected[i]) / step;
          const isWhole = Math.abs(steps - Math.round(steps)) <= 2 ** -20 * Math.abs(got[i] / step);
          if (Math.abs(got[i] - expected[i]) <= most * 1.001 && isWhole) out[i] = got[i];
        }
      }
      return out;
    }),
  ];
}

/** The same bytes read in the order of another layout. */
function layouts(trits: Int8Array, columns: number) {
  const fits = (layout: I2sLayout) =>
    trits.length % (layout === 'rows4' ? 4 * columns : layout === 'x86' ? 128 : 64) === 0;
  const list: { id: string; says: string; matrix: () => Int8Array }[] = [];
  for (const written of I2S_LAYOUTS) {
    for (const read of I2S_LAYOUTS) {
      if (written === read || !fits(written) || !fits(read)) continue;
      list.push({
        id: `layout-${written}-as-${read}`,
        says: `I2_S of layout ${written} read as ${read}`,
        matrix: () => {
          const out = new Int8Array(trits.length);
          for (let at = 0; at < trits.length / 4; at++) {
            for (let shift = 0; shift < 8; shift += 2) {
              out[elementAt(read, at, shift, columns)] = trits[elementAt(written, at, shift, columns)];
            }
          }
          return out;
        },
      });
    }
  }
  const reversed = (block: number) => () => {
    const [out, plane] = [new Int8Array(trits.length), block / 4];
    for (let i = 0; i < trits.length; i++) {
      const within = i % block;
      out[i - within + (3 - Math.floor(within / plane)) * plane + (within % plane)] = trits[i];
    }
    return out;
  };
  if (trits.length % 128 === 0) {
    list.push({
      id: 'layout-planes-reversed',
      says: 'bits of a byte in the other order: low bits first, as TQ2_0 has them',
      matrix: reversed(128),
    });
  }
  list.push({
    id: 'layout-neighbours',
    says: 'four neighbouring values a byte in place of planes of 32',
    matrix: () => neighbours(trits),
  });
  return list;
}

/** Byte p of a block of 128: values 4p .. 4p + 3 in place of p, 32 + p, 64 + p, 96 + p. */
function neighbours(trits: Int8Array): Int8Array {
  const out = Int8Array.from(trits);
  for (let i = 0; i + 128 <= trits.length; i += 128) {
    for (let p = 0; p < 32; p++)
      for (let plane = 0; plane < 4; plane++) out[i + 4 * p + plane] = trits[i + 32 * plane + p];
  }
  return out;
}

function transposed(trits: Int8Array, columns: number): Int8Array {
  const rows = trits.length / columns;
  const out = new Int8Array(trits.length);
  for (let i = 0; i < out.length; i++) out[i] = trits[(i % columns) * rows + Math.floor(i / columns)];
  return out;
}

function rotated(trits: Int8Array, by: number): Int8Array {
  const out = new Int8Array(trits.length);
  out.set(trits.subarray(by));
  out.set(trits.subarray(0, by), trits.length - by);
  return out;
}

/**
 * Sixteen lanes: byte p of 32 goes to lane p >> 1; the four planes of up to 32 blocks are added up before a lane is widened.
 * Codes are 0, 1, 2, and the sum of the activations is subtracted at the end (bitnet.cpp, ggml_vec_dot_i2_i8_s).
 */
export function lanesOf(
  trits: Int8Array,
  start: number,
  codes: Int8Array,
  codeStart: number,
  columns: number,
  narrow: (sum: number) => number,
): number {
  let total = 0;
  for (let chunk = 0; chunk < columns; chunk += 32 * 128) {
    const lanes = new Int32Array(16);
    const end = Math.min(columns, chunk + 32 * 128);
    for (let i = chunk; i < end; i += 32) {
      for (let lane = 0; lane < 16; lane++) {
        const at = i + 2 * lane;
        let pair = 0;
        for (let j = at; j < Math.min(at + 2, end); j++) pair += (trits[start + j] + 1) * codes[codeStart + j];
        lanes[lane] = narrow(lanes[lane] + pair);
      }
    }
    for (const lane of lanes) total += lane;
  }
  for (let i = 0; i < columns; i++) total -= codes[codeStart + i];
  return total;
}
