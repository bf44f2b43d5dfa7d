/**
 * Engines side by side: `npm run bench:peers -- [flags]`; see ../README.md.
 *
 * They take turns, A B C A B C, so that whatever else the machine does hits all of them; medians and ratios of one run
 * are compared, never numbers of two runs.
 */

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { describeMachine } from '../../dist/cli/machine.js';
import { findEngines } from './engines.mjs';
import { markdown, summarise, svg } from './report.mjs';

const { values } = parseArgs({
  options: {
    preset: { type: 'string', default: '700m' },
    embd: { type: 'string', default: 'q6_k' },
    threads: { type: 'string', short: 't', default: '1,2' },
    prompt: { type: 'string', short: 'p', default: '512' },
    generate: { type: 'string', short: 'n', default: '128' },
    rounds: { type: 'string', short: 'r', default: '5' },
    engines: { type: 'string', default: '' },
    on: { type: 'string', multiple: true, default: [] },
    'bitnet-cpp': { type: 'string' },
    'llama-cpp': { type: 'string' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
    models: { type: 'string' },
    name: { type: 'string', default: 'peers' },
  },
});

const folder = values.models ?? fileURLToPath(new URL('./models', import.meta.url));
const threadCounts = values.threads.split(',').map(Number);
const [nPrompt, nGenerate, nRounds] = [values.prompt, values.generate, values.rounds].map(Number);
const names = { pp: `pp${nPrompt}`, tg: `tg${nGenerate}` };
const say = (text) => process.stderr.write(`${text}\n`);

/**
 * Weights are the same in both files, in the types each engine is best at. Mainline llama.cpp knows of the two
 * architectures only the older, which has another activation and otherwise the same work.
 */
const FILES = { native: { type: 'i2_s' }, mainline: { type: 'tq2_0', arch: 'bitnet' } };

function modelFor(kind) {
  const { type, arch } = FILES[kind];
  const path = `${folder}/${values.preset}-${type}-${values.embd}.gguf`;
  if (!existsSync(path)) {
    mkdirSync(folder, { recursive: true });
    const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
    const flags = ['--preset', values.preset, '--type', type, '--embd-type', values.embd, '-o', path];
    execFileSync(process.execPath, [main, 'synth', ...flags, ...(arch === undefined ? [] : ['--arch', arch])], {
      stdio: ['ignore', 2, 2],
    });
  }
  return path;
}

const engines = findEngines({ ...values, engines: values.engines.split(',').filter(Boolean) });
const absent = engines.filter(({ why }) => why !== undefined).map(({ name, why }) => ({ name, why }));
for (const { name, why } of absent) say(`${name}: not measured, ${why}`);
let present = engines
  .filter(({ why }) => why === undefined)
  .map((engine) => ({ ...engine, model: modelFor(engine.file), version: undefined }));

const samples = [];
for (let round = 1; round <= nRounds; round++) {
  for (const threads of threadCounts) {
    for (const engine of present) {
      try {
        const { version, ...speeds } = await engine.measure({ model: engine.model, threads, nPrompt, nGenerate });
        engine.version = version;
        samples.push({ engine: engine.name, round, threads, ...speeds });
        say(`round ${round}  ${engine.name}  t=${threads}  pp ${speeds.pp.toFixed(1)}  tg ${speeds.tg.toFixed(1)}`);
      } catch (error) {
        // An engine that fails is out, and said to be; a hole in the numbers would be worse.
        const why = `failed: ${String(error.stderr || error.message || error)
          .trim()
          .split('\n')
          .at(-1)}`;
        absent.push({ name: engine.name, why });
        say(`${engine.name}: ${why}`);
        present = present.filter((one) => one !== engine);
      }
    }
  }
}

const measured = present.map(({ name, version, model }) => ({ name, version, model: model.split('/').at(-1) }));
const kept = samples.filter(({ engine }) => measured.some(({ name }) => name === engine));
const lines = summarise(
  kept,
  measured.map(({ name }) => name),
);
const machine = describeMachine();
const date = new Date().toISOString();
const command = ['npm run bench:peers --', ...process.argv.slice(2)].join(' ');
const title = `Tokens a second, ${values.preset} shape`;
const subtitle = `${machine.cpu}, ${date.slice(0, 10)}, median of ${nRounds} round${nRounds === 1 ? '' : 's'}; longer is faster`;
const results = fileURLToPath(new URL('../results/', import.meta.url));
mkdirSync(results, { recursive: true });
const text = markdown({ title, machine, date, command, lines, engines: measured, absent, names });
const file = (end) => `${results}${values.name}.${end}`;
const facts = { title, date, machine, command, nPrompt, nGenerate, engines: measured, absent, lines, samples: kept };
writeFileSync(file('json'), `${JSON.stringify(facts, null, 2)}\n`);
writeFileSync(file('md'), text);
writeFileSync(file('svg'), svg({ title, subtitle, lines, names }));
console.log(text);
say(`wrote ${file('{json,md,svg}')}`);
