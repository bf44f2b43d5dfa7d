/**
 * How fast memory can be read here, by WebAssembly and by several threads: the ceiling of token generation, which
 * reads every weight once per token and does little else.
 *
 * Some 128 bytes a turn are loaded and folded into four vectors. A buffer larger than any cache is split among the
 * threads; the best of some rounds counts, since whatever else runs on the machine can only slow a round down.
 * @module
 */

import type { WasmHost } from '../kernels/wasm/host.ts';
import { detectPlatform } from '../platform/detect.ts';

const PAGE_BYTES = 65536;
const BUFFER_BYTES = 256 << 20;
const ROUNDS = 12;
const START_TIMEOUT_MS = 10_000;

/** Words of the first page, by which the threads meet. The rest of the memory is the buffer. */
const WORDS = { round: 0, ready: 1, done: 2 } as const;

/**
 * Gigabytes (1e9) a second with `nThreads` threads, or undefined where that cannot be found out: no SIMD, no threads,
 * no room for the buffer.
 */
export async function memoryReadSpeed(nThreads: number): Promise<number | undefined> {
  try {
    return await measure(nThreads, await detectPlatform().wasmHost());
  } catch {
    // A figure to compare with, not one to fail for.
    return undefined;
  }
}

async function measure(nThreads: number, { threads }: WasmHost): Promise<number | undefined> {
  const shared = nThreads > 1;
  if (shared && threads === undefined) return undefined;
  const pages = 1 + BUFFER_BYTES / PAGE_BYTES;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
  // Pages that were never written are all one and the same page of zeros, which would be read from cache.
  new Uint8Array(memory.buffer).fill(1);
  const control = new Int32Array(memory.buffer, 0, 3).fill(0);
  const moduleBytes = readerModule(shared);
  const slice = (thread: number): readonly [number, number] => {
    const at = (t: number) => PAGE_BYTES + Math.floor((BUFFER_BYTES / 128) * (t / nThreads)) * 128;
    return [at(thread), at(thread + 1)];
  };
  const workers = [];
  try {
    for (let thread = 1; thread < nThreads; thread++) {
      const data: ReaderData = { memory, moduleBytes, slice: slice(thread), rounds: ROUNDS, words: WORDS };
      workers.push(await threads!.spawn(`(${readerMain.toString()})`, data));
    }
    const deadline = Date.now() + START_TIMEOUT_MS;
    while (Atomics.load(control, WORDS.ready) < nThreads - 1) {
      if (Date.now() > deadline) return undefined;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const instance = new WebAssembly.Instance(new WebAssembly.Module(moduleBytes), { m: { m: memory } });
    const read = instance.exports.read as (at: number, end: number) => number;
    let best = Infinity;
    for (let round = 1; round <= ROUNDS; round++) {
      // Lets a faster compilation of the loop, made aside, take over between rounds.
      await new Promise((resolve) => setTimeout(resolve, 1));
      const startMs = performance.now();
      if (shared) {
        Atomics.store(control, WORDS.round, round);
        Atomics.notify(control, WORDS.round);
      }
      read(...slice(0));
      while (Atomics.load(control, WORDS.done) < (nThreads - 1) * round) {
        if (performance.now() - startMs > START_TIMEOUT_MS) return undefined;
      }
      best = Math.min(best, performance.now() - startMs);
    }
    return BUFFER_BYTES / best / 1e6;
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

interface ReaderData {
  readonly memory: WebAssembly.Memory;
  readonly moduleBytes: Uint8Array<ArrayBuffer>;
  readonly slice: readonly [at: number, end: number];
  readonly rounds: number;
  readonly words: typeof WORDS;
}

/** The whole program of a thread; started from its text, so it uses nothing from outside itself. */
function readerMain({ memory, moduleBytes, slice, rounds, words }: ReaderData): void {
  const control = new Int32Array(memory.buffer, 0, 3);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(moduleBytes), { m: { m: memory } });
  const read = instance.exports.read as (at: number, end: number) => number;
  Atomics.add(control, words.ready, 1);
  for (let round = 1; round <= rounds; round++) {
    while (Atomics.load(control, words.round) < round) Atomics.wait(control, words.round, round - 1, 1000);
    read(slice[0], slice[1]);
    Atomics.add(control, words.done, 1);
  }
}

/**
 * A module of one function, put together by hand because it is so small:
 *
 *     (func (export "read") (param $at i32) (param $end i32) (result i32) (local $a v128) ... $b $c $d
 *       (loop
 *         (local.set $a (v128.xor (local.get $a) (v128.load offset=0 (local.get $at))))  ;; and so on, eight times
 *         (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 128))) (local.get $end))))
 *       (i32x4.extract_lane 0 (v128.xor (v128.xor (v128.xor $a $b) $c) $d)))
 */
function readerModule(shared: boolean): Uint8Array<ArrayBuffer> {
  const [get, set, tee] = [0x20, 0x21, 0x22];
  const xor = [0xfd, 0x51];
  const loads = Array.from({ length: 8 }, (_, i) => {
    const sum = 2 + (i % 4);
    const load = [get, 0, 0xfd, 0x00, 0x04, 16 * i];
    return [get, sum, ...load, ...xor, set, sum];
  }).flat();
  const next = [get, 0, 0x41, 0x80, 0x01, 0x6a, tee, 0, get, 1, 0x49, 0x0d, 0];
  const fold = [get, 2, get, 3, ...xor, get, 4, ...xor, get, 5, ...xor, 0xfd, 0x1b, 0];
  const body = [1, 4, 0x7b, 0x03, 0x40, ...loads, ...next, 0x0b, ...fold, 0x0b];
  const section = (id: number, bytes: readonly number[]) => [id, ...leb(bytes.length), ...bytes];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f]),
    ...section(2, [1, 1, 0x6d, 1, 0x6d, 0x02, shared ? 0x03 : 0x01, 1, ...leb(65536)]),
    ...section(3, [1, 0]),
    ...section(7, [1, 4, ...new TextEncoder().encode('read'), 0x00, 0]),
    ...section(10, [1, ...leb(body.length), ...body]),
  ]);
}

/** An unsigned number in WebAssembly's variable length. */
function leb(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...leb(value >>> 7)];
}
