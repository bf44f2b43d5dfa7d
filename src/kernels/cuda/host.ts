/**
 * What the cuda backend needs of its surroundings. `src/platform` implements it; the backend never asks where it runs.
 * @module
 */

/** A function of the library; what it takes and gives is what its prototype says. */
export type NativeFunction = (...args: unknown[]) => unknown;

/** A shared library that was loaded. */
export interface NativeLibrary {
  readonly path: string;
  /** Finds a function by its C prototype; throws where the library has none of that name. */
  find(prototype: string): NativeFunction;
}

export interface CudaHost {
  /**
   * Loads the library: `path`, or what the environment names, or where `bitnet build-cuda` leaves it. Throws
   * `backend-unavailable` with the reason and what to do about it.
   */
  loadLibrary(path: string | undefined): Promise<NativeLibrary>;
}
