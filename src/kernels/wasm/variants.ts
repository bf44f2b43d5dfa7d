/**
 * Which build of the kernels runs here. A runtime may refuse an instruction, or accept it and compute something else
 * (Node 20 does so with one of the relaxed dot products), so a build is taken only after it has compiled and has passed
 * the self-test.
 * @module
 */

import type { BackendInfo } from '../interface.ts';
import { WasmBackend } from './backend.ts';
import type { VariantName } from './host.ts';
import { PAGE_BYTES, writeConstants } from './layout.ts';
import * as modules from './module.generated.ts';
import { Pool } from './pool.ts';
import { selfTest } from './self-test.ts';
import { multiplySpeed } from './speed.ts';

/** A compiled build. */
export interface Variant {
  readonly name: VariantName;
  readonly threaded: boolean;
  readonly bytes: Uint8Array;
  readonly module: WebAssembly.Module;
}

/** Why a build was not taken. */
export interface Refusal {
  readonly name: VariantName;
  readonly reason: string;
}

const SOURCES: Record<VariantName, { readonly plain: string; readonly threaded: string }> = {
  dot: { plain: modules.DOT, threaded: modules.DOT_THREADS },
  relaxed: { plain: modules.RELAXED, threaded: modules.RELAXED_THREADS },
  simd: { plain: modules.SIMD, threaded: modules.SIMD_THREADS },
  scalar: { plain: modules.SCALAR, threaded: modules.SCALAR_THREADS },
};

/** All builds. */
export const VARIANT_NAMES = Object.keys(SOURCES) as readonly VariantName[];

/** Pages of the memory in which a build is tested: 2 MiB, some four times what the test needs. */
const TEST_PAGES = 32;
/** And what it may grow to, for more than the self-test: 256 MiB. Some runtimes refuse to set 4 GiB aside twice. */
const MAX_TEST_PAGES = 4096;

/** For each build, when the fastest is asked for. */
const TIMING_MS = 25;

/** Throws what the runtime says when it does not take the build. */
export function compileVariant(name: VariantName, threaded: boolean): Variant {
  const bytes = fromBase64(threaded ? SOURCES[name].threaded : SOURCES[name].plain);
  return { name, threaded, bytes, module: new WebAssembly.Module(bytes) };
}

/** A backend of one thread, in a small memory of its own. Nothing vouches for what it computes. */
export async function openUntested(variant: Variant): Promise<WasmBackend> {
  const memory = new WebAssembly.Memory({
    initial: TEST_PAGES,
    ...(variant.threaded ? { maximum: MAX_TEST_PAGES, shared: true } : {}),
  });
  writeConstants(memory);
  const pool = await Pool.start(memory, variant, 1, undefined);
  const info: BackendInfo = { name: 'wasm', variant: variant.name, nThreads: 1, exact: true, notes: [] };
  return new WasmBackend(info, memory, pool, { maxBytes: MAX_TEST_PAGES * PAGE_BYTES });
}

/** What a choice led to. */
export interface Choice {
  /** Undefined when no build works. */
  readonly variant: Variant | undefined;
  readonly refusals: readonly Refusal[];
}

/**
 * The first of `names` that compiles and passes the self-test, and why those before it were refused.
 *
 * The others are not even compiled: a build costs 3 to 6 ms to compile and test, and timing it takes 20 ms at least (see
 * `speed.ts`), while their order is known from the processor and the runtime (`WasmHost.kernelOrder`). Seen on one
 * with VNNI: dot 88 GMAC/s, relaxed 62, simd 19, scalar 10 on V8; dot 35, relaxed 54 on JavaScriptCore, which does not know
 * the instruction. Who wants to be sure asks for `fastestVariant`.
 */
export async function chooseVariant(threaded: boolean, names: readonly VariantName[]): Promise<Choice> {
  const refusals: Refusal[] = [];
  for (const name of names) {
    const tried = await tryVariant(name, threaded);
    if ('backend' in tried) return { variant: tried.variant, refusals };
    refusals.push(tried);
  }
  return { variant: undefined, refusals };
}

/** Compiles, tests and times all of `names`; the fastest at one token, which is what generating text takes. */
export async function fastestVariant(threaded: boolean, names: readonly VariantName[]): Promise<Choice> {
  const refusals: Refusal[] = [];
  let best: { readonly variant: Variant; readonly speed: number } | undefined;
  for (const name of names) {
    const tried = await tryVariant(name, threaded);
    if ('backend' in tried) {
      const speed = await multiplySpeed(tried.backend, 1, TIMING_MS);
      if (best === undefined || speed > best.speed) best = { variant: tried.variant, speed };
    } else refusals.push(tried);
  }
  return { variant: best?.variant, refusals };
}

/** A build that passed the self-test, with the backend that was tested; or why not. */
async function tryVariant(
  name: VariantName,
  threaded: boolean,
): Promise<Refusal | { readonly variant: Variant; readonly backend: WasmBackend }> {
  try {
    const variant = compileVariant(name, threaded);
    const backend = await openUntested(variant);
    const fault = await selfTest(backend);
    return fault === undefined ? { variant, backend } : { name, reason: `self-test failed: ${fault}` };
  } catch (error) {
    return { name, reason: error instanceof Error ? error.message : String(error) };
  }
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
