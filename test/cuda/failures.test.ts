/**
 * The cuda backend when things go wrong for whoever runs it: files that are no library, memory that ends in the middle, a card that
 * fails or is shared, programs that are killed. Everywhere the same is wanted: a code and a next step, a clean stdout, the exit
 * status, no memory left, and the next load works. (`refusals.test.ts` has the backend's own refusals.)
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { cuda } from '../../src/engine/backends.ts';
import { BitnetError } from '../../src/errors.ts';
import { type LoadOptions, loadModel, type Model } from '../../src/index.ts';
import { ABI_VERSION, PROTOTYPES } from '../../src/kernels/cuda/abi.ts';
import { synthesized } from '../../src/oracle/kit/models.ts';
import { root, runIn, runtimes } from '../runtime/runtimes.ts';
import { compiledLibrary } from './compiled.ts';
import { refusal } from './refusal.ts';
import { ILLEGAL_ADDRESS, OUT_OF_MEMORY, onShim, SHIM_MEMORY, shim, shimPath } from './shim.ts';

vi.setConfig({ testTimeout: 120_000 });

const main = join(root, 'dist/cli/main.js');
const scratch = mkdtempSync(join(tmpdir(), 'bitnet-cuda-'));
const tiny = join(scratch, 'tiny.gguf');
let file: Uint8Array = new Uint8Array();

beforeAll(async () => {
  file = await synthesized({ preset: 'tiny', architecture: 'bitnet-b1.58' });
  writeFileSync(tiny, file);
});
afterAll(() => rmSync(scratch, { recursive: true }));

/** Of the device, as the next program finds it. */
async function freeBytes(): Promise<number> {
  const backend = await onShim();
  const capacity = backend.rehearse?.().capacityBytes ?? 0;
  await backend.dispose();
  return capacity;
}

interface Outcome {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly out: string;
  /** The last line of stderr. */
  readonly last: string;
  readonly err: string;
}

/** `bitnet ...args` on the shim with knobs, such as `memory=1000000`. */
function bitnet(
  knobs: string,
  args: readonly string[],
  meanwhile?: (child: ChildProcess, out: string) => void,
): Promise<Outcome> {
  const env = { ...process.env, BITNET_CUDA_LIBRARY: shimPath, BITNET_SHIM_KNOBS: knobs, NO_COLOR: '1' };
  const child = spawn(process.execPath, ['--import', join(root, 'test/cuda/knobs.mjs'), main, ...args], { env });
  let [out, err] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => {
    out += text;
    meanwhile?.(child, out);
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    err += text;
  });
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      resolve({ code, signal, out, err, last: err.trim().split('\n').at(-1) ?? '' });
    });
  });
}

const tell = (...more: string[]) => ['run', '-m', tiny, '-p', 'x', '--seed', '1', '--backend', 'cuda', ...more];

