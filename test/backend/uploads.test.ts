/**
 * Matrices on their way into the wasm backend: the bytes that end up in its memory are those that TypeScript makes, and what is
 * wrong is said in the same words. Also in the upper half of the memory, where addresses are negative as i32.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { conformanceCases, runCase, runConformance } from '../../src/kernels/conformance/run.ts';
import { type ValueKind, values } from '../../src/kernels/conformance/values.ts';
import type { Backend, WeightSource } from '../../src/kernels/interface.ts';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { WasmBackend } from '../../src/kernels/wasm/backend.ts';
import { CAPACITY_BYTES, MAX_PAGES, writeConstants } from '../../src/kernels/wasm/layout.ts';
import { WasmWeight } from '../../src/kernels/wasm/memory.ts';
import { Pool } from '../../src/kernels/wasm/pool.ts';
import { chooseVariant } from '../../src/kernels/wasm/variants.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { createNodeHost } from '../../src/platform/host-node.ts';
import { findNotFinite } from '../../src/tensors/decode.ts';
import { type BlockTernaryName, dtypeByName } from '../../src/tensors/dtype.ts';
import { encodeBF16, encodeF16, encodeF32 } from '../../src/tensors/floats.ts';
import { encodeI2S } from '../../src/tensors/i2s.ts';
import { loadPacked, type ReadTensor } from '../../src/tensors/load.ts';
import { packedBytes } from '../../src/tensors/packed.ts';
import { encodeQ6_K } from '../../src/tensors/q6_k.ts';
import { encodeQ8_0 } from '../../src/tensors/q8_0.ts';
import { loadRequantized, type SmallType } from '../../src/tensors/requantize.ts';
import { encodeTQ1 } from '../../src/tensors/tq1.ts';
import { encodeTQ2 } from '../../src/tensors/tq2.ts';

interface Opened {
  readonly backend: WasmBackend;
  readonly memory: WebAssembly.Memory;
}

/** As `openBackend`, but the memory can be looked at. */
async function opened(nThreads: number): Promise<Opened> {
  const threaded = nThreads > 1;
  const { variant } = await chooseVariant(threaded, ['simd']);
  const memory = new WebAssembly.Memory({ initial: 2, ...(threaded ? { maximum: MAX_PAGES, shared: true } : {}) });
  writeConstants(memory);
  const pool = await Pool.start(memory, variant!, nThreads, (await createNodeHost()).threads);
  const info = { name: 'wasm', variant: 'simd', nThreads, exact: true, notes: [] };
  return { backend: new WasmBackend(info, memory, pool), memory };
}

/** A file that hands out its bytes late, in no order, and in two parts. */
function slow(bytes: Uint8Array, seed = 1): ReadTensor {
  const rng = Rng.fromSeed(seed);
  const late = () => new Promise((resolve) => setTimeout(resolve, rng.nextUint32() % 4));
  return async (to, at) => {
    await late();
    to.set(bytes.subarray(at, at + (to.length >> 1)));
    await late();
    if (at + to.length > bytes.length) throw new Error(`read beyond the end: ${at} + ${to.length} of ${bytes.length}`);
    to.set(bytes.subarray(at, at + to.length));
  };
}

function ternary(
  dtype: BlockTernaryName,
  rows: number,
  columns: number,
  bytes: Uint8Array,
  read: ReadTensor = slow(bytes),
): WeightSource {
  const matrix = { where: 'here', dtype, rows, columns };
  return {
    kind: 'ternary',
    name: 'here',
    rows,
    columns,
    byteLength: packedBytes(rows, columns),
    fill: async (to) => Math.fround((await loadPacked(matrix, read, to)) * 0.5),
    encoded: { dtype, read, factor: 0.5 },
  };
}

function requantized(from: 'F32' | 'F16' | 'BF16', to: SmallType, columns: number, bytes: Uint8Array): WeightSource {
  const [source, made] = [dtypeByName(from), dtypeByName(to)];
  const elements = bytes.length / source.blockBytes;
  const read = slow(bytes);
  return {
    kind: 'dense',
    dtype: to,
    name: 'here',
    rows: elements / columns,
    columns,
    byteLength: (elements / made.blockElements) * made.blockBytes,
    fill: async (target) => {
      await loadRequantized({ where: 'here', dtype: source, elements, to }, read, target);
      return 1;
    },
    encoded: { dtype: from, read, factor: 1 },
  };
}

/** Without the way back: it fails if the backend needs it. */
function only(source: WeightSource): WeightSource {
  return { ...source, fill: () => Promise.reject(new Error('the backend had to be helped')) };
}

