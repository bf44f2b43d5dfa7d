import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { BenchRow } from '../../src/cli/bench-rows.ts';
import { bitnet } from './program.ts';
import { writeTinyModel } from './tiny-model.ts';

vi.setConfig({ testTimeout: 120_000 });

let folder: string;
let model: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bitnet-bench-'));
  model = join(folder, 'tiny.gguf');
  await writeTinyModel(model, { template: false });
});

afterAll(() => rm(folder, { recursive: true, force: true }));

async function bench(...args: string[]): Promise<string> {
  const { code, out, err } = await bitnet(['bench', '-m', model, '-r', '2', '-t', '1', ...args]);
  // On a machine with one core that is worth a note.
  expect(err.replace(/^note: 2 threads on 1 core: .*\n/m, '')).toBe('');
  expect(code).toBe(0);
  return out;
}

describe('bitnet bench', () => {
  it('prints the table of llama-bench', async () => {
    const lines = (await bench('-p', '8,16', '-n', '4', '-d', '0,8', '-b', '8')).split('\n');
    expect(lines[0]).toMatch(/^\| model +\| +size \| +params \| backend +\| threads \| n_batch \| +test \| +t\/s \|$/);
    expect(lines[1]).toMatch(/^\| -+ \| -+: \|/);
    const cells = lines.slice(2, 8).map((line) => line.split('|').map((cell) => cell.trim()));
    expect(cells.map((row) => row[7])).toEqual(['pp8', 'pp16', 'tg4', 'pp8 @ d8', 'pp16 @ d8', 'tg4 @ d8']);
    for (const row of cells) {
      expect(row.slice(4, 7)).toEqual([expect.stringMatching(/^(wasm|ts) /), '1', '8']);
      expect(row[8]).toMatch(/^\d+\.\d\d ± \d+\.\d\d$/);
    }
    expect(lines.slice(8).join('\n')).toMatch(/^\nbuild: .*node .*\nweights read per token: .*\ntg4, 1 thread: /);
  });

  it('gives everything as JSON', async () => {
    const rows = JSON.parse(await bench('-p', '8', '-n', '4', '-pg', '4,2', '-ctk', 'f32', '-o', 'json')) as BenchRow[];
    expect(rows.map((row) => [row.test, row.n_prompt, row.n_gen, row.type_k, row.type_v])).toEqual([
      ['pp8', 8, 0, 'f32', 'f16'],
      ['tg4', 0, 4, 'f32', 'f16'],
      ['pp4+tg2', 4, 2, 'f32', 'f16'],
    ]);
    for (const row of rows) {
      expect(row.samples_ns).toHaveLength(2);
      const [a, b] = row.samples_ts;
      expect(row.avg_ts).toBeCloseTo((a + b) / 2, 6);
      expect(row.median_ts).toBeCloseTo((a + b) / 2, 6);
      expect(row.runtime).toBe(`node ${process.versions.node}`);
      expect(row.model_filename).toBe(model);
      for (const field of ['load_ms', 'backend_peak_bytes', 'rss_bytes', 'rss_peak_bytes'] as const) {
        expect(row[field], field).toBeGreaterThan(0);
      }
    }
    const [prompt, generation] = rows;
    expect(prompt.weight_gb_per_s).toBeNull();
    const expected = (generation.weight_bytes_per_token * generation.median_ts) / 1e9;
    expect(Math.abs(generation.weight_gb_per_s! / expected - 1)).toBeLessThan(1e-3);
    expect(generation.weight_bytes_per_token).toBeGreaterThan(0);
  });

  it('gives lines of JSON and CSV, one for each number of threads', async () => {
    const lines = (await bench('-p', '4', '-n', '0', '-t', '1-2', '-o', 'jsonl')).trim().split('\n');
    const rows = lines.map((line) => JSON.parse(line) as BenchRow);
    // A runtime without threads computes with one; what counts is that both were asked for.
    expect(rows.map((row) => row.n_threads)).toEqual(rows[0].backends === 'wasm' ? [1, 2] : [1, 1]);
    const csv = (await bench('-p', '4', '-n', '2', '-o', 'csv')).trim().split('\n');
    expect(csv).toHaveLength(3);
    expect(csv[0]).toContain('test,test_time,avg_ns');
    for (const line of csv.slice(1)) expect(line).toMatch(/^"/);
  });

  it('measures the ts backend too', async () => {
    const rows = JSON.parse(await bench('-p', '4', '-n', '0', '--backend', 'ts', '-o', 'json')) as BenchRow[];
    expect(rows).toMatchObject([{ backends: 'ts', n_threads: 1, test: 'pp4', memory_gb_per_s: null }]);
  });

  it('measures the built-in model', async () => {
    const { code, out } = await bitnet(['bench', '-p', '16', '-n', '2', '-r', '1', '-t', '1', '--no-warmup']);
    expect(code).toBe(0);
    expect(out).toContain(' pp16 |');
  });

  it.each([
    [['-p', '0', '-n', '0'], 'nothing to measure: -p and -n are 0'],
    [['-p', 'many'], '-p takes numbers and ranges, e.g. 64,512 or 128-512+128; got "many"'],
    [['-t', '0'], '-t takes numbers of at least 1, got 0'],
    [['-pg', '512'], '-pg takes PROMPT,GENERATED, e.g. 512,128; got "512"'],
    [['-ctk', 'q8_0'], '-ctk takes f32, f16; got "q8_0"'],
    [['-o', 'sql'], '-o takes md, json, jsonl, csv; got "sql"'],
    [['-r', '0'], '-r takes an integer from 1 to 1000, got "0"'],
  ])('%j is a wrong command line: exit 2', async (args, message) => {
    const err = `bitnet: ${message}; see bitnet bench --help\n`;
    expect(await bitnet(['bench', '-m', model, ...args])).toEqual({ code: 2, out: '', err });
  });

  it('refuses tests that do not fit the context, before it loads anything', async () => {
    const { code, out, err } = await bitnet(['bench', '-m', model, '-p', '4000', '-n', '4', '-d', '100']);
    expect([code, out]).toEqual([1, '']);
    expect(err).toBe(
      'bitnet: context-full: pp4000 @ d100: more tokens than the context of the model holds, expected at most 4096, ' +
        'got 4100 (smaller -p, -n or -d)\n',
    );
  });

  it('stops at Ctrl-C', async () => {
    const { code } = await bitnet(['bench', '-m', model, '-p', '1', '-n', '4000', '-r', '1000', '-t', '1'], {
      meanwhile: (child) => {
        child.stdout.once('data', () => child.kill('SIGINT'));
      },
    });
    expect(code).toBe(130);
  });
});
