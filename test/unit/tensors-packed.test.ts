import { describe, expect, it } from 'vitest';
import { f16ToNumber, numberToF16 } from '../../src/numeric/f16.ts';
import type { BlockTernaryName } from '../../src/tensors/dtype.ts';
import { encodeI2S } from '../../src/tensors/i2s.ts';
import { loadPacked } from '../../src/tensors/load.ts';
import { packedBytes, packedRowBytes, packRows, unpackRow, unpackRows } from '../../src/tensors/packed.ts';
import { encodeTQ1 } from '../../src/tensors/tq1.ts';
import { encodeTQ2 } from '../../src/tensors/tq2.ts';
import { createTranscoder } from '../../src/tensors/transcode.ts';
import { random, randomTrits, refuses } from '../hostile/builder.ts';

const encoders = { I2_S: encodeI2S, TQ1_0: encodeTQ1, TQ2_0: encodeTQ2 };
const matrix = (dtype: BlockTernaryName, rows: number, columns: number) => ({ where: 'f: t', dtype, rows, columns });
/** Reads out of `bytes` and notes the ranges. */
function reader(bytes: Uint8Array, ranges: [number, number][] = []) {
  return async (target: Uint8Array, offsetBytes: number) => {
    ranges.push([offsetBytes, target.length]);
    expect(offsetBytes + target.length).toBeLessThanOrEqual(bytes.length);
    target.set(bytes.subarray(offsetBytes, offsetBytes + target.length));
  };
}

describe('packed rows', () => {
  it('pads with zero trits to 128 columns', () => {
    expect(packedRowBytes(1)).toBe(32);
    expect(packedRowBytes(128)).toBe(32);
    expect(packedRowBytes(129)).toBe(64);
    expect(packedRowBytes(8640)).toBe(68 * 32);
    expect([...packRows(Int8Array.of(1, -1), 1, 2)]).toEqual([0b10_01_01_01, 0b00_01_01_01, ...Array(30).fill(0x55)]);
  });

  it('equals the I2_S file bytes when K is a multiple of 128', () => {
    const trits = randomTrits(3 * 384, 1);
    expect(packRows(trits, 3, 384)).toEqual(encodeI2S(trits, 1).slice(0, -32));
  });

  it.each([1, 2, 31, 32, 33, 63, 64, 100, 127, 128, 129, 200, 255, 257, 300])('round-trips %i columns', (columns) => {
    const trits = randomTrits(3 * columns, columns);
    const packed = packRows(trits, 3, columns);
    expect(unpackRows(packed, 3, columns)).toEqual(trits);
    const row = new Int8Array(columns + 2).fill(7);
    unpackRow(packed, 1, columns, row, 1);
    expect([...row]).toEqual([7, ...trits.subarray(columns, 2 * columns), 7]);
    // The padding decodes to zeros.
    const padded = unpackRows(packed, 3, Math.ceil(columns / 128) * 128);
    expect(padded.filter((t) => t !== 0).length).toBe(trits.filter((t) => t !== 0).length);
  });

  it('refuses wrong input', async () => {
    await refuses(() => packRows(Int8Array.of(0, 3), 1, 2), 'bad-argument', /value 1: not a trit/);
    await refuses(() => packRows(new Int8Array(5), 2, 3), 'bad-argument', /expected 2 x 3, got 5/);
  });
});

const shapes: [BlockTernaryName, number, number][] = [
  ['I2_S', 5, 128],
  ['I2_S', 3, 640],
  ['I2_S', 4, 96], // 32 columns
  ['I2_S', 6, 192], // like 8640: every other row begins in the middle of a block
  ['I2_S', 32, 100], // planes cut in the middle
  ['I2_S', 128, 1],
  ['I2_S', 128, 129],
  ['TQ1_0', 5, 256],
  ['TQ1_0', 3, 768],
  ['TQ2_0', 5, 256],
  ['TQ2_0', 3, 768],
];