async function bytesOf(
  { backend, memory }: Opened,
  source: WeightSource,
): Promise<{ bytes: Uint8Array; scale: number }> {
  const uploading = backend.upload(source);
  const weight = await uploading;
  if (!(weight instanceof WasmWeight)) throw new Error('not a weight');
  return { bytes: new Uint8Array(memory.buffer, weight.address, source.byteLength).slice(), scale: weight.scale };
}

/** What should be in memory: Q6_K is arranged there. */
async function expected(source: WeightSource): Promise<{ bytes: Uint8Array; scale: number }> {
  const bytes = new Uint8Array(source.byteLength);
  const scale = await source.fill(bytes);
  return { scale, bytes: source.kind === 'dense' && source.dtype === 'Q6_K' ? arrangedQ6(bytes) : bytes };
}

/** The form of `assembly/q6_k.ts`, code by code. */
function arrangedQ6(file: Uint8Array): Uint8Array {
  const out = file.slice();
  for (let block = 0; block < file.length; block += 210) {
    const code = (h: number, group: number, i: number): number => {
      const low = (file[block + 64 * h + 32 * (group & 1) + i] >> (4 * (group >> 1))) & 15;
      return low | (((file[block + 128 + 32 * h + i] >> (2 * group)) & 3) << 4);
    };
    for (let at = 0; at < 192; at++) {
      const h = Math.floor(at / 96);
      const high = Math.floor((at % 96) / 48);
      const vector = Math.floor((at % 48) / 16);
      const byte = at % 16;
      // Pairs of codes by turns from the first and the second sixteen of a group.
      const i = 16 * ((byte >> 1) & 1) + 8 * high + 2 * (byte >> 2) + (byte & 1);
      out[block + at] = code(h, vector, i) | (((code(h, 3, i) >> (2 * vector)) & 3) << 6);
    }
  }
  return out;
}

const ENCODERS = { I2_S: encodeI2S, TQ1_0: encodeTQ1, TQ2_0: encodeTQ2 };
const FLOATS = { F32: encodeF32, F16: encodeF16, BF16: encodeBF16 };

/** Random trits; every third run of 256 is zeros, so that TQ types have blocks without a scale. */
function tritsOf(length: number, seed: number): Int8Array {
  const rng = Rng.fromSeed(seed);
  return Int8Array.from({ length }, (_, i) => ((i >> 8) % 3 === 1 ? 0 : (rng.nextUint32() % 3) - 1));
}

