/**
 * `bitnet bench`: tokens a second, with the flags, the tests and the table of llama-bench.
 * @module
 */

import { type BenchTest, benchmark, benchName, checkFits, medianOf, spreadOf, tokensOf } from '../engine/bench.ts';
import type { Model } from '../engine/types.ts';
import { openGguf } from '../formats/index.ts';
import { readModelConfig } from '../model/load.ts';
import { Rng } from '../numeric/rng.ts';
import { type BenchProof, modelOf, type ReceiptModel } from '../oracle/receipt/receipt.ts';
import { DEFAULT_SAMPLING } from '../sampling/chain.ts';
import { numberList, promptAndGeneration, wordList } from './bench-lists.ts';
import {
  type BenchFormat,
  type BenchRow,
  csvHead,
  csvRow,
  type ExtraColumns,
  formats,
  markdownFoot,
  markdownHead,
  markdownRow,
  modelType,
  tensorBytes,
  weightBytesPerToken,
} from './bench-rows.ts';
import { command } from './command.ts';
import { UsageError, type Values } from './flags.ts';
import { foreignFlags, layoutFlags, modelFlag, preFlag, quietFlag, runtimeFlags } from './flags-common.ts';
import { plural } from './format.ts';
import type { Io } from './io.ts';
import { describeMachine, type Machine, residentMemory } from './machine.ts';
import { openModel, openSource } from './open.ts';
import { benchReceipt, loadOf, proofOf, ReceiptWriter, receiptFlags } from './receipt.ts';

/** Of the token ids; the work does not depend on it. */
const SEED = 42;
const KV_TYPES = ['f32', 'f16'] as const;

const TESTS = 'Tests';
const LIST = 'N,...';

const flags = {
  ...modelFlag,
  ...preFlag,
  ...layoutFlags,
  ...foreignFlags,
  'allow-dense': runtimeFlags['allow-dense'],
  backend: runtimeFlags.backend,
  device: runtimeFlags.device,
  kernels: runtimeFlags.kernels,
  'no-wide-vectors': runtimeFlags['no-wide-vectors'],
  threads: {
    type: 'string',
    also: ['-t'],
    value: LIST,
    env: 'BITNET_THREADS',
    group: TESTS,
    describe: 'threads of the wasm backend; the model is loaded once for each [physical cores]',
  },
  'batch-size': {
    type: 'string',
    also: ['-b'],
    value: LIST,
    group: TESTS,
    describe: 'tokens computed in one pass [128, cuda 1024]',
  },
  'cache-type-k': { type: 'string', also: ['-ctk'], value: 'TYPE,...', group: TESTS, describe: 'f32, f16 [f16]' },
  'cache-type-v': { type: 'string', also: ['-ctv'], value: 'TYPE,...', group: TESTS, describe: 'f32, f16 [f16]' },
  'n-prompt': {
    type: 'string',
    also: ['-p'],
    value: LIST,
    group: TESTS,
    describe: 'tokens of a prompt; 0 for none [512]',
  },
  'n-gen': {
    type: 'string',
    also: ['-n'],
    value: LIST,
    group: TESTS,
    describe: 'tokens to generate; 0 for none [128]',
  },
  'n-prompt-gen': {
    type: 'list',
    also: ['-pg'],
    value: 'P,N',
    group: TESTS,
    describe: 'a prompt of P tokens and N generated after it, timed as one; may be repeated',
  },
  'n-depth': {
    type: 'string',
    also: ['-d'],
    value: LIST,
    group: TESTS,
    describe: 'tokens in the cache before the clock starts [0]',
  },
  top: {
    type: 'integer',
    min: 0,
    max: 1 << 21,
    group: TESTS,
    describe:
      'logits computed for each generated token: the N greatest, as sampling with --top-k N wants them; 0 for all [40]',
  },
  repetitions: {
    type: 'integer',
    also: ['-r'],
    min: 1,
    max: 1000,
    group: TESTS,
    describe: 'times each test is run [5]',
  },
  'no-warmup': { type: 'boolean', group: TESTS, describe: 'do not run a test once untimed before' },
  output: { type: 'string', also: ['-o'], choices: formats, group: 'Output', describe: 'form of the result [md]' },
  ...receiptFlags,
  ...quietFlag,
  'gpu-layers': runtimeFlags['gpu-layers'],
  'ubatch-size': runtimeFlags['ubatch-size'],
} as const;

