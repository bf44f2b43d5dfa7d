import { describe, expect, it } from 'vitest';
import { numberList, promptAndGeneration, wordList } from '../../src/cli/bench-lists.ts';
import {
  type BenchRow,
  csvHead,
  csvRow,
  markdownFoot,
  markdownHead,
  markdownRow,
  modelType,
  tensorBytes,
  weightBytesPerToken,
} from '../../src/cli/bench-rows.ts';
import { UsageError } from '../../src/cli/flags.ts';
import { describeMachine, residentMemory } from '../../src/cli/machine.ts';
import { synthesize } from '../../src/convert/synth.ts';
import { memoryReadSpeed } from '../../src/engine/bandwidth.ts';
import { type BenchTest, benchmark, benchName, checkFits, spreadOf } from '../../src/engine/bench.ts';
import type { Session } from '../../src/engine/types.ts';
import { memorySink, memorySource, openGguf } from '../../src/formats/index.ts';
import { loadModel } from '../../src/index.ts';

describe('lists of numbers', () => {
  it('have commas and ranges, as in llama-bench', () => {
    expect(numberList('-p', '512', 0)).toEqual([512]);
    expect(numberList('-p', '64, 512,64', 0)).toEqual([64, 512, 64]);
    expect(numberList('-p', '1-4', 0)).toEqual([1, 2, 3, 4]);
    expect(numberList('-p', '128-512+128', 0)).toEqual([128, 256, 384, 512]);
    expect(numberList('-p', '100-300+128', 0)).toEqual([100, 228]);
    expect(numberList('-p', '64-1024*4,7', 0)).toEqual([64, 256, 1024, 7]);
    expect(numberList('-d', '0', 0)).toEqual([0]);
  });

  it.each(['', '1,', ',', 'x', '-1', '1.5', '4-2', '1-4+0', '1-4*1', '0-4*2', '1-', '1+2', '1-5-9', '0-99999'])(
    '%j is refused',
    (text) => expect(() => numberList('-p', text, 0)).toThrow(UsageError),
  );

  it('have a smallest number', () => {
    expect(() => numberList('-t', '1,0', 1)).toThrow('-t takes numbers of at least 1, got 0');
  });

  it('of words and pairs', () => {
    expect(wordList('-ctk', 'f16, f32', ['f32', 'f16'])).toEqual(['f16', 'f32']);
    expect(() => wordList('-ctk', 'q8_0', ['f32', 'f16'])).toThrow('-ctk takes f32, f16; got "q8_0"');
    expect(promptAndGeneration('-pg', '512,128')).toEqual({ nPrompt: 512, nGenerate: 128 });
    for (const bad of ['512', '0,0', 'a,b', '1,2,3']) expect(() => promptAndGeneration('-pg', bad)).toThrow(UsageError);
  });
});

describe('statistics', () => {
  it('are those of a sample', () => {
    expect(spreadOf([2, 4, 4, 10])).toEqual({
      count: 4,
      mean: 5,
      deviation: Math.sqrt(36 / 3),
      median: 4,
      min: 2,
      max: 10,
      mad: 1,
    });
    expect(spreadOf([3])).toMatchObject({ mean: 3, deviation: 0, median: 3, mad: 0 });
    expect(spreadOf([5, 1, 3]).median).toBe(3);
    expect(() => spreadOf([])).toThrow('no samples');
  });
});

const test = (nPrompt: number, nGenerate: number, nDepth = 0): BenchTest => ({ nPrompt, nGenerate, nDepth });

