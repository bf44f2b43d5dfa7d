/**
 * Attention of few rows that see much (`native/attention_split.cu`) on the CPU shim, against the `ts` backend, bit for bit: on both
 * sides of every border at which another kernel takes it, and what of positions is structure of a list.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { values } from '../../src/kernels/conformance/values.ts';
import type { Backend, Buf, KvCache, KvShape, KvType } from '../../src/kernels/interface.ts';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { expF32 } from '../../src/numeric/exp.ts';
import { encodeF16 } from '../../src/tensors/floats.ts';
import { Library } from './library.ts';
import { open, shim, shimPath, TestBackend, watched } from './shim.ts';

const GRAPHS = 0;
const FUSE = 1;
const SPLIT = 3;
/** `FAR_POSITION` of `native/kernels.h`. */
const FAR = 512;
const SMS = 132;

interface Shape {
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly kType: KvType;
  readonly vType: KvType;
}
interface Piece {
  readonly position: number;
  readonly count: number;
}
type Kind = Parameters<typeof values>[0];

const HALVES = { kType: 'f16', vType: 'f16' } as const;
const SMALL: Shape = { nHeads: 4, nKvHeads: 2, headDim: 64, ...HALVES };

/** Sequences with keys and values of a seed, and attention of any rows of them as one list. */
class Sequences {
  readonly backend: Backend;
  readonly #shape: KvShape;
  readonly #caches: KvCache[] = [];
  readonly #q: Buf;
  readonly #out: Buf;
  readonly #rows: number;
  readonly #kind: Kind;

  constructor(backend: Backend, shape: Shape, rows: number, contextSize: number, kind: Kind = 'normal') {
    this.backend = backend;
    this.#shape = { ...shape, nLayers: 2, contextSize };
    this.#rows = rows;
    this.#kind = kind;
    [this.#q, this.#out] = [0, 1].map(() => backend.alloc('f32', [rows, shape.nHeads * shape.headDim]));
  }

  #cache(index: number): KvCache {
    this.#caches[index] ??= filled(this.backend, this.#shape, 10 + index, this.#kind);
    return this.#caches[index];
  }

