/** What a model is reckoned to take on a card, to the byte: no device is asked. */
import { describe, expect, it } from 'vitest';
import { Books, CudaRehearsal, capacityOf, noRoomFor, reserveOf, stagedRows } from '../../src/kernels/cuda/books.ts';
import type { KvShape } from '../../src/kernels/interface.ts';

const MIB = 2 ** 20;

/** A rehearsal on which a packed matrix takes 3 bytes a value, and what each act adds to it. */
function rehearsing() {
  const asked: number[][] = [];
  const rehearsal = new CudaRehearsal(77, (...args) => {
    asked.push(args);
    return 3 * args[1] * args[2];
  });
  const more = (act: () => unknown) => {
    const before = rehearsal.memory().usedBytes;
    act();
    return rehearsal.memory().usedBytes - before;
  };
  return { rehearsal, more, asked };
}

const SHAPE: KvShape = {
  nLayers: 1,
  nHeads: 6,
  nKvHeads: 1,
  headDim: 16,
  contextSize: 510,
  kType: 'f16',
  vType: 'f32',
};

describe('books of device memory', () => {
  it('leave the driver a thirty-second of the card, at most 256 MiB', () => {
    expect([0, 31, 32, 8191 * MIB, 8192 * MIB, 80_000 * MIB].map(reserveOf)).toEqual([
      0,
      0,
      1,
      (8191 * MIB) / 32,
      256 * MIB,
      256 * MIB,
    ]);
    expect([capacityOf(50, 3200), capacityOf(100, 3200), capacityOf(101, 3200)]).toEqual([0, 0, 1]);
  });

  it('keep what is in use and what was at most', () => {
    const books = new Books();
    expect([books.usedBytes, books.peakBytes]).toEqual([0, 0]);
    books.take(5);
    books.take(7);
    books.give(10);
    books.take(1);
    expect([books.usedBytes, books.peakBytes]).toEqual([3, 12]);
  });

  it('tell the context for which there is room, where that is one', () => {
    const hint = (freeBytes: number) => noRoomFor(SHAPE, 5100, { freeBytes, totalBytes: 3200 }).message;
    const told = (words: string) => expect.stringContaining(`on the device, some of which the driver needs (${words})`);
    // 10 bytes a position, and 100 that stay free.
    expect([109, 110, 5199, 5200].map(hint)).toEqual(
      ['a smaller context, batch or model', 'a context of 1 fits', 'a context of 509 fits']
        .concat('a smaller context, batch or model')
        .map(told),
    );
  });

  it('count in the blocks of the driver', () => {
    const { rehearsal, more, asked } = rehearsing();
    expect(rehearsal.capacityBytes).toBe(77);
    for (const [floats, bytes] of [
      [1, 512],
      [128, 512],
      [129, 1024],
      [MIB / 4 - 1, MIB],
      [MIB / 4, 2 * MIB],
      [MIB / 2 + 1, 4 * MIB],
    ]) {
      expect(more(() => rehearsal.free(rehearsal.alloc('f32', [floats])))).toBe(0);
      expect(more(() => rehearsal.alloc('f32', [floats]))).toBe(bytes);
    }
    // Codes of 128 columns at a time; 8 bytes a row of scale and sum.
    expect(more(() => rehearsal.allocQuantized(5, 130))).toBe(1536 + 512);
    expect(more(() => rehearsal.free(rehearsal.allocQuantized(65, 128)))).toBe(0);
    const matrix = { name: 'm', rows: 10, columns: 64 } as const;
    expect(more(() => rehearsal.place({ ...matrix, kind: 'ternary', byteLength: 513 }))).toBe(1024);
    expect(more(() => rehearsal.place({ ...matrix, kind: 'dense', dtype: 'BF16', byteLength: 1280 }))).toBe(1536);
    expect(asked).toEqual([]);
  });

  it('count twice what the device rearranges while it does, or 64 MiB of it', () => {
    const { rehearsal, more, asked } = rehearsing();
    const matrix = { name: 'm', rows: 10, columns: 64, kind: 'dense' } as const;
    expect(more(() => rehearsal.place({ ...matrix, dtype: 'Q8_0', byteLength: 680 }))).toBe(2048);
    expect([rehearsal.spanBytes, rehearsal.memory()]).toEqual([3072, { usedBytes: 2048, peakBytes: 3072 }]);
    expect(asked).toEqual([[3, 10, 64]]);
    expect(more(() => rehearsal.place({ ...matrix, dtype: 'Q6_K', rows: 1000, byteLength: 1000 * MIB }))).toBe(192_000);
    expect(rehearsal.spanBytes).toBe(2048 + 192_000 + 64 * MIB);
  });

  it('send at least one row of a matrix at a time, and no more than there are', () => {
    const matrix = { name: 'm', rows: 10, columns: 64, kind: 'dense', dtype: 'Q8_0', byteLength: 680 } as const;
    expect([1, 67, 135, 136, 680, 9999].map((bytes) => stagedRows(matrix, bytes))).toEqual([1, 1, 1, 2, 10, 10]);
    expect(stagedRows({ ...matrix, byteLength: 160 * MIB })).toBe(4);
  });

  it('count the scores of the longest context that there was, with a quarter to spare', () => {
    const { rehearsal, more } = rehearsing();
    const scores = (shape: Partial<KvShape>) => {
      const before = rehearsal.memory().usedBytes;
      rehearsal.free(rehearsal.allocKv({ ...SHAPE, ...shape }));
      return rehearsal.memory().usedBytes - before;
    };
    const single = rehearsing(); // nobody said how many rows a step has
    expect(single.more(() => single.rehearsal.free(single.rehearsal.allocKv(SHAPE)))).toBe((8 + 16) * 512 * 5);
    rehearsal.free(rehearsal.allocQuantized(3, 128)); // steps of three rows
    rehearsal.free(rehearsal.allocQuantized(2, 128));
    // Six heads are eight, 510 positions 512; and 16 pairs of a tile: as floats, of which each counts 5 bytes.
    const first = (8 * 3 + 16) * 512 * 5;
    expect(scores({})).toBe(first);
    expect(more(() => rehearsal.allocKv(SHAPE))).toBe(510 * 16 * 2 + 64 + 510 * 16 * 4 + 128);
    expect(scores({ contextSize: 512 })).toBe(0);
    // From 513 on, what is split: 16 floats for each of 1024 multiprocessors.
    const split = ((8 * 3 + 16) * 516 + 16 * 1024) * 5;
    expect(scores({ contextSize: 513 })).toBe(split - first);
    const grouped = ((2 * 4 * 3 + 2 * 16) * 600 + 16 * 1024) * 5;
    expect(scores({ contextSize: 600, nHeads: 8, nKvHeads: 2 })).toBe(grouped - split);
    // In pieces of 2^26 floats, or of one row.
    expect(scores({ contextSize: 10 ** 6, nHeads: 40 })).toBe(2 ** 26 * 5 - grouped);
    expect(scores({ contextSize: 4 * 10 ** 6, nHeads: 40 })).toBe((160 * 10 ** 6 + 16 * 1024) * 5 - 2 ** 26 * 5);
    expect(rehearsal.memory().peakBytes).toBeGreaterThan(rehearsal.memory().usedBytes);
  });
});
