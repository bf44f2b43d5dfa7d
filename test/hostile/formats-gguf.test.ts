/** Each bad file stands beside the good one that it differs from in a single place. */
import { describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { type Bytes, type GgufSpec, gguf, key, refuses } from './builder.ts';

const open = (spec: GgufSpec) => openGguf(memorySource(gguf(spec), 'f.gguf'));
const array =
  (of: number, count: number | bigint, body: (out: Bytes) => void = () => {}) =>
  (out: Bytes) => {
    out.string('list').u32(9).u32(of).u64(count);
    body(out);
  };
const I2_S = 36;
const Q6_K = 14;

type Case = readonly [what: string, bad: GgufSpec, good: GgufSpec, code: ErrorCode, message: RegExp];

const headers: Case[] = [
  [
    'wrong magic',
    { magic: 'GGML' },
    {},
    'bad-container',
    /^f.gguf: not a GGUF file, expected magic .*47 47 55 46.*, got 47 47 4d 4c/,
  ],
  ['an HTML page', { magic: '<!DO' }, {}, 'bad-container', /HTML page/],
  ['a git-lfs pointer', { magic: 'vers', version: 0x206e6f69 }, {}, 'bad-container', /not a GGUF file.*git lfs pull/],
  ['version 1', { version: 1 }, { version: 2 }, 'unsupported-version', /expected 2 or 3, got 1/],
  ['version 0', { version: 0 }, { version: 3 }, 'unsupported-version', /got 0/],
  ['version 4', { version: 4 }, {}, 'unsupported-version', /got 4/],
  ['big-endian', { version: 0x03000000 }, {}, 'unsupported-version', /big-endian.*--bigendian/],
  [
    '2^60 keys',
    { nKeys: 2n ** 60n },
    {},
    'limit-exceeded',
    /the number of keys too large, expected at most 2\^53-1, got 1152921504606846976/,
  ],
  ['2^52 keys', { nKeys: 2n ** 52n }, {}, 'limit-exceeded', /too many keys/],
  ['60000 keys', { nKeys: 60000 }, {}, 'truncated', /more keys than the file can hold/],
  ['one key too many', { nKeys: 2, tensors: [] }, { nKeys: 1, tensors: [] }, 'truncated', /f.gguf: /],
  ['2^60 tensors', { nTensors: 2n ** 60n }, {}, 'limit-exceeded', /number of tensors too large/],
  ['70000 tensors', { nTensors: 70000 }, {}, 'limit-exceeded', /too many tensors/],
  ['60000 tensors', { nTensors: 60000 }, {}, 'truncated', /more tensors than the file can hold/],
  ['an empty file', { cut: 0 }, {}, 'truncated', /the file is empty/],
  ['3 bytes', { cut: 3 }, {}, 'bad-container', /not a GGUF file/],
  ['a cut count', { cut: 20 }, {}, 'truncated', /ends inside the number of keys, expected at least 24 bytes, got 20/],
];

const values: Case[] = [
  [
    'a key twice',
    { keys: [key.u32('a', 1), key.u32('a', 1)] },
    { keys: [key.u32('a', 1), key.u32('b', 1)] },
    'bad-container',
    /f.gguf: a: key occurs twice/,
  ],
  [
    'a key that is not UTF-8',
    { keys: [(o) => o.string(Uint8Array.of(0xc3)).u32(4).u32(1)] },
    { keys: [(o) => o.string(Uint8Array.of(0xc3, 0xa4)).u32(4).u32(1)] },
    'bad-container',
    /key 0 is not UTF-8/,
  ],
  [
    'a key longer than the file',
    { keys: [(o) => o.string('a', 1000).u32(4).u32(1)] },
    { keys: [key.u32('a', 1)] },
    'truncated',
    /ends inside key 0/,
  ],
  [
    'a key beyond the ceiling',
    { keys: [(o) => o.string('a', 70000).u32(4).u32(1)] },
    { keys: [key.u32('a', 1)] },
    'limit-exceeded',
    /key 0 too long, expected at most 65535/,
  ],
  [
    'a key of 2^64-1 bytes',
    {
      keys: [
        (o) =>
          o
            .string('a', 2n ** 64n - 1n)
            .u32(4)
            .u32(1),
      ],
    },
    { keys: [key.u32('a', 1)] },
    'limit-exceeded',
    /length of key 0 too large/,
  ],
  [
    'a value type 13',
    { keys: [(o) => o.string('a').u32(13).u32(1)] },
    { keys: [(o) => o.string('a').u32(6).f32(1)] },
    'unsupported-type',
    /f.gguf: a: unknown value type, expected 0 to 12, got 13/,
  ],
  [
    'a bool of 2',
    { keys: [(o) => o.string('a').u32(7).u8(2)] },
    { keys: [(o) => o.string('a').u32(7).u8(1)] },
    'bad-container',
    /a: bad bool, expected 0 or 1, got 2/,
  ],
  [
    'a string longer than the file',
    { keys: [(o) => o.string('a').u32(8).string('xyz', 4000)] },
    { keys: [key.text('a', 'xyz')] },
    'truncated',
    /ends inside the value of a/,
  ],
  [
    'a string beyond the ceiling',
    {
      keys: [
        (o) =>
          o
            .string('a')
            .u32(8)
            .string('xyz', 2 ** 30),
      ],
    },
    { keys: [key.text('a', 'xyz')] },
    'limit-exceeded',
    /the value of a too long/,
  ],
  [
    'an array of arrays',
    { keys: [array(9, 1, (o) => o.u32(4).u64(0))] },
    { keys: [array(4, 1, (o) => o.u32(7))] },
    'unsupported-type',
    /list: array of arrays/,
  ],
  ['an array of type 99', { keys: [array(99, 1)] }, { keys: [array(0, 0)] }, 'unsupported-type', /unknown value type/],
  [
    'an array of 2^60',
    { keys: [array(4, 2n ** 60n)] },
    { keys: [array(4, 0)] },
    'limit-exceeded',
    /length of array list too large/,
  ],
  [
    'an array of 2^40',
    { keys: [array(0, 2n ** 40n)] },
    { keys: [array(0, 1, (o) => o.u8(1))] },
    'limit-exceeded',
    /array too long/,
  ],
  [
    'an array longer than the file',
    { keys: [array(12, 1000)] },
    { keys: [array(12, 1, (o) => o.zeros(8))] },
    'truncated',
    /expected at least 8000 bytes for 1000 of f64/,
  ],
  [
    'strings more than the file can hold',
    { keys: [array(8, 500, (o) => o.string('a'))] },
    { keys: [array(8, 1, (o) => o.string('a'))] },
    'truncated',
    /at least 4000 bytes/,
  ],
  [
    'an array string beyond the file',
    { keys: [array(8, 2, (o) => o.string('a').string('b', 9999))] },
    { keys: [array(8, 2, (o) => o.string('a').string('b'))] },
    'truncated',
    /ends inside string 1 of list/,
  ],
  [
    'an array string of 2^63',
    { keys: [array(8, 2, (o) => o.string('a').string('b', 2n ** 63n))] },
    { keys: [array(8, 2, (o) => o.string('a').string('b'))] },
    'limit-exceeded',
    /list: string 1 too long/,
  ],
  [
    'a bool array with a 3',
    { keys: [array(7, 2, (o) => o.u8(1).u8(3))] },
    { keys: [array(7, 2, (o) => o.u8(1).u8(0))] },
    'bad-container',
    /bad bool/,
  ],
  [
    'alignment 0',
    { keys: [key.u32('general.alignment', 0)] },
    { keys: [key.u32('general.alignment', 32)] },
    'bad-metadata',
    /general.alignment: bad alignment, expected a power of two, got 0/,
  ],
  [
    'alignment 3',
    { keys: [key.u32('general.alignment', 3)] },
    { keys: [key.u32('general.alignment', 1)], alignment: 1 },
    'bad-metadata',
    /power of two, got 3/,
  ],
  [
    'alignment 24',
    { keys: [key.u32('general.alignment', 24)], alignment: 24 },
    { keys: [key.u32('general.alignment', 16)], alignment: 16 },
    'bad-metadata',
    /got 24/,
  ],
  [
    'alignment as text',
    { keys: [key.text('general.alignment', '32')] },
    { keys: [] },
    'bad-metadata',
    /expected an integer.*got string "32"/,
  ],
];

const one = (tensor: NonNullable<GgufSpec['tensors']>[number], dataBytes = 64): GgufSpec => ({
  tensors: [tensor],
  dataBytes,
});
const two = (offset: number | bigint, dataBytes = 64): GgufSpec => ({
  tensors: [{ name: 'a' }, { name: 'b', offset }],
  dataBytes,
});

const tensors: Case[] = [
  [
    'a name twice',
    { tensors: [{ name: 'a' }, { name: 'a', offset: 32 }] },
    two(32),
    'bad-container',
    /f.gguf: a: tensor occurs twice/,
  ],
  [
    'a name that is not UTF-8',
    one({ name: Uint8Array.of(0xff) }),
    one({ name: 'ä' }),
    'bad-container',
    /name of tensor 0 is not UTF-8/,
  ],
  [
    '5 dimensions',
    one({ shape: [1, 1, 1, 1, 1] }),
    one({ shape: [1, 1, 1, 1] }),
    'bad-tensor',
    /f.gguf: t: too many dimensions, expected at most 4, got 5/,
  ],
  ['2^32-1 dimensions', one({ nDims: 2 ** 32 - 1 }), one({}), 'bad-tensor', /too many dimensions/],
  [
    'ne 0',
    one({ shape: [8, 0] }),
    one({ shape: [8, 1] }),
    'bad-tensor',
    /bad extent.*expected a positive integer, got 0 in \(8, 0\)/,
  ],
  ['a negative ne', one({ shape: [-1n] }), one({ shape: [1n] }), 'limit-exceeded', /ne\[0\] of t too large/],
  [
    'a product beyond 2^53',
    one({ shape: [2 ** 30, 2 ** 30] }),
    one({ shape: [4, 4] }),
    'limit-exceeded',
    /too many values/,
  ],
  [
    'a product that wraps to 16 in 64 bits',
    one({ shape: [2n ** 33n, 2n ** 33n, 4] }),
    one({ shape: [2, 2, 4] }),
    'limit-exceeded',
    /too many values/,
  ],
  ['a size beyond 2^53', one({ shape: [2 ** 52] }), one({ shape: [16] }), 'limit-exceeded', /tensor too large/],
  [
    'rows that are no whole blocks',
    one({ shape: [128, 2], type: Q6_K }, 420),
    one({ shape: [256, 1], type: Q6_K }, 420),
    'bad-tensor',
    /row does not consist of whole Q6_K blocks, expected a multiple of 256, got 128/,
  ],
  [
    'I2_S that is no whole block',
    one({ shape: [32, 3], type: I2_S }),
    one({ shape: [32, 4], type: I2_S }),
    'bad-tensor',
    /tensor does not consist of whole I2_S blocks/,
  ],
  [
    'I2_S without its tail',
    one({ shape: [32, 4], type: I2_S }, 63),
    one({ shape: [32, 4], type: I2_S }, 64),
    'truncated',
    /ends inside tensor t/,
  ],
  [
    'an unknown type',
    one({ type: 43 }),
    one({ type: 30 }),
    'unsupported-type',
    /f.gguf: t: type #43 is not a known tensor type/,
  ],
  [
    'a removed type',
    one({ shape: [32], type: 31 }),
    one({ shape: [32], type: 8 }),
    'unsupported-type',
    /type Q4_0_4_4 was removed upstream/,
  ],
  [
    'an IQ type',
    one({ shape: [256], type: 23 }, 999),
    one({ shape: [256], type: 34 }, 999),
    'unsupported-type',
    /IQ4_XS/,
  ],
  [
    'I8_S, which exists only at run time',
    one({ shape: [128], type: 37 }, 999),
    one({ shape: [128], type: 36 }, 999),
    'unsupported-type',
    /type I8_S exists only while a program runs/,
  ],
  [
    'an offset off alignment',
    two(33, 96),
    two(32, 96),
    'bad-container',
    /f.gguf: b: tensor offset is not aligned, expected a multiple of 32, got 33/,
  ],
  ['an offset beyond the file', two(64), two(32), 'truncated', /f.gguf: b: tensor begins beyond the end/],
  ['an offset of 2^64-32', two(2n ** 64n - 32n), two(32), 'limit-exceeded', /offset of b too large/],
  ['an offset whose end leaves 2^53', two(2n ** 53n - 32n), two(32), 'truncated', /beyond the end/],
  [
    'overlapping tensors',
    {
      tensors: [
        { name: 'a', shape: [9] },
        { name: 'b', offset: 32 },
      ],
    },
    {
      tensors: [
        { name: 'a', shape: [8] },
        { name: 'b', offset: 32 },
      ],
    },
    'bad-container',
    /f.gguf: a: tensor overlaps the next one, expected room for 36 bytes of F32 \(9\), got 32/,
  ],
  ['tensors at the same offset', two(0), two(32), 'bad-container', /two tensors at the same offset/],
  [
    'a file cut in the last tensor',
    { cut: 217 },
    { cut: 224 },
    'truncated',
    /f.gguf: the file ends inside tensor b, expected at least \d+ bytes, got 217.*download complete/,
  ],
];

describe.each([
  ['headers', headers],
  ['values', values],
  ['tensors', tensors],
])('%s', (_title, cases) => {
  it.each(cases)('%s', async (_what, bad, good, code, message) => {
    await open(good);
    await refuses(open(bad), code, message);
  });
});

describe('odd but legal', () => {
  it('tensors out of order, with gaps, with bytes behind', async () => {
    const file = await open({
      tensors: [
        { name: 'b', offset: 96 },
        { name: 'a', offset: 0 },
      ],
      dataBytes: 500,
    });
    expect(file.tensors.map(({ name, byteLength, spanBytes }) => [name, byteLength, spanBytes])).toEqual([
      ['b', 32, 404],
      ['a', 32, 96],
    ]);
  });

  it('a last tensor without padding, a scalar, a header without padding before no tensors', async () => {
    await open({ tensors: [{ name: 's', shape: [] }], dataBytes: 4 });
    const file = await open({ tensors: [] });
    expect(file.headerBytes).toBe(file.byteLength);
  });

  it('bytes at odd addresses of a bigger buffer', async () => {
    const bytes = gguf({ keys: [array(6, 2, (o) => o.f32(1.5).f32(-2))] });
    const shifted = new Uint8Array(bytes.length + 5);
    shifted.set(bytes, 5);
    const file = await openGguf(memorySource(shifted.subarray(5)));
    expect(file.getArray('list', 'f32')).toEqual(Float32Array.of(1.5, -2));
  });

  it('every cut of a good file is refused or, within the padding, read', async () => {
    const good = gguf();
    for (let length = 0; length < good.length; length++) {
      await refuses(
        openGguf(memorySource(good.slice(0, length))),
        length > 0 && length < 4 ? 'bad-container' : 'truncated',
        /./,
      );
    }
    await openGguf(memorySource(good));
  });
});
