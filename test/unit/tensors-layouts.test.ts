/**
 * The layouts that a type id does not tell: I2_S as ARM builds and row-interleaving builds write it, TL1 and TL2 with their
 * tiles, and floats that are ternary. Worked bytes first, then every layout against the plain list of trits, then damage.
 */
import { describe, expect, it } from 'vitest';
import { dtypeByName, tensorByteLength } from '../../src/tensors/dtype.ts';
import { encodeBF16, encodeF16, encodeF32 } from '../../src/tensors/floats.ts';
import { decodeTritsI2S } from '../../src/tensors/i2s.ts';
import { encodeI2SAs, I2S_LAYOUTS } from '../../src/tensors/i2s-layouts.ts';
import { loadPacked } from '../../src/tensors/load.ts';
import { packedBytes, packRows } from '../../src/tensors/packed.ts';
import { encodeQ8_0 } from '../../src/tensors/q8_0.ts';
import { hasTwoTilings, parseTilesChoice, type TilesChoice, tilesOf } from '../../src/tensors/tiles.ts';
import { encodeTL1 } from '../../src/tensors/tl1.ts';
import { encodeTL2, usedBytesTL2 } from '../../src/tensors/tl2.ts';
import type { TernaryMatrix } from '../../src/tensors/transcode.ts';
import { random, randomTrits, refuses } from '../hostile/builder.ts';

type Kind = Pick<TernaryMatrix, 'dtype' | 'layout' | 'tiles'>;

async function load(kind: Kind, rows: number, columns: number, bytes: Uint8Array, pieceBytes?: number) {
  const out = new Uint8Array(packedBytes(rows, columns));
  const read = async (target: Uint8Array, at: number) => {
    expect(at + target.length).toBeLessThanOrEqual(bytes.length);
    target.set(bytes.subarray(at, at + target.length));
  };
  const scale = await loadPacked(
    { where: 'f: t', rows, columns, ...kind },
    read,
    out,
    pieceBytes === undefined ? {} : { pieceBytes },
  );
  return { out, scale };
}

/** Trits 1, 0, -1, 1 at the given places, zeros elsewhere. */
function fourTrits(count: number, places: readonly number[]): Int8Array {
  const trits = new Int8Array(count);
  [1, 0, -1, 1].forEach((trit, i) => {
    trits[places[i]] = trit;
  });
  return trits;
}

