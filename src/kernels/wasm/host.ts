/**
 * What the wasm backend needs of its surroundings. `src/platform` implements it; the backend never asks where it runs.
 * @module
 */

/** Builds of the kernels: relaxed SIMD with four-way dot products, with two-way ones, SIMD, and neither. */
export type VariantName = 'dot' | 'relaxed' | 'simd' | 'scalar';

/** A running worker thread. */
export interface ThreadHandle {
  /** Called when the thread throws and when it ends, whoever ended it. */
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
  /**
   * Builds to try, fastest first, as far as is known of the processor and the runtime. Default: relaxed, simd, scalar. `dot` only
   * where its instruction is one of the processor's: elsewhere it is emulated and slower than `relaxed`.
   */
  readonly kernelOrder?: readonly VariantName[];
  /** Largest memory to ask for, in pages of 64 KiB. Default: 65536, all that 32-bit addresses reach. */
  readonly maxPages?: number;
  /** Turns relaxed SIMD on where it hides behind a switch (Node 20); does nothing elsewhere. */
  enableRelaxedSimd?(): Promise<void>;
  /**
   * Makes the runtime join neighbouring operations on 128 bits into ones on 256 bits, where a switch does that (V8's
   * revectorisation of WebAssembly). The switch is marked experimental and holds for the whole process.
   */
  widenVectors?(): Promise<void>;
}