describe('tests', () => {
  it('are named as in llama-bench', () => {
    const names = [test(512, 0), test(0, 128), test(0, 128, 512), test(64, 16), test(64, 16, 8)].map(benchName);
    expect(names).toEqual(['pp512', 'tg128', 'tg128 @ d512', 'pp64+tg16', 'pp64+tg16 @ d8']);
  });

  it('must fit the context', () => {
    expect(() => checkFits(test(100, 20, 8), 128)).not.toThrow();
    expect(() => checkFits(test(100, 20, 9), 128)).toThrow('expected at most 128, got 129');
    expect(() => checkFits(test(0, 0, 9), 128)).toThrow('without tokens');
  });

  it('feed as many tokens as they say, again and again from the same place', async () => {
    const sink = memorySink();
    await synthesize(sink, { preset: 'tiny' });
    const model = await loadModel(sink.bytes(), { backend: 'ts' });
    // What the sessions are asked to do, in order.
    const calls: string[] = [];
    const spied = {
      ...model,
      info: model.info,
      tokenizer: model.tokenizer,
      createSession: (options: object): Session => {
        const session = model.createSession(options);
        const { prefill, rewind } = session;
        calls.push(`context ${session.contextSize}`);
        session.prefill = (ids, more) => {
          calls.push(`${ids.length} at ${session.position}${ids[0] === model.tokenizer.spec.bosId ? ' bos' : ''}`);
          return prefill.call(session, ids, more);
        };
        session.step = (id) => session.prefill([id]);
        session.rewind = (position) => {
          calls.push(`to ${position}`);
          rewind.call(session, position);
        };
        return session;
      },
    };
    let id = 10;
    const samples = await benchmark(spied as unknown as typeof model, test(3, 2, 4), {
      repetitions: 2,
      warmUp: true,
      random: () => id++,
    });
    expect(samples).toHaveLength(2);
    for (const ms of samples) expect(ms).toBeGreaterThan(0);
    const bos = model.tokenizer.spec.addBos ? ' bos' : '';
    expect(calls).toEqual([
      'context 9',
      ...[`3 at 0${bos}`, '1 at 3', 'to 0'],
      `4 at 0${bos}`,
      ...['to 4', '3 at 4', '1 at 7', '1 at 8'],
      ...['to 4', '3 at 4', '1 at 7', '1 at 8'],
    ]);
    const aborted = AbortSignal.abort(new Error('enough'));
    await expect(
      benchmark(model, test(3, 0), { repetitions: 1, warmUp: true, random: () => 1, signal: aborted }),
    ).rejects.toThrow('enough');
    await model.dispose();
  });
});

const row: BenchRow = {
  build_commit: 'abc1234',
  build_version: '1.2.3',
  runtime: 'node 20.20.2',
  os: 'linux x64',
  cpu_info: 'Some "CPU"',
  model_filename: 'a,b.gguf',
  model_type: 'bitnet-b1.58 2.41 B I2_S/F16',
  model_size: 1182663584,
  model_n_params: 2_412_820_480,
  backends: 'wasm',
  variant: 'relaxed+threads',
  n_batch: 128,
  n_threads: 2,
  type_k: 'f16',
  type_v: 'f32',
  n_prompt: 0,
  n_gen: 128,
  n_depth: 0,
  n_top: 40,
  test: 'tg128',
  test_time: '2026-11-22T00:00:00.000Z',
  avg_ns: 4e9,
  stddev_ns: 1e7,
  avg_ts: 32,
  stddev_ts: 0.25,
  median_ts: 32.1,
  samples_ns: [4e9],
  samples_ts: [32],
  load_ms: 900,
  backend_peak_bytes: 1.3e9,
  rss_bytes: 1.4e9,
  rss_peak_bytes: null,
  weight_bytes_per_token: 1 << 30,
  weight_gb_per_s: 16.5,
  memory_gb_per_s: 33,
};