describe('worked bytes', () => {
  it.each([
    ['x86', [0, 32, 64, 96]],
    ['arm64', [0, 16, 32, 48]],
    ['rows4', [0, 128, 256, 384]],
  ] as const)('I2_S %s: 1, 0, -1, 1 are byte 0x92', (layout, places) => {
    const bytes = encodeI2SAs(layout, fourTrits(4 * 128, places), 128, 0.5);
    expect(bytes.length).toBe(4 * 32 + 32);
    expect(bytes[0]).toBe(0x92);
    // Four codes of 1 are 0x55, behind them 0.5 as a float.
    expect([...bytes.subarray(1, 128)].every((byte) => byte === 0x55)).toBe(true);
    expect([...bytes.subarray(128)]).toEqual([0, 0, 0, 0x3f, ...Array(28).fill(0)]);
  });

  it('an x86 file read as arm64 has its columns moved as formats.md says', () => {
    const trits = randomTrits(128, 3);
    const bytes = encodeI2SAs('arm64', trits, 128, 1);
    const asX86 = new Int8Array(128);
    decodeTritsI2S(bytes, 0, 128, asX86);
    for (let e = 0; e < 128; e++) {
      expect(asX86[e]).toBe(trits[64 * ((e & 31) >> 4) + 16 * (e >> 5) + (e & 15)]);
    }
  });

  it('TL1: 1, 0, -1, 1 are byte 0x72, and bytes go row by row in sixteens, then by fours of columns', () => {
    const tiles = { rows: 32, columns: 64, innerRows: 32 }; // by = 8
    const at = (row: number, column: number) => {
      const trits = new Int8Array(64 * 128);
      trits.set([1, 0, -1, 1], row * 128 + column);
      return encodeTL1(trits, 128, 1, tiles).indexOf(0x72);
    };
    expect(at(0, 0)).toBe(0);
    expect(at(1, 0)).toBe(1); // rj
    expect(at(0, 4)).toBe(16); // cg
    expect(at(16, 0)).toBe(32); // rg
    expect(at(0, 8)).toBe(64); // cb
    expect(at(0, 64)).toBe(32 * 16); // tk
    expect(at(32, 0)).toBe(32 * 32); // tm
    // All zeros: nibbles of 4.
    expect([...encodeTL1(new Int8Array(32 * 64), 64, 1, tiles).subarray(0, 512)].every((b) => b === 0x44)).toBe(true);
  });

  it('TL2: threes, signs and pairs where formats.md has them', () => {
    const tiles = { rows: 32, columns: 96, innerRows: 32 };
    const K = 288 + 32; // three_k 288, two_k 32
    const nMagnitudes = (32 * 288) / 6;
    const encode = (row: number, column: number, ...trits: number[]) => {
      const all = new Int8Array(32 * K);
      all.set(trits, row * K + column);
      return encodeTL2(all, K, 1, tiles);
    };
    const first = encode(0, 0, 1, -1, 0, -1, 1, 0);
    expect(first.length).toBe(tensorByteLength(dtypeByName('TL2'), [K, 32]));
    expect(first[0]).toBe(0x66); // 9 - 3 and |-9 + 3|
    // Row 0 is the upper of its two bits; the second three, bit 15 - 2.
    expect([first[nMagnitudes], first[nMagnitudes + 1]]).toEqual([0, 1 << 5]);
    // Row 8 is at place 16, row 16 at place 8: its sign is the lower bit of row 0's pair.
    expect(encode(8, 0, 1, 1, 1)[16]).toBe(0xd0);
    const row16 = encode(16, 0, -1, -1, -1);
    expect(row16[8]).toBe(0xd0);
    expect([row16[nMagnitudes], row16[nMagnitudes + 1]]).toEqual([0, 1 << 6]);
    expect(encode(0, 6, 0, 0, 1)[32]).toBe(0x10); // cb
    expect(encode(0, 96, 0, 0, 1)[32 * 16]).toBe(0x10); // tk
    const pairsAt = nMagnitudes + (32 * 288) / 24;
    expect(encode(0, 288, 1, 0, -1, 1)[pairsAt]).toBe(0x72);
    expect(encode(1, 292, 1, 0, -1, 1)[pairsAt + 32 + 1]).toBe(0x72);
    expect(usedBytesTL2(32, K, tiles)).toBe(pairsAt + (32 * 32) / 4);
  });

  // Columns of the table in formats.md 2.8: used and whole bytes.
  it.each([
    [1536, 4096, 1314816, 1327136],
    [1536, 1536, 491520, 507936],
    [4096, 1536, 1310720, 1354464],
    [3200, 8640, 5760000, 5794176],
    [3200, 3200, 2137600, 2167520],
    [8640, 3200, 5771520, 5852192],
    [14336, 4096, 12271616, 12386336],
    [4096, 14336, 12238848, 12277120],
    [1024, 4096, 876544, 884768],
    [4096, 4096, 3506176, 3538976],
  ])('TL2 %i x %i uses %i of %i bytes', (rows, columns, used, whole) => {
    expect(usedBytesTL2(rows, columns, tilesOf('TL2', rows, columns))).toBe(used);
    expect(tensorByteLength(dtypeByName('TL2'), [columns, rows])).toBe(whole);
  });
});

