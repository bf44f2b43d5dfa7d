/**
 * Split GGUF files: PREFIX-00001-of-00003.gguf and its siblings.
 *
 * Keys (in every shard): `split.no` from 0, `split.count`, `split.tensors.count` over all shards; the number printed
 * in the name counts from 1. All other metadata come from shard 0. As upstream does, only shard 0 can be opened, and
 * its siblings are found by name beside it.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import type { ByteSource } from '../source.ts';
import { MAX_SHARDS } from './limits.ts';
import { MetadataReader } from './metadata.ts';
import type { GgufHeader } from './reader.ts';

/** `PREFIX-%05d-of-%05d.gguf`, `index` from 0. */
export function shardName(prefix: string, index: number, count: number): string {
  const five = (n: number) => String(n).padStart(5, '0');
  return `${prefix}-${five(index + 1)}-of-${five(count)}.gguf`;
}

/** The last part of a path or URL, without query and fragment. */
export function fileNameOf(label: string): string {
  const path = /^[a-z][a-z0-9+.-]+:\/\//i.test(label) ? label.replace(/[?#].*$/s, '') : label;
  return path.slice(Math.max(path.lastIndexOf('/'), path.lastIndexOf('\\')) + 1);
}

/** Opens shards 1.. of the file that `first` heads; none if it is not split. Closes what it opened if it fails. */
export async function openOtherShards(
  first: GgufHeader,
  readHeader: (source: ByteSource) => Promise<GgufHeader>,
): Promise<GgufHeader[]> {
  const label = first.source.label;
  const keys = new MetadataReader(label, first.metadata);
  const count = keys.uint('split.count') ?? 1;
  if (count <= 1) return [];
  const number = keys.uint('split.no') ?? 0;
  want(number === 0, 'bad-container', 'not the first shard', () => ({
    where: label,
    expected: 'shard 1',
    got: `shard ${number + 1} of ${count}`,
    hint: 'open the file ending in -00001-of-....gguf',
  }));
  want(count <= MAX_SHARDS, 'limit-exceeded', 'too many shards', () => ({
    where: `${label}: split.count`,
    expected: `at most ${MAX_SHARDS}`,
    got: `${count}`,
  }));
  const prefix = prefixOf(label, count);

  const opened: GgufHeader[] = [];
  let pending: ByteSource | undefined;
  try {
    for (let i = 1; i < count; i++) {
      pending = await openSibling(first.source, shardName(prefix, i, count));
      const header = await readHeader(pending);
      checkPlace(header, i, count);
      opened.push(header);
      pending = undefined;
    }
    checkTensors(label, keys, [first, ...opened]);
    return opened;
  } catch (error) {
    await pending?.close();
    for (const { source } of opened) await source.close();
    throw error;
  }
}

function prefixOf(label: string, count: number): string {
  const name = fileNameOf(label);
  const ending = shardName('', 0, count);
  want(name.endsWith(ending), 'bad-container', 'a first shard with another name', () => ({
    where: label,
    expected: `a file name ending in ${ending}`,
    got: name,
  }));
  return name.slice(0, name.length - ending.length);
}

async function openSibling(source: ByteSource, name: string): Promise<ByteSource> {
  if (source.sibling === undefined) {
    throw new BitnetError('bad-argument', 'a split file cannot be opened from memory or a Blob', {
      where: source.label,
      expected: `${name} beside it`,
      hint: 'open it by path or URL, or merge it with llama-gguf-split --merge',
    });
  }
  return source.sibling(name);
}

function checkPlace(header: GgufHeader, index: number, count: number): void {
  const keys = new MetadataReader(header.source.label, header.metadata);
  const number = keys.uint('split.no');
  const total = keys.uint('split.count');
  want(number === index && total === count, 'bad-container', 'shard of another file', () => ({
    where: header.source.label,
    expected: `split.no ${index} of split.count ${count}`,
    got: `${number ?? 'none'} of ${total ?? 'none'}`,
  }));
}

function checkTensors(label: string, keys: MetadataReader, shards: readonly GgufHeader[]): void {
  const owner = new Map<string, string>();
  for (const { source, tensors } of shards) {
    for (const { name } of tensors) {
      want(!owner.has(name), 'bad-container', 'tensor occurs in two shards', () => ({
        where: `${source.label}: ${name}`,
        got: `${owner.get(name)} too`,
      }));
      owner.set(name, source.label);
    }
  }
  const expected = keys.uint('split.tensors.count');
  want(
    expected === undefined || expected === owner.size,
    'bad-container',
    'wrong number of tensors in all shards',
    () => ({
      where: `${label}: split.tensors.count`,
      expected: `${expected}`,
      got: `${owner.size}`,
    }),
  );
}
