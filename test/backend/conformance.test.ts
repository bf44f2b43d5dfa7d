/**
 * Every case of the conformance suite on every build of the wasm backend, with one and with several threads.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { conformanceCases, expectedOutputs, runConformance } from '../../src/kernels/conformance/run.ts';
import type { Backend } from '../../src/kernels/interface.ts';
import type { VariantName } from '../../src/kernels/wasm/host.ts';
import { createWasmBackend } from '../../src/kernels/wasm/open.ts';
import { createNodeHost } from '../../src/platform/host-node.ts';

/** Node 20 computes another thing in `dot`, which its self-test finds out; see the test of variants. */
const variants: readonly VariantName[] = isNode20()
  ? ['scalar', 'simd', 'relaxed']
  : ['scalar', 'simd', 'relaxed', 'dot'];

function isNode20(): boolean {
  return /^v2[01]\./.test(process.version);
}

/** The same for all builds: computed once. */
const cases = conformanceCases();
const expected = expectedOutputs(cases);

describe.each(variants.flatMap((variant) => [1, 2, 3].map((threads) => ({ variant, threads }))))(
  'wasm $variant, $threads threads',
  ({ variant, threads }) => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await createWasmBackend({ threads, kernels: variant }, await createNodeHost());
    });
    afterAll(() => backend.dispose());

    it('runs the variant that was asked for', () => {
      expect(backend.info.variant).toBe(threads > 1 ? `${variant}+threads` : variant);
      expect(backend.info.nThreads).toBe(threads);
    });

    it('agrees with the ts backend bit for bit', async () => {
      const outcomes = await runConformance(backend, cases, await expected);
      expect(outcomes.length).toBe(cases.length);
      expect(outcomes.filter((outcome) => !outcome.ok)).toEqual([]);
    }, 120_000);
  },
);
