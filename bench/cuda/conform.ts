/**
 * A built CUDA library on a card, against the CPU: node bench/cuda/conform.ts LIB.so (Node 22.18 or newer, or Bun; no build is
 * needed). Every case of the conformance suite and whole models of every architecture against `kernels/ts`, bit for bit; then the
 * greedy story of the embedded model, 512 tokens, against the wasm backend. The tests do the same with the CPU shim in its place.
 * After the library: which of `ops`, `models` and `story`, all unless some are named.
 */
import { type BackendFactory, cuda, wasm } from '../../src/engine/backends.ts';
import { BitnetError } from '../../src/errors.ts';
import { loadModel } from '../../src/index.ts';
import type { Outcome } from '../../src/kernels/conformance/run.ts';
import { runConformance, runModelConformance } from '../../src/oracle/conformance.ts';

const [library, ...parts] = process.argv.slice(2);
if (library === undefined) throw new Error('usage: conform.ts LIB.so [ops] [models] [story]');
const wanted = (part: string) => parts.length === 0 || parts.includes(part);
const open = cuda({ library });
const seconds = () => `${(performance.now() / 1000).toFixed(1)} s`;
const failures: string[] = [];

function report(what: string, outcomes: readonly Outcome[]): void {
  const bad = outcomes.filter(({ ok }) => !ok);
  for (const { name, detail } of bad.slice(0, 20)) console.log(`BAD ${name}: ${detail}`);
  console.log(`${outcomes.length} ${what}, ${bad.length} differ from kernels/ts (${seconds()})`);
  if (bad.length > 0) failures.push(what);
}

async function ops(): Promise<void> {
  const backend = await open();
  console.log(`${backend.info.name} ${backend.info.variant}`);
  try {
    report('cases of the conformance suite', await runConformance(backend));
  } finally {
    await backend.dispose();
  }
}

async function story(): Promise<void> {
  const stories = new URL('../../fixtures/models/stories.gguf.gz', import.meta.url);
  const tell = async (backend: BackendFactory) => {
    const model = await loadModel(stories, { backend });
    const started = performance.now();
    const told = await model.createSession().generate('', { temperature: 0, ignoreEos: true }).result;
    const rate = told.tokens.length / ((performance.now() - started) / 1000);
    await model.dispose();
    return { ...told, rate };
  };
  const [ours, expected] = [await tell(open), await tell(wasm({ threads: 1 }))];
  console.log(ours.text);
  const at = expected.tokens.findIndex((token, i) => token !== ours.tokens[i]);
  const same = at === -1 && ours.tokens.length === expected.tokens.length;
  console.log(
    same
      ? `${ours.tokens.length} tokens, the same as on the CPU (${seconds()})`
      : `BAD story: token ${at} of ${expected.tokens.length} differs, ${ours.tokens.length} came`,
  );
  console.log(`story of ${expected.tokens.length} tokens: ${ours.rate.toFixed(0)} tokens/s`);
  if (!same) failures.push('story');
}

try {
  if (wanted('ops')) await ops();
  if (wanted('models')) report('checks of whole models', await runModelConformance(open));
  if (wanted('story')) await story();
} catch (error) {
  if (!(error instanceof BitnetError)) throw error;
  console.log(`BAD ${error.message}`);
  failures.push(error.code);
}
process.exitCode = failures.length === 0 ? 0 : 1;
