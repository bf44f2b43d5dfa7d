/**
 * Every operation of the kernel interface, on the shapes of BitNet-b1.58-2B-4T.
 *
 * "warm": one matrix, again and again, from cache as far as it fits. "cold": enough copies in turn that each comes
 * from memory, as it does when a token passes through all layers.
 */

import type { Backend, Buf, DenseType, Weight } from '../src/kernels/interface.ts';
import { createTsBackend } from '../src/kernels/ts/backend.ts';
import { createWasmBackend } from '../src/kernels/wasm/open.ts';
import { Rng } from '../src/numeric/rng.ts';
import { detectPlatform } from '../src/platform/detect.ts';
import { encodeAffine } from '../src/tensors/affine.ts';
import { memoryBytes } from '../src/tensors/dense-forms.ts';
import { encodeF16 } from '../src/tensors/floats.ts';
import { packedBytes, packRows } from '../src/tensors/packed.ts';
import { encodeQ6_K } from '../src/tensors/q6_k.ts';
import { encodeQ8_0 } from '../src/tensors/q8_0.ts';
import type { Case, Options, Ready, Suite, Work } from './harness.ts';

const HIDDEN = 2560;
const FFN = 6912;
const [N_HEADS, N_KV_HEADS, HEAD_DIM] = [20, 5, 128];
const VOCABULARY = 128256;
const KV = N_KV_HEADS * HEAD_DIM;
const ROWS = [1, 8, 32, 128];
/** (out, in): q and o; k and v; gate and up; down. */
const TERNARY = [
  [HIDDEN, HIDDEN],
  [KV, HIDDEN],
  [FFN, HIDDEN],
  [HIDDEN, FFN],
] as const;
/** Beyond any cache. */
const COLD_BYTES = 256 << 20;
/** Bytes that one timed run should touch at least: microseconds are too short for the clock. */
const RUN_BYTES = 2 << 20;

export const kernels: Suite = {
  name: 'kernels',
  async *cases(options) {
    for (const threads of options.backend === 'ts' ? [1] : options.threads) {
      for (const one of all()) yield toCase(`kernels/${one.name} t=${threads}`, one, threads, options);
    }
  },
};

interface KernelCase {
  readonly name: string;
  readonly work: Work & { readonly bytes: number };
  /** Allocates what the operation needs; the result enqueues it once. */
  readonly prepare: (backend: Backend) => Promise<() => void> | (() => void);
}

function toCase(name: string, { work, prepare }: KernelCase, threads: number, options: Options): Case {
  return {
    name,
    work,
    async prepare(): Promise<Ready> {
      const backend =
        options.backend === 'ts'
          ? createTsBackend()
          : await createWasmBackend({ threads }, await detectPlatform().wasmHost());
      const enqueue = await prepare(backend);
      const anything = backend.alloc('f32', [1]);
      // The definition computes at once, and slowly: one call is long enough.
      const calls = options.backend === 'ts' ? 1 : Math.max(1, Math.min(256, Math.round(RUN_BYTES / work.bytes)));
      return {
        calls,
        async run() {
          for (let i = 0; i < calls; i++) enqueue();
          await backend.read(anything, 0); // runs what was enqueued
        },
        dispose: () => backend.dispose(),
      };
    },
  };
}

function* all(): Generator<KernelCase> {
  for (const [rows, columns] of TERNARY) {
    for (const n of ROWS) yield ternary(rows, columns, n, 1);
    const copies = Math.ceil(COLD_BYTES / packedBytes(rows, columns));
    yield ternary(rows, columns, 1, copies);
  }
  for (const dtype of ['F16', 'Q8_0', 'Q6_K', 'AFFINE'] as const) {
    yield head(dtype);
    yield topOfHead(dtype);
  }
  for (const n of ROWS) {
    yield embed(n);
    yield norm(n);
    yield quantize(HIDDEN, n);
    yield quantize(FFN, n);
    yield normQuantize(HIDDEN, n);
    yield normQuantize(FFN, n);
    yield rope(n);
    yield append(n);
    yield elementwise('gatedRelu2', FFN, n);
    yield elementwise('gatedSilu', FFN, n);
    yield elementwise('add', HIDDEN, n);
    yield copy(n);
    for (const before of [0, 512, 2048]) yield attention(n, before);
  }
}

