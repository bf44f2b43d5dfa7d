/**
 * Arithmetic of other engines, kernel by kernel: against values worked out by hand, against the instructions of the native
 * kernels carried out one by one, and against float64.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ts, wasm } from '../../src/engine/backends.ts';
import { type ConformanceCase, conformanceCases, expectedOutputs, runCase } from '../../src/kernels/conformance/run.ts';
import { type TritKind, trits, type ValueKind, values } from '../../src/kernels/conformance/values.ts';
import { type ForeignOptions, foreignSemantics, overflowsOf } from '../../src/kernels/foreign/foreign.ts';
import {
  canOverflow,
  countSums,
  I16_KERNELS,
  type I16Kernel,
  nativeDots,
  nativeOutput,
  sumsOfColumns,
} from '../../src/kernels/foreign/i16.ts';
import { quantizeQ8K } from '../../src/kernels/foreign/q8-k.ts';
import type { Backend } from '../../src/kernels/interface.ts';
import { quantizeRows } from '../../src/kernels/ts/quantize.ts';
import { packedBytes, packRows } from '../../src/tensors/packed.ts';

const f = Math.fround;
const BACKENDS = { ts: ts(), wasm: wasm({ threads: 2 }), 'wasm scalar': wasm({ kernels: 'scalar' }) };

async function within<T>(name: keyof typeof BACKENDS, options: ForeignOptions, act: (b: Backend) => Promise<T>) {
  const backend = foreignSemantics(await BACKENDS[name](), options);
  try {
    return await act(backend);
  } finally {
    await backend.dispose();
  }
}

/** x (n, K) times a ternary matrix (M, K): what the backend says. */
async function product(backend: Backend, x: Float32Array, matrix: Int8Array, rows: number, scale: number, n: number) {
  const columns = x.length / n;
  const weight = await backend.upload({
    kind: 'ternary',
    name: 'matrix',
    rows,
    columns,
    byteLength: packedBytes(rows, columns),
    fill: async (target) => {
      target.set(packRows(matrix, rows, columns));
      return scale;
    },
  });
  const [input, out] = [backend.alloc('f32', [n, columns]), backend.alloc('f32', [n, rows])];
  const quantized = backend.allocQuantized(n, columns);
  backend.write(input, x);
  backend.quantizeRows(quantized, input, n);
  backend.ternaryMatmul(out, weight, quantized, n);
  const got = await backend.read(out, n * rows);
  return { out: got, quantized: await backend.readQuantized(quantized, n) };
}

describe('quantisation to Q8_K', () => {
  /** One block that begins with these values, zeros behind. */
  function block(...first: number[]) {
    const [codes, factors, d] = [new Int8Array(256), new Float32Array(1), new Float32Array(1)];
    quantizeQ8K(
      codes,
      factors,
      d,
      Float32Array.from({ length: 256 }, (_, i) => first[i] ?? 0),
      256,
      1,
    );
    return { codes: Array.from(codes.subarray(0, first.length)), factor: factors[0], d: d[0], rest: codes[255] };
  }

  it('makes the largest value -127, whatever its sign', () => {
    // i = -127 / -2 = 63.5: 31.75 -> 32, 15.875 -> 16.
    expect(block(0.5, -2, 0.25)).toEqual({ codes: [32, -127, 16], factor: 63.5, d: f(1 / 63.5), rest: 0 });
    expect(block(-0.5, 2, -0.25)).toEqual({ codes: [32, -127, 16], factor: -63.5, d: f(-1 / 63.5), rest: 0 });
  });

  it('takes the sign of the first of several that are as large', () => {
    expect(block(1, -1).codes).toEqual([-127, 127]);
    expect(block(-1, 1).codes).toEqual([-127, 127]);
    expect([block(1, -1).d, block(-1, 1).d]).toEqual([f(-1 / 127), f(1 / 127)]);
  });

  it('rounds halves to even', () => {
    expect(block(-127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5).codes).toEqual([-127, 0, 2, 2, 0, -2, -2]);
  });

  it('has codes 0 and scale 0 for a block of zeros, and full codes for one of very small values', () => {
    expect(block(0, -0)).toEqual({ codes: [0, 0], factor: 0, d: 0, rest: 0 });
    // Per token, 1e-5 is the least that counts as large: such values become 0 there.
    expect(block(-1e-8, 5e-9).codes).toEqual([-127, 64]);
  });

  it('has a scale for every block', () => {
    const x = new Float32Array(512);
    x[0] = 4;
    x[256] = -0.5;
    const [codes, factors, d] = [new Int8Array(512), new Float32Array(2), new Float32Array(2)];
    quantizeQ8K(codes, factors, d, x, 512, 1);
    expect([codes[0], codes[256]]).toEqual([-127, -127]);
    expect(Array.from(d)).toEqual([f(-1 / 31.75), f(1 / 254)]);
    expect(Array.from(factors)).toEqual([-31.75, 254]);
  });

  it('keeps a NaN to itself and lets an infinity be seen', () => {
    expect(block(-1, Number.NaN, 0.5)).toMatchObject({ codes: [-127, 0, 64], factor: 127 });
    expect(block(1, Number.POSITIVE_INFINITY)).toMatchObject({ codes: [0, 0], d: Number.NEGATIVE_INFINITY });
  });
});

