/**
 * What each build of the wasm kernels does on this runtime: whether it compiles, whether every kernel agrees with the
 * definition, how fast it is. And the same of any other backend, as far as it applies.
 * @module
 */

import { type ConformanceCase, conformanceCases, expectedOutputs, runConformance } from '../kernels/conformance/run.ts';
import type { Backend, BackendInfo } from '../kernels/interface.ts';
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

/** One backend. */
export interface BackendSurvey {
  readonly runtime: string;
  readonly backend: BackendInfo;
  readonly kernels: readonly KernelReport[];
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
  const suite = await suiteByOp(onProgress);

  const survey = async (name: VariantName): Promise<VariantReport> => {
    const nothing = { name, kernels: [], vectorGmacs: undefined, promptGmacs: undefined };
    let variant: Variant;
    try {
      variant = compileVariant(name, threaded);
    } catch (error) {
      return { ...nothing, refused: reasonOf(error) };
    }
    const kernels = await testKernels(suite, name, () => openUntested(variant), onProgress);
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

/** Surveys one backend: every op, without its speed. Throws what `open` throws at first. */
export async function surveyOne(
  runtime: string,
  open: () => Promise<Backend>,
  onProgress: (what: string) => void = () => undefined,
): Promise<BackendSurvey> {
  const first = await open();
  const { info } = first;
  await first.dispose();
  const suite = await suiteByOp(onProgress);
  return { runtime, backend: info, kernels: await testKernels(suite, info.name, open, onProgress) };
}

/** The conformance suite, op by op, with the answers of the definition. */
type Suite = ReadonlyMap<string, { readonly cases: ConformanceCase[]; readonly expected: Outputs[] }>;
type Outputs = Awaited<ReturnType<typeof expectedOutputs>>[number];

async function suiteByOp(onProgress: (what: string) => void): Promise<Suite> {
  onProgress('what the kernels should compute');
  const cases = conformanceCases();
  const expected = await expectedOutputs(cases);
  const suite = new Map<string, { readonly cases: ConformanceCase[]; readonly expected: Outputs[] }>();
  for (const [i, one] of cases.entries()) {
    const ofOp = suite.get(one.op) ?? { cases: [], expected: [] };
    ofOp.cases.push(one);
    ofOp.expected.push(expected[i]);
    suite.set(one.op, ofOp);
  }
  return suite;
}

async function testKernels(
  suite: Suite,
  name: string,
  open: () => Promise<Backend>,
  onProgress: (what: string) => void,
): Promise<KernelReport[]> {
  const reports: KernelReport[] = [];
  for (const [op, { cases, expected }] of suite) {
    onProgress(`${name}: ${op}`);
    let fault: string | undefined;
    try {
      // Its own backend: one that a kernel has brought down is of no more use.
      const backend = await open();
      const outcomes = await runConformance(backend, cases, expected).finally(() => backend.dispose());
      const bad = outcomes.find(({ ok }) => !ok);
      if (bad !== undefined) fault = `${bad.name}: ${bad.detail}`;
    } catch (error) {
      fault = reasonOf(error);
    }
    reports.push({ op, cases: cases.length, fault });
  }
  return reports;
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
