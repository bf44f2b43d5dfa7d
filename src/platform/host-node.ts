/**
 * Threads and switches of Node, Deno and Bun: all three offer `node:worker_threads`.
 * @module
 */

import type { ThreadHandle, WasmHost } from '../kernels/wasm/host.ts';

export async function createNodeHost(): Promise<WasmHost> {
  const { Worker } = await import('node:worker_threads');
  const cpus = await cpuInfo();
  const major = nodeMajor(process.versions);
  return {
    cores: await physicalCores(cpus),
    kernelOrder: hasFastDot(cpus, major) ? ['dot', 'relaxed', 'simd', 'scalar'] : ['relaxed', 'simd', 'scalar'],
    async enableRelaxedSimd() {
      // V8 of Node 20 knows relaxed SIMD but hides it; the switch works until the module is compiled. Elsewhere the
      // switch is unknown or already on, and V8 ignores what it does not know.
      if (major === undefined || major >= 22) return;
      const { setFlagsFromString } = await import('node:v8');
      setFlagsFromString('--experimental-wasm-relaxed-simd');
    },
    ...(hasWideVectors(major) ? { widenVectors } : {}),
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

/**
 * Whether V8 can be told to join vectors, and does it right. It does so on x86 only; elsewhere it complains of the switch on
 * stderr. The V8 of Node 24 (13.6) then computes denseTopK wrongly in `dot` and `relaxed`, so that only the slower `simd` would
 * be left; 23 and 25 have never been tried.
 */
function hasWideVectors(major: number | undefined): boolean {
  return major !== undefined && process.arch === 'x64' && (major === 22 || major >= 26);
}

async function widenVectors(): Promise<void> {
  const { setFlagsFromString } = await import('node:v8');
  setFlagsFromString('--experimental-wasm-revectorize');
}

/** The version of Node itself; undefined in Deno and Bun, which claim one, too. */
function nodeMajor(versions: Readonly<Record<string, string | undefined>>): number | undefined {
  return versions.deno === undefined && versions.bun === undefined
    ? Number.parseInt(versions.node ?? '', 10)
    : undefined;
}

/**
 * Whether four-way dot products are one instruction: the processor must have it and the runtime must use it. Node 20 has them
 * as a draft defined them, which gives other numbers; JavaScriptCore emulates them.
 */
function hasFastDot(cpus: string, major: number | undefined): boolean {
  const { versions, arch, platform } = process;
  if (versions.bun !== undefined || (major !== undefined && major < 22)) return false;
  if (arch === 'arm64') return true;
  if (arch !== 'x64' || platform !== 'linux') return false; // nothing tells: the safe choice
  return /^flags\b.*\bavx_vnni\b/m.test(cpus);
}

/** What Linux tells of its processors; empty elsewhere. */
async function cpuInfo(): Promise<string> {
  try {
    const { readFile } = await import('node:fs/promises');
    return await readFile('/proc/cpuinfo', 'utf8');
  } catch {
    return ''; // not Linux, or not allowed to look
  }
}

/** Two hardware threads of one core share its vector units: counting them twice only adds waiting at barriers. */
async function physicalCores(info: string): Promise<number> {
  const { availableParallelism, cpus } = await import('node:os');
  const logical = typeof availableParallelism === 'function' ? availableParallelism() : cpus().length;
  const cores = new Set<string>();
  for (const block of info.split('\n\n')) {
    const core = /^core id\s*:\s*(\d+)/m.exec(block)?.[1];
    if (core !== undefined) cores.add(`${/^physical id\s*:\s*(\d+)/m.exec(block)?.[1] ?? ''}:${core}`);
  }
  return cores.size > 0 ? Math.max(1, Math.min(cores.size, logical)) : Math.max(1, logical);
}
