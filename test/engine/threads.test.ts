/** Threads that die or cannot be had, and memory that is too small: an error or a note each, never a hang. */
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { loadModel } from '../../src/engine/model.ts';
import type { Session } from '../../src/engine/types.ts';
import type { Backend } from '../../src/kernels/interface.ts';
import type { ThreadHandle, WasmHost } from '../../src/kernels/wasm/host.ts';
import { BEATS } from '../../src/kernels/wasm/layout.ts';
import { createWasmBackend } from '../../src/kernels/wasm/open.ts';
import { createNodeHost } from '../../src/platform/host-node.ts';
import { tinyModel } from '../model/models.ts';

let node: WasmHost;
const handles: ThreadHandle[] = [];

/** The real host, which remembers its threads; `change` may alter what they run. */
function hostWith(
  change: (script: string, data: object) => [string, object] = (script, data) => [script, data],
): WasmHost {
  return {
    ...node,
    cores: 4,
    threads: {
      ownerMaySleep: true,
      async spawn(script, data) {
        const handle = await node.threads!.spawn(...change(script, data as object));
        handles.push(handle);
        return handle;
      },
    },
  };
}

beforeAll(async () => {
  node = await createNodeHost();
});

afterEach(() => {
  handles.length = 0;
  vi.unstubAllGlobals();
});

/** Work for all threads; what comes out is 2. */
async function work(backend: Backend): Promise<number> {
  const ones = backend.alloc('f32', [1, 4096]);
  backend.write(ones, new Float32Array(4096).fill(1));
  backend.add(ones, ones, ones, 1);
  return (await backend.read(ones, 4096))[4095];
}

describe('a worker that dies', () => {
  it('between two runs: the next one fails at once, and every one after it', async () => {
    const backend = await createWasmBackend({ threads: 3 }, hostWith());
    expect(await work(backend)).toBe(2);
    await handles[1].terminate();
    const startMs = performance.now();
    await expect(work(backend)).rejects.toMatchObject({ code: 'backend-failed' });
    await expect(work(backend)).rejects.toThrow(/worker 2 ended/);
    await backend.dispose();
    expect(performance.now() - startMs).toBeLessThan(1500);
  });

  it('while others wait for it: the run fails after ten seconds without a heartbeat', async () => {
    const backend = await createWasmBackend({ threads: 3 }, hostWith());
    expect(await work(backend)).toBe(2);
    const startMs = performance.now();
    void handles[0].terminate(); // it is gone before this thread can hear of it
    const failing = work(backend);
    await expect(failing).rejects.toMatchObject({ code: 'backend-failed' });
    await expect(failing).rejects.toThrow(/stopped working/);
    expect(performance.now() - startMs).toBeGreaterThan(9_000);
    await backend.dispose();
    expect(performance.now() - startMs).toBeLessThan(20_000);
  }, 60_000);

  it('by throwing in a kernel: the run fails at once', async () => {
    const throws = (script: string): string => {
      const call = /execute\(data\.thread, data\.nThreads\)/;
      expect(script).toMatch(call);
      return script.replace(call, "(() => { throw new Error('kernel panic'); })()");
    };
    const backend = await createWasmBackend(
      { threads: 3 },
      hostWith((script, data) => [throws(script), data]),
    );
    const startMs = performance.now();
    await expect(work(backend)).rejects.toMatchObject({ code: 'backend-failed' });
    expect(performance.now() - startMs).toBeLessThan(3_000);
    await expect(work(backend)).rejects.toMatchObject({ code: 'backend-failed' });
    await backend.dispose();
  });

  it('before it starts: opening fails at once and says why', async () => {
    const broken = hostWith((script, data) => [script, { ...data, moduleBytes: new Uint8Array(8) }]);
    const startMs = performance.now();
    const opening = createWasmBackend({ threads: 2 }, broken);
    await expect(opening).rejects.toMatchObject({ code: 'backend-failed' });
    await expect(opening).rejects.toThrow(/worker 1 ended: .*magic/i);
    expect(performance.now() - startMs).toBeLessThan(3_000);
  });

  it.each(['relaxed', 'simd', 'scalar'] as const)(
    '%s: every thread gives a heartbeat at every command',
    async (kernels) => {
      let memory: WebAssembly.Memory | undefined;
      const host = hostWith((script, data) => {
        memory = (data as { memory: WebAssembly.Memory }).memory;
        return [script, data];
      });
      const backend = await createWasmBackend({ threads: 3, kernels }, host);
      const beats = () => Array.from(new Int32Array(memory!.buffer, BEATS, 3));
      const before = beats();
      const ones = backend.alloc('f32', [1, 64]);
      for (let i = 0; i < 7; i++) backend.add(ones, ones, ones, 1);
      await backend.read(ones, 1);
      expect(beats()).toEqual(before.map((count) => count + 7));
      await backend.dispose();
    },
  );

  it('a slow worker is waited for as long as it gets on', async () => {
    // 300 heartbeats, 50 ms apart, before it does its share: 15 s, longer than a dead one is waited for.
    const call = /execute\(data\.thread, data\.nThreads\)/;
    const beats = `const beats = new Int32Array(data.memory.buffer, ${BEATS});
      for (let i = 0; i < 300; i++) {
        Atomics.wait(beats, 255, 0, 50); // nobody wakes it
        beats[data.thread]++;
      }`;
    const slow = hostWith((script, data) => {
      expect(script).toMatch(call);
      return [script.replace(call, (run) => `(() => { ${beats} return ${run}; })()`), data];
    });
    const backend = await createWasmBackend({ threads: 2 }, slow);
    const startMs = performance.now();
    expect(await work(backend)).toBe(2);
    expect(performance.now() - startMs).toBeGreaterThan(14_000);
    await backend.dispose();
  }, 60_000);
});

