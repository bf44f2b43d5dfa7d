// Runs inside each runtime: logits of the embedded model under every setting, one digest a line, as JSON.
// Loads the built package, the way a user's program does.
import { createHash } from 'node:crypto';
import { loadModel } from '../../dist/index.js';

const file = new URL('../../fixtures/models/stories.gguf.gz', import.meta.url);
const tokens = process.argv[2].split(',').map(Number);
const settings = [
  { backend: 'ts', batchSize: 1 },
  { backend: 'ts', batchSize: 7 },
  { backend: 'ts', batchSize: 64 },
];
for (const threads of [1, 2, 3]) {
  for (const batchSize of [1, 7, 64]) settings.push({ backend: 'wasm', threads, batchSize });
}

const digests = {};
let variant = '';
for (const setting of settings) {
  const model = await loadModel(file, setting);
  const hash = createHash('sha256');
  for await (const rows of model.createSession().logits(tokens)) {
    hash.update(new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength));
  }
  digests[Object.values(setting).join(' ')] = hash.digest('hex');
  if (setting.backend === 'wasm') variant = model.backend.variant;
  await model.dispose();
}
const versions = process.versions;
const runtime = versions.deno ? 'deno' : versions.bun ? 'bun' : `node ${versions.node.split('.')[0]}`;
console.log(JSON.stringify({ runtime, variant, digests }));
