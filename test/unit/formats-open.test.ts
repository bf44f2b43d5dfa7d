import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { crc32, gunzipSource, isGzip } from '../../src/formats/gzip.ts';
import { openModelSource } from '../../src/formats/open.ts';
import type { ByteSource } from '../../src/formats/source.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { gguf, random, refuses } from '../hostile/builder.ts';

async function contents(source: ByteSource): Promise<Uint8Array> {
  const bytes = new Uint8Array(source.byteLength);
  await source.readInto(bytes, 0);
  return bytes;
}
const gz = (bytes: Uint8Array) => new Uint8Array(gzipSync(bytes));
const noise = (length: number) => {
  const next = random(8);
  return Uint8Array.from({ length }, () => next() * 256);
};

describe('gzip', () => {
  it('is recognised and inflated, with names and comments in the header too', async () => {
    for (const plain of [gguf(), new Uint8Array(0), new Uint8Array(3_000_000), noise(200_000)]) {
      const source = memorySource(gz(plain), 'x.gguf.gz');
      expect(await isGzip(source)).toBe(true);
      const inflated = await gunzipSource(source);
      expect(Buffer.compare(await contents(inflated), plain)).toBe(0);
      expect(inflated.label).toBe('x.gguf.gz');
    }
    expect(await isGzip(memorySource(gguf()))).toBe(false);
    expect(await isGzip(memorySource(Uint8Array.of(0x1f)))).toBe(false);
    const plain = gguf();
    const packed = gz(plain);
    const named = Uint8Array.from([
      ...packed.subarray(0, 3),
      0x08,
      ...packed.subarray(4, 10),
      0x61,
      0x62,
      0,
      ...packed.subarray(10),
    ]);
    expect(await contents(await gunzipSource(memorySource(named)))).toEqual(plain);
  });

  it('has the checksum of the standard', () => {
    expect(crc32(new TextEncoder().encode('123456789'))).toBe(0xcbf43926);
    expect(crc32(new Uint8Array(0))).toBe(0);
  });

  it('refuses damage, lies and bombs', async () => {
    const plain = noise(5000);
    const good = gz(plain);
    const changed = (change: (bytes: Uint8Array) => void) => {
      const bytes = good.slice();
      change(bytes);
      return memorySource(bytes, 'f.gz');
    };
    const n = good.length;
    await refuses(
      gunzipSource(changed((b) => (b[n - 8] ^= 1))),
      'bad-container',
      /^f.gz: damaged gzip file: wrong checksum/,
    );
    await refuses(gunzipSource(changed((b) => (b[100] ^= 1))), 'bad-container', /damaged|inflates/);
    await refuses(gunzipSource(changed((b) => (b[2] = 7))), 'bad-container', /damaged gzip/);
    await refuses(gunzipSource(changed((b) => (b[n - 4] -= 1))), 'bad-container', /inflates to more than it says/);
    await refuses(gunzipSource(changed((b) => (b[n - 4] += 1))), 'bad-container', /inflates to less than it says/);
    await refuses(gunzipSource(changed((b) => b.fill(0xff, n - 4))), 'limit-exceeded', /too large to inflate/);
    await refuses(gunzipSource(memorySource(gz(new Uint8Array(100)).subarray(0, 19))), 'truncated', /ends too early/);
    const two = Uint8Array.from([...gz(plain), ...gz(plain)]);
    await refuses(gunzipSource(memorySource(two)), 'bad-container', /several gzip members|inflates to more/);
    // 64 MiB of zeros in 64 KiB: honest, but beyond the ceiling; then lying that it is small.
    const bomb = gz(new Uint8Array(64 << 20));
    await refuses(
      gunzipSource(memorySource(bomb), { maxBytes: 1 << 20 }),
      'limit-exceeded',
      /expected at most 1048576 bytes/,
    );
    new DataView(bomb.buffer).setUint32(bomb.length - 4, 1000, true);
    await refuses(gunzipSource(memorySource(bomb), { maxBytes: 1 << 20 }), 'bad-container', /more than it says/);
    // A claim that deflate cannot reach is refused before memory is given.
    const tiny = gz(new Uint8Array(10));
    new DataView(tiny.buffer).setUint32(tiny.length - 4, 200 << 20, true);
    await refuses(gunzipSource(memorySource(tiny)), 'bad-container', /impossible inflated size/);
  });

  it('every cut and every flipped bit is refused or harmless', async () => {
    const plain = gguf();
    const good = gz(plain);
    for (let i = 0; i < good.length * 8; i++) {
      const bytes = good.slice();
      bytes[i >> 3] ^= 1 << (i & 7);
      try {
        const source = await gunzipSource(memorySource(bytes));
        expect(await contents(source)).toEqual(plain);
      } catch (error) {
        expect((error as Error).name, `bit ${i}: ${error}`).toBe('BitnetError');
      }
    }
    for (let length = 0; length < good.length; length++) {
      const error = await gunzipSource(memorySource(good.slice(0, length))).catch((e: Error) => e);
      expect((error as Error).name, `cut at ${length}`).toBe('BitnetError');
    }
  });
});

