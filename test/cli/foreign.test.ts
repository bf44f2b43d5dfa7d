/** `--activations` and `--saturate-i16`, as a user would give them. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { bitnet } from './program.ts';
import { writeTinyModel } from './tiny-model.ts';

vi.setConfig({ testTimeout: 120_000 });

let folder: string;
const at = (name: string) => join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-foreign-'));
  await writeTinyModel(at('narrow.gguf'), { template: false });
  for (const type of ['i2_s', 'tq1_0']) {
    const { code, err } = await bitnet(['synth', '--type', type, '-o', at(`${type}.gguf`), '-q']);
    expect(code, err).toBe(0);
  }
}, 120_000);

afterAll(() => rm(folder, { recursive: true, force: true }));

const logits = (model: string, ...flags: string[]) =>
  bitnet(['oracle', 'logits', '-m', at(model), '--tokens', '1,300,310,320', ...flags]);

describe('--activations', () => {
  it('q8_k has logits of its own, the same on both backends and of both containers, and says so', async () => {
    const trained = await logits('i2_s.gguf', '-q');
    const first = await logits('i2_s.gguf', '--activations', 'q8_k');
    expect(first.err).toMatch(/note: activations q8_k: .*TQ1_0 and TQ2_0/);
    expect(first.out).toMatch(/^sha256 [0-9a-f]{64} {2}\(4, 512\)\n$/);
    expect(first.out).not.toBe(trained.out);
    for (const more of [
      ['tq1_0.gguf', '--backend', 'ts'],
      ['i2_s.gguf', '-t', '2', '-b', '1'],
    ]) {
      const [model, ...flags] = more;
      expect((await logits(model, '--activations', 'q8_k', '-q', ...flags)).out).toBe(first.out);
    }
    expect((await logits('tq1_0.gguf', '--activations', 'int8', '-q')).out).toBe(trained.out);
  });

  it('is known to every command that runs a model', async () => {
    for (const command of [['run'], ['chat'], ['embed'], ['bench'], ['verify'], ['perplexity'], ['oracle', 'logits']]) {
      const { out } = await bitnet([...command, '--help']);
      expect(out, command.join(' ')).toContain('--activations');
      expect(out, command.join(' ')).toContain('--saturate-i16');
    }
  });

  it('is refused for columns that it does not have, and for what it is not', async () => {
    const narrow = await logits('narrow.gguf', '--activations', 'q8_k', '-q');
    expect(narrow).toMatchObject({ code: 1, out: '' });
    expect(narrow.err).toMatch(
      /^bitnet: bad-argument: blk\.0\.attn_q\.weight: activations q8_k come in blocks of 256, expected a multiple of 256 columns, got 128 \(.*--activations int8\)\n$/,
    );
    expect(await logits('i2_s.gguf', '--activations', 'q8_0')).toMatchObject({
      code: 2,
      err: 'bitnet: --activations takes int8, q8_k; got "q8_0"; see bitnet oracle logits --help\n',
    });
    expect(await logits('i2_s.gguf', '--activations', 'q8_k', '--saturate-i16')).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^bitnet: --activations q8_k and --saturate-i16 exclude each other/),
    });
  });
});

describe('--saturate-i16', () => {
  it('says at the end that nothing happened, where nothing did', async () => {
    const plain = await logits('i2_s.gguf', '-q');
    const { code, out, err } = await logits('i2_s.gguf', '--saturate-i16');
    expect([code, out]).toEqual([0, plain.out]);
    expect(err).toMatch(/note: 16-bit sums as in native I2_S kernels \(avx2\)/);
    // Two layers of q, k, v, o, gate, up and down, for four tokens.
    const outputs = 4 * 2 * (256 + 2 * 128 + 256 + 2 * 768 + 256);
    expect(err).toMatch(
      new RegExp(
        `16-bit sums \\(avx2\\): nothing overflows, of ${outputs.toLocaleString('en')} outputs of ternary products none would be another\\n$`,
      ),
    );
    expect((await logits('i2_s.gguf', '--saturate-i16', '-q')).err).toBe('');
  });
});
