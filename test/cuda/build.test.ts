/**
 * `npm run build:cuda`: what it says without a compiler, and, where the environment asks for it and nvcc is there, what it builds.
 * Compiling takes minutes, so it is left to CI (the variable CI is set) or to BITNET_CUDA_BUILD=1.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
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
const wanted = process.env.CI !== undefined || process.env.BITNET_CUDA_BUILD !== undefined;
if (wanted && !nvcc) console.warn('no nvcc here: the CUDA library is not compiled');

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

  it.skipIf(!nvcc || !wanted)(
    'builds a library that says whether there is a card, without spills in hot kernels',
    () => {
      const folder = mkdtempSync(join(tmpdir(), 'bitnet-build-'));
      const out = join(folder, 'libbitnet-cuda.so');
      const { status, stdout, stderr } = build(['--arch', '90', '--jobs', '2', '--out', out]);
      expect(status, stderr).toBe(0);
      expect(stdout).toMatch(/^ternaryVectorKernel<8, 1, 1> +90 +\d+ +0 +0 +0$/m);
      const { code, count } = new Library(out).devices();
      expect(code === Code.OK ? count > 0 : code === Code.DRIVER || code === Code.DEVICE).toBe(true);
      rmSync(folder, { recursive: true });
    },
    900_000,
  );
});
