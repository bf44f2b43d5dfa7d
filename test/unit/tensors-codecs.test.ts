import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { f16ToNumber, numberToF16 } from '../../src/numeric/f16.ts';
import { decodeInto, findNotFinite } from '../../src/tensors/decode.ts';
import {
  dtypeById,
  dtypeByName,
  dtypes,
  dtypesById,
  elementCount,
  tensorByteLength,
  unknownDType,
} from '../../src/tensors/dtype.ts';
import { decodeTritsI2S, encodeI2S, findCode3, wantNoCode3 } from '../../src/tensors/i2s.ts';
import { decodeQ6_K, encodeQ6_K } from '../../src/tensors/q6_k.ts';
import { decodeQ8_0, encodeQ8_0 } from '../../src/tensors/q8_0.ts';
import { decodeTernary, decodeTrits } from '../../src/tensors/tq.ts';
import { byteTQ1, digitTableTQ1, digitTQ1, encodeTQ1, TQ1_0 } from '../../src/tensors/tq1.ts';
import { encodeTQ2, TQ2_0 } from '../../src/tensors/tq2.ts';
import { random, randomTrits, refuses } from '../hostile/builder.ts';

const golden = JSON.parse(readFileSync(new URL('../../fixtures/tensors/golden.json', import.meta.url), 'utf8'));
const hex = (text: string) => Uint8Array.from(text.match(/../g)!, (pair) => Number.parseInt(pair, 16));
const gaussian = (count: number, seed: number, spread = 0.02) => {
  const next = random(seed);
  return Float32Array.from({ length: count }, () => {
    let sum = -6;
    for (let i = 0; i < 12; i++) sum += next();
    return sum * spread;
  });
};

describe('the table of types', () => {
  it('has unique ids and names', () => {
    expect(new Set(dtypes.map((row) => row.id)).size).toBe(dtypes.length);
    expect(new Set(dtypes.map((row) => row.name)).size).toBe(dtypes.length);
    for (const { readable, why } of dtypes) expect(why === undefined).toBe(readable);
  });

  it('knows all ids from 0 to 42', () => {
    for (let id = 0; id <= 42; id++) expect(dtypeById(id)?.id).toBe(id);
    expect(dtypeById(43)).toBeUndefined();
    expect(dtypesById(39).map((row) => row.name)).toEqual(['MXFP4', 'TL2']);
    expect(dtypesById(36).map((row) => row.name)).toEqual(['I2_S']);
  });

  it.each([
    ['F32', [3, 5], 60],
    ['F16', [3], 6],
    ['F32', [], 4],
    ['Q8_0', [64, 3], 204],
    ['Q6_K', [2560, 128256], 128256 * 10 * 210],
    ['TQ1_0', [2560, 6912], 6912 * 10 * 54],
    ['TQ2_0', [256, 1], 66],
    ['I2_S', [2560, 6912], (2560 * 6912) / 4 + 32],
    ['I2_S', [8640, 3200], (8640 * 3200) / 4 + 32],
    ['TL1', [3200, 8640], (3200 * 8640) / 4 + 32],
    // (1536 - 256) * 4096 / 3 = 1747626 (cut) * 5 / 8 = 1092266 (cut); 256 * 4096 / 2 * 4 / 8 = 262144; padded to 32.
    ['TL2', [1536, 4096], 1354432 + 32],
    ['MXFP4', [1536, 4096], (1536 * 4096 * 17) / 32],
  ] as const)('%s %j takes %i bytes', (name, shape, bytes) => {
    expect(tensorByteLength(dtypeByName(name), shape)).toBe(bytes);
  });

  it('refuses shapes that do not fit', async () => {
    await refuses(() => tensorByteLength(dtypeByName('Q6_K'), [128, 2]), 'bad-tensor', /multiple of 256, got 128/);
    await refuses(() => tensorByteLength(dtypeByName('I2_S'), [100, 3], 'f: t'), 'bad-tensor', /^f: t: .*128, got 300/);
    await refuses(() => elementCount([2 ** 30, 2 ** 30]), 'limit-exceeded', /too many values/);
    await refuses(() => elementCount([4, 0]), 'bad-tensor', /positive/);
    await refuses(() => tensorByteLength(dtypeByName('F64'), [2 ** 51]), 'limit-exceeded', /too large/);
    expect(tensorByteLength(unknownDType(99), [4])).toBeUndefined();
  });
});