describe('transcoding', () => {
  it.each(shapes)('%s %i x %i gives the same packed rows in any pieces', async (dtype, rows, columns) => {
    const trits = randomTrits(rows * columns, rows + columns);
    const expected = packRows(trits, rows, columns);
    const bytes = encoders[dtype](trits, 0.25);
    for (const pieceBytes of [1, 70, 500, 1 << 20]) {
      const memory = new SharedArrayBuffer(expected.length + 7);
      const guarded = new Uint8Array(memory).fill(0xee);
      const out = guarded.subarray(3, 3 + expected.length);
      const scale = await loadPacked(matrix(dtype, rows, columns), reader(bytes), out, { pieceBytes });
      expect(scale).toBe(0.25);
      expect([...out]).toEqual([...expected]);
      expect([...guarded.subarray(0, 3), ...guarded.subarray(3 + expected.length)]).toEqual(Array(7).fill(0xee));
    }
  });

  it.each(shapes)('%s %i x %i transcodes any range of rows', (dtype, rows, columns) => {
    const trits = randomTrits(rows * columns, 5);
    const expected = packRows(trits, rows, columns);
    const bytes = encoders[dtype](trits, 0.25);
    const transcoder = createTranscoder(matrix(dtype, rows, columns));
    const rowBytes = packedRowBytes(columns);
    for (const [first, count] of [
      [0, rows],
      [1, 1],
      [rows - 1, 1],
      [1, rows - 1],
    ]) {
      const [{ offsetBytes, byteLength }] = transcoder.ranges(first, count);
      const out = new Uint8Array(count * rowBytes);
      transcoder.transcode(bytes.subarray(offsetBytes, offsetBytes + byteLength), first, count, out);
      expect(out).toEqual(expected.slice(first * rowBytes, (first + count) * rowBytes));
    }
  });

  it('reads aligned I2_S straight into place', async () => {
    const trits = randomTrits(4 * 256, 1);
    const bytes = encodeI2S(trits, 0.5);
    const ranges: [number, number][] = [];
    await loadPacked(matrix('I2_S', 4, 256), reader(bytes, ranges), new Uint8Array(256), { pieceBytes: 128 });
    expect(ranges).toEqual([
      [0, 128],
      [128, 128],
      [256, 4],
    ]);
  });

  it('ignores what stands behind the scale of I2_S', async () => {
    const bytes = encodeI2S(randomTrits(128, 1), 0.5);
    bytes.fill(0xff, 36);
    expect(await loadPacked(matrix('I2_S', 1, 128), reader(bytes), new Uint8Array(32))).toBe(0.5);
  });

  it.each(['TQ1_0', 'TQ2_0'] as const)('%s: blocks of scale 0 are zeros and do not count', async (dtype) => {
    const trits = randomTrits(4 * 256, 9);
    const blockBytes = dtype === 'TQ1_0' ? 54 : 66;
    const bytes = encoders[dtype](trits, 0.3);
    bytes.fill(0, 2 * blockBytes - 2, 2 * blockBytes); // d of block 1, whose codes are not zero
    const out = new Uint8Array(packedBytes(2, 512));
    expect(await loadPacked(matrix(dtype, 2, 512), reader(bytes), out)).toBe(f16ToNumber(numberToF16(0.3)));
    expect(unpackRows(out, 2, 512)).toEqual(trits.slice().fill(0, 256, 512));
    const zeros = encoders[dtype](new Int8Array(256), 0.3);
    expect(await loadPacked(matrix(dtype, 1, 256), reader(zeros), new Uint8Array(64))).toBe(1);
  });

  it.each(['TQ1_0', 'TQ2_0'] as const)('%s: refuses scales that differ, negative or not finite', async (dtype) => {
    const blockBytes = dtype === 'TQ1_0' ? 54 : 66;
    const load = (d: number) => {
      const bytes = encoders[dtype](randomTrits(4 * 256, 9), 0.3);
      bytes[3 * blockBytes - 2] = d;
      bytes[3 * blockBytes - 1] = d >> 8;
      return loadPacked(matrix(dtype, 4, 256), reader(bytes), new Uint8Array(256));
    };
    const d = f16ToNumber(numberToF16(0.3));
    await refuses(
      load(0x3c00),
      'unsupported-type',
      new RegExp(`block scales differ, .*${d} in 3 .*1 others, the first 1 in block 2`),
    );
    await refuses(load(0xb4cd), 'bad-tensor', /f: t block 2: bad block scale/);
    await refuses(load(0x7c00), 'bad-tensor', /bad block scale.*Infinity/);
    await refuses(load(0x7e00), 'bad-tensor', /bad block scale.*NaN/);
  });

  it.each(shapes.filter(([dtype]) => dtype !== 'TQ1_0'))(
    '%s %i x %i: code 3 is refused by name',
    async (dtype, rows, columns) => {
      const next = random(4);
      for (let i = 0; i < 10; i++) {
        const element = Math.floor(next() * rows * columns);
        const bytes = encoders[dtype](randomTrits(rows * columns, 1), 1);
        if (dtype === 'I2_S') bytes[(element >> 7) * 32 + (element & 31)] |= 3 << (6 - 2 * ((element >> 5) & 3));
        else bytes[(element >> 8) * 66 + 32 * ((element >> 7) & 1) + (element & 31)] |= 3 << (2 * ((element >> 5) & 3));
        const out = new Uint8Array(packedBytes(rows, columns));
        for (const pieceBytes of [1, 1 << 20]) {
          const loading = loadPacked(matrix(dtype, rows, columns), reader(bytes), out, { pieceBytes });
          await refuses(loading, 'bad-tensor', new RegExp(`^f: t value ${element}: code 3`));
        }
      }
    },
  );

  it('TQ1_0: all 256 bytes are either transcoded as decoded or refused', async () => {
    let refused = 0;
    for (let byte = 0; byte < 256; byte++) {
      for (const at of [0, 31, 32, 47, 48, 51]) {
        const bytes = encodeTQ1(randomTrits(256, byte), 1);
        bytes[at] = byte;
        const loading = loadPacked(matrix('TQ1_0', 1, 256), reader(bytes), new Uint8Array(64));
        const digits = Array.from({ length: 5 }, (_, n) => (((byte * 3 ** n) % 256) * 3) >> 8);
        const back = Math.ceil((digits.reduce((q, t) => 3 * q + t, 0) * 256) / 243);
        const possible = back === byte && (at < 48 || digits[4] === 0);
        if (possible) await loading;
        else
          await refuses(
            loading,
            'bad-tensor',
            new RegExp(`^f: t block 0 byte ${at}: a byte that encodes no five trits`),
          );
        if (!possible && at === 0) refused++;
      }
    }
    expect(refused).toBe(13);
  });

  it('refuses impossible shapes, rooms and scales', async () => {
    await refuses(() => createTranscoder(matrix('TQ1_0', 2, 128)), 'bad-tensor', /multiple of 256, got 128/);
    await refuses(() => createTranscoder(matrix('I2_S', 2, 100)), 'bad-tensor', /multiple of 128, got 200/);
    await refuses(() => createTranscoder(matrix('I2_S', 0, 128)), 'bad-argument', /bad matrix/);
    const bytes = encodeI2S(randomTrits(128, 1), 1);
    const room = new Uint8Array(33);
    await refuses(loadPacked(matrix('I2_S', 1, 128), reader(bytes), room), 'bad-argument', /expected 32 bytes, got 33/);
    for (const bad of [Number.NaN, 0, -1, Number.POSITIVE_INFINITY]) {
      new DataView(bytes.buffer).setFloat32(32, bad, true);
      await refuses(
        loadPacked(matrix('I2_S', 1, 128), reader(bytes), new Uint8Array(32)),
        'bad-tensor',
        /f: t: bad scale/,
      );
    }
  });

  it('stops between pieces when aborted', async () => {
    const bytes = encodeI2S(randomTrits(1024, 1), 1);
    const controller = new AbortController();
    let reads = 0;
    const read = async () => {
      if (++reads === 3) controller.abort(new Error('enough'));
    };
    const loading = loadPacked(matrix('I2_S', 8, 128), read, new Uint8Array(256), {
      pieceBytes: 32,
      signal: controller.signal,
    });
    await expect(loading).rejects.toThrow('enough');
    expect(reads).toBe(3);
    expect(bytes.length).toBe(288);
  });
});
