/**
 * `bitnet-ts/conformance`: does a backend compute what the plain TypeScript kernels compute? Op by op (`runConformance`), and in
 * whole models (`runModelConformance`). Both in one test file of your own, with whatever test runner:
 *
 * @example
 * import { runConformance, runModelConformance } from 'bitnet-ts/conformance';
 *
 * const open = async () => createMyBackend();
 * const outcomes = [...(await runConformance(await open())), ...(await runModelConformance(open))];
 * for (const { name, ok, detail } of outcomes) test(name, () => assert(ok, detail));
 *
 * `topRowOf` is all that a backend needs for `readTop` which knows no better way than reading whole rows.
 * @module
 */

export {
  type ConformanceCase,
  caseName,
  conformanceCases,
  expectedOutputs,
  type Outcome,
  runCase,
  runConformance,
} from '../kernels/conformance/run.ts';
export { topRowOf } from '../tensors/top-row.ts';
export { type ModelConformanceOptions, runModelConformance } from './model-conformance.ts';