describe('golden blocks of an independent implementation', () => {
  it.each(['F16', 'BF16', 'Q8_0', 'Q6_K'] as const)('%s decodes to the same floats', (name) => {
    const expected = new Float32Array(hex(golden[name].f32).buffer);
    const out = new Float32Array(expected.length);
    decodeInto(dtypeByName(name), hex(golden[name].bytes), 0, out.length, out);
    expect(out).toEqual(expected);
  });

  it.each(['I2_S', 'TQ1_0', 'TQ2_0'] as const)('%s decodes and encodes the same', (name) => {
    const { bytes, trits, scale } = golden[name];
    const expected = Int8Array.from(trits as string, (c) => '-0+'.indexOf(c) - 1);
    const out = new Float32Array(expected.length);
    decodeInto(dtypeByName(name), hex(bytes), 0, out.length, out);
    expect(out).toEqual(Float32Array.from(expected, (t) => t * scale));
    const encode = { I2_S: encodeI2S, TQ1_0: encodeTQ1, TQ2_0: encodeTQ2 }[name];
    expect(encode(expected, 0.0417)).toEqual(hex(bytes));
  });
});

describe('I2_S', () => {
  it('has the example of the drawing: byte 0x92', () => {
    const trits = new Int8Array(128);
    trits[0] = 1;
    trits[64] = -1;
    trits[96] = 1;
    const bytes = encodeI2S(trits, 0.5);
    expect(bytes.length).toBe(64);
    expect(bytes[0]).toBe(0x92);
    expect([...bytes.subarray(1, 32)]).toEqual(Array(31).fill(0x55));
    expect([...bytes.subarray(32, 36)]).toEqual([0, 0, 0, 0x3f]);
    expect([...bytes.subarray(36)]).toEqual(Array(28).fill(0));
  });

  it('decodes every byte value in every position', () => {
    for (let byte = 0; byte < 256; byte++) {
      for (const p of [0, 1, 17, 31]) {
        const bytes = new Uint8Array(64);
        bytes[32 + p] = byte; // in the second block
        const out = new Int8Array(256);
        decodeTritsI2S(bytes, 0, 256, out);
        const fields = [byte >> 6, (byte >> 4) & 3, (byte >> 2) & 3, byte & 3];
        expect([0, 1, 2, 3].map((g) => out[128 + 32 * g + p])).toEqual(fields.map((code) => code - 1));
      }
    }
  });

  it('decodes any range and round-trips', () => {
    const trits = randomTrits(1280, 1);
    const bytes = encodeI2S(trits, 3);
    for (const [first, count] of [
      [0, 1280],
      [1, 7],
      [127, 2],
      [333, 600],
      [1279, 1],
    ]) {
      const out = new Int8Array(count + 2).fill(9);
      decodeTritsI2S(bytes, first, count, out, 1);
      expect([...out]).toEqual([9, ...trits.subarray(first, first + count), 9]);
    }
  });

  it('finds code 3 in every byte value, position and alignment', () => {
    for (let byte = 0; byte < 256; byte++) {
      const has = [0, 2, 4, 6].some((shift) => ((byte >> shift) & 3) === 3);
      for (let start = 0; start < 4; start++) {
        for (let at = 0; at < 11; at++) {
          const bytes = new Uint8Array(16)
            .fill(0xff)
            .subarray(start, start + 11)
            .fill(0xaa);
          bytes[at] = byte;
          if (findCode3(bytes) !== (has ? at : -1)) expect.fail(`byte ${byte} at ${at}, start ${start}`);
        }
      }
    }
    expect(findCode3(new Uint8Array(0))).toBe(-1);
    // 10 beside 01 over a byte border must not look like 11.
    expect(findCode3(Uint8Array.of(0x80, 0x01, 0x80, 0x02, 0x80, 0x01, 0xaa, 0x55))).toBe(-1);
  });

  it('names the value with code 3', async () => {
    const bytes = new Uint8Array(64).fill(0x55);
    bytes[32 + 5] = 0b01_01_11_01;
    await refuses(() => wantNoCode3(bytes, 1000, 'f: t'), 'bad-tensor', /^f: t value 1197: code 3/); // 1000+128+64+5
  });

  it('refuses what is not ternary', async () => {
    await refuses(() => encodeI2S(Int8Array.of(...Array(127).fill(0), 2), 1), 'bad-argument', /value 127: not a trit/);
    await refuses(() => encodeI2S(new Int8Array(127), 1), 'bad-argument', /multiple of 128/);
    for (const scale of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e-60]) {
      await refuses(() => encodeI2S(new Int8Array(128), scale), 'bad-tensor', /bad scale/);
    }
  });
});

