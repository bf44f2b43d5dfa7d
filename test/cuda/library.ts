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
