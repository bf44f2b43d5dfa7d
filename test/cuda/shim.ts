/**
 * The cuda backend on the CPU shim: the library's own sources compiled for the CPU (`shim/shim.h`), so that all of it runs without a
 * GPU. Nothing here is about one op: what is tested is the backend that is shipped.
 * @module
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import type { BackendFactory } from '../../src/engine/backends.ts';
import { CudaBackend } from '../../src/kernels/cuda/backend.ts';
import { Device } from '../../src/kernels/cuda/device.ts';
import type { NativeFunction, NativeLibrary } from '../../src/kernels/cuda/host.ts';
import { cudaQuantized } from '../../src/kernels/cuda/memory.ts';
import { createCudaBackend } from '../../src/kernels/cuda/open.ts';
import type { BackendInfo, QuantizedBuf } from '../../src/kernels/interface.ts';
import { createCudaHost } from '../../src/platform/library-node.ts';
import { MORE_PROTOTYPES } from './library.ts';

const folder = new URL('.', import.meta.url).pathname;
/** Compiling takes a quarter of a minute; a lock as old as this was left by somebody who was ended. */
const STALE_MS = 300_000;

/** Of everything that the shim is made of. */
function digest(): string {
  const hash = createHash('sha256');
  for (const part of ['shim', '../../src/kernels/cuda/native']) {
    for (const name of readdirSync(join(folder, part)).sort()) hash.update(readFileSync(join(folder, part, name)));
  }
  return hash.digest('hex').slice(0, 16);
}

