/**
 * What a case does: the same calls on any backend, and the numbers that come out.
 * @module
 */

import { encodeAffine } from '../../tensors/affine.ts';
import { type BlockTernaryName, dtypeByName } from '../../tensors/dtype.ts';
import { encodeBF16, encodeF16, encodeF32 } from '../../tensors/floats.ts';
import { encodeI2S } from '../../tensors/i2s.ts';
import { loadPacked, type ReadTensor } from '../../tensors/load.ts';
import { packedBytes, packRows } from '../../tensors/packed.ts';
import { encodeQ6_K } from '../../tensors/q6_k.ts';
import { encodeQ8_0 } from '../../tensors/q8_0.ts';
import { loadRequantized } from '../../tensors/requantize.ts';
import type { TopRow } from '../../tensors/top-row.ts';
import { encodeTQ1 } from '../../tensors/tq1.ts';
import { encodeTQ2 } from '../../tensors/tq2.ts';
import type { Backend, Buf, DenseType, Weight } from '../interface.ts';
import type { ConformanceCase } from './cases.ts';
import { type TritKind, trits, values } from './values.ts';

/** Named outputs of one case. */
export type Outputs = Readonly<Record<string, Float32Array>>;

type CaseOf<Op extends ConformanceCase['op']> = Extract<ConformanceCase, { op: Op }>;
type Programs = { readonly [Op in ConformanceCase['op']]: (backend: Backend, c: CaseOf<Op>) => Promise<Outputs> };

/** Rows behind the last one that an op may write; they must come back as they were. */
const GUARD_ROWS = 1;
const GUARD = 12345.5;

function upload(backend: Backend, data: Float32Array, columns: number): Buf {
  const buf = backend.alloc('f32', [data.length / columns, columns]);
  backend.write(buf, data);
  return buf;
}

/** An output buffer of n rows and a guard row, filled with a number that ops do not produce. */
function target(backend: Backend, n: number, columns: number): Buf {
  return upload(backend, new Float32Array((n + GUARD_ROWS) * columns).fill(GUARD), columns);
}

function fetch(backend: Backend, buf: Buf): Promise<Float32Array> {
  return backend.read(
    buf,
    buf.shape.reduce((a, b) => a * b, 1),
  );
}

const ENCODERS: Record<DenseType, (data: Float32Array) => Uint8Array> = {
  F32: encodeF32,
  F16: encodeF16,
  BF16: encodeBF16,
  Q8_0: encodeQ8_0,
  Q6_K: encodeQ6_K,
  AFFINE: encodeAffine,
};

const TERNARY_ENCODERS: Record<BlockTernaryName, (trits: Int8Array, scale: number) => Uint8Array> = {
  I2_S: encodeI2S,
  TQ1_0: encodeTQ1,
  TQ2_0: encodeTQ2,
};

/** Reads a file that consists of these bytes. */
function readerOf(bytes: Uint8Array): ReadTensor {
  return async (to, offsetBytes) => to.set(bytes.subarray(offsetBytes, offsetBytes + to.length));
}

/**
 * Weights of cases that were run before, by seed: most of the time goes into making them, and every candidate is given the same.
 * They go when nobody holds the case any more.
 */
const weightsOf = new WeakMap<ConformanceCase, Map<number, Uint8Array>>();

function madeOnce(c: ConformanceCase, seed: number, make: () => Uint8Array): Uint8Array {
  const known = weightsOf.get(c) ?? new Map<number, Uint8Array>();
  weightsOf.set(c, known);
  const bytes = known.get(seed) ?? make();
  known.set(seed, bytes);
  return bytes;
}

function denseWeight(
  backend: Backend,
  c: CaseOf<'denseMatmul' | 'denseTopK' | 'embed'>,
  seed: number,
): Promise<Weight> {
  const { dtype, rows, columns } = c;
  const bytes = madeOnce(c, seed, () => ENCODERS[dtype](values('normal', rows * columns, seed)));
  return backend.upload({
    kind: 'dense',
    dtype,
    name: `dense ${dtype}`,
    rows,
    columns,
    byteLength: bytes.length,
    fill: async (to) => {
      to.set(bytes);
      return 1;
    },
  });
}

