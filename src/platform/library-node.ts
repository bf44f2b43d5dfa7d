/**
 * Shared libraries for Node, Deno and Bun, by koffi: one package that is loaded only when the cuda backend is asked for, and that
 * need not be installed for anything else.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { CudaHost, NativeLibrary } from '../kernels/cuda/host.ts';

const WHERE = 'backend cuda';
/** At the same place seen from src/platform and dist/platform; what `npm run build:cuda` writes. */
const BUILT = new URL('../../dist/kernels/cuda/libbitnet-cuda.so', import.meta.url);
const VARIABLE = 'BITNET_CUDA_LIBRARY';

/** The part of koffi that is used. */
interface Koffi {
  load(path: string): { func(prototype: string): (...args: unknown[]) => unknown };
}

export function createCudaHost(): CudaHost {
  return {
    async loadLibrary(path) {
      const found = await findLibrary(path);
      const koffi = await loadKoffi();
      return open(koffi, found);
    },
  };
}

async function findLibrary(option: string | undefined): Promise<string> {
  const { access } = await import('node:fs/promises');
  const { fileURLToPath } = await import('node:url');
  const { resolve } = await import('node:path');
  const named = option ?? (process.env[VARIABLE] || undefined);
  // A whole path: a bare name would be looked for in the system's folders.
  const path = resolve(named ?? fileURLToPath(BUILT));
  await access(path).catch((cause) => {
    const facts = {
      where: WHERE,
      got: `no file ${path}`,
      hint: 'npm run build:cuda makes it; it needs nvcc, not a GPU',
    };
    const what =
      named === undefined
        ? 'the library is not built'
        : `there is no library where ${option === undefined ? VARIABLE : 'the option library'} says`;
    throw new BitnetError('backend-unavailable', what, facts, cause);
  });
  return path;
}

async function loadKoffi(): Promise<Koffi> {
  try {
    return (await import('koffi')).default as unknown as Koffi;
  } catch (cause) {
    const facts = { where: WHERE, got: firstLine(cause), hint: 'npm install koffi' };
    throw new BitnetError(
      'backend-unavailable',
      'the package koffi, which calls the library, cannot be loaded',
      facts,
      cause,
    );
  }
}

function open(koffi: Koffi, path: string): NativeLibrary {
  try {
    const library = koffi.load(path);
    return { path, find: (prototype) => library.func(prototype) };
  } catch (cause) {
    const facts = { where: WHERE, got: firstLine(cause), hint: 'build it again on this machine: npm run build:cuda' };
    throw new BitnetError('backend-unavailable', `${path} cannot be loaded`, facts, cause);
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0];
}
