import { Library } from './library.ts';
import { TestBackend } from './backend.ts';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { values } from '../../src/kernels/conformance/values.ts';
const lib = new Library(process.env.SO ?? '/tmp/w/shim.so');
lib.shim('seed', Number(process.env.SEED ?? 1));
const back = new TestBackend(lib.open());
async function one(b, s) {
  const { nHeads, nKvHeads, headDim, n, before, context, type, kind } = s;
  const kv = b.allocKv({ nLayers: 2, nHeads, nKvHeads, headDim, contextSize: context, kType: type, vType: type });
  const mk = (rows, cols, seed, kd) => { const x = b.alloc('f32', [rows, cols]); b.write(x, values(kd, rows * cols, seed)); return x; };
  if (before) b.kvAppend({ kv, row: 0, count: before, position: 0 }, 1, mk(before, nKvHeads * headDim, 1, 'normal'), mk(before, nKvHeads * headDim, 2, kind));
  b.kvAppend({ kv, row: 0, count: n, position: before }, 1, mk(n, nKvHeads * headDim, 3, 'normal'), mk(n, nKvHeads * headDim, 4, kind));
  const out = b.alloc('f32', [n, nHeads * headDim]);
  b.attention(out, mk(n, nHeads * headDim, 5, 'normal'), { kv, row: 0, count: n, position: before }, 1, 0.1);
  return b.read(out, n * nHeads * headDim);
}
for (const s of [
  { nHeads: 20, nKvHeads: 5, headDim: 128, n: 37, before: 100, context: 300, type: 'f16', kind: 'normal' },
  { nHeads: 6, nKvHeads: 2, headDim: 64, n: 70, before: 0, context: 2000, type: 'f32', kind: 'special' },
  { nHeads: 3, nKvHeads: 3, headDim: 96, n: 33, before: 7, context: 41, type: 'f16', kind: 'ties' },
  { nHeads: 20, nKvHeads: 1, headDim: 48, n: 9, before: 63, context: 72, type: 'f16', kind: 'extreme' },
  { nHeads: 4, nKvHeads: 1, headDim: 128, n: 1, before: 1500, context: 30000, type: 'f16', kind: 'normal' },
  { nHeads: 4, nKvHeads: 1, headDim: 128, n: 140, before: 0, context: 9000, type: 'f16', kind: 'normal' },
]) {
  const want = await one(createTsBackend(), s), got = await one(back, s);
  let bad = 0; for (let i = 0; i < want.length; i++) if (!Object.is(want[i], got[i])) bad++;
  console.log(JSON.stringify(s), bad);
}
console.log(back.context.info());
