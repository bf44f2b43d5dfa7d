/** What the cuda backend refuses and how it fails: with a code, the reason and the next step, and so that the next load works. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { auto, cuda, ts, wasm } from '../../src/engine/backends.ts';
import { BitnetError } from '../../src/errors.ts';
import { loadModel } from '../../src/index.ts';
import { ABI_VERSION, Code } from '../../src/kernels/cuda/abi.ts';
import type { NativeLibrary } from '../../src/kernels/cuda/host.ts';
import { createCudaBackend } from '../../src/kernels/cuda/open.ts';
import { synthesized } from '../../src/oracle/kit/models.ts';
import { root } from '../runtime/runtimes.ts';
import { compiledLibrary } from './compiled.ts';
import { refusal } from './refusal.ts';
import { ILLEGAL_ADDRESS, OUT_OF_MEMORY, onShim, SHIM_MEMORY, shim, shimPath, watched } from './shim.ts';

const scratch = mkdtempSync(join(tmpdir(), 'bitnet-cuda-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('without a library', () => {
  afterEach(() => vi.unstubAllEnvs());

  it('says where it was looked for, and how it is made', async () => {
    const nowhere = join(scratch, 'nowhere.so');
    expect(await refusal(cuda({ library: nowhere }))).toEqual([
      'backend-unavailable',
      `backend cuda: there is no library where the option library says, got no file ${nowhere} (bitnet build-cuda makes it; it needs nvcc, not a GPU)`,
    ]);
    vi.stubEnv('BITNET_CUDA_LIBRARY', nowhere);
    expect((await refusal(cuda()))[1]).toBe(
      `backend cuda: there is no library where BITNET_CUDA_LIBRARY says, got no file ${nowhere} (bitnet build-cuda makes it; it needs nvcc, not a GPU)`,
    );
    // Never in the folders of the system.
    for (const name of ['libc.so.6', './some/lib.so']) {
      expect((await refusal(cuda({ library: name })))[1]).toContain(`got no file ${resolve(name)} (`);
    }
    expect((await refusal(cuda({ library: join(scratch, 'else.so') })))[1]).toContain('else.so');
  });

  it('does not take a file that is no library, nor a library that is another', async () => {
    const text = join(scratch, 'text.so');
    writeFileSync(text, 'no library');
    const [code, message] = await refusal(cuda({ library: text }));
    expect(code).toBe('backend-unavailable');
    expect(message).toMatch(/^backend cuda: .*text\.so cannot be loaded, got .+ \(build it again on this machine/);
    // There, and no folder, but it cannot be read.
    expect((await refusal(cuda({ library: '/proc/self/mem' })))[1]).toMatch(
      /\/proc\/self\/mem cannot be read, got .+ \(who runs this has to read it\)$/,
    );
  });

  // Where one is built, that one is taken.
  it.skipIf(existsSync(join(root, 'dist/kernels/cuda/libbitnet-cuda.so')))(
    'takes an empty BITNET_CUDA_LIBRARY for none, and says where it may not look at it',
    async () => {
      const built = join(root, 'dist/kernels/cuda/libbitnet-cuda.so');
      const [what, makes] = [`the library is not built, got no file ${built}`, 'bitnet build-cuda makes it'];
      const message = `backend cuda: ${what} (${makes}; it needs nvcc, not a GPU)`;
      vi.stubEnv('BITNET_CUDA_LIBRARY', '');
      expect(await refusal(cuda())).toEqual(['backend-unavailable', message]);
      const env = Object.getOwnPropertyDescriptor(process, 'env')!;
      const denied = () => {
        throw new Error('NotCapable'); // as in Deno
      };
      const hidden = async (options?: { library: string }) => {
        Object.defineProperty(process, 'env', { configurable: true, get: denied });
        try {
          return (await refusal(cuda(options)))[1];
        } finally {
          Object.defineProperty(process, 'env', env);
        }
      };
      expect(await hidden()).toBe(message.replace(/\)$/, '; BITNET_CUDA_LIBRARY is read with --allow-env)'));
      expect(await hidden({ library: built })).not.toContain('--allow-env');
    },
  );

  it('is never chosen by itself', async () => {
    vi.stubEnv('BITNET_CUDA_LIBRARY', shimPath ?? '');
    const backend = await auto({ threads: 1 })();
    expect(backend.info.name).toBe('wasm');
    expect(backend.info.notes).toEqual([]);
    await backend.dispose();
  });

  it('has devices, and the others have none', async () => {
    const file = new Uint8Array(4);
    for (const backend of ['wasm', 'ts', undefined, ts()] as const) {
      const [code, message] = await refusal(() => loadModel(file, { backend, device: 1 }));
      expect([code, message]).toEqual(['bad-argument', expect.stringContaining('only the cuda backend has devices')]);
    }
    for (const device of [-1, 0.5, Number.NaN, 1024]) {
      expect((await refusal(cuda({ device })))[1]).toContain(
        'backend cuda: device: not the number of a device, expected an integer from 0 to 1023',
      );
    }
    expect((await refusal(cuda({ device: 1023, library: '/nowhere' })))[1]).toContain('no library');
    const [code, message] = await refusal(() => loadModel(file, { backend: 'cuda', kernels: 'simd' }));
    expect([code, message]).toEqual(['bad-argument', expect.stringContaining('only the wasm backend has kernels')]);
  });
});

describe.skipIf(shimPath === undefined)('with a library', () => {
  it('takes only one of its own version', async () => {
    const older = compiledLibrary(
      scratch,
      'older',
      `extern "C" int bn_abi_version(void) { return ${ABI_VERSION + 1}; }`,
    );
    expect(await refusal(cuda({ library: older }))).toEqual([
      'backend-unavailable',
      `backend cuda: ${older} was built for another version of bitnet-ts, expected ABI version ${ABI_VERSION}, got ${ABI_VERSION + 1} (build it again: bitnet build-cuda)`,
    ]);
    const other = compiledLibrary(scratch, 'other', 'extern "C" int something(void) { return 1; }');
    expect(await refusal(cuda({ library: other }))).toEqual([
      'backend-unavailable',
      `backend cuda: ${other} is not the CUDA library of bitnet-ts (build it again: bitnet build-cuda)`,
    ]);
  });

  it.each([
    ['driver', 0, 'no NVIDIA driver on this machine (install or update the NVIDIA driver'],
    ['driver', 11080, 'the driver is for CUDA 11.8, expected 13.0 or newer (install or update'],
    ['devices', 0, 'no CUDA device on this machine'],
    ['compute', 75, 'compute capability 7.5, expected 8.0 or more'],
  ])('says what is wrong with %s %i', async (name, value, message) => {
    const normal = { driver: 13000, devices: 1, compute: 90 }[name] ?? 0;
    shim(name, value);
    try {
      const [code, text] = await refusal(onShim);
      expect(code).toBe('backend-unavailable');
      expect(text).toMatch(/^backend cuda: /);
      expect(text).toContain(message);
    } finally {
      shim(name, normal);
    }
    await (await onShim()).dispose();
  });

  it('says that another program has the memory, and lets go of the device where that does not tell what it is', async () => {
    shim('memory', 1000);
    const refused = await refusal(onShim);
    shim('memory', SHIM_MEMORY);
    expect(refused).toEqual(['out-of-memory', expect.stringMatching(/ \(another program may hold the memory of the/)]);
    for (const [code, word] of [
      [Code.CUDA, 'backend-failed'],
      [Code.ARGUMENT, 'bad-argument'],
    ] as const) {
      const calls: string[] = [];
      const library: NativeLibrary = {
        path: 'x',
        find: (prototype) => () => {
          const name = /bn_\w+/.exec(prototype)?.[0] ?? '';
          calls.push(name);
          if (name === 'bn_message') return 'gone';
          return name === 'bn_abi_version' ? ABI_VERSION : name === 'bn_info' ? code : Code.OK;
        },
      };
      const opening = createCudaBackend({}, { loadLibrary: async () => library });
      expect((await refusal(() => opening))[0]).toBe(word);
      expect(calls.filter((name) => name === 'bn_close')).toHaveLength(1);
    }
  });

  it('names the devices that there are', async () => {
    const [code, text] = await refusal(cuda({ library: shimPath, device: 3 }));
    expect([code, text]).toEqual(['backend-unavailable', expect.stringContaining('no device 3, expected 0 to 0')]);
  });
});

describe.skipIf(shimPath === undefined)('when there is not enough memory', () => {
  beforeEach(() => shim('memory', 24 << 20));
  afterEach(() => shim('memory', SHIM_MEMORY));

  it('refuses a model before any of its weights is read, with all numbers', async () => {
    const file = await synthesized({ preset: 'tiny', architecture: 'bitnet-b1.58' });
    shim('memory', 1 << 20);
    const seen: string[] = [];
    const options = { backend: onShim, onProgress: ({ tensor }: { tensor: string }) => seen.push(tensor) };
    const [code, message] = await refusal(() => loadModel(file, options));
    expect(code).toBe('out-of-memory');
    expect(message).toMatch(
      /does not fit into the memory of backend cuda, expected at most 0\.00 GiB \(\d+ bytes\), got/,
    );
    expect(message).toMatch(/projections and norms .*, embedding and head .*, KV cache of \d+ positions .*, scratch/);
    expect(seen).toEqual([]);
    shim('memory', SHIM_MEMORY);
    await (await loadModel(file, { backend: onShim })).dispose();
  });

  it('tells how long a context may be, and goes on', async () => {
    const backend = await onShim();
    const shape = { nLayers: 4, nHeads: 4, nKvHeads: 2, headDim: 64, kType: 'f32', vType: 'f32' } as const;
    const [code, message] = await refusal(() => backend.allocKv({ ...shape, contextSize: 10_000 }));
    expect(code).toBe('out-of-memory');
    expect(message).toMatch(/^context: no room for the keys and values of 10000 positions, expected 40960000 bytes/);
    const fits = Number(/a context of (\d+) fits/.exec(message)?.[1]);
    expect(fits).toBe(Math.floor(backend.rehearse!().capacityBytes / (4 * 2 * 64 * 8)));
    expect(backend.memory().usedBytes).toBe(0); // of two buffers none was kept
    backend.free(backend.allocKv({ ...shape, contextSize: fits }));
    expect((await refusal(() => backend.alloc('f32', [1 << 24])))[1]).toMatch(
      /^backend cuda: buffer \(16777216\): not enough device memory, expected 67108864 bytes, got \d+ free of \d+/,
    );
    await backend.dispose();
  });

  it('gives a matrix back that did not arrive', async () => {
    const backend = await onShim();
    const matrix = { name: 'm', kind: 'ternary', rows: 4, columns: 128, byteLength: 128 } as const;
    const broken = { ...matrix, fill: () => Promise.reject(new BitnetError('io', 'gone')) };
    expect((await refusal(() => backend.upload(broken)))[0]).toBe('io');
    const q8 = {
      name: 'q8',
      kind: 'dense',
      dtype: 'Q8_0',
      rows: 4096,
      columns: 4096,
      byteLength: 4096 * 128 * 34,
    } as const;
    const filled = { ...q8, fill: async () => 1 };
    expect(await refusal(() => backend.upload(filled))).toEqual([
      'out-of-memory',
      expect.stringMatching(/staging of q8|^backend cuda: q8/),
    ]);
    expect(backend.memory().usedBytes).toBe(0);
    await backend.upload({ ...matrix, fill: async () => 1 });
    await backend.dispose();
  });

  it('goes on after it was missing in the middle of a step', async () => {
    shim('memory', SHIM_MEMORY);
    const file = await synthesized({ preset: 'tiny', architecture: 'llama' });
    const model = await loadModel(file, { backend: onShim });
    const expected = await model.createSession().prefill([1, 2, 3]);
    const session = model.createSession();
    let failures = 0;
    for (let after = 0; after < 12; after++) {
      shim('failWith', OUT_OF_MEMORY);
      shim('failAfter', after);
      const failed = await session.prefill([1, 2, 3]).catch((error: unknown) => error);
      shim('failAfter', -1);
      if (failed instanceof BitnetError && failed.code === 'out-of-memory') failures++;
      else expect(failed).toEqual(expected);
      session.rewind(0);
    }
    expect(failures).toBeGreaterThan(0);
    expect(await session.prefill([1, 2, 3])).toEqual(expected);
    await model.dispose();
  });
});

describe.skipIf(shimPath === undefined)('after its end', () => {
  it('refuses everything but being disposed of again', async () => {
    const backend = await onShim();
    const [buf, q] = [backend.alloc('f32', [2, 128]), backend.allocQuantized(2, 128)];
    backend.add(buf, buf, buf, 2);
    await backend.dispose();
    for (const act of [
      () => backend.alloc('f32', [1]),
      () => backend.allocQuantized(1, 1),
      () => backend.rehearse?.(),
      () => backend.add(buf, buf, buf, 2),
      () => backend.quantizeRows(q, buf, 2),
      () => backend.write(buf, new Float32Array(1)),
      () => backend.write(buf, new Float32Array(0)),
      () => backend.read(buf, 0),
      () => backend.readQuantized(q, 1),
      () =>
        backend.upload({
          name: 'm',
          kind: 'ternary',
          rows: 1,
          columns: 1,
          byteLength: 32,
          fill: async () => 1,
        }),
    ]) {
      expect(await refusal(act), act.toString()).toEqual(['disposed', 'backend cuda: the backend was disposed']);
    }
    backend.free(buf);
    await backend.dispose();
  });

  it('takes nothing of another backend', async () => {
    const [one, two] = [await onShim(), await onShim()];
    const wasmBackend = await wasm({ threads: 1 })();
    const shape = {
      nLayers: 1,
      nHeads: 1,
      nKvHeads: 1,
      headDim: 4,
      contextSize: 4,
      kType: 'f32',
      vType: 'f32',
    } as const;
    const matrix = { name: 'm', kind: 'dense', dtype: 'F32', rows: 1, columns: 4, byteLength: 16 } as const;
    const mine = one.alloc('f32', [1, 4]);
    await one.upload({ ...matrix, fill: async () => 1 }); // so that the handles of others are good ones here
    for (const other of [two, wasmBackend]) {
      const buf = other.alloc('f32', [1, 4]);
      const kv = other.allocKv(shape);
      const weight = await other.upload({ ...matrix, fill: async () => 1 });
      for (const act of [
        () => one.add(mine, buf, mine, 1),
        () => one.add(buf, mine, mine, 1),
        () => one.quantizeRows(other.allocQuantized(1, 4), mine, 1),
        () => one.attention(mine, mine, { kv, row: 0, count: 1, position: 0 }, 0, 1),
        () => one.denseMatmul(mine, weight, mine, 1),
        () => one.free(buf),
        () => one.free(kv),
        () => one.read(buf, 1),
      ]) {
        expect(await refusal(act)).toEqual(['bad-argument', expect.stringMatching(/of another backend$/)]);
      }
    }
    for (const backend of [one, two, wasmBackend]) await backend.dispose();
  });

  it('refuses what does not fit', async () => {
    const backend = await onShim();
    const [floats, ids] = [backend.alloc('f32', [2, 4]), backend.alloc('i32', [4])];
    const kv = backend.allocKv({
      nLayers: 1,
      nHeads: 1,
      nKvHeads: 1,
      headDim: 4,
      contextSize: 4,
      kType: 'f32',
      vType: 'f32',
    });
    expect((await refusal(() => backend.write(floats, new Float32Array(9))))[1]).toContain('expected at most 8 values');
    expect((await refusal(() => backend.write(floats, new Int32Array(1))))[1]).toContain('got 1 of i32');
    expect((await refusal(() => backend.read(floats, 9)))[1]).toContain('expected at most 8 values');
    expect((await refusal(() => backend.read(ids, 1)))[1]).toContain('got 1 of i32');
    const beyond = { kv, row: 0, count: 2, position: 3 };
    expect((await refusal(() => backend.kvAppend(beyond, 0, floats, floats)))[0]).toBe('context-full');
    // The library itself looks at what an op reaches; the backend is still good after that.
    backend.scale(floats, floats, 2, 3);
    expect(await refusal(() => backend.read(floats, 8))).toEqual([
      'bad-argument',
      expect.stringMatching(/^backend cuda: scale \(command 0\): .*elements 0 \.\. 12 of a buffer of 8/),
    ]);
    backend.write(floats, new Float32Array(8).fill(3));
    expect(await backend.read(floats, 8)).toEqual(new Float32Array(8).fill(3));
    backend.kvAppend({ ...beyond, position: 2 }, 0, floats, floats); // to the very end
    expect((await backend.readKv(kv, 0, 2, 2)).v).toEqual(new Float32Array(8).fill(3));
    for (const nothing of [backend.alloc('f32', [0, 4]), backend.allocQuantized(0, 128)]) backend.free(nothing);
    expect(await refusal(() => backend.allocKv({ ...kv.shape, contextSize: 0 }))).toEqual([
      'bad-argument',
      'backend cuda: alloc: nothing to take',
    ]);
    const matrix = { name: 'm', kind: 'ternary', rows: 4, columns: 128, byteLength: 128 } as const;
    const weight = await backend.upload({ ...matrix, fill: async () => 1 });
    expect(await refusal(() => backend.ternaryMatmul(floats, weight, backend.allocQuantized(2, 256), 1))).toEqual([
      'bad-argument',
      'm: activations do not fit the weight, expected 128 columns, got 256',
    ]);
    await backend.dispose();
  });
});

describe.skipIf(shimPath === undefined)('when the device fails', () => {
  it('says so for ever, holds no memory, and the next load works', async () => {
    const file = await synthesized({ preset: 'tiny', architecture: 'bitnet-b1.58' });
    const { backend, device, calls } = await watched();
    const model = await loadModel(file, { backend: async () => backend });
    const [session, other] = [model.createSession(), model.createSession()];
    const expected = await session.prefill([1, 2, 3]);
    shim('failWith', ILLEGAL_ADDRESS);
    shim('failAfter', 5);
    const first = await refusal(async () => {
      for (let i = 0; i < 9; i++) await session.step(4 + i);
    });
    shim('failAfter', -1);
    expect(first[0]).toBe('backend-failed');
    expect(first[1]).toMatch(
      /^backend cuda: the device failed, .*got .*cudaErrorIllegalAddress.*\(load the model again\)$/,
    );
    expect(calls.at(-1)?.name).toBe('bn_close');
    expect(device.isOpen).toBe(false);
    expect(await refusal(() => other.step(1))).toEqual(first);
    expect(await refusal(() => backend.alloc('f32', [1]))).toEqual(first);
    await model.dispose(); // frees caches that are no more
    const again = await loadModel(file, { backend: onShim });
    expect(await again.createSession().prefill([1, 2, 3])).toEqual(expected);
    await again.dispose();
  });

  it('fails while loading as well', async () => {
    const file = await synthesized({ preset: 'tiny', architecture: 'llama' });
    let failures = 0;
    for (let after = 0; after < 60; after += 6) {
      shim('failWith', ILLEGAL_ADDRESS);
      shim('failAfter', after);
      const model = await loadModel(file, { backend: onShim }).catch((error: unknown) => error);
      shim('failAfter', -1);
      if (model instanceof BitnetError) {
        expect(model.code).toBe('backend-failed');
        failures++;
      } else await (model as Awaited<ReturnType<typeof loadModel>>).dispose();
      await (await onShim()).dispose();
    }
    expect(failures).toBeGreaterThan(3);
  });
});