function ternary(rows: number, columns: number, n: number, copies: number): KernelCase {
  const where = n === 1 ? (copies > 1 ? ' cold' : ' warm') : '';
  return {
    name: `ternaryMatmul ${rows}x${columns} n=${n}${where}`,
    work: { macs: rows * columns * n, bytes: packedBytes(rows, columns) + n * (columns + 4 * rows) },
    async prepare(backend) {
      const packed = packRows(randomTrits(rows * columns), rows, columns);
      const weights: Weight[] = [];
      for (let i = 0; i < copies; i++) {
        weights.push(
          await backend.upload({
            ...{ kind: 'ternary', name: 'w', rows, columns, byteLength: packed.length },
            fill: async (target) => {
              target.set(packed);
              return 0.5;
            },
          }),
        );
      }
      const codes = backend.allocQuantized(n, columns);
      backend.quantizeRows(codes, floats(backend, n, columns), n);
      const out = backend.alloc('f32', [n, rows]);
      let turn = 0;
      return () => {
        turn = (turn + 1) % copies;
        backend.ternaryMatmul(out, weights[turn], codes, n);
      };
    },
  };
}

const ENCODERS = { F16: encodeF16, Q8_0: encodeQ8_0, Q6_K: encodeQ6_K, AFFINE: encodeAffine } as const;

/** The output matrix, for one token. Larger than caches by itself, so always cold. */
function head(dtype: keyof typeof ENCODERS): KernelCase {
  const bytes = denseBytes(dtype, VOCABULARY, HIDDEN);
  return {
    name: `denseMatmul head ${VOCABULARY}x${HIDDEN} ${dtype} n=1`,
    work: { macs: VOCABULARY * HIDDEN, bytes },
    async prepare(backend) {
      const weight = await dense(backend, dtype, VOCABULARY, HIDDEN);
      const [x, out] = [floats(backend, 1, HIDDEN), backend.alloc('f32', [1, VOCABULARY])];
      return () => backend.denseMatmul(out, weight, x, 1);
    },
  };
}

/** The same where only the 40 greatest products matter; work and bytes are those of the matrix. */
function topOfHead(dtype: keyof typeof ENCODERS): KernelCase {
  return {
    name: `denseTopK head ${VOCABULARY}x${HIDDEN} ${dtype} k=40`,
    work: { macs: VOCABULARY * HIDDEN, bytes: denseBytes(dtype, VOCABULARY, HIDDEN) },
    async prepare(backend) {
      const weight = await dense(backend, dtype, VOCABULARY, HIDDEN);
      const [x, out] = [floats(backend, 1, HIDDEN), backend.alloc('f32', [1, VOCABULARY])];
      return () => backend.denseTopK(out, weight, x, 40, 1);
    },
  };
}

function embed(n: number): KernelCase {
  // Rows far apart, but not the whole table: reading it in would take longer than all the rest.
  const rows = 4096;
  return {
    name: `embed ${HIDDEN} F16 n=${n}`,
    work: { bytes: n * HIDDEN * (2 + 4) },
    async prepare(backend) {
      const table = await dense(backend, 'F16', rows, HIDDEN);
      const ids = backend.alloc('i32', [n]);
      backend.write(
        ids,
        Int32Array.from({ length: n }, (_, i) => (i * 1009) % rows),
      );
      const out = backend.alloc('f32', [n, HIDDEN]);
      return () => backend.embed(out, table, ids, n);
    },
  };
}

function norm(n: number): KernelCase {
  return {
    name: `rmsNorm ${HIDDEN} n=${n}`,
    work: { bytes: n * HIDDEN * 8 },
    prepare(backend) {
      const [x, out] = [floats(backend, n, HIDDEN), backend.alloc('f32', [n, HIDDEN])];
      const gain = backend.alloc('f32', [HIDDEN]);
      backend.write(gain, new Float32Array(HIDDEN).fill(1.5));
      return () => backend.rmsNorm(out, x, gain, 1e-5, n);
    },
  };
}

function quantize(columns: number, n: number): KernelCase {
  return {
    name: `quantizeRows ${columns} n=${n}`,
    work: { bytes: n * columns * 5 },
    prepare(backend) {
      const [x, out] = [floats(backend, n, columns), backend.allocQuantized(n, columns)];
      return () => backend.quantizeRows(out, x, n);
    },
  };
}

function normQuantize(columns: number, n: number): KernelCase {
  return {
    name: `rmsNormQuantize ${columns} n=${n}`,
    work: { bytes: n * columns * 5 },
    prepare(backend) {
      const [x, out] = [floats(backend, n, columns), backend.allocQuantized(n, columns)];
      const gain = backend.alloc('f32', [columns]);
      backend.write(gain, new Float32Array(columns).fill(1.5));
      return () => backend.rmsNormQuantize(out, x, gain, 1e-5, n);
    },
  };
}

