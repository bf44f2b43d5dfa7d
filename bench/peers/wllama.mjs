/** One measurement of wllama in Chromium: MODEL THREADS PROMPT GENERATED CHROMIUM; prints JSON. */

import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { packageVersion } from './engines.mjs';

const [modelPath, threads, nPrompt, nGenerate, executablePath] = process.argv.slice(2);
const ESM = fileURLToPath(new URL('./node_modules/@wllama/wllama/esm/', import.meta.url));
const TYPES = { '.js': 'text/javascript', '.wasm': 'application/wasm', '.html': 'text/html' };

const server = createServer((request, response) => {
  const path = new URL(request.url, 'http://localhost').pathname;
  // Without these two there is no shared memory, and so no threads.
  response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
  response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
  if (path === '/') return response.setHeader('Content-Type', 'text/html').end('<!doctype html><title>wllama</title>');
  const file = path === '/model.gguf' ? modelPath : path.startsWith('/esm/') ? ESM + path.slice(5) : undefined;
  const size = file === undefined ? undefined : statSync(file, { throwIfNoEntry: false })?.size;
  if (size === undefined || path.includes('..')) return response.writeHead(404).end();
  response.writeHead(200, {
    'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream',
    'Content-Length': size,
  });
  createReadStream(file).pipe(response);
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const measured = await page.evaluate(measure, { threads: +threads, nPrompt: +nPrompt, nGenerate: +nGenerate });
  const version = `${packageVersion('@wllama/wllama')} Chromium ${browser.version()} (threads: ${measured.threads})`;
  console.log(JSON.stringify({ version, pp: measured.pp, tg: measured.tg }));
} finally {
  await browser.close();
  server.close();
}

/** Runs in the page. The server inside wllama takes its own times; they have no overhead of ours. */
async function measure({ threads, nPrompt, nGenerate }) {
  const { Wllama, LoggerWithoutDebug } = await import('/esm/index.js');
  const wllama = new Wllama(
    { default: '/esm/wasm/wllama.wasm' },
    { logger: LoggerWithoutDebug, suppressNativeLog: true },
  );
  const model = await (await fetch('/model.gguf')).blob();
  await wllama.loadModel([model], {
    ...{ n_ctx: nPrompt + nGenerate + 64, n_batch: 512, n_threads: threads, n_gpu_layers: 0, n_parallel: 1 },
    warmup: false,
  });
  const once = async (nLetters, max_tokens) => {
    const flags = { temperature: 0, ignore_eos: true, cache_prompt: false };
    return (await wllama.createCompletion({ prompt: 'z'.repeat(nLetters), max_tokens, ...flags })).timings;
  };
  // It takes text only: short ones tell how many tokens a letter is, and warm up. All of a prompt would take minutes.
  const few = await once(16, 5);
  const more = await once(32, 5);
  const nLetters = Math.round(16 + (16 * (nPrompt - few.prompt_n)) / (more.prompt_n - few.prompt_n));
  const timings = await once(nLetters, nGenerate + 1);
  if (Math.abs(timings.prompt_n - nPrompt) > 4) throw new Error(`${timings.prompt_n} prompt tokens, not ${nPrompt}`);
  const result = {
    pp: timings.prompt_per_second,
    tg: ((timings.predicted_n - 1) * 1000) / timings.predicted_ms,
    threads: wllama.getNumThreads(),
  };
  await wllama.exit();
  return result;
}
