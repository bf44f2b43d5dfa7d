/**
 * Which runtime this is, told by what it offers, and what it therefore can do. The one place that decides.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { ByteSource } from '../formats/source.ts';
import type { CudaHost } from '../kernels/cuda/host.ts';
import type { WasmHost } from '../kernels/wasm/host.ts';

export interface Platform {
  /** For reports: `node 20.20.2`, `deno 2.9.6`, `bun 1.4.5`, `web`. */
  readonly runtime: string;
  openPath(path: string | URL): Promise<ByteSource>;
  wasmHost(): Promise<WasmHost>;
  cudaHost(): Promise<CudaHost>;
}

interface RuntimeGlobals {
  readonly process?: { readonly versions?: Readonly<Record<string, string | undefined>> };
}

/** A pure function of the global object, so that it can be tested. */
export function runtimeName(globals: RuntimeGlobals): string {
  const versions = globals.process?.versions;
  for (const name of ['deno', 'bun', 'node'] as const) {
    if (versions?.[name] !== undefined) return `${name} ${versions[name]}`;
  }
  return 'web';
}

export function detectPlatform(): Platform {
  const runtime = runtimeName(globalThis as RuntimeGlobals);
  if (runtime === 'web') {
    return {
      runtime,
      openPath: async (path) => {
        throw new BitnetError('bad-argument', 'a web page has no file paths', {
          where: String(path),
          hint: 'pass a URL, a Blob or a Uint8Array',
        });
      },
      wasmHost: async () => (await import('./host-web.ts')).createWebHost(),
      cudaHost: async () => {
        throw new BitnetError('backend-unavailable', 'a web page cannot load libraries', { where: 'backend cuda' });
      },
    };
  }
  return {
    runtime,
    openPath: async (path) => (await import('./source-node.ts')).openFileSource(path),
    wasmHost: async () => (await import('./host-node.ts')).createNodeHost(),
    cudaHost: async () => (await import('./library-node.ts')).createCudaHost(),
  };
}
