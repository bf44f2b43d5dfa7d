/**
 * Why the ternary kernel looks as it does: matrix times vector in steps from the obvious to what ships, each checked
 * against the first, then timed. The WebAssembly is in rungs.ts, compiled here and now.
 *
 * The matrix is warm: what is compared is computing, not memory.
 */

import { readFileSync } from 'node:fs';
import asc from 'assemblyscript/asc';
import type { VariantName } from '../../src/kernels/wasm/host.ts';
import { createWasmBackend } from '../../src/kernels/wasm/open.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { detectPlatform } from '../../src/platform/detect.ts';
import { packedRowBytes, packRows, unpackRows } from '../../src/tensors/packed.ts';
import { type Case, type Ready, ROOT, type Suite } from '../harness.ts';

/** Gate and up of BitNet-b1.58-2B-4T. */
const [ROWS, COLUMNS] = [6912, 2560];
const ROW_BYTES = packedRowBytes(COLUMNS);

/** Name in rungs.ts, and what the step before it did not do. */
const RUNGS: readonly (readonly [name: string, target: Target, idea: string])[] = [
  ['scalar', 'simd', 'scalar WebAssembly: the same loop'],
  ['literalMask', 'simd', 'SIMD, 16 weights an instruction, mask written as a literal'],
  ['loadedMask', 'simd', 'the mask loaded from memory, so that it stays in a register'],
  ['fourRows', 'simd', 'four rows at a time'],
  ['fourRows', 'relaxed', 'relaxed dot product: multiply and add pairs in one instruction'],
  ['loadedMask', 'relaxed', 'aside: relaxed dot product, but one row at a time'],
  ['literalMask', 'relaxed', 'aside: and with the literal mask'],
  ['fivePerByte', 'relaxed', 'aside: relaxed dot product, five weights a byte instead of four'],
];

type Target = 'simd' | 'relaxed';
type Rung = (
  out: number,
  packed: number,
  rows: number,
  rowBytes: number,
  q: number,
  sumQ: number,
  mask: number,
) => void;

export const ternaryMatvec: Suite = {
  name: 'ladder/ternary-matvec',
  async *cases() {
    const work = { macs: ROWS * COLUMNS, bytes: ROWS * ROW_BYTES };
    const step = (number: string, idea: string, prepare: Case['prepare']): Case => ({
      name: `ladder/ternary-matvec ${number} ${idea}`,
      work,
      prepare,
    });
    let problem: Problem | undefined;
    const given = () => {
      problem ??= makeProblem();
      return problem;
    };
    yield step('1', 'TypeScript as one would write it', () => ({ run: () => naive(given()) }));
    for (const [i, [name, target, idea]] of RUNGS.entries()) {
      yield step(idea.startsWith('aside') ? '-' : `${i + 2}`, idea, () => compiled(name, target, given()));
    }
    // Rows of four quarters, one shift instead of three; in `dot` four products an instruction, where the processor has it.
    for (const kernels of ['simd', 'relaxed', 'dot'] as const) {
      yield step('-', `what ships: the wasm backend, kernels ${kernels}, one thread`, () => shipped(kernels, given()));
    }
  },
};

interface Problem {
  readonly packed: Uint8Array<ArrayBuffer>;
  /** Activations. */
  readonly q: Int8Array<ArrayBuffer>;
  readonly expected: Int32Array;
}

function makeProblem(): Problem {
  const rng = Rng.fromSeed(1);
  const trits = Int8Array.from({ length: ROWS * COLUMNS }, () => (rng.nextUint32() % 3) - 1);
  const q = Int8Array.from({ length: COLUMNS }, () => (rng.nextUint32() % 255) - 127);
  // `quantizeRows` scales a row by 127 over its largest magnitude: with a 127 in it, codes are the numbers themselves.
  q[0] = 127;
  const packed = packRows(trits, ROWS, COLUMNS);
  return { packed, q, expected: plainSums(unpackRows(packed, ROWS, COLUMNS), q) };
}

/** From the unpacked trits: shares nothing with the rungs that it judges. */
function plainSums(trits: Int8Array, q: Int8Array): Int32Array {
  return Int32Array.from({ length: ROWS }, (_, row) => {
    let sum = 0;
    for (let c = 0; c < COLUMNS; c++) sum += trits[row * COLUMNS + c] * q[c];
    return sum;
  });
}

/** Rung 1. */
function naive({ packed, q }: Problem): Int32Array {
  const out = new Int32Array(ROWS);
  for (let row = 0; row < ROWS; row++) {
    let sum = 0;
    for (let c = 0; c < COLUMNS; c++) {
      const byte = packed[row * ROW_BYTES + (c >> 7) * 32 + (c & 31)];
      const code = (byte >> (6 - 2 * ((c >> 5) & 3))) & 3;
      sum += (code - 1) * q[c];
    }
    out[row] = sum;
  }
  return out;
}

