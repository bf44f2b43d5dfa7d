/** What `build:cuda` looks for in compiled kernels, on small pieces of what compilers write. */
import { describe, expect, it } from 'vitest';
import { faultsOfPtx, faultsOfSass, kernelName } from '../../src/kernels/cuda/inspect.mjs';

const WAIT = 'griddepcontrol.wait;';

function ptx(kernel: string, lines: readonly string[], arch = 90): string {
  const head = `.version 8.0\n.target sm_${arch}\n.address_size 64\n.extern .shared .align 16 .b8 bnShared[];\n`;
  return `${head}.visible .entry _ZN2bn12_${kernel}ILi8ELi1EEEvv(\n\t.param .b64 p\n)\n{\n\t.reg .b32 %r<4>;\n${lines.map((line) => `\t${line}\n`).join('')}\tret;\n}\n`;
}

function sass(kernel: string, lines: readonly string[], arch = 90): string {
  const body = lines.map((line, i) => `        /*${(16 * i).toString(16).padStart(4, '0')}*/  ${line} ;   /* 0x0 */\n`);
  return `\n\tcode for sm_${arch}\n\t\tFunction : _ZN2bn12_${kernel}Ev\n${body.join('')}`;
}

describe('the look at compiled kernels', () => {
  it('names kernels as people do', () => {
    expect(kernelName('_ZN2bn37_GLOBAL__N__x_dense_cu_y11denseKernelILi3ELi1ELi4EEEvNS_9DenseArgsE')).toBe(
      'denseKernel<3, 1, 4>',
    );
    expect(kernelName('main')).toBe('main');
  });

  it('finds nothing in what is right', () => {
    const good = ['mul.rn.f32 \t%f1, %f2, %f3;', 'div.rn.f32 %f1, %f2, %f3;', 'ld.global.f32 %f1, [%rd1];'];
    expect(faultsOfPtx(ptx('rowsKernel', [WAIT, ...good]))).toEqual([]);
    expect(faultsOfPtx(ptx('rowsKernel', good, 80))).toEqual([]); // there is no wait before 9.0
    const weights = ['ld.global.nc.L1::no_allocate.v4.u32 {%r0,%r1,%r2,%r3}, [%rd1];', '@%p1 bra $L__BB0_2;'];
    expect(faultsOfPtx(ptx('ternaryVectorKernel', [...weights, WAIT]))).toEqual([]);
    const machine = ['LDG.E.128 R4, [R2]', 'ACQBULK', 'MUFU.RCP R3, R4', 'FFMA R1, R2, R3, R4', 'EXIT'];
    expect(faultsOfSass(sass('ternaryVectorKernel', machine))).toEqual([]);
  });

  it.each([
    ['fma.rn.f32 %f1, %f2, %f3, %f4;', 'fma.rn.f32 does not round'],
    ['mul.f32 %f1, %f2, %f3;', 'mul.f32 does not round'],
    ['@%p1 add.ftz.f32 %f1, %f2, %f3;', 'add.ftz.f32 does not round'],
    ['div.full.f32 %f1, %f2, %f3;', 'div.full.f32 does not round'],
    ['sqrt.approx.f32 %f1, %f2;', 'sqrt.approx.f32 does not round'],
    ['fma.rn.f64 %fd1, %fd2, %fd3, %fd4;', 'fma.rn.f64 does not round'],
    ['ld.global.nc.f32 %f1, [%rd1];', 'where the source has an ordinary load'],
    ['.local .align 4 .b8 __local_depot0[16];', 'local memory'],
  ])('finds %s', (line, words) => {
    const faults = faultsOfPtx(ptx('rowsKernel', [WAIT, line]));
    expect(faults).toEqual([expect.stringContaining(words)]);
  });

  it('finds what comes before the wait, and a kernel without one', () => {
    for (const line of ['ld.global.f32 %f1, [%rd1];', 'ld.u32 %r1, [%rd1];', 'st.global.u32 [%rd1], %r1;']) {
      expect(faultsOfPtx(ptx('rowsKernel', [line, WAIT])), line).toHaveLength(1);
    }
    // Weights may be read; nothing may be written, and nobody may return.
    for (const line of ['st.global.u32 [%rd1], %r1;', '@%p1 ret;', 'atom.global.add.u32 %r1, [%rd1], 1;']) {
      expect(faultsOfPtx(ptx('denseKernel', ['ld.global.u32 %r1, [%rd1];', line, WAIT])), line).toHaveLength(1);
    }
    expect(faultsOfPtx(ptx('ropeKernel', []))).toEqual(['ropeKernel<8, 1>: never waits for the kernels before']);
    expect(faultsOfSass(sass('rowsKernel', ['LDG.E R1, [R2]', 'ACQBULK', 'EXIT']))).toHaveLength(1);
    expect(faultsOfSass(sass('denseKernel', ['@P0 EXIT', 'ACQBULK', 'EXIT']))).toHaveLength(1);
    expect(faultsOfSass(sass('rowsKernel', ['EXIT']))).toHaveLength(1);
  });

  it('finds in machine code what was fused or spilled', () => {
    expect(faultsOfSass(sass('rowsKernel', ['FFMA R1, R2, R3, R4', 'EXIT'], 80))).toHaveLength(1);
    expect(faultsOfSass(sass('rowsKernel', ['@!P0 STL [R1], R2', 'EXIT'], 80))).toHaveLength(1);
    expect(faultsOfSass(sass('rowsKernel', [], 80))).toHaveLength(1);
  });
});
