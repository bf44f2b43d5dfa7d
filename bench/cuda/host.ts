/**
 * What a step costs besides the device: everything in JavaScript, with a library that does nothing.
 *
 *     node bench/cuda/host.ts MODEL.gguf        Node 22.18 or newer, or Bun
 *
 * Steps of 1, 8 and 64 sequences that each want their 40 greatest logits, of which some sixty come back, as from a real output matrix.
 */
import { openModelFile } from '../../src/engine/model.ts';
import { kvShapeOf } from '../../src/engine/session.ts';
import { Stepper } from '../../src/engine/stepper.ts';
import { ABI_VERSION, type FunctionName } from '../../src/kernels/cuda/abi.ts';
import type { NativeLibrary } from '../../src/kernels/cuda/host.ts';
import { createCudaBackend } from '../../src/kernels/cuda/open.ts';
import { loadWeights } from '../../src/model/load.ts';

const TOP = 40;
const STEPS = 1000;
const PAIRS = 60;
/** Words of a row of TOP_K; see commands.md. */
const ROW_WORDS = 2 + 2 * (TOP + 256);
const facts = { name: 'none', computeCapability: '9.0', totalBytes: 80e9, freeBytes: 79e9, usedBytes: 0, sms: 132 };

/** Buffers that nobody has; the greatest logits are always the same. */
function nothing(vocabulary: number): NativeLibrary {
  const row = new Int32Array(ROW_WORDS);
  row[0] = PAIRS;
  for (let i = 0; i < PAIRS; i++) {
    row[2 + 2 * i] = (i * 7919) % vocabulary;
    new Float32Array(row.buffer)[3 + 2 * i] = PAIRS - i;
  }
  let handles = 0;
  const functions: Record<FunctionName, (...args: never[]) => unknown> = {
    bn_abi_version: () => ABI_VERSION,
    bn_message: () => '',
    bn_open: (_: number, out: [unknown]) => out.fill({}) && 0,
    bn_close: () => 0,
    bn_info: (_: unknown, json: Uint8Array) => new TextEncoder().encodeInto(JSON.stringify(facts), json) && 0,
    bn_alloc: (_: unknown, _bytes: number, out: [number]) => out.fill(++handles) && 0,
    bn_free: () => 0,
    bn_write: () => 0,
    bn_read: (_: unknown, _handle: number, _at: number, into: Int32Array) => {
      for (let at = 0; at + ROW_WORDS <= into.length; at += ROW_WORDS) into.set(row, at);
      return 0;
    },
    bn_dense_bytes: (_: number, rows: number, columns: number, out: [number]) => out.fill(rows * columns * 2) && 0,
    bn_pack_dense: () => 0,
    bn_run: () => 0,
  };
  return { path: 'none', find: (prototype) => functions[/bn_\w+/.exec(prototype)![0] as FunctionName] as never };
}

const path = process.argv[2];
if (path === undefined) throw new Error('usage: host.ts MODEL.gguf');
const gguf = await openModelFile(path);
const library = nothing(1000);
const backend = await createCudaBackend({}, { loadLibrary: async () => library });
const weights = await loadWeights(gguf, backend);
await gguf.close();
const stepper = new Stepper(backend, weights, 128);
const shape = kvShapeOf(weights.config, { contextSize: Math.min(4096, weights.config.contextLength) });
for (const n of [1, 8, 64]) {
  const caches = Array.from({ length: n }, () => backend.allocKv(shape));
  const micros: number[] = [];
  for (let i = 0; i < STEPS; i++) {
    const start = performance.now();
    const position = 64 + (i % 128);
    await stepper.step(caches.map((kv, j) => ({ kv, position, ids: [(i % 100) + j], logits: 'last', top: TOP })));
    micros.push((performance.now() - start) * 1000);
  }
  micros.sort((a, b) => a - b);
  console.log(
    `${n} sequences: ${micros[STEPS / 2].toFixed(0)} us a step, ${micros[STEPS / 10].toFixed(0)} in the best tenth`,
  );
}
await backend.dispose();