async function compiled(name: string, target: Target, { packed, q, expected }: Problem): Promise<Ready> {
  // Node 20 has relaxed SIMD behind a switch.
  if (target === 'relaxed') await (await detectPlatform().wasmHost()).enableRelaxedSimd?.();
  const memory = new WebAssembly.Memory({ initial: 1 + Math.ceil((packed.length + 65536) / 65536) });
  const { instance } = await WebAssembly.instantiate(await compile(target), { env: { memory } });
  const rung = instance.exports[name] as Rung;
  const [mask, qAt, outAt, packedAt] = [1024, 2048, 8192, 65536];
  const bytes = new Uint8Array(memory.buffer);
  bytes.fill(3, mask, mask + 16);
  bytes.set(new Uint8Array(q.buffer), qAt);
  bytes.set(name === 'fivePerByte' ? packFives(packed) : packed, packedAt);
  const sumQ = q.reduce((sum, x) => sum + x, 0);
  const run = () => rung(outAt, packedAt, ROWS, ROW_BYTES, qAt, sumQ, mask);
  run();
  check(new Int32Array(memory.buffer, outAt, ROWS), expected);
  return { run };
}

/** As drawn at `fivePerByte` in rungs.ts. The smallest byte whose digits are right is rounded up. */
function packFives(packed: Uint8Array): Uint8Array {
  const trits = unpackRows(packed, ROWS, COLUMNS);
  const out = new Uint8Array((ROWS * COLUMNS) / 5);
  for (let i = 0; i < out.length; i++) {
    const first = (i >> 4) * 80 + (i & 15);
    let number = 0;
    for (let digit = 0; digit < 5; digit++) number = number * 3 + trits[first + 16 * digit] + 1;
    out[i] = Math.ceil((number * 256) / 243);
  }
  return out;
}

const modules = new Map<Target, Promise<Uint8Array<ArrayBuffer>>>();

function compile(target: Target): Promise<Uint8Array<ArrayBuffer>> {
  const module = modules.get(target) ?? runCompiler(target);
  modules.set(target, module);
  return module;
}

async function runCompiler(target: Target): Promise<Uint8Array<ArrayBuffer>> {
  let binary: Uint8Array<ArrayBuffer> | undefined;
  const stderr = asc.createMemoryStream();
  const features = target === 'relaxed' ? ['simd', 'relaxed-simd'] : ['simd'];
  const { error } = await asc.main(
    [
      'rungs.ts',
      ...['--outFile', 'rungs.wasm', '-O3', '--runtime', 'stub', '--importMemory', '--memoryBase', '512'],
      ...['--noAssert', '--use', 'abort=', ...features.flatMap((feature) => ['--enable', feature])],
    ],
    {
      stderr,
      readFile: (name) => (name === 'rungs.ts' ? readFileSync(new URL('bench/ladder/rungs.ts', ROOT), 'utf8') : null),
      writeFile(_name, contents) {
        binary = Uint8Array.from(contents as Uint8Array);
      },
      listFiles: () => [],
    },
  );
  if (error !== null || binary === undefined) throw error ?? new Error(stderr.toString());
  return binary;
}

/** The kernel of the engine, by way of its interface: with scales of 1 its floats are the integers. */
async function shipped(kernels: VariantName, { packed, q, expected }: Problem): Promise<Ready> {
  const backend = await createWasmBackend({ threads: 1, kernels }, await detectPlatform().wasmHost());
  const weight = await backend.upload({
    ...{ kind: 'ternary', name: 'w', rows: ROWS, columns: COLUMNS, byteLength: packed.length },
    fill: async (target) => {
      target.set(packed);
      return 1;
    },
  });
  const x = backend.alloc('f32', [1, COLUMNS]);
  backend.write(x, Float32Array.from(q));
  const codes = backend.allocQuantized(1, COLUMNS);
  backend.quantizeRows(codes, x, 1);
  const out = backend.alloc('f32', [1, ROWS]);
  const run = async () => {
    backend.ternaryMatmul(out, weight, codes, 1);
    await backend.read(out, 0);
  };
  await run();
  check(Int32Array.from(await backend.read(out, ROWS)), expected);
  return { run, dispose: () => backend.dispose() };
}

function check(got: Int32Array, expected: Int32Array): void {
  const bad = expected.findIndex((value, i) => value !== got[i]);
  if (bad >= 0) throw new Error(`row ${bad}: expected ${expected[bad]}, got ${got[bad]}`);
}
