/**
 * Vectors of ternary matrices: what every byte of a packed type means, whole tensors of each type, and products with codes.
 * @module
 */

import { type EmbeddingType, embeddingTypes, encodeFloats } from '../../convert/types.ts';
import { boundOf } from '../../kernels/conformance/tolerance.ts';
import { type TritKind, trits, values } from '../../kernels/conformance/values.ts';
import { quantizeRows } from '../../kernels/ts/quantize.ts';
import { ternaryMatmul } from '../../kernels/ts/ternary-matmul.ts';
import { decodeInto } from '../../tensors/decode.ts';
import { dtypeByName } from '../../tensors/dtype.ts';
import { decodeTritsI2S, encodeI2S } from '../../tensors/i2s.ts';
import { encodeI2SAs, I2S_LAYOUTS } from '../../tensors/i2s-layouts.ts';
import { tilesOf } from '../../tensors/tiles.ts';
import { codesTableTL1, encodeTL1 } from '../../tensors/tl1.ts';
import { codesTableTL2, encodeTL2 } from '../../tensors/tl2.ts';
import { digitTableTQ1, encodeTQ1 } from '../../tensors/tq1.ts';
import { encodeTQ2 } from '../../tensors/tq2.ts';
import { array } from './array.ts';
import type { Vector } from './types.ts';

/** Stands where a byte means no trit. */
const INVALID = 2;
/** Of every ternary tensor here: exact as a half, so that all types have the same values. */
const SCALE = 1216 / 32768;

export function* packedVectors(): Generator<Vector> {
  yield* bytesOfTypes();
  yield* ternaryTensors();
  yield* tables();
  yield* integerDots();
}

/** All 256 bytes of every packed type -> trits, in the order in which the type counts them. */
function* bytesOfTypes(): Generator<Vector> {
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  const one = (type: string, out: Int8Array): Vector => ({
    name: `unpackBytes/${type}`,
    op: 'unpackBytes',
    parameters: { type, invalid: INVALID },
    inputs: { bytes: array(bytes, 256) },
    outputs: { trits: array(out, 256, out.length / 256) },
  });
  const fields = (shifts: readonly number[]) =>
    Int8Array.from({ length: 256 * 4 }, (_, i) => (((i >> 2) >> shifts[i & 3]) & 3) - 1);
  yield one('I2_S', fields([6, 4, 2, 0]));
  yield one('TQ2_0', fields([0, 2, 4, 6]));
  const digits = digitTableTQ1();
  const digit = (byte: number, n: number) => (digits[byte] < 0 ? INVALID : ((digits[byte] >> (8 - 2 * n)) & 3) - 1);
  yield one(
    'TQ1_0-qs',
    Int8Array.from({ length: 256 * 5 }, (_, i) => digit(Math.floor(i / 5), i % 5)),
  );
  // Of the last four bytes of a block the fifth digit must be 0.
  const isLast = (byte: number) => digits[byte] >= 0 && (digits[byte] & 3) === 0;
  yield one(
    'TQ1_0-qh',
    Int8Array.from({ length: 256 * 4 }, (_, i) => (isLast(i >> 2) ? digit(i >> 2, i & 3) : INVALID)),
  );
  const pairs = new Uint8Array(codesTableTL1().buffer);
  yield one(
    'TL1',
    Int8Array.from(pairs, (code) => (code === 0xff ? INVALID : code - 1)),
  );
  const triples = codesTableTL2();
  const nibbles = Int8Array.from({ length: 2 * 16 * 3 }, (_, i) => {
    const [sign, magnitude] = [Math.floor(i / 48), Math.floor(i / 3) % 16];
    const valid = magnitude <= 13 && !(sign === 1 && magnitude === 0);
    return valid ? triples[4 * (16 * sign + magnitude) + (i % 3)] - 1 : INVALID;
  });
  yield {
    name: 'unpackBytes/TL2-threes',
    op: 'unpackThrees',
    parameters: { invalid: INVALID },
    inputs: {},
    outputs: { trits: array(nibbles, 2, 16, 3) },
  };
}

