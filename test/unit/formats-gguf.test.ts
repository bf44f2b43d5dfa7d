import { mkdtempSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { describeValue } from '../../src/formats/gguf/metadata.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { GgufTensor, GgufValue } from '../../src/formats/gguf/types.ts';
import { copyOf, stringsValue, stringValue, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import type { ByteSource } from '../../src/formats/source.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { openFileSource } from '../../src/platform/source-node.ts';
import { encodeI2S } from '../../src/tensors/i2s.ts';
import { gguf, key, randomTrits, refuses } from '../hostile/builder.ts';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-gguf-'));
afterAll(() => rmSync(folder, { recursive: true }));

const everyType: [string, GgufValue][] = [
  ['general.architecture', stringValue('bitnet')],
  ['u8', { type: 'u8', value: 200 }],
  ['i8', { type: 'i8', value: -100 }],
  ['u16', { type: 'u16', value: 60000 }],
  ['i16', { type: 'i16', value: -30000 }],
  ['u32', { type: 'u32', value: 4000000000 }],
  ['i32', { type: 'i32', value: -2000000000 }],
  ['f32', { type: 'f32', value: Math.fround(1e-5) }],
  ['f64', { type: 'f64', value: Math.PI }],
  ['u64', { type: 'u64', value: 2n ** 64n - 1n }],
  ['i64', { type: 'i64', value: -(2n ** 63n) }],
  ['yes', { type: 'bool', value: true }],
  ['no', { type: 'bool', value: false }],
  ['empty', stringValue('')],
  ['schlüssel', stringValue('wört 🙂')],
  ['a.u8', { type: 'array', of: 'u8', values: Uint8Array.of(1, 255) }],
  ['a.i8', { type: 'array', of: 'i8', values: Int8Array.of(-1, 127) }],
  ['a.u16', { type: 'array', of: 'u16', values: Uint16Array.of(1, 65535) }],
  ['a.i16', { type: 'array', of: 'i16', values: Int16Array.of(-2, 3, 4) }],
  ['a.u32', { type: 'array', of: 'u32', values: Uint32Array.of(1, 2 ** 32 - 1) }],
  ['a.i32', { type: 'array', of: 'i32', values: Int32Array.of(-5, 6, 7) }],
  ['a.f32', { type: 'array', of: 'f32', values: Float32Array.of(0.5, -1, Number.NaN) }],
  ['a.f64', { type: 'array', of: 'f64', values: Float64Array.of(0.1) }],
  ['a.u64', { type: 'array', of: 'u64', values: BigUint64Array.of(2n ** 63n) }],
  ['a.i64', { type: 'array', of: 'i64', values: BigInt64Array.of(-1n) }],
  ['a.bool', { type: 'array', of: 'bool', values: Uint8Array.of(1, 0, 1) }],
  ['a.none', { type: 'array', of: 'u32', values: new Uint32Array(0) }],
  ['a.strings', stringsValue(['a', '', 'Ġthe', Uint8Array.of(0xff, 0xfe)])],
];

async function written(tensors: Parameters<typeof writeGguf>[1]['tensors'], metadata = everyType): Promise<Uint8Array> {
  const sink = memorySink();
  expect(await writeGguf(sink, { metadata, tensors })).toBe(sink.bytes().length);
  return sink.bytes();
}

async function rewritten(source: ByteSource): Promise<Uint8Array> {
  const file = await openGguf(source, { allowUnreadable: true });
  const tensors = file.tensors.map((tensor) => copyOf(tensor, 1000));
  return written(tensors, [...file.metadata]);
}

async function bytesOf(tensor: GgufTensor): Promise<Uint8Array> {
  const bytes = new Uint8Array(tensor.byteLength);
  await tensor.source.readInto(bytes, tensor.offsetBytes);
  return bytes;
}

describe('reading what was written', () => {
  it('keeps every value type', async () => {
    const file = await openGguf(memorySource(await written([])));
    expect([...file.metadata.keys()]).toEqual(everyType.map(([name]) => name));
    for (const [name, value] of everyType) expect(file.metadata.get(name)).toEqual(value);
    expect(file.getStrings('a.strings').text(2)).toBe('Ġthe');
    expect(file.getStrings('a.strings').bytes(3)).toEqual(Uint8Array.of(0xff, 0xfe));
    expect(file.getStrings('a.strings').text(3)).toBe('\ufffd\ufffd');
    expect(() => file.getStrings('a.strings').bytes(4)).toThrow(RangeError);
    expect([file.version, file.alignment, file.tensors.length]).toEqual([3, 32, 0]);
  });

  it('keeps tensors, and the same input gives the same bytes', async () => {
    const trits = randomTrits(3 * 128, 1);
    const tensors = [
      { name: 'norm', dtype: 'F32', shape: [5], data: () => [new Uint8Array(20).fill(1)] },
      { name: 'w', dtype: 'I2_S', shape: [128, 3], data: () => [encodeI2S(trits, 0.5)] },
      { name: 'scalar', dtype: 'F16', shape: [], data: () => [Uint8Array.of(0, 0x3c)] },
    ] as const;
    const bytes = await written(tensors);
    expect(await written(tensors)).toEqual(bytes);
    const file = await openGguf(memorySource(bytes));
    expect(
      file.tensors.map(({ name, dtype, shape, byteLength, spanBytes }) => [
        name,
        dtype.name,
        shape,
        byteLength,
        spanBytes,
      ]),
    ).toEqual([
      ['norm', 'F32', [5], 20, 32],
      ['w', 'I2_S', [128, 3], 128, 128],
      ['scalar', 'F16', [], 2, 32],
    ]);
    expect(await bytesOf(file.tensor('w'))).toEqual(encodeI2S(trits, 0.5));
    expect(file.headerBytes % 32).toBe(0);
    expect(file.tensors[0].offsetBytes).toBe(file.headerBytes);
    expect(await rewritten(memorySource(bytes))).toEqual(bytes);
  });

  it('obeys general.alignment', async () => {
    const metadata: [string, GgufValue][] = [['general.alignment', { type: 'u32', value: 256 }]];
    const tensor = (name: string) => ({ name, dtype: 'F32', shape: [1], data: () => [new Uint8Array(4)] }) as const;
    const bytes = await written([tensor('a'), tensor('b')], metadata);
    const file = await openGguf(memorySource(bytes));
    expect(file.tensors.map((t) => t.offsetBytes)).toEqual([256, 512]);
    expect([file.alignment, bytes.length]).toEqual([256, 768]);
    for (const value of [{ type: 'u32', value: 24 }, { type: 'u32', value: 0 }, stringValue('32')] as GgufValue[]) {
      const writing = writeGguf(memorySink(), { metadata: [['general.alignment', value]], tensors: [] });
      await refuses(writing, 'bad-argument', /power of two/);
    }
  });

  it('writes in bounded pieces and refuses data of the wrong length', async () => {
    const tensor = (n: number) => ({ name: 'x', dtype: 'F32', shape: [4], data: () => [new Uint8Array(n)] }) as const;
    await refuses(written([tensor(12)]), 'bad-argument', /x: tensor data too short, expected 16 bytes, got 12/);
    await refuses(written([tensor(20)]), 'bad-argument', /too long/);
    await refuses(written([tensor(16), tensor(16)]), 'bad-argument', /given twice/);
    await refuses(written([{ ...tensor(16), dtype: 'Q6_K' }]), 'bad-tensor', /multiple of 256/);
    const sink = memorySink();
    await refuses(writeGguf(sink, { metadata: [], tensors: [tensor(12)] }), 'bad-argument', /short/);
    expect(sink.bytes().length).toBe(0); // aborted
  });
});

describe('typed getters', async () => {
  const file = await openGguf(memorySource(await written([]), 'm.gguf'));
  it('give values of the right type', () => {
    expect(file.getString('schlüssel')).toBe('wört 🙂');
    expect(['u8', 'u16', 'u32'].map((name) => file.getUint(name))).toEqual([200, 60000, 4000000000]);
    expect(file.getFloat('f32')).toBe(Math.fround(1e-5));
    expect(file.getFloat('i8')).toBe(-100);
    expect([file.getBool('yes'), file.getBool('no')]).toEqual([true, false]);
    expect(file.getArray('a.i32', 'i32')).toEqual(Int32Array.of(-5, 6, 7));
    expect([file.findString('x'), file.findUint('x'), file.findFloat('x'), file.findBool('x')]).toEqual(
      Array(4).fill(undefined),
    );
    expect([file.findStrings('x'), file.findArray('x', 'f32'), file.findTensor('x')]).toEqual(Array(3).fill(undefined));
  });

  it.each<[() => unknown, RegExp]>([
    [() => file.getString('missing'), /^m.gguf: missing: bad metadata, expected a string, got no such key$/],
    [() => file.getUint('missing'), /expected an integer, got no such key/],
    [() => file.getString('u8'), /m.gguf: u8: .*expected a string, got u8 200/],
    [() => file.findString('u8'), /expected a string/],
    [() => file.getUint('i8'), /expected an integer of 0 to 2\^53-1, got i8 -100/],
    [() => file.getUint('u64'), /got u64 18446744073709551615/],
    [() => file.getUint('f32'), /got f32/],
    [() => file.getUint('yes'), /got bool true/],
    [() => file.getFloat('a.f32'), /expected a finite number, got array of 3 f32/],
    [() => file.getBool('u8'), /expected a bool/],
    [() => file.getStrings('a.u8'), /expected an array of string, got array of 2 u8/],
    [() => file.getArray('a.i32', 'u32'), /expected an array of u32, got array of 3 i32/],
  ])('%s is refused', async (call, message) => {
    await refuses(call, 'bad-metadata', message);
  });

  it('refuse text that is not UTF-8 and tensors that are not there', async () => {
    const bad = await openGguf(memorySource(gguf({ keys: [key.text('t', Uint8Array.of(0x61, 0xff))], tensors: [] })));
    await refuses(() => bad.getString('t'), 'bad-metadata', /expected UTF-8/);
    expect(describeValue(bad.metadata.get('t')!)).toBe('string "a\ufffd"');
    await refuses(() => bad.tensor('x'), 'missing-tensor', /no such tensor, expected "x"/);
  });
});

describe('ranges', () => {
  /** Notes what is read. */
  function watched(bytes: Uint8Array): { source: ByteSource; ranges: [number, number][] } {
    const ranges: [number, number][] = [];
    const inner = memorySource(bytes);
    const source: ByteSource = {
      ...inner,
      readInto(target, offsetBytes) {
        ranges.push([offsetBytes, offsetBytes + target.length]);
        return inner.readInto(target, offsetBytes);
      },
    };
    return { source, ranges };
  }

  it('reads 1 MiB of a file with a short header, and the whole of a small one', async () => {
    const tensors = [{ name: 'big', dtype: 'F32', shape: [1 << 20], data: () => [new Uint8Array(4 << 20)] }] as const;
    const big = watched(await written(tensors));
    await openGguf(big.source);
    expect(big.ranges).toEqual([[0, 1 << 20]]);
    const small = watched(gguf());
    await openGguf(small.source);
    expect(small.ranges).toEqual([[0, gguf().length]]);
  });

  it('doubles for longer headers, never reading a byte twice', async () => {
    const strings = stringsValue(Array.from({ length: 200000 }, (_, i) => `token ${i} of many`));
    const bytes = await written(
      [],
      [
        ['tokens', strings],
        ['n', { type: 'u32', value: 7 }],
      ],
    );
    const { source, ranges } = watched(bytes);
    const file = await openGguf(source);
    expect(file.getUint('n')).toBe(7);
    expect(file.getStrings('tokens').text(199999)).toBe('token 199999 of many');
    expect(ranges.map(([begin]) => begin)).toEqual([0, 1 << 20, 2 << 20, 4 << 20]);
    expect(ranges.map(([, end]) => end)).toEqual([1 << 20, 2 << 20, 4 << 20, bytes.length]);
  });

  it('reads offsets beyond 2^32 (sparse file of 5 GiB)', async () => {
    const path = join(folder, 'sparse.gguf');
    const handle = await open(path, 'w+');
    let position = 0;
    const zeros = new Uint8Array(64 << 20);
    const sink = {
      label: path,
      async write(chunk: Uint8Array) {
        if (chunk !== zeros) await handle.write(chunk, 0, chunk.length, position); // zeros stay a hole
        position += chunk.length;
      },
      async close() {
        await handle.truncate(position);
        await handle.close();
      },
      async abort() {},
    };
    const tensors = [
      { name: 'first', dtype: 'F32', shape: [1 << 20, 1280], data: () => Array(80).fill(zeros) },
      { name: 'last', dtype: 'F32', shape: [2], data: () => [Uint8Array.of(0, 0, 0x80, 0x3f, 0, 0, 0, 0x40)] },
    ] as const;
    await writeGguf(sink, { metadata: [], tensors });
    const source = await openFileSource(path);
    const file = await openGguf(source);
    expect(file.tensor('last').offsetBytes).toBe(5 * 2 ** 30 + file.headerBytes);
    expect(await bytesOf(file.tensor('last'))).toEqual(Uint8Array.of(0, 0, 0x80, 0x3f, 0, 0, 0, 0x40));
    await file.close();
    await refuses(source.readInto(new Uint8Array(1), 0), 'disposed', /read after close/);
  });
});

describe('id 39', () => {
  const shape = [1536, 256];
  const room = { MXFP4: (1536 * 256 * 17) / 32, TL2: 84704 };

  const two = (
    bytes: number,
    type: number,
    of: readonly number[] = shape,
    keys = [key.text('general.architecture', 'llama')],
  ) => {
    const next = Math.ceil(bytes / 32) * 32;
    const tensors = [
      { name: 'w', shape: of, type, offset: 0 },
      { name: 'x', shape: [8], type: 0, offset: next },
    ];
    return memorySource(gguf({ tensors, dataBytes: next + 32, keys }), 'f');
  };

  it.each([
    ['MXFP4', room.MXFP4, 0],
    ['TL2', room.TL2, 0],
    ['MXFP4', room.MXFP4, 4096], // followed by something nameless
    ['TL2', room.TL2, 64], // followed by something nameless
  ])('is %s in %i + %i bytes', async (name, bytes, extra) => {
    const source = two(bytes + extra, 39);
    if (name === 'MXFP4') {
      await refuses(openGguf(source), 'unsupported-type', /^f: w: type MXFP4 is not supported; .*not TL2.*bitnet\.cpp/);
    }
    const file = await openGguf(source, { allowUnreadable: true });
    expect(file.tensor('w').dtype.name).toBe(name);
    expect(file.tensor('w').byteLength).toBe(bytes);
  });

  it.each([
    ['architecture', key.text('general.architecture', 'bitnet')],
    ['file type', key.u32('general.file_type', 39)],
  ])('is TL2 in any room where the %s says that bitnet.cpp wrote it', async (_, written) => {
    const type = async (keys?: [typeof written]) => {
      const source = two(room.MXFP4 + 64, 39, shape, keys);
      return (await openGguf(source, { allowUnreadable: true })).tensor('w').dtype.name;
    };
    expect(await type()).toBe('MXFP4');
    expect(await type([written])).toBe('TL2');
  });

  it.each([
    [36, 'IQ4_NL_4_4', 'I2_S'],
    [38, 'IQ4_NL_8_8', 'TL1'],
  ])('id %i in the room of %s is that removed type, not %s', async (id, removed, ours) => {
    const n = 1536 * 256;
    await refuses(
      openGguf(two((n / 32) * 18, id)),
      'unsupported-type',
      new RegExp(
        `f: w: type #${id} is ${removed} by its size, which was removed upstream.*bitnet.cpp's ${ours} has the`,
      ),
    );
    expect((await openGguf(two(n / 4 + 32, id))).tensor('w').dtype.name).toBe(ours);
  });

  it('lists unknown and unreadable types on request', async () => {
    const tensors = [
      { name: 'q', shape: [32], type: 20, offset: 0 },
      { name: 'u', shape: [7], type: 99, offset: 32 },
    ];
    const source = memorySource(gguf({ tensors, dataBytes: 100 }), 'f');
    await refuses(
      openGguf(source),
      'unsupported-type',
      /f: q: type IQ4_NL IQ types are not supported.*can be read: F32 F16 Q4_0 .* I2_S/,
    );
    const file = await openGguf(source, { allowUnreadable: true });
    expect(file.tensors.map((t) => [t.dtype.name, t.byteLength, t.spanBytes])).toEqual([
      ['IQ4_NL', 18, 32],
      ['#99', 68, 68],
    ]);
  });
});
