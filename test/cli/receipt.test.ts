/** `--receipt` and `bitnet replay` as a user meets them. */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { BenchReceipt, RunReceipt } from '../../src/oracle/receipt/receipt.ts';
import { bitnet } from './program.ts';
import { writeTinyModel } from './tiny-model.ts';

vi.setConfig({ testTimeout: 120_000 });

const STORIES = fileURLToPath(new URL('../../fixtures/models/stories.gguf.gz', import.meta.url));
let folder: string;
let tiny: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-receipt-'));
  tiny = join(folder, 'tiny.gguf');
  await writeTinyModel(tiny, { template: true });
});

afterAll(() => rm(folder, { recursive: true, force: true }));

async function record(name: string, ...args: string[]): Promise<{ path: string; text: string; receipt: RunReceipt }> {
  const path = join(folder, name);
  const { code, err } = await bitnet(['run', '-q', '-n', '12', '--seed', '3', '--receipt', path, ...args]);
  expect(err).toBe('');
  expect(code).toBe(0);
  const text = await readFile(path, 'utf8');
  return { path, text, receipt: JSON.parse(text) };
}

/** The receipt with another value somewhere. */
async function forge(name: string, text: string, from: string | RegExp, to: string): Promise<string> {
  const path = join(folder, name);
  const forged = text.replace(from, to);
  expect(forged).not.toBe(text);
  await writeFile(path, forged);
  return path;
}

describe('bitnet run --receipt', () => {
  it('writes a receipt that replays, with other threads, kernels and batches', async () => {
    const { path, receipt } = await record('run.json', '-m', tiny, '-p', 'hello', '-t', '1');
    expect(receipt.model.path).toBe(tiny);
    expect(receipt.model.ternaryTypes).toEqual(['I2_S']);
    const bytes = await readFile(tiny);
    expect(receipt.model.bytes).toBe(bytes.length);
    expect(receipt.model.sha256).toBe(createHash('sha256').update(bytes).digest('hex'));
    for (const flags of [['-t', '2', '--kernels', 'scalar'], ['--backend', 'ts', '-b', '3'], []]) {
      const { code, out } = await bitnet(['replay', path, ...flags]);
      expect(out).toMatch(/^same: 12 tokens and their logits, bit for bit\n/);
      expect(code).toBe(0);
    }
  });

  it('gives the same bytes for the same run, and the time only where asked', async () => {
    const first = await record('one.json', '-m', tiny, '-p', 'a');
    expect((await record('two.json', '-m', tiny, '-p', 'a')).text).toBe(first.text);
    expect(first.receipt.time).toBeUndefined();
    const { receipt } = await record('time.json', '-m', tiny, '-p', 'a', '--receipt-time');
    expect(Math.abs(Date.parse(receipt.time!) - Date.now())).toBeLessThan(60_000);
  });

  it('has every option as it was resolved', async () => {
    const path = join(folder, 'options.json');
    const flags = [
      '--temp',
      '0.5',
      '--top-k',
      '7',
      '--logit-bias',
      '100-inf',
      '-l',
      '101+2',
      '-r',
      'zz',
      '-ctk',
      'f32',
    ];
    await bitnet(['run', '-q', '-m', tiny, '-p', 'a', '-n', '4', '-c', '100', ...flags, '--receipt', path]);
    const receipt = JSON.parse(await readFile(path, 'utf8')) as RunReceipt;
    expect(receipt.session).toEqual({ contextSize: 100, kType: 'f32', vType: 'f16' });
    const { seed, ...options } = receipt.options;
    expect(seed).toBeGreaterThanOrEqual(0); // drawn
    expect(options).toEqual({
      temperature: 0.5,
      topK: 7,
      topP: 0.95,
      minP: 0.05,
      repeatPenalty: 1,
      repeatLastN: 64,
      presencePenalty: 0,
      frequencyPenalty: 0,
      penalizeNewline: false,
      logitBias: [
        [100, '-inf'],
        [101, 2],
      ],
      maxTokens: 4,
      stop: ['zz'],
      ignoreEos: false,
    });
  });

  it('is of the unpacked bytes, so that a gzipped copy is the same model', async () => {
    const { path, receipt } = await record('story.json', '-p', 'Once');
    expect(receipt.model.path).toBeNull();
    const unpacked = gunzipSync(await readFile(STORIES));
    expect(receipt.model.sha256).toBe(createHash('sha256').update(unpacked).digest('hex'));
    const plain = join(folder, 'plain.gguf');
    await writeFile(plain, unpacked);
    expect((await bitnet(['replay', path, '-m', plain])).out).toMatch(/^same: /);
    expect((await bitnet(['replay', path])).out).toMatch(/^same: /);
  });

  it('says no to a conversation, to the model itself and to a folder that is not there, before any work', async () => {
    const chat = await bitnet(['run', '-m', tiny, '-cnv', '--receipt', join(folder, 'x.json')]);
    expect([chat.code, chat.err]).toEqual([2, expect.stringContaining('--receipt and -cnv exclude each other')]);
    const before = await readFile(tiny);
    const itself = await bitnet(['run', '-m', tiny, '--receipt', tiny]);
    expect([itself.code, itself.err]).toEqual([1, expect.stringContaining('bad-argument')]);
    expect(await readFile(tiny)).toEqual(before);
    const nowhere = await bitnet(['run', '-m', tiny, '-p', 'a', '--receipt', join(folder, 'no/x.json')]);
    expect([nowhere.code, nowhere.err, nowhere.out]).toEqual([1, expect.stringContaining('bitnet: io: '), '']);
  });

  it('leaves nothing behind when it is interrupted', async () => {
    const inside = join(folder, 'inside');
    await mkdir(inside);
    const args = [
      'run',
      '-m',
      tiny,
      '-p',
      'a',
      '-n',
      '4000',
      '-c',
      '0',
      '--ignore-eos',
      '--receipt',
      join(inside, 'x.json'),
    ];
    const { code } = await bitnet(args, {
      meanwhile: (child) => child.stdout.once('data', () => child.kill('SIGINT')),
    });
    expect(code).toBe(130);
    expect(await readdir(inside)).toEqual([]);
  });
});