describe('threads that cannot be had', () => {
  it('more than cores: they work, and a note says that they may be slower', async () => {
    const backend = await createWasmBackend({ threads: 4 }, { ...node, cores: 1 });
    expect(backend.info.nThreads).toBe(4);
    expect(backend.info.notes).toEqual(['4 threads on 1 core: the same results, but likely slower than 1']);
    expect(await work(backend)).toBe(2);
    await backend.dispose();
    const fitting = await createWasmBackend({ threads: 2 }, hostWith());
    expect(fitting.info.notes).toEqual([]);
    await fitting.dispose();
  });

  it('no SharedArrayBuffer, or no threads: one thread, and a note if more were asked for', async () => {
    const noThreads: WasmHost = { cores: 4 };
    const two = await createWasmBackend({ threads: 2 }, noThreads);
    expect(two.info).toMatchObject({
      nThreads: 1,
      variant: 'relaxed',
      notes: ['2 threads asked for, 1 used: this runtime offers no threads'],
    });
    expect(await work(two)).toBe(2);
    expect((await createWasmBackend({}, noThreads)).info.notes).toEqual([]);
    vi.stubGlobal('SharedArrayBuffer', undefined);
    const { info } = await createWasmBackend({ threads: 2 }, hostWith());
    expect(info.nThreads).toBe(1);
    expect(info.notes).toEqual(['2 threads asked for, 1 used: this runtime offers no SharedArrayBuffer']);
    expect(handles).toHaveLength(0);
  });

  it('forbidden: an error for who asked for a number, one thread and a note for who did not', async () => {
    const forbidden: WasmHost = {
      ...node,
      cores: 2,
      threads: { ownerMaySleep: true, spawn: () => Promise.reject(new Error('blocked by policy')) },
    };
    await expect(createWasmBackend({ threads: 2 }, forbidden)).rejects.toThrow('blocked by policy');
    const { info } = await createWasmBackend({}, forbidden);
    expect(info.nThreads).toBe(1);
    expect(info.notes).toEqual(['1 thread instead of 2: blocked by policy']);
  });
});

describe.each([1, 2])('memory of 12 MiB, %i threads', (threads) => {
  const open = () => createWasmBackend({ threads }, { ...hostWith(), maxPages: 192 });
  const shape = { nLayers: 4, nHeads: 8, nKvHeads: 2, headDim: 64, kType: 'f16', vType: 'f16' } as const;
  /** Bytes of keys and values a position. */
  const perPosition = 4 * 2 * 64 * 2 * 2;

  it('is not exceeded: an error with the numbers', async () => {
    const backend = await open();
    backend.alloc('f32', [2_000_000]);
    const failing = () => backend.alloc('f32', [2, 1_000_000]);
    expect(failing).toThrow(expect.objectContaining({ code: 'out-of-memory' }));
    expect(failing).toThrow(
      /^buffer \(2, 1000000\): WebAssembly memory cannot grow, expected 8000000 bytes, got 8\d{6} bytes in use, of at most 12582912 \(a smaller/,
    );
    expect(await work(backend)).toBe(2); // what fits goes on working
    await backend.dispose();
  });

  it('tells how long a context could be, which then fits', async () => {
    const backend = await open();
    let message = '';
    try {
      backend.allocKv({ ...shape, contextSize: 100_000 });
    } catch (error) {
      expect(error).toMatchObject({ code: 'out-of-memory' });
      message = String(error);
    }
    const [, needed, free, fits] =
      /context: no room for the keys and values of 100000 positions, expected (\d+) bytes, got (\d+) bytes free of 12582912 \(a context of (\d+) fits\)/.exec(
        message,
      ) ?? [];
    expect(Number(needed)).toBeGreaterThan(100_000 * perPosition);
    expect(Number(free)).toBeLessThan(12582912);
    expect(Number(fits)).toBeGreaterThan(0.9 * (Number(free) / (perPosition + 64 * threads)) - 200);
    // Twice as much does not fit; the answer does, and is no timid guess.
    expect(() => backend.allocKv({ ...shape, contextSize: Math.floor(Number(fits) * 1.1) + 100 })).toThrow(/no room/);
    const kv = backend.allocKv({ ...shape, contextSize: Number(fits) });
    backend.free(kv);
    await backend.dispose();
  });

  it('fails a session or a model, and not the process', async () => {
    const file = await tinyModel({ architecture: 'bitnet-b1.58' });
    const model = await loadModel(file, { backend: open, batchSize: 4 });
    const sessions: Session[] = [];
    const fill = () => {
      for (let i = 0; i < 1000; i++) sessions.push(model.createSession());
    };
    expect(fill).toThrow(expect.objectContaining({ code: 'out-of-memory' }));
    expect(sessions.length).toBeGreaterThan(0);
    await sessions[0].prefill([1, 2, 3]);
    await model.dispose();
    const tooSmall = () => createWasmBackend({ threads }, { ...hostWith(), maxPages: 16 });
    await expect(loadModel(file, { backend: tooSmall })).rejects.toMatchObject({ code: 'out-of-memory' });
  });
});
