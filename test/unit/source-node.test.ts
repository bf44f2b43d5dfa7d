import {
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { createFileSink, FileSource, openFileSource } from '../../src/platform/source-node.ts';
import { refuses } from '../hostile/builder.ts';

const root = mkdtempSync(join(tmpdir(), 'bitnet-source-'));
let folder = '';
let nextFolder = 0;
beforeEach(() => {
  folder = join(root, String(nextFolder++));
  mkdirSync(folder);
});
afterAll(() => rmSync(root, { recursive: true }));

const data = Uint8Array.from({ length: 100_000 }, (_, i) => i * 13 + (i >> 8));

describe('file source', () => {
  it.each([
    ['plain', (n: number) => new ArrayBuffer(n)],
    ['shared', (n: number) => new SharedArrayBuffer(n)],
  ])('reads into %s memory at odd addresses', async (_name, allocate) => {
    const path = join(folder, 'f');
    writeFileSync(path, data);
    const source = await openFileSource(path);
    expect([source.byteLength, source.label]).toEqual([data.length, path]);
    const all = new Uint8Array(allocate(50_010)).fill(9);
    await source.readInto(all.subarray(3, 50_003), 777);
    expect(Uint8Array.from(all.subarray(3, 50_003))).toEqual(data.slice(777, 50_777));
    expect([...all.subarray(0, 3), ...all.subarray(50_003)]).toEqual(Array(10).fill(9));
    await source.readInto(new Uint8Array(0), data.length);
    await refuses(source.readInto(new Uint8Array(2), data.length - 1), 'truncated', /read beyond the end/);
    await refuses(source.readInto(new Uint8Array(2), -1), 'bad-argument', /bad offset/);
    await source.close();
    await source.close();
    await refuses(source.readInto(new Uint8Array(1), 0), 'disposed', /read after close/);
  });

  it('reads beyond 4 GiB, also several pieces at a time', async () => {
    const path = join(folder, 'sparse');
    writeFileSync(path, '');
    const length = 5 * 2 ** 30 + data.length;
    truncateSync(path, length); // holes take no room on the disk
    const file = openSync(path, 'r+');
    writeSync(file, data, 0, data.length, length - data.length);
    closeSync(file);
    const source = await openFileSource(path);
    expect(source.byteLength).toBe(length);
    const got = new Uint8Array(new SharedArrayBuffer(data.length));
    const pieces = Array.from({ length: 10 }, (_, i) => i * 10_000);
    await Promise.all(pieces.map((at) => source.readInto(got.subarray(at, at + 10_000), length - data.length + at)));
    expect(Buffer.compare(got, data)).toBe(0);
    await refuses(source.readInto(new Uint8Array(2), length - 1), 'truncated', /read beyond the end/);
    await source.close();
  });

  it('opens file URLs and siblings', async () => {
    writeFileSync(join(folder, 'a b.gguf'), data);
    writeFileSync(join(folder, 'c.gguf'), 'xyz');
    const source = await openFileSource(pathToFileURL(join(folder, 'a b.gguf')));
    const sibling = await source.sibling!('c.gguf');
    expect([sibling.label, sibling.byteLength]).toEqual([join(folder, 'c.gguf'), 3]);
    await refuses(source.sibling!('d.gguf'), 'io', /d.gguf: cannot open, got no such file or folder/);
    await source.close();
    await sibling.close();
  });

  it('says what is wrong', async () => {
    await refuses(openFileSource(join(folder, 'missing')), 'io', /missing: cannot open, got no such file/);
    await refuses(openFileSource(folder), 'io', /is a directory, expected a file/);
    writeFileSync(join(folder, 'f'), data);
    await refuses(openFileSource(join(folder, 'f', 'x')), 'io', /a part of the path is not a directory/);
    chmodSync(join(folder, 'f'), 0);
    // root may read anything.
    if (process.getuid?.() !== 0) await refuses(openFileSource(join(folder, 'f')), 'io', /permission denied/);
    const error = await openFileSource(join(folder, 'missing')).catch((e) => e);
    expect(error.cause.code).toBe('ENOENT');
  });

  it('notices a file that becomes shorter', async () => {
    const path = join(folder, 'f');
    writeFileSync(path, data);
    const source = await openFileSource(path);
    truncateSync(path, 500);
    await refuses(source.readInto(new Uint8Array(1000), 0), 'truncated', /became shorter.*got 500/);
    await source.close();
  });

  it('goes through a bounce buffer where the runtime refuses shared memory, and splits long and short reads', async () => {
    const calls: [string, number][] = [];
    const content = new Uint8Array(10 << 20).map((_, i) => i * 7 + (i >> 12));
    const handle = {
      async read(target: Uint8Array, _offset: number, length: number, position: number) {
        const shared = target.buffer instanceof SharedArrayBuffer;
        calls.push([shared ? 'shared' : 'plain', length]);
        if (shared) throw new TypeError('cannot read into shared memory');
        const bytesRead = Math.min(length, 3 << 20);
        target.set(content.subarray(position, position + bytesRead));
        return { bytesRead };
      },
      async close() {},
    };
    const source = new FileSource('f', content.length, handle);
    const target = new Uint8Array(new SharedArrayBuffer(content.length));
    await Promise.all([
      source.readInto(target.subarray(0, 5 << 20), 0),
      source.readInto(target.subarray(5 << 20), 5 << 20),
    ]);
    expect(Buffer.compare(target, content)).toBe(0);
    expect(calls.filter(([kind]) => kind === 'shared').length).toBe(2); // one try for each, then never again
    expect(Math.max(...calls.filter(([kind]) => kind === 'plain').map(([, n]) => n))).toBe(4 << 20);
    calls.length = 0;
    await source.readInto(new Uint8Array(100), 0);
    await source.readInto(target.subarray(0, 100), 0);
    expect(calls).toEqual([
      ['plain', 100],
      ['plain', 100],
    ]);
  });

  it('does not take failures of the file system for a refusal of shared memory', async () => {
    const failure = Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
    const handle = { read: async () => Promise.reject(failure), close: async () => {} };
    const source = new FileSource('f', 10, handle);
    await refuses(source.readInto(new Uint8Array(new SharedArrayBuffer(4)), 0), 'io', /f: cannot read, got Error: EIO/);
  });
});

describe('file sink', () => {
  it('shows the file only when it is complete', async () => {
    const path = join(folder, 'out.gguf');
    writeFileSync(path, 'old');
    const sink = await createFileSink(path);
    await sink.write(data.subarray(0, 60_000));
    await sink.write(new Uint8Array(0));
    await sink.write(data.subarray(60_000));
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(folder).length).toBe(2);
    await sink.close();
    await sink.close();
    await sink.abort();
    expect(readdirSync(folder)).toEqual(['out.gguf']);
    expect(Buffer.compare(readFileSync(path), data)).toBe(0);
    await refuses(sink.write(data), 'disposed', /write after close/);
  });

  it('leaves nothing behind when aborted', async () => {
    const sink = await createFileSink(join(folder, 'out'));
    await sink.write(data);
    await sink.abort();
    await sink.abort();
    await sink.close();
    expect(readdirSync(folder)).toEqual([]);
  });

  it('writes shared memory, too', async () => {
    const shared = new Uint8Array(new SharedArrayBuffer(1000));
    shared.set(data.subarray(0, 1000));
    const sink = await createFileSink(join(folder, 'out'));
    await sink.write(shared);
    await sink.close();
    expect(Buffer.compare(readFileSync(join(folder, 'out')), data.subarray(0, 1000))).toBe(0);
  });

  it('refuses directories and missing folders', async () => {
    await refuses(createFileSink(folder), 'io', /exists and is not a regular file/);
    await refuses(createFileSink(join(folder, 'no', 'out')), 'io', /out: cannot create, got no such file or folder/);
    symlinkSync(join(folder, 'nowhere'), join(folder, 'link'));
    const sink = await createFileSink(join(folder, 'link'));
    await sink.abort();
  });
});