describe.each(Object.keys(BACKENDS) as (keyof typeof BACKENDS)[])('products by q8_k on %s', (name) => {
  const [rows, columns, n, scale] = [37, 768, 5, f(0.0371)];
  const matrix = trits('random', rows * columns, 7);

  /** In the order of the portable C code, element by element. */
  function reference(x: Float32Array): Float32Array {
    const out = new Float32Array(n * rows);
    for (let token = 0; token < n; token++) {
      for (let row = 0; row < rows; row++) {
        let sum = 0;
        for (let start = 0; start < columns; start += 256) {
          const part = Array.from(x.subarray(token * columns + start, token * columns + start + 256));
          const max = part.reduce((most, v) => (Math.abs(v) > Math.abs(most) ? v : most), 0);
          if (max === 0) continue;
          const factor = f(-127 / max);
          let dot = 0;
          for (const [i, v] of part.entries()) dot += nearest(f(factor * v)) * matrix[row * columns + start + i];
          sum = f(sum + f(dot * f(f(1 / factor) * scale)));
        }
        out[token * rows + row] = sum;
      }
    }
    return out;
  }
  /** Half to even, without any trick. */
  const nearest = (v: number) => {
    const low = Math.floor(v);
    const rest = v - low;
    return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
  };

  it.each(['normal', 'ties', 'zeros', 'equal', 'negative'] as const)('are those of the C code, %s', async (kind) => {
    const x = values(kind, n * columns, 3);
    // A block of zeros, and one below what int8 counts as large, beside the others.
    x.fill(0, columns, columns + 256);
    for (let i = 256; i < 512; i++) x[i] *= 1e-9;
    const { out } = await within(name, { activations: 'q8_k' }, (b) => product(b, x, matrix, rows, scale, n));
    expect(out).toEqual(reference(x));
  });

  it('are near those of exact numbers, nearer than int8 where blocks differ in size', async () => {
    const x = values('normal', n * columns, 4);
    for (let i = 0; i < x.length; i++) if (i % columns >= 256) x[i] *= 1e-3;
    const exact = new Float64Array(n * rows);
    for (let i = 0; i < exact.length; i++) {
      const [token, row] = [Math.floor(i / rows), i % rows];
      for (let c = 256; c < columns; c++) exact[i] += x[token * columns + c] * matrix[row * columns + c] * scale;
    }
    x.forEach((_, i) => {
      if (i % columns < 256 && i % columns > 0) x[i] = 0; // one large value per row, times trits that are 0
    });
    const flat = matrix.map((trit, i) => (i % columns === 0 ? 0 : trit));
    const rms = (got: Float32Array) => Math.sqrt(got.reduce((sum, v, i) => sum + (v - exact[i]) ** 2, 0));
    const size = Math.sqrt(exact.reduce((sum, v) => sum + v * v, 0));
    const q8k = await within(name, { activations: 'q8_k' }, (b) => product(b, x, flat, rows, scale, n));
    const int8 = await within(name, {}, (b) => product(b, x, flat, rows, scale, n));
    expect(rms(q8k.out)).toBeLessThan(0.01 * size);
    expect(rms(int8.out)).toBeGreaterThan(0.5 * size);
  });

  it('do not depend on the other rows', async () => {
    const x = values('normal', n * columns, 5);
    const whole = await within(name, { activations: 'q8_k' }, (b) => product(b, x, matrix, rows, scale, n));
    for (const token of [0, 3]) {
      const one = x.subarray(token * columns, (token + 1) * columns);
      const alone = await within(name, { activations: 'q8_k' }, (b) => product(b, one, matrix, rows, scale, 1));
      expect(alone.out).toEqual(whole.out.slice(token * rows, (token + 1) * rows));
    }
  });

  it('show their codes as llama.cpp has them', async () => {
    const x = values('normal', n * columns, 6);
    const { quantized } = await within(name, { activations: 'q8_k' }, (b) => product(b, x, matrix, rows, scale, n));
    const [codes, factors] = [new Int8Array(n * columns), new Float32Array(n * 3)];
    quantizeQ8K(codes, factors, new Float32Array(n * 3), x, columns, n);
    expect(quantized).toEqual({ codes, scales: factors });
  });

  it('let what is not finite be seen', async () => {
    const x = values('normal', n * columns, 8);
    x[columns + 300] = Number.POSITIVE_INFINITY;
    const { out } = await within(name, { activations: 'q8_k' }, (b) => product(b, x, matrix, rows, scale, n));
    const isBad = (token: number) => out.subarray(token * rows, (token + 1) * rows).some((v) => !Number.isFinite(v));
    expect([0, 1, 2, 3, 4].map(isBad)).toEqual([false, true, false, false, false]);
  });
});