describe('I2_S', () => {
  it.each(
    I2S_LAYOUTS.flatMap((layout) =>
      [
        [4, 128],
        [8, 256],
        [12, 384],
        [8, 192], // as 8640: whole blocks of 64, not of 128
        [16, 160], // rows begin inside every kind of block
        [128, 100],
        [64, 8640],
      ].map(([rows, columns]) => [layout, rows, columns] as const),
    ),
  )('%s %i x %i gives the packed rows of its trits in any pieces', async (layout, rows, columns) => {
    const trits = randomTrits(rows * columns, rows + columns);
    const bytes = encodeI2SAs(layout, trits, columns, 0.25);
    const expected = packRows(trits, rows, columns);
    for (const pieceBytes of [1, 300, 5000, 1 << 20]) {
      const { out, scale } = await load({ dtype: 'I2_S', layout }, rows, columns, bytes, pieceBytes);
      expect(scale).toBe(0.25);
      expect(Buffer.compare(out, expected), `pieces of ${pieceBytes}`).toBe(0);
    }
  });

  it.each(I2S_LAYOUTS)('%s: code 3 is refused, naming the value', async (layout) => {
    const next = random(7);
    for (const [rows, columns] of [
      [8, 256],
      [16, 160],
    ]) {
      for (let i = 0; i < 20; i++) {
        const element = Math.floor(next() * rows * columns);
        const trits = randomTrits(rows * columns, i);
        trits[element] = 1;
        const bytes = encodeI2SAs(layout, trits, columns, 1);
        const before = bytes.slice();
        // +1 is code 2; the value's own field is found by changing it.
        trits[element] = 0;
        const other = encodeI2SAs(layout, trits, columns, 1);
        const at = before.findIndex((byte, j) => byte !== other[j]);
        bytes[at] |= before[at] ^ other[at];
        await refuses(
          load({ dtype: 'I2_S', layout }, rows, columns, bytes, 200),
          'bad-tensor',
          new RegExp(`f: t value ${element}: code 3`),
        );
      }
    }
  });

  it.each([Number.NaN, 0, -1, Infinity])('refuses a scale of %d in every layout', async (scale) => {
    for (const layout of I2S_LAYOUTS) {
      const bytes = encodeI2SAs(layout, new Int8Array(512), 128, 1);
      new DataView(bytes.buffer).setFloat32(128, scale, true);
      await refuses(load({ dtype: 'I2_S', layout }, 4, 128, bytes), 'bad-tensor', /bad scale/);
    }
  });

  it('refuses rows that are no fours as rows4', async () => {
    const bytes = encodeI2SAs('x86', new Int8Array(256), 128, 1);
    await refuses(load({ dtype: 'I2_S', layout: 'rows4' }, 2, 128, bytes), 'bad-tensor', /rows in fours/);
    await refuses(() => encodeI2SAs('rows4', new Int8Array(256), 128, 1), 'bad-argument', /multiple of 512/);
  });
});

const PRESETS = [
  [1536, 4096],
  [1536, 1536],
  [4096, 1536],
  [3200, 8640],
  [3200, 3200],
  [8640, 3200],
  [14336, 4096],
  [4096, 14336],
  [1024, 4096],
  [4096, 4096],
] as const;

/** The matrix of one tile of rows: what a preset does with columns, in a size that a test can go through. */
function scaledDown(rows: number, columns: number, dtype: 'TL1' | 'TL2', list: 'codegen' | 'preset') {
  const tiles = tilesOf(dtype, rows, columns, list);
  const choice = { [`${tiles.rows}x${columns}`]: `${tiles.rows}/${tiles.columns}/${tiles.innerRows}` };
  return { rows: tiles.rows, tiles, choice };
}

const encoders = { TL1: encodeTL1, TL2: encodeTL2 };

