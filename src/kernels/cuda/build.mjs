/**
 * Builds the CUDA library: `npm run build:cuda [-- --arch 80,90] [--jobs 2] [--out FILE] [--allow-spills]`.
 *
 * Wants nvcc of CUDA 12.0 or newer (13.0 is what it is developed with) from $NVCC, $CUDA_HOME/bin, $PATH or /usr/local/cuda/bin,
 * and a host compiler that it likes. No GPU is needed. The library holds machine code for every --arch, portable code (PTX) of
 * the newest of them for cards that come later, and the CUDA runtime: whoever uses it needs nothing but a driver.
 *
 * Prints what ptxas says of every kernel, and fails when one that matters keeps registers in memory (with --allow-spills it says so and
 * goes on: another compiler's kernels may be slower, they are not wrong), or when a kernel does not do what its source says where no
 * test would see it (inspect.mjs).
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { faultsOfPtx, faultsOfSass, isOnlySlow, kernelName } from './inspect.mjs';

const LEAST_CUDA = 12;
const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, '../../..');

const { values: options } = parseArgs({
  options: {
    arch: { type: 'string', default: '80,90' },
    jobs: { type: 'string', default: String(Math.min(4, cpus().length)) },
    out: { type: 'string', default: join(root, 'dist/kernels/cuda/libbitnet-cuda.so') },
    'allow-spills': { type: 'boolean', default: false },
  },
});

// The first four are part of what the kernels compute (native/numbers.cuh); the self-test of bn_open fails without them.
const ARITHMETIC = ['-fmad=false', '-prec-div=true', '-prec-sqrt=true', '-ftz=false'];
const FLAGS = [...ARITHMETIC, '-std=c++17', '-O3', '-Xcompiler', '-fPIC,-fvisibility=hidden', '-Xptxas', '-v'];
/** Kernels that a token's time goes into. */
const HOT = /^(ternary|dense(?!Any)|head|attention|rows|rope)/;

function stop(message) {
  process.stderr.write(`build:cuda: ${message}\n`);
  process.exit(1);
}

function findNvcc() {
  const { NVCC, CUDA_HOME, CUDA_PATH } = process.env;
  if (NVCC !== undefined && NVCC !== '') return NVCC;
  const places = [CUDA_HOME, CUDA_PATH].filter(Boolean).map((home) => join(home, 'bin/nvcc'));
  const found = places.find((path) => existsSync(path));
  if (found !== undefined) return found;
  if (spawnSync('nvcc', ['--version']).status === 0) return 'nvcc';
  return '/usr/local/cuda/bin/nvcc';
}

const nvcc = findNvcc();
const version = spawnSync(nvcc, ['--version'], { encoding: 'utf8' });
if (version.status !== 0) {
  stop(
    `no nvcc at ${nvcc}. Install the CUDA toolkit, ${LEAST_CUDA}.0 or newer, and set CUDA_HOME or PATH. ` +
      'Everything but the cuda backend works without it.',
  );
}
const release = /release (\d+)\.(\d+)/.exec(version.stdout);
if (release === null || Number(release[1]) < LEAST_CUDA) {
  stop(`${nvcc} is of CUDA ${release?.[1] ?? '?'}.${release?.[2] ?? '?'}, expected ${LEAST_CUDA}.0 or newer`);
}

const archs = options.arch.split(',').map(Number);
if (archs.some((arch) => !(Number.isInteger(arch) && arch >= 80)))
  stop(`--arch ${options.arch}: expected numbers from 80 on, such as 80,90`);
const newest = Math.max(...archs);
const targets = archs.map((arch) => `-gencode=arch=compute_${arch},code=sm_${arch}`);
targets.push(`-gencode=arch=compute_${newest},code=compute_${newest}`);

const native = join(here, 'native');
const sources = readdirSync(native).filter((name) => name.endsWith('.cu'));
const work = mkdtempSync(join(tmpdir(), 'bitnet-cuda-'));
const logs = new Map();
const children = new Set();
const part = `${resolve(options.out)}.part`;

let isEnding = false;

/** Ends the process; neither compilers nor their files stay. */
async function end(status) {
  isEnding = true;
  const ended = [...children].map((child) => new Promise((done) => child.once('close', done)));
  // A group of their own each: nvcc does not end what it has started.
  for (const child of children) {
    try {
      process.kill(-child.pid, 'SIGTERM');
    } catch {
      // It has just ended by itself.
    }
  }
  await Promise.all(ended);
  rmSync(work, { recursive: true, force: true });
  rmSync(part, { force: true });
  process.exit(status);
}

for (const [signal, status] of Object.entries({ SIGINT: 130, SIGTERM: 143, SIGHUP: 129 })) {
  process.once(signal, () => end(status));
}