/** `readTop` gives what `read` gives, without what was left out. */
function wantSameTop({ ids, values: tops }: TopRow, products: Float32Array, row: number): void {
  let at = 0;
  for (let id = 0; id < products.length; id++) {
    if (products[id] === -Infinity) continue;
    if (ids[at] !== id || !Object.is(tops[at], products[id])) {
      throw new Error(
        `readTop, row ${row}, element ${id}: expected ${products[id]}, got ${tops[at]} of element ${ids[at]}`,
      );
    }
    at++;
  }
  if (at !== ids.length) throw new Error(`readTop, row ${row}: expected ${at} elements, got ${ids.length}`);
}

function ternaryWeight(
  backend: Backend,
  c: ConformanceCase,
  kind: TritKind,
  rows: number,
  columns: number,
  seed: number,
  scale = 0.0371,
): Promise<Weight> {
  return backend.upload({
    kind: 'ternary',
    name: `ternary ${kind}`,
    rows,
    columns,
    byteLength: packedBytes(rows, columns),
    fill: async (to) => {
      to.set(madeOnce(c, seed, () => packRows(trits(kind, rows * columns, seed), rows, columns)));
      return Math.fround(scale);
    },
  });
}

async function elementwise(
  backend: Backend,
  c: CaseOf<'gatedRelu2' | 'gatedSilu' | 'gatedGelu' | 'add'>,
): Promise<Outputs> {
  const a = upload(backend, values(c.kind, c.n * c.columns, c.seed), c.columns);
  const b = upload(backend, values(c.kind, c.n * c.columns, c.seed + 5000), c.columns);
  const out = target(backend, c.n, c.columns);
  backend[c.op](out, a, b, c.n);
  backend[c.op](a, a, b, c.n); // in place
  return { out: await fetch(backend, out), inPlace: await fetch(backend, a) };
}

