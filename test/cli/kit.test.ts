/** `bitnet oracle kit`: a whole kit or none, and copies that are not as they were written. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { KitManifest } from '../../src/oracle/kit/types.ts';
import { bitnet } from './program.ts';

const scratch = mkdtempSync(join(tmpdir(), 'bitnet-oracle-kit-'));
const kit = join(scratch, 'kit');
let digest = '';

beforeAll(async () => {
  const { code, out, err } = await bitnet(['oracle', 'kit', '-o', kit]);
  expect({ code, err }).toEqual({ code: 0, err: '' });
  expect(out).toMatch(/^sha256 [0-9a-f]{64} {2}.*: [\d,]+ files, [\d.]+ MiB\n$/);
  digest = out.slice(7, 71);
}, 60_000);
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const check = async () => {
  const { code, out, err } = await bitnet(['oracle', 'kit', '--check', kit]);
  return { code, lines: out.split('\n').slice(0, -1), err };
};

/** The kit with a file changed, until `use` is through. */
async function withFile(
  path: string,
  content: Uint8Array | string | undefined,
  use: () => Promise<void>,
): Promise<void> {
  const file = join(kit, path);
  const before = readFileSync(file);
  if (content === undefined) rmSync(file);
  else writeFileSync(file, content);
  try {
    await use();
  } finally {
    writeFileSync(file, before);
  }
}

describe('bitnet oracle kit', () => {
  it('prints the digest of the manifest, writing and checking', async () => {
    const { code, lines, err } = await check();
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(lines.length).toBe(1);
    expect(lines[0]).toMatch(new RegExp(`^sha256 ${digest} {2}.*: [\\d,]+ files, all as written$`));
  });

  it('--check names every file that is not as written', async () => {
    const path = 'kernels/rope/neox-2x64/out.npy';
    const bytes = readFileSync(join(kit, path));
    const flipped = bytes.slice();
    flipped[200] ^= 1;
    for (const [content, said] of [
      [flipped, /: expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}$/],
      [bytes.subarray(0, 300), new RegExp(`: expected ${bytes.length} bytes, got 300$`)],
      [undefined, /: missing$/],
    ] as const) {
      await withFile(path, content, async () => {
        const { code, lines } = await check();
        expect(code).toBe(1);
        expect(lines.length).toBe(2);
        expect(lines[0].startsWith(path)).toBe(true);
        expect(lines[0]).toMatch(said);
        expect(lines[1]).toMatch(/1 not as written$/);
      });
    }
  });

  it('--check wants a kit', async () => {
    await withFile('manifest.json', '{"format":"x"}', async () => {
      const { code, lines, err } = await check();
      expect({ code, lines }).toEqual({ code: 1, lines: [] });
      expect(err).toMatch(/^bitnet: .*manifest\.json format: .*expected "bitnet-kit", got "x"/);
    });
    const nothing = await bitnet(['oracle', 'kit', '--check', join(scratch, 'nothing')]);
    expect(nothing.code).toBe(1);
    expect(nothing.err).toMatch(/not a kit: the manifest is missing/);
  });

  it('has traces that compare takes, and digests that logits prints', async () => {
    const [file, trace] = [join(kit, 'models/qwen3.gguf'), join(kit, 'models/qwen3/trace-kv-f16')];
    const compared = await bitnet(['oracle', 'compare', trace, file, '-ctk', 'f16', '-ctv', 'f16']);
    expect(compared.out).toMatch(/8 tokens, \d+ tensors compared.*the same, bit for bit/s);
    expect(compared.code).toBe(0);
    const { models } = JSON.parse(readFileSync(join(kit, 'manifest.json'), 'utf8')) as KitManifest;
    const { tokens, logits } = models.find(({ name }) => name === 'qwen3')!;
    for (const { kType, vType, sha256 } of logits) {
      const caches = ['-ctk', kType, '-ctv', vType];
      const { out } = await bitnet(['oracle', 'logits', '-m', file, '--tokens', tokens.join(), ...caches]);
      expect(out.slice(7, 71), caches.join(' ')).toBe(sha256);
    }
  });

  it('writes nothing where something is', async () => {
    const taken = join(scratch, 'taken');
    mkdirSync(taken);
    writeFileSync(join(taken, 'mine'), 'x');
    const { code, err } = await bitnet(['oracle', 'kit', '-o', taken]);
    expect(code).toBe(1);
    expect(err).toMatch(/the folder is not empty/);
    expect(readdirSync(taken)).toEqual(['mine']);
    expect((await bitnet(['oracle', 'kit'])).code).toBe(2);
    expect((await bitnet(['oracle', 'kit', '-o', taken, '--check', kit])).code).toBe(2);
  });

  it('leaves nothing behind when it is interrupted', async () => {
    const target = join(scratch, 'interrupted');
    const { code } = await bitnet(['oracle', 'kit', '-o', target], {
      meanwhile: (child) => {
        const timer = setInterval(() => {
          // As soon as something is there.
          const part = readdirSync(scratch).find((name) => name.startsWith('interrupted.'));
          if (part === undefined || !existsSync(join(scratch, part, 'kernels'))) return;
          clearInterval(timer);
          child.kill('SIGINT');
        }, 5);
        child.on('close', () => clearInterval(timer));
      },
    });
    expect(code).toBe(130);
    expect(readdirSync(scratch).filter((name) => name.startsWith('interrupted'))).toEqual([]);
  });
});
