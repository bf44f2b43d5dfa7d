/**
 * Neighbours that look like those which `native/fuse.cu` makes one launch of, and differ in one thing: with the option BN_OPTION_FUSE
 * and without it every buffer is the same afterwards. In words of `commands.md`, which may overlap as the backend's never do.
 */
import { describe, expect, it } from 'vitest';
import { values } from '../../src/kernels/conformance/values.ts';
import { Op } from '../../src/kernels/cuda/abi.ts';
import { Library } from './library.ts';
import { shimPath } from './shim.ts';

const FUSE = 1;
const [FLOATS, CODES, CACHE] = [8192, 4096, 4096];
const bits = (x: number) => new Int32Array(new Float32Array([x]).buffer)[0];
/** Handles, in the order in which they are taken. */
const [P, CODE, META, WEIGHT, KEYS, VALUES] = [1, 2, 3, 4, 5, 6];
const [columns, n, d] = [128, 2, 16];

// Places are floats of one buffer.
const add = (out: number, a: number, b: number, length = n * columns) => [Op.ADD, 9, P, out, P, a, P, b, length];
const scale = (out: number, x: number) => [Op.SCALE, 8, P, out, P, x, bits(3), n * columns];
const norm = (out: number, x: number, gain = 4096, rows = n) => [
  Op.RMS_NORM,
  11,
  P,
  out,
  P,
  x,
  P,
  gain,
  bits(1e-5),
  columns,
  rows,
];
const ternary = (out: number, rows = n, width = columns, first = 0) => [
  Op.TERNARY_MATMUL,
  13,
  P,
  out,
  WEIGHT,
  bits(1 + out),
  8,
  width,
  CODE,
  first,
  META,
  0,
  rows,
];
const rope = (x: number, nHeads: number, { angles = 4096, neox = 1, rows = n, dim = d } = {}) => [
  Op.ROPE,
  10,
  P,
  x,
  P,
  angles,
  nHeads,
  dim,
  neox,
  rows,
];
const append = (k: number, v: number, position: number, { layer = 0, count = n, keys = KEYS } = {}) => [
  Op.KV_APPEND,
  16,
  P,
  k,
  P,
  v,
  1,
  d,
  layer,
  count,
  0,
  0,
  32,
  keys,
  VALUES,
  position,
];
const attend = (out: number, q: number, position: number, factor = 0.25, layer = 0) => [
  Op.ATTENTION,
  18,
  P,
  out,
  P,
  q,
  2,
  1,
  d,
  layer,
  1,
  0,
  0,
  32,
  bits(factor),
  KEYS,
  VALUES,
  position,
];

/** Every buffer after a list. */
function after(list: readonly number[], fuse: number): { bytes: Uint8Array[]; launches: number } {
  const c = new Library(shimPath ?? '').open();
  c.set(FUSE, fuse);
  const sizes = [FLOATS * 4, CODES, CODES, CODES, CACHE * 4, CACHE * 4];
  const handles = sizes.map((size) => c.alloc(size));
  expect(handles).toEqual([P, CODE, META, WEIGHT, KEYS, VALUES]);
  for (const [i, handle] of [P, KEYS, VALUES].entries())
    c.write(handle, values('normal', sizes[handle - 1] / 4, i + 1));
  c.write(
    CODE,
    Uint8Array.from({ length: CODES }, (_, i) => ((i * 37) % 255) - 127),
  );
  c.write(
    META,
    Int32Array.from({ length: 64 }, (_, i) => (i % 2 === 0 ? bits(2 + i) : i)),
  );
  c.write(
    WEIGHT,
    Uint8Array.from({ length: CODES }, (_, i) => ((i * 29) % 3) * 0x15 + (i % 2)),
  );
  const before = Number(c.info().launches);
  c.run(list);
  const bytes = handles.map((handle, i) => c.read(handle, new Uint8Array(sizes[i])));
  const launches = Number(c.info().launches) - before;
  c.close();
  return { bytes, launches };
}

/** Handles of the buffers that are not the same. */
function differing(a: readonly Uint8Array[], b: readonly Uint8Array[]): number[] {
  return a.flatMap((bytes, i) => (Buffer.compare(bytes, b[i]) === 0 ? [] : [i + 1]));
}

