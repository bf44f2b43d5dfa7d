import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { bitnet } from './program.ts';

// Every case starts a few processes, which on a busy machine take their time.
vi.setConfig({ testTimeout: 120_000 });

let folder: string;
const at = (name: string) => join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-quantize-'));
  await bitnet(['synth', '--type', 'f32', '--embd-type', 'f32', '-o', at('f32.gguf'), '-q']);
  await bitnet(['synth', '--type', 'i2_s', '-o', at('i2_s.gguf'), '-q']);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe('quantize', () => {
  it("takes llama-quantize's arguments", async () => {
    const done = await bitnet(['quantize', at('f32.gguf'), at('named.gguf'), 'I2_S', '1']);
    expect(done).toMatchObject({ code: 0, out: expect.stringMatching(/named\.gguf: 667/) });
    expect(done.err).toMatch(/note: 14 matrices were ternary already/);
    const expected = await readFile(at('i2_s.gguf'));
    expect((await readFile(at('named.gguf'))).equals(expected)).toBe(true);
    expect(await bitnet(['quantize', '-q', at('f32.gguf'), at('numbered.gguf'), '40'])).toMatchObject({
      code: 0,
      err: '',
    });
    expect((await readFile(at('numbered.gguf'))).equals(expected)).toBe(true);
    expect(await bitnet(['quantize', '-q', at('f32.gguf'), 'tq2_0'])).toMatchObject({ code: 0 });
    expect((await readFile(at('ggml-model-tq2_0.gguf'))).length).toBeGreaterThan(600_000);
    const typed = ['quantize', '--token-embedding-type', 'q6_k', at('i2_s.gguf'), at('q6_k.gguf'), 'tq1_0'];
    expect(await bitnet(typed)).toMatchObject({ code: 0 });
    expect((await bitnet(['inspect', at('q6_k.gguf')])).out).toMatch(/Q6_K +1 [\s\S]*TQ1_0 +14 /);
    expect(await bitnet(['run', '-m', at('q6_k.gguf'), '-p', 'a', '-n', '2', '-q'])).toMatchObject({ code: 0 });
  });

  it('refuses what it must, and leaves nothing behind', async () => {
    const before = await readdir(folder);
    const refused = async (args: string[], code: number, message: RegExp) => {
      expect(await bitnet(['quantize', ...args])).toMatchObject({ code, out: '', err: expect.stringMatching(message) });
    };
    await refused([], 2, /expected IN\.gguf \[OUT\.gguf\] TYPE, got nothing/);
    await refused([at('f32.gguf')], 2, /expected IN\.gguf \[OUT\.gguf\] TYPE/);
    await refused([at('f32.gguf'), at('x.gguf'), 'q4_k'], 2, /TYPE is one of i2_s \(40\).*got "q4_k"/);
    await refused([at('f32.gguf'), at('x.gguf'), 'i2_s', 'many'], 2, /unexpected argument "many"/);
    await refused([at('f32.gguf'), at('f32.gguf'), 'i2_s'], 2, /the same file/);
    await refused(['--token-embedding-type', 'q3', at('f32.gguf'), at('x.gguf'), 'i2_s'], 2, /takes one of f32/);
    await refused([at('none.gguf'), at('x.gguf'), 'i2_s'], 1, /io: .*none\.gguf/);
    await refused([at('f32.gguf'), join(folder, 'no', 'x.gguf'), 'i2_s'], 1, /io: .*no such file or folder/);
    await refused(
      ['--token-embedding-type', 'q8_0', at('q6_k.gguf'), at('x.gguf'), 'i2_s'],
      1,
      /requantising Q6_K is off/,
    );
    expect(await readdir(folder)).toEqual(before);
  });

  it('leaves nothing behind after Ctrl-C', async () => {
    const bytes = await readFile(at('f32.gguf'));
    const before = await readdir(folder);
    // Answers until a file has been begun, then keeps everybody waiting.
    let waiting: (() => void) | undefined;
    const server = createServer(async (request, response) => {
      const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
      const from = Number(first ?? 0);
      if (from > bytes.length / 2) {
        expect((await readdir(folder)).some((name) => name.endsWith('.partial'))).toBe(true);
        waiting?.();
        return;
      }
      const to = Math.min(last ? Number(last) : Infinity, bytes.length - 1);
      const headers = { 'content-range': `bytes ${from}-${to}/${bytes.length}`, 'accept-ranges': 'bytes' };
      response.writeHead(206, { ...headers, 'content-length': to - from + 1 });
      response.end(request.method === 'HEAD' ? undefined : bytes.subarray(from, to + 1));
    });
    await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
    try {
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/f32.gguf`;
      for (const [signal, code] of [
        ['SIGINT', 130],
        ['SIGTERM', 143],
        ['SIGHUP', 129],
      ] as const) {
        const stopped = await bitnet(['quantize', url, at('x.gguf'), 'i2_s'], {
          meanwhile: (child) => {
            waiting = () => void child.kill(signal);
          },
        });
        expect(stopped).toMatchObject({ code, out: '' });
        expect(await readdir(folder)).toEqual(before);
      }
      expect(await bitnet(['quantize', url, 'i2_s'])).toMatchObject({
        code: 2,
        err: expect.stringMatching(/OUT\.gguf/),
      });
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});

describe('convert', () => {
  it('goes back to a folder, and refuses one that is there', async () => {
    expect(await bitnet(['convert', at('i2_s.gguf'), '--to-hf', at('folder')])).toMatchObject({ code: 0 });
    const names = [
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'tokenizer.model',
      'tokenizer_config.json',
    ];
    expect((await readdir(at('folder'))).sort()).toEqual(names);
    const refused = async (args: string[], code: number, message: RegExp) => {
      const before = await readdir(folder);
      expect(await bitnet(['convert', ...args])).toMatchObject({ code, out: '', err: expect.stringMatching(message) });
      expect(await readdir(folder)).toEqual(before);
    };
    await refused([at('i2_s.gguf'), '--to-hf', at('folder')], 1, /io: .*the folder is not empty/);
    await refused([at('i2_s.gguf'), '--to-hf', at('i2_s.gguf')], 1, /io: .*not a folder/);
    await refused([at('i2_s.gguf'), '-o', at('x.gguf')], 2, /--to-hf DIR/);
    await refused([at('i2_s.gguf'), '-o', at('x.gguf'), '--to-hf', at('y')], 2, /exclude each other/);
    await refused([at('i2_s.gguf'), '--to-hf', at('y'), '--embd-type', 'q8_0'], 2, /takes one of f32, f16, bf16/);
    await refused([at('none.gguf'), '--to-hf', at('y')], 1, /io: .*none\.gguf/);
  });
});

describe('a process that ends in the middle', () => {
  it('takes its unfinished files and folders with it', async () => {
    const dist = new URL('../../dist/platform/', import.meta.url).href;
    const script = `
      import { createFileSink } from '${dist}source-node.js';
      import { createFolderSink } from '${dist}folder-node.js';
      import { readdirSync } from 'node:fs';
      const folder = process.argv[1];
      const sink = await createFileSink(folder + '/unfinished');
      await sink.write(new Uint8Array(1000));
      await (await (await createFolderSink(folder + '/half')).create('a')).write(new Uint8Array(1000));
      const done = await createFileSink(folder + '/finished');
      await done.close();
      console.log(readdirSync(folder).filter((name) => name.endsWith('.partial')).length);
      process.exit(130); // as the second Ctrl-C
    `;
    const before = await readdir(folder);
    const { status, stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script, folder], {
      encoding: 'utf8',
    });
    expect({ status, stdout }).toEqual({ status: 130, stdout: '2\n' });
    expect(await readdir(folder)).toEqual([...before, 'finished'].sort());
  });
});
