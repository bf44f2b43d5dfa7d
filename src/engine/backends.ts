/**
 * Backends as values: `loadModel(file, { backend: wasm({ threads: 2 }) })`, or for the conformance suite
 * `runConformance(await wasm()())`. Nothing is opened before the function is called.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import type { CudaOptions } from '../kernels/cuda/open.ts';
import type { Backend, BackendInfo } from '../kernels/interface.ts';
import { createTsBackend } from '../kernels/ts/backend.ts';
import { createWasmBackend, type WasmOptions } from '../kernels/wasm/open.ts';
import { detectPlatform } from '../platform/detect.ts';
import type { BackendSurvey, KernelSurvey } from './kernel-survey.ts';

export type { CudaOptions } from '../kernels/cuda/open.ts';
export type { KernelsChoice, WasmOptions } from '../kernels/wasm/open.ts';
export type { BackendSurvey, KernelReport, KernelSurvey, VariantReport } from './kernel-survey.ts';

/** Opens a backend of its own for whoever calls it. */
export type BackendFactory = () => Promise<Backend>;

/** Plain TypeScript: the definition, slow, runs everywhere. */
export function ts(): BackendFactory {
  return async () => createTsBackend();
}

/** WebAssembly with threads. Opening it throws `backend-unavailable` where no build of it works. */
export function wasm(options: WasmOptions = {}): BackendFactory {
  return async () => createWasmBackend(options, await detectPlatform().wasmHost());
}

/**
 * An NVIDIA GPU of compute capability 8.0 or more, by a library that `bitnet build-cuda` makes and the package koffi calls; neither
 * is needed for anything else, and nothing chooses this backend but its name. Opening it throws `backend-unavailable` with the
 * reason where one of them, a driver or a device is missing.
 */
export function cuda(options: CudaOptions = {}): BackendFactory {
  return async () => {
    // Not loaded by those who have no such device.
    const { createCudaBackend } = await import('../kernels/cuda/open.ts');
    return createCudaBackend(options, await detectPlatform().cudaHost());
  };
}

/** `wasm` where it works, else `ts` with a note that says why. Another failure of `wasm` stays a failure. */
export function auto(options: WasmOptions = {}): BackendFactory {
  return async () => {
    try {
      return await wasm(options)();
    } catch (error) {
      if (!(error instanceof BitnetError) || error.code !== 'backend-unavailable') throw error;
      if (options.kernels !== undefined) throw error; // asked for by name: nothing else will do
      return withNote(createTsBackend(), `backend wasm not used: ${error.message}`);
    }
  };
}

/** The same backend, whose info says why it was taken. */
function withNote(backend: Backend, note: string): Backend {
  const info: BackendInfo = { ...backend.info, notes: [...backend.info.notes, note] };
  return Object.defineProperty(backend, 'info', { value: info });
}

/** The factory that a `backend` option asks for, by name or as a value. */
export function backendFactory(choice: unknown, options: WasmOptions & Pick<CudaOptions, 'device'>): BackendFactory {
  const isWasm = choice === undefined || choice === 'auto' || choice === 'wasm';
  want(isWasm || options.kernels === undefined, 'bad-argument', 'only the wasm backend has kernels to choose', () => ({
    where: 'kernels',
    got: `${options.kernels} for ${typeof choice === 'function' ? 'a backend of its own' : `the backend ${choice}`}`,
  }));
  want(choice === 'cuda' || options.device === undefined, 'bad-argument', 'only the cuda backend has devices', () => ({
    where: 'device',
    got: `${options.device} for ${typeof choice === 'function' ? 'a backend of its own' : `the backend ${choice ?? 'auto'}`}`,
  }));
  if (typeof choice === 'function') return () => opened(choice as () => unknown);
  if (choice === undefined || choice === 'auto') return auto(options);
  if (choice === 'wasm') return wasm(options);
  if (choice === 'ts') return ts();
  if (choice === 'cuda') return cuda({ device: options.device });
  throw new BitnetError('bad-argument', 'no such backend', {
    where: 'backend',
    expected: 'auto, wasm, ts, cuda, or a value of bitnet-ts/backends',
    got: String(choice),
  });
}

/** What a factory of somebody else's opens; `backend: wasm`, which is not called, would be one that opens nothing. */
async function opened(factory: () => unknown): Promise<Backend> {
  const backend = await factory();
  want(typeof (backend as Backend | undefined)?.info?.name === 'string', 'bad-argument', 'not a backend', () => ({
    where: 'backend',
    expected: 'a function that opens one, such as wasm() of bitnet-ts/backends',
    got:
      typeof backend === 'function'
        ? 'a function that returns a function: it wants to be called'
        : `one that gives ${show(backend)}`,
  }));
  return backend as Backend;
}

/**
 * Tests every build of the wasm kernels by the whole conformance suite and measures it; takes some seconds. What
 * `bitnet inspect --kernels` prints.
 */
export async function surveyKernels(onProgress?: (what: string) => void): Promise<KernelSurvey> {
  // The suite is not loaded by those who only want to run a model.
  const { surveyHost } = await import('./kernel-survey.ts');
  const { runtime, wasmHost } = detectPlatform();
  return surveyHost(runtime, await wasmHost(), onProgress);
}

/**
 * Tests one backend by the whole conformance suite, op by op, each in a backend of its own. What
 * `bitnet inspect --kernels --backend cuda` prints, besides `runModelConformance` of `bitnet-ts/conformance`.
 */
export async function surveyBackend(open: BackendFactory, onProgress?: (what: string) => void): Promise<BackendSurvey> {
  const { surveyOne } = await import('./kernel-survey.ts');
  return surveyOne(detectPlatform().runtime, open, onProgress);
}