type Args = Values<typeof flags>;

export const bench = command({
  flags,
  examples: [
    ['bitnet bench -m model.gguf', 'pp512 and tg128'],
    ['bitnet bench -m model.gguf -t 1,2 -p 64-512*2 -n 0', 'prompts of 64, 128, 256, 512 tokens, by 1 and 2 threads'],
    ['bitnet bench -m model.gguf -p 0 -n 32 -d 0,1024 -o json', 'generation with an empty and a filled cache'],
  ],
  async run(args, io) {
    const plan = planOf(args);
    const file = await lookAtFile(args, plan, io);
    const machine = describeMachine();
    const out = new Output(args.output ?? 'md', extraColumns(args), io);
    const receipt = await ReceiptWriter.open(args, io);
    const proofs: BenchProof[] = [];
    try {
      let model: ReceiptModel | undefined;
      for (const setting of plan.settings) {
        model = await runSetting(args, setting, { plan, file, machine, out, io, receipt, proofs });
      }
      await out.end();
      if (model !== undefined) await receipt?.write(benchReceipt(receipt, model, proofs, out.rows));
      return 0;
    } finally {
      io.status('');
      await receipt?.abort(); // does nothing once written
    }
  },
});

/** What a model is loaded with. */
interface Setting {
  /** Undefined: the backend decides. */
  readonly threads: number | undefined;
  readonly batchSize: number | undefined;
}

interface Plan {
  readonly settings: readonly Setting[];
  readonly caches: readonly { readonly kType: 'f32' | 'f16'; readonly vType: 'f32' | 'f16' }[];
  readonly tests: readonly BenchTest[];
  readonly repetitions: number;
}

/** Everything that can be wrong with the flags is found here. */
function planOf(args: Args): Plan {
  const threads = args.threads === undefined ? [undefined] : numberList('-t', args.threads, 1);
  const batches = args['batch-size'] === undefined ? [undefined] : numberList('-b', args['batch-size'], 1);
  const kTypes = wordList('-ctk', args['cache-type-k'] ?? 'f16', KV_TYPES);
  const vTypes = wordList('-ctv', args['cache-type-v'] ?? 'f16', KV_TYPES);
  if (args['receipt-time'] && args.receipt === undefined) throw new UsageError('--receipt-time needs --receipt');
  const depths = numberList('-d', args['n-depth'] ?? '0', 0);
  const pairs = args['n-prompt-gen'].map((text) => promptAndGeneration('-pg', text));
  const prompts = numberList('-p', args['n-prompt'] ?? '512', 0).filter((n) => n > 0);
  const generations = numberList('-n', args['n-gen'] ?? '128', 0).filter((n) => n > 0);
  const tests = depths.flatMap((nDepth) => [
    ...prompts.map((nPrompt) => ({ nPrompt, nGenerate: 0, nDepth })),
    ...generations.map((nGenerate) => ({ nPrompt: 0, nGenerate, nDepth })),
    ...pairs.map((pair) => ({ ...pair, nDepth })),
  ]);
  if (tests.length === 0) throw new UsageError('nothing to measure: -p and -n are 0');
  return {
    settings: batches.flatMap((batchSize) => threads.map((n) => ({ threads: n, batchSize }))),
    caches: kTypes.flatMap((kType) => vTypes.map((vType) => ({ kType, vType }))),
    tests,
    repetitions: args.repetitions ?? 5,
  };
}

/** Columns that llama-bench shows where they are not as usual. */
function extraColumns(args: Args): ExtraColumns {
  return [
    ...(args['batch-size'] === undefined ? [] : (['n_batch'] as const)),
    ...(args['cache-type-k'] === undefined ? [] : (['type_k'] as const)),
    ...(args['cache-type-v'] === undefined ? [] : (['type_v'] as const)),
  ];
}

