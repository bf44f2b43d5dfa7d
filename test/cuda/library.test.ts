/**
 * The border of the CUDA library: what it refuses, how it fails, and that it goes on or can be opened again after that.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Code } from '../../src/kernels/cuda/abi.ts';
import { type Context, Library, NativeError } from './library.ts';
import { held, ILLEGAL_ADDRESS, INVALID_VALUE, NOTHING, OUT_OF_MEMORY, SHIM_MEMORY, shim, shimPath } from './shim.ts';

const library = shimPath === undefined ? undefined : new Library(shimPath);

function failure(act: () => unknown): NativeError {
  try {
    act();
  } catch (error) {
    if (error instanceof NativeError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

/** One word list for each op, all of them legal: words of `commands.md` with buffers of `room` elements. */
function legalCommands(c: Context): Map<string, number[]> {
  const f = (x: number) => new Int32Array(new Float32Array([x]).buffer)[0];
  const [a, b, out, codes, meta, ids] = [1024, 1024, 1024, 1024, 64, 64].map((elements) => c.alloc(elements * 4));
  const [weight, dense, keys, values, top, index] = [1024, 4096, 4096, 4096, 4096, 96].map((bytes) => c.alloc(bytes));
  return new Map([
    ['embed', [1, 11, out, 0, 0, dense, 8, 128, ids, 0, 2]],
    ['rmsNorm', [2, 11, out, 0, a, 0, b, 0, f(1e-5), 128, 2]],
    ['quantizeRows', [3, 10, codes, 0, meta, 0, a, 0, 128, 2]],
    ['ternaryMatmul', [4, 13, out, 0, weight, f(1), 8, 128, codes, 0, meta, 0, 2]],
    ['denseMatmul', [5, 11, out, 0, 0, dense, 8, 128, a, 0, 2]],
    ['rope', [6, 10, a, 0, b, 0, 2, 16, 1, 2]],
    ['kvAppend', [7, 16, a, 0, b, 0, 2, 16, 0, 2, 1, 1, 32, keys, values, 3]],
    ['attention', [8, 18, out, 0, a, 0, 4, 2, 16, 0, 2, 1, 1, 32, f(0.25), keys, values, 3]],
    ['gatedRelu2', [9, 9, out, 0, a, 0, b, 0, 256]],
    ['gatedSilu', [10, 9, out, 0, a, 0, b, 0, 256]],
    ['add', [11, 9, out, 0, a, 0, b, 0, 256]],
    ['copyRows', [12, 7, out, 0, a, 0, 256]],
    ['rmsNormQuantize', [16, 13, codes, 0, meta, 0, a, 0, b, 0, f(1e-5), 128, 2]],
    ['gatedGelu', [17, 9, out, 0, a, 0, b, 0, 256]],
    ['scale', [18, 8, out, 0, a, 0, f(2), 256]],
    ['topK', [19, 10, top, 0, a, 0, 128, 5, 100, 2]],
    ['denseIndex', [20, 7, index, 1, dense, 8, 128]],
    ['denseTopK', [21, 16, out, 0, top, 0, 1, dense, index, 8, 128, a, 0, 5, 100, 2]],
  ]);
}