describe.skipIf(shimPath === undefined)('what is no library', () => {
  const bytes = shimPath === undefined ? Buffer.alloc(0) : readFileSync(shimPath);

  function written(name: string, content: Uint8Array): string {
    const path = join(scratch, name);
    writeFileSync(path, content);
    return path;
  }

  /** The e_machine of an ELF header: 62 is x86-64, 183 is AArch64. */
  function ofAnotherMachine(): Buffer {
    const other = Buffer.from(bytes);
    other.writeUInt16LE(other.readUInt16LE(18) === 183 ? 62 : 183, 18);
    return other;
  }

  it.each([
    ['an empty file', () => Buffer.alloc(0)],
    ['a download that is a web page', () => Buffer.from('<!doctype html><title>404</title>')],
    ['the beginning of one', () => bytes.subarray(0, 40)],
    ['one of another machine', ofAnotherMachine],
  ])('%s', async (name, content) => {
    const path = written(`${name.replaceAll(' ', '-')}.so`, content());
    const [code, message] = await refusal(cuda({ library: path }));
    expect(code).toBe('backend-unavailable');
    expect(message).toContain(`backend cuda: ${path} cannot be loaded, got `);
    expect(message).toContain('(build it again on this machine: bitnet build-cuda)');
  });

  it.each([0.01, 0.1, 0.5, 0.99])(
    'the first %d of one, which would end the process when it is loaded',
    async (part) => {
      const path = written('cut.so', bytes.subarray(0, Math.floor(bytes.length * part)));
      expect(await refusal(cuda({ library: path }))).toEqual([
        'backend-unavailable',
        expect.stringMatching(
          /cut\.so is cut off, expected \d+ bytes, got \d+ \(copy it again, or build it again: bitnet/,
        ),
      ]);
    },
  );

  // The end is where the table of sections ends, three entries of 64 bytes; but the headers of other machines are laid out otherwise.
  it.each([
    ['a header that promises a byte more', 2, 1, 1191, 'is cut off, expected 1192 bytes, got 1191 ('],
    ['one that promises what is there', 2, 1, 1192, 'cannot be loaded, got '],
    ['one of 32 bits', 1, 1, 100, 'cannot be loaded, got '],
    ['one of the other byte order', 2, 2, 100, 'cannot be loaded, got '],
  ])('%s', async (_, bits, order, length, words) => {
    const header = Buffer.alloc(length);
    header.set([0x7f, 0x45, 0x4c, 0x46, bits, order]);
    header.writeBigUInt64LE(1000n, 40);
    header.writeUInt16LE(64, 58);
    header.writeUInt16LE(3, 60);
    expect(await refusal(cuda({ library: written('header.so', header) }))).toEqual([
      'backend-unavailable',
      expect.stringContaining(`header.so ${words}`),
    ]);
  });

  it('a folder', async () => {
    const folder = join(scratch, 'folder.so');
    mkdirSync(folder);
    const [code, message] = await refusal(cuda({ library: folder }));
    expect(code).toBe('backend-unavailable');
    expect(message).toContain(`got ${folder}, which is no file (bitnet build-cuda makes it`);
  });

  it('one of this version without one of its functions', async () => {
    const functions = Object.keys(PROTOTYPES).filter((name) => name !== 'bn_abi_version' && name !== 'bn_pack_dense');
    const code = [
      `extern "C" int bn_abi_version(void) { return ${ABI_VERSION}; }`,
      ...functions.map((name) => `extern "C" int ${name}(void) { return 0; }`),
    ].join('\n');
    const path = compiledLibrary(scratch, 'between', code);
    expect(await refusal(cuda({ library: path }))).toEqual([
      'backend-unavailable',
      `backend cuda: ${path} was built for another version of bitnet-ts, got no function bn_pack_dense (build it again: bitnet build-cuda)`,
    ]);
  });
});

describe.skipIf(shimPath === undefined)('what Deno does not allow', () => {
  const deno = runtimes.find(({ name }) => name === 'deno')!;
  const story = (...allowed: string[]) =>
    runIn({ ...deno, args: ['run', '--no-lock', '--no-prompt', ...allowed] }, 'test/cuda/story.mjs', [shimPath ?? '']);

  it('is named, and no more is asked for than it takes', async () => {
    expect(JSON.parse((await story('--allow-read', '--allow-ffi')).stdout)).toMatchObject({ backend: 'cuda' });
    expect(JSON.parse((await story('--allow-read')).stdout)).toMatchObject({
      code: 'backend-unavailable',
      message: expect.stringMatching(/Requires ffi access .* \(deno run --allow-read --allow-env --allow-ffi\)$/),
    });
  });
});

describe.skipIf(shimPath === undefined)('when memory ends', () => {
  afterEach(() => {
    shim('memory', SHIM_MEMORY);
    shim('failAfter', -1);
  });

  it('a model larger than the card is refused with the numbers and the context that would fit', async () => {
    const { code, out, last } = await bitnet('memory=17000000', tell('-n', '3', '-b', '128'));
    expect([code, out]).toEqual([1, '']);
    expect(last).toMatch(
      /^bitnet: out-of-memory: .*tiny\.gguf: does not fit into the memory of backend cuda, expected/,
    );
    const [, context = '', batch = ''] =
      /\(a context of (\d+) positions would fit: -c, or planFor\.contextSize; a batch of (\d+) tokens would fit: -b, or batchSize\)$/.exec(
        last,
      ) ?? [];
    for (const way of [
      ['-b', '128', '-c', context],
      ['-b', batch],
    ]) {
      const again = await bitnet('memory=17000000', tell('-n', '3', ...way));
      expect([again.code, again.last]).toEqual([0, expect.stringContaining('generated 3 tokens')]);
    }
    expect((await bitnet('memory=17000000', tell('-b', '128', '-c', `${Number(context) + 1}`))).code).toBe(1);
    const hopeless = await bitnet('memory=500000', tell('-n', '3', '-c', '64'));
    expect([hopeless.code, hopeless.last]).toEqual([
      1,
      expect.stringMatching(/\(not even one position would fit: it /),
    ]);
  });

  it('the batch gives way before a table is requantised or the model refused', async () => {
    const at = async (memory: number, options: LoadOptions = {}) => {
      shim('memory', memory);
      const model = await loadModel(file, { backend: onShim, ...options });
      const { batchSize, notes, memoryPlan } = model;
      const logits = await model.createSession({ contextSize: 64 }).prefill([1, 2, 3]);
      await model.dispose();
      return { batchSize, notes, logits, totalBytes: memoryPlan!.totalBytes };
    };
    const ample = await at(SHIM_MEMORY);
    expect(ample.batchSize).toBe(1024);
    const less = await at(40 << 20);
    expect(less).toEqual({ ...ample, batchSize: 128, totalBytes: less.totalBytes });
    expect(less.totalBytes).toBeLessThan(ample.totalBytes);
    // Beyond that the table has to (a thirty-second stays free); and who asks for a batch gets it, or is refused.
    const tooLittle = Math.floor(((less.totalBytes - 1024) * 32) / 31);
    expect((await at(tooLittle)).notes).toEqual([expect.stringContaining('token_embd.weight kept as Q8_0')]);
    expect((await refusal(() => at(40 << 20, { batchSize: 1024 })))[0]).toBe('out-of-memory');
  });

  it('a session too long for what is left is refused, and shorter ones are not', async () => {
    shim('memory', 20 << 20);
    const model = await loadModel(file, { backend: onShim, planFor: { contextSize: 64 }, batchSize: 8 });
    const session = model.createSession({ contextSize: 64 });
    const expected = await session.prefill([1, 2, 3]);
    const before = model.memory().usedBytes;
    shim('memory', 2 << 20);
    const [code, message] = await refusal(() => model.createSession({ contextSize: 2048 }));
    expect(code).toBe('out-of-memory');
    expect(message).toMatch(/^context: no room for the keys and values of 2048 positions.*\(a context of \d+ fits\)$/);
    expect(model.memory().usedBytes).toBe(before);
    session.rewind(0);
    expect(await session.prefill([1, 2, 3])).toEqual(expected);
    await model.dispose();
    shim('memory', SHIM_MEMORY);
    const all = await freeBytes();
    await (await loadModel(file, { backend: onShim })).dispose();
    expect(await freeBytes()).toBe(all);
  });

  it('while loading, wherever that is, all that was taken is given back', async () => {
    const all = await freeBytes();
    let failures = 0;
    for (let after = 6; after < 110; after += 4) {
      shim('failWith', OUT_OF_MEMORY);
      shim('failAfter', after);
      const model: Model | BitnetError = await loadModel(file, { backend: onShim }).catch((error) => error);
      shim('failAfter', -1);
      if (model instanceof BitnetError) {
        expect(model.code).toBe('out-of-memory');
        expect(model.message).toMatch(/\(.+\)$/); // a next step
        failures++;
      } else await model.dispose();
      expect(await freeBytes()).toBe(all);
    }
    expect(failures).toBeGreaterThan(10);
  });
});

describe.skipIf(shimPath === undefined)('when the card fails', () => {
  /** Calls of the driver until a token or two are out. */
  const MIDWAY = `failWith=${ILLEGAL_ADDRESS},failAfter=190`;

  it('in the middle of a text: one line, exit status 1, and what was told stays', async () => {
    const whole = await bitnet('', tell('-n', '6'));
    expect(whole.code).toBe(0);
    const { code, out, last } = await bitnet(MIDWAY, tell('-n', '6'));
    expect(code).toBe(1);
    expect(last).toMatch(/^bitnet: backend-failed: backend cuda: the device failed, .* \(load the model again\)$/);
    expect(out.trim().length).toBeGreaterThan(1);
    expect(whole.out.startsWith(out.trim()), out).toBe(true);
  });

  it('nothing that is half done stays: no JSON, no receipt, no trace, no logits', async () => {
    const receipt = join(scratch, 'receipt.json');
    const json = await bitnet(MIDWAY, tell('-n', '6', '--json', '--receipt', receipt));
    expect([json.code, json.out, existsSync(receipt)]).toEqual([1, '', false]);
    const ids = Array.from({ length: 40 }, (_, i) => 3 + i).join(',');
    for (const [command, name, after] of [
      ['trace', 'trace.npz', 250],
      ['logits', 'logits.npy', 130],
    ] as const) {
      const path = join(scratch, name);
      const knobs = `failWith=${ILLEGAL_ADDRESS},failAfter=${after}`;
      const args = ['oracle', command, '-m', tiny, '--tokens', ids, '-b', '4', '--backend', 'cuda', '-o', path];
      const { code, out, last } = await bitnet(knobs, args);
      expect([code, out, existsSync(path)]).toEqual([1, '', false]);
      expect(last).toContain('bitnet: backend-failed: ');
    }
  });

  it('two models on it: both are lost, both say so, and a third one works', async () => {
    const models = [await loadModel(file, { backend: onShim }), await loadModel(file, { backend: onShim })] as const;
    const [one, two] = models.map((model) => model.createSession({ contextSize: 64 }));
    const expected = await one.prefill([1, 2, 3]);
    expect(await two.prefill([1, 2, 3])).toEqual(expected);
    // They take turns, each with its own buffers and graphs.
    for (const id of [4, 5, 6, 7]) expect(await two.step(id)).toEqual(await one.step(id));
    shim('failWith', ILLEGAL_ADDRESS);
    shim('failAfter', 3);
    const failed = await refusal(() => one.step(8));
    shim('failAfter', -1);
    expect(failed[0]).toBe('backend-failed');
    const other = await refusal(() => two.step(8));
    expect(other[0]).toBe('backend-failed');
    expect(other[1]).toContain('(load the model again)');
    for (const model of models) await model.dispose();
    const third = await loadModel(file, { backend: onShim });
    expect(await third.createSession({ contextSize: 64 }).prefill([1, 2, 3])).toEqual(expected);
    await third.dispose();
  });
});

describe.skipIf(shimPath === undefined)('whoever leaves early', () => {
  it.each([
    ['SIGKILL', null],
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s in the middle of a text; the next program has the card to itself', async (signal, code) => {
    const killed = await bitnet('', tell('-n', '400', '--ignore-eos'), (child, out) => {
      if (out.length > 12 && !child.killed) child.kill(signal); // once: a second one is for who cannot wait
    });
    expect([killed.code, killed.signal]).toEqual([code, code === null ? signal : null]);
    expect(killed.out.length).toBeGreaterThan(12);
    const next = await bitnet('', tell('-n', '3'));
    expect([next.code, next.out.trim().split(' ').length]).toEqual([0, 4]);
  });

  it('disposes of a model during a step: the step ends, and nothing is left', async () => {
    const all = await freeBytes();
    const model = await loadModel(file, { backend: onShim });
    const session = model.createSession({ contextSize: 64 });
    const step = session.prefill(Array.from({ length: 40 }, (_, i) => 3 + i));
    const text = model.createSession({ contextSize: 64 }).generate('x', { maxTokens: 40, temperature: 0 });
    const told = text.result.catch((error: unknown) => error);
    const gone = model.dispose();
    expect((await step).length).toBe(model.info.vocabularySize);
    await gone;
    expect(await told).toMatchObject({ code: 'disposed' });
    expect(await freeBytes()).toBe(all);
  });

  it('has used it afterwards: an error, never a crash', async () => {
    const model = await loadModel(file, { backend: onShim });
    const session = model.createSession({ contextSize: 64 });
    await session.prefill([1, 2, 3]);
    await model[Symbol.asyncDispose](); // as `await using` does
    await model.dispose();
    for (const act of [
      () => session.step(1),
      () => session.prefill([1]),
      () => session.generate('x').result,
      () => model.createSession(),
      () => model.embed(['x']),
    ]) {
      expect((await refusal(act))[0]).toBe('disposed');
    }
    await session.dispose();
    expect(() => model.memory()).not.toThrow();
    expect(model.memoryPlan?.contextSize).toBe(2048);
  });
});