function compile(source) {
  const object = join(work, source.replace('.cu', '.o'));
  const kept = join(work, source.replace('.cu', '')); // PTX among other things
  mkdirSync(kept);
  const args = [...FLAGS, ...targets, '--keep', '--keep-dir', kept, '-c', '-o', object, join(native, source)];
  const child = spawn(nvcc, args, { detached: true });
  children.add(child);
  let log = '';
  child.stdout.on('data', (text) => (log += text));
  child.stderr.on('data', (text) => (log += text));
  return new Promise((done, fail) => {
    child.on('error', fail);
    child.on('close', (code) => {
      children.delete(child);
      logs.set(source, log);
      if (code === 0) done();
      else fail(new Error(`${source} does not compile:\n${log}`));
    });
  });
}

/** What cuobjdump prints of the kernels. Where its nvdisasm is missing, or too old for the card, that is a heading without one. */
function disassembled(tool, library) {
  const { status, stdout } = spawnSync(tool, ['-sass', library], { encoding: 'utf8', maxBuffer: 2 ** 30 });
  return status === 0 && stdout.includes('Function : ') ? stdout : '';
}

/** What is wrong with the kernels as compiled. */
function inspect(library) {
  const ptx = sources.flatMap((source) => {
    const kept = join(work, source.replace('.cu', ''));
    const files = readdirSync(kept).filter((name) => name.endsWith('.ptx'));
    return files.map((name) => readFileSync(join(kept, name), 'utf8'));
  });
  if (!ptx.some((text) => text.includes('.entry'))) throw new Error('nvcc left no PTX of the kernels');
  const faults = ptx.flatMap(faultsOfPtx);
  const sass = [join(dirname(nvcc), 'cuobjdump'), 'cuobjdump'].reduce(
    (found, tool) => found || disassembled(tool, library),
    '',
  );
  if (sass === '')
    process.stderr.write('no cuobjdump with an nvdisasm for it: PTX was looked at, machine code was not\n');
  else faults.push(...faultsOfSass(sass));
  return [...new Set(faults)];
}

/** What ptxas wrote of each kernel. */
function report(log) {
  const pattern =
    /Compiling entry function '(\w+)' for 'sm_(\d+)'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers([^\n]*)/g;
  return [...log.matchAll(pattern)].map(([, mangled, arch, stack, stores, loads, registers, rest]) => ({
    kernel: kernelName(mangled),
    arch,
    registers: Number(registers),
    stack: Number(stack),
    spills: Number(stores) + Number(loads),
    sharedBytes: Number(/(\d+) bytes smem/.exec(rest)?.[1] ?? 0),
  }));
}

async function build() {
  const queue = [...sources];
  const worker = async () => {
    for (let source = queue.shift(); source !== undefined && !isEnding; source = queue.shift()) {
      await compile(source);
      process.stderr.write(`  ${source}\n`);
    }
  };
  process.stderr.write(`nvcc ${release[1]}.${release[2]}, sm_${archs.join(', sm_')}\n`);
  await Promise.all(Array.from({ length: Math.max(1, Number(options.jobs)) }, worker));

  const out = resolve(options.out);
  mkdirSync(dirname(out), { recursive: true });
  const objects = sources.map((source) => join(work, source.replace('.cu', '.o')));
  const linkFlags = ['-shared', '-cudart', 'static', '-Xlinker', '--exclude-libs,ALL', ...targets];
  const linked = spawnSync(nvcc, [...linkFlags, '-o', part, ...objects], { encoding: 'utf8' });
  if (linked.status !== 0) throw new Error(`linking failed:\n${linked.stdout}${linked.stderr}`);

  const rows = [...logs.values()].flatMap(report);
  rows.sort((a, b) => (a.kernel < b.kernel ? -1 : a.kernel > b.kernel ? 1 : a.arch - b.arch));
  process.stdout.write('kernel                                    arch  registers  stack  spilled  static shared\n');
  for (const { kernel, arch, registers, stack, spills, sharedBytes } of rows) {
    const cells = [arch, registers, stack, spills, sharedBytes].map((value, i) =>
      String(value).padStart([4, 11, 7, 9, 15][i]),
    );
    process.stdout.write(`${kernel.padEnd(40)}${cells.join('')}\n`);
  }
  const spilled = rows.filter(({ kernel, spills }) => HOT.test(kernel) && spills > 0);
  if (rows.length === 0) throw new Error('ptxas reported no kernel: is its output of another form?');
  if (spilled.length > 0) {
    const which = `registers in memory: ${spilled.map(({ kernel, arch }) => `${kernel} (sm_${arch})`).join(', ')}`;
    if (!options['allow-spills']) throw new Error(which);
    process.stderr.write(`${which}: right, but slower than without\n`);
  }
  const faults = inspect(part);
  const wrong = options['allow-spills'] ? faults.filter((fault) => !isOnlySlow(fault)) : faults;
  if (wrong.length > 0) throw new Error(`the compiled kernels break rules:\n  ${wrong.join('\n  ')}`);
  renameSync(part, out);
  process.stdout.write(`${out}\n`);
}

try {
  await build();
  await end(0);
} catch (error) {
  if (!isEnding) {
    process.stderr.write(`build:cuda: ${error.message}\n`);
    await end(1);
  }
}