/** One matrix as every type has it: its bytes, and the trits and the scale that they stand for. */
function* ternaryTensors(): Generator<Vector> {
  const one = (name: string, bytes: Uint8Array, of: Int8Array, rows: number, more = {}): Vector => ({
    name: `decodeTernary/${name}`,
    op: 'decodeTernary',
    parameters: { type: name.split('-')[0], rows, columns: of.length / rows, ...more },
    inputs: { bytes: array(bytes, bytes.length) },
    outputs: { trits: array(of, rows, of.length / rows), scale: array(Float32Array.of(SCALE), 1) },
  });
  const small = trits('random', 8 * 256, 801);
  for (const layout of I2S_LAYOUTS) {
    yield one(`I2_S-${layout}`, encodeI2SAs(layout, small, 256, SCALE), small, 8, { layout });
  }
  yield one('TQ1_0', encodeTQ1(small, SCALE), small, 8);
  yield one('TQ2_0', encodeTQ2(small, SCALE), small, 8);
  // A row whose blocks do not begin with it: 160 is no multiple of 128.
  const across = trits('random', 4 * 160, 802);
  yield one('I2_S-x86-across-rows', encodeI2S(across, SCALE), across, 4, { layout: 'x86' });
  // With 768 columns TL2 has threes and pairs.
  for (const [rows, columns] of [
    [128, 256],
    [256, 768],
  ]) {
    const all = trits('random', rows * columns, 803);
    const [tl1, tl2] = [tilesOf('TL1', rows, columns), tilesOf('TL2', rows, columns)];
    const tiled = (tiles: typeof tl1) => ({ BM: tiles.rows, BK: tiles.columns, bm: tiles.innerRows });
    yield one(`TL1-${rows}x${columns}`, encodeTL1(all, columns, SCALE, tl1), all, rows, tiled(tl1));
    yield one(`TL2-${rows}x${columns}`, encodeTL2(all, columns, SCALE, tl2), all, rows, tiled(tl2));
  }
}

/** Two blocks of every type of embeddings, and what they decode to, exactly. */
function* tables(): Generator<Vector> {
  for (const type of embeddingTypes) {
    const count = 2 * Math.max(32, dtypeByName(type).blockElements);
    yield decoded(type, 'normal', values('normal', count, 810));
    yield decoded(type, 'ties', values('ties', count, 811));
  }
}

function decoded(type: EmbeddingType, kind: string, given: Float32Array): Vector {
  const bytes = encodeFloats(type, given, type);
  const out = new Float32Array(given.length);
  decodeInto(dtypeByName(type), bytes, 0, out.length, out);
  return {
    name: `decodeFloats/${type}-${kind}`,
    op: 'decodeFloats',
    parameters: { type },
    inputs: { bytes: array(bytes, bytes.length) },
    outputs: { values: array(out, out.length) },
  };
}

/**
 * Four rows of trits with two rows of codes. In the long ones all products have one sign: pairs of them are added up in 16 bits
 * by many kernels, and such sums pass 32767 with the 259th product of 127.
 */
function* integerDots(): Generator<Vector> {
  const kinds: readonly TritKind[] = ['plus', 'minus', 'alternating', 'random'];
  for (const columns of [2560, 4096, 6912, 14336]) {
    const x = new Float32Array(2 * columns).fill(0.75, 0, columns).fill(-3, columns);
    yield product(`overflow-${columns}`, kinds, x, columns);
  }
  for (const columns of [128, 256, 1152]) {
    yield product(`random-${columns}`, new Array(9).fill('random'), values('normal', 3 * columns, 820), columns);
  }
  for (const kind of ['ties', 'zeros', 'special'] as const) {
    yield product(kind, new Array(5).fill('random'), values(kind, 2 * 384, 821), 384);
  }
}

function product(name: string, kinds: readonly TritKind[], x: Float32Array, columns: number): Vector {
  const [n, rows] = [x.length / columns, kinds.length];
  const all = new Int8Array(rows * columns);
  for (const [row, kind] of kinds.entries()) all.set(trits(kind, columns, 830 + row), row * columns);
  const weight = encodeI2S(all, SCALE);
  const [codes, scales] = [new Int8Array(x.length), new Float32Array(n)];
  quantizeRows(codes, scales, x, columns, n);
  const sums = new Int32Array(n * rows);
  const unpacked = new Int8Array(all.length);
  decodeTritsI2S(weight, 0, all.length, unpacked);
  for (let i = 0; i < sums.length; i++) {
    const [row, token] = [i % rows, Math.floor(i / rows)];
    for (let c = 0; c < columns; c++) sums[i] += unpacked[row * columns + c] * codes[token * columns + c];
  }
  const out = new Float32Array(n * rows);
  // Rows of whole blocks of 128 are the same bytes in a file and in memory.
  ternaryMatmul(out, weight, SCALE, rows, columns, codes, scales, n);
  return {
    name: `ternaryMatmul/${name}`,
    op: 'ternaryMatmul',
    parameters: { rows, columns },
    inputs: { weight: array(weight, weight.length), codes: array(codes, n, columns), scales: array(scales, n) },
    outputs: { sums: array(sums, n, rows), out: array(out, n, rows) },
    bound: boundOf({ op: 'ternaryMatmul', seed: 0, n, rows, columns, kind: 'normal', trits: 'random' }),
  };
}
