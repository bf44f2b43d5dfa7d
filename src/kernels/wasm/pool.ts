/**
 * The owner's thread and its workers, running command lists in lockstep.
 *
 * Work is split by output rows only (`share` in `assembly/sync.ts`), and every row is computed by one thread in the
 * order the contract prescribes; so the number of threads can never change a bit.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import type { ThreadHandle, ThreadHost } from './host.ts';
import {
  BARRIER_GENERATION,
  FAILED,
  GONE,
  LIST_ADDRESS,
  LIST_COUNT,
  OWNER_SPINS,
  READY,
  SEQUENCE,
  STOP,
  word,
} from './layout.ts';
import type { Variant } from './variants.ts';
import { type WorkerData, workerMain } from './worker.ts';

/** How long a worker may take to start: a runtime may have to compile it on a busy machine. */
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 2_000;

/** In FAILED: another thread did not come to a barrier (`assembly/sync.ts`). */
const LOST = 2;

export class Pool {
  readonly nThreads: number;
  readonly #memory: WebAssembly.Memory;
  readonly #execute: (thread: number, nThreads: number) => number;
  readonly #workers: ThreadHandle[] = [];
  /** Workers that the host says have ended, for whatever reason. */
  readonly #ended = new Set<number>();
  #lost: string | undefined;
  #stopped = false;

  private constructor(memory: WebAssembly.Memory, variant: Variant, nThreads: number) {
    this.nThreads = nThreads;
    this.#memory = memory;
    const instance = new WebAssembly.Instance(variant.module, { env: { memory } });
    this.#execute = instance.exports.execute as (thread: number, nThreads: number) => number;
  }

  /** A fresh view each time: growing a memory that is not shared detaches the old ones. */
  get #control(): Int32Array {
    return new Int32Array(this.#memory.buffer, 0, 256);
  }

  static async start(
    memory: WebAssembly.Memory,
    variant: Variant,
    nThreads: number,
    host: ThreadHost | undefined,
  ): Promise<Pool> {
    const pool = new Pool(memory, variant, nThreads);
    if (nThreads > 1 && host !== undefined) {
      try {
        await pool.#spawn(memory, variant, host);
      } catch (error) {
        await pool.stop();
        throw error;
      }
    }
    return pool;
  }

  async #spawn(memory: WebAssembly.Memory, variant: Variant, host: ThreadHost): Promise<void> {
    Atomics.store(this.#control, word(OWNER_SPINS), host.ownerMaySleep ? 0 : 1);
    const script = `(${workerMain.toString()})`;
    for (let thread = 1; thread < this.nThreads; thread++) {
      const data: WorkerData = {
        memory,
        moduleBytes: variant.bytes,
        thread,
        nThreads: this.nThreads,
        words: {
          sequence: word(SEQUENCE),
          stop: word(STOP),
          failed: word(FAILED),
          ready: word(READY),
          gone: word(GONE),
          generation: word(BARRIER_GENERATION),
        },
      };
      const handle = await host.spawn(script, data);
      handle.onLost((reason) => {
        this.#ended.add(thread);
        if (!this.#stopped) this.#lost ??= `worker ${thread} ended: ${reason}`;
      });
      this.#workers.push(handle);
    }
    const deadline = Date.now() + START_TIMEOUT_MS;
    while (Atomics.load(this.#control, word(READY)) < this.nThreads - 1) {
      this.#check();
      if (Date.now() > deadline) {
        const expected = `${this.nThreads - 1} worker threads within ${START_TIMEOUT_MS / 1000} s`;
        const got = `${Atomics.load(this.#control, word(READY))}`;
        throw new BitnetError('backend-failed', 'worker threads did not start', { where: 'wasm', expected, got });
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  #check(): void {
    if (this.#lost !== undefined) throw new BitnetError('backend-failed', this.#lost, { where: 'wasm' });
  }

  /** Runs `count` commands at `listAddress` on all threads and returns when all are done. */
  run(listAddress: number, count: number): void {
    this.#check();
    const control = this.#control;
    control[word(LIST_ADDRESS)] = listAddress;
    control[word(LIST_COUNT)] = count;
    if (this.nThreads > 1) {
      // The atomic add publishes the list: a worker that sees the new number sees the commands too.
      Atomics.add(control, word(SEQUENCE), 1);
      Atomics.notify(control, word(SEQUENCE));
    }
    let failed: number;
    try {
      failed = this.#execute(0, this.nThreads);
    } catch (error) {
      // A trap on this thread: the others wait at a barrier that it will not reach.
      Atomics.store(control, word(FAILED), 1);
      Atomics.notify(control, word(BARRIER_GENERATION));
      this.#lost ??= `a kernel trapped: ${error instanceof Error ? error.message : String(error)}`;
      failed = 1;
    }
    const why = control[word(FAILED)];
    if (failed !== 0 || why !== 0) {
      this.#lost ??= why === LOST ? 'a worker thread stopped working: killed, or stuck' : 'a worker thread failed';
      this.#check();
    }
  }

  /** Lets the workers leave by themselves, then makes sure. Idempotent. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    if (this.#workers.length === 0) return;
    const control = this.#control;
    Atomics.store(control, word(STOP), 1);
    Atomics.add(control, word(SEQUENCE), 1);
    Atomics.notify(control, word(SEQUENCE));
    const deadline = Date.now() + STOP_TIMEOUT_MS;
    // A worker that died has not counted itself out.
    const left = () =>
      Atomics.load(control, word(GONE)) < this.#workers.length && this.#ended.size < this.#workers.length;
    while (left() && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}