  /** Piece i of sequence i. */
  async attend(pieces: readonly Piece[]): Promise<Float32Array> {
    const { nHeads, headDim } = this.#shape;
    const width = nHeads * headDim;
    const caches = pieces.map((_, index) => this.#cache(index));
    const q = Float32Array.from(values('normal', this.#rows * width, pieces[0].position), (x) => x / 3);
    this.backend.write(this.#q, q);
    let row = 0;
    for (const [i, { position, count }] of pieces.entries()) {
      this.backend.attention(this.#out, this.#q, { kv: caches[i], row, count, position }, 1, 0.3);
      row += count;
    }
    return this.backend.read(this.#out, row * width);
  }
}

/** A cache whose layer 1 is full. Written past the kernels where there are any: kvAppend has its own tests, and takes its time here. */
function filled(backend: Backend, shape: KvShape, seed: number, kind: Kind): KvCache {
  const { nKvHeads, headDim, contextSize } = shape;
  const kv = backend.allocKv(shape);
  const width = nKvHeads * headDim;
  const rows = [values('normal', contextSize * width, seed), values(kind, contextSize * width, seed + 40)];
  if (!(backend instanceof TestBackend)) {
    const [k, v] = rows.map((data) => {
      const buf = backend.alloc('f32', [contextSize, width]);
      backend.write(buf, data);
      return buf;
    });
    backend.kvAppend({ kv, row: 0, count: contextSize, position: 0 }, 1, k, v);
    for (const buf of [k, v]) backend.free(buf);
    return kv;
  }
  const { keys, values: cached } = kv as unknown as { keys: number; values: number };
  for (const [handle, data, type] of [
    [keys, rows[0], shape.kType],
    [cached, rows[1], shape.vType],
  ] as const) {
    const heads = new Float32Array(data.length); // (kvHead, position, headDim)
    for (let i = 0; i < data.length; i++) {
      const [position, head] = [Math.floor(i / width), Math.floor((i % width) / headDim)];
      heads[(head * contextSize + position) * headDim + (i % headDim)] = data[i];
    }
    const bytes = type === 'f16' ? encodeF16(heads) : new Uint8Array(heads.buffer);
    backend.device.write(handle, bytes, bytes.length); // layer 1
  }
  return kv;
}

/** What `attend` gives, and how many kernels it started. */
async function counted(sequences: Sequences, pieces: readonly Piece[]) {
  const backend = sequences.backend as TestBackend;
  await sequences.attend(pieces.map(() => ({ position: 0, count: 1 }))); // caches are made
  const before = backend.counts().launches;
  const out = await sequences.attend(pieces);
  return { out, launches: backend.counts().launches - before };
}

/** Where two arrays differ, the first few. */
function different(want: Float32Array, got: Float32Array): string[] {
  const out: string[] = want.length === got.length ? [] : [`${got.length} values, expected ${want.length}`];
  for (let i = 0; i < want.length && out.length < 3; i++) {
    if (!Object.is(want[i], got[i])) out.push(`[${i}]: expected ${want[i]}, got ${got[i]}`);
  }
  return out;
}

async function compare(shape: Shape, pieces: readonly Piece[], seed: number, options = {}, kind: Kind = 'normal') {
  const rows = pieces.reduce((sum, { count }) => sum + count, 0);
  const contextSize = Math.max(...pieces.map(({ position, count }) => position + count)) + 3;
  const want = await new Sequences(createTsBackend(), shape, rows, contextSize, kind).attend(pieces);
  const backend = open(seed, { ...options, [GRAPHS]: 0 }); // what is replayed is not counted
  const { out, launches } = await counted(new Sequences(backend, shape, rows, contextSize, kind), pieces);
  expect(different(want, out), `seed ${seed}`).toEqual([]);
  await backend.dispose();
  return launches;
}

const one = (position: number): Piece[] => [{ position, count: 1 }];

describe.skipIf(shimPath === undefined)('attention of few rows that see much', () => {
  afterEach(() => shim('sms', SMS));

  it.each([
    [4, 4, 64, 'f16', 'f16', 'normal'],
    [4, 1, 128, 'f16', 'f16', 'normal'],
    [5, 1, 128, 'f16', 'f16', 'special'],
    [10, 2, 64, 'f16', 'f32', 'extreme'],
    [4, 1, 100, 'f16', 'f16', 'normal'],
    [5, 1, 100, 'f32', 'f32', 'special'],
    [2, 1, 256, 'f32', 'f16', 'normal'],
    [3, 3, 128, 'f32', 'f32', 'ties'],
    [1, 1, 49, 'f16', 'f16', 'normal'],
    [9, 1, 80, 'f16', 'f32', 'normal'],
  ] as const)(
    '%i heads with %i of keys, %i wide, %s and %s, %s',
    async (nHeads, nKvHeads, headDim, kType, vType, kind) => {
      const shape = { nHeads, nKvHeads, headDim, kType, vType };
      for (const [i, position] of [FAR - 1, FAR, FAR + 1].entries()) {
        const launches = await compare(shape, one(position), 5 * i + nHeads, {}, kind);
        expect(launches).toBe(position < FAR ? 1 : 2);
      }
      // Tiles of values end here, and splits have several pieces of keys where there are few multiprocessors.
      shim('sms', nHeads);
      for (const [i, position] of [767, 786].entries()) {
        expect(await compare(shape, one(position), 11 + i, {}, kind)).toBe(2);
      }
      shim('sms', SMS);
    },
    60_000,
  );

  it('is split where rows and heads are no more than the multiprocessors', async () => {
    const rows = (count: number) => Array.from({ length: count }, (_, i) => ({ position: FAR + i, count: 1 }));
    for (const [sms, count, launches] of [
      [12, 3, 2],
      [11, 3, 1],
      [16, 3, 2],
      [16, 4, 2],
      [16, 5, 1],
    ]) {
      shim('sms', sms);
      expect(await compare(SMALL, rows(count), sms), `${sms} for ${count}`).toBe(launches);
    }
    shim('sms', SMS);
    // Pieces of a prompt: by rows, or by tiles where they are long.
    expect(await compare(SMALL, [{ position: FAR - 3, count: 4 }], 3)).toBe(2);
    expect(await compare(SMALL, [{ position: FAR - 4, count: 4 }], 4)).toBe(1);
    expect(await compare(SMALL, [{ position: FAR, count: 9 }], 5)).toBe(1);
  }, 60_000);

  it('takes sequences of different lengths together', async () => {
    const pieces = [3, FAR + 200, 0, FAR - 1, 256].map((position) => ({ position, count: 1 }));
    const wide = { nHeads: 5, nKvHeads: 1, headDim: 64, ...HALVES };
    for (const seed of [1, 2]) {
      expect(await compare(wide, pieces, seed)).toBe(2);
      expect(await compare(wide, pieces.slice(2), seed)).toBe(1);
    }
    // One by one, they are as far as the furthest of them all the same.
    expect(await compare(wide, pieces, 5, { [FUSE]: 0 })).toBe(10);
    expect(await compare(wide, pieces, 6, { [SPLIT]: 0 })).toBe(1);
    const mixed = [
      { position: FAR + 9, count: 2 },
      { position: 0, count: 3 },
      { position: 40, count: 1 },
    ];
    expect(await compare({ ...wide, vType: 'f32' }, mixed, 7)).toBe(2);
  }, 60_000);

  it('is another graph beyond the border, and the old one again before it', async () => {
    const backend = open(9);
    const ours = new Sequences(backend, SMALL, 1, FAR + 20);
    const law = new Sequences(createTsBackend(), SMALL, 1, FAR + 20);
    const positions = [FAR - 3, FAR - 2, FAR - 1, FAR, FAR + 1, FAR + 2, FAR + 19, 7, FAR + 3];
    const seen: unknown[] = [];
    for (const position of positions) {
      const want = await law.attend(one(position));
      expect(different(want, await ours.attend(one(position))), `position ${position}`).toEqual([]);
      const { graphs, replays } = backend.counts();
      seen.push(`${graphs} ${replays}`);
    }
    // Run, captured, replayed; run, captured, replayed; and whatever comes.
    expect(seen).toEqual(['0 0', '1 1', '1 2', '1 2', '2 3', '2 4', '2 5', '2 6', '2 7']);
    await backend.dispose();
  }, 60_000);

  it('is one graph or two, however many lengths there are', async () => {
    for (const [count, graphs] of [
      [8, 2], // 32 heads
      [34, 1], // 136: they fill the card
    ]) {
      const backend = open(10);
      const shape = { ...SMALL, headDim: 16 };
      const ours = new Sequences(backend, shape, count, FAR + 100);
      const law = new Sequences(createTsBackend(), shape, count, FAR + 100);
      for (let step = 0; step < 4; step++) {
        const far = step % 2 === 1;
        const pieces = Array.from({ length: count }, (_, i) => ({
          position: (far ? FAR + 99 : FAR - 1) - ((i * 37 + step * 11) % FAR),
          count: 1,
        }));
        pieces[step % count] = { position: far ? FAR + 1 : 5, count: 1 };
        expect(different(await law.attend(pieces), await ours.attend(pieces))).toEqual([]);
      }
      expect(backend.counts().graphs).toBe(graphs);
      await backend.dispose();
    }
  }, 60_000);

  /**
   * Terms that add up to just half way between two f32 numbers, and then some that vanish one by one, but not together: only the order
   * of the contract gives its sum.
   */
  it('adds terms in the order of the contract', async () => {
    const count = FAR + 100;
    const scores = new Float32Array(count).fill(-200); // terms of 0
    scores[0] = 0;
    let rest = 2 ** -24;
    for (let i = 1; rest > 2 ** -60; i += 8) {
      let x = Math.fround(Math.log(rest)) + 1e-4;
      while (expF32(Math.fround(x)) > rest) x -= 2 ** -21;
      scores[i] = x;
      rest -= expF32(scores[i]);
    }
    for (let i = 8; i < count; i += 8) scores[i] = -38.2; // 2^-55 and a little
    const terms = Array.from(scores, expF32);
    const add = (list: readonly number[]) => Math.fround(list.reduce((a, b) => a + b, 0));
    expect([add(terms), add([...terms].reverse())]).toEqual([1, 1 + 2 ** -23]);

    const run = async (backend: Backend) => {
      const shape = {
        nLayers: 1,
        nHeads: 1,
        nKvHeads: 1,
        headDim: 32,
        contextSize: count,
        kType: 'f32',
        vType: 'f32',
      } as const;
      const kv = backend.allocKv(shape);
      const [k, v, q, out] = [count, count, 1, 1].map((rows) => backend.alloc('f32', [rows, 32]));
      backend.write(
        k,
        new Float32Array(count * 32).map((_, i) => (i % 32 === 0 ? scores[i / 32] : 0)),
      );
      backend.write(
        v,
        new Float32Array(count * 32).map((_, i) => (i < 32 ? 1 : 0)),
      );
      backend.write(
        q,
        new Float32Array(32).map((_, i) => (i === 0 ? 1 : 0)),
      );
      backend.kvAppend({ kv, row: 0, count, position: 0 }, 0, k, v);
      backend.attention(out, q, { kv, row: 0, count: 1, position: count - 1 }, 0, 1);
      return backend.read(out, 32);
    };
    const want = await run(createTsBackend());
    expect(want[0]).toBe(1);
    for (const options of [{}, { [SPLIT]: 0 }]) {
      const backend = open(2, options);
      expect(different(want, await run(backend))).toEqual([]);
      await backend.dispose();
    }
  }, 60_000);

  it('needs its barriers', async () => {
    const want = await new Sequences(createTsBackend(), SMALL, 1, FAR + 200).attend(one(FAR + 190));
    const backend = open(3);
    const ours = new Sequences(backend, SMALL, 1, FAR + 200);
    await ours.attend(one(0));
    shim('barriers', 0);
    try {
      expect(different(want, await ours.attend(one(FAR + 190)))).not.toEqual([]);
    } finally {
      shim('barriers', 1);
    }
    await backend.dispose();
  });

  it.each([
    [1, 131_071, SMS, 1],
    [1, 131_071, SMS, 0],
    [2, 32_767, 1, 0], // heads together, their scores in device memory
  ])(
    '%i heads in a context of 131072, position %i',
    async (nHeads, position, sms, split) => {
      const shape = { nHeads, nKvHeads: 1, headDim: 16, ...HALVES };
      const run = (backend: Backend) => new Sequences(backend, shape, 1, 1 << 17).attend(one(position));
      shim('sms', sms);
      const backend = open(4, { [SPLIT]: split });
      expect(different(await run(createTsBackend()), await run(backend))).toEqual([]);
      await backend.dispose();
    },
    60_000,
  );

  /** MAX_SCORE_FLOATS of `native/run.cu` is 2^26; how many rows go together depends on the kernel that takes so many. */
  it.each([
    [20, 1 << 17, 80, SMS, [25, 25, 25, 5]],
    [5, (1 << 21) - 1, 13, 1, [4, 4, 4, 1]], // five rows are no tile, and heads together take the place of eight
    [40, (1 << 21) - 1, 2, SMS, [1, 1]], // more than there may be, of each row
  ] as const)(
    'of %i heads in a context of %i: %i rows on %i multiprocessors go in pieces',
    async (nHeads, contextSize, n, sms, pieces) => {
      shim('sms', sms);
      const shape = { nLayers: 1, nHeads, nKvHeads: 1, headDim: 16, contextSize, ...HALVES } as const;
      const run = async (backend: Backend) => {
        const kv = backend.allocKv(shape);
        const [k, v, q, out] = [1, 1, nHeads, nHeads].map((heads) => backend.alloc('f32', [n, heads * 16]));
        for (const [i, buf] of [k, v, q].entries()) {
          backend.write(buf, values('normal', n * (buf.shape[1] ?? 0), i + 1));
        }
        backend.kvAppend({ kv, row: 0, count: n, position: 0 }, 0, k, v);
        await backend.read(out, 1);
        const before = backend instanceof TestBackend ? backend.counts().launches : 0;
        backend.attention(out, q, { kv, row: 0, count: n, position: 0 }, 0, 0.3);
        const read = await backend.read(out, n * nHeads * 16);
        if (backend instanceof TestBackend) expect(backend.counts().launches - before).toBe(pieces.length);
        return read;
      };
      const backend = open(5);
      expect(different(await run(createTsBackend()), await run(backend))).toEqual([]);
      await backend.dispose();
    },
    60_000,
  );

  it('refuses a cache of more elements than there are numbers', () => {
    const context = new Library(shimPath!).open();
    const [rows, keys, cached] = [context.alloc(4), context.alloc(64), context.alloc(64)];
    const [layer, heads, width, positions] = [2 ** 20 - 1, 2 ** 15, 2 ** 10, 2 ** 19]; // 2^64 elements, which is 0 in 64 bits
    const facts = [heads, width, layer, 0, 1, 1, positions];
    const append = [7, 16, rows, 0, rows, 0, ...facts, keys, cached, 0];
    expect(() => context.run(append)).toThrow('kvAppend (command 0): a cache of more elements');
    const attend = [8, 18, rows, 0, rows, 0, heads, ...facts, 0, keys, cached, 0];
    expect(() => context.run(attend)).toThrow('attention (command 0): a cache of more elements');
    context.close();
  });

  it('takes no more memory than is planned, and from the first step on', async () => {
    for (const [contextSize, nHeads, nKvHeads, pieces, sms = SMS] of [
      [513, 4, 2, [1]],
      [4000, 20, 5, [1, 1]],
      [40_000, 6, 1, [1, 1, 1]],
      [3000, 40, 1, [1, 1, 1]],
      [40_000, 5, 1, Array<number>(9).fill(1), 1], // heads together
      [1 << 17, 20, 5, [51]], // in pieces: 51 rows have more scores than may lie there at a time
    ] as const) {
      const rows = pieces.reduce<number>((a, b) => a + b, 0);
      shim('sms', sms);
      const { backend, device } = await watched();
      const shape = { nLayers: 1, nHeads, nKvHeads, headDim: 16, contextSize, ...HALVES } as const;
      const rehearsal = backend.rehearse();
      rehearsal.free(rehearsal.allocQuantized(rows, 128)); // tells how many rows there will be
      const before = rehearsal.memory().usedBytes;
      rehearsal.free(rehearsal.allocKv(shape));
      const planned = rehearsal.memory().usedBytes - before;
      const [q, out] = [0, 1].map(() => backend.alloc('f32', [rows, nHeads * 16]));
      const caches = pieces.map(() => backend.allocKv(shape));
      const own = Number(device.info().usedBytes) - backend.memory().usedBytes;
      const used: number[] = [];
      for (const position of rows > 9 ? [0] : [0, FAR]) {
        let row = 0;
        for (const [i, count] of pieces.entries()) {
          backend.attention(out, q, { kv: caches[i], row, count, position }, 0, 0.1);
          row += count;
        }
        await backend.read(out, 1);
        used.push(Number(device.info().usedBytes) - backend.memory().usedBytes - own);
      }
      expect(used[0]).toBeGreaterThan(0);
      expect(new Set(used).size).toBe(1);
      expect(used[0], `${contextSize}`).toBeLessThanOrEqual(planned);
      await backend.dispose();
    }
  }, 60_000);
});