describe('TQ2_0', () => {
  it('has the example of the drawing: byte 0x92 with the low bits first', () => {
    const bytes = new Uint8Array(66).fill(0x55);
    bytes[32 + 3] = 0x92;
    const out = new Int8Array(256);
    decodeTrits(TQ2_0, bytes, 0, 256, out, new Float32Array(1));
    expect([0, 32, 64, 96].map((plane) => out[128 + plane + 3])).toEqual([1, -1, 0, 1]);
  });

  it('round-trips, zero blocks having scale 0', () => {
    const trits = randomTrits(256 * 5, 2).fill(0, 512, 768);
    const bytes = encodeTQ2(trits, 0.3);
    const scales = new Float32Array(5);
    const out = new Int8Array(trits.length);
    decodeTrits(TQ2_0, bytes, 0, trits.length, out, scales);
    const d = f16ToNumber(numberToF16(0.3));
    expect(out).toEqual(trits);
    expect([...scales]).toEqual([d, d, 0, d, d]);
    const values = new Float32Array(256);
    decodeTernary(TQ2_0, bytes, 256, 256, values);
    expect(values).toEqual(Float32Array.from(trits.subarray(256, 512), (t) => t * d));
  });
});

describe('TQ1_0', () => {
  it('has the examples of the format: bytes 206, 128, 255, 0', () => {
    const q = (...trits: number[]) => trits.reduce((sum, t) => 3 * sum + t + 1, 0);
    expect(byteTQ1(q(1, 0, -1, 1, -1))).toBe(206);
    expect(byteTQ1(q(0, 0, 0, 0, 0))).toBe(128);
    expect(byteTQ1(q(1, 1, 1, 1, 1))).toBe(255);
    expect(byteTQ1(q(-1, -1, -1, -1, -1))).toBe(0);
    expect([0, 1, 2, 3, 4].map((n) => digitTQ1(206, n) - 1)).toEqual([1, 0, -1, 1, -1]);
    // qh holds four digits: (1, 0, -1, 1) is also 206.
    const trits = new Int8Array(256);
    [1, 0, -1, 1].forEach((t, n) => {
      trits[240 + 4 * n + 2] = t;
    });
    expect(encodeTQ1(trits, 1)[48 + 2]).toBe(206);
  });

  it('gives all 243 numbers back from their bytes and leaves 13 bytes over', () => {
    const table = digitTableTQ1();
    for (let q = 0; q < 243; q++) {
      const digits = [...q.toString(3).padStart(5, '0')].map(Number);
      expect([0, 1, 2, 3, 4].map((n) => digitTQ1(byteTQ1(q), n))).toEqual(digits);
      expect(table[byteTQ1(q)]).toBe(digits.reduce((codes, t) => codes * 4 + t, 0));
    }
    expect(table.filter((codes) => codes < 0).length).toBe(13);
  });

  it('round-trips, zero blocks having scale 0', async () => {
    const trits = randomTrits(256 * 4, 5).fill(0, 0, 256);
    const bytes = encodeTQ1(trits, 0.3);
    const scales = new Float32Array(4);
    const out = new Int8Array(trits.length);
    decodeTrits(TQ1_0, bytes, 0, trits.length, out, scales);
    const d = f16ToNumber(numberToF16(0.3));
    expect(out).toEqual(trits);
    expect([...scales]).toEqual([0, d, d, d]);
    const values = new Float32Array(512);
    decodeTernary(TQ1_0, bytes, 512, 512, values);
    expect(values).toEqual(Float32Array.from(trits.subarray(512), (t) => t * d));
    await refuses(() => encodeTQ1(trits, 1e-9), 'bad-tensor', /bad scale/);
  });
});