describe('bitnet replay', () => {
  it('says where it differs, and what else is not as it was', async () => {
    const { text } = await record('run.json', '-m', tiny, '-p', 'hello');
    const path = await forge(
      'seed.json',
      text.replace('"numericsVersion": 1', '"numericsVersion": 9'),
      '"seed": 3',
      '"seed": 4',
    );
    const { code, out } = await bitnet(['replay', path]);
    expect(code).toBe(1);
    expect(out).toMatch(
      /^differs, 12 tokens compared\n {2}token \d+: expected \d+ ".*", got \d+ ".*" \(drawn from the same logits/,
    );
    expect(out).toContain('  numericsVersion: 9 then, 1 now\n');
    const json = await bitnet(['replay', path, '--json']);
    expect(json.code).toBe(1);
    expect(JSON.parse(json.out)).toMatchObject({ kind: 'run', same: false, differences: [{ what: 'token' }] });
  });

  it('refuses another model by length or hash, unless forced', async () => {
    const { path } = await record('run.json', '-m', tiny, '-p', 'hello');
    const bytes = await readFile(tiny);
    const [longer, other] = [join(folder, 'longer.gguf'), join(folder, 'other.gguf')];
    await writeFile(longer, Buffer.concat([bytes, Buffer.alloc(1)]));
    const changed = Buffer.from(bytes);
    changed[changed.length - 40] ^= 1; // a trit of the last matrix
    await writeFile(other, changed);
    const byLength = await bitnet(['replay', path, '-m', longer]);
    expect([byLength.code, byLength.err]).toEqual([
      1,
      expect.stringMatching(/bad-argument: .*expected \d+ bytes, got \d+/),
    ]);
    const byHash = await bitnet(['replay', path, '-m', other]);
    expect([byHash.code, byHash.err]).toEqual([1, expect.stringMatching(/expected sha256 .*--force/)]);
    const forced = await bitnet(['replay', path, '-m', other, '--force']);
    expect(forced.err).toBe('');
    expect([forced.code, forced.out]).toEqual([
      1,
      expect.stringMatching(/logits \d+: expected [0-9a-f]{16}, got .* rows differ/),
    ]);
    expect(forced.out).toContain('model (SHA-256): ');
  });

  it('finds the model beside the receipt, and needs no BITNET_MODEL', async () => {
    const { path } = await record('run.json', '-m', tiny, '-p', 'hello');
    const elsewhere = join(folder, 'elsewhere');
    await mkdir(elsewhere);
    await copyFile(tiny, join(elsewhere, 'tiny.gguf'));
    const text = (await readFile(path, 'utf8')).replace(tiny, '/not/here/tiny.gguf');
    await writeFile(join(elsewhere, 'run.json'), text);
    const env = { BITNET_MODEL: STORIES };
    expect((await bitnet(['replay', join(elsewhere, 'run.json')], { env })).out).toMatch(/^same: /);
    await rm(join(elsewhere, 'tiny.gguf'));
    const { code, err } = await bitnet(['replay', join(elsewhere, 'run.json')]);
    expect([code, err]).toEqual([
      1,
      expect.stringMatching(/io: "\/not\/here\/tiny.gguf": .*sha256 [0-9a-f]{64} by -m/),
    ]);
  });

  it('opens no address that only a receipt names', async () => {
    const { text } = await record('run.json', '-m', tiny, '-p', 'hello');
    let asked = 0;
    const server = createServer((_, response) => {
      asked++;
      response.end();
    }).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/m.gguf`;
    for (const address of [url, url.toUpperCase(), 'hf:user/repo', 'data:,x', 'file:///etc/passwd']) {
      const { code, err } = await bitnet(['replay', await forge('url.json', text, tiny, address)]);
      expect([code, err]).toEqual([1, expect.stringContaining('does not open addresses by itself')]);
    }
    expect(asked).toBe(0);
    server.close();
  });

  it('refuses what is no receipt, and does not let it command the terminal', async () => {
    const { text } = await record('run.json', '-m', tiny, '-p', 'hello');
    const cut = join(folder, 'cut.json');
    await writeFile(cut, text.slice(0, 900));
    expect((await bitnet(['replay', cut])).err).toMatch(/^bitnet: truncated: /);
    expect((await bitnet(['replay', tiny])).err).toMatch(/^bitnet: bad-container: .*not UTF-8/);
    expect((await bitnet(['replay', folder])).err).toMatch(/^bitnet: io: /);
    expect((await bitnet(['replay', join(folder, 'none.json')])).err).toMatch(/^bitnet: io: .*no such file/);
    const rude = await forge('rude.json', text, /"runtime": "[^"]*"/, '"runtime": "\\u001b[2J"');
    const { out } = await bitnet(['replay', rude]);
    expect(out).toContain('\\u001b[2J then');
    expect(out).not.toContain('\x1b');
  });
});

describe('bitnet bench --receipt', () => {
  it('has measurements, and bits to replay', async () => {
    const path = join(folder, 'bench.json');
    const args = ['-m', tiny, '-p', '8', '-n', '2', '-r', '1', '-t', '1,2', '-ctk', 'f16,f32', '-o', 'jsonl'];
    const { code, out } = await bitnet(['bench', ...args, '--receipt', path]);
    expect(code).toBe(0);
    const text = await readFile(path, 'utf8');
    const receipt = JSON.parse(text) as BenchReceipt;
    expect(receipt.measurements).toHaveLength(out.trim().split('\n').length);
    expect(text).not.toContain('test_time');
    const digests = receipt.proofs.map((proof) => [proof.session.kType, proof.logits.sha256]);
    // One set of bits for each type of cache, whatever the threads.
    expect(new Set(digests.map(String)).size).toBe(2);
    expect(digests).toHaveLength(4);
    const same = await bitnet(['replay', path, '--backend', 'ts']);
    expect([same.code, same.out]).toEqual([0, expect.stringMatching(/^same: 128 rows of logits, bit for bit\n/)]);
    const row = receipt.proofs[2].logits.rows[5];
    const forged = await forge('bench2.json', text, new RegExp(`(${row}[^]*)${row}`), `$1${'0'.repeat(16)}`);
    const other = await bitnet(['replay', forged]);
    expect([other.code, other.out]).toEqual([1, expect.stringMatching(/logits 5: expected 0{16}, got .*proofs\[2\]/)]);
  });

  it('is wrong when its model is another', async () => {
    const packed = join(folder, 'tiny.gguf.gz');
    await writeFile(packed, gzipSync(await readFile(tiny)));
    const path = join(folder, 'bench.json');
    await bitnet(['bench', '-m', packed, '-p', '8', '-n', '0', '-r', '1', '--receipt', path]);
    expect((await bitnet(['replay', path, '-m', tiny])).code).toBe(0);
    expect((await bitnet(['replay', path, '-m', STORIES])).err).toMatch(/not the model of the receipt/);
  });
});
