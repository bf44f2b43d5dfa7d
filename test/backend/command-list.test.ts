/**
 * Where threads must meet: every buffer that a command reads or writes counts, whatever the op. One command makes a
 * buffer, the next uses it, many times over; a missing barrier gives wrong numbers sooner or later.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { wasm } from '../../src/engine/backends.ts';
import type { Backend, Buf } from '../../src/kernels/interface.ts';
import { CommandList, Op } from '../../src/kernels/wasm/commands.ts';
import { FLAG_BARRIER } from '../../src/kernels/wasm/layout.ts';

describe('CommandList', () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const [a, b, c] = [1000, 2000, 3000];

  /** Pushes commands as [op, writes, reads, rows?] and tells which begin with a barrier. */
  function barriers(...commands: [Op, number[], number[], [number, number]?][]): boolean[] {
    const list = new CommandList(memory, 4096);
    for (const [op, writes, reads, rows] of commands) list.push(op, writes, reads, [], [], rows);
    const words = new Int32Array(memory.buffer);
    return commands.map((_, i) => words[(4096 + i * 64) / 4 + 1] === FLAG_BARRIER);
  }

  it('puts a barrier where something is read or overwritten that was written, or overwritten that was read', () => {
    expect(barriers([Op.ADD, [a], [b]], [Op.ADD, [c], [a]])).toEqual([false, true]);
    expect(barriers([Op.ADD, [a], [b]], [Op.ADD, [a], [c]])).toEqual([false, true]);
    expect(barriers([Op.ADD, [a], [b]], [Op.ADD, [b], [c]])).toEqual([false, true]);
  });

  it('puts none between commands that only share what they read', () => {
    expect(barriers([Op.TERNARY_MATMUL, [a], [c]], [Op.TERNARY_MATMUL, [b], [c]])).toEqual([false, false]);
  });

  it('lets an op fill disjoint rows of one buffer, but not overlapping ones, nor two ops', () => {
    expect(barriers([Op.COPY, [a], [b], [0, 2]], [Op.COPY, [a], [c], [2, 4]])).toEqual([false, false]);
    expect(barriers([Op.COPY, [a], [b], [0, 2]], [Op.COPY, [a], [c], [1, 4]])).toEqual([false, true]);
    expect(barriers([Op.COPY, [a], [b], [0, 2]], [Op.ATTENTION, [a], [c], [2, 4]])).toEqual([false, true]);
    expect(barriers([Op.COPY, [a], [b], [0, 2]], [Op.COPY, [a], [c], [2, 4]], [Op.ADD, [b], [a]])).toEqual([
      false,
      false,
      true,
    ]);
  });
});

describe('producer and consumer on three threads', () => {
  const columns = 4096;
  let backend: Backend;
  const make = (value: number): Buf => {
    const buf = backend.alloc('f32', [1, columns]);
    backend.write(buf, new Float32Array(columns).fill(value));
    return buf;
  };
  beforeAll(async () => {
    backend = await wasm({ threads: 3 })();
  });
  afterAll(() => backend.dispose());

  it('gains are read after they were written', async () => {
    for (let i = 1; i <= 40; i++) {
      const [x, one, gain, out] = [make(1), make(i), make(0), make(0)];
      backend.add(gain, one, one, 1);
      backend.rmsNorm(out, x, gain, 0, 1);
      const q = backend.allocQuantized(1, columns);
      backend.add(gain, gain, gain, 1);
      backend.rmsNormQuantize(q, x, gain, 0, 1);
      const got = await backend.read(out, columns);
      expect(got.every((value) => value === 2 * i)).toBe(true);
      const { codes, scales } = await backend.readQuantized(q, 1);
      expect(codes.every((code) => code === 127)).toBe(true);
      expect(scales[0]).toBe(Math.fround(127 / (4 * i)));
      backend.free(q);
      for (const buf of [x, one, gain, out]) backend.free(buf);
    }
  });

  it('angles are read after they were written', async () => {
    for (let i = 1; i <= 40; i++) {
      const [x, half, angles] = [make(1), make(i), make(0)];
      backend.add(angles, half, half, 1);
      backend.rope(x, angles, 1, columns, 'neox', 1); // a cos - b sin = 0, a sin + b cos = 4 i
      const got = await backend.read(x, columns);
      expect(got.slice(0, columns / 2).every((value) => value === 0)).toBe(true);
      expect(got.slice(columns / 2).every((value) => value === 4 * i)).toBe(true);
      for (const buf of [x, half, angles]) backend.free(buf);
    }
  });

  it('refuses to read what is not there, and ends for good after a trap', async () => {
    const ids = backend.alloc('i32', [4]);
    await expect(backend.read(ids, 4)).rejects.toMatchObject({ code: 'bad-argument' });
    await expect(backend.read(make(1), columns + 1)).rejects.toMatchObject({ code: 'bad-argument' });
    const mine = await wasm({ threads: 2 })();
    const table = await mine.upload({
      kind: 'dense',
      dtype: 'F32',
      name: 'table',
      rows: 1,
      columns: 4,
      byteLength: 16,
      fill: async () => 1,
    });
    const bad = mine.alloc('i32', [2]);
    mine.write(bad, Int32Array.of(200_000_000, 200_000_000)); // far outside of memory: the kernel traps
    const out = mine.alloc('f32', [2, 4]);
    mine.embed(out, table, bad, 2);
    await expect(mine.read(out, 8)).rejects.toMatchObject({ code: 'backend-failed' });
    mine.add(out, out, out, 2);
    await expect(mine.read(out, 8)).rejects.toMatchObject({ code: 'backend-failed' });
    await mine.dispose();
  });

  it('gives back what a failed allocation had taken', () => {
    const before = backend.memory().usedBytes;
    const shape = { nLayers: 1, nHeads: 1, nKvHeads: 1, headDim: 128, kType: 'f32', vType: 'f32' } as const;
    expect(() => backend.allocKv({ ...shape, contextSize: 6_000_000 })).toThrow(/no room/);
    expect(() => backend.allocQuantized(40_000, 200_000)).toThrow(/cannot grow/);
    expect(backend.memory().usedBytes - before).toBeLessThan(100_000_000);
  });
});