function rope(n: number): KernelCase {
  return {
    name: `rope ${N_HEADS}x${HEAD_DIM} n=${n}`,
    work: { bytes: n * (2 * N_HEADS * HEAD_DIM + HEAD_DIM) * 4 },
    prepare(backend) {
      const x = floats(backend, n, N_HEADS * HEAD_DIM);
      const angles = backend.alloc('f32', [n, HEAD_DIM]);
      // Cosines 1 and sines 0: rotating the same numbers for ever must not wear them down to subnormal ones.
      const ones = Float32Array.from({ length: n * HEAD_DIM }, (_, i) => (i % HEAD_DIM < HEAD_DIM / 2 ? 1 : 0));
      backend.write(angles, ones);
      return () => backend.rope(x, angles, N_HEADS, HEAD_DIM, 'neox', n);
    },
  };
}

function cache(backend: Backend, contextSize: number) {
  const shape = { nLayers: 1, nHeads: N_HEADS, nKvHeads: N_KV_HEADS, headDim: HEAD_DIM, contextSize };
  return backend.allocKv({ ...shape, kType: 'f16', vType: 'f16' });
}

function append(n: number): KernelCase {
  return {
    name: `kvAppend ${KV} f16 n=${n}`,
    work: { bytes: n * KV * 2 * (4 + 2) },
    prepare(backend) {
      const [kv, k, v] = [cache(backend, n), floats(backend, n, KV), floats(backend, n, KV)];
      return () => backend.kvAppend({ kv, row: 0, count: n, position: 0 }, 0, k, v);
    },
  };
}

/** `n` tokens behind `before` cached ones; work is what lies below the diagonal. */
function attention(n: number, before: number): KernelCase {
  const pairs = n * before + (n * (n + 1)) / 2;
  return {
    name: `attention ${N_HEADS}/${N_KV_HEADS}x${HEAD_DIM} f16 n=${n} behind ${before}`,
    work: { macs: 2 * pairs * N_HEADS * HEAD_DIM, bytes: (before + n) * KV * 2 * 2 + n * N_HEADS * HEAD_DIM * 8 },
    prepare(backend) {
      const kv = cache(backend, before + n);
      const [k, v] = [floats(backend, before + n, KV), floats(backend, before + n, KV)];
      backend.kvAppend({ kv, row: 0, count: before + n, position: 0 }, 0, k, v);
      const [q, out] = [floats(backend, n, N_HEADS * HEAD_DIM), backend.alloc('f32', [n, N_HEADS * HEAD_DIM])];
      const scale = Math.fround(1 / Math.fround(Math.sqrt(HEAD_DIM)));
      return () => backend.attention(out, q, { kv, row: 0, count: n, position: before }, 0, scale);
    },
  };
}

function elementwise(op: 'gatedRelu2' | 'gatedSilu' | 'add', columns: number, n: number): KernelCase {
  return {
    name: `${op} ${columns} n=${n}`,
    work: { bytes: n * columns * 12 },
    prepare(backend) {
      const [a, b, out] = [
        floats(backend, n, columns),
        floats(backend, n, columns),
        backend.alloc('f32', [n, columns]),
      ];
      return () => backend[op](out, a, b, n);
    },
  };
}

function copy(n: number): KernelCase {
  return {
    name: `copyRows ${HIDDEN} n=${n}`,
    work: { bytes: n * HIDDEN * 8 },
    prepare(backend) {
      const [from, out] = [floats(backend, n, HIDDEN), backend.alloc('f32', [n, HIDDEN])];
      return () => backend.copyRows(out, 0, from, 0, n);
    },
  };
}

function floats(backend: Backend, rows: number, columns: number): Buf {
  const rng = Rng.fromSeed(rows * 31 + columns);
  const buf = backend.alloc('f32', [rows, columns]);
  backend.write(
    buf,
    Float32Array.from({ length: rows * columns }, () => rng.nextFloat() * 2 - 1),
  );
  return buf;
}

function randomTrits(length: number): Int8Array {
  const rng = Rng.fromSeed(length);
  return Int8Array.from({ length }, () => (rng.nextUint32() % 3) - 1);
}

function denseBytes(dtype: DenseType, rows: number, columns: number): number {
  return memoryBytes(dtype, rows * columns);
}

/** Some encoded rows over and over: encoding all of a head would take longer than timing it. */
function dense(backend: Backend, dtype: keyof typeof ENCODERS, rows: number, columns: number): Promise<Weight> {
  const rng = Rng.fromSeed(rows + columns);
  const some = ENCODERS[dtype](Float32Array.from({ length: 64 * columns }, () => (rng.nextFloat() - 0.5) * 0.1));
  return backend.upload({
    ...{ kind: 'dense', dtype, name: dtype, rows, columns, byteLength: denseBytes(dtype, rows, columns) },
    fill: async (target) => {
      for (let at = 0; at < target.length; at += some.length) {
        target.set(some.subarray(0, Math.min(some.length, target.length - at)), at);
      }
      return 1;
    },
  });
}
