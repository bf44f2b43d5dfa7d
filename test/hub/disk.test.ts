/** A disk that fills up and a file system without links: what real ones do is put in place of node:fs. */
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { downloadFile } from '../../src/cli/hub/download.ts';
import { listRepo } from '../../src/hub/api.ts';
import { clientDefaults } from '../../src/hub/http.ts';
import { parseHubReference } from '../../src/hub/reference.ts';
import { refuses } from '../hostile/builder.ts';
import { type FakeHub, sha256, startHub } from './server.ts';

const disk = vi.hoisted(() => ({ room: Infinity, links: true, hardLinks: true }));

vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>();
  const refuse = (code: string) => Object.assign(new Error(code), { code });
  return {
    ...real,
    symlink: (...args: Parameters<typeof real.symlink>) =>
      disk.links ? real.symlink(...args) : Promise.reject(refuse('EPERM')),
    link: (...args: Parameters<typeof real.link>) =>
      disk.hardLinks ? real.link(...args) : Promise.reject(refuse('EPERM')),
    open: async (...args: Parameters<typeof real.open>) => {
      const handle = await real.open(...args);
      const write = handle.write.bind(handle) as (...all: unknown[]) => Promise<{ bytesWritten: number }>;
      // As a disk does it: what fits is written, and the next call fails.
      const filling = async (chunk: Uint8Array, at: number, length: number, position: number) => {
        if (disk.room === 0) throw refuse('ENOSPC');
        const fits = Math.min(length, disk.room);
        disk.room -= fits;
        return write(chunk, at, fits, position);
      };
      return Object.assign(handle, { write: filling });
    },
  };
});

const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * i) >> 3);
const COMMIT = 'a'.repeat(40);

let hub: FakeHub;
let cache: string;

beforeEach(async () => {
  Object.assign(disk, { room: Infinity, links: true, hardLinks: true });
  hub = await startHub({ id: 'me/tiny', commit: COMMIT, files: [{ path: 'a/m.gguf', bytes }] });
  cache = await mkdtemp(join(tmpdir(), 'bitnet-hub-'));
});

afterEach(async () => {
  await hub.close();
  await rm(cache, { recursive: true, force: true });
});

async function get() {
  const client = { ...clientDefaults, endpoint: hub.endpoint, backoffMs: 1 };
  const repo = await listRepo(client, parseHubReference('me/tiny'));
  return downloadFile(client, repo, repo.files[0], { cache });
}

describe('a disk', () => {
  it('that fills up keeps what it has, and with room again the rest comes', async () => {
    for (const room of [0, 1, 700]) {
      disk.room = room;
      await refuses(get(), 'io', /incomplete: cannot write, got no space left/);
      expect(await readdir(join(cache, '.locks', 'models--me--tiny'))).toEqual([]);
    }
    expect(await readdir(join(cache, 'models--me--tiny', 'blobs'))).toEqual([`${sha256(bytes)}.bitnet.incomplete`]);
    disk.room = Infinity;
    hub.seen.length = 0;
    const { file } = await get();
    expect(bytes).toEqual(Uint8Array.from(await readFile(file)));
    expect(hub.bodies().map(({ range }) => range)).toEqual(['bytes=701-']);
  });

  it.each([true, false])('without symbolic links gets files (hard links: %s)', async (hardLinks) => {
    Object.assign(disk, { links: false, hardLinks });
    const { file } = await get();
    expect(bytes).toEqual(Uint8Array.from(await readFile(file)));
    expect((await stat(file)).nlink).toBe(hardLinks ? 2 : 1);
    expect(await readdir(join(file, '..'))).toEqual(['m.gguf']);
    expect(await get()).toMatchObject({ cached: true });
  });
});