/** Columns in planes of `vector`: byte p of a block holds columns p, vector + p, 2 vector + p, 3 vector + p. */
const saturate = (v: number) => Math.max(-32768, Math.min(32767, v));

/** The x86 kernel, instruction by instruction: what `hsum_i32_8(accu)` is. */
function runAvx2(codesOfWeights: Uint8Array, y: Int8Array): number {
  const accu = new Int32Array(8);
  const nBlocks = y.length / 128;
  for (let group = 0; group < nBlocks; group += 32) {
    const accu32 = new Int16Array(16);
    for (let block = group; block < Math.min(group + 32, nBlocks); block++) {
      const maddubs = [0, 1, 2, 3].map((plane) =>
        Int16Array.from({ length: 16 }, (_, lane) => {
          const at = block * 128 + plane * 32 + lane * 2;
          return saturate(codesOfWeights[at] * y[at] + codesOfWeights[at + 1] * y[at + 1]);
        }),
      );
      // Stores to an Int16Array wrap, as add_epi16 does.
      const [low, high] = [new Int16Array(16), new Int16Array(16)];
      for (let lane = 0; lane < 16; lane++) {
        low[lane] = maddubs[0][lane] + maddubs[1][lane];
        high[lane] = maddubs[2][lane] + maddubs[3][lane];
        accu32[lane] += low[lane];
        accu32[lane] += high[lane];
      }
    }
    for (let i = 0; i < 8; i++) accu[i] += accu32[2 * i] + accu32[2 * i + 1];
  }
  return accu.reduce((a, b) => (a + b) | 0, 0);
}

/** The NEON kernel of builds without dotprod: vmlal.s8 of low and high halves of 16 bytes, four planes of 16 columns. */
function runNeon(codesOfWeights: Uint8Array, y: Int8Array): number {
  let accu = 0;
  const nBlocks = y.length / 64;
  for (let group = 0; group < nBlocks; group += 32) {
    const accu32 = new Int16Array(8);
    for (let block = group; block < Math.min(group + 32, nBlocks); block++) {
      for (let half = 0; half < 8; half++) {
        for (let lane = 0; lane < 8; lane++) {
          const at = block * 64 + half * 8 + lane;
          accu32[lane] += codesOfWeights[at] * y[at];
        }
      }
    }
    for (const lane of accu32) accu = (accu + lane) | 0;
  }
  return accu;
}

const RUN: Record<I16Kernel['name'], typeof runAvx2> = { avx2: runAvx2, neon: runNeon };

const codesOf = (row: Int8Array) => Uint8Array.from(row, (trit) => trit + 1);

