/**
 * The kernels of the CUDA library, compiled for the CPU (`shim/shim.h`), against the `ts` backend: every op, every architecture's
 * graph, lists that are put together and replayed. Bit for bit, with threads in an order that a seed chooses.
 */
import { describe, expect, it } from 'vitest';
import { conformanceCases, expectedOutputs, runConformance } from '../../src/kernels/conformance/run.ts';
import { trits, values } from '../../src/kernels/conformance/values.ts';
import type { Backend, KvType } from '../../src/kernels/interface.ts';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { packRows } from '../../src/tensors/packed.ts';
import { configOf, Graph, type Piece } from './graph.ts';
import { open, shim, shimPath } from './shim.ts';

/** Options of `bn_set`. */
const GRAPHS = 0;
const FUSE = 1;

describe.skipIf(shimPath === undefined)('the CUDA kernels on the CPU shim', () => {
  const cases = conformanceCases();

  it('agree with the ts backend on the conformance suite, bit for bit', async () => {
    const backend = open(1);
    const outcomes = await runConformance(backend, cases, await expectedOutputs(cases));
    expect(outcomes.length).toBe(cases.length);
    expect(outcomes.filter((outcome) => !outcome.ok)).toEqual([]);
    await backend.dispose();
  }, 600_000);

  /** Which of several kernels takes a case depends on what fills the card: with one multiprocessor it is the others. */
  it('agree on a card with one multiprocessor', async () => {
    const ops = ['ternaryMatmul', 'ternaryGroup', 'attention'];
    const some = cases.filter((one) => ops.includes(one.op));
    const make = (n: number, rows: number, columns: number, seed: number) =>
      ({ op: 'ternaryMatmul', n, rows, columns, kind: 'normal', trits: 'random', seed }) as const;
    // Tiles of 128 x 128, full, with rests, and with several of each.
    some.push(make(65, 128, 128, 1), make(128, 130, 640, 2), make(150, 300, 257, 3), make(300, 150, 1152, 4));
    shim('sms', 1);
    const backend = open(1);
    const outcomes = await runConformance(backend, some, await expectedOutputs(some));
    shim('sms', 132);
    expect(outcomes.filter((outcome) => !outcome.ok)).toEqual([]);
    // Many sequences: heads of a group together.
    const config = configOf('bitnet-b1.58', { nLayers: 1, headDim: 128, nHeads: 5, nKvHeads: 1, hidden: 640 });
    const pieces = (position: number) => [0, 1, 2, 3].map((sequence) => ({ sequence, position, count: 1 }));
    const steps = [0, 1, 2].map(pieces);
    const expected = await runSteps(createTsBackend(), config, steps);
    const got = await runSteps(backend, config, steps);
    for (const [i, want] of expected.entries()) expect(different(want, got[i])).toEqual([]);
    await backend.dispose();
  }, 300_000);

  // A few of each op whose threads share memory; the others have nothing to meet for.
  it.each(['rmsNorm', 'rmsNormQuantize', 'quantizeRows', 'ternaryMatmul', 'denseMatmul', 'denseTopK', 'attention'])(
    'fail it when the barriers of %s are left out',
    async (op) => {
      // Not the screened head: what it finds by numbers that nobody wrote yet lies anywhere.
      const calm = cases.filter((one) => one.op !== 'denseTopK' || one.n < 5);
      const some = calm.filter((one) => one.op === op && ('columns' in one ? one.columns >= 200 : one.n > 1));
      const wanted = await expectedOutputs(some.slice(-6));
      let broken = 0;
      for (const [i, one] of some.slice(-6).entries()) {
        const backend = open(3);
        shim('barriers', 0);
        try {
          const [outcome] = await runConformance(backend, [one], [wanted[i]]);
          if (!outcome.ok) broken++;
        } catch {
          broken++; // threads of a warp went different ways, or a sum is not that of its codes
        } finally {
          shim('barriers', 1);
          await backend.dispose();
        }
      }
      expect(broken).toBeGreaterThan(0);
    },
    120_000,
  );

  /** Long prompts, long contexts, scores in device memory, every pair of types; which kernel takes which is in attention*.cu. */
  it.each([
    {
      nHeads: 20,
      nKvHeads: 5,
      headDim: 128,
      n: 37,
      before: 100,
      context: 300,
      kType: 'f16',
      vType: 'f16',
      kind: 'normal',
    },
    {
      nHeads: 6,
      nKvHeads: 2,
      headDim: 64,
      n: 70,
      before: 0,
      context: 2000,
      kType: 'f32',
      vType: 'f32',
      kind: 'special',
    },
    { nHeads: 3, nKvHeads: 3, headDim: 96, n: 33, before: 7, context: 41, kType: 'f16', vType: 'f32', kind: 'ties' },
    {
      nHeads: 20,
      nKvHeads: 1,
      headDim: 48,
      n: 9,
      before: 63,
      context: 72,
      kType: 'f32',
      vType: 'f16',
      kind: 'extreme',
    },
    {
      nHeads: 4,
      nKvHeads: 1,
      headDim: 128,
      n: 1,
      before: 1500,
      context: 30000,
      kType: 'f16',
      vType: 'f16',
      kind: 'normal',
    },
    {
      nHeads: 4,
      nKvHeads: 1,
      headDim: 128,
      n: 140,
      before: 0,
      context: 9000,
      kType: 'f16',
      vType: 'f16',
      kind: 'normal',
    },
    { nHeads: 2, nKvHeads: 1, headDim: 256, n: 12, before: 3, context: 15, kType: 'f16', vType: 'f16', kind: 'normal' },
  ] as const)(
    'attention of $n rows of $headDim after $before',
    async (c) => {
      const backend = open(7);
      const ours = await attend(backend, c);
      expect(different(await attend(createTsBackend(), c), ours)).toEqual([]);
      await backend.dispose();
    },
    60_000,
  );

  it.each(['bitnet-b1.58', 'bitnet', 'llama', 'qwen3', 'gemma3'])(
    'run the graph of %s',
    async (architecture) => {
      const config = configOf(architecture);
      const steps: Piece[][] = [
        [{ sequence: 0, position: 0, count: 20 }],
        [
          { sequence: 0, position: 20, count: 1 },
          { sequence: 1, position: 0, count: 12 },
          { sequence: 2, position: 0, count: 3 },
        ],
        [21, 22, 23, 24].map((position) => ({ sequence: 0, position, count: 1 })),
      ];
      for (let i = 0; i < 4; i++) {
        steps.push([
          { sequence: 0, position: 25 + i, count: 1 },
          { sequence: 1, position: 12 + i, count: 1 },
          { sequence: 2, position: 3 + i, count: 1 },
        ]);
      }
      const expected = await runSteps(createTsBackend(), config, steps);
      for (const [fuse, graphs] of [
        [1, 1],
        [0, 0],
      ]) {
        const backend = open(11, { [FUSE]: fuse, [GRAPHS]: graphs });
        const got = await runSteps(backend, config, steps);
        for (const [i, want] of expected.entries()) expect(different(want, got[i]), `step ${i}`).toEqual([]);
        const { replays, graphs: held, launches } = backend.counts();
        // The last four steps have the same list: run, captured and replayed, replayed, replayed.
        expect([replays, held]).toEqual(graphs === 1 ? [3, 1] : [0, 0]);
        expect(launches).toBeGreaterThan(50);
        await backend.dispose();
      }
    },
    120_000,
  );

  /**
   * `settle` of native/numbers.cuh takes any order of a sum where its rounding to f32 is beyond doubt. Here it is not: the squares add up
   * to exactly half way between two f32 numbers, and some that vanish one by one, but not together, come after.
   */
  it('norm a row as the contract says where the order of its sum matters', async () => {
    const columns = 2048;
    const rows = 24;
    const x = new Float32Array(rows * columns);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < columns; i++) {
        const big = 410 + ((row * 37 + i * 11) % 130); // squares are multiples of 2^-18, their sum lies within 4 and 8
        x[row * columns + i] = i < 7 ? big / 512 : i === 7 ? 2 ** -11 : i % 8 === 7 ? 0 : 2 ** -28;
      }
    }
    const norm = async (backend: Backend, of: Float32Array) => {
      const [buf, gain] = [backend.alloc('f32', [rows, columns]), backend.alloc('f32', [columns])];
      backend.write(buf, of);
      backend.write(gain, new Float32Array(columns).fill(1));
      backend.rmsNorm(buf, buf, gain, 0, rows);
      return backend.read(buf, rows * columns);
    };
    const expected = await norm(createTsBackend(), x);
    const backend = open(9);
    expect(different(expected, await norm(backend, x))).toEqual([]);
    // The small ones first is another order, and gives other numbers.
    const reversed = (a: Float32Array) => {
      for (let row = 0; row < rows; row++) a.subarray(row * columns, (row + 1) * columns).reverse();
      return a;
    };
    expect(different(expected, reversed(await norm(createTsBackend(), reversed(x))))).not.toEqual([]);
    await backend.dispose();
  });

  /** Neighbours that look like those of `fuse.cu` and are not. */
  it('put together only what belongs together', async () => {
    const [n, d, heads, kvHeads] = [3, 64, 4, 2];
    const program = async (backend: Backend) => {
      let seed = 1;
      const make = (columns: number, rows = n) => {
        const buf = backend.alloc('f32', [rows, columns]);
        backend.write(buf, values('normal', rows * columns, seed++));
        return buf;
      };
      const shape = { nLayers: 1, nHeads: heads, nKvHeads: kvHeads, headDim: d, contextSize: 9 };
      const kv = backend.allocKv({ ...shape, kType: 'f16', vType: 'f32' });
      const [q, k, other, v, angles] = [
        make(heads * d),
        make(kvHeads * d),
        make(kvHeads * d),
        make(kvHeads * d),
        make(d),
      ];
      const [a, b, x, y, gain] = [make(256), make(256), make(256), make(256), make(256, 1)];
      const [codes, out] = [backend.allocQuantized(n, 256), make(40)];
      const [first, second] = [backend.allocQuantized(n, 256), make(40)];
      const weights = await Promise.all([1, 2].map((i) => ternaryWeight(backend, 40, 256, i)));
      const rope = () => {
        backend.rope(q, angles, heads, d, 'neox', n);
        backend.rope(k, angles, kvHeads, d, 'neox', n);
      };
      rope();
      backend.kvAppend({ kv, row: 0, count: n, position: 0 }, 0, other, v); // not what was rotated
      rope();
      backend.kvAppend({ kv, row: 0, count: n, position: 4 }, 0, k, k); // twice the same
      rope();
      backend.kvAppend({ kv, row: 0, count: 1, position: 3 }, 0, k, v); // not all of it
      backend.add(x, a, b, n);
      backend.rmsNormQuantize(codes, a, gain, 1e-5, n); // not the sum
      backend.add(x, x, b, n);
      backend.rmsNorm(b, x, gain, 1e-5, n); // over what was added
      backend.gatedSilu(y, a, x, n);
      backend.quantizeRows(first, y, n - 1); // fewer rows
      backend.ternaryMatmul(out, weights[0], codes, n);
      backend.ternaryMatmul(out, weights[1], codes, n); // the same place
      backend.ternaryMatmul(second, weights[0], first, n - 1); // other codes
      const results = await Promise.all(
        [q, k, x, b, y, out, second].map((buf) => backend.read(buf, n * (buf.shape[1] ?? 1))),
      );
      const cached = await backend.readKv(kv, 0, 0, 7);
      return Float32Array.from([...results, cached.k, cached.v].flatMap((part) => [...part]));
    };
    const expected = await program(createTsBackend());
    const backend = open(7);
    expect(different(expected, await program(backend))).toEqual([]);
    await backend.dispose();
  });

  it('replay a list for other sequences, and forget it with its buffers', async () => {
    const config = configOf('bitnet-b1.58', { nLayers: 1 });
    const decode = (sequence: number, position: number): Piece[] => [{ sequence, position, count: 1 }];
    const steps = [0, 1, 2, 3, 4].map((i) => decode(i % 2, i >> 1));
    const expected = await runSteps(createTsBackend(), config, steps);
    const backend = open(2);
    const graph = await Graph.make(config, backend, 4);
    for (const [i, step] of steps.entries()) expect(different(expected[i], (await graph.step(step)).x)).toEqual([]);
    expect(backend.counts()).toMatchObject({ graphs: 1, replays: 4 });
    graph.free(0); // its cache is no part of the list
    expect(backend.counts()).toMatchObject({ graphs: 1 });
    expect(different(expected[0], (await graph.step(decode(5, 0))).x)).not.toEqual([]); // another sequence, another token
    expect(backend.counts()).toMatchObject({ graphs: 1, replays: 5 });
    await backend.dispose();
  }, 60_000);

  it('leave the other rows of a batch alone', async () => {
    const config = configOf('bitnet-b1.58', { nLayers: 1 });
    const backend = open(4);
    const graph = await Graph.make(config, backend, 40);
    const alone = (await graph.step([{ sequence: 0, position: 0, count: 1 }])).x;
    for (const others of [1, 3, 4, 8, 20]) {
      const pieces = [{ sequence: 1, position: 0, count: 1 }];
      // The same token at the same position: sequence 0 again, between strangers.
      pieces.push({ sequence: 0, position: 0, count: 1 }, { sequence: 2, position: 0, count: others });
      const { x } = await graph.step(pieces);
      expect(different(alone, x.subarray(config.hidden, 2 * config.hidden))).toEqual([]);
    }
    await backend.dispose();
  }, 60_000);
});

