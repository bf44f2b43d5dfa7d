// Runs inside each runtime: prints the outcomes of whole models on the threaded backend that are not as they should be, as JSON.
import { wasm } from '../../dist/engine/backends.js';
import { runModelConformance } from '../../dist/oracle/conformance.js';

const outcomes = await runModelConformance(wasm({ threads: 2 }), {
  architectures: ['bitnet-b1.58', 'gemma3'],
  same: [wasm({ threads: 1 })],
});
console.log(JSON.stringify({ count: outcomes.length, failed: outcomes.filter(({ ok }) => !ok) }));
