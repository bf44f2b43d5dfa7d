/** Each bad file stands beside the good one that it differs from in a single place. */
import { expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { openSafetensors } from '../../src/formats/safetensors/reader.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { refuses, safetensors } from './builder.ts';

const open = (bytes: Uint8Array) => openSafetensors(memorySource(bytes, 'm.safetensors'));
const entry = (change: object = {}) => ({ dtype: 'U8', shape: [4, 2], data_offsets: [0, 8], ...change });
const good = safetensors({ w: entry() }, 8);
const pair = (second: object, dataBytes = 16) =>
  safetensors({ v: entry(), w: entry({ data_offsets: [8, 16], ...second }) }, dataBytes);

const cases: [string, Uint8Array, Uint8Array, ErrorCode, RegExp][] = [
  ['too short', good.slice(0, 9), good, 'truncated', /too short for a safetensors file/],
  [
    'header of 2^60',
    safetensors('{}', 0, 2n ** 60n),
    safetensors('{}', 0),
    'limit-exceeded',
    /bad length of the header.*got 1152921504606846976/,
  ],
  [
    'header beyond 100 MB',
    safetensors('{}', 0, 100_000_001),
    safetensors('{}', 0),
    'limit-exceeded',
    /2 to 100000000 bytes/,
  ],
  ['header of 0 bytes', safetensors('{}', 0, 0), safetensors('{}', 0), 'limit-exceeded', /got 0/],
  [
    'header longer than the file',
    safetensors('{}', 0, 3),
    safetensors('{} ', 0),
    'truncated',
    /ends inside the header/,
  ],
  [
    'header that begins with a space',
    safetensors(' {}', 0),
    safetensors('{} ', 0),
    'bad-container',
    /begins with {, got byte 0x20/,
  ],
  ['bad JSON', safetensors('{"a":}', 0), safetensors('{}', 0), 'bad-container', /bad JSON/],
  [
    'JSON that is not UTF-8',
    Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0xff, 0x7d),
    safetensors('{}', 0),
    'bad-container',
    /bad JSON/,
  ],
  ['deep nesting', safetensors(`{"a":${'['.repeat(100000)}`, 0), safetensors('{}', 0), 'bad-container', /bad JSON/],
  [
    'a name twice',
    safetensors(`{"w":${JSON.stringify(entry())},"w":${JSON.stringify(entry())}}`, 8),
    good,
    'bad-container',
    /key occurs twice, got "w"/,
  ],
  [
    'a name twice in disguise',
    safetensors(`{"w":${JSON.stringify(entry())},"\\u0077" :${JSON.stringify(entry())}}`, 8),
    good,
    'bad-container',
    /key occurs twice, got "w"/,
  ],
  [
    'a field twice',
    safetensors('{"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"shape":[8]}}', 8),
    safetensors('{"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":":{\\""}}', 8),
    'bad-container',
    /got "shape"/,
  ],
  ['an entry that is no object', safetensors({ w: 5 }, 0), safetensors({}, 0), 'bad-container', /w: bad tensor entry/],
  [
    'metadata that is no map of strings',
    safetensors({ __metadata__: { a: 1 } }, 0),
    safetensors({ __metadata__: { a: '1' } }, 0),
    'bad-container',
    /__metadata__/,
  ],
  [
    'an unknown type',
    safetensors({ w: entry({ dtype: 'F4' }) }, 8),
    good,
    'unsupported-type',
    /w: element type, .*got "F4"/,
  ],
  [
    'a type named like a method',
    safetensors({ w: entry({ dtype: 'toString' }) }, 8),
    good,
    'unsupported-type',
    /toString/,
  ],
  ['no type', safetensors({ w: entry({ dtype: undefined }) }, 8), good, 'unsupported-type', /got undefined/],
  ['a shape that is no list', safetensors({ w: entry({ shape: 8 }) }, 8), good, 'bad-container', /bad shape/],
  ['a negative extent', safetensors({ w: entry({ shape: [-4, -2] }) }, 8), good, 'bad-container', /bad shape/],
  ['a broken extent', safetensors({ w: entry({ shape: [2.5, 4] }) }, 8), good, 'bad-container', /bad shape/],
  [
    'a product beyond 2^53',
    safetensors({ w: entry({ shape: [2 ** 40, 2 ** 40] }) }, 8),
    good,
    'limit-exceeded',
    /too many values/,
  ],
  [
    'a product beyond 2^53 with a zero',
    safetensors({ w: entry({ shape: [2 ** 40, 2 ** 40, 0], data_offsets: [0, 0] }) }, 0),
    safetensors({ w: entry({ shape: [0], data_offsets: [0, 0] }) }, 0),
    'limit-exceeded',
    /too many values/,
  ],
  ['offsets in reverse', safetensors({ w: entry({ data_offsets: [8, 0] }) }, 8), good, 'bad-container', /bad offsets/],
  ['three offsets', safetensors({ w: entry({ data_offsets: [0, 8, 8] }) }, 8), good, 'bad-container', /bad offsets/],
  [
    'offsets of 2^60',
    safetensors({ w: entry({ data_offsets: [2 ** 60, 2 ** 60 + 8] }) }, 8),
    good,
    'bad-container',
    /bad offsets/,
  ],
  [
    'offsets that do not fit the shape',
    safetensors({ w: entry({ shape: [3, 2] }) }, 8),
    good,
    'bad-container',
    /w: offsets do not fit the shape, expected 6 bytes of U8 \(3, 2\), got 8/,
  ],
  [
    'an overlap',
    pair({ data_offsets: [4, 12] }),
    pair({}),
    'bad-container',
    /w: tensor data with a gap or overlap, expected begin at 8, got 4/,
  ],
  ['a gap', pair({ data_offsets: [9, 17] }, 17), pair({}), 'bad-container', /gap or overlap/],
  [
    'a gap at the begin',
    safetensors({ w: entry({ data_offsets: [1, 9] }) }, 9),
    good,
    'bad-container',
    /expected begin at 0, got 1/,
  ],
  [
    'bytes behind the last tensor',
    safetensors({ w: entry() }, 9),
    good,
    'bad-container',
    /bytes behind the last tensor/,
  ],
  ['data that are cut', good.slice(0, -1), good, 'truncated', /ends inside the tensor data, .*download complete/],
];

it.each(cases)('%s', async (_what, bad, twin, code, message) => {
  await open(twin);
  await refuses(open(bad), code, message);
});

it('pickle files are refused with advice', async () => {
  await refuses(openSafetensors(memorySource(good, 'pytorch_model.bin')), 'unsupported-type', /safe_serialization/);
});

it('every cut is refused', async () => {
  for (let length = 0; length < good.length; length++) await refuses(open(good.slice(0, length)), 'truncated', /./);
  expect((await open(good)).tensors.length).toBe(1);
});
