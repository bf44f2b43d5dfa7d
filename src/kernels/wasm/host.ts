/**
 * What the wasm backend needs of its surroundings. `src/platform` implements it; the backend never asks where it runs.
 * @module
 */

/** Builds of the kernels: relaxed SIMD with four-way dot products, with two-way ones, and none of it. */
export type VariantName = 'dot' | 'relaxed' | 'simd';

/** A running worker thread. */
export interface ThreadHandle {
  /** Called once if the thread ends by itself or throws. */
  onLost(listener: (reason: string) => void): void;
  terminate(): Promise<void>;
}

export interface ThreadHost {
  /**
   * Starts a thread that runs `script` (a self-contained JavaScript function expression) with `data`, which is
   * structured-cloned; shared memory inside stays shared. The thread must not keep the process alive.
   */
  spawn(script: string, data: unknown): Promise<ThreadHandle>;
  /** False where the calling thread must not block (a browser's main thread). */
  readonly ownerMaySleep: boolean;
}

/** Everything a runtime can offer. */
export interface WasmHost {
  /** Undefined where there are no threads. */
  readonly threads?: ThreadHost;
  /** Number of physical cores, as far as the runtime tells. */
  readonly cores: number;
  /** Builds that are known to compute something else here; not tried unless asked for by name. */
  readonly unfit?: readonly VariantName[];
  /** Turns relaxed SIMD on where it hides behind a switch (Node 20); does nothing elsewhere. */
  enableRelaxedSimd?(): Promise<void>;
}
