/**
 * The border of the CUDA library: devices, contexts, buffers and copies. What is refused is refused with the words that are expected.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Code } from '../../src/kernels/cuda/abi.ts';
import { failure, Library, legalCommands } from './library.ts';
import { held, ILLEGAL_ADDRESS, INVALID_VALUE, NOTHING, OUT_OF_MEMORY, SHIM_MEMORY, shim, shimPath } from './shim.ts';

const library = shimPath === undefined ? undefined : new Library(shimPath);

describe.skipIf(library === undefined)('a context of the CUDA library', () => {
  let before = NOTHING;
  beforeEach(() => {
    before = held();
  });
  afterEach(() => {
    shim('failAfter', -1);
    expect(held()).toEqual(before);
  });

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
        const devices = library!.devices();
        expect(held()).toEqual(NOTHING);
        return [code, message, devices];
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

  it('resets the device that has failed, and not the one that was used last', () => {
    shim('devices', 2);
    const c = library!.open(1);
    shim('failWith', ILLEGAL_ADDRESS);
    shim('failAfter', 0);
    expect(failure(() => c.alloc(4)).code).toBe(Code.CUDA);
    expect(failure(() => library!.open(0)).code).toBe(Code.CUDA);
    c.close();
    library!.open(0).close();
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
    const json = Buffer.alloc(room + 1, 255);
    c.call('bn_info', json, room);
    expect([...json.subarray(-3)]).toEqual([0x7d, 0, 255]); // ends as words of C do
    const handle = c.alloc(1000);
    expect(c.info().usedBytes).toBe(5096);
    c.free(handle);
    expect(c.info().usedBytes).toBe(4096);
    for (const option of [-1, 4]) expect(failure(() => c.set(option, 1)).message).toBe(`set: no option ${option}`);
    for (const option of [0, 3]) c.set(option, 0);
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

  it('packs what lies in buffers of just its bytes, and any part of it', () => {
    const c = library!.open();
    const [Q8_0, rows, columns] = [3, 4, 128];
    const [has, needs] = [136 * rows, c.denseBytes(Q8_0, rows, columns)];
    const [from, short, to, less] = [has, has - 1, needs, needs - 1].map((bytes) => c.alloc(bytes));
    for (const [first, count] of [
      [0, 4],
      [3, 1],
      [0, 0],
      [4, 0],
    ]) {
      c.packDense(Q8_0, from, to, rows, columns, first, count);
    }
    expect(failure(() => c.packDense(Q8_0, short, to, rows, columns, 0, 4)).message).toBe(
      `pack: from: bytes 0 .. ${has} of a buffer of ${has - 1}`,
    );
    expect(failure(() => c.packDense(Q8_0, from, less, rows, columns, 0, 1)).message).toBe(
      `pack: to: bytes 0 .. ${needs} of a buffer of ${needs - 1}`,
    );
    c.packDense(Q8_0, short, to, rows, columns, 1, 3);
    c.close(); // looks at the guards
    const [F32, most] = [0, 2 ** 24];
    expect([c.denseBytes(F32, 1, 1), c.denseBytes(F32, 1, most)]).toEqual([4, 4 * most]);
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
      () => c.denseBytes(6, 4, 32),
      () => c.denseBytes(-1, 4, 32),
      () => c.denseBytes(0, 4, 0),
      () => c.denseBytes(0, 4, 2 ** 24 + 1),
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
