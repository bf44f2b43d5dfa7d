/**
 * The conformance suite on every build of the kernels, in whatever runtime runs this: prints variant -> failures as JSON.
 * Arguments: `wide` to ask for wide vectors; then names of builds [all].
 */
import { wasm } from '../../dist/engine/backends.js';
import { conformanceCases, expectedOutputs, runConformance } from '../../dist/kernels/conformance/run.js';

const args = globalThis.process.argv.slice(2);
const wideVectors = args[0] === 'wide';
const names = wideVectors ? args.slice(1) : args;
const cases = conformanceCases();
const expected = await expectedOutputs(cases);
const failures = {};
for (const kernels of names) {
  const backend = await wasm({ kernels, threads: 2, wideVectors })();
  const outcomes = await runConformance(backend, cases, expected);
  if (outcomes.length !== cases.length) throw new Error(`${outcomes.length} outcomes of ${cases.length} cases`);
  failures[backend.info.variant] = outcomes.filter(({ ok }) => !ok);
  await backend.dispose();
}
console.log(JSON.stringify(failures));