describe('openModelSource', () => {
  const plain = gguf();
  const closed: string[] = [];
  const openPath = async (path: string | URL): Promise<ByteSource> => ({
    ...memorySource(String(path).endsWith('.gz') ? gz(plain) : plain, String(path)),
    async close() {
      closed.push(String(path));
    },
  });

  it('opens bytes, blobs, sources, paths and URLs', async () => {
    const source = memorySource(plain, 'mine');
    expect(await openModelSource(source)).toBe(source);
    for (const input of [
      plain,
      new Blob([plain]),
      'models/a.gguf',
      'C:\\a.gguf',
      new URL('file:///a.gguf'),
      gz(plain),
      'a.gguf.gz',
    ]) {
      expect(await contents(await openModelSource(input, { openPath }))).toEqual(plain);
    }
    const dataUrl = `data:application/octet-stream;base64,${Buffer.from(plain).toString('base64')}`;
    expect(await contents(await openModelSource(dataUrl))).toEqual(plain);
    const blobUrl = URL.createObjectURL(new Blob([plain]));
    expect(await contents(await openModelSource(blobUrl))).toEqual(plain);
    URL.revokeObjectURL(blobUrl);
    await refuses(openModelSource(blobUrl), 'http', /^blob:.*cannot open the URL/);
  });

  it('gives file URLs to openPath as URLs, and paths as they are', async () => {
    const given: unknown[] = [];
    const spy = async (path: string | URL) => {
      given.push(path);
      return memorySource(plain);
    };
    await openModelSource('file:///x%20y.gguf', { openPath: spy });
    await openModelSource('file:x.gguf', { openPath: spy });
    await openModelSource('a#b?.gguf', { openPath: spy });
    expect(given).toEqual([new URL('file:///x%20y.gguf'), 'file:x.gguf', 'a#b?.gguf']);
  });

  it('refuses what it cannot open and closes what it opened', async () => {
    await refuses(openModelSource('a.gguf'), 'bad-argument', /a.gguf: paths cannot be opened here/);
    for (const input of [undefined, null, 5, {}]) {
      await refuses(openModelSource(input as never), 'bad-argument', /not a model/);
    }
    closed.length = 0;
    await refuses(openModelSource('b.gguf.gz', { openPath, maxInflatedBytes: 10 }), 'limit-exceeded', /too large/);
    expect(closed).toEqual(['b.gguf.gz']);
    // The caller's own source stays open.
    const own = await openPath('own.gz');
    await refuses(openModelSource(own, { maxInflatedBytes: 10 }), 'limit-exceeded', /too large/);
    expect(closed).toEqual(['b.gguf.gz']);
  });
});
