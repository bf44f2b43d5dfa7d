/**
 * Runs benches: `npm run bench -- [FILTER...] [flags]`; see README.md.
 */

import { parseArgs } from 'node:util';
import { describeMachine } from '../src/cli/machine.ts';
import { memoryReadSpeed } from '../src/engine/bandwidth.ts';
import { chosen, type Options, type Result, ROOT, type Suite, save, tableOf, time } from './harness.ts';
import { kernels } from './kernels.ts';
import { ternaryMatvec } from './ladder/ternary-matvec.ts';
import { load } from './load.ts';
import { tokenize } from './tokenize.ts';

const suites: readonly Suite[] = [kernels, load, tokenize, ternaryMatvec];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', short: 't', default: '1' },
    time: { type: 'string', default: '300' },
    backend: { type: 'string', default: 'wasm' },
    model: { type: 'string', short: 'm' },
    preset: { type: 'string', default: '2b' },
    text: { type: 'string' },
    save: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
  },
});

const options: Options = {
  // The name of a suite means that suite, and not every case with that word in it.
  filters: positionals.map((word) => (suites.some(({ name }) => name.split('/')[0] === word) ? `${word}/` : word)),
  timeMs: Number(values.time),
  threads: values.threads.split(',').map(Number),
  backend: values.backend === 'ts' ? 'ts' : 'wasm',
  model: values.model,
  preset: values.preset,
  text: values.text,
};

if (!values.list) {
  const { runtime, cpu, nCpus, commit } = describeMachine(ROOT);
  console.log(`${runtime}, ${cpu} (${nCpus}), commit ${commit ?? 'unknown'}`);
}

for (const suite of suites) {
  const results: Result[] = [];
  for await (const one of suite.cases(options)) {
    if (!chosen(one.name, options.filters)) continue;
    if (values.list) {
      console.log(one.name);
      continue;
    }
    if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${one.name}`);
    results.push(await time(one, options));
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
  }
  if (results.length === 0) continue;
  console.log(`\n${tableOf(results)}`);
  const ceilings: { threads: number; gbPerSecond: number | undefined }[] = [];
  for (const threads of options.threads) ceilings.push({ threads, gbPerSecond: await memoryReadSpeed(threads) });
  for (const { threads, gbPerSecond } of ceilings) {
    console.log(
      `memory read, t=${threads}: ${gbPerSecond === undefined ? 'unknown' : `${gbPerSecond.toFixed(1)} GB/s`}`,
    );
  }
  if (values.save) console.log(`saved ${save(suite.name.replaceAll('/', '-'), results, { options, ceilings })}`);
}
