/**
 * Runtimes made to be without SIMD, by a switch of their own: V8 refuses it where the processor lacks SSE 4.1,
 * JavaScriptCore has an option. The kernels without SIMD step in and give the same bits.
 */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Runtime, root, runIn, runtimes, wantRuntime } from './runtimes.ts';

const main = join(root, 'dist/cli/main.js');
const args = ['oracle', 'logits', '--tokens', '1,300,310', '-t', '2'];
const [node20, node26, , bun] = runtimes;

const withoutSimd: readonly Runtime[] = [
  // The switch is one of x86 processors; elsewhere only Bun's is tried.
  ...(process.arch === 'x64' ? [node20, node26].map((one) => ({ ...one, args: ['--no-enable-sse4-1'] })) : []),
  { ...bun, command: 'env', args: ['BUN_JSC_useWasmSIMD=0', bun.command] },
];

describe.each(withoutSimd)('$name without SIMD', (runtime) => {
  it('takes the scalar kernels, says why, and computes the same bits', async () => {
    wantRuntime(node26);
    const usual = await runIn(node20, main, args);
    expect(usual.stderr).not.toContain('kernels');
    const { stdout, stderr } = await runIn(runtime, main, args);
    expect(stdout).toBe(usual.stdout);
    expect(stderr).toMatch(/^note: kernels relaxed not used: .+\nnote: kernels simd not used: .+$/m);
    const stats = await runIn(runtime, main, ['run', '-n', '3', '-t', '2', '--stats']);
    expect(stats.stderr).toContain('wasm scalar+threads, 2 threads');
  }, 60_000);

  it('refuses kernels that it cannot run', async () => {
    const failing = runIn(runtime, main, [...args, '--kernels', 'simd']);
    await expect(failing).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^bitnet: backend-unavailable: backend wasm: kernels simd do not work on this runtime/,
      ),
    });
  }, 60_000);
});
