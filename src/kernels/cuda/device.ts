/**
 * One context of the native library: its functions with their codes as errors, and its end.
 *
 * After a failure of the device nothing that is there can be used any more. The context is then closed at once, so that the memory is
 * free for the next, and whoever still holds this one hears what happened.
 * @module
 */

import { BitnetError, type ErrorFacts } from '../../errors.ts';
import { ABI_VERSION, Code, type FunctionName, INFO_BYTES, PROTOTYPES } from './abi.ts';
import type { NativeFunction, NativeLibrary } from './host.ts';

export const WHERE = 'backend cuda';

export type Bytes = Uint8Array | Int8Array | Uint16Array | Int32Array | Float32Array;

/** What the library tells of a device. */
export interface DeviceInfo {
  readonly name: string;
  readonly computeCapability: string;
  /** Version of CUDA that the driver is made for, and that of the library: 13010 is 13.1. */
  readonly driver: number;
  readonly runtime: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** By this context, what the library takes for itself included. */
  readonly usedBytes: number;
  readonly sms: number;
  /** Lists of commands that are kept as graphs, and how often one was replayed. */
  readonly graphs: number;
  readonly replays: number;
}

type Functions = Record<FunctionName, NativeFunction>;

const ELSEWHERE = 'the backend "wasm" needs no GPU';

export class Device {
  readonly #functions: Functions;
  /** Undefined once it is closed. */
  #context: unknown;
  #failure: string | undefined;

  /** Takes device number `device`. Throws `backend-unavailable` where it cannot be had, `backend-failed` where it computes wrongly. */
  static open(library: NativeLibrary, device: number): Device {
    const functions = functionsOf(library);
    const out: [unknown] = [null];
    const code = functions.bn_open(device, out) as number;
    if (code !== Code.OK) throw refusal(code, String(functions.bn_message(null)));
    return new Device(functions, out[0]);
  }

  private constructor(functions: Functions, context: unknown) {
    this.#functions = functions;
    this.#context = context;
  }

  get isOpen(): boolean {
    return this.#context !== undefined;
  }

  /** Throws what became of the context, if it is no more. */
  wantOpen(): void {
    if (this.#context === undefined) throw this.#closed();
  }

  info(): DeviceInfo {
    const json = new Uint8Array(INFO_BYTES);
    this.#call('bn_info', 'facts of the device', json, json.length);
    return JSON.parse(new TextDecoder().decode(json.subarray(0, json.indexOf(0))));
  }

  /** A zeroed buffer; its handle. `what` is for messages. */
  alloc(bytes: number, what: string): number {
    const out: [number] = [0];
    this.#call('bn_alloc', what, bytes, out);
    return out[0];
  }

  free(handle: number): void {
    this.#call('bn_free', 'freeing a buffer', handle);
  }

  write(handle: number, data: Bytes, offsetBytes = 0): void {
    this.#call('bn_write', 'writing', handle, offsetBytes, data, data.byteLength);
  }

  /** Waits for everything before. */
  read<T extends Bytes>(handle: number, into: T, offsetBytes = 0): T {
    this.#call('bn_read', 'reading', handle, offsetBytes, into, into.byteLength);
    return into;
  }

  /** Bytes of a dense matrix in device memory. */
  denseBytes(dtype: number, rows: number, columns: number): number {
    const out: [number | bigint] = [0];
    const code = this.#functions.bn_dense_bytes(dtype, rows, columns, out) as number;
    if (code !== Code.OK) {
      throw new BitnetError('bad-argument', String(this.#functions.bn_message(null)), {
        where: WHERE,
        got: `(${rows}, ${columns})`,
      });
    }
    return Number(out[0]);
  }

  /** Rearranges rows as files have them, `count` from `firstRow` on, into a matrix of `rows`. */
  packDense(
    dtype: number,
    from: number,
    to: number,
    rows: number,
    columns: number,
    firstRow: number,
    count: number,
  ): void {
    this.#call('bn_pack_dense', 'packing', dtype, from, to, rows, columns, firstRow, count);
  }

  run(words: Int32Array, count: number): void {
    this.#call('bn_run', 'running', words, count);
  }

  /** Gives everything back. */
  close(): void {
    const context = this.#context;
    if (context === undefined) return;
    this.#context = undefined;
    this.#functions.bn_close(context);
  }

  #call(name: FunctionName, what: string, ...args: readonly unknown[]): void {
    this.wantOpen();
    const code = this.#functions[name](this.#context, ...args) as number;
    if (code === Code.OK) return;
    const message = String(this.#functions.bn_message(this.#context));
    if (code === Code.MEMORY) {
      // The library knows no names: its own for what it was asked for is "a buffer".
      throw new BitnetError('out-of-memory', message.replace(/^a buffer: /, 'not enough device memory, '), {
        where: `${WHERE}: ${what}`,
        hint: 'a smaller context or batch, or a smaller model',
      });
    }
    if (code === Code.ARGUMENT) throw new BitnetError('bad-argument', message, { where: WHERE });
    this.#failure = message;
    this.close();
    throw this.#closed();
  }

  #closed(): BitnetError {
    if (this.#failure === undefined) return new BitnetError('disposed', 'the backend was disposed', { where: WHERE });
    return new BitnetError('backend-failed', 'the device failed, and all that was on it is lost', {
      where: WHERE,
      got: this.#failure,
      hint: 'load the model again',
    });
  }
}

/** Why a device cannot be had. */
function refusal(code: number, message: string): BitnetError {
  const fail = (kind: 'backend-unavailable' | 'backend-failed' | 'out-of-memory', facts: ErrorFacts) =>
    new BitnetError(kind, message, { where: WHERE, ...facts });
  switch (code) {
    case Code.DRIVER:
      return fail('backend-unavailable', { hint: `install or update the NVIDIA driver; ${ELSEWHERE}` });
    case Code.DEVICE:
      return fail('backend-unavailable', { hint: `--device or the option device chooses; ${ELSEWHERE}` });
    case Code.MEMORY:
      return fail('out-of-memory', { hint: 'another program may hold the memory of the device' });
    default:
      return fail('backend-failed', { hint: ELSEWHERE });
  }
}

/** All functions, if the library is the one that this package was written for. */
function functionsOf(library: NativeLibrary): Functions {
  const facts = { where: WHERE, hint: 'build it again: bitnet build-cuda' };
  let version: unknown;
  try {
    version = library.find(PROTOTYPES.bn_abi_version)();
  } catch (cause) {
    throw new BitnetError('backend-unavailable', `${library.path} is not the CUDA library of bitnet-ts`, facts, cause);
  }
  if (version !== ABI_VERSION) {
    throw new BitnetError('backend-unavailable', `${library.path} was built for another version of bitnet-ts`, {
      ...facts,
      expected: `ABI version ${ABI_VERSION}`,
      got: String(version),
    });
  }
  const functions: Partial<Functions> = {};
  for (const [name, prototype] of Object.entries(PROTOTYPES)) {
    try {
      functions[name as FunctionName] = library.find(prototype);
    } catch (cause) {
      // A build from between two versions has the number of the one and not yet its functions.
      const what = `${library.path} was built for another version of bitnet-ts`;
      throw new BitnetError('backend-unavailable', what, { ...facts, got: `no function ${name}` }, cause);
    }
  }
  return functions as Functions;
}