describe.each(Object.values(I16_KERNELS))('16-bit sums of $name', (kernel) => {
  const dotsOf = (row: Int8Array, codes: Int8Array) =>
    nativeDots(codesOf(row), codes, sumsOfColumns(kernel, codes.length), countSums(kernel, codes.length));
  const suspects = (codes: Int8Array) =>
    canOverflow(codes, sumsOfColumns(kernel, codes.length), countSums(kernel, codes.length));

  it('make of 4096 times 1 what a native build does: -4160.5', () => {
    const [plus, codes] = [new Int8Array(4096).fill(1), new Int8Array(4096).fill(127)];
    const dots = dotsOf(plus, codes);
    // 65024 in each of 16 lanes is -512.
    expect(dots).toEqual({ exact: 127 * 4096, native: -8192, codes: 127 * 4096 });
    // Activations of 1, weights of scale 1: s is 127.
    expect(nativeOutput(dots, 127, 1)).toBe(f(-528384 / 127));
    expect(suspects(codes)).toBe(true);
  });

  it('cannot overflow in so few columns, whatever is in them, and can in more', () => {
    const most = kernel.name === 'avx2' ? 2048 : 1024;
    expect(suspects(new Int8Array(most).fill(127))).toBe(false);
    expect(suspects(new Int8Array(most).fill(-128))).toBe(false);
    expect(suspects(new Int8Array(most + 128).fill(127))).toBe(true);
    expect(dotsOf(new Int8Array(most).fill(1), new Int8Array(most).fill(127)).native).toBe(2 * 127 * most);
  });

  it.each([2048, 2560, 4096, 6912, 8704, 14336])('are the instructions of the kernel, %i columns', (columns) => {
    let overflowed = 0;
    const kinds: [TritKind, ValueKind | 'large'][] = [];
    for (const trit of ['random', 'plus', 'minus', 'alternating', 'zero'] as const)
      for (const value of ['normal', 'ties', 'equal', 'negative', 'large'] as const) kinds.push([trit, value]);
    for (const [i, [tritKind, valueKind]] of kinds.entries()) {
      const row = trits(tritKind, columns, 100 + i);
      if (tritKind === 'plus') for (let c = 0; c < columns; c += 19) row[c] = 0;
      const x = values(valueKind === 'large' ? 'normal' : valueKind, columns, 200 + i);
      if (valueKind === 'large') for (let c = 0; c < columns; c++) x[c] = Math.abs(x[c]) + 1.5;
      const [codes, scales] = [new Int8Array(columns), new Float32Array(1)];
      quantizeRows(codes, scales, x, columns, 1);
      const dots = dotsOf(row, codes);
      expect(dots.native, `${tritKind} ${valueKind}`).toBe(RUN[kernel.name](codesOf(row), codes));
      expect(dots.exact).toBe(row.reduce((sum, trit, c) => sum + trit * codes[c], 0));
      const isWrong = dots.native - dots.codes !== dots.exact;
      // Looking at the codes alone never misses one.
      if (isWrong) expect(suspects(codes)).toBe(true);
      overflowed += isWrong ? 1 : 0;
    }
    if (columns > 2048 || kernel.name === 'neon') expect(overflowed).toBeGreaterThan(0);
    else expect(overflowed).toBe(0);
  });
});

const cases = conformanceCases();
const expected = expectedOutputs(cases);

describe.each([
  { name: 'ts', options: { activations: 'q8_k' } },
  { name: 'wasm', options: { activations: 'q8_k' } },
  { name: 'ts', options: { saturateI16: true } },
  { name: 'wasm', options: { saturateI16: 'neon' } },
] as const)('the conformance suite on $name with $options', ({ name, options }) => {
  let backend: Backend;
  beforeAll(async () => {
    backend = foreignSemantics(await BACKENDS[name](), options);
  });
  afterAll(() => backend.dispose());

  const isTernary = ({ op }: ConformanceCase) =>
    ['quantizeRows', 'rmsNormQuantize', 'ternaryMatmul', 'ternaryGroup', 'repack'].includes(op);

  it('is not exact, and says so', () => {
    expect(backend.info).toMatchObject({ name, exact: false });
    expect(backend.info.variant).toMatch(options.activations === undefined ? /\+i16-(avx2|neon)$/ : /\+q8_k$/);
    expect(backend.info.notes.at(-1)).toMatch(/q8_k|16-bit sums/);
  });

  it('gives the same bits for every op that is not of ternary matrices', async () => {
    let count = 0;
    for (const [i, one] of cases.entries()) {
      if (isTernary(one)) continue;
      expect(await runCase(backend, one), `${one.op} ${one.seed}`).toEqual((await expected)[i]);
      count++;
    }
    expect(count).toBeGreaterThan(200);
  }, 120_000);

  it('refuses columns that its kernels do not have', async () => {
    const one = cases.find((c) => c.op === 'ternaryMatmul' && c.columns === 129);
    await expect(runCase(backend, one as ConformanceCase)).rejects.toMatchObject({
      code: 'bad-argument',
      facts: { where: 'ternary random', got: '129' },
    });
  });
});