describe.each(['TL1', 'TL2'] as const)('%s', (dtype) => {
  const encode = encoders[dtype];

  const lists = (m: number, k: number) =>
    dtype === 'TL1' && hasTwoTilings(m, k) ? (['codegen', 'preset'] as const) : (['codegen'] as const);
  it.each(PRESETS.flatMap(([m, k]) => lists(m, k).map((list) => [m, k, list] as const)))(
    'one tile of the preset %i x %i (%s) round-trips',
    async (m, columns, list) => {
      const { rows, tiles, choice } = scaledDown(m, columns, dtype, list);
      const trits = randomTrits(rows * columns, m + columns);
      const { out, scale } = await load({ dtype, tiles: choice }, rows, columns, encode(trits, columns, 0.75, tiles));
      expect(scale).toBe(0.75);
      expect(Buffer.compare(out, packRows(trits, rows, columns))).toBe(0);
    },
  );

  it.each([
    [1536, 1536],
    [3200, 3200],
    [1024, 4096],
  ])('a whole matrix of %i x %i round-trips, in large and small pieces', async (rows, columns) => {
    const trits = randomTrits(rows * columns, 11);
    const bytes = encode(trits, columns, 0.75, tilesOf(dtype, rows, columns));
    expect(bytes.length).toBe(tensorByteLength(dtypeByName(dtype), [columns, rows]));
    const expected = packRows(trits, rows, columns);
    for (const pieceBytes of [1, undefined]) {
      const { out } = await load({ dtype }, rows, columns, bytes, pieceBytes);
      expect(Buffer.compare(out, expected)).toBe(0);
    }
  });

  it.each([
    [256, 256],
    [128, 256],
    [768, 256],
    [256, 768],
  ])('the shape %i x %i of our tiny models round-trips', async (rows, columns) => {
    const trits = randomTrits(rows * columns, 5);
    const { out } = await load({ dtype }, rows, columns, encode(trits, columns, 1, tilesOf(dtype, rows, columns)));
    expect(Buffer.compare(out, packRows(trits, rows, columns))).toBe(0);
  });

  it('refuses nibbles that no encoder writes, naming row and column', async () => {
    const next = random(3);
    const [rows, columns] = [256, 256];
    const tiles = tilesOf(dtype, rows, columns);
    const used = dtype === 'TL1' ? (rows * columns) / 4 : usedBytesTL2(rows, columns, tiles);
    const nMagnitudes = (rows * 192) / 6;
    for (let i = 0; i < 40; i++) {
      const at = Math.floor(next() * (dtype === 'TL1' ? used : nMagnitudes));
      const bytes = encode(randomTrits(rows * columns, i), columns, 1, tiles);
      bytes[at] = i % 2 === 0 ? bytes[at] | 0xf0 : bytes[at] | 0x0f;
      await refuses(
        load({ dtype }, rows, columns, bytes),
        'bad-tensor',
        /f: t row \d+ column \d+: a nibble that no TL/,
      );
    }
  });

  it.each([Number.NaN, 0, -0.5, -Infinity])('refuses a scale of %d', async (scale) => {
    const bytes = encode(randomTrits(256 * 256, 1), 256, 1, tilesOf(dtype, 256, 256));
    new DataView(bytes.buffer).setFloat32(bytes.length - 32, scale, true);
    await refuses(load({ dtype }, 256, 256, bytes), 'bad-tensor', /f: t: bad scale/);
  });

  it('refuses shapes of which nothing says how they are cut, and takes them when told', async () => {
    await refuses(
      () => tilesOf(dtype, 2560, 2560),
      'bad-tensor',
      /tiles of TL\d are not known for this shape.*got 2560x2560.*--tl-tiles 2560x2560=BM\/BK\/bm/,
    );
    const text = dtype === 'TL1' ? '2560x2560=320/128/64' : '2560x2560=320/96/32';
    expect(tilesOf(dtype, 2560, 2560, parseTilesChoice(text)).rows).toBe(320);
  });

  const misfits: [text: string, names: RegExp][] =
    dtype === 'TL1'
      ? [
          ['250/128/32', /rows a multiple of BM/],
          ['256/128/48', /BM a multiple of bm/],
          ['256/128/8', /bm 16, 32 or 64/],
          ['256/100/32', /columns a multiple of BK/],
          ['256/4/32', /BK a multiple of 256 \/ bm/],
          ['0/0/0', /not empty/],
        ]
      : [
          ['250/96/32', /rows a multiple of BM/],
          ['256/96/64', /bm 32/],
          ['256/100/32', /BK a multiple of 24/],
          ['256/72/32', /of 32 beyond that/],
          ['256/1920/32', /at most 256 columns/],
        ];
  it.each(misfits)('tiles of %s do not fit', async (text, names) => {
    await refuses(() => tilesOf(dtype, 2560, 2560, { '2560x2560': text }), 'bad-tensor', names);
  });
});

