/**
 * Threads and switches of Node, Deno and Bun: all three offer `node:worker_threads`.
 * @module
 */

import type { ThreadHandle, WasmHost } from '../kernels/wasm/host.ts';

export async function createNodeHost(): Promise<WasmHost> {
  const { Worker } = await import('node:worker_threads');
  return {
    cores: await physicalCores(),
    // Its four-way dot product is that of a draft: other numbers.
    unfit: isNode20(process.versions) ? ['dot'] : [],
    async enableRelaxedSimd() {
      // V8 of Node 20 knows relaxed SIMD but hides it; the switch works until the module is compiled. Elsewhere the
      // switch is unknown or already on, and V8 ignores what it does not know.
      if (!isNode20(process.versions)) return;
      const { setFlagsFromString } = await import('node:v8');
      setFlagsFromString('--experimental-wasm-relaxed-simd');
    },
    threads: {
      ownerMaySleep: true,
      async spawn(script: string, data: unknown): Promise<ThreadHandle> {
        const code = `(${script})(require('node:worker_threads').workerData)`;
        const worker = new Worker(code, { eval: true, workerData: data, execArgv: [] });
        // A model that nobody disposed of must not keep the process alive.
        worker.unref();
        return {
          onLost(listener) {
            worker.on('error', (error) => listener(error instanceof Error ? error.message : String(error)));
            worker.on('exit', (code) => listener(`exit code ${code}`));
          },
          terminate: async () => {
            await worker.terminate();
          },
        };
      },
    },
  };
}

function isNode20(versions: Readonly<Record<string, string | undefined>>): boolean {
  return versions.deno === undefined && versions.bun === undefined && /^2[01]\./.test(versions.node ?? '');
}

/** Two hardware threads of one core share its vector units: counting them twice only adds waiting at barriers. */
async function physicalCores(): Promise<number> {
  const { availableParallelism, cpus } = await import('node:os');
  const logical = typeof availableParallelism === 'function' ? availableParallelism() : cpus().length;
  try {
    const { readFile } = await import('node:fs/promises');
    const text = await readFile('/proc/cpuinfo', 'utf8');
    const cores = new Set<string>();
    for (const block of text.split('\n\n')) {
      const core = /^core id\s*:\s*(\d+)/m.exec(block)?.[1];
      if (core !== undefined) cores.add(`${/^physical id\s*:\s*(\d+)/m.exec(block)?.[1] ?? ''}:${core}`);
    }
    if (cores.size > 0) return Math.max(1, Math.min(cores.size, logical));
  } catch {
    // Not Linux, or not allowed to look: take what the runtime says.
  }
  return Math.max(1, logical);
}