describe('output', () => {
  it('is the table of llama-bench', () => {
    expect(markdownHead([]) + markdownRow(row, [])).toBe(
      '| model                          |       size |     params | backend              | threads |            test |                  t/s |\n' +
        '| ------------------------------ | ---------: | ---------: | -------------------- | ------: | --------------: | -------------------: |\n' +
        '| bitnet-b1.58 2.41 B I2_S/F16   |   1.10 GiB |     2.41 B | wasm relaxed+threads |       2 |           tg128 |         32.00 ± 0.25 |\n',
    );
    const extra = ['n_batch', 'type_v'] as const;
    expect(markdownHead(extra)).toContain('| threads | n_batch |  type_v |');
    expect(markdownRow(row, extra)).toContain('|       2 |     128 |     f32 |');
  });

  it('says where it was measured and what memory allows', () => {
    const prompt = { ...row, test: 'pp512', weight_gb_per_s: null };
    expect(markdownFoot([prompt, row, { ...row, n_threads: 1, memory_gb_per_s: null }])).toBe(
      '\nbuild: abc1234 1.2.3, node 20.20.2, Some "CPU"\n' +
        'weights read per token: 1.00 GiB; logits of a generated token: the 40 greatest, exactly\n' +
        'tg128, 2 threads: 16.5 GB/s of weights, 50% of the 33.0 GB/s memory gives\n' +
        'tg128, 1 thread: 16.5 GB/s of weights\n',
    );
    expect(markdownFoot([])).toBe('');
  });

  it('quotes everything in csv', () => {
    const [head, values] = [csvHead(row).trim().split(','), csvRow(row).trim()];
    expect(head).toContain('avg_ts');
    expect(head).not.toContain('samples_ts');
    expect(values).toContain('"Some ""CPU""","a,b.gguf"');
    expect(values.startsWith('"abc1234","1.2.3",')).toBe(true);
    expect(csvRow({ ...row, build_commit: null }).startsWith('"","1.2.3",')).toBe(true);
  });
});

describe('bytes of weights', () => {
  it('are counted as they lie in memory', async () => {
    const opened = async (options: object) => {
      const sink = memorySink();
      await synthesize(sink, { preset: 'tiny', ...options });
      return openGguf(memorySource(sink.bytes()));
    };
    const plain = await opened({});
    const five = await opened({ type: 'TQ1_0' });
    const q6 = await opened({ embeddingType: 'Q6_K' });
    expect(modelType(plain)).toMatch(/^bitnet-b1\.58 [\d.]+ [KM] I2_S\/F16$/);
    expect(modelType(q6)).toMatch(/ I2_S\/Q6_K$/);
    expect(tensorBytes(five)).toBeLessThan(tensorBytes(plain));
    // However the file packs them, ternary weights lie in memory in the same form.
    expect(weightBytesPerToken(five)).toBe(weightBytesPerToken(plain));
    const embedding = 512 * 256;
    expect(weightBytesPerToken(plain) - weightBytesPerToken(q6)).toBe(embedding * 2 - (embedding / 256) * 210);
    // What has a step and an offset takes 40 bytes for 32 weights, a table of TQ1_0 34.
    const [q4, tq1] = [await opened({ embeddingType: 'Q4_K' }), await opened({ embeddingType: 'TQ1_0' })];
    expect(weightBytesPerToken(plain) - weightBytesPerToken(q4)).toBe(embedding * 2 - (embedding / 32) * 40);
    expect(weightBytesPerToken(plain) - weightBytesPerToken(tq1)).toBe(embedding * 2 - (embedding / 32) * 34);
    expect(modelType(tq1)).toMatch(/ I2_S\/TQ1_0$/);
  });
});

describe('the machine', () => {
  it('is described', () => {
    const machine = describeMachine();
    expect(machine).toMatchObject({
      runtime: `node ${process.versions.node}`,
      version: expect.stringMatching(/^\d+\./),
    });
    expect(machine.nCpus).toBeGreaterThan(0);
    expect(machine.commit ?? 'abcdef0').toMatch(/^[0-9a-f]{7,}(-dirty)?$/);
    const memory = residentMemory();
    expect(memory.nowBytes).toBeGreaterThan(1e6);
    expect(memory.peakBytes).toBeGreaterThan(1e6);
  });

  it('reads memory at some speed, by one thread and by two', async () => {
    for (const nThreads of [1, 2]) {
      const speed = await memoryReadSpeed(nThreads);
      // No claim about this machine: only that a number came out, in the right unit.
      expect(speed).toBeGreaterThan(0.1);
      expect(speed).toBeLessThan(2000);
    }
  });
});
