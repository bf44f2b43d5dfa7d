/**
 * Runs a module in a browser of this machine, on a page of its own: `node drive.mjs JOB`, where JOB is JSON:
 *
 *     { browser: 'chromium' | 'firefox', executable, isolated, module, job, folders }
 *
 * `module` is a path below the repository whose `run(job)` yields values; each becomes a line of JSON on stdout. Needs Node 22.12
 * or later (puppeteer-core).
 */
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { serve } from './serve.mjs';

const { browser, executable, isolated, module, job, folders } = JSON.parse(process.argv[2]);
const root = fileURLToPath(new URL('../..', import.meta.url));

/** Opens `url`; resolves to a function that ends the browser. */
const browsers = {
  async chromium(url) {
    const { chromium } = await import('playwright-core');
    // Without its sandbox it also runs for root, as in containers; it sees no page but ours.
    const app = await chromium.launch({ executablePath: executable, args: ['--no-sandbox'] });
    await (await app.newPage()).goto(url);
    return () => app.close();
  },
  async firefox(url) {
    const { default: puppeteer } = await import('puppeteer-core');
    const app = await puppeteer.launch({ browser: 'firefox', executablePath: executable, headless: true });
    await (await app.newPage()).goto(url);
    return () => app.close();
  },
};

/** The bare names that the package imports are what a page has to map; nothing else is needed. */
const imports = {
  fflate: '/node_modules/fflate/esm/browser.js',
  '@huggingface/jinja': '/node_modules/@huggingface/jinja/dist/index.js',
};
const page = `<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<script type="importmap">${JSON.stringify({ imports })}</script>
<script type="module">
  const post = (path, value) => fetch(path, { method: 'POST', body: JSON.stringify(value) });
  try {
    const { run } = await import(${JSON.stringify(module)});
    for await (const value of run(await (await fetch('/job')).json())) await post('/line', value);
    await post('/end', {});
  } catch (error) {
    await post('/end', { error: String(error?.stack || error), message: String(error) });
  }
</script>`;

const ended = Promise.withResolvers();
const site = await serve({
  isolated,
  folders: {
    ...folders,
    '/dist/': `${root}dist/`,
    '/test/': `${root}test/`,
    '/fixtures/': `${root}fixtures/`,
    '/node_modules/': `${root}node_modules/`,
  },
  routes: {
    'GET /': () => ({ type: 'text/html', body: page }),
    'GET /job': () => ({ type: 'application/json', body: JSON.stringify(job) }),
    'POST /line': (body) => void process.stdout.write(`${body}\n`),
    'POST /end': (body) => void ended.resolve(JSON.parse(body)),
  },
});
const end = await browsers[browser](`${site.origin}/`);
try {
  const { error, message } = await ended.promise;
  if (error !== undefined) {
    process.stderr.write(`${message}\n${error}\n`);
    process.exitCode = 1;
  }
} finally {
  await end();
  await site.close();
}