describe.skipIf(library === undefined)('the border of the CUDA library', () => {
  afterEach(() => {
    shim('failAfter', -1);
    expect(held()).toEqual(NOTHING);
  });

  it('takes every op of its page, and refuses every one that reaches beyond its buffers', () => {
    const c = library!.open();
    const legal = legalCommands(c);
    expect(legal.size).toBe(18);
    for (const words of legal.values()) c.run(words);
    const before = c.info().launches;
    for (const [name, words] of legal) {
      let refused = 0;
      for (let i = 2; i < words.length; i++) {
        // Nothing, negative, too large for whatever it is, and as good as endless; floats may be anything.
        for (const bad of [0, -1, -0x80000000, 999, 65_000, 0x7fffffff]) {
          const error = failureOf(() => c.run(words.with(i, bad)));
          if (error === undefined) continue;
          refused++;
          expect([error.code, error.message], `${name} word ${i} = ${bad}`).toEqual([
            Code.ARGUMENT,
            expect.stringContaining(`${name} (command 0): `),
          ]);
        }
      }
      expect(refused, name).toBeGreaterThan((words.length - 2) * 2);
      for (const bad of [words.with(1, words[1] + 1), words.slice(0, -1), words.with(0, 77), [words[0]]]) {
        expect(failure(() => c.run(bad)).code, name).toBe(Code.ARGUMENT);
      }
    }
    c.read(1, new Uint8Array(4)); // looks at the guards of every buffer
    // Refused ones did nothing; those whose float or size was still legal ran.
    expect(Number(c.info().launches)).toBeGreaterThanOrEqual(Number(before));
    c.close();
  }, 60_000);

  it('refuses what no size of a buffer would tell', () => {
    const c = library!.open();
    const legal = legalCommands(c);
    const [Q8_0, whole] = [3, 'columns are no whole blocks of the type'];
    for (const [name, changes, message] of [
      ['add', { 8: 1025 }, 'out: elements 0 .. 1025 of a buffer of 1024'],
      ['add', { 5: -1 }, 'first input: elements -1 .. 255'],
      ['quantizeRows', { 3: 8 }, 'codes: expected a multiple of 16'],
      ['rmsNormQuantize', { 3: 8 }, 'codes: expected a multiple of 16'],
      ['ternaryMatmul', { 9: 8 }, 'codes: expected a multiple of 16'],
      ['denseMatmul', { 4: Q8_0, 7: 48 }, whole],
      ['embed', { 4: Q8_0, 7: 48 }, whole],
      ['denseIndex', { 6: 48 }, `${whole}, or no multiple of 32`],
      ['denseTopK', { 10: 48 }, `${whole}, or no multiple of 32`],
      ['denseTopK', { 12: 2 }, 'x: expected a multiple of 4'],
      ['rope', { 7: 15 }, 'the head dimension is odd'],
      ['topK', { 7: 129 }, 'k: expected 1 to 128, got 129'],
      ['attention', { 6: 3 }, 'heads are no multiple of key/value heads'],
      ['attention', { 5: 32 }, 'begins within a row'],
      ['attention', { 17: 31 }, 'position: expected 0 to 30, got 31'],
      ['kvAppend', { 3: 16 }, 'begins within a row'],
      ['kvAppend', { 8: 2 }, 'keys: elements 0 .. 3072 of a buffer of 2048'],
      // 2^65 elements, of which 64 bits would leave none.
      ['kvAppend', { 6: 2 ** 15, 7: 1024, 8: 2 ** 20 - 1, 9: 0, 12: 2 ** 20 }, 'more elements than there are numbers'],
    ] as const) {
      const words = legal.get(name)!.map((word, i) => (changes as Record<number, number>)[i] ?? word);
      const error = failure(() => c.run(words));
      expect([error.code, error.message], name).toEqual([Code.ARGUMENT, expect.stringContaining(message)]);
    }
    c.run(legal.get('add')!.with(8, 1024));
    c.run(legal.get('attention')!.with(17, 30));
    c.run(legal.get('kvAppend')!.with(8, 1));
    c.close();
  });

  it('runs nothing of a list with one wrong command', () => {
    const c = library!.open();
    const legal = legalCommands(c);
    const launches = c.info().launches;
    const list = [...legal.get('add')!, ...legal.get('scale')!.with(7, 999_999)];
    const error = failure(() => c.run(list));
    expect(error.message).toContain('scale (command 1): out: elements 0 .. 999999 of a buffer of 1024');
    expect(c.info().launches).toBe(launches);
    c.close();
  });

  it('forgets a list that it replays when one of its buffers goes', () => {
    const c = library!.open();
    const words = legalCommands(c).get('add')!;
    for (let i = 0; i < 4; i++) c.run(words);
    expect(c.info()).toMatchObject({ graphs: 1, replays: 3 });
    c.free(words[4]);
    expect(c.info()).toMatchObject({ graphs: 0 });
    expect(failure(() => c.run(words)).message).toContain(`add (command 0): first input: no buffer`);
    c.close();
  });

  it('remembers the lists that were run last, and no more of them than it has place for', () => {
    const c = library!.open();
    const add = legalCommands(c).get('add')!;
    for (let i = 0; i < 2; i++) c.run(add);
    // Others by the dozen: each is run once, and this one again and again.
    for (let i = 1; i <= 60; i++) {
      c.run(add.with(8, i));
      c.run(add);
    }
    expect(c.info()).toMatchObject({ graphs: 1, replays: 61 });
    for (let i = 1; i <= 60; i++) for (let twice = 0; twice < 2; twice++) c.run(add.with(8, i));
    expect(c.info()).toMatchObject({ graphs: 48 });
    c.set(2, 1); // made with other options
    expect(c.info()).toMatchObject({ graphs: 0 });
    for (let i = 0; i < 3; i++) c.run(add.with(8, 0)); // nothing to remember
    expect(c.info()).toMatchObject({ graphs: 0 });
    c.close();
  });

  it('gives a token that is not in the table a row of NaN', () => {
    const c = library!.open();
    const words = legalCommands(c).get('embed')!;
    c.write(words[8], Int32Array.from([3, 8]));
    c.run(words);
    const rows = c.read(words[2], new Float32Array(256));
    expect([...rows.subarray(0, 128)]).toEqual(new Array(128).fill(0));
    expect([...rows.subarray(128)].every(Number.isNaN)).toBe(true);
    c.close();
  });

  it('says how much memory there was, and goes on', () => {
    shim('memory', 1 << 20);
    const c = library!.open();
    const handle = c.alloc(500_000);
    const error = failure(() => c.alloc(600_000));
    expect(error.code).toBe(Code.MEMORY);
    expect(error.message).toMatch(/expected 600000 bytes, got \d+ free of 1048576, of which \d+ are in use here/);
    c.free(handle);
    expect(c.read(c.alloc(600_000), new Uint8Array(8))).toEqual(new Uint8Array(8));
    c.close();
    shim('memory', SHIM_MEMORY);
  });

  it('runs out of memory in the middle of a list without running it', () => {
    const c = library!.open();
    const words = legalCommands(c).get('topK')!;
    shim('failWith', OUT_OF_MEMORY);
    shim('failAfter', 1); // the counts of the top-k; the call before waits for the stream
    expect(failure(() => c.run(words)).code).toBe(Code.MEMORY);
    c.run(words);
    c.close();
  });

  it('runs out of memory for the scores of attention and for the places of rows, and goes on', () => {
    const c = library!.open();
    const [rows, keys, values] = [c.alloc(4 * 300), c.alloc(2 * 30_000), c.alloc(2 * 30_000)];
    const f32 = 0x3f800000;
    const cache = [0, 300, 1, 1, 30_000]; // layer, rows, types, context
    const append = [7, 16, rows, 0, rows, 0, 1, 1, ...cache, keys, values, 0];
    const attend = [8, 18, rows, 0, rows, 0, 1, 1, 1, ...cache.with(1, 1), f32, keys, values, 0];
    for (const list of [attend, append]) {
      const before = c.info();
      for (const after of [0, 1]) {
        // The wait before the old piece goes, and the new piece.
        shim('failWith', OUT_OF_MEMORY);
        shim('failAfter', after);
        expect(failure(() => c.run(list)).code).toBe(Code.MEMORY);
        expect(c.info()).toMatchObject({ launches: before.launches });
      }
      c.run(list);
      const { usedBytes } = c.info();
      expect(usedBytes).toBeGreaterThan(Number(before.usedBytes));
      c.run(list);
      expect(c.info()).toMatchObject({ usedBytes, replays: Number(before.replays) + 1 });
    }
    c.close();
  });

  it('runs a list directly for ever where it cannot be captured', () => {
    const c = library!.open();
    const [sum, one] = [c.alloc(16), c.alloc(16)];
    c.write(one, new Float32Array(4).fill(1));
    const add = [11, 9, sum, 0, sum, 0, one, 0, 4];
    let times = 0;
    const run = (words: readonly number[]) => {
      c.run(words);
      expect(c.read(sum, new Float32Array(4))).toEqual(new Float32Array(4).fill(++times));
    };
    // Beginning, the kernel, ending, and making of it what can be launched.
    for (const [count, after] of [1, 2, 3, 4].entries()) {
      const words = [...add, 12, 7, one, 0, one, 0, count]; // another list each time
      run(words);
      shim('failWith', INVALID_VALUE);
      shim('failAfter', after - 1);
      run(words);
      shim('failAfter', -1);
      for (let i = 0; i < 2; i++) run(words);
      expect(c.info()).toMatchObject({ graphs: 0, replays: 0 });
      expect(held()).toMatchObject({ graphs: 0, error: 0 });
    }
    // A graph that does not start is a failure.
    run(add);
    shim('failAfter', 4);
    expect(failure(() => c.run(add)).message).toBe(
      'running a list of commands: cudaErrorInvalidValue: cudaErrorInvalidValue',
    );
    c.close();
  });

  it('captures kernels that overlap a second time without, where the driver does not know that', () => {
    for (const [waits, driver, graphs] of [
      [0, 12_020, 1],
      [1, 12_020, 1],
      [1, 13_000, 1],
    ]) {
      shim('waits', waits);
      shim('driver', driver);
      const c = library!.open();
      const add = legalCommands(c).get('add')!;
      for (let i = 0; i < 3; i++) c.run(add);
      const seen = [c.info(), held()];
      c.close();
      shim('waits', 0);
      shim('driver', 13_000);
      expect(seen).toMatchObject([
        { graphs, replays: 2 },
        { graphs: 1, error: 0 },
      ]);
    }
  });

  it('fails for good after a failure of the device, and can be opened again', () => {
    const c = library!.open();
    const other = library!.open();
    const legal = legalCommands(c);
    shim('failWith', ILLEGAL_ADDRESS);
    shim('failAfter', 0);
    const error = failure(() => c.run(legal.get('add')!));
    expect([error.code, error.message]).toEqual([Code.CUDA, expect.stringContaining('cudaErrorIllegalAddress')]);
    expect(failure(() => c.alloc(4)).message).toBe(error.message);
    expect(failure(() => c.read(1, new Uint8Array(4))).code).toBe(Code.CUDA);
    c.close();
    // What another context had on that device is gone as well; it says so and can be closed.
    expect(failure(() => other.alloc(4)).code).toBe(Code.CUDA);
    other.close();
    const next = library!.open();
    for (const words of legalCommands(next).values()) next.run(words);
    next.close();
  });

  it('fails at every call of the runtime that can fail, without losing the next', () => {
    let failures = 0;
    for (let after = 0; after < 60; after++) {
      shim('failWith', after % 2 === 0 ? ILLEGAL_ADDRESS : OUT_OF_MEMORY);
      shim('failAfter', after);
      try {
        const c = library!.open();
        try {
          const list = [...legalCommands(c).values()].flat();
          for (let i = 0; i < 3; i++) c.run(list); // directly, captured, replayed
          c.read(1, new Uint8Array(4));
        } catch (error) {
          if (!(error instanceof NativeError)) throw error;
          failures++;
        } finally {
          c.close();
        }
      } catch (error) {
        if (!(error instanceof NativeError)) throw error;
        failures++;
      }
      shim('failAfter', -1);
      library!.open().close();
    }
    expect(failures).toBeGreaterThan(40);
  }, 60_000);

  it('says which driver, device or compute capability is missing', () => {
    const refusal = (name: string, value: number, normal: number) => {
      shim(name, value);
      const { code, message } = failure(() => library!.open());
      shim(name, normal);
      return [code, message];
    };
    expect(refusal('driver', 11080, 13000)).toEqual([
      Code.DRIVER,
      'the driver is for CUDA 11.8, expected 13.0 or newer',
    ]);
    expect(refusal('driver', 0, 13000)).toEqual([Code.DRIVER, 'no NVIDIA driver on this machine']);
    expect(refusal('devices', 0, 1)).toEqual([Code.DEVICE, 'no CUDA device on this machine']);
    expect(refusal('compute', 75, 90)).toEqual([Code.DEVICE, 'CPU shim: compute capability 7.5, expected 8.0 or more']);
    expect(failure(() => library!.open(3)).message).toBe('no device 3, expected 0 to 0');
    shim('compute', 80);
    const c = library!.open();
    expect(c.info().computeCapability).toBe('8.0');
    c.close();
    shim('compute', 90);
  });

  it('says which driver, of a version or none that answers, and which devices may be seen', () => {
    const refused = (knobs: Record<string, number>, device = 0) => {
      for (const [name, value] of Object.entries(knobs)) shim(name, value);
      try {
        const { code, message } = failure(() => library!.open(device));
        return [code, message, library!.devices()];
      } finally {
        for (const [name, normal] of Object.entries({ driver: 13_000, devices: 1, compute: 90 })) shim(name, normal);
      }
    };
    const none = { code: Code.DRIVER, count: 0 };
    const old = 'the driver is for CUDA 11.99, expected 13.0 or newer';
    expect(refused({ driver: 11_990 })).toEqual([Code.DRIVER, old, none]);
    const silent = 'the driver does not answer: cudaErrorUnknown: cudaErrorUnknown';
    expect(refused({ driver: -1 })).toEqual([Code.DRIVER, silent, none]);
    vi.stubEnv('CUDA_VISIBLE_DEVICES', '7,');
    const hidden = "no CUDA device that CUDA_VISIBLE_DEVICES lets through, which is '7,'";
    expect(refused({ devices: 0 })).toEqual([Code.DEVICE, hidden, { code: Code.DEVICE, count: 0 }]);
    vi.unstubAllEnvs();
    const before = 'CPU shim: compute capability 7.9, expected 8.0 or more';
    expect(refused({ compute: 79 })).toEqual([Code.DEVICE, before, { code: Code.OK, count: 1 }]);
    // More than it keeps books of.
    for (const device of [-1, 64]) {
      expect(refused({ devices: 70 }, device).slice(0, 2)).toEqual([
        Code.DEVICE,
        `no device ${device}, expected 0 to 63`,
      ]);
    }
    shim('devices', 64);
    library!.open(63).close();
    shim('devices', 1);
  });

  it('says why a device cannot be opened', () => {
    const refused = (failWith: number, failAfter: number, device: number) => {
      shim('failWith', failWith);
      shim('failAfter', failAfter);
      const { code, message } = failure(() => library!.open(device));
      expect(held()).toEqual(NOTHING);
      return [code, message];
    };
    shim('devices', 3);
    const opening = 'opening device 2: cudaErrorInvalidValue: cudaErrorInvalidValue';
    const [busy, memory] = ['cudaErrorUnknown', 'cudaErrorMemoryAllocation'].map((name) => `${name}: ${name}`);
    for (const after of [0, 1]) {
      expect(refused(INVALID_VALUE, after, 2)).toEqual([Code.CUDA, opening]);
      expect(refused(OUT_OF_MEMORY, after, 2)).toEqual([Code.MEMORY, `opening device 2: ${memory}`]);
      expect(refused(46, after, 2)).toEqual([
        Code.DEVICE,
        `opening device 2: ${busy} (another process may have it for itself)`,
      ]);
    }
    expect(refused(INVALID_VALUE, 2, 2)).toEqual([Code.CUDA, opening.replace('opening device 2', 'the table of rows')]);
    expect(refused(ILLEGAL_ADDRESS, 0, 2)[0]).toBe(Code.CUDA); // and is reset
    expect(refused(INVALID_VALUE, 0, 2)).toEqual([
      Code.CUDA,
      `${opening} (it failed before: this takes a new process)`,
    ]);
    expect(refused(OUT_OF_MEMORY, 0, 2)).toEqual([Code.MEMORY, `opening device 2: ${memory}`]);
    shim('devices', 1);
    // No code for it, as the first kernel finds.
    shim('compute', 86);
    for (const code of [209, 218, 221, 222]) {
      expect(refused(code, 5, 0)).toEqual([
        Code.DEVICE,
        `the library has no code for CPU shim: compute capability 8.6. Build it with --arch 86 (${busy})`,
      ]);
    }
    for (const after of [4, 5, 6, 7]) {
      expect(refused(INVALID_VALUE, after, 0)).toEqual([
        Code.CUDA,
        'the first kernel: cudaErrorInvalidValue: cudaErrorInvalidValue',
      ]);
    }
    shim('compute', 90);
  });

  it('has contexts on two devices, each of which chooses its own', () => {
    shim('devices', 2);
    const contexts = [library!.open(0), library!.open(1)] as const;
    const lists = contexts.map((c) => legalCommands(c).get('add')!);
    for (let i = 0; i < 4; i++) for (const [which, c] of contexts.entries()) c.run(lists[which]);
    for (const c of contexts) expect(c.info()).toMatchObject({ graphs: 1, replays: 3 });
    shim('devices', 1);
    contexts[0].run(lists[0]);
    const error = failure(() => contexts[1].run(lists[1]));
    expect([error.code, error.message]).toEqual([Code.CUDA, expect.stringMatching(/^choosing the device: /)]);
    shim('devices', 2);
    expect(failure(() => contexts[1].info()).message).toBe(error.message); // for good
    for (const c of contexts) c.close();
    shim('devices', 1);
  });

  it('tells facts that are JSON, to whoever has room for them', () => {
    shim('odd', 1);
    const c = library!.open();
    shim('odd', 0);
    const facts = {
      name: 'CPU  shim    ',
      computeCapability: '9.0',
      driver: 13_000,
      runtime: 13_000,
      totalBytes: SHIM_MEMORY,
      freeBytes: SHIM_MEMORY - 4096,
      usedBytes: 4096, // the table of rows
      sms: 132,
      graphs: 0,
      replays: 0,
      launches: 1,
    };
    expect(c.info()).toEqual(facts);
    const room = JSON.stringify(facts).length + 1;
    for (const [json, bytes] of [
      [Buffer.alloc(room), room - 1],
      [null, 4096],
      [Buffer.alloc(8), -1],
    ]) {
      const { code, message } = failure(() => c.call('bn_info', json, bytes));
      expect([code, message]).toEqual([Code.ARGUMENT, `info: expected room for ${room} bytes`]);
    }
    c.call('bn_info', Buffer.alloc(room), room);
    const handle = c.alloc(1000);
    expect(c.info().usedBytes).toBe(5096);
    c.free(handle);
    expect(c.info().usedBytes).toBe(4096);
    for (const option of [-1, 4]) expect(failure(() => c.set(option, 1)).message).toBe(`set: no option ${option}`);
    c.set(3, 0);
    c.close();
  });

  it.each([0, 1])('copies pieces of any length (late: %i)', (late) => {
    const [send, bounce] = [4 << 20, 1 << 20];
    const c = library!.open();
    shim('late', late);
    const handle = c.alloc(2 * send);
    const all = new Uint8Array(2 * send);
    let at = 0;
    const write = (bytes: number) => {
      const data = new Uint8Array(bytes).fill((at % 251) + 1);
      c.write(handle, data, at);
      all.set(data, at);
      at += bytes;
      data.fill(255); // nobody looks at it any more
    };
    const same = () => Buffer.compare(c.read(handle, new Uint8Array(2 * send)), all) === 0;
    for (let bytes = 1; bytes < 40; bytes++) write(bytes);
    expect(same()).toBe(true);
    // To the last byte of the library's own memory and beyond; and what does not go by way of it.
    for (const pieces of [[send, 1], [send - 16, 16, 1], [send - 1, 2], [send + 1], [1, send + 1, 1]]) {
      at = 0;
      for (const bytes of pieces) write(bytes);
      expect(same(), pieces.join(' ')).toBe(true);
    }
    for (const bytes of [1, bounce, bounce + 1]) {
      expect(Buffer.compare(c.read(handle, new Uint8Array(bytes), 3), all.subarray(3, 3 + bytes))).toBe(0);
    }
    shim('late', 0);
    c.close();
  });

  it('throws nothing at its caller when the memory of the host ends', () => {
    const folder = mkdtempSync(join(tmpdir(), 'bitnet-memory-'));
    try {
      const program = join(folder, 'no-memory');
      const here = new URL('.', import.meta.url).pathname;
      const native = join(here, '../../src/kernels/cuda/native');
      const sources = [`-I${native}`, join(here, 'no-memory.cpp'), shimPath!, `-Wl,-rpath,${dirname(shimPath!)}`];
      execFileSync(process.env.CXX ?? 'g++', ['-std=c++17', '-rdynamic', '-DBN_SHIM', '-o', program, ...sources]);
      // A line only where each call said so, of at least one allocation each but for the last, whose words are short.
      expect(execFileSync(program, { encoding: 'utf8' })).toMatch(/^[1-9] [1-9] [1-9] [1-9] \d\n$/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('refuses handles and ranges that are not there', () => {
    const c = library!.open();
    const handle = c.alloc(100);
    const matrix = c.alloc(c.denseBytes(3, 4, 128) + 4000);
    for (const act of [
      () => c.alloc(0),
      () => c.free(77),
      () => c.free(0),
      () => c.free(-1),
      () => c.write(handle, new Uint8Array(101)),
      () => c.write(handle, new Uint8Array(1), 100),
      () => c.read(handle, new Uint8Array(50), 51),
      () => c.read(handle, new Uint8Array(1), 101),
      () => c.write(handle, new Uint8Array(0), 101),
      () => c.read(matrix + 1, new Uint8Array(1)),
      () => c.call('bn_write', handle, 0, null, 100),
      () => c.call('bn_read', handle, 0, null, 100),
      () => c.set(9, 1),
      () => c.packDense(3, handle, handle, 1, 32, 0, 1),
      () => c.packDense(0, handle, handle, 1, 1, 0, 1),
      () => c.packDense(3, matrix, matrix, 4, 128, 3, 2),
      () => c.packDense(3, matrix, matrix, 4, 128, -1, 1),
      () => c.packDense(3, matrix, matrix, 4, 128, 1, -1),
      () => c.denseBytes(3, 0, 32),
      () => c.denseBytes(3, -1, 32),
      () => c.denseBytes(3, 4, 33),
      () => c.denseBytes(9, 4, 32),
    ]) {
      expect(failure(act).code, act.toString()).toBe(Code.ARGUMENT);
    }
    c.call('bn_write', handle, 100, null, 0); // of nothing nothing is asked
    c.call('bn_read', handle, 100, null, 0);
    c.free(handle);
    expect(failure(() => c.read(handle, new Uint8Array(1))).code).toBe(Code.ARGUMENT);
    c.close();
  });
});

function failureOf(act: () => unknown): NativeError | undefined {
  try {
    act();
  } catch (error) {
    if (error instanceof NativeError) return error;
    throw error;
  }
  return undefined;
}
