/** `bitnet perplexity` as a user has it: bases, tasks, and runs that are interrupted and go on. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { appendFile, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { bitnet } from './program.ts';

// Every case starts a few processes, which on a busy machine take their time.
vi.setConfig({ testTimeout: 180_000 });

const STORY =
  'Once upon a time there was a little girl named Lily. She liked to play in the park with her dog. One day she found ' +
  'a big red ball under a tree. "Look what I found!" she said. The dog ran to the ball and pushed it with his nose.\n';

let folder: string;
const at = (name: string) => join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-quality-'));
  await writeFile(at('story.txt'), STORY.repeat(3));
  await writeFile(at('long.txt'), STORY.repeat(60));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

const command = (...more: string[]) => ['perplexity', '-t', '1', ...more];

async function ok(...more: string[]): Promise<string> {
  const { code, out, err } = await bitnet(command(...more));
  expect(code, err).toBe(0);
  return out;
}

async function json(...more: string[]) {
  return JSON.parse(await ok(...more, '--json', '-q'));
}

async function fails(code: number, message: RegExp, ...more: string[]): Promise<void> {
  const outcome = await bitnet(command(...more));
  expect(outcome).toMatchObject({ code, out: '', err: expect.stringMatching(message) });
}

describe('a base', () => {
  it('is saved beside the perplexity, and compared with', async () => {
    const [file, base] = [at('story.txt'), at('story.kld')];
    const plain = await json('-f', file, '-c', '32');
    expect(await json('-f', file, '-c', '32', '--save-all-logits', base)).toEqual(plain);
    expect(plain).toMatchObject({
      version: expect.stringMatching(/^\d/),
      runtime: expect.stringContaining('node'),
      model: { name: expect.any(String), logits: expect.stringMatching(/^[0-9a-f]{64}$/) },
      textSha256: expect.stringMatching(/^[0-9a-f]{64}$/),
      contextSize: 32,
      tokens: 15 * plain.chunks,
    });
    const bytes = await readFile(base);
    expect(bytes.subarray(0, 8).toString()).toBe('_logits_');
    expect([8, 12, 16].map((place) => bytes.readInt32LE(place))).toEqual([32, 4096, plain.chunks]);
    expect(bytes.length).toBe(20 + plain.chunks * (4 * 32 + 15 * (8 + 2 * 4096)));

    const text = await ok('--kl-divergence-base', base, '--kl-divergence', '-f', file);
    expect(text).toMatch(/^Mean PPL\(Q\) {19}: +\d+\.\d{6} ± +\d+\.\d{6}$/m);
    expect(text).toMatch(/^Mean {4}KLD: +-?0\.0000\d\d ± +0\.0000\d\d$/m);
    expect(text).toMatch(/^Same top p: 100\.000 ± 0\.000 %$/m);
    expect(text).toMatch(/^99\.9% {3}Δp: +\d\.\d{3}%$/m);
    const result = await json('--kl-divergence-base', base, '--kl-divergence', '--chunks', '2');
    expect(result).toMatchObject({ method: 'kl-divergence', chunks: 2, tokens: 30, sameTop: { value: 1, error: 0 } });
    // Keys and values that are not rounded to f16 make a difference, and a small one.
    const near = await json('--kl-divergence-base', base, '--kl-divergence', '-ctk', 'f32', '-ctv', 'f32');
    expect(near.model.logits).not.toBe(result.model.logits);
    expect(near.divergence.value).toBeLessThan(0.01);
    expect(near.divergence.value).not.toBe(result.divergence.value);
  });

  it('of another text, cut off, or with windows too long is refused', async () => {
    const base = at('other.kld');
    await ok('-f', at('story.txt'), '-c', '32', '--kl-divergence-base', base, '-q');
    await writeFile(at('changed.txt'), STORY.replace('dog', 'cat').repeat(3));
    const compare = ['--kl-divergence-base', base, '--kl-divergence'];
    await fails(
      1,
      /^bitnet: bad-argument: .*other\.kld: the base is of another text, expected token 2\d of /,
      ...compare,
      '-f',
      at('changed.txt'),
    );
    await fails(1, /context-full: .*at most 16 tokens, got 32 \(-c 32\)/, ...compare, '-c', '16');
    await truncate(base, (await stat(base)).size - 1);
    await fails(1, /truncated: .*the file is cut off, expected \d+ bytes for \d+ windows, got/, ...compare);
    await fails(
      1,
      /bad-container: .*not a file of log-probabilities/,
      '--kl-divergence',
      '--kl-divergence-base',
      at('story.txt'),
    );
  });
});

describe('a state', () => {
  const CHUNKS = 6;
  const args = (name: string) => ['-f', at('long.txt'), '-c', '32', '--state', at(`${name}.json`)];

  /** Interrupts once a file has this many bytes. */
  const interruptAt = (path: string, bytes: number) => (child: ChildProcessWithoutNullStreams) => {
    const timer = setInterval(async () => {
      const size = await stat(path).then(
        (found) => found.size,
        () => 0,
      );
      if (size < bytes) return;
      clearInterval(timer);
      child.kill('SIGINT');
    }, 5);
    child.on('close', () => clearInterval(timer));
  };

  it('lets an interrupted run go on, on another backend too, to the same bits and the same base', async () => {
    const [base, whole] = [at('parts.kld'), at('whole.kld')];
    const chunks = ['--chunks', `${CHUNKS}`];
    const recording = [...args('parts'), ...chunks, '--kl-divergence-base', base];
    const expected = await json('-f', at('long.txt'), '-c', '32', ...chunks, '--kl-divergence-base', whole);
    const window = 15 * (8 + 2 * 4096);
    const interrupted = await bitnet(command(...recording, '--backend', 'ts'), {
      meanwhile: interruptAt(`${base}.part`, 20 + CHUNKS * 32 * 4 + 2 * window),
    });
    expect([interrupted.code, interrupted.out]).toEqual([130, '']);
    const done = Number(/parts\.json: (\d) of 6 windows done; the same command goes on/.exec(interrupted.err)?.[1]);
    expect(done).toBeGreaterThanOrEqual(1);
    expect(done).toBeLessThan(CHUNKS);
    expect((await readdir(folder)).filter((name) => /^parts/.test(name)).sort()).toEqual([
      'parts.json',
      'parts.kld.part',
    ]);
    // What a killed run may leave: more than the state knows of.
    await appendFile(`${base}.part`, 'half a window');
    const rest = await bitnet(command(...recording, '--json'));
    expect(rest.err).toContain(`parts.json: going on after ${done} of 6 windows`);
    expect(JSON.parse(rest.out)).toEqual(expected);
    expect((await readFile(base)).equals(await readFile(whole))).toBe(true);
    expect((await readdir(folder)).filter((name) => /^parts/.test(name)).sort()).toEqual(['parts.json', 'parts.kld']);
    // Once done, it is done.
    expect(await json(...recording)).toEqual(expected);

    const other = 'bad-argument: .*parts\\.json: the state of another measurement, expected ';
    await fails(1, new RegExp(`${other}contextSize 16, .*got 32`), ...recording, '-c', '16');
    await fails(1, new RegExp(`${other}modelLogits `), ...recording, '-ctk', 'f32');
    await fails(1, new RegExp(`${other}text `), ...recording, '-f', at('story.txt'));
    await fails(1, /recorded false, steps 5, got true, 6/, ...args('parts'), '--chunks', '5');
    await writeFile(base, 'nothing like it');
    await fails(1, /truncated: .*parts\.kld: less is recorded than the state says/, ...recording);
    const bytes = await readFile(whole);
    bytes[bytes.length - 20]++;
    await writeFile(base, bytes);
    await fails(1, /bad-container: .*parts\.kld: something else is recorded/, ...recording);
  });

  it('is refused where it is none, and left as it was', async () => {
    await writeFile(at('mine.json'), '{"a": 1}');
    await fails(1, /bad-container: .*mine\.json: not a state of a measurement/, ...args('mine'), '--chunks', '1');
    expect(await readFile(at('mine.json'), 'utf8')).toBe('{"a": 1}');
    await fails(1, /got no regular file/, '-f', at('story.txt'), '-c', '32', '--state', folder);
  });
});