describe.each([1, 3])('%i threads', (nThreads) => {
  let one: Opened;
  beforeAll(async () => {
    one = await opened(nThreads);
    one.backend.reserve(64 << 20);
  });
  afterAll(() => one.backend.dispose());

  it.each<[BlockTernaryName, number, number]>([
    ['I2_S', 1, 128],
    ['I2_S', 2, 64],
    ['I2_S', 4, 32],
    ['I2_S', 5, 640],
    ['I2_S', 4, 160],
    ['I2_S', 6, 8640],
    ['I2_S', 1000, 8640], // two pieces of a megabyte through staging
    ['I2_S', 2000, 8960], // two pieces of 4 MiB in place
    ['TQ1_0', 1, 256],
    ['TQ1_0', 7, 768],
    ['TQ1_0', 2100, 2560],
    ['TQ2_0', 1, 256],
    ['TQ2_0', 7, 768],
    ['TQ2_0', 2100, 2560],
  ])('%s of %i x %i is packed as TypeScript packs it', async (dtype, rows, columns) => {
    const source = ternary(dtype, rows, columns, ENCODERS[dtype](tritsOf(rows * columns, rows), 0.37));
    const got = await bytesOf(one, only(source));
    const want = await expected(source);
    expect(got.scale).toBe(want.scale);
    expect(Buffer.compare(got.bytes, want.bytes)).toBe(0);
  });

  it('what no kernel takes goes the way of TypeScript', async () => {
    const source = ternary('I2_S', 128, 3, encodeI2S(tritsOf(384, 1), 0.37));
    expect(await bytesOf(one, source)).toEqual(await expected(source));
    const zeros = ternary('TQ2_0', 2, 256, encodeTQ2(new Int8Array(512), 0.37));
    expect(await bytesOf(one, only(zeros))).toMatchObject({ scale: 0.5 });
  });

  it.each([
    ['TQ1_0', 54],
    ['TQ2_0', 66],
  ] as const)('a block of %s with scale 0 is zeros, whatever its codes are', async (dtype, blockBytes) => {
    const bytes = ENCODERS[dtype](new Int8Array(2048).fill(1), 0.37);
    for (const block of [0, 3, 7]) bytes.fill(0, blockBytes * (block + 1) - 2, blockBytes * (block + 1));
    const source = ternary(dtype, 4, 512, bytes);
    const [got, want] = [await bytesOf(one, only(source)), await expected(source)];
    expect(got).toEqual(want);
    expect([...new Set(got.bytes)].sort((a, b) => a - b)).toEqual([0x55, 0xaa]);
  });

  it('all 256 bytes of TQ1_0 are taken or refused as by TypeScript, in both places', async () => {
    for (const at of [0, 17, 40, 48, 51]) {
      for (let byte = 0; byte < 256; byte++) {
        const bytes = encodeTQ1(tritsOf(256, 3), 0.37);
        bytes[at] = byte;
        const atOnce: ReadTensor = async (to, from) => to.set(bytes.subarray(from, from + to.length));
        const source = ternary('TQ1_0', 1, 256, bytes, atOnce);
        const want = await expected(source).catch((error: Error) => error.message);
        const got = await bytesOf(one, source).catch((error: Error) => error.message);
        expect(got, `byte ${byte} at ${at}`).toEqual(want);
      }
    }
  });

  type Damage = [what: string, dtype: BlockTernaryName, rows: number, damage: (bytes: Uint8Array) => void];
  const rowsOf2560 = { I2_S: 640, TQ1_0: 540, TQ2_0: 660 };
  const at = (bytes: Uint8Array, where: number, byte: number) => bytes.set([byte], where);
  it.each<Damage>([
    ['a code 3 in the first byte', 'I2_S', 3, (b) => at(b, 0, b[0] | 0xc0)],
    ['a code 3 in the last byte', 'I2_S', 3, (b) => at(b, 3 * 640 - 1, 3)],
    ['a code 3 in a later piece', 'I2_S', 7000, (b) => at(b, 6999 * 640 + 5, 0x0c)],
    ['a scale that is 0', 'I2_S', 3, (b) => new DataView(b.buffer).setFloat32(3 * 640, 0, true)],
    ['a scale that is NaN', 'I2_S', 3, (b) => new DataView(b.buffer).setFloat32(3 * 640, Number.NaN, true)],
    ['a code 3', 'TQ2_0', 3, (b) => at(b, 66 * 11 + 63, 0x30)],
    ['a code 3 in a later piece', 'TQ2_0', 1700, (b) => at(b, 660 * 1699 + 1, 0x30)],
    ['another scale', 'TQ2_0', 3, (b) => at(b, 66 * 5 + 64, b[66 * 5 + 64] ^ 1)],
    ['another scale in a later piece', 'TQ2_0', 1700, (b) => at(b, 660 * 1699 + 64, b[660 * 1699 + 64] ^ 1)],
    ['a first scale that is negative', 'TQ2_0', 3, (b) => at(b, 65, b[65] | 0x80)],
    ['a scale that is infinite', 'TQ2_0', 3, (b) => b.set([0, 0x7c], 64)],
    ['a byte of no trits', 'TQ1_0', 3, (b) => at(b, 54 * 29 + 47, 1)],
    ['another scale', 'TQ1_0', 3, (b) => at(b, 54 * 5 + 52, b[54 * 5 + 52] ^ 1)],
    ['a scale that is NaN', 'TQ1_0', 3, (b) => b.set([1, 0x7c], 54 * 5 + 52)],
  ])('%s (%s) is refused in the same words', async (_, dtype, rows, damage) => {
    expect(rowsOf2560[dtype]).toBeGreaterThan(0);
    const bytes = ENCODERS[dtype](tritsOf(rows * 2560, rows), 0.37);
    damage(bytes);
    const source = ternary(dtype, rows, 2560, bytes);
    const law = createTsBackend();
    const want = await law.upload(source).catch((error: Error) => error);
    expect(want).toBeInstanceOf(Error);
    const used = one.backend.memory().usedBytes;
    await expect(one.backend.upload(source)).rejects.toThrow((want as Error).message);
    expect(one.backend.memory().usedBytes).toBe(used);
  });

  it.each<['F32' | 'F16' | 'BF16', SmallType, number]>(
    (['F32', 'F16', 'BF16'] as const).flatMap((from) => [
      [from, 'Q8_0', 160],
      [from, 'Q6_K', 768],
    ]),
  )('%s becomes the %s of TypeScript', async (from, to, columns) => {
    const kinds: ValueKind[] = [
      'normal',
      'ties',
      'zeros',
      'equal',
      'negative',
      ...(from === 'F16' ? [] : ['extreme' as const]),
    ];
    for (const kind of kinds) {
      // "extreme" beyond what a half holds as a scale is refused, so it is brought down.
      const scale = kind === 'extreme' ? 2 ** -84 : 1;
      const data = values(kind, 70 * columns, 5).map((x) => x * scale);
      const source = requantized(from, to, columns, FLOATS[from](data));
      const [got, want] = [await bytesOf(one, only(source)), await expected(source)];
      expect(Buffer.compare(got.bytes, want.bytes), kind).toBe(0);
    }
  });

  it.each<SmallType>(['Q8_0', 'Q6_K'])('all finite halves become the %s of TypeScript', async (to) => {
    const halves = new Uint16Array(65536).map((_, i) => ((i & 0x7c00) === 0x7c00 ? i & 0x83ff : i));
    // Neighbours of one magnitude in a block, and then of all.
    const mixed = halves.map((_, i) => halves[(i * 40503) & 0xffff]);
    for (const list of [halves, mixed]) {
      const source = requantized('F16', to, 1024, new Uint8Array(list.buffer));
      const [got, want] = [await bytesOf(one, only(source)), await expected(source)];
      expect(Buffer.compare(got.bytes, want.bytes)).toBe(0);
    }
  });

  it('tables too large for one read are requantised in pieces', async () => {
    const data = values('normal', 700 * 2048, 9);
    for (const to of ['Q8_0', 'Q6_K'] as const) {
      const source = requantized('F16', to, 2048, encodeF16(data));
      const [got, want] = [await bytesOf(one, only(source)), await expected(source)];
      expect(Buffer.compare(got.bytes, want.bytes), to).toBe(0);
    }
  });

  it('values that are not finite, or too large for a scale, are refused in the same words', async () => {
    const huge = values('normal', 512, 1).fill(9e9, 300, 301);
    const bad = values('normal', 512, 1).fill(Number.NaN, 511);
    for (const data of [huge, bad]) {
      for (const to of ['Q8_0', 'Q6_K'] as const) {
        const source = requantized('F32', to, 256, encodeF32(data));
        const want = await expected(source).catch((error: Error) => error);
        expect(want).toBeInstanceOf(Error);
        await expect(one.backend.upload(source)).rejects.toThrow((want as Error).message);
      }
    }
  });

  it.each(['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K'] as const)(
    '%s is checked wherever a value may be wrong',
    async (dtype) => {
      const encode = { ...FLOATS, Q8_0: encodeQ8_0, Q6_K: encodeQ6_K }[dtype];
      const { blockBytes } = dtypeByName(dtype);
      // Without blocks, lengths that no vector divides.
      const columns = blockBytes > 4 ? 1280 : 1285;
      const good = encode(values('normal', 3 * columns, 2));
      const patterns = {
        F32: [0, 0, 0x80, 0xff],
        F16: [0, 0x7c],
        BF16: [0x80, 0xff],
        Q8_0: [0, 0xfc],
        Q6_K: [1, 0x7c],
      };
      const source = (bytes: Uint8Array): WeightSource => {
        const read = slow(bytes);
        return {
          kind: 'dense',
          dtype,
          name: 'here',
          rows: 3,
          columns,
          byteLength: bytes.length,
          fill: async () => Promise.reject(new Error(`element ${findNotFinite(dtypeByName(dtype), bytes)}`)),
          encoded: { dtype, read, factor: 1 },
        };
      };
      const inMemory = dtype === 'Q6_K' ? arrangedQ6(good) : good;
      expect((await bytesOf(one, source(good))).bytes).toEqual(inMemory);
      const nBlocks = good.length / blockBytes;
      for (const block of new Set([0, 1, 7, nBlocks >> 1, nBlocks - 3, nBlocks - 2, nBlocks - 1])) {
        const bytes = good.slice();
        bytes.set(patterns[dtype], block * blockBytes + (dtype === 'Q6_K' ? 208 : 0));
        await expect(one.backend.upload(source(bytes)), `block ${block}`).rejects.toThrow(/element \d/);
      }
    },
  );

  it('several at a time get rooms of their own, and neighbours stay as they are', async () => {
    const before = one.backend.alloc('f32', [1]);
    const sources = [3, 5, 7, 9, 2100].map((rows) =>
      ternary('TQ2_0', rows, 2560, encodeTQ2(tritsOf(rows * 2560, rows), 0.37)),
    );
    const guards: ReturnType<Backend['alloc']>[] = [];
    const uploading = sources.map((source) => {
      const pending = bytesOf(one, only(source));
      guards.push(one.backend.alloc('f32', [16]));
      return pending;
    });
    for (const [i, pending] of uploading.entries()) {
      const [got, want] = [await pending, await expected(sources[i])];
      expect(Buffer.compare(got.bytes, want.bytes)).toBe(0);
    }
    for (const guard of [before, ...guards]) {
      const count = guard.shape[0];
      expect(await one.backend.read(guard, count)).toEqual(new Float32Array(count));
    }
  });

  it('a read that fails ends the upload with its reason, gives the room back and leaves nothing under way', async () => {
    const used = one.backend.memory().usedBytes;
    let underWay = 0;
    const source = ternary('I2_S', 7000, 2560, new Uint8Array(0));
    const read: ReadTensor = async (_, offset) => {
      underWay++;
      await new Promise((resolve) => setTimeout(resolve, 5));
      underWay--;
      if (offset > 0) throw new Error('the disk is gone');
    };
    const failing = { ...source, encoded: { dtype: 'I2_S', read, factor: 1 } } as const;
    await expect(one.backend.upload(failing)).rejects.toThrow('the disk is gone');
    expect(underWay).toBe(0);
    expect(one.backend.memory().usedBytes).toBe(used);
  });
});

