/**
 * The whole program of a worker thread. It knows nothing about models: it waits until the owner bumps SEQUENCE, runs its
 * share of the command list, and waits again.
 *
 * The function is turned into text (`toString`) and started from that, so that no bundler, compiler or permission
 * stands between a package and its threads. It must therefore use nothing from outside itself: the numbers of
 * `layout.ts` come in with the data.
 * @module
 */

/** What a worker is started with. */
export interface WorkerData {
  readonly memory: WebAssembly.Memory;
  readonly moduleBytes: Uint8Array;
  readonly thread: number;
  readonly nThreads: number;
  /** Word indices of the control words. */
  readonly words: {
    readonly sequence: number;
    readonly stop: number;
    readonly failed: number;
    readonly ready: number;
    readonly gone: number;
    readonly generation: number;
  };
}

export function workerMain(data: WorkerData): void {
  const words = data.words;
  const control = new Int32Array(data.memory.buffer, 0, 256);
  try {
    const module = new WebAssembly.Module(data.moduleBytes as Uint8Array<ArrayBuffer>);
    const instance = new WebAssembly.Instance(module, { env: { memory: data.memory } });
    const execute = instance.exports.execute as (thread: number, nThreads: number) => number;
    let seen = 0;
    Atomics.add(control, words.ready, 1);
    Atomics.notify(control, words.ready);
    for (;;) {
      // Between two tokens lie microseconds (sampling): spin a little before sleeping.
      for (let i = 0; i < 20000 && Atomics.load(control, words.sequence) === seen; i++);
      while (Atomics.load(control, words.sequence) === seen) Atomics.wait(control, words.sequence, seen, 1000);
      seen = (seen + 1) | 0;
      if (Atomics.load(control, words.stop) !== 0) break;
      execute(data.thread, data.nThreads);
    }
  } catch (error) {
    // Whoever waits at the barrier must learn of it.
    Atomics.store(control, words.failed, 1);
    Atomics.notify(control, words.generation);
    throw error;
  } finally {
    Atomics.add(control, words.gone, 1);
    Atomics.notify(control, words.gone);
  }
}
