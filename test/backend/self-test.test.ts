/**
 * The self-test of a build at start: its digests are those of the plain TypeScript kernels, and a build that gets any op
 * wrong does not pass.
 */
import { describe, expect, it } from 'vitest';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { WasmBackend } from '../../src/kernels/wasm/backend.ts';
import { Op } from '../../src/kernels/wasm/commands.ts';
import { COMMAND_BYTES, word, writeConstants } from '../../src/kernels/wasm/layout.ts';
import { Pool } from '../../src/kernels/wasm/pool.ts';
import { CHECKS, digestOf, selfTest } from '../../src/kernels/wasm/self-test.ts';
import { chooseVariant, compileVariant, openUntested, VARIANT_NAMES } from '../../src/kernels/wasm/variants.ts';
import { createNodeHost } from '../../src/platform/host-node.ts';

await (await createNodeHost()).enableRelaxedSimd?.();

describe('self-test', () => {
  it('holds the digests of the ts backend', async () => {
    const backend = createTsBackend();
    const expected: Record<string, number> = {};
    for (const check of CHECKS) expected[check.op] = await digestOf(check, backend);
    // When this fails because a program changed: these are the digests to put into self-test.ts.
    expect(Object.fromEntries(CHECKS.map(({ op, digest }) => [op, digest]))).toEqual(expected);
  });

  it.runIf(/^v2[01]\./.test(process.version))('finds that Node 20 computes other four-way dot products', async () => {
    expect(await selfTest(await openUntested(compileVariant('dot', false)))).toMatch(/^ternaryMatmul/);
  });

  const names = VARIANT_NAMES.filter((name) => name !== 'dot' || !/^v2[01]\./.test(process.version));
  it.each(names.flatMap((name) => [false, true].map((threaded) => ({ name, threaded }))))(
    'is passed by $name, threaded: $threaded',
    async ({ name, threaded }) => {
      expect(await selfTest(await openUntested(compileVariant(name, threaded)))).toBeUndefined();
      expect((await chooseVariant(threaded, [name])).refusals).toEqual([]);
    },
  );

  it.each(Object.entries(Op))('fails when %s does nothing', async (_name, op) => {
    const memory = new WebAssembly.Memory({ initial: 32 });
    writeConstants(memory);
    const pool = await Pool.start(memory, compileVariant('simd', false), 1, undefined);
    const lazy = {
      run(listAddress: number, count: number): void {
        const words = new Int32Array(memory.buffer);
        for (let i = 0; i < count; i++) {
          const at = word(listAddress + i * COMMAND_BYTES);
          // A copy of no bytes.
          if (words[at] === op) words.set([Op.COPY, words[at + 1], 0, 0, 0], at);
        }
        pool.run(listAddress, count);
      },
    } as Pool;
    const info = { name: 'wasm', variant: 'simd', nThreads: 1, exact: true, notes: [] };
    expect(await selfTest(new WasmBackend(info, memory, lazy))).toMatch(/does not compute what it should/);
  });
});
