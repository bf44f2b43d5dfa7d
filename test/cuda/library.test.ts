/**
 * The border of the CUDA library: lists of commands, what of them it refuses, how it fails, and that it goes on or can be opened again.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Code } from '../../src/kernels/cuda/abi.ts';
import { failure, failureOf, Library, legalCommands, NativeError } from './library.ts';
import {
  held,
  ILLEGAL_ADDRESS,
  INVALID_VALUE,
  NOTHING,
  OUT_OF_MEMORY,
  overlaps,
  SHIM_MEMORY,
  shim,
  shimPath,
} from './shim.ts';

const library = shimPath === undefined ? undefined : new Library(shimPath);

describe.skipIf(library === undefined)('the border of the CUDA library', () => {
  let before = NOTHING;
  beforeEach(() => {
    before = held();
  });
  afterEach(() => {
    shim('failAfter', -1);
    expect(held()).toEqual(before);
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
      // The most that can be counted, one layer more, and 2^65 elements, of which 64 bits would leave none.
      [
        'kvAppend',
        { 6: 2 ** 15, 7: 1024, 8: 2 ** 20 - 2, 9: 0, 12: 2 ** 18 },
        'keys: elements 0 .. 9223363240761753600 of',
      ],
      ['kvAppend', { 6: 2 ** 15, 7: 1024, 8: 2 ** 20 - 1, 9: 0, 12: 2 ** 18 }, 'more elements than there are numbers'],
      ['kvAppend', { 6: 2 ** 15, 7: 1024, 8: 2 ** 20 - 1, 9: 0, 12: 2 ** 20 }, 'more elements than there are numbers'],
    ] as const) {
      const words = legal.get(name)!.map((word, i) => (changes as Record<number, number>)[i] ?? word);
      const error = failure(() => c.run(words));
      expect([error.code, error.message], name).toEqual([Code.ARGUMENT, expect.stringContaining(message)]);
    }
    c.run(legal.get('add')!.with(8, 1024));
    c.run(legal.get('attention')!.with(17, 30));
    for (const [name, word, first] of [
      ['quantizeRows', 3, 16],
      ['rmsNormQuantize', 3, 16],
      ['ternaryMatmul', 9, 16],
      ['denseTopK', 12, 4],
    ] as const) {
      c.run(legal.get(name)!.with(word, first));
    }
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
    expect(held()).toMatchObject({ error: 0 });
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

  it.each([0, 1, 2, 3, 4])(
    'runs a list without a graph where there is no memory for one (call %i of its making)',
    (call) => {
      const c = library!.open();
      const add = legalCommands(c).get('add')!;
      const [out, a, b] = [add[2], add[4], add[6]];
      c.write(a, new Float32Array(256).fill(3));
      c.write(b, new Float32Array(256).fill(4));
      c.run(add);
      for (const fails of [true, false]) {
        c.write(out, new Float32Array(256));
        shim('failWith', OUT_OF_MEMORY);
        shim('failAfter', fails ? call : -1); // begin, kernel, end, instantiate, launch
        c.run(add);
        shim('failAfter', -1);
        expect(c.read(out, new Float32Array(256))).toEqual(new Float32Array(256).fill(7));
      }
      expect(c.info().graphs).toBe(0);
      c.close();
    },
  );

  it('runs out of memory for the scores of attention and for the places of rows, and goes on', () => {
    const c = library!.open();
    const [rows, keys, values] = [c.alloc(4 * 4096), c.alloc(2 * 30_000), c.alloc(2 * 30_000)];
    const cache = (count: number) => [0, count, 1, 1, 30_000]; // layer, rows, types, context
    const append = (count: number) => [7, 16, rows, 0, rows, 0, 1, 1, ...cache(count), keys, values, 0];
    const attend = [8, 18, rows, 0, rows, 0, 1, 1, 1, ...cache(1), 0x3f800000, keys, values, 0];
    // A quarter to spare, in pages of 4096: 30000 scores and a maximum for each split; 24 bytes a row, of which there were 64 at first.
    for (const [list, bytes] of [
      [attend, 151_552],
      [append(1775), 14 * 4096 - 4096],
      [append(4096), 30 * 4096 - 14 * 4096],
    ] as const) {
      const before = c.info();
      // The wait before the old piece goes, and the new piece.
      shim('failWith', OUT_OF_MEMORY);
      shim('failAfter', 0);
      expect(failure(() => c.run(list)).code).toBe(Code.MEMORY);
      expect(c.info()).toMatchObject(before);
      shim('failAfter', 1);
      expect(failure(() => c.run(list)).code).toBe(Code.MEMORY);
      // Graphs know the address of the piece that has gone.
      expect(c.info()).toMatchObject({ launches: before.launches, graphs: 0 });
      expect(held()).toMatchObject({ error: 0, graphs: 0 });
      for (let i = 0; i < 2; i++) c.run(list);
      expect(c.info()).toMatchObject({
        usedBytes: Number(before.usedBytes) + bytes,
        replays: Number(before.replays) + 1,
        graphs: 1,
      });
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
    // Of two launches, direct and captured, those that begin early.
    for (const [waits, driver, early] of [
      [0, 12_020, 0],
      [1, 12_020, 1],
      [1, 13_000, 2],
    ]) {
      shim('waits', waits);
      shim('driver', driver);
      const c = library!.open();
      const add = legalCommands(c).get('add')!;
      const before = overlaps();
      for (let i = 0; i < 3; i++) c.run(add);
      const seen = [c.info(), held(), overlaps() - before];
      c.set(2, 0);
      c.run(add);
      expect(overlaps() - before).toBe(seen[2]);
      c.close();
      shim('waits', 0);
      shim('driver', 13_000);
      expect(seen).toMatchObject([{ graphs: 1, replays: 2 }, { graphs: 1, error: 0 }, early]);
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
});
