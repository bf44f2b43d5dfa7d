/**
 * Hand-made files, byte by byte, so that each can lie in exactly one place. Shares no code with the writers.
 * @module
 */

import { expect } from 'vitest';
import { BitnetError, type ErrorCode } from '../../src/errors.ts';

/** Little-endian fields, appended. */
export class Bytes {
  #parts: number[] = [];

  raw(bytes: Iterable<number>): this {
    for (const byte of bytes) this.#parts.push(byte & 0xff);
    return this;
  }
  ascii(text: string): this {
    return this.raw(new TextEncoder().encode(text));
  }
  int(value: number | bigint, byteLength: number): this {
    let rest = BigInt.asUintN(8 * byteLength, BigInt(value));
    for (let i = 0; i < byteLength; i++, rest >>= 8n) this.#parts.push(Number(rest & 0xffn));
    return this;
  }
  u8 = (value: number) => this.int(value, 1);
  u32 = (value: number) => this.int(value, 4);
  u64 = (value: number | bigint) => this.int(value, 8);
  f32(value: number): this {
    return this.raw(new Uint8Array(Float32Array.of(value).buffer));
  }
  /** u64 length and bytes; `length` may lie. */
  string(text: string | Uint8Array, length?: number | bigint): this {
    const bytes = typeof text === 'string' ? new TextEncoder().encode(text) : text;
    return this.u64(length ?? bytes.length).raw(bytes);
  }
  zeros(count: number): this {
    return this.raw(new Uint8Array(count));
  }
  get length(): number {
    return this.#parts.length;
  }
  done(): Uint8Array<ArrayBuffer> {
    return Uint8Array.from(this.#parts);
  }
}

export interface TensorSpec {
  readonly name?: string | Uint8Array;
  readonly shape?: readonly (number | bigint)[];
  readonly nDims?: number;
  readonly type?: number;
  readonly offset?: number | bigint;
}

export interface GgufSpec {
  readonly magic?: string;
  readonly version?: number;
  readonly nTensors?: number | bigint;
  readonly nKeys?: number | bigint;
  /** Each writes key, type and value. */
  readonly keys?: readonly ((out: Bytes) => void)[];
  readonly tensors?: readonly TensorSpec[];
  readonly alignment?: number;
  /** Bytes behind the aligned header. */
  readonly dataBytes?: number;
  /** Cut the file to this length. */
  readonly cut?: number;
}

export const key = {
  u32: (name: string, value: number) => (out: Bytes) => void out.string(name).u32(4).u32(value),
  i32: (name: string, value: number) => (out: Bytes) => void out.string(name).u32(5).u32(value),
  u16: (name: string, value: number) => (out: Bytes) => void out.string(name).u32(2).int(value, 2),
  u64: (name: string, value: bigint) => (out: Bytes) => void out.string(name).u32(10).u64(value),
  text: (name: string, value: string | Uint8Array) => (out: Bytes) => void out.string(name).u32(8).string(value),
};

/** A GGUF file; the defaults are a good one with two F32 tensors of 8 values. */
export function gguf(spec: GgufSpec = {}): Uint8Array<ArrayBuffer> {
  const keys = spec.keys ?? [key.text('general.architecture', 'bitnet')];
  const tensors = spec.tensors ?? [
    { name: 'a', offset: 0 },
    { name: 'b', offset: 32 },
  ];
  const out = new Bytes()
    .ascii(spec.magic ?? 'GGUF')
    .u32(spec.version ?? 3)
    .u64(spec.nTensors ?? tensors.length)
    .u64(spec.nKeys ?? keys.length);
  for (const write of keys) write(out);
  for (const { name = 't', shape = [8], nDims, type = 0, offset = 0 } of tensors) {
    out.string(name).u32(nDims ?? shape.length);
    for (const extent of shape) out.u64(extent);
    out.u32(type).u64(offset);
  }
  const alignment = spec.alignment ?? 32;
  if (tensors.length > 0) out.zeros((alignment - (out.length % alignment)) % alignment);
  out.zeros(spec.dataBytes ?? (tensors.length > 0 ? 64 : 0));
  return out.done().slice(0, spec.cut ?? out.length);
}

/** A safetensors file with this header text (or object) and as many data bytes. */
export function safetensors(
  header: object | string,
  dataBytes: number,
  headerLength?: number | bigint,
): Uint8Array<ArrayBuffer> {
  const text = typeof header === 'string' ? header : JSON.stringify(header);
  return new Bytes().string(text, headerLength).zeros(dataBytes).done();
}

/** Expects a `BitnetError` of this code whose message matches; gives it back. */
export async function refuses(
  pending: Promise<unknown> | (() => unknown),
  code: ErrorCode,
  message: RegExp,
): Promise<BitnetError> {
  let caught: unknown;
  try {
    const value = await (typeof pending === 'function' ? pending() : pending);
    expect.fail(`accepted: ${value}`);
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(BitnetError);
  const error = caught as BitnetError;
  expect({ code: error.code, message: error.message }).toEqual({ code, message: expect.stringMatching(message) });
  return error;
}

/** Seeded random numbers in 0 .. 1 (mulberry32), so that every failure can be replayed. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function randomTrits(count: number, seed: number): Int8Array {
  const next = random(seed);
  return Int8Array.from({ length: count }, () => Math.floor(next() * 3) - 1);
}
