/**
 * Opening the wasm backend: how many threads, which build of the kernels, and what to say about it.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import type { Backend, BackendInfo } from '../interface.ts';
import { WasmBackend } from './backend.ts';
import type { VariantName, WasmHost } from './host.ts';
import { CAPACITY_BYTES, MAX_PAGES, PAGE_BYTES, writeConstants } from './layout.ts';
import { Pool } from './pool.ts';
import { type Choice, chooseVariant, fastestVariant, VARIANT_NAMES } from './variants.ts';

export interface WasmOptions {
  /** Default: the host's physical cores. */
  readonly threads?: number | undefined;
  /**
   * The build of the kernels to use and no other, `dot`, `relaxed`, `simd` or `scalar`: opening fails where it does not work.
   * `fastest` tests and times all of them, some 0.15 s. Default: the first that works, in the order in which they are known to be
   * fast here.
   */
  readonly kernels?: KernelsChoice | undefined;
  /**
   * Use vectors of 256 bits where the runtime can be told to (Node 22 and 26 on x86: prompts are read half as fast again). This sets
   * an experimental switch of V8 for the whole process, which is for a program to decide and not for a library: default
   * false; `bitnet` does it. Bits do not change.
   */
  readonly wideVectors?: boolean | undefined;
}

export type KernelsChoice = VariantName | 'fastest';

const DEFAULT_ORDER: readonly VariantName[] = ['relaxed', 'simd', 'scalar'];

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
  if (nThreads > host.cores) {
    const cores = `${host.cores} ${host.cores === 1 ? 'core' : 'cores'}`;
    notes.push(`${nThreads} threads on ${cores}: the same results, but likely slower than ${host.cores}`);
  }
  const { kernels } = options;
  want(kernels === undefined || KERNELS_CHOICES.includes(kernels), 'bad-argument', 'no such kernels', () => ({
    where: 'kernels',
    expected: KERNELS_CHOICES.join(', '),
    got: String(kernels),
  }));
  if (kernels === undefined || kernels === 'fastest' || kernels === 'relaxed' || kernels === 'dot')
    await host.enableRelaxedSimd?.();
  const isWide = options.wideVectors === true && kernels !== 'scalar' && host.widenVectors !== undefined;
  if (isWide) await host.widenVectors?.();
  try {
    return await openBackend(nThreads, kernels, notes, host, isWide);
  } catch (error) {
    // A runtime may offer threads and forbid them (permissions, content security policy). Who asked for a number gets the
    // error; who did not gets one thread and a note.
    if (nThreads === 1 || options.threads !== undefined || isRefusal(error)) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    return openBackend(1, kernels, [...notes, `1 thread instead of ${nThreads}: ${reason}`], host, isWide);
  }
}

/** What `kernels` may be. */
export const KERNELS_CHOICES: readonly KernelsChoice[] = [...VARIANT_NAMES, 'fastest'];

function isRefusal(error: unknown): boolean {
  return error instanceof BitnetError && error.code === 'backend-unavailable';
}

/** Builds to try on a host that was not told which. */
export function kernelOrder(host: WasmHost): readonly VariantName[] {
  return host.kernelOrder ?? DEFAULT_ORDER;
}

function choose(threaded: boolean, kernels: KernelsChoice | undefined, host: WasmHost): Promise<Choice> {
  if (kernels === 'fastest') return fastestVariant(threaded, VARIANT_NAMES);
  return chooseVariant(threaded, kernels === undefined ? kernelOrder(host) : [kernels]);
}

async function openBackend(
  nThreads: number,
  kernels: KernelsChoice | undefined,
  earlier: readonly string[],
  host: WasmHost,
  isWide: boolean,
): Promise<Backend> {
  const notes = [...earlier];
  const { variant, refusals } = await choose(nThreads > 1, kernels, host);
  for (const { name, reason } of refusals) notes.push(`kernels ${name} not used: ${reason}`);
  if (variant === undefined) {
    const one = kernels !== undefined && kernels !== 'fastest';
    throw new BitnetError(
      'backend-unavailable',
      one ? `kernels ${kernels} do not work on this runtime` : 'no WebAssembly build works on this runtime',
      {
        where: 'backend wasm',
        got: refusals.map(({ name, reason }) => (one ? reason : `${name}: ${reason}`)).join('; '),
        hint: one ? '"bitnet inspect --kernels" shows those that do' : 'the backend "ts" runs everywhere',
      },
    );
  }
  const { maxPages = MAX_PAGES } = host;
  const memory = new WebAssembly.Memory({
    initial: 2,
    ...(variant.threaded ? { maximum: maxPages, shared: true } : {}),
  });
  writeConstants(memory);
  const pool = await Pool.start(memory, variant, nThreads, host.threads);
  const info: BackendInfo = {
    name: 'wasm',
    variant: [variant.name, isWide && variant.name !== 'scalar' && 'wide', variant.threaded && 'threads']
      .filter(Boolean)
      .join('+'),
    nThreads,
    exact: true,
    notes,
  };
  return new WasmBackend(info, memory, pool, { maxBytes: Math.min(maxPages * PAGE_BYTES, CAPACITY_BYTES) });
}
