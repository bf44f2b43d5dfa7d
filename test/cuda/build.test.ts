/**
 * `npm run build:cuda`: what it says without a compiler, and what it made. Compiling takes a minute and more, so that is a step of
 * `.ci/run`, which names the library in BITNET_CUDA_BUILT.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Code } from '../../src/kernels/cuda/abi.ts';
import { Library } from './library.ts';

const script = new URL('../../src/kernels/cuda/build.mjs', import.meta.url).pathname;

function build(args: readonly string[], env: Record<string, string> = {}) {
  return spawnSync(process.execPath, [script, ...args], { encoding: 'utf8', env: { ...process.env, ...env } });
}

const nvcc = existsSync('/usr/local/cuda/bin/nvcc') || spawnSync('nvcc', ['--version']).status === 0;
const built = process.env.BITNET_CUDA_BUILT;
if (!nvcc) console.warn('no nvcc here: what it would refuse is not tested');
if (built === undefined) console.warn('BITNET_CUDA_BUILT names no library: none is opened');

describe('npm run build:cuda', () => {
  it('says what is missing', () => {
    const { status, stderr } = build([], { NVCC: '/nowhere/nvcc' });
    expect(status).toBe(1);
    expect(stderr).toMatch(/^build:cuda: no nvcc at \/nowhere\/nvcc\. Install the CUDA toolkit, 12\.0 or newer/);
  });

  it.skipIf(!nvcc)('refuses architectures that it has no kernels for', () => {
    const { status, stderr } = build(['--arch', '75']);
    expect([status, stderr]).toEqual([1, 'build:cuda: --arch 75: expected numbers from 80 on, such as 80,90\n']);
  });

  it('leaves no library of kernels that it found wrong', () => {
    const folder = mkdtempSync(join(tmpdir(), 'bitnet-build-'));
    // Links something, and says nothing of any kernel.
    const silent = join(folder, 'nvcc');
    const script = '#!/bin/sh\n[ "$1" = --version ] && echo release 13.0 && exit\n[ "$1" != -shared ] || : >"$OUT"\n';
    writeFileSync(silent, script, { mode: 0o755 });
    const out = join(folder, 'lib.so');
    const { status, stderr } = build(['--out', out], { NVCC: silent, OUT: `${out}.part` });
    expect([status, stderr.trim().split('\n').at(-1)]).toEqual([
      1,
      'build:cuda: ptxas reported no kernel: is its output of another form?',
    ]);
    expect(readdirSync(folder)).toEqual(['nvcc']);
    rmSync(folder, { recursive: true });
  });

  it.each([
    { what: 'refuses what spills', args: [], code: 'STL [R1], R2', status: 1 },
    { what: 'takes what spills where it is told to', args: ['--allow-spills'], code: 'STL [R1], R2', status: 0 },
    { what: 'refuses what is fused all the same', args: ['--allow-spills'], code: 'FFMA R1, R2, R3, R4', status: 1 },
    { what: 'says when it saw no machine code', args: [], code: undefined, status: 0 },
  ])('$what', ({ args, code, status }) => {
    const folder = mkdtempSync(join(tmpdir(), 'bitnet-build-'));
    const out = join(folder, 'lib.so');
    // A compiler of one kernel, and a disassembler of the one instruction in it.
    const log =
      "Compiling entry function 'oneKernel' for 'sm_80' 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads Used 9 registers";
    const nvcc = `#!/bin/sh
[ "$1" = --version ] && echo release 13.0 && exit
[ "$1" = -shared ] && : >'${out}.part' && exit
while [ "$1" != --keep-dir ]; do shift; done
echo '.target sm_80
.entry oneKernel()' >"$2/one.ptx"
echo "${log}"
`;
    const machine = code === undefined ? '' : `\tFunction : oneKernel\n        /*0000*/   ${code} ;\n`;
    writeFileSync(join(folder, 'nvcc'), nvcc, { mode: 0o755 });
    writeFileSync(join(folder, 'cuobjdump'), `#!/bin/sh\necho '\tcode for sm_80\n${machine}'\n`, { mode: 0o755 });
    const env = { NVCC: join(folder, 'nvcc'), PATH: '/usr/bin:/bin' };
    const { status: got, stderr } = build(['--arch', '80', '--out', out, ...args], env);
    expect([got, existsSync(out)], stderr).toEqual([status, status === 0]);
    if (status === 1) expect(stderr).toContain(`oneKernel (sm_80): ${code?.split(' ')[0]}`);
    expect(stderr.includes('machine code was not')).toBe(code === undefined);
    rmSync(folder, { recursive: true });
  });

  it.skipIf(built === undefined)('makes a library that says whether there is a card', () => {
    const { code, count } = new Library(built ?? '').devices();
    expect(code === Code.OK ? count > 0 : code === Code.DRIVER || code === Code.DEVICE).toBe(true);
  });
});
