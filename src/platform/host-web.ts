/**
 * Threads of a browser. Shared memory needs a cross-origin isolated page; without it the backend runs on one thread.
 * @module
 */

import type { ThreadHandle, WasmHost } from '../kernels/wasm/host.ts';

export function createWebHost(): WasmHost {
  const isolated = (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated === true;
  if (!isolated || typeof Worker === 'undefined') return { cores: 1 };
  return {
    cores: Math.max(1, Math.floor((navigator.hardwareConcurrency ?? 2) / 2)),
    threads: {
      // Only a page's main thread has a window; it must not block in Atomics.wait.
      ownerMaySleep: typeof window === 'undefined',
      async spawn(script: string, data: unknown): Promise<ThreadHandle> {
        const code = `self.onmessage = (event) => { (${script})(event.data); self.close(); };`;
        const url = URL.createObjectURL(new Blob([code], { type: 'text/javascript' }));
        const worker = new Worker(url);
        worker.postMessage(data);
        return {
          onLost(listener) {
            worker.onerror = (event) => listener(event.message);
          },
          terminate: async () => {
            worker.terminate();
            URL.revokeObjectURL(url);
          },
        };
      },
    },
  };
}
