/**
 * Opening the cuda backend: finding the library, taking a device, and what to say about it.
 * @module
 */

import { show, want } from '../../errors.ts';
import type { Backend, BackendInfo } from '../interface.ts';
import { CudaBackend } from './backend.ts';
import { Device, WHERE } from './device.ts';
import type { CudaHost } from './host.ts';

/** No machine has as many. */
const LAST_DEVICE = 1023;

export interface CudaOptions {
  /** Number of the GPU, as the CUDA runtime counts them (CUDA_VISIBLE_DEVICES). Default 0. */
  readonly device?: number | undefined;
  /**
   * The library. Default: what BITNET_CUDA_LIBRARY names, else `dist/kernels/cuda/libbitnet-cuda.so` of the package, where
   * `bitnet build-cuda` leaves it.
   */
  readonly library?: string | undefined;
}

/** Opens the backend. Throws `backend-unavailable` with the reason and the next step where there is no library or no device. */
export async function createCudaBackend(options: CudaOptions, host: CudaHost): Promise<Backend> {
  const { device: number = 0, library } = options;
  want(
    Number.isInteger(number) && number >= 0 && number <= LAST_DEVICE,
    'bad-argument',
    'not the number of a device',
    () => ({
      where: `${WHERE}: device`,
      expected: `an integer from 0 to ${LAST_DEVICE}`,
      got: show(number),
    }),
  );
  const device = Device.open(await host.loadLibrary(library), number);
  try {
    const { name, computeCapability } = device.info();
    const info: BackendInfo = {
      name: 'cuda',
      variant: `${name}, sm_${computeCapability.replace('.', '')}`,
      nThreads: 1,
      // The kernels do the arithmetic of the definition in its order; `bn_open` has the device prove its part of it.
      exact: true,
      notes: [],
    };
    return new CudaBackend(info, device);
  } catch (error) {
    device.close();
    throw error;
  }
}
