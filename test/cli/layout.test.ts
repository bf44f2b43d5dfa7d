/** What a user with an odd file sees: a story model as llama-quantize on ARM writes it, and one that is not ternary. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { tinyModel } from '../model/models.ts';
import { recode } from '../model/recode.ts';
import { bitnet } from './program.ts';

vi.setConfig({ testTimeout: 120_000 });

let folder: string;
const at = (name: string) => join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-layout-'));
  const stories = new Uint8Array(gunzipSync(await readFile('fixtures/models/stories.gguf.gz')));
  await writeFile(at('stories.gguf'), stories);
  await writeFile(at('arm64.gguf'), await recode(stories, 'arm64'));
  const tiles = { '256x256': '64/128/32', '128x256': '64/64/64', '768x256': '384/128/32', '256x768': '128/192/32' };
  await writeFile(at('tl1.gguf'), await recode(stories, 'TL1', { tiles }));
  const change = (_: unknown, values: Float32Array) => {
    for (let i = 0; i < values.length; i++) values[i] = ((i * 37) % 101) / 101 - 0.5;
  };
  await writeFile(at('master.gguf'), await recode(await tinyModel({}), 'F16', { change }));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

const STORY = ['-p', 'Once upon a time', '-n', '12', '--temp', '0', '-t', '1'];

it('an arm64 file tells the same story, with a note, unless another layout is forced', async () => {
  const usual = await bitnet(['-m', at('stories.gguf'), ...STORY]);
  expect(usual.code, usual.err).toBe(0);
  expect(usual.err).not.toContain('note: I2_S');
  const arm = await bitnet(['-m', at('arm64.gguf'), ...STORY]);
  expect(arm.out).toBe(usual.out);
  expect(arm.err).toMatch(/^note: I2_S as arm64: measured \(/m);
  const forced = await bitnet(['-m', at('arm64.gguf'), ...STORY, '--i2s-layout', 'x86']);
  expect(forced.code).toBe(0);
  expect(forced.out).not.toBe(usual.out);
});

it('inspect tells the layout, as text and as JSON', async () => {
  expect((await bitnet(['inspect', at('arm64.gguf')])).out).toMatch(
    /^layout: +I2_S as arm64: measured \(zeros go with/m,
  );
  const { layout } = JSON.parse((await bitnet(['inspect', at('stories.gguf'), '--json'])).out) as { layout: string };
  expect(layout).toMatch(/^I2_S as x86: measured/);
  const { out } = await bitnet(['inspect', at('stories.gguf'), '--i2s-layout', 'rows4']);
  expect(out).toMatch(/^layout: +I2_S as rows4: as asked$/m);
});

it.each([
  [['arm64.gguf'], '64-value blocks of 16 bytes, one scale at the end'],
  [['stories.gguf'], '128-value blocks of 32 bytes, one scale at the end'],
  [['stories.gguf', '--i2s-layout', 'rows4'], 'four rows at a time, a column to a byte, one scale at the end'],
])('inspect describes the blocks of the layout: %s', async ([name, ...flags], layout) => {
  const { out } = await bitnet(['inspect', at(name), ...flags, '--json']);
  const { types } = JSON.parse(out) as { types: { type: string; layout: string }[] };
  expect(types.find(({ type }) => type === 'I2_S')?.layout).toBe(layout);
});

it('inspect reckons memory with the tiles that it was given', async () => {
  const tiles = '256x256=64/128/32,128x256=64/64/64,768x256=384/128/32,256x768=128/192/32';
  const { out } = await bitnet(['inspect', at('tl1.gguf'), '--tl-tiles', tiles]);
  expect(out).toMatch(/^fits: +yes, /m);
  const wrong = await bitnet(['inspect', at('tl1.gguf'), '--tl-tiles', '256x256=100/64/32']);
  expect(wrong.out).toMatch(/^fits: +no: .*the tiles do not fit this TL1 matrix/m);
});

it('tiles are named as in kernel_config.ini', async () => {
  const usual = await bitnet(['-m', at('stories.gguf'), ...STORY]);
  const tiles = '256x256=64/128/32,128x256=64/64/64,768x256=384/128/32,256x768=128/192/32';
  const tl1 = await bitnet(['-m', at('tl1.gguf'), ...STORY, '--tl-tiles', tiles]);
  expect(tl1.code, tl1.err).toBe(0);
  expect(tl1.out).toBe(usual.out);
  const wrong = await bitnet(['-m', at('tl1.gguf'), ...STORY, '--tl-tiles', '256x256']);
  expect(wrong.code).not.toBe(0);
  expect(wrong.err).toMatch(/not tiles, expected codegen, preset, or MxK=BM\/BK\/bm/);
});

it('what is said of the layout is heard by --to-hf and by what inspect reckons', async () => {
  const tiles = '256x256=64/128/32,128x256=64/64/64,768x256=384/128/32,256x768=128/192/32';
  expect(await bitnet(['convert', at('stories.gguf'), '--to-hf', at('usual')])).toMatchObject({ code: 0 });
  const want = await readFile(join(at('usual'), 'model.safetensors'));
  for (const [file, folder, ...flags] of [
    ['tl1.gguf', 'tl1', '--tl-tiles', tiles],
    ['arm64.gguf', 'arm64', '--i2s-layout', 'arm64'],
    ['arm64.gguf', 'auto'],
  ]) {
    const made = await bitnet(['convert', at(file), '--to-hf', at(folder), ...flags]);
    expect(made.code, made.err).toBe(0);
    expect((await readFile(join(at(folder), 'model.safetensors'))).equals(want), folder).toBe(true);
  }
  const wrong = await bitnet(['convert', at('arm64.gguf'), '--to-hf', at('wrong'), '--i2s-layout', 'x86']);
  expect(wrong.code).toBe(0);
  expect((await readFile(join(at('wrong'), 'model.safetensors'))).equals(want)).toBe(false);
  expect((await bitnet(['inspect', at('tl1.gguf'), '--tl-tiles', tiles])).out).toMatch(/^fits: +yes/m);
  const misplaced = await bitnet(['convert', at('usual'), '-o', at('x.gguf'), '--tl-tiles', tiles]);
  expect(misplaced).toMatchObject({ code: 2, err: expect.stringMatching(/no meaning without --to-hf/) });
});

it('a model that is not ternary is refused, and runs with --allow-dense', async () => {
  const refused = await bitnet(['-m', at('master.gguf'), ...STORY]);
  expect(refused.code).not.toBe(0);
  expect(refused.err).toMatch(
    /projections of this model are not ternary.*blk\.0\.attn_q\.weight F16 0\.\d{3}.*--allow-dense/,
  );
  expect(refused.err).not.toContain('    at ');
  const run = await bitnet(['-m', at('master.gguf'), ...STORY, '--allow-dense']);
  expect(run.code, run.err).toBe(0);
  expect(run.err).toMatch(/^note: 14 of 14 projections are F16 and not ternary: run dense as asked/m);
});