describe('the conformance cases of long rows, with 16-bit sums', () => {
  const long = cases.filter((one) => one.op === 'ternaryMatmul' && one.columns % 128 === 0 && one.columns >= 1024);
  const isSafe = (one: ConformanceCase & { op: 'ternaryMatmul' }) =>
    one.kind === 'normal' || one.trits === 'minus' || one.trits === 'zero' || one.columns <= 2048;

  it.each(['ts', 'wasm'] as const)(
    'are those of native on %s, and told',
    async (name) => {
      let wrong = 0;
      for (const one of long) {
        if (one.op !== 'ternaryMatmul') continue;
        const backend = foreignSemantics(await BACKENDS[name](), { saturateI16: true });
        const [got] = Object.values(await runCase(backend, one));
        const [exact] = Object.values((await expected)[cases.indexOf(one)]);
        const report = overflowsOf(backend);
        await backend.dispose();
        if (isSafe(one)) {
          expect(got).toEqual(exact);
          expect(report?.tensors).toEqual([]);
          continue;
        }
        // All inputs are alike: 127 or -127. Of the alternating signs, half the columns count twice.
        const different = Array.from(exact.keys()).filter((i) => !Object.is(got[i], exact[i]));
        const q = one.kind === 'equal' ? 127 : -127;
        const row = trits(one.trits, one.columns, one.seed);
        const codes = new Int8Array(one.columns).fill(q);
        const native = runAvx2(
          Uint8Array.from(row, (trit) => trit + 1),
          codes,
        );
        const isOff = native - q * one.columns !== row.reduce((sum, trit) => sum + trit * q, 0);
        expect(different.length, `${one.trits} ${one.kind} ${one.columns}`).toBe(isOff ? one.n * one.rows : 0);
        const found = report?.tensors[0];
        if (!isOff) {
          expect(report?.tensors).toEqual([]);
          continue;
        }
        wrong++;
        expect(found).toMatchObject({ tensor: `ternary ${one.trits}`, outputs: one.n * one.rows });
        expect(found?.first).toMatchObject({ token: 0, row: 0, exact: exact[0], native: got[0] });
        expect(Math.sign(got[0] - exact[0])).toBe(-Math.sign(q));
      }
      expect(wrong).toBeGreaterThan(8);
    },
    120_000,
  );
});

it('an overflow is told with the number of its token, and rows that no product takes are not', async () => {
  const [columns, rows] = [4096, 2];
  const backend = foreignSemantics(await ts()(), { saturateI16: true });
  const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer);
  const upload = (kind: object, bytes: Uint8Array, height: number, width: number) =>
    backend.upload({
      ...(kind as { kind: 'ternary' }),
      name: 'plus',
      rows: height,
      columns: width,
      byteLength: bytes.length,
      fill: async (target) => {
        target.set(bytes);
        return 1;
      },
    });
  // Row 0 is harmless, row 1 is the same number everywhere.
  const table = Float32Array.from({ length: 2 * columns }, (_, i) => (i < columns ? (i % 2) - 0.5 : 0.75));
  const embedding = await upload({ kind: 'dense', dtype: 'F32' }, bytesOf(table), 2, columns);
  const plus = await upload(
    { kind: 'ternary' },
    packRows(new Int8Array(rows * columns).fill(1), rows, columns),
    rows,
    columns,
  );
  const ids = backend.alloc('i32', [3]);
  const [x, out, q] = [
    backend.alloc('f32', [3, columns]),
    backend.alloc('f32', [3, rows]),
    backend.allocQuantized(3, columns),
  ];
  const pass = async (tokens: readonly number[], n: number) => {
    backend.write(ids, Int32Array.from(tokens));
    backend.embed(x, embedding, ids, tokens.length);
    backend.quantizeRows(q, x, tokens.length);
    backend.ternaryMatmul(out, plus, q, n);
    return backend.read(out, n * rows);
  };
  expect(Array.from(await pass([0, 0], 2))).toEqual([0, 0, 0, 0]);
  expect(Array.from(await pass([0, 0, 1], 2))).toEqual([0, 0, 0, 0]);
  expect(overflowsOf(backend)).toEqual({ kernel: 'avx2', outputs: 8, suspects: 0, tensors: [] });
  const native = f(f(-528384 / f(127 / 0.75)));
  expect(Array.from(await pass([0, 1, 1], 3))).toEqual([0, 0, native, native, native, native]);
  const first = { token: 6, row: 0, exact: f((127 * 4096) / f(127 / 0.75)), native };
  expect(overflowsOf(backend)).toEqual({
    kernel: 'avx2',
    outputs: 14,
    suspects: 2,
    tensors: [{ tensor: 'plus', outputs: 4, first, worst: first }],
  });
});

