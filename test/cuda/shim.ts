/** The cuda backend on the CPU shim: the same library compiled for the CPU, so that all of it runs without a GPU. */

import type { BackendFactory } from '../../src/engine/backends.ts';
import { CudaBackend } from '../../src/kernels/cuda/backend.ts';
import { Device } from '../../src/kernels/cuda/device.ts';
import type { NativeLibrary } from '../../src/kernels/cuda/host.ts';
import { createCudaBackend } from '../../src/kernels/cuda/open.ts';
import { createCudaHost } from '../../src/platform/library-node.ts';
import { buildShim, Library } from './library.ts';

/** Undefined where no C++ compiler is. */
export const shimPath = buildShim();
if (shimPath === undefined) console.warn('no C++ compiler here: the cuda backend is not tested');
const knobs = shimPath === undefined ? undefined : new Library(shimPath);

/** What the shim plays: memory, devices, driver, compute capability, failures. */
export function shim(name: string, value: number): void {
  knobs?.shim(name, value);
}

/** What the shim is when nothing is set. */
export const SHIM_MEMORY = 16 * 2 ** 30;
export const ILLEGAL_ADDRESS = 700;

export const onShim: BackendFactory = () => createCudaBackend({ library: shimPath }, createCudaHost());

/** A call of the library. */
export interface Call {
  readonly name: string;
  readonly args: readonly unknown[];
}

/** A backend on the shim, its context, and every call that it makes from here on. */
export async function watched(stagingBytes?: number): Promise<{ backend: CudaBackend; device: Device; calls: Call[] }> {
  const library = await createCudaHost().loadLibrary(shimPath);
  const calls: Call[] = [];
  const watching: NativeLibrary = {
    path: library.path,
    find(prototype) {
      const found = library.find(prototype);
      const name = /bn_\w+/.exec(prototype)?.[0] ?? '';
      return (...args) => {
        calls.push({ name, args });
        return found(...args);
      };
    },
  };
  const device = Device.open(watching, 0);
  const info = { name: 'cuda', variant: 'watched', nThreads: 1, exact: true, notes: [] };
  return { backend: new CudaBackend(info, device, stagingBytes), device, calls };
}
