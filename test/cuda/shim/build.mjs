/**
 * Compiles the library's own sources for the CPU (see shim.h): node test/cuda/shim/build.mjs OUT.so [g++ flags]. Exit status 3
 * where there is no g++.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const native = join(here, '../../../src/kernels/cuda/native');
const [, , out, ...flags] = process.argv;
const compiler = process.env.CXX ?? 'g++';
if (spawnSync(compiler, ['--version']).status !== 0) {
  process.stderr.write(`no ${compiler} here: the CPU shim cannot be built\n`);
  process.exit(3);
}
const kernels = readdirSync(native)
  .filter((name) => name.endsWith('.cu'))
  .map((name) => join(native, name));
const shim = ['threads.cpp', 'runtime.cpp'].map((name) => join(here, name));
// No fused multiply-add: rounding after every operation is what is tested.
const always = ['-std=c++17', '-O2', '-g', '-fPIC', '-shared', '-ffp-contract=off', '-fvisibility=hidden', '-DBN_SHIM'];
const strict = ['-Wall', '-Wextra', '-Wno-unknown-pragmas', '-Wno-clobbered'];
const sources = ['-x', 'c++', ...shim, ...kernels];
execFileSync(compiler, [...always, ...strict, ...flags, `-I${here}`, `-I${native}`, '-o', out, ...sources], { stdio: 'inherit' });
