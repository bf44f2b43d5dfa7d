/** Runs inside Node, Deno and Bun: takes a job as JSON, prints a line of JSON for the runtime and one for each cell. */
import { identity, measure } from './measure.mjs';

console.log(JSON.stringify({ identity: identity() }));
for await (const cell of measure(JSON.parse(globalThis.process.argv[2]))) console.log(JSON.stringify(cell));