describe('Q8_0', () => {
  it('decodes all 256 codes', () => {
    for (let base = 0; base < 256; base += 32) {
      const bytes = new Uint8Array(34);
      bytes.set([0x00, 0x38]); // 0.5
      for (let j = 0; j < 32; j++) bytes[2 + j] = base + j;
      const out = new Float32Array(32);
      decodeQ8_0(bytes, 0, 32, out);
      expect([...out]).toEqual(Array.from(out, (_, j) => 0.5 * (base + j > 127 ? base + j - 256 : base + j)));
    }
  });

  it('encodes within half a step plus the rounding of the scale', () => {
    for (const spread of [0.02, 3, 1e-4]) {
      const values = gaussian(32 * 64, 7, spread);
      const bytes = encodeQ8_0(values);
      const out = new Float32Array(values.length);
      decodeQ8_0(bytes, 0, values.length, out);
      for (let b = 0; b < 64; b++) {
        const max = Math.max(...values.subarray(32 * b, 32 * b + 32).map(Math.abs));
        // A half in the normal range is off by 2^-11 of itself at most, below it by 2^-25.
        const bound = (max / 127) * (0.5 + 1e-5) + 127 * Math.max((max / 127) * 2 ** -11, 2 ** -25);
        for (let i = 32 * b; i < 32 * b + 32; i++) {
          if (Math.abs(out[i] - values[i]) > bound) expect.fail(`value ${i}: ${values[i]} ${out[i]} bound ${bound}`);
        }
      }
    }
  });

  it('survives zeros, tiny and refuses NaN', async () => {
    expect(encodeQ8_0(new Float32Array(32))).toEqual(new Uint8Array(34));
    const tiny = encodeQ8_0(new Float32Array(32).fill(1e-45));
    expect([...tiny.subarray(0, 2)]).toEqual([0, 0]);
    await refuses(() => encodeQ8_0(new Float32Array(32).fill(Number.NaN)), 'not-finite', /value 0/);
    await refuses(() => encodeQ8_0(new Float32Array(32).fill(1e9)), 'not-finite', /too large for half/);
    await refuses(() => decodeQ8_0(tiny, 1, 31, new Float32Array(32)), 'bad-argument', /cuts through a block/);
  });
});

/** The four-at-a-time formulation of the format, as a second opinion on the loop over groups. */
/** The integers are multiplied first; + 0 makes their product +0, never -0. */
function naiveQ6K(bytes: Uint8Array): number[] {
  const y: number[] = new Array(256);
  const d = f16ToNumber(bytes[208] | (bytes[209] << 8));
  const sc = new Int8Array(bytes.slice(192, 208).buffer);
  for (let n = 0; n < 2; n++) {
    const ql = bytes.subarray(64 * n, 64 * n + 64);
    const qh = bytes.subarray(128 + 32 * n, 160 + 32 * n);
    for (let l = 0; l < 32; l++) {
      const is = 8 * n + (l < 16 ? 0 : 1);
      y[128 * n + l] = d * (sc[is] * ((ql[l] % 16) + 16 * (qh[l] % 4) - 32) + 0);
      y[128 * n + l + 32] = d * (sc[is + 2] * ((ql[l + 32] % 16) + 16 * (Math.floor(qh[l] / 4) % 4) - 32) + 0);
      y[128 * n + l + 64] = d * (sc[is + 4] * (Math.floor(ql[l] / 16) + 16 * (Math.floor(qh[l] / 16) % 4) - 32) + 0);
      y[128 * n + l + 96] = d * (sc[is + 6] * (Math.floor(ql[l + 32] / 16) + 16 * Math.floor(qh[l] / 64) - 32) + 0);
    }
  }
  return y;
}

