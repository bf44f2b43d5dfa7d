/**
 * Opening the wasm backend: how many threads, which build of the kernels, and what to say about it.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import type { Backend, BackendInfo } from '../interface.ts';
import { WasmBackend } from './backend.ts';
import type { VariantName, WasmHost } from './host.ts';
import { MAX_PAGES, writeConstants } from './layout.ts';
import { Pool } from './pool.ts';
import { chooseVariant } from './variants.ts';

export interface WasmOptions {
  /** Default: the host's physical cores. */
  readonly threads?: number;
  /** Builds to try, fastest first. Default: dot, relaxed, simd. */
  readonly variants?: readonly VariantName[];
}

/** By expected speed. */
const VARIANTS: readonly VariantName[] = ['dot', 'relaxed', 'simd'];

/** More threads than this are a mistake, not a machine. */
const MAX_THREADS = 256;

/** Opens the backend. Throws `backend-unavailable` where WebAssembly SIMD does not work, with every reason. */
export async function createWasmBackend(options: WasmOptions, host: WasmHost): Promise<Backend> {
  const notes: string[] = [];
  const wanted = options.threads ?? Math.min(MAX_THREADS, Math.max(1, host.cores));
  want(
    Number.isInteger(wanted) && wanted >= 1 && wanted <= MAX_THREADS,
    'bad-argument',
    'bad number of threads',
    () => ({
      where: 'threads',
      expected: `an integer from 1 to ${MAX_THREADS}`,
      got: String(options.threads),
    }),
  );
  let nThreads = wanted;
  if (nThreads > 1 && (host.threads === undefined || typeof SharedArrayBuffer === 'undefined')) {
    const missing = host.threads === undefined ? 'threads' : 'SharedArrayBuffer';
    if (options.threads !== undefined)
      notes.push(`${wanted} threads asked for, 1 used: this runtime offers no ${missing}`);
    nThreads = 1;
  }
  const variants = options.variants ?? VARIANTS.filter((name) => host.unfit?.includes(name) !== true);
  if (variants.some((name) => name !== 'simd')) await host.enableRelaxedSimd?.();
  try {
    return await openBackend(nThreads, variants, notes, host);
  } catch (error) {
    // A runtime may offer threads and forbid them (permissions, content security policy). Who asked for a number gets the
    // error; who did not gets one thread and a note.
    if (nThreads === 1 || options.threads !== undefined || isRefusal(error)) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    return openBackend(1, variants, [...notes, `1 thread instead of ${nThreads}: ${reason}`], host);
  }
}

function isRefusal(error: unknown): boolean {
  return error instanceof BitnetError && error.code === 'backend-unavailable';
}

async function openBackend(
  nThreads: number,
  variants: readonly VariantName[],
  earlier: readonly string[],
  host: WasmHost,
): Promise<Backend> {
  const notes = [...earlier];
  const { variant, refusals } = chooseVariant(nThreads > 1, variants);
  for (const { name, reason } of refusals) notes.push(`variant ${name} not used: ${reason}`);
  if (variant === undefined) {
    throw new BitnetError('backend-unavailable', 'no WebAssembly build works on this runtime', {
      where: 'backend wasm',
      got: refusals.map(({ name, reason }) => `${name}: ${reason}`).join('; '),
      hint: 'the backend "ts" runs everywhere',
    });
  }
  const memory = new WebAssembly.Memory({
    initial: 2,
    ...(variant.threaded ? { maximum: MAX_PAGES, shared: true } : {}),
  });
  writeConstants(memory);
  const pool = await Pool.start(memory, variant, nThreads, host.threads);
  const info: BackendInfo = {
    name: 'wasm',
    variant: `${variant.name}${variant.threaded ? '+threads' : ''}`,
    nThreads,
    exact: true,
    notes,
  };
  return new WasmBackend(info, memory, pool);
}
