import { describe, expect, it } from 'vitest';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import { fileNameOf, shardName } from '../../src/formats/gguf/split.ts';
import type { GgufValue } from '../../src/formats/gguf/types.ts';
import { stringValue, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import type { ByteSource } from '../../src/formats/source.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { refuses } from '../hostile/builder.ts';

async function written(tensors: Parameters<typeof writeGguf>[1]['tensors'], metadata: [string, GgufValue][]) {
  const sink = memorySink();
  await writeGguf(sink, { metadata, tensors });
  return sink.bytes();
}

describe('split files', () => {
  const shard = (
    index: number,
    count: number,
    tensors: string[],
    total: number | undefined,
    more: GgufValue = stringValue('x'),
  ) =>
    written(
      tensors.map((name) => ({ name, dtype: 'F32', shape: [1], data: () => [new Uint8Array(4).fill(index)] })),
      [
        ['split.no', { type: 'u16', value: index }],
        ['split.count', { type: 'u16', value: count }],
        ...(total === undefined ? [] : [['split.tensors.count', { type: 'i32', value: total }] as [string, GgufValue]]),
        [`only.${index}`, more],
      ],
    );
  /** A folder in memory; counts what is open. */
  function folderOf(files: Record<string, Uint8Array>) {
    const opened: string[] = [];
    const open = (name: string): ByteSource => {
      opened.push(name);
      return {
        ...memorySource(files[name], `dir/${name}`),
        sibling: async (other) => open(other),
        async close() {
          opened.splice(opened.indexOf(name), 1);
        },
      };
    };
    return { open, opened };
  }
  const name = (i: number) => shardName('m', i, 3);

  it('are read as one, metadata from the first', async () => {
    const files = {
      [name(0)]: await shard(0, 3, ['a'], 4),
      [name(1)]: await shard(1, 3, ['b', 'c'], 4),
      [name(2)]: await shard(2, 3, ['d'], 4),
    };
    const { open, opened } = folderOf(files);
    const file = await openGguf(open(name(0)));
    expect(file.tensors.map((t) => t.name)).toEqual(['a', 'b', 'c', 'd']);
    const { source, offsetBytes, byteLength } = file.tensor('d');
    const data = new Uint8Array(byteLength);
    await source.readInto(data, offsetBytes);
    expect([...data]).toEqual([2, 2, 2, 2]);
    expect(file.tensor('c').source.label).toBe('dir/m-00002-of-00003.gguf');
    expect([file.findString('only.0'), file.findString('only.1')]).toEqual(['x', undefined]);
    expect(file.byteLength).toBe(Object.values(files).reduce((sum, f) => sum + f.length, 0));
    expect(opened.length).toBe(3);
    await file.close();
    expect(opened).toEqual([]);
  });

  it.each<[string, (files: Record<string, Uint8Array>) => Promise<Record<string, Uint8Array>>, RegExp]>([
    [
      'a tensor twice',
      async () => ({ [name(2)]: await shard(2, 3, ['b'], 3) }),
      /m-00003.*: b: tensor occurs in two shards/,
    ],
    [
      'a wrong total',
      async () => ({ [name(2)]: await shard(2, 3, ['d', 'e'], 3) }),
      /split.tensors.count: .*expected 3, got 4/,
    ],
    [
      'a shard of another place',
      async (f) => ({ [name(2)]: f[name(1)] }),
      /m-00003.*: shard of another file, expected split.no 2 of split.count 3, got 1 of 3/,
    ],
    ['a shard of another split', async () => ({ [name(1)]: await shard(1, 4, ['b'], 3) }), /got 1 of 4/],
    [
      'a damaged shard',
      async (f) => ({ [name(2)]: f[name(2)].slice(0, -40) }),
      /m-00003.*truncated|ends inside|beyond the end/,
    ],
  ])('are refused with %s, and closed', async (_what, spoil, message) => {
    const files = {
      [name(0)]: await shard(0, 3, ['a'], 3),
      [name(1)]: await shard(1, 3, ['b'], 3),
      [name(2)]: await shard(2, 3, ['d'], 3),
    };
    await openGguf(folderOf(files).open(name(0))); // the good twin
    const { open, opened } = folderOf({ ...files, ...(await spoil(files)) });
    const first = open(name(0));
    const error = await openGguf(first).catch((e) => e);
    expect(error.name).toBe('BitnetError');
    expect(error.message).toMatch(message);
    expect(opened).toEqual([name(0)]);
  });

  it('must be opened by the first shard, under its right name, where there are siblings', async () => {
    const first = await shard(0, 3, ['a'], 3);
    const second = await shard(1, 3, ['b'], 3);
    await refuses(openGguf(memorySource(second, name(1))), 'bad-container', /not the first shard.*got shard 2 of 3/);
    await refuses(
      openGguf({ ...memorySource(first, 'renamed.gguf'), sibling: async () => memorySource(second) }),
      'bad-container',
      /ending in -00001-of-00003.gguf, got renamed.gguf/,
    );
    await refuses(openGguf(memorySource(first, name(0))), 'bad-argument', /cannot be opened from memory/);
    const many = await shard(0, 65535, ['a'], 3);
    await refuses(openGguf(memorySource(many, 'm-00001-of-65535.gguf')), 'limit-exceeded', /too many shards/);
    await openGguf(memorySource(await shard(0, 1, ['a'], 1)));
  });

  it('names files of paths and URLs', () => {
    expect(fileNameOf('/a/b-00001-of-00002.gguf')).toBe('b-00001-of-00002.gguf');
    expect(fileNameOf('C:\\models\\b.gguf')).toBe('b.gguf');
    expect(fileNameOf('https://h/x/b.gguf?download=true#y/z')).toBe('b.gguf');
    expect(fileNameOf('what?.gguf')).toBe('what?.gguf');
  });
});
