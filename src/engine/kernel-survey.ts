/**
 * What each build of the wasm kernels does on this runtime: whether it compiles, whether every kernel agrees with the
 * definition, how fast it is.
 * @module
 */

import { type ConformanceCase, conformanceCases, expectedOutputs, runConformance } from '../kernels/conformance/run.ts';
import type { VariantName, WasmHost } from '../kernels/wasm/host.ts';
import { kernelOrder } from '../kernels/wasm/open.ts';
import { multiplySpeed } from '../kernels/wasm/speed.ts';
import { chooseVariant, compileVariant, openUntested, VARIANT_NAMES, type Variant } from '../kernels/wasm/variants.ts';

/** One build. */
export interface VariantReport {
  readonly name: VariantName;
  /** Why the runtime does not take it; undefined when it compiled. */
  readonly refused: string | undefined;
  readonly kernels: readonly KernelReport[];
  /** Billions of multiplications a second, one thread: one token (generation) and 32 (prompts). Undefined if it fails. */
  readonly vectorGmacs: number | undefined;
  readonly promptGmacs: number | undefined;
}

export interface KernelReport {
  /** An op of `Backend`. */
  readonly op: string;
  readonly cases: number;
  /** The first case in which it differs from the `ts` backend, and how; undefined when it passed. */
  readonly fault: string | undefined;
}

export interface KernelSurvey {
  /** `node 26.10.0` */
  readonly runtime: string;
  /** Physical cores, as far as the runtime tells. */
  readonly cores: number;
  /** Why there is only one thread; undefined when there can be more. */
  readonly noThreads: string | undefined;
  /** The build that is taken when none is asked for; undefined when none works and the `ts` backend steps in. */
  readonly chosen: VariantName | undefined;
  readonly variants: readonly VariantReport[];
}

const PROMPT_TOKENS = 32;
const TIMING_MS = 150;

/** Surveys a host; `onProgress` is told what is being done. */
export async function surveyHost(
  runtime: string,
  host: WasmHost,
  onProgress: (what: string) => void = () => undefined,
): Promise<KernelSurvey> {
  await host.enableRelaxedSimd?.();
  const noThreads =
    host.threads === undefined ? 'threads' : typeof SharedArrayBuffer === 'undefined' ? 'SharedArrayBuffer' : undefined;
  // Builds with threads where there are threads, since those will run.
  const threaded = noThreads === undefined;
  onProgress('what the kernels should compute');
  const cases = conformanceCases();
  const expected = await expectedOutputs(cases);
  const byOp = new Map<string, number[]>();
  for (const [i, { op }] of cases.entries()) byOp.set(op, [...(byOp.get(op) ?? []), i]);

  const testKernel = async (variant: Variant, op: string, which: readonly number[]): Promise<KernelReport> => {
    const mine: ConformanceCase[] = which.map((i) => cases[i]);
    const answers = which.map((i) => expected[i]);
    let fault: string | undefined;
    try {
      // Its own backend: one that a kernel has brought down is of no more use.
      const outcomes = await runConformance(await openUntested(variant), mine, answers);
      const bad = outcomes.find(({ ok }) => !ok);
      if (bad !== undefined) fault = `${bad.name}: ${bad.detail}`;
    } catch (error) {
      fault = reasonOf(error);
    }
    return { op, cases: which.length, fault };
  };

  const survey = async (name: VariantName): Promise<VariantReport> => {
    const nothing = { name, kernels: [], vectorGmacs: undefined, promptGmacs: undefined };
    let variant: Variant;
    try {
      variant = compileVariant(name, threaded);
    } catch (error) {
      return { ...nothing, refused: reasonOf(error) };
    }
    const kernels: KernelReport[] = [];
    for (const [op, which] of byOp) {
      onProgress(`${name}: ${op}`);
      kernels.push(await testKernel(variant, op, which));
    }
    if (kernels.some(({ fault }) => fault !== undefined)) return { ...nothing, refused: undefined, kernels };
    onProgress(`${name}: how fast`);
    const backend = await openUntested(variant);
    const vectorGmacs = await multiplySpeed(backend, 1, TIMING_MS);
    const promptGmacs = await multiplySpeed(backend, PROMPT_TOKENS, TIMING_MS);
    return { name, refused: undefined, kernels, vectorGmacs, promptGmacs };
  };

  const variants: VariantReport[] = [];
  for (const name of VARIANT_NAMES) variants.push(await survey(name));
  const { variant } = await chooseVariant(threaded, kernelOrder(host));
  return {
    runtime,
    cores: host.cores,
    noThreads: noThreads === undefined ? undefined : `this runtime offers no ${noThreads}`,
    chosen: variant?.name,
    variants,
  };
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
