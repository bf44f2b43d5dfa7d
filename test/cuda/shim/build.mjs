/**
 * Compiles the library's own sources for the CPU (see shim.h): node test/cuda/shim/build.mjs OUT.so [g++ flags]. Exit status 3
 * where there is no g++.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const native = join(here, '../../../src/kernels/cuda/native');
const [, , out, ...flags] = process.argv;
const compiler = process.env.CXX ?? 'g++';
if (spawnSync(compiler, ['--version']).status !== 0) {
  process.stderr.write(`no ${compiler} here: the CPU shim cannot be built\n`);
  process.exit(3);
}
const sources = [
  ...readdirSync(native)
    .filter((name) => name.endsWith('.cu'))
    .map((name) => join(native, name)),
  ...['threads.cpp', 'tensor.cpp', 'runtime.cpp'].map((name) => join(here, name)),
];
// No fused multiply-add: rounding after every operation is what is tested.
const always = ['-std=c++17', '-O2', '-fPIC', '-ffp-contract=off', '-fvisibility=hidden', '-DBN_SHIM'];
const strict = ['-Wall', '-Wextra', '-Werror', '-Wno-unknown-pragmas', '-Wno-clobbered'];
const work = mkdtempSync(join(tmpdir(), 'bitnet-shim-'));
const objectOf = (source) => join(work, `${basename(source)}.o`);

function compile(source) {
  const args = [
    ...always,
    ...strict,
    ...flags,
    `-I${here}`,
    `-I${native}`,
    '-c',
    '-o',
    objectOf(source),
    '-x',
    'c++',
    source,
  ];
  return new Promise((done, fail) => {
    const child = spawn(compiler, args, { stdio: ['ignore', 'inherit', 'inherit'] });
    child.on('error', fail);
    child.on('close', (code) => (code === 0 ? done() : fail(new Error(`${source} does not compile`))));
  });
}

async function compileAll() {
  const queue = [...sources];
  const worker = async () => {
    for (let source = queue.shift(); source !== undefined; source = queue.shift()) await compile(source);
  };
  await Promise.all(Array.from({ length: Math.min(8, cpus().length) }, worker));
}

try {
  await compileAll();
  // Under another name until it is whole: tests in other processes may look for it.
  const part = `${out}.${process.pid}`;
  execFileSync(compiler, ['-shared', ...flags, '-o', part, ...sources.map(objectOf)], { stdio: 'inherit' });
  renameSync(part, out);
} catch (error) {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
} finally {
  rmSync(work, { recursive: true, force: true });
}
