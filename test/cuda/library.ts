/**
 * The native library as tests see it: the functions of `native/abi.h` through koffi, with its error codes as exceptions.
 * @module
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';

export const OK = 0;
export const ERR_ARGUMENT = 1;
export const ERR_DRIVER = 2;
export const ERR_DEVICE = 3;
export const ERR_MEMORY = 4;
export const ERR_CUDA = 5;

export class NativeError extends Error {
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

const folder = new URL('.', import.meta.url).pathname;

/** Of everything that the shim is made of. */
function digest(): string {
  const hash = createHash('sha256');
  for (const part of ['shim', '../../src/kernels/cuda/native']) {
    for (const name of readdirSync(join(folder, part)).sort()) hash.update(readFileSync(join(folder, part, name)));
  }
  return hash.digest('hex').slice(0, 16);
}

/**
 * The library compiled for the CPU, as `test/cuda/shim/build.mjs` does; kept until a source changes. Undefined where no
 * compiler is. BITNET_CUDA_SHIM names one that was built before.
 */
export function buildShim(): string | undefined {
  if (process.env.BITNET_CUDA_SHIM !== undefined) return process.env.BITNET_CUDA_SHIM;
  const cache = join(folder, '../../node_modules/.cache/bitnet-ts');
  const out = join(cache, `cuda-shim-${digest()}.so`);
  if (existsSync(out)) return out;
  mkdirSync(cache, { recursive: true });
  const { status, stderr } = spawnSync(process.execPath, [join(folder, 'shim/build.mjs'), out], { encoding: 'utf8' });
  if (status === 3) return undefined;
  if (status !== 0) throw new Error(`the shim does not compile:\n${stderr}`);
  return out;
}

type Bytes = Uint8Array | Float32Array | Int32Array | Int8Array;

export class Library {
  readonly #lib: ReturnType<typeof koffi.load>;
  readonly #functions = new Map<string, (...args: unknown[]) => unknown>();

  constructor(path: string) {
    this.#lib = koffi.load(path);
  }

  call(prototype: string, ...args: unknown[]): unknown {
    const known = this.#functions.get(prototype) ?? this.#lib.func(prototype);
    this.#functions.set(prototype, known);
    return known(...args);
  }

  abiVersion(): number {
    return this.call('int32_t bn_abi_version()') as number;
  }

  devices(): { code: number; count: number; message: string } {
    const count = [0];
    const code = this.call('int32_t bn_devices(_Out_ int32_t* count)', count) as number;
    return { code, count: count[0], message: this.message(null) };
  }

  message(context: unknown): string {
    return this.call('const char* bn_message(void* context)', context) as string;
  }

  /** A knob of the CPU shim. */
  shim(name: string, value: number): void {
    if (this.call('int32_t bn_shim_set(const char* name, int64_t value)', name, value) !== 1) throw new Error(name);
  }

  open(device = 0): Context {
    const out = [null];
    const code = this.call('int32_t bn_open(int32_t device, _Out_ void** context)', device, out) as number;
    if (code !== OK) throw new NativeError(code, this.message(null));
    return new Context(this, out[0]);
  }
}

export class Context {
  readonly library: Library;
  readonly #context: unknown;

  constructor(library: Library, context: unknown) {
    this.library = library;
    this.#context = context;
  }

  #check(code: unknown): void {
    if (code !== OK) throw new NativeError(code as number, this.library.message(this.#context));
  }

  close(): void {
    this.#check(this.library.call('int32_t bn_close(void* context)', this.#context));
  }

  info(): Record<string, string | number> {
    const json = Buffer.alloc(1024);
    this.#check(
      this.library.call('int32_t bn_info(void* context, void* json, int32_t bytes)', this.#context, json, 1024),
    );
    return JSON.parse(json.toString('utf8', 0, json.indexOf(0)));
  }

  set(option: number, value: number): void {
    this.#check(
      this.library.call('int32_t bn_set(void* context, int32_t option, int32_t value)', this.#context, option, value),
    );
  }

  alloc(bytes: number): number {
    const out = [0];
    const prototype = 'int32_t bn_alloc(void* context, uint64_t bytes, _Out_ int32_t* handle)';
    this.#check(this.library.call(prototype, this.#context, bytes, out));
    return out[0];
  }

  free(handle: number): void {
    this.#check(this.library.call('int32_t bn_free(void* context, int32_t handle)', this.#context, handle));
  }

  write(handle: number, data: Bytes, offset = 0): void {
    const prototype =
      'int32_t bn_write(void* context, int32_t handle, uint64_t offset, const void* data, uint64_t bytes)';
    this.#check(this.library.call(prototype, this.#context, handle, offset, data, data.byteLength));
  }

  read<T extends Bytes>(handle: number, into: T, offset = 0): T {
    const prototype = 'int32_t bn_read(void* context, int32_t handle, uint64_t offset, void* data, uint64_t bytes)';
    this.#check(this.library.call(prototype, this.#context, handle, offset, into, into.byteLength));
    return into;
  }

  denseBytes(dtype: number, rows: number, columns: number): number {
    const out = [0];
    const prototype = 'int32_t bn_dense_bytes(int32_t dtype, int32_t rows, int32_t columns, _Out_ uint64_t* bytes)';
    const code = this.library.call(prototype, dtype, rows, columns, out) as number;
    if (code !== OK) throw new NativeError(code, this.library.message(null));
    return Number(out[0]);
  }

  packDense(
    dtype: number,
    from: number,
    to: number,
    rows: number,
    columns: number,
    first: number,
    count: number,
  ): void {
    const prototype =
      'int32_t bn_pack_dense(void* context, int32_t dtype, int32_t from, int32_t to, int32_t rows, int32_t columns, int32_t firstRow, int32_t count)';
    this.#check(this.library.call(prototype, this.#context, dtype, from, to, rows, columns, first, count));
  }

  run(words: Int32Array): void {
    const prototype = 'int32_t bn_run(void* context, const int32_t* words, int32_t count)';
    this.#check(this.library.call(prototype, this.#context, words, words.length));
  }
}