describe('tasks', () => {
  it('are scored from the files that llama-perplexity takes', async () => {
    const task = (gold: number) => `Story: Lily and her mom went to\n${gold}\nthe park.\nof of of.\nzebra zebra\nxyz\n`;
    await writeFile(at('hs.txt'), [0, 1, 0, 2, 0].map(task).join(''));
    const swag = await json('-f', at('hs.txt'), '--hellaswag');
    expect(swag).toMatchObject({ method: 'hellaswag', tasks: 5, correct: 3, chosen: '0 0 0 0 0', chance: 0.25 });
    expect(swag.accuracy).toEqual({ value: 0.6, error: expect.closeTo(Math.sqrt(0.24 / 4), 12) });
    expect(await ok('-f', at('hs.txt'), '--hellaswag', '--hellaswag-tasks', '2', '-q')).toMatch(
      /^HellaSwag, 2 tasks: \d+\.\d{4} \+\/- \d+\.\d{4}, 95% within \d+\.\d{4} \.\. \d+\.\d{4}\nRandom chance: 25\.0000\n$/,
    );

    await writeFile(
      at('wg.csv'),
      'i,s,a,b,answer\n0,Lily went to the park because _ liked to play with the dog.,she,xyz,1\n1,She saw _.,Lily,Tom,1\n',
    );
    const { code, out, err } = await bitnet(command('-bf', at('wg.csv'), '--winogrande'));
    expect([code, out]).toEqual([0, expect.stringMatching(/^Winogrande, 2 tasks: /)]);
    expect(err).toMatch(/^note: .*wg\.csv: 1 line passed over, the first of them 1$/m);
    expect(err).toMatch(/^note: of 1 task the words in the gap are scored, where llama\.cpp takes a wrong row$/m);

    await writeFile(
      at('lambada.jsonl'),
      `${JSON.stringify({ text: 'Once upon a time' })}\n${JSON.stringify({ text: 'Lily xyz' })}\n`,
    );
    expect(await json('-f', at('lambada.jsonl'), '--lambada')).toMatchObject({ passages: 2, correct: 1 });
    expect(await ok('-f', at('lambada.jsonl'), '--lambada', '--chunks', '1')).toMatch(
      /^LAMBADA, 1 passage: 100\.0000 \+\/- 0\.0000\nLast word: PPL = 1\.\d{4} /,
    );
    await fails(1, /bad-argument: .*hs\.txt, line 1: not JSON/, '-f', at('hs.txt'), '--lambada');
    await fails(1, /truncated: .*hs\.txt/, '-f', at('hs.txt'), '--multiple-choice');
  });

  it.each<[string, string[], RegExp]>([
    ['two at once', ['-f', 'a', '--hellaswag', '--lambada'], /--hellaswag and --lambada exclude each other/],
    [
      'tasks of another',
      ['-f', 'a', '--hellaswag', '--winogrande-tasks', '3'],
      /--winogrande-tasks needs --winogrande/,
    ],
    ['chunks of tasks', ['-f', 'a', '--winogrande', '--chunks', '3'], /takes --winogrande-tasks, not --chunks/],
    ['no base', ['--kl-divergence'], /--kl-divergence needs --kl-divergence-base/],
    ['a base of tasks', ['-f', 'a', '--lambada', '--kl-divergence-base', 'b'], /--lambada and --kl-div.* exclude/],
    ['strides', ['-f', 'a', '--ppl-stride', '256'], /--ppl-stride is not supported: .* batch size/],
    ['no chunks', ['-f', 'a', '--chunks', '0'], /--chunks takes an integer of at least 1, or -1/],
    ['windows of two', ['-f', 'a', '-c', '2'], /-c takes an integer of at least 3/],
    ['no text', ['--hellaswag'], /-f is missing/],
  ])('%s: exit 2', async (_, more, message) => {
    await fails(2, message, ...more);
  });
});