interface FileFacts {
  readonly name: string;
  readonly type: string;
  readonly tensorBytes: number;
  readonly bytesPerToken: number;
}

/** Reads the head of the file only: a test that cannot be run should not cost the loading of a gigabyte. */
async function lookAtFile(args: Args, plan: Plan, io: Io): Promise<FileFacts> {
  const source = await openSource(args, io);
  try {
    const gguf = await openGguf(source);
    const { contextLength } = readModelConfig(gguf);
    for (const test of plan.tests) checkFits(test, contextLength);
    return {
      name: gguf.label,
      type: modelType(gguf),
      tensorBytes: tensorBytes(gguf),
      bytesPerToken: weightBytesPerToken(gguf),
    };
  } finally {
    await source.close();
  }
}

interface Context {
  readonly plan: Plan;
  readonly file: FileFacts;
  readonly machine: Machine;
  readonly out: Output;
  readonly io: Io;
  readonly receipt: ReceiptWriter | undefined;
  /** Gets one for each cache, if there is to be a receipt. */
  readonly proofs: BenchProof[];
}

/** One load of the model, all tests; resolves to what a receipt says of the model, if there is to be one. */
async function runSetting(args: Args, setting: Setting, context: Context): Promise<ReceiptModel | undefined> {
  const { plan, file, machine, out, io, receipt, proofs } = context;
  const model = await openModel(
    {
      ...args,
      threads: setting.threads,
      'batch-size': setting.batchSize,
      'embd-type': undefined,
      // Memory is planned for the largest of the sessions, which are no longer than their tests.
      'ctx-size': Math.max(...plan.tests.map(tokensOf)),
      'cache-type-k': largestType(plan.caches.map(({ kType }) => kType)),
      'cache-type-v': largestType(plan.caches.map(({ vType }) => vType)),
      'threads-batch': undefined,
      'no-mmap': false,
    },
    io,
  );
  const rows: BenchRow[] = [];
  const { name, nThreads } = model.backend;
  try {
    for (const cache of plan.caches) {
      for (const test of plan.tests) {
        const rng = Rng.fromSeed(SEED);
        const time = new Date().toISOString();
        const samplesMs = await benchmark(model, test, {
          ...cache,
          repetitions: plan.repetitions,
          top: topOf(args),
          warmUp: !args['no-warmup'],
          random: () => rng.nextUint32(),
          onRepetition: (n) => {
            if (args.quiet) return;
            const what = n === 0 ? 'warming up' : `${n} of ${plan.repetitions}`;
            io.status(`${plural(nThreads, 'thread')}  ${benchName(test)}  ${what}`);
          },
          signal: io.signal,
        });
        const { kType, vType } = cache;
        const facts = { test, samplesMs, time, kType, vType, top: topOf(args) };
        rows.push(rowOf(facts, model, file, machine));
        await out.measured(rows.at(-1)!);
      }
      if (receipt !== undefined) {
        const rng = Rng.fromSeed(SEED);
        const load = loadOf(args, setting.batchSize);
        proofs.push(await proofOf(model, load, cache, () => rng.nextUint32(), io.signal));
      }
    }
  } finally {
    await model.dispose();
  }
  // Last, so that its buffer is in nobody's peak of memory. The ts backend is nowhere near what memory gives.
  const ceiling = name === 'wasm' ? await readSpeed(nThreads) : undefined;
  await out.completed(rows.map((row) => ({ ...row, memory_gb_per_s: rounded(ceiling) })));
  return receipt === undefined ? undefined : modelOf(model, receipt.file);
}

function largestType(types: readonly ('f32' | 'f16')[]): 'f32' | 'f16' {
  return types.includes('f32') ? 'f32' : 'f16';
}

function topOf(args: Args): number | undefined {
  return args.top === 0 ? undefined : (args.top ?? DEFAULT_SAMPLING.topK);
}