describe('Q6_K', () => {
  it('agrees with another formulation on random blocks', () => {
    const next = random(11);
    const bytes = Uint8Array.from({ length: 210 * 20 }, () => next() * 256);
    for (let b = 0; b < 20; b++) bytes[210 * b + 209] &= 0x3b; // finite scales
    const out = new Float32Array(256 * 20);
    decodeQ6_K(bytes, 0, out.length, out);
    for (let b = 0; b < 20; b++) {
      const expected = naiveQ6K(bytes.subarray(210 * b, 210 * b + 210));
      expect(out.subarray(256 * b, 256 * b + 256)).toEqual(Float32Array.from(expected));
    }
  });

  it('has the example of the drawing', () => {
    const bytes = new Uint8Array(210);
    bytes[0] = 0x21;
    bytes[128] = 0x02;
    bytes.fill(3, 192, 208);
    bytes.set([0x00, 0x38], 208);
    const out = new Float32Array(256);
    decodeQ6_K(bytes, 0, 256, out);
    expect(out[0]).toBe(1.5);
    expect(out[64]).toBe(-45);
  });

  it('encodes within half of the stored step, or to the end of the range', () => {
    for (const spread of [0.02, 2, 300]) {
      const values = gaussian(256 * 16, 13, spread);
      const bytes = encodeQ6_K(values);
      const out = new Float32Array(values.length);
      decodeQ6_K(bytes, 0, values.length, out);
      for (let i = 0; i < values.length; i++) {
        const block = bytes.subarray(210 * (i >> 8));
        const d = f16ToNumber(block[208] | (block[209] << 8));
        const step = d * ((block[192 + ((i & 255) >> 4)] << 24) >> 24);
        const x = values[i] / step;
        const bound = x > 31.5 ? x - 31 : x < -32.5 ? -32 - x : 0.5;
        if (Math.abs(out[i] / step - x) > bound + 1e-4) expect.fail(`value ${i}: ${values[i]} ${out[i]} step ${step}`);
      }
      // As a whole: 6 bits on a Gaussian; upstream's searching encoder reaches about 0.02.
      const error =
        values.reduce((sum, x, i) => sum + (x - out[i]) ** 2, 0) / values.reduce((sum, x) => sum + x * x, 0);
      expect(Math.sqrt(error)).toBeLessThan(0.03);
    }
    expect(encodeQ6_K(new Float32Array(256)).subarray(192)).toEqual(new Uint8Array(18));
  });
});

describe('decodeInto and findNotFinite', () => {
  it('refuses ranges outside', async () => {
    const out = new Float32Array(64);
    const f16 = dtypeByName('F16');
    await refuses(() => decodeInto(f16, new Uint8Array(10), 0, 6, out), 'bad-argument', /outside/);
    await refuses(() => decodeInto(f16, new Uint8Array(200), 0, 65, out), 'bad-argument', /outside/);
    const i2s = encodeI2S(randomTrits(128, 1), 1);
    await refuses(() => decodeInto(dtypeByName('I2_S'), i2s, 100, 29, out), 'bad-argument', /outside/);
    await refuses(
      () => decodeInto(dtypeByName('IQ4_NL'), i2s, 0, 32, out),
      'unsupported-type',
      /IQ4_NL IQ types are not/,
    );
  });

  it.each(['F32', 'F16', 'BF16'] as const)('finds NaN and infinity in %s', (name) => {
    const size = name === 'F32' ? 4 : 2;
    const infinity = { F32: [0, 0, 0x80, 0x7f], F16: [0x00, 0x7c], BF16: [0x80, 0x7f] }[name];
    const nan = { F32: [1, 0, 0x80, 0xff], F16: [0x01, 0xfe], BF16: [0xc0, 0xff] }[name];
    const largest = { F32: [0xff, 0xff, 0x7f, 0x7f], F16: [0xff, 0x7b], BF16: [0x7f, 0x7f] }[name];
    const bytes = new Uint8Array(size * 10);
    bytes.set(largest, 0);
    expect(findNotFinite(dtypeByName(name), bytes)).toBe(-1);
    bytes.set(nan, 9 * size);
    expect(findNotFinite(dtypeByName(name), bytes)).toBe(9);
    bytes.set(infinity, 4 * size);
    expect(findNotFinite(dtypeByName(name), bytes)).toBe(4);
  });

  it.each([
    ['Q8_0', 34, 0, 32],
    ['Q6_K', 210, 208, 256],
    ['TQ1_0', 54, 52, 256],
    ['TQ2_0', 66, 64, 256],
  ] as const)('finds bad scales in %s', (name, blockBytes, at, elements) => {
    const bytes = new Uint8Array(3 * blockBytes).fill(0x11);
    expect(findNotFinite(dtypeByName(name), bytes)).toBe(-1);
    bytes[2 * blockBytes + at + 1] = 0x7c;
    expect(findNotFinite(dtypeByName(name), bytes)).toBe(2 * elements);
  });

  it('finds a bad scale in I2_S', () => {
    const bytes = encodeI2S(randomTrits(256, 1), 1);
    expect(findNotFinite(dtypeByName('I2_S'), bytes)).toBe(-1);
    bytes.set([0, 0, 0xc0, 0x7f], 64);
    expect(findNotFinite(dtypeByName('I2_S'), bytes)).toBe(0);
  });
});