/** True where this process is the one to make `out`; where another is at it, it waits until it has ended. */
function isOurs(out: string, lock: string): boolean {
  for (;;) {
    if (existsSync(out)) return false;
    try {
      closeSync(openSync(lock, 'wx'));
      return true;
    } catch {
      const since = statSync(lock, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
      if (Date.now() - since > STALE_MS) rmSync(lock, { force: true });
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    }
  }
}

/**
 * The shim, as `test/cuda/shim/build.mjs` compiles it, once for all who test at the same time; kept until a source changes. Undefined
 * where no compiler is. BITNET_CUDA_SHIM names one that was built before.
 */
function built(): string | undefined {
  if (process.env.BITNET_CUDA_SHIM !== undefined) return process.env.BITNET_CUDA_SHIM;
  const cache = join(folder, '../../node_modules/.cache/bitnet-ts');
  const out = join(cache, `cuda-shim-${digest()}.so`);
  mkdirSync(cache, { recursive: true });
  const lock = `${out}.lock`;
  if (!isOurs(out, lock)) return out;
  try {
    const { status, stderr } = spawnSync(process.execPath, [join(folder, 'shim/build.mjs'), out], { encoding: 'utf8' });
    if (status === 3) return undefined;
    if (status !== 0) throw new Error(`the shim does not compile:\n${stderr}`);
    return out;
  } finally {
    rmSync(lock);
  }
}

/** Undefined where no C++ compiler is. */
export const shimPath = built();
if (shimPath === undefined) console.warn('no C++ compiler (g++) here: the cuda backend is not tested');
const library = shimPath === undefined ? undefined : await createCudaHost().loadLibrary(shimPath);
const setKnob = shimPath && koffi.load(shimPath).func('int32_t bn_shim_set(const char* name, int64_t value)');
const getCount = shimPath && koffi.load(shimPath).func('int64_t bn_shim_get(const char* name)');

/** What the shim plays: memory, devices, driver, compute capability, failures, the order of threads. */
export function shim(name: string, value: number): void {
  if (setKnob && setKnob(name, value) !== 1) throw new Error(`the shim has no knob ${name}`);
}

/** What the library took from the runtime and has not given back; and `error`, which the runtime would tell whoever asked next. */
export function held(): Record<string, number> {
  return Object.fromEntries(Object.keys(NOTHING).map((name) => [name, counted(name)]));
}
/** Launches that may begin before the kernel before them has ended. */
export const overlaps = () => counted('overlaps');
const counted = (name: string) => (getCount ? Number(getCount(name)) : Number.NaN);
export const NOTHING: Record<string, number> = { streams: 0, graphs: 0, pinned: 0, pieces: 0, error: 0 };

/** What the shim is when nothing is set. */
export const SHIM_MEMORY = 16 * 2 ** 30;
/** What the CUDA runtime calls so. */
export const INVALID_VALUE = 1;
export const OUT_OF_MEMORY = 2;
export const ILLEGAL_ADDRESS = 700;

/** The backend as a program opens it. */
export const onShim: BackendFactory = () => createCudaBackend({ library: shimPath }, createCudaHost());

/** A call of the library. */
export interface Call {
  readonly name: string;
  readonly args: readonly unknown[];
}

/** A backend with its context, every call that it makes from here on, and the options of `bn_set`. */
export class TestBackend extends CudaBackend {
  readonly device: Device;
  readonly calls: Call[];
  readonly #set: (option: number, value: number) => unknown;

  private constructor(info: BackendInfo, device: Device, calls: Call[], context: unknown, stagingBytes?: number) {
    super(info, device, stagingBytes);
    this.device = device;
    this.calls = calls;
    const set = native().find(MORE_PROTOTYPES.bn_set);
    this.#set = (option, value) => set(context, option, value);
  }

  static open(stagingBytes?: number): TestBackend {
    const calls: Call[] = [];
    const found = native();
    const watching: NativeLibrary = {
      path: found.path,
      find(prototype): NativeFunction {
        const act = found.find(prototype);
        const name = /bn_\w+/.exec(prototype)?.[0] ?? '';
        return (...args) => {
          // As they were: the next list is written over this one.
          calls.push({
            name,
            args: name === 'bn_run' ? args.map((arg) => (arg instanceof Int32Array ? arg.slice() : arg)) : args,
          });
          return act(...args);
        };
      },
    };
    const device = Device.open(watching, 0);
    const opened = calls.find(({ name }) => name === 'bn_open')?.args[1] as [unknown];
    const info = { name: 'cuda', variant: 'watched', nThreads: 1, exact: true, notes: [] };
    return new TestBackend(info, device, calls, opened[0], stagingBytes);
  }

  set(option: number, value: number): void {
    if (this.#set(option, value) !== 0) throw new Error(`option ${option} cannot be ${value}`);
  }

  /** What the library counts of itself. */
  counts(): Record<'graphs' | 'replays' | 'launches', number> {
    return this.device.info() as unknown as Record<'graphs' | 'replays' | 'launches', number>;
  }

  /** Looks also at what only kernels read: the sum beside each scale is that of the codes, and behind the last column there are none. */
  override async readQuantized(from: QuantizedBuf, n: number): Promise<{ codes: Int8Array; scales: Float32Array }> {
    const got = await super.readQuantized(from, n);
    const { codes, meta, columns } = cudaQuantized(this, from);
    const stride = Math.ceil(columns / 128) * 128;
    const planes = this.device.read(codes, new Int8Array(n * stride));
    const rows = this.device.read(meta, new Int32Array(n * 2));
    const sum = (of: Int8Array, row: number, width: number) =>
      of.subarray(row * width, (row + 1) * width).reduce((a, b) => a + b, 0);
    for (let row = 0; row < n; row++) {
      const sums = [sum(planes, row, stride), sum(got.codes, row, columns)];
      if (sums.some((one) => one !== rows[2 * row + 1])) {
        throw new Error(`row ${row}: sum ${rows[2 * row + 1]}, expected ${sums.join(' with padding, without it ')}`);
      }
    }
    return got;
  }
}

function native(): NativeLibrary {
  if (library === undefined) throw new Error('no shim: the test should have been skipped');
  return library;
}

export async function watched(stagingBytes?: number): Promise<{ backend: TestBackend; device: Device; calls: Call[] }> {
  const backend = TestBackend.open(stagingBytes);
  return { backend, device: backend.device, calls: backend.calls };
}

/** Small enough that most matrices which the device rearranges arrive in pieces. */
const PIECES = 2000;

/** A backend whose threads run in an order that `seed` chooses, with options of `bn_set`. */
export function open(seed: number, options: Readonly<Record<number, number>> = {}): TestBackend {
  shim('seed', seed);
  const backend = TestBackend.open(PIECES);
  for (const [option, value] of Object.entries(options)) backend.set(Number(option), value);
  return backend;
}
