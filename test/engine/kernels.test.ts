/** Which build of the kernels is taken, on runtimes that refuse some or compute wrongly, and what is said about it. */
import { afterEach, describe, expect, it } from 'vitest';
import { auto, type KernelsChoice, surveyKernels, ts, wasm } from '../../src/engine/backends.ts';
import { loadModel } from '../../src/engine/model.ts';
import type { BackendInfo } from '../../src/kernels/interface.ts';
import { Op } from '../../src/kernels/wasm/commands.ts';
import type { VariantName } from '../../src/kernels/wasm/host.ts';
import { COMMAND_BYTES, LIST_ADDRESS, LIST_COUNT, word } from '../../src/kernels/wasm/layout.ts';
import * as generated from '../../src/kernels/wasm/module.generated.ts';
import { detectPlatform } from '../../src/platform/detect.ts';

const { Module, Instance } = WebAssembly;

/** Where four-way dot products are fast (`WasmHost.kernelOrder`), the build `dot` comes before the others. */
const { kernelOrder = [] } = await detectPlatform().wasmHost();
const notesOf = (info: BackendInfo) => info.notes.filter((note) => !note.startsWith('kernels dot '));

/**
 * A runtime that does not take some builds, and none with `dot`, and whose code for an op of others does nothing.
 */
function pretend(refused: readonly VariantName[], wrong: Partial<Record<VariantName, Op>> = {}): void {
  const names = new Map<string, VariantName>();
  for (const [name, base64] of Object.entries(generated))
    names.set(base64, name.split('_')[0].toLowerCase() as VariantName);
  const nameOf = new WeakMap<WebAssembly.Module, VariantName>();
  WebAssembly.Module = new Proxy(Module, {
    construct(target, [bytes]: [Uint8Array<ArrayBuffer>]) {
      const name = names.get(Buffer.from(bytes).toString('base64'));
      if (name !== undefined && ['dot', ...refused].includes(name))
        throw new WebAssembly.CompileError('unknown instruction');
      const module = new target(bytes);
      if (name !== undefined) nameOf.set(module, name);
      return module;
    },
  });
  WebAssembly.Instance = new Proxy(Instance, {
    construct(target, [module, imports]: [WebAssembly.Module, { env: { memory: WebAssembly.Memory } }]) {
      const { exports } = new target(module, imports);
      const op = wrong[nameOf.get(module) as VariantName];
      const run = exports.execute as (thread: number, nThreads: number) => number;
      const execute = (thread: number, nThreads: number) => {
        const words = new Int32Array(imports.env.memory.buffer);
        for (let i = 0; i < words[word(LIST_COUNT)]; i++) {
          const at = word(words[word(LIST_ADDRESS)] + i * COMMAND_BYTES);
          if (words[at] === op) words.set([Op.COPY, words[at + 1], 0, 0, 0], at); // a copy of no bytes
        }
        return run(thread, nThreads);
      };
      return { exports: { ...exports, execute } };
    },
  });
}

afterEach(() => {
  WebAssembly.Module = Module;
  WebAssembly.Instance = Instance;
});

describe('the choice of kernels', () => {
  it('is the first that the host suggests', async () => {
    const { info } = await wasm({ threads: 1 })();
    expect(kernelOrder.slice(-3)).toEqual(['relaxed', 'simd', 'scalar']);
    expect(info.variant).toBe(kernelOrder[0]);
    expect(info.notes).toEqual([]);
  });

  it('goes on to the next where one does not compile, and says so', async () => {
    pretend(['relaxed', 'simd']);
    const { info } = await wasm({ threads: 1 })();
    expect(info.variant).toBe('scalar');
    expect(notesOf(info)).toEqual([
      'kernels relaxed not used: unknown instruction',
      'kernels simd not used: unknown instruction',
    ]);
  });

  it('passes over a build that computes wrongly, and says so', async () => {
    pretend([], { relaxed: Op.ROPE });
    const { info } = await wasm({ threads: 1 })();
    expect(info.variant).toBe('simd');
    expect(notesOf(info)).toEqual(['kernels relaxed not used: self-test failed: rope does not compute what it should']);
  });

  it('is the ts backend where none works, with every reason', async () => {
    pretend(['relaxed', 'scalar'], { simd: Op.ADD });
    await expect(wasm({ threads: 1 })()).rejects.toMatchObject({ code: 'backend-unavailable' });
    const { info } = await auto({ threads: 1 })();
    expect(info.name).toBe('ts');
    expect(info.notes.join()).toMatch(/relaxed: unknown instruction; simd: self-test failed: add .*; scalar: unknown/);
  });

  it('can be forced', async () => {
    for (const kernels of ['relaxed', 'simd', 'scalar'] as const) {
      expect((await wasm({ threads: 1, kernels })()).info.variant).toBe(kernels);
    }
  });

  it('can be the fastest', async () => {
    // Which of the two it is depends on the processor.
    expect((await wasm({ threads: 1, kernels: 'fastest' })()).info.variant).toMatch(/^(dot|relaxed|simd)$/);
    pretend(['simd'], { relaxed: Op.COPY });
    const { info } = await wasm({ threads: 1, kernels: 'fastest' })();
    expect(info.variant).toBe('scalar');
    expect(notesOf(info)).toHaveLength(2);
  });

  it('does not fall back from what was forced', async () => {
    pretend(['relaxed'], { simd: Op.ADD });
    for (const kernels of ['relaxed', 'simd'] as const) {
      for (const open of [wasm, auto]) {
        const opening = open({ threads: 1, kernels })();
        await expect(opening).rejects.toMatchObject({ code: 'backend-unavailable' });
        await expect(opening).rejects.toThrow(kernels === 'relaxed' ? /unknown instruction/ : /self-test failed: add/);
      }
    }
  });

  it('refuses names that do not exist, and kernels for other backends', async () => {
    const kernels = 'avx512' as KernelsChoice;
    const bad = wasm({ kernels })();
    await expect(bad).rejects.toMatchObject({ code: 'bad-argument' });
    await expect(bad).rejects.toThrow('expected dot, relaxed, simd, scalar, fastest, got avx512');
    for (const backend of ['ts', ts()] as const) {
      const loading = loadModel(new Uint8Array(8), { backend, kernels: 'simd' });
      await expect(loading).rejects.toMatchObject({ code: 'bad-argument' });
      await expect(loading).rejects.toThrow('only the wasm backend has kernels to choose');
    }
  });
});

describe('the survey of kernels', () => {
  it('tells what does not compile and what computes wrongly, and times the rest', async () => {
    pretend(['relaxed'], { simd: Op.KV_APPEND });
    const { variants, chosen } = await surveyKernels();
    const [, relaxed, simd, scalar] = variants;
    expect(chosen).toBe('scalar');
    expect(relaxed).toMatchObject({ name: 'relaxed', refused: 'unknown instruction', kernels: [] });
    expect(simd.refused).toBeUndefined();
    expect(simd.kernels.filter(({ fault }) => fault !== undefined).map(({ op }) => op)).toEqual(['attention']);
    expect(simd.kernels.find(({ op }) => op === 'attention')?.fault).toMatch(/expected .*, got /);
    expect(simd.vectorGmacs).toBeUndefined();
    expect(scalar.kernels.length).toBe(19);
    expect(scalar.kernels.every(({ fault }) => fault === undefined)).toBe(true);
    expect(scalar.vectorGmacs).toBeGreaterThan(0.1);
    expect(scalar.promptGmacs).toBeGreaterThan(0.1);
  }, 120_000);
});