async function runSteps(backend: Backend, config: ReturnType<typeof configOf>, steps: readonly Piece[][]) {
  const graph = await Graph.make(config, backend, 40);
  const out: Float32Array[] = [];
  for (const step of steps) {
    const { x, logits } = await graph.step(step);
    out.push(Float32Array.from([...x, ...(config.nLayers > 1 ? logits : [])]));
  }
  return out;
}

function ternaryWeight(backend: Backend, rows: number, columns: number, seed: number) {
  const bytes = packRows(trits('random', rows * columns, seed), rows, columns);
  const fill = async (to: Uint8Array) => {
    to.set(bytes);
    return 0.02 * seed;
  };
  return backend.upload({ kind: 'ternary', name: 'w', rows, columns, byteLength: bytes.length, fill });
}

/** Where two arrays differ, the first few. */
function different(want: Float32Array, got: Float32Array): string[] {
  const out: string[] = want.length === got.length ? [] : [`${got.length} values, expected ${want.length}`];
  for (let i = 0; i < want.length && out.length < 3; i++) {
    if (!Object.is(want[i], got[i])) out.push(`[${i}]: expected ${want[i]}, got ${got[i]}`);
  }
  return out;
}

interface AttentionShape {
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly n: number;
  readonly before: number;
  readonly context: number;
  readonly kType: KvType;
  readonly vType: KvType;
  readonly kind: Parameters<typeof values>[0];
}

async function attend(backend: Backend, c: AttentionShape): Promise<Float32Array> {
  const { nHeads, nKvHeads, headDim, n, before, kType, vType } = c;
  const kv = backend.allocKv({ nLayers: 2, nHeads, nKvHeads, headDim, contextSize: c.context, kType, vType });
  const rows = (count: number, columns: number, seed: number, kind = c.kind) => {
    const buf = backend.alloc('f32', [count, columns]);
    backend.write(buf, values(kind, count * columns, seed));
    return buf;
  };
  const width = nKvHeads * headDim;
  if (before > 0) {
    const [k, v] = [rows(before, width, 1, 'normal'), rows(before, width, 2)];
    backend.kvAppend({ kv, row: 0, count: before, position: 0 }, 1, k, v);
  }
  const segment = { kv, row: 0, count: n, position: before };
  backend.kvAppend(segment, 1, rows(n, width, 3, 'normal'), rows(n, width, 4));
  const out = backend.alloc('f32', [n, nHeads * headDim]);
  backend.attention(out, rows(n, nHeads * headDim, 5, 'normal'), segment, 1, 0.1);
  return backend.read(out, n * nHeads * headDim);
}