describe('TL2', () => {
  const tiles = tilesOf('TL2', 256, 256);

  it('refuses the sign of a zero', async () => {
    const bytes = encodeTL2(new Int8Array(256 * 256), 256, 1, tiles);
    // Bit 13 of the first pair of bytes: the second three of row 0.
    bytes[(256 * 192) / 6 + 1] = 1 << 5;
    await refuses(load({ dtype: 'TL2' }, 256, 256, bytes), 'bad-tensor', /row 0 column 3: a sign where/);
  });

  it('refuses anything between the pairs and the scale', async () => {
    const used = usedBytesTL2(256, 256, tiles);
    const bytes = encodeTL2(randomTrits(256 * 256, 1), 256, 1, tiles);
    for (const at of [used, bytes.length - 33]) {
      const damaged = bytes.slice();
      damaged[at] = 1;
      await refuses(load({ dtype: 'TL2' }, 256, 256, damaged), 'bad-tensor', /only zeros.*0x01 at \d+.*generate-dummy/);
    }
    bytes.fill(0xee, bytes.length - 28); // behind the scale may be anything
    await load({ dtype: 'TL2' }, 256, 256, bytes);
  });
});

describe('the choice of tiles', () => {
  it('differs between the lists for Llama3-8B in TL1 only', () => {
    expect(PRESETS.filter(([m, k]) => hasTwoTilings(m, k))).toEqual(PRESETS.slice(6));
    expect(tilesOf('TL1', 4096, 14336, 'preset')).toEqual({ rows: 256, columns: 128, innerRows: 32 });
    expect(tilesOf('TL1', 4096, 14336)).toEqual({ rows: 128, columns: 64, innerRows: 64 });
  });

  it('is read from text', async () => {
    expect(parseTilesChoice('preset')).toBe('preset');
    expect(parseTilesChoice('64x128=32/64/32, 1x2=3/4/5') satisfies TilesChoice).toEqual({
      '64x128': '32/64/32',
      '1x2': '3/4/5',
    });
    for (const text of ['', 'x', '64x128', '64x128=', '64x128=1/2', '64x128=1/2/3/4', 'ax1=1/2/3', '1x1=1/2/-3']) {
      await refuses(() => parseTilesChoice(text), 'bad-argument', /not tiles/);
    }
  });
});

describe('floats that are ternary', () => {
  const [rows, columns] = [6, 160];
  const trits = randomTrits(rows * columns, 2);
  const values = Float32Array.from(trits, (trit) => 0.75 * trit);
  const types = { F32: encodeF32, F16: encodeF16, BF16: encodeBF16 } as const;

  it.each(Object.keys(types) as (keyof typeof types)[])('%s gives the packed rows and the scale', async (dtype) => {
    for (const pieceBytes of [1, 1 << 20]) {
      const { out, scale } = await load({ dtype }, rows, columns, types[dtype](values), pieceBytes);
      expect(scale).toBe(0.75);
      expect(Buffer.compare(out, packRows(trits, rows, columns))).toBe(0);
    }
  });

  it('Q8_0 too: its blocks have the one scale or none', async () => {
    const bytes = encodeQ8_0(values);
    const { out } = await load({ dtype: 'Q8_0' }, rows, columns, bytes);
    expect(Buffer.compare(out, packRows(trits, rows, columns))).toBe(0);
  });

  it.each([0.5, -0.7500001, Number.NaN, Infinity])('a %d among them is refused where it stands', async (value) => {
    const damaged = values.slice();
    damaged[3 * columns + 17] = value;
    await refuses(
      load({ dtype: 'F32' }, rows, columns, encodeF32(damaged)),
      'bad-tensor',
      /f: t row 3 column 17: a value that is not ternary/,
    );
  });

  it('nothing but zeros has scale 1', async () => {
    const { out, scale } = await load({ dtype: 'F32' }, 2, 128, new Uint8Array(1024));
    expect(scale).toBe(1);
    expect(out.every((byte) => byte === 0x55)).toBe(true);
  });
});