export const programs: Programs = {
  async rmsNorm(backend, c) {
    const x = upload(backend, values(c.kind, c.n * c.columns, c.seed), c.columns);
    const gain = backend.alloc('f32', [c.columns]);
    backend.write(gain, values('normal', c.columns, c.seed + 5000));
    const out = target(backend, c.n, c.columns);
    backend.rmsNorm(out, x, gain, 1e-5, c.n);
    return { out: await fetch(backend, out) };
  },

  async quantizeRows(backend, c) {
    const x = upload(backend, values(c.kind, c.n * c.columns, c.seed), c.columns);
    const q = backend.allocQuantized(c.n, c.columns);
    backend.quantizeRows(q, x, c.n);
    const { codes, scales } = await backend.readQuantized(q, c.n);
    return { codes: Float32Array.from(codes), scales };
  },

  async rmsNormQuantize(backend, c) {
    const x = upload(backend, values(c.kind, c.n * c.columns, c.seed), c.columns);
    const gain = backend.alloc('f32', [c.columns]);
    backend.write(gain, values('normal', c.columns, c.seed + 5000));
    const q = backend.allocQuantized(c.n + GUARD_ROWS, c.columns);
    backend.rmsNormQuantize(q, x, gain, 1e-5, c.n);
    const { codes, scales } = await backend.readQuantized(q, c.n + GUARD_ROWS);
    return { codes: Float32Array.from(codes), scales };
  },

  async ternaryMatmul(backend, c) {
    const x = upload(backend, values(c.kind, c.n * c.columns, c.seed), c.columns);
    const q = backend.allocQuantized(c.n, c.columns);
    const weight = await ternaryWeight(backend, c, c.trits, c.rows, c.columns, c.seed + 5000);
    const out = target(backend, c.n, c.rows);
    backend.quantizeRows(q, x, c.n);
    backend.ternaryMatmul(out, weight, q, c.n);
    return { out: await fetch(backend, out) };
  },

  /** After the group the same products again, with other codes and other numbers of tokens between them. */
  async ternaryGroup(backend, c) {
    const make = (seed: number) => {
      const q = backend.allocQuantized(c.n, c.columns);
      backend.quantizeRows(q, upload(backend, values('normal', c.n * c.columns, seed), c.columns), c.n);
      return q;
    };
    const [q, other] = [make(c.seed), make(c.seed + 1)];
    const weights: Weight[] = [];
    for (const [i, rows] of c.rows.entries()) {
      weights.push(await ternaryWeight(backend, c, 'random', rows, c.columns, c.seed + 5000 + i, 0.0371 * (i + 1)));
    }
    const outs = (all: string) =>
      c.rows.map((rows, i) => ({ name: `${all} ${i}`, buf: target(backend, c.n, rows), weight: weights[i] }));
    const [group, codes, tokens] = [outs('group'), outs('codes'), outs('tokens')];
    for (const { buf, weight } of group) backend.ternaryMatmul(buf, weight, q, c.n);
    for (const [i, { buf, weight }] of codes.entries()) backend.ternaryMatmul(buf, weight, i === 1 ? other : q, c.n);
    for (const [i, { buf, weight }] of tokens.entries()) backend.ternaryMatmul(buf, weight, q, Math.max(1, c.n - i));
    const outputs: Record<string, Float32Array> = {};
    for (const { name, buf } of [...group, ...codes, ...tokens]) outputs[name] = await fetch(backend, buf);
    return outputs;
  },

  async denseMatmul(backend, c) {
    const x = upload(backend, values(c.kind, c.n * c.columns, c.seed), c.columns);
    const weight = await denseWeight(backend, c, c.seed + 5000);
    const out = target(backend, c.n, c.rows);
    backend.denseMatmul(out, weight, x, c.n);
    return { out: await fetch(backend, out) };
  },

  /** Of each row the k greatest, with everything equal to the k-th; the others as minus infinity, whether left out or not. */
  async denseTopK(backend, c) {
    const x = upload(backend, values(c.kind, c.n * c.columns, c.seed), c.columns);
    const weight = await denseWeight(backend, c, c.seed + 5000);
    const out = target(backend, c.n, c.rows);
    backend.denseTopK(out, weight, x, c.k, c.n);
    const tops = await backend.readTop(out, c.n);
    const all = await fetch(backend, out);
    for (let row = 0; row < c.n; row++) {
      const products = all.subarray(row * c.rows, (row + 1) * c.rows);
      wantSameTop(tops[row], products, row);
      if (products.some(Number.isNaN)) continue; // nothing may be left out beside them: compared as it is
      const least = products.slice().sort()[c.rows - c.k];
      for (let i = 0; i < c.rows; i++) if (products[i] < least) products[i] = -Infinity;
    }
    return { out: all };
  },

  async embed(backend, c) {
    const table = await denseWeight(backend, c, c.seed);
    const ids = backend.alloc('i32', [c.n]);
    backend.write(
      ids,
      Int32Array.from({ length: c.n }, (_, i) => (i * 7 + c.seed) % c.rows),
    );
    const out = target(backend, c.n, c.columns);
    backend.embed(out, table, ids, c.n);
    return { out: await fetch(backend, out) };
  },

  async repack(backend, c) {
    const { dtype, rows, columns } = c;
    const seed = c.seed + 5000;
    const bytes = madeOnce(c, seed, () => TERNARY_ENCODERS[dtype](trits('random', rows * columns, seed), 0.0371));
    const read = readerOf(bytes);
    const weight = await backend.upload({
      kind: 'ternary',
      name: `ternary ${dtype}`,
      rows,
      columns,
      byteLength: packedBytes(rows, columns),
      fill: async (to) => Math.fround((await loadPacked({ where: dtype, dtype, rows, columns }, read, to)) * 0.75),
      encoded: { dtype, read, factor: 0.75 },
    });
    const x = upload(backend, values('normal', c.n * columns, c.seed), columns);
    const q = backend.allocQuantized(c.n, columns);
    const out = target(backend, c.n, rows);
    backend.quantizeRows(q, x, c.n);
    backend.ternaryMatmul(out, weight, q, c.n);
    return { out: await fetch(backend, out) };
  },

  async requantize(backend, c) {
    const { from, dtype, rows, columns } = c;
    const bytes = ENCODERS[from](values(c.kind, rows * columns, c.seed));
    const read = readerOf(bytes);
    const [source, made] = [dtypeByName(from), dtypeByName(dtype)];
    const table = await backend.upload({
      kind: 'dense',
      dtype,
      name: `${from} as ${dtype}`,
      rows,
      columns,
      byteLength: (rows * columns * made.blockBytes) / made.blockElements,
      fill: async (to) => {
        await loadRequantized({ where: from, dtype: source, elements: rows * columns, to: dtype }, read, to);
        return 1;
      },
      encoded: { dtype: from, read, factor: 1 },
    });
    const ids = backend.alloc('i32', [rows]);
    backend.write(
      ids,
      Int32Array.from({ length: rows }, (_, i) => i),
    );
    const out = target(backend, rows, columns);
    backend.embed(out, table, ids, rows);
    return { out: await fetch(backend, out) };
  },

  async rope(backend, c) {
    const columns = c.nHeads * c.headDim;
    const x = upload(backend, values('normal', (c.n + GUARD_ROWS) * columns, c.seed), columns);
    const angles = upload(backend, values('normal', c.n * c.headDim, c.seed + 5000), c.headDim);
    backend.rope(x, angles, c.nHeads, c.headDim, c.style, c.n);
    return { x: await fetch(backend, x) };
  },

  /** Two sequences share the batch: one begins at position 0, one has `before` positions behind it. */
  async attention(backend, c) {
    const { nHeads, nKvHeads, headDim, kType, vType } = c;
    const shape = { nLayers: 2, nHeads, nKvHeads, headDim, kType, vType };
    const [qDim, kvDim] = [c.nHeads * c.headDim, c.nKvHeads * c.headDim];
    const scale = Math.fround(1 / Math.fround(Math.sqrt(c.headDim)));
    const old = backend.allocKv({ ...shape, contextSize: c.before + c.n + 3 });
    const fresh = backend.allocKv({ ...shape, contextSize: c.n });
    if (c.before > 0) {
      const k = upload(backend, values('normal', c.before * kvDim, c.seed + 1), kvDim);
      const v = upload(backend, values(c.kind, c.before * kvDim, c.seed + 2), kvDim);
      backend.kvAppend({ kv: old, row: 0, count: c.before, position: 0 }, 1, k, v);
    }
    const rows = 2 * c.n;
    const q = upload(backend, values(c.kind, rows * qDim, c.seed), qDim);
    const k = upload(backend, values(c.kind, rows * kvDim, c.seed + 3), kvDim);
    const v = upload(backend, values('normal', rows * kvDim, c.seed + 4), kvDim);
    const out = target(backend, rows, qDim);
    const segments = [
      { kv: fresh, row: 0, count: c.n, position: 0 },
      { kv: old, row: c.n, count: c.n, position: c.before },
    ];
    for (const segment of segments) backend.kvAppend(segment, 1, k, v);
    for (const segment of segments) backend.attention(out, q, segment, 1, scale);
    const stored = await backend.readKv(old, 1, 0, c.before + c.n);
    return { out: await fetch(backend, out), k: stored.k, v: stored.v };
  },

  gatedRelu2: elementwise,
  gatedSilu: elementwise,
  gatedGelu: elementwise,
  add: elementwise,

  async scale(backend, c) {
    const x = upload(backend, values(c.kind, c.n * c.columns, c.seed), c.columns);
    const out = target(backend, c.n, c.columns);
    backend.scale(out, x, c.factor, c.n);
    backend.scale(x, x, c.factor, c.n); // in place
    return { out: await fetch(backend, out), inPlace: await fetch(backend, x) };
  },

  async headNorm(backend, c) {
    const columns = c.nHeads * c.headDim;
    const x = upload(backend, values(c.kind, (c.n + GUARD_ROWS) * columns, c.seed), columns);
    const gain = backend.alloc('f32', [c.headDim]);
    backend.write(gain, values('normal', c.headDim, c.seed + 5000));
    backend.rmsNorm(x, x, gain, 1e-6, c.n * c.nHeads);
    return { x: await fetch(backend, x) };
  },

  async copyRows(backend, c) {
    const from = upload(backend, values('normal', c.n * c.columns, c.seed), c.columns);
    const out = target(backend, c.n, c.columns);
    backend.copyRows(out, 1, from, c.n - 2, 2);
    return { out: await fetch(backend, out) };
  },
};
