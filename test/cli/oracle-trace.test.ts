/** `bitnet oracle trace` as a user runs it. */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { unzipSync } from 'fflate';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { memorySource, openGguf } from '../../src/formats/index.ts';
import { tinyModel } from '../model/models.ts';
import { bitnet } from './program.ts';

let folder: string;
const at = (name: string) => join(folder, name);
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const trace = (...args: string[]) =>
  bitnet(['oracle', 'trace', ...(args[0] === '-m' ? [] : ['-m', at('m.gguf')]), '-t', '1', ...args]);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-oracle-trace-'));
  await writeFile(at('m.gguf'), await tinyModel({}));
});
afterAll(() => rm(folder, { recursive: true }));

describe('oracle trace', () => {
  it('leaves alone what appears under its name while it computes', async () => {
    const tokens = Array.from({ length: 200 }, (_, i) => i).join();
    const done = trace('--tokens', tokens, '-o', at('late.npz'));
    while (!(await readdir(folder)).some((name) => name.startsWith('late.npz.parts'))) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await writeFile(at('late.npz'), 'mine');
    expect(await done).toMatchObject({ code: 1, err: expect.stringContaining('exists already') });
    expect(await readFile(at('late.npz'), 'utf8')).toBe('mine');
    expect((await readdir(folder)).filter((name) => name.startsWith('late'))).toEqual(['late.npz']);
  });

  it('writes a folder and an archive of the same files', async () => {
    const tokens = ['--tokens', '1,300,310,320,77'];
    expect(await trace(...tokens, '-o', at('dump'))).toEqual({
      code: 0,
      out: expect.stringMatching(/dump: \d+ tensors of 5 tokens\n$/),
      err: '',
    });
    expect(await trace(...tokens, '-o', at('dump.npz'))).toMatchObject({ code: 0, err: '' });
    const archive = unzipSync(await readFile(at('dump.npz')));
    const names = await readdir(at('dump'));
    expect(Object.keys(archive).sort()).toEqual(names.sort());
    for (const name of names) expect(sha256(archive[name]), name).toBe(sha256(await readFile(at(`dump/${name}`))));
    const manifest = JSON.parse(await readFile(at('dump/manifest.json'), 'utf8'));
    const model = await readFile(at('m.gguf'));
    expect(manifest).toMatchObject({
      format: 'bitnet-trace',
      formatVersion: 1,
      numericsVersion: expect.any(Number),
      producer: expect.stringMatching(/^bitnet-ts \d/),
      tokens: [1, 300, 310, 320, 77],
      model: { sha256: sha256(model), byteLength: model.length, architecture: 'bitnet-b1.58' },
      kv: { k: 'f16', v: 'f16' },
    });
    // Who else writes it, and where, makes no difference: no dates, no paths.
    expect(JSON.stringify(manifest)).not.toContain(folder);
    await rm(at('dump'), { recursive: true });
    await rm(at('dump.npz'));
  });

  it('takes text, stages and types of the cache', async () => {
    await writeFile(at('text'), 'a b');
    const stages = ['--layers', '1', '--tensors', '*attn_weights,logits', '-ctk', 'f32'];
    expect(await trace('-f', at('text'), ...stages, '-o', at('some'))).toMatchObject({ code: 0 });
    const { tensors, kv } = JSON.parse(await readFile(at('some/manifest.json'), 'utf8'));
    expect(tensors.map(({ name }: { name: string }) => name)).toEqual(['blk.1.attn_weights', 'logits']);
    expect(kv).toEqual({ k: 'f32', v: 'f16' });
    await rm(at('some'), { recursive: true });
  });

  it('says where the first number arises that is none', async () => {
    const bytes = await tinyModel({});
    const { offsetBytes, elements } = (await openGguf(memorySource(bytes))).tensor('blk.1.ffn_norm.weight');
    // Gains that are numbers, but too large for what they are to scale.
    for (let i = 0; i < elements; i++) new DataView(bytes.buffer).setFloat32(offsetBytes + 4 * i, 3e38, true);
    await writeFile(at('infinite.gguf'), bytes);
    const done = await trace('-m', at('infinite.gguf'), '--tokens', '5,6', '-o', at('infinite'));
    expect(done).toMatchObject({ code: 0 });
    const { notFinite, tensors } = JSON.parse(await readFile(at('infinite/manifest.json'), 'utf8'));
    const { tensor, position, column, value } = notFinite;
    expect(notFinite).toMatchObject({ tensor: 'blk.1.ffn_norm', position: 0 });
    expect(done.err).toBe(`note: ${value} first arises in ${tensor}, token ${position}, column ${column}\n`);
    const file = await readFile(at('infinite/blk.1.ffn_norm.npy'));
    const start = file.readUInt16LE(8) + 10;
    expect(file.readFloatLE(start + 4 * column)).toBe(Number(value));
    for (let i = 0; i < column; i++) expect(file.readFloatLE(start + 4 * i)).toBeLessThan(Infinity);
    const entry = tensors.find(({ name }: { name: string }) => name === tensor);
    expect(entry.notFinite).toEqual({ count: expect.any(Number), first: { position, column, value } });
    await rm(at('infinite'), { recursive: true });
    await rm(at('infinite.gguf'));
  });

  it('refuses what cannot be, and writes nothing then', async () => {
    await mkdir(at('full'));
    await writeFile(at('full/mine'), 'mine');
    await writeFile(at('mine.npz'), 'mine');
    const before = await readdir(folder);
    for (const [args, code, message] of [
      [['--tokens', '1'], 2, /-o is missing/],
      [['-o', at('x')], 2, /give one of --tokens, -p and -f/],
      [['-o', at('x'), '--tokens', '1', '--layers', 'one'], 2, /--layers takes A-B/],
      [['-o', at('x'), '--tokens', '1', '--layers', '1-9'], 1, /first-last within 0-1, got 1-9/],
      [['-o', at('x'), '--tokens', '1', '--tensors', 'blk.*.attn_query'], 1, /there are blk\.\*\.attn_/],
      [['-o', at('x'), '--tokens', '1,99999'], 1, /bad-token|99999/],
      [['-o', at('x/y/z'), '--tokens', '1'], 1, /no such file or folder/],
      [['-o', at('full'), '--tokens', '1'], 1, /the folder exists already/],
      [['-o', at('mine.npz'), '--tokens', '1'], 1, /exists already/],
      [['-o', at('m.gguf'), '--tokens', '1'], 1, /exists already/],
    ] as const) {
      const done = await trace(...args);
      expect(done, args.join(' ')).toMatchObject({ code, out: '', err: expect.stringMatching(message) });
      expect(await readdir(folder), args.join(' ')).toEqual(before);
    }
    expect(await readFile(at('mine.npz'), 'utf8')).toBe('mine');
    expect(await readdir(at('full'))).toEqual(['mine']);
  });

  it.each([
    ['SIGINT', 'a', 130],
    ['SIGTERM', 'a.npz', 143],
  ] as const)('leaves nothing after %s', async (signal, output, code) => {
    const before = await readdir(folder);
    const tokens = Array.from({ length: 2000 }, (_, i) => i % 500).join();
    const stopped = await bitnet(['oracle', 'trace', '-m', at('m.gguf'), '--tokens', tokens, '-o', at(output)], {
      // As soon as the first files are there.
      meanwhile: (child) => {
        const timer = setInterval(async () => {
          if ((await readdir(folder)).length <= before.length) return;
          clearInterval(timer);
          child.kill(signal);
        }, 5);
        child.on('close', () => clearInterval(timer));
      },
    });
    expect(stopped).toMatchObject({ code, out: '' });
    expect(await readdir(folder)).toEqual(before);
  });
});