it('unshared memory that must grow takes one matrix after the other', async () => {
  const one = await opened(1);
  const sources = [300, 500, 700].map((rows) =>
    ternary('TQ2_0', rows, 2560, encodeTQ2(tritsOf(rows * 2560, rows), 0.37)),
  );
  const all = await Promise.all(sources.map((source) => bytesOf(one, only(source))));
  for (const [i, got] of all.entries()) {
    expect(Buffer.compare(got.bytes, (await expected(sources[i])).bytes)).toBe(0);
  }
  await one.backend.dispose();
});

describe.each([1, 2])('above 2 GiB, %i threads', (nThreads) => {
  /** Untouched pages of a memory cost nothing, so this takes address space only. */
  const blockBytes = 2 ** 31 + 4096;
  const some = conformanceCases().filter((_, i) => i % 4 === 0);

  it.each([
    ['across 2 GiB', 2 ** 31 - (1 << 20)],
    ['above 2.1 GiB', blockBytes],
    ['to the last byte', CAPACITY_BYTES - (72 << 20)],
  ])(
    '%s every op computes the same',
    async (where, bytes) => {
      const one = await opened(nThreads);
      const half = Math.floor(bytes / 8) * 4;
      // Not cleared and not touched: two blocks, for one array of more than 2^31 bytes is more than some engines give.
      one.backend.place({ kind: 'ternary', name: 'room', rows: 1, columns: 1, byteLength: half });
      one.backend.place({ kind: 'ternary', name: 'room', rows: 1, columns: 1, byteLength: half });
      const outcomes = await runConformance(one.backend, where === 'to the last byte' ? some.slice(0, 40) : some);
      expect(outcomes.filter((outcome) => !outcome.ok)).toEqual([]);
      expect(one.backend.spanBytes).toBeGreaterThan(bytes);
      if (where === 'to the last byte') {
        const rest = CAPACITY_BYTES - one.backend.spanBytes;
        const columns = 128;
        const rows = Math.floor(rest / 32) - 4;
        // The upper megabytes of what is left hold the last rows of a matrix.
        const source = ternary('I2_S', rows, columns, new Uint8Array(0));
        const read: ReadTensor = async (to, at) => {
          if (to.length === 4) new DataView(to.buffer).setFloat32(0, 1, true);
          else to.fill(at % 64 === 0 ? 0x55 : 0x56);
        };
        const weight = await one.backend.upload(only({ ...source, encoded: { dtype: 'I2_S', read, factor: 1 } }));
        expect((weight as WasmWeight).address + source.byteLength).toBeGreaterThan(CAPACITY_BYTES - 4096);
        expect(one.backend.spanBytes).toBeLessThanOrEqual(CAPACITY_BYTES);
      }
      await one.backend.dispose();
    },
    120_000,
  );

  it('what lies beyond is refused with the numbers', async () => {
    const one = await opened(nThreads);
    const place = () =>
      one.backend.place({ kind: 'ternary', name: 'room', rows: 1, columns: 1, byteLength: blockBytes });
    place();
    expect(place).toThrow(/cannot grow.*4294901760/);
    expect(() => one.backend.reserve(2 ** 32)).toThrow(/cannot grow/);
    await one.backend.dispose();
  });
});

it('a case runs on the law', async () => {
  // What the filters above leave must include the ops of loading.
  const ops = new Set(conformanceCases().map((one) => one.op));
  expect(ops.has('repack') && ops.has('requantize')).toBe(true);
  const law = createTsBackend();
  expect(Object.keys(await runCase(law, conformanceCases()[0]))).toEqual(['out']);
});