describe('what is asked for', () => {
  it('is nothing by default: the backend itself', async () => {
    const inner = await ts()();
    expect(foreignSemantics(inner, {})).toBe(inner);
    expect(foreignSemantics(inner, { activations: 'int8', saturateI16: false })).toBe(inner);
    expect(overflowsOf(inner)).toBeUndefined();
  });

  it.each([
    [{ activations: 'q8_0' }, /activations: no such quantisation of activations, expected int8, q8_k, got "q8_0"/],
    [{ saturateI16: 'sse' }, /saturateI16: no such kernel, expected true, false, avx2, neon, got "sse"/],
    [{ saturateI16: 'toString' }, /no such kernel/],
    [{ activations: 'q8_k', saturateI16: true }, /blocks of q8_k cannot overflow 16 bits, expected activations int8/],
  ])('%j is refused', async (options, message) => {
    const inner = await ts()();
    expect(() => foreignSemantics(inner, options as ForeignOptions)).toThrow(message);
  });

  it('gives back what a quantised buffer takes', async () => {
    for (const options of [{ activations: 'q8_k' }, { saturateI16: true }] as const) {
      const backend = foreignSemantics(await wasm({ threads: 1 })(), options);
      const used = () => backend.memory().usedBytes;
      backend.free(backend.allocQuantized(8, 768)); // scratch stays
      const before = used();
      const q = backend.allocQuantized(8, 768);
      expect(used()).toBeGreaterThanOrEqual(before + 8 * 768);
      backend.free(q);
      expect(used()).toBe(before);
      await backend.dispose();
    }
  });

  it('keeps the order of what is waiting, and the memory of what was freed meanwhile', async () => {
    for (const options of [{ activations: 'q8_k' }, { saturateI16: true }] as const) {
      const backend = foreignSemantics(await wasm({ threads: 1 })(), options);
      const x = values('normal', 256, 1);
      const weight = await backend.upload({
        kind: 'ternary',
        name: 'one',
        rows: 3,
        columns: 256,
        byteLength: packedBytes(3, 256),
        fill: async (target) => {
          target.set(packRows(trits('random', 768, 1), 3, 256));
          return 1;
        },
      });
      const [input, out, other] = [[1, 256] as const, [1, 3] as const, [1, 3] as const].map((s) =>
        backend.alloc('f32', s),
      );
      const q = backend.allocQuantized(1, 256);
      backend.write(input, x);
      backend.quantizeRows(q, input, 1);
      backend.ternaryMatmul(out, weight, q, 1);
      backend.add(other, out, out, 1);
      const changed = x.map((v) => v + 1);
      backend.write(input, changed); // after the product has read it
      changed.fill(0); // and this is not what was written
      backend.free(q);
      // These must not be where q still is.
      const late = [64, 256, 64, 256, 256].map((columns) => backend.alloc('f32', [1, columns]));
      const [sum, once] = [await backend.read(other, 3), await backend.read(out, 3)];
      expect(sum).toEqual(once.map((v) => v + v));
      const int8 = await within('ts', {}, (b) => product(b, x, trits('random', 768, 1), 3, 1, 1));
      for (const [i, v] of once.entries()) expect(Math.abs(v - int8.out[i])).toBeLessThan(1e-5);
      expect(await backend.read(input, 256)).toEqual(x.map((v) => v + 1));
      for (const buf of late) expect(await backend.read(buf, 64)).toEqual(new Float32Array(64));
      await backend.dispose();
    }
  });
});
