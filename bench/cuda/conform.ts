/**
 * The conformance suite on a built CUDA library, on a card: node bench/cuda/conform.ts LIB.so (Node 22.18 or newer, or Bun). Every
 * case against `kernels/ts`, bit for bit. The tests do the same with the CPU shim in its place.
 */
import { conformanceCases, runConformance } from '../../src/kernels/conformance/run.ts';
import { TestBackend } from '../../test/cuda/backend.ts';
import { Library } from '../../test/cuda/library.ts';

const path = process.argv[2];
if (path === undefined) throw new Error('usage: conform.ts LIB.so');
const backend = new TestBackend(new Library(path).open());
console.log(JSON.stringify(backend.context.info()));
const outcomes = await runConformance(backend, conformanceCases());
const bad = outcomes.filter((outcome) => !outcome.ok);
for (const { name, detail } of bad.slice(0, 20)) console.log(`BAD ${name}: ${detail}`);
console.log(`${outcomes.length} cases of the conformance suite, ${bad.length} differ from kernels/ts`);
await backend.dispose();
process.exitCode = bad.length === 0 ? 0 : 1;
