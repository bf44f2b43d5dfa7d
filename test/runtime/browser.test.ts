/**
 * The built package on a page, as a user's page has it, module by module and bundled: a model by URL, a story piece by piece and a
 * chat, with the text that Node gives. Bits under every setting: `matrix.test.ts`.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { build } from 'vite'; // comes with vitest
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadModel } from '../../src/index.ts';
import { root, runtimes, wantRuntime } from './runtimes.ts';

const stories = join(root, 'fixtures/models/stories.gguf.gz');
const options = { maxTokens: 24, temperature: 0.7, seed: 7 };
const prompt = 'One day, a cat';
const template = '{% for message in messages %}{{ message.content }}. {% endfor %}';
const folder = mkdtempSync(join(tmpdir(), 'bitnet-page-'));
const wanted = { text: '', chat: '' };

const BROWSERS = { chromium: ['chromium', 'chromium-browser', 'google-chrome'], firefox: ['firefox-esr', 'firefox'] };
const find = (names: readonly string[]) =>
  names
    .flatMap((name) => (process.env.PATH ?? '').split(delimiter).map((one) => join(one, name)))
    .find((path) => existsSync(path));

beforeAll(async () => {
  writeFileSync(join(folder, 'stories.gguf'), gunzipSync(readFileSync(stories)));
  // Minified: the code of the worker threads is taken from a function's text.
  await build({
    root: join(root, 'test/browsers'),
    configFile: false,
    logLevel: 'error',
    build: {
      outDir: join(folder, 'bundle'),
      minify: true,
      lib: { entry: 'story.mjs', formats: ['es'], fileName: 'story' },
    },
  });
  const model = await loadModel(stories, { backend: 'wasm', threads: 1 });
  wanted.text = (await model.createSession().generate(prompt, options).result).text;
  wanted.chat = (
    await model.createSession().chat([{ role: 'user', content: 'Hi' }], { ...options, template }).result
  ).text;
  await model.dispose();
  expect(wanted.text.length).toBeGreaterThan(20);
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.each(['chromium', 'firefox'] as const)('%s', (browser) => {
  const executable = find(BROWSERS[browser]);
  if (executable === undefined) console.log(`a page in ${browser}: skipped, no ${browser} on this machine`);

  it.skipIf(executable === undefined)(
    'tells the story that Node tells, and chats, with threads and without',
    async () => {
      wantRuntime(runtimes[1]);
      const driver = join(root, 'test/browsers/drive.mjs');
      expect(existsSync(join(root, 'test/browsers/node_modules')), 'npm ci --prefix test/browsers').toBe(true);
      const files = ['/fixtures/models/stories.gguf.gz', '/models/stories.gguf'];
      const pages = [
        { isolated: true, module: '/test/browsers/story.mjs' },
        { isolated: false, module: '/test/browsers/story.mjs' },
        { isolated: true, module: '/bundle/story.js' },
      ];
      for (const { isolated, module } of pages) {
        const job = { files, prompt, options, template };
        const folders = { '/models/': folder, '/bundle/': join(folder, 'bundle') };
        const request = { browser, executable, isolated, module, job, folders };
        const lines = await output(runtimes[1].command, [driver, JSON.stringify(request)]);
        const { text, chat } = wanted;
        expect(lines.slice(0, 2)).toEqual(
          files.map((file) => ({
            file,
            text,
            streamed: text,
            chat,
            backend: expect.objectContaining({ name: 'wasm' }),
          })),
        );
        for (const { backend } of lines.slice(0, 2)) {
          expect(backend.nThreads).toBe(isolated ? 2 : 1);
          // Two threads on one physical core are said to be no help.
          for (const note of backend.notes) expect(note).toMatch(/^2 threads on 1 core/);
        }
        expect(lines[2]).toMatchObject({ code: 'bad-argument', message: expect.stringContaining('pass a URL') });
        expect(lines.length).toBe(3);
      }
    },
    480_000,
  );
});

interface Line {
  readonly backend: { readonly nThreads: number; readonly notes: readonly string[] };
}

function output(command: string, args: readonly string[]): Promise<Line[]> {
  return new Promise((resolve, reject) => {
    execFile(command, args, { cwd: root, timeout: 200_000 }, (error, stdout, stderr) => {
      if (error !== null) reject(new Error(`${error.message}\n${stderr}`));
      else
        resolve(
          stdout
            .trim()
            .split('\n')
            .map((line) => JSON.parse(line)),
        );
    });
  });
}
