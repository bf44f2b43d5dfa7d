/**
 * The engines: where each is found, which file it gets, and how one measurement is taken. Every measurement is a
 * process of its own, which loads, warms up, and computes a prompt and then single tokens.
 */

import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const MAIN = here('../../dist/cli/main.js');

/** The engines that these options ask for, present or not. `why` tells why one cannot be measured. */
export function findEngines(options) {
  const engines = [ours('bitnet-ts', [process.execPath])];
  for (const path of options.on) {
    const command = basename(path).startsWith('deno') ? [path, 'run', '-A'] : [path];
    engines.push(ours(`bitnet-ts on ${basename(path)}`, command, missing(path)));
  }
  // The fork of Microsoft reads the same file as we do; mainline knows neither its types nor its architecture.
  engines.push(native('bitnet.cpp', options['bitnet-cpp'], '--bitnet-cpp', 'native'));
  engines.push(native('llama.cpp', options['llama-cpp'], '--llama-cpp', 'mainline'));
  engines.push(script('node-llama-cpp', './node-llama-cpp.mjs', packageMissing('node-llama-cpp')));
  const chromium = options.chromium;
  engines.push(
    script(
      'wllama',
      './wllama.mjs',
      packageMissing('@wllama/wllama') ?? packageMissing('playwright-core') ?? missing(chromium),
      [chromium],
    ),
  );
  return engines.filter(
    ({ name }) => options.engines.length === 0 || options.engines.some((one) => name.includes(one)),
  );
}

/** `file` is `native` for I2_S, which the 1.58-bit engines read, `mainline` for TQ2_0. */
function ours(name, command, why) {
  return {
    name,
    file: 'native',
    why: why ?? (existsSync(MAIN) ? undefined : 'not built: npm run build'),
    async measure({ model, threads, nPrompt, nGenerate }) {
      const flags = ['-p', nPrompt, '-n', nGenerate, '-t', threads, '-r', 1, '-o', 'json', '-q'];
      const rows = await json([...command, MAIN, 'bench', '-m', model, ...flags]);
      return { version: `${rows[0].build_version} ${rows[0].runtime} ${rows[0].variant}`, ...speeds(rows) };
    },
  };
}

function native(name, path, flag, file) {
  return {
    name,
    file,
    why: path === undefined ? `not given: ${flag} PATH of its llama-bench` : missing(path),
    async measure({ model, threads, nPrompt, nGenerate }) {
      const flags = ['-p', nPrompt, '-n', nGenerate, '-t', threads, '-r', 1, '-ngl', 0, '-o', 'json'];
      const rows = await json([path, '-m', model, ...flags]);
      return { version: rows[0].build_commit, ...speeds(rows) };
    },
  };
}

/** llama-bench's rows, and ours, which have the same names. */
function speeds(rows) {
  const found = (nPrompt) => rows.find((row) => row.n_prompt > 0 === nPrompt)?.avg_ts;
  return { pp: found(true), tg: found(false) };
}

function script(name, file, why, more = []) {
  return {
    name,
    file: 'mainline',
    why,
    measure: ({ model, threads, nPrompt, nGenerate }) =>
      json([process.execPath, here(file), model, threads, nPrompt, nGenerate, ...more]),
  };
}

/** Runs a command that prints JSON, possibly behind a few lines of other things. */
async function json([command, ...args]) {
  const { stdout } = await run(command, args.map(String), { maxBuffer: 1 << 26, timeout: 30 * 60_000 });
  return JSON.parse(stdout.slice(stdout.search(/^[[{]/m)));
}

function missing(path) {
  return existsSync(path) ? undefined : `${path} is not there`;
}

function packageMissing(name) {
  return existsSync(here(`./node_modules/${name}/package.json`)) ? undefined : `${name} is not installed`;
}

/** For the scripts of engines: the version of an installed package. */
export function packageVersion(name) {
  return JSON.parse(readFileSync(here(`./node_modules/${name}/package.json`), 'utf8')).version;
}
