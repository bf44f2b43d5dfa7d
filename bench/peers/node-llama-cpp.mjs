/** One measurement of node-llama-cpp: MODEL THREADS PROMPT GENERATED; prints JSON. */

import process from 'node:process';
import { getLlama } from 'node-llama-cpp';
import { packageVersion } from './engines.mjs';

const [modelPath, ...numbers] = process.argv.slice(2);
const [threads, nPrompt, nGenerate] = numbers.map(Number);

// The binary that came with the package, or none: nothing is to be compiled or fetched here.
const llama = await getLlama({
  gpu: false,
  build: 'never',
  maxThreads: threads,
  progressLogs: false,
  logLevel: 'error',
});
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({
  contextSize: nPrompt + nGenerate + 8,
  batchSize: 512,
  threads: { ideal: threads, min: threads },
});
const sequence = context.getSequence();
const ids = Array.from({ length: nPrompt }, (_, i) => 10 + ((i * 37) % 400));

/** Milliseconds for the prompt and for `n` tokens after it. Greedy: the cheapest sampling there is. */
async function once(n) {
  await sequence.clearHistory();
  const startMs = performance.now();
  const tokens = sequence.evaluate(ids, { temperature: 0, yieldEogToken: true });
  // The first token needs the logits of the prompt's last one, and nothing more.
  await tokens.next();
  const promptMs = performance.now();
  for (let i = 0; i < n; i++) {
    if ((await tokens.next()).done) throw new Error(`ended after ${i} tokens`);
  }
  const endMs = performance.now();
  await tokens.return();
  return [promptMs - startMs, endMs - promptMs];
}

await once(1);
const [promptMs, generateMs] = await once(nGenerate);
const version = `${packageVersion('node-llama-cpp')} (threads: ${context.currentThreads})`;
console.log(JSON.stringify({ version, pp: (nPrompt * 1000) / promptMs, tg: (nGenerate * 1000) / generateMs }));
await llama.dispose();