async function readSpeed(nThreads: number): Promise<number | undefined> {
  const { memoryReadSpeed } = await import('../engine/bandwidth.ts');
  return memoryReadSpeed(nThreads);
}

interface Measured {
  readonly test: BenchTest;
  readonly samplesMs: readonly number[];
  readonly time: string;
  readonly kType: string;
  readonly vType: string;
  readonly top: number | undefined;
}

function rowOf(measured: Measured, model: Model, file: FileFacts, machine: Machine): BenchRow {
  const { test, samplesMs } = measured;
  const nTokens = test.nPrompt + test.nGenerate;
  const speeds = samplesMs.map((ms) => (nTokens * 1000) / ms);
  const [time, speed] = [spreadOf(samplesMs), spreadOf(speeds)];
  const rss = residentMemory();
  return {
    build_commit: machine.commit ?? null,
    build_version: machine.version,
    runtime: machine.runtime,
    os: machine.os,
    cpu_info: machine.cpu,
    model_filename: file.name,
    model_type: file.type,
    model_size: file.tensorBytes,
    model_n_params: model.info.parameters,
    backends: model.backend.name,
    variant: model.backend.variant,
    n_batch: model.batchSize,
    n_threads: model.backend.nThreads,
    type_k: measured.kType,
    type_v: measured.vType,
    n_prompt: test.nPrompt,
    n_gen: test.nGenerate,
    n_depth: test.nDepth,
    n_top: measured.top ?? model.info.vocabularySize,
    test: benchName(test),
    test_time: measured.time,
    avg_ns: Math.round(time.mean * 1e6),
    stddev_ns: Math.round(time.deviation * 1e6),
    avg_ts: speed.mean,
    stddev_ts: speed.deviation,
    median_ts: medianOf(speeds),
    samples_ns: samplesMs.map((ms) => Math.round(ms * 1e6)),
    samples_ts: speeds,
    load_ms: Math.round(model.loadMs),
    backend_peak_bytes: model.memory().peakBytes,
    rss_bytes: rss.nowBytes,
    rss_peak_bytes: rss.peakBytes ?? null,
    weight_bytes_per_token: file.bytesPerToken,
    // A prompt reads the weights once for many tokens: bytes per token would mean nothing.
    weight_gb_per_s: test.nPrompt > 0 ? null : (rounded((file.bytesPerToken * speed.median) / 1e9) ?? null),
    memory_gb_per_s: null,
  };
}

function rounded(value: number | undefined): number | null {
  return value === undefined ? null : Number(value.toPrecision(4));
}

/** Writes rows as soon as the form allows. */
class Output {
  readonly #format: BenchFormat;
  readonly #extra: ExtraColumns;
  readonly #io: Io;
  readonly #rows: BenchRow[] = [];
  #started = false;

  /** All completed ones. */
  get rows(): readonly BenchRow[] {
    return this.#rows;
  }

  constructor(format: BenchFormat, extra: ExtraColumns, io: Io) {
    this.#format = format;
    this.#extra = extra;
    this.#io = io;
  }

  /** A row of which all but the speed of memory is known. */
  async measured(row: BenchRow): Promise<void> {
    if (this.#format !== 'md') return;
    this.#io.status('');
    if (!this.#started) await this.#io.write(markdownHead(this.#extra));
    this.#started = true;
    await this.#io.write(markdownRow(row, this.#extra));
  }

  /** All rows of one load of the model. */
  async completed(rows: readonly BenchRow[]): Promise<void> {
    this.#rows.push(...rows);
    this.#io.status('');
    for (const row of rows) {
      if (this.#format === 'jsonl') await this.#io.write(`${JSON.stringify(row)}\n`);
      if (this.#format === 'csv') await this.#io.write(this.#started ? csvRow(row) : csvHead(row) + csvRow(row));
      this.#started = true;
    }
  }

  async end(): Promise<void> {
    if (this.#format === 'json') await this.#io.write(`${JSON.stringify(this.#rows, null, 2)}\n`);
    if (this.#format === 'md') await this.#io.write(markdownFoot(this.#rows));
  }
}
