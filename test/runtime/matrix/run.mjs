/**
 * `npm run matrix`: the promise of one set of bits, tried out. Every runtime of this machine computes the logits of every model
 * under every setting; all digests of a model must be the one of `numerics.json`. Exit status 1 where one is not.
 *
 *     --rows A,B      only the rows of these names, else those that begin so
 *     --models A,B    likewise for models
 *     --columns A,B   only these columns
 *     --gate          the models of the gate
 *     --json          everything, for programs
 *     --write         digests into numerics.json, by the plain TypeScript kernels; a changed one needs a raised numericsVersion
 */
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { synthesize } from '../../../dist/convert/synth.js';
import { numericsVersion } from '../../../dist/index.js';
import { createFileSink } from '../../../dist/platform/source-node.js';
import { columnNames } from './columns.mjs';
import { rows as allRows, root } from './rows.mjs';
import { tables } from './table.mjs';

const { values } = parseArgs({
  options: {
    rows: { type: 'string' },
    models: { type: 'string' },
    columns: { type: 'string' },
    gate: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
  },
});
const tableFile = join(root, 'test/runtime/matrix/numerics.json');
const committed = JSON.parse(readFileSync(tableFile, 'utf8'));
const say = (text) => process.stderr.write(`${text}\n`);

/** Members that the list names, or else that begin as it says; a part of the list that finds nothing is a mistake. */
function chosen(all, list, nameOf) {
  if (list === undefined) return all;
  const found = new Set();
  for (const part of list.split(',')) {
    const exact = all.filter((one) => nameOf(one) === part);
    const some = exact.length > 0 ? exact : all.filter((one) => nameOf(one).startsWith(part));
    if (some.length === 0) {
      say(`no "${part}" among: ${all.map(nameOf).join('; ')}`);
      process.exit(2);
    }
    for (const one of some) found.add(one);
  }
  return all.filter((one) => found.has(one));
}

const columns = values.write ? ['ts'] : chosen(columnNames, values.columns, (name) => name);
const rows = values.write
  ? allRows.filter(({ name }) => name === 'node 26')
  : chosen(allRows, values.rows, ({ name }) => name);
const candidates = values.gate ? committed.models.filter(({ gate }) => gate === true) : committed.models;
const models = values.write ? committed.models : chosen(candidates, values.models, ({ name }) => name);

const folder = mkdtempSync(join(tmpdir(), 'bitnet-matrix-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130));

mkdirSync(join(folder, 'files'));
const job = { folder: join(folder, 'files'), columns, models: [] };
for (const [index, { name, file, synth, tokens, session }] of models.entries()) {
  const path = join(job.folder, `${index}.gguf`);
  if (file === undefined) await synthesize(await createFileSink(path), synth);
  // Unpacked once, not by every setting; that every runtime opens it packed is in runtime.test.ts and browser.test.ts.
  else writeFileSync(path, gunzipSync(readFileSync(join(root, file))));
  job.models.push({ name, path, tokens, session });
}

const results = [];
for (const { name, absent, identity: expected, run } of rows) {
  const result = { name, absent, identity: undefined, seconds: 0, cells: [], failed: undefined };
  results.push(result);
  if (absent !== undefined) {
    say(`${name}: not run, ${absent}`);
    continue;
  }
  const begin = performance.now();
  try {
    await run(job, ({ identity, ...cell }) => {
      if (identity === undefined) result.cells.push(cell);
      else if (expected.test(identity)) result.identity = identity;
      else throw new Error(`says that it is ${identity}`);
    });
  } catch (error) {
    result.failed = String(error.message);
  }
  result.seconds = Math.round((performance.now() - begin) / 100) / 10;
  say(`${name}: ${result.identity ?? 'not started'}, ${result.cells.length} cells in ${result.seconds} s`);
}

/** Everything that is not as promised, a line each. */
function faults() {
  const found = [];
  for (const { name: row, failed, cells, absent } of results) {
    if (failed !== undefined) found.push(`${row}: ${failed}`);
    else if (absent === undefined && cells.length !== models.length * columns.length)
      found.push(`${row}: ${cells.length} cells came`);
    for (const { model, column, digests, failed: cellFailed, missing } of cells) {
      const { sha256 } = models.find(({ name }) => name === model);
      if (cellFailed !== undefined) found.push(`${row}, ${model}, ${column}: ${cellFailed}`);
      else if (Object.keys(digests).length + missing.length === 0)
        found.push(`${row}, ${model}, ${column}: nothing came`);
      for (const [digest, settings] of Object.entries(digests)) {
        if (digest !== sha256 && !values.write)
          found.push(`${row}, ${model}, ${column}: ${digest.slice(0, 12)} by ${settings.join('; ')}`);
      }
    }
  }
  if (committed.numericsVersion !== numericsVersion && !values.write) {
    found.push(
      `numerics.json is of numerics ${committed.numericsVersion}, the package of ${numericsVersion}: npm run matrix -- --write`,
    );
  }
  return found;
}

/** Writes the digests that the definition gives; says no to another digest under the same number. */
function write() {
  const digests = new Map(results[0].cells.map((cell) => [cell.model, Object.keys(cell.digests)]));
  const raised = numericsVersion > committed.numericsVersion;
  const next = committed.models.map((model) => {
    const found = digests.get(model.name) ?? [];
    if (found.length !== 1) throw new Error(`${model.name}: ${found.length} digests by the definition`);
    if (model.sha256 !== undefined && model.sha256 !== found[0] && !raised) {
      throw new Error(
        `${model.name}: other bits than numerics ${numericsVersion} promises. Raise numericsVersion, with a reason, in src/engine/numerics.ts`,
      );
    }
    return { ...model, sha256: found[0] };
  });
  const text = JSON.stringify({ numericsVersion, models: next }, undefined, 2);
  writeFileSync(`${tableFile}.partial`, `${text}\n`);
  renameSync(`${tableFile}.partial`, tableFile);
  say(`${tableFile}: ${next.length} digests of numerics ${numericsVersion}`);
}

const wrong = faults();
if (values.json) {
  console.log(
    JSON.stringify({
      numericsVersion,
      columns,
      models: models.map(({ name, sha256 }) => ({ name, sha256 })),
      rows: results,
      faults: wrong,
    }),
  );
} else if (!values.write) {
  console.log(tables({ numericsVersion, models, rows: results, columns }));
}
for (const fault of wrong) say(`WRONG  ${fault}`);
if (wrong.length > 0) process.exit(1);
if (values.write) {
  try {
    write();
  } catch (error) {
    say(error.message);
    process.exit(1);
  }
}
