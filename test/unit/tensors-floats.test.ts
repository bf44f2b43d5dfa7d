import { describe, expect, it } from 'vitest';
import { bf16ToNumber, decodeBF16s, numberToBF16 } from '../../src/numeric/bf16.ts';
import { decodeF16s, encodeF16s, f16ToNumber, numberToF16 } from '../../src/numeric/f16.ts';
import { decodeF32, encodeF32 } from '../../src/tensors/floats.ts';
import { random } from '../hostile/builder.ts';

/** The definition, by powers. */
function halfByDefinition(bits: number): number {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const bitsOf = (x: number) => new Uint32Array(Float32Array.of(x).buffer)[0];
const fromBits = (bits: number) => new Float32Array(Uint32Array.of(bits).buffer)[0];

describe('half precision', () => {
  it('decodes all 65536 patterns, one by one and in bulk', () => {
    const bytes = new Uint8Array(2 * 65536 + 1);
    for (let h = 0; h < 65536; h++) {
      bytes[1 + 2 * h] = h;
      bytes[2 + 2 * h] = h >> 8;
    }
    const bulk = new Float32Array(65536);
    decodeF16s(bytes, 1, 65536, bulk); // at an odd address
    for (let h = 0; h < 65536; h++) {
      const expected = halfByDefinition(h);
      if (!Object.is(f16ToNumber(h), expected) || !Object.is(bulk[h], expected)) {
        expect.fail(`0x${h.toString(16)}: expected ${expected}, got ${f16ToNumber(h)} and ${bulk[h]}`);
      }
    }
  });

  it('gives every half back', () => {
    for (let h = 0; h < 65536; h++) {
      const notANumber = (h & 0x7fff) > 0x7c00;
      if (numberToF16(f16ToNumber(h)) !== (notANumber ? 0x7e00 : h)) expect.fail(`0x${h.toString(16)}`);
    }
  });

  it('rounds to nearest, ties to even, at and beside the middle of every two neighbours', () => {
    for (let h = 0; h < 0x7c00; h++) {
      const low = halfByDefinition(h);
      const high = h === 0x7bff ? 65536 : halfByDefinition(h + 1);
      const middle = (low + high) / 2; // exact in float32: one more bit
      const even = h % 2 === 0 ? h : h + 1;
      const below = fromBits(bitsOf(middle) - 1);
      const above = fromBits(bitsOf(middle) + 1);
      const got = [below, middle, above].map(numberToF16);
      const negative = [below, middle, above].map((x) => numberToF16(-x) & 0x7fff);
      const expected = [h, even, h + 1];
      if (`${got}` !== `${expected}` || `${negative}` !== `${expected}`) expect.fail(`0x${h.toString(16)}: ${got}`);
    }
  });

  it('handles the ends of the range', () => {
    expect(numberToF16(65519.996)).toBe(0x7bff);
    expect(numberToF16(65520)).toBe(0x7c00);
    expect(numberToF16(-1e30)).toBe(0xfc00);
    expect(numberToF16(Number.NEGATIVE_INFINITY)).toBe(0xfc00);
    expect(numberToF16(-0)).toBe(0x8000);
    expect(numberToF16(2 ** -25)).toBe(0);
    expect(numberToF16(2 ** -25 * 1.0001)).toBe(1);
    expect(numberToF16(-(2 ** -149))).toBe(0x8000);
    expect(numberToF16(Number.NaN)).toBe(0x7e00);
  });

  it('rounds doubles once, not through float32', () => {
    // As float32 this is the tie 1 + 2^-11, which would go to the even 1.
    expect(numberToF16(1 + 2 ** -11 + 2 ** -40)).toBe(0x3c01);
  });

  it('encodes in bulk as one by one', () => {
    const next = random(3);
    const values = Float32Array.from({ length: 1000 }, () => fromBits(next() * 2 ** 32)).filter(
      (x) => !Number.isNaN(x),
    );
    const bytes = new Uint8Array(2 * values.length);
    encodeF16s(values, 0, values.length, bytes);
    expect([...new Uint16Array(bytes.buffer)]).toEqual(Array.from(values, numberToF16));
  });
});

describe('bfloat16', () => {
  it('decodes by definition and gives every pattern back', () => {
    const out = new Float32Array(1);
    for (let b = 0; b < 65536; b++) {
      decodeBF16s(Uint8Array.of(b, b >> 8), 0, 1, out);
      if (!Object.is(out[0], fromBits(b * 65536))) expect.fail(`0x${b.toString(16)}`);
      const back = numberToBF16(out[0]);
      if (Number.isNaN(out[0]) ? !Number.isNaN(bf16ToNumber(back)) : back !== b) expect.fail(`0x${b.toString(16)}`);
    }
  });

  it('rounds ties to even, subnormals included, and overflows to infinity', () => {
    for (const upper of [0, 1, 2, 0x7f, 0x80, 0x3f80, 0x3f81, 0x7f7e, 0x7f7f]) {
      expect(numberToBF16(fromBits(upper * 65536 + 0x7fff))).toBe(upper);
      expect(numberToBF16(fromBits(upper * 65536 + 0x8000))).toBe(upper + (upper & 1));
      expect(numberToBF16(fromBits(upper * 65536 + 0x8001))).toBe(upper + 1);
    }
    expect(numberToBF16(Number.NEGATIVE_INFINITY)).toBe(0xff80);
    expect(Number.isNaN(bf16ToNumber(numberToBF16(fromBits(0x7f800001))))).toBe(true);
    expect(Number.isNaN(bf16ToNumber(numberToBF16(fromBits(0xffffffff))))).toBe(true);
  });
});

it('float32 keeps every bit, at any address', () => {
  const values = Float32Array.of(1.5, -0, Number.POSITIVE_INFINITY, 2 ** -149, fromBits(0x7fc01234));
  const bytes = encodeF32(values);
  expect([...bytes.subarray(0, 4)]).toEqual([0, 0, 0xc0, 0x3f]);
  const shifted = new Uint8Array(bytes.length + 3);
  shifted.set(bytes, 3);
  const out = new Float32Array(5);
  decodeF32(shifted.subarray(3), 0, 5, out);
  expect([...new Uint32Array(out.buffer)]).toEqual([...new Uint32Array(values.buffer)]);
});
