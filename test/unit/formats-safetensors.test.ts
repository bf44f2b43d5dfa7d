import { describe, expect, it } from 'vitest';
import { openSafetensors } from '../../src/formats/safetensors/reader.ts';
import { writeSafetensors } from '../../src/formats/safetensors/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import type { ByteSource } from '../../src/formats/source.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { refuses, safetensors } from '../hostile/builder.ts';

const u8 = (name: string, begin: number, end: number) => ({
  [name]: { dtype: 'U8', shape: [end - begin], data_offsets: [begin, end] },
});

describe('one file', () => {
  it('is read: names, types, shapes, places', async () => {
    const header = {
      __metadata__: { format: 'pt' },
      b: { dtype: 'BF16', shape: [2, 3], data_offsets: [4, 16] },
      a: { dtype: 'F32', shape: [], data_offsets: [0, 4] },
      empty: { dtype: 'F32', shape: [0, 7], data_offsets: [4, 4] },
    };
    const bytes = safetensors(header, 16);
    const file = await openSafetensors(memorySource(bytes, 'm.safetensors'));
    const start = bytes.length - 16;
    expect(file.tensors.map((t) => [t.name, t.dtype, t.shape, t.offsetBytes - start, t.byteLength])).toEqual([
      ['a', 'F32', [], 0, 4],
      ['empty', 'F32', [0, 7], 4, 0],
      ['b', 'BF16', [2, 3], 4, 12],
    ]);
    expect([...file.metadata]).toEqual([['format', 'pt']]);
    expect(file.tensor('b').shape).toEqual([2, 3]);
    expect(file.findTensor('c')).toBeUndefined();
    await refuses(() => file.tensor('c'), 'missing-tensor', /m.safetensors: no such tensor, expected "c"/);
  });

  it('may be padded with spaces, and may have names that are special in JavaScript', async () => {
    const text =
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}   ';
    const file = await openSafetensors(memorySource(safetensors(text, 2)));
    expect(file.tensors.map((t) => t.name)).toEqual(['__proto__', 'constructor']);
  });

  it('comes back from the writer, aligned', async () => {
    const sink = memorySink();
    const data = Uint8Array.of(1, 2, 3, 4, 5, 6);
    await writeSafetensors(
      sink,
      [
        { name: 'w', dtype: 'U8', shape: [2, 3], data: () => [data.subarray(0, 2), data.subarray(2)] },
        { name: 'n', dtype: 'F16', shape: [1], data: () => [data.subarray(0, 2)] },
      ],
      new Map([['format', 'pt']]),
    );
    const file = await openSafetensors(memorySource(sink.bytes()));
    expect(file.tensor('w').offsetBytes % 8).toBe(0);
    const back = new Uint8Array(6);
    await file.tensor('w').source.readInto(back, file.tensor('w').offsetBytes);
    expect(back).toEqual(data);
    const bad = [{ name: 'w', dtype: 'U8', shape: [7], data: () => [data] }] as const;
    await refuses(
      writeSafetensors(memorySink(), bad),
      'bad-argument',
      /w: tensor data too short, expected 7 bytes, got 6/,
    );
    const twice = [{ name: 'w', dtype: 'U8', shape: [6], data: () => [data] }] as const;
    await refuses(writeSafetensors(memorySink(), [...twice, ...twice]), 'bad-argument', /given twice/);
  });
});

describe('an index', () => {
  function folder(files: Record<string, Uint8Array>) {
    const opened: string[] = [];
    const open = (name: string): ByteSource => {
      opened.push(name);
      return {
        ...memorySource(files[name], name),
        sibling: async (other) => open(other),
        async close() {
          opened.splice(opened.indexOf(name), 1);
        },
      };
    };
    return { open, opened };
  }
  const index = (weightMap: Record<string, unknown>) =>
    new TextEncoder().encode(JSON.stringify({ metadata: {}, weight_map: weightMap }));
  const parts = {
    'm-1.safetensors': safetensors(u8('a', 0, 3), 3),
    'm-2.safetensors': safetensors({ ...u8('b', 0, 2), ...u8('c', 2, 4) }, 4),
  };
  const map = { a: 'm-1.safetensors', b: 'm-2.safetensors', c: 'm-2.safetensors' };

  it('opens all its files', async () => {
    const { open, opened } = folder({ ...parts, 'model.safetensors.index.json': index(map) });
    const file = await openSafetensors(open('model.safetensors.index.json'));
    expect(file.tensors.map((t) => [t.name, t.source.label])).toEqual(Object.entries(map));
    expect(opened.length).toBe(3);
    await file.close();
    expect(opened).toEqual([]);
  });

  it.each<[string, Record<string, unknown>, 'bad-container' | 'missing-tensor', RegExp]>([
    [
      'a tensor that no file has',
      { ...map, d: 'm-2.safetensors' },
      'missing-tensor',
      /m-2.safetensors lacks a tensor of the index/,
    ],
    [
      'a tensor it does not list',
      { a: map.a, b: map.b },
      'bad-container',
      /: c: m-2.safetensors has a tensor.*got not in the index/,
    ],
    ['a tensor in another file', { ...map, c: 'm-1.safetensors' }, 'missing-tensor', /: c: m-1.safetensors lacks/],
    ['a path', { ...map, a: '../m-1.safetensors' }, 'bad-container', /: a: bad file name.*got "..\/m-1.safetensors"/],
    ['a backslash', { ...map, a: '..\\m-1.safetensors' }, 'bad-container', /bad file name/],
    ['a URL', { ...map, a: 'http:m-1.safetensors' }, 'bad-container', /bad file name/],
    ['another kind of file', { ...map, a: 'passwd' }, 'bad-container', /bad file name/],
    ['a number', { ...map, a: 5 }, 'bad-container', /got 5/],
    ['nothing', {}, 'bad-container', /bad weight_map/],
  ])('with %s is refused, and its files closed', async (_what, weightMap, code, message) => {
    const { open, opened } = folder({ ...parts, 'x.json': index(weightMap) });
    await refuses(openSafetensors(open('x.json')), code, message);
    expect(opened).toEqual(['x.json']);
  });

  it('needs siblings', async () => {
    await refuses(openSafetensors(memorySource(index(map), 'x.json')), 'bad-argument', /cannot be opened from memory/);
  });
});
