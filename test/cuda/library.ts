/**
 * The native library as it is: the functions of `native/abi.h` through koffi, with its codes as errors. For what the backend never
 * sends and never asks; everything else is tested through the backend (`shim.ts`).
 * @module
 */

import koffi from 'koffi';
import { Code, INFO_BYTES, PROTOTYPES } from '../../src/kernels/cuda/abi.ts';

/** What the backend has no use for. */
export const MORE_PROTOTYPES = {
  bn_devices: 'int32_t bn_devices(_Out_ int32_t* count)',
  bn_set: 'int32_t bn_set(void* context, int32_t option, int32_t value)',
} as const;
const ALL = { ...PROTOTYPES, ...MORE_PROTOTYPES };
type Name = keyof typeof ALL;
type Bytes = Uint8Array | Int8Array | Float32Array | Int32Array;

export class NativeError extends Error {
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

export class Library {
  readonly #library: ReturnType<typeof koffi.load>;
  readonly #functions = new Map<Name, (...args: unknown[]) => unknown>();

  constructor(path: string) {
    this.#library = koffi.load(path);
  }

  call(name: Name, ...args: unknown[]): unknown {
    const known = this.#functions.get(name) ?? this.#library.func(ALL[name]);
    this.#functions.set(name, known);
    return known(...args);
  }

  /** Throws what the library says, of `context` or of itself. */
  check(context: unknown, code: unknown): void {
    if (code !== Code.OK) throw new NativeError(code as number, this.call('bn_message', context) as string);
  }

  devices(): { code: number; count: number } {
    const count = [0];
    const code = this.call('bn_devices', count) as number;
    return { code, count: count[0] };
  }

  open(device = 0): Context {
    const out = [null];
    this.check(null, this.call('bn_open', device, out));
    return new Context(this, out[0]);
  }
}

export class Context {
  readonly #library: Library;
  readonly #context: unknown;

  constructor(library: Library, context: unknown) {
    this.#library = library;
    this.#context = context;
  }

  /** A function that takes the context, with whatever arguments. */
  call(name: Name, ...args: unknown[]): void {
    this.#library.check(this.#context, this.#library.call(name, this.#context, ...args));
  }

  close(): void {
    this.call('bn_close');
  }

  info(): Record<string, string | number> {
    const json = Buffer.alloc(INFO_BYTES);
    this.call('bn_info', json, json.length);
    return JSON.parse(json.toString('utf8', 0, json.indexOf(0)));
  }

  set(option: number, value: number): void {
    this.call('bn_set', option, value);
  }

  alloc(bytes: number): number {
    const out = [0];
    this.call('bn_alloc', bytes, out);
    return out[0];
  }

  free(handle: number): void {
    this.call('bn_free', handle);
  }

  write(handle: number, data: Bytes, offset = 0): void {
    this.call('bn_write', handle, offset, data, data.byteLength);
  }

  read<T extends Bytes>(handle: number, into: T, offset = 0): T {
    this.call('bn_read', handle, offset, into, into.byteLength);
    return into;
  }

  denseBytes(dtype: number, rows: number, columns: number): number {
    const out = [0];
    this.#library.check(null, this.#library.call('bn_dense_bytes', dtype, rows, columns, out));
    return Number(out[0]);
  }

  /** dtype, from, to, rows, columns, first row, count. */
  packDense(...args: [number, number, number, number, number, number, number]): void {
    this.call('bn_pack_dense', ...args);
  }

  run(words: readonly number[]): void {
    this.call('bn_run', Int32Array.from(words), words.length);
  }
}

/** What the library said when it refused. */
export function failure(act: () => unknown): NativeError {
  try {
    act();
  } catch (error) {
    if (error instanceof NativeError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

/** One word list for each op, all of them legal: words of `commands.md` with buffers of `room` elements. */
export function legalCommands(c: Context): Map<string, number[]> {
  const f = (x: number) => new Int32Array(new Float32Array([x]).buffer)[0];
  const [a, b, out, codes, meta, ids] = [1024, 1024, 1024, 1024, 64, 64].map((elements) => c.alloc(elements * 4));
  const [weight, dense, keys, values, top, index] = [1024, 4096, 4096, 4096, 4096, 96].map((bytes) => c.alloc(bytes));
  return new Map([
    ['embed', [1, 11, out, 0, 0, dense, 8, 128, ids, 0, 2]],
    ['rmsNorm', [2, 11, out, 0, a, 0, b, 0, f(1e-5), 128, 2]],
    ['quantizeRows', [3, 10, codes, 0, meta, 0, a, 0, 128, 2]],
    ['ternaryMatmul', [4, 13, out, 0, weight, f(1), 8, 128, codes, 0, meta, 0, 2]],
    ['denseMatmul', [5, 11, out, 0, 0, dense, 8, 128, a, 0, 2]],
    ['rope', [6, 10, a, 0, b, 0, 2, 16, 1, 2]],
    ['kvAppend', [7, 16, a, 0, b, 0, 2, 16, 0, 2, 1, 1, 32, keys, values, 3]],
    ['attention', [8, 18, out, 0, a, 0, 4, 2, 16, 0, 2, 1, 1, 32, f(0.25), keys, values, 3]],
    ['gatedRelu2', [9, 9, out, 0, a, 0, b, 0, 256]],
    ['gatedSilu', [10, 9, out, 0, a, 0, b, 0, 256]],
    ['add', [11, 9, out, 0, a, 0, b, 0, 256]],
    ['copyRows', [12, 7, out, 0, a, 0, 256]],
    ['rmsNormQuantize', [16, 13, codes, 0, meta, 0, a, 0, b, 0, f(1e-5), 128, 2]],
    ['gatedGelu', [17, 9, out, 0, a, 0, b, 0, 256]],
    ['scale', [18, 8, out, 0, a, 0, f(2), 256]],
    ['topK', [19, 10, top, 0, a, 0, 128, 5, 100, 2]],
    ['denseIndex', [20, 7, index, 1, dense, 8, 128]],
    ['denseTopK', [21, 16, out, 0, top, 0, 1, dense, index, 8, 128, a, 0, 5, 100, 2]],
  ]);
}

/** The same, or undefined where it did not refuse. */
export function failureOf(act: () => unknown): NativeError | undefined {
  try {
    act();
  } catch (error) {
    if (error instanceof NativeError) return error;
    throw error;
  }
  return undefined;
}