const both = [...rope(0, 2), ...rope(256, 1)];

describe.skipIf(shimPath === undefined)('neighbours', () => {
  it.each<[string, number[], number]>([
    ['matrices of the same codes', [...ternary(0), ...ternary(16), ...ternary(32), ...ternary(48)], 1],
    ['an addition, and the norm of it', [...add(0, 512, 1024), ...norm(2048, 0)], 1],
    ['an addition, and the norm in its place', [...add(0, 512, 1024), ...norm(0, 0)], 1],
    ['matrices that go to one place, which would be a race', [...ternary(0), ...ternary(16), ...ternary(24)], 2],
    ['rope of q and k, and where they go', [...both, ...append(256, 512, 3)], 1],
    ['values that are turned queries, another race', [...both, ...append(256, 0, 3)], 2],
    ['rows of a batch', [...append(0, 512, 3, { count: 1 }), ...append(16, 528, 9, { count: 1 })], 1],
    ['attention of a batch', [...attend(0, 512, 3), ...attend(32, 544, 9)], 1],
  ])('%s: launches', (_, list, launches) => {
    const fused = after(list, 1);
    expect(fused.launches).toBe(launches);
    expect(differing(fused.bytes, after(list, 0).bytes)).toEqual([]);
  });

  it.each<[string, number[]]>([
    ['fewer rows', [...ternary(0), ...ternary(16, n - 1)]],
    ['other columns', [...ternary(0), ...ternary(16, n, 256)]],
    ['more matrices than go together', [0, 16, 32, 48, 64, 80].flatMap((out) => ternary(out))],
    ['something else than a sum', [...scale(0, 512), ...norm(2048, 0)]],
    ['a gain that is made', [...add(4000, 512, 1024), ...norm(2048, 4000)]],
    ['fewer rows than were added', [...add(0, 512, 1024), ...norm(2048, 0, 4096, 1)]],
    ['over the first input, a row further', [...add(0, 512, 1024), ...norm(512 + columns, 0)]],
    ['over the second input, a row further', [...add(0, 512, 1024), ...norm(1024 + columns, 0)]],
    ['over the sum, a row further', [...add(0, 512, 1024), ...norm(columns, 0)]],
    ['other angles', [...rope(0, 2), ...rope(256, 1, { angles: 5000 })]],
    ['another style', [...rope(0, 2), ...rope(256, 1, { neox: 0 })]],
    ['fewer rows to turn', [...rope(0, 2), ...rope(256, 1, { rows: 1 })]],
    ['shorter heads', [...rope(0, 2), ...rope(256, 1, { dim: 8 })]],
    ['three to turn', [...both, ...rope(512, 1)]],
    ['turned twice', [...rope(0, 2), ...rope(32, 1)]],
    ['values from elsewhere', [...append(0, 512, 3, { count: 1 }), ...append(16, 608, 9, { count: 1 })]],
    ['another layer', [...append(0, 512, 3, { count: 1 }), ...append(16, 528, 9, { count: 1, layer: 1 })]],
    ['rows of two tables', [3, 5, 3, 9].flatMap((at, i) => append((i % 2) * 16, 512 + (i % 2) * 16, at, { count: 1 }))],
    ['another scale', [...attend(0, 512, 3), ...attend(32, 544, 9, 0.5)]],
    ['an output elsewhere', [...attend(0, 512, 3), ...attend(128, 544, 9)]],
    ['attention to another layer', [...attend(0, 512, 3), ...attend(32, 544, 9, 0.25, 1)]],
    ['values that are turned keys', [...both, ...append(256, 256, 3)]],
    ['keys that are not turned', [...both, ...append(1024, 512, 3)]],
    ['keys that go to two places', [...both, ...append(256, 512, 3), ...append(256, 512, 9)]],
    ['fewer keys than are turned', [...both, ...append(256, 512, 3, { count: 1 })]],
  ])('%s: the same as one by one', (_, list) => {
    expect(differing(after(list, 1).bytes, after(list, 0).bytes)).toEqual([]);
  });
});
