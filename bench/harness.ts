/**
 * What all benches share: cases, timing by tinybench, a table, and results as JSON.
 *
 * Medians count, not means: whatever else a machine does makes some samples longer and none shorter. Nothing here
 * compares with a number of yesterday; to compare, run both things in one run and look at the ratio.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { Bench } from 'tinybench';
import { table } from '../src/cli/format.ts';
import { describeMachine } from '../src/cli/machine.ts';

/** Amounts of work in one call; rates are these divided by the median time. */
export interface Work {
  /** Multiply-adds that the operation means, whether or not it multiplies. */
  readonly macs?: number;
  /** Bytes that it must read and write at least. */
  readonly bytes?: number;
  readonly tokens?: number;
}

/** A case made ready. */
export interface Ready {
  /** What is timed: `calls` calls. */
  readonly run: () => unknown;
  /** Calls in one `run`; more than one where a single call is too short for the clock. Default 1. */
  readonly calls?: number;
  readonly dispose?: () => Promise<void> | void;
}

export interface Case {
  /** Starts with the name of its suite: `kernels/add 2560 n=1 t=1`. Filters look for parts of it. */
  readonly name: string;
  /** A function where it is only known once the case was made ready. */
  readonly work?: Work | (() => Work);
  /** Seconds rather than microseconds: few samples, one warm-up. */
  readonly slow?: boolean;
  /** Allocates, loads, spawns; not timed. Until then a case costs nothing, so that most may be filtered away. */
  readonly prepare: () => Promise<Ready> | Ready;
}

export interface Options {
  /** A case runs if one of these is part of its name, or if there are none. */
  readonly filters: readonly string[];
  /** Milliseconds of timing for a case. */
  readonly timeMs: number;
  readonly threads: readonly number[];
  readonly backend: 'wasm' | 'ts';
  /** A GGUF file to load, or whose vocabulary to use. */
  readonly model: string | undefined;
  /** Shape of the model to make if none is given. */
  readonly preset: string;
  /** A text to tokenize. */
  readonly text: string | undefined;
}

/** A group of cases under one name. */
export interface Suite {
  readonly name: string;
  readonly cases: (options: Options) => AsyncIterable<Case>;
}

/** Times are milliseconds of one call. */
export interface Result {
  readonly name: string;
  readonly samples: number;
  readonly callsPerSample: number;
  readonly medianMs: number;
  readonly minMs: number;
  /** Median distance from the median. */
  readonly madMs: number;
  readonly work: Work;
}

export function chosen(name: string, filters: readonly string[]): boolean {
  return filters.length === 0 || filters.some((filter) => name.includes(filter));
}

export async function time(one: Case, { timeMs }: Pick<Options, 'timeMs'>): Promise<Result> {
  const ready = await one.prepare();
  try {
    const calls = ready.calls ?? 1;
    const bench = new Bench({
      throws: true,
      ...(one.slow === true
        ? { time: timeMs, iterations: 5, warmupTime: 0, warmupIterations: 1 }
        : { time: timeMs, iterations: 16, warmupTime: timeMs / 2, warmupIterations: 8 }),
    });
    bench.add(one.name, ready.run);
    await bench.run();
    const { result } = bench.tasks[0];
    if (result.state !== 'completed') throw new Error(`${one.name}: ${result.state}`);
    const { samplesCount, p50, min, mad } = result.latency;
    return {
      name: one.name,
      samples: samplesCount,
      callsPerSample: calls,
      medianMs: p50 / calls,
      minMs: min / calls,
      madMs: mad / calls,
      work: typeof one.work === 'function' ? one.work() : (one.work ?? {}),
    };
  } finally {
    await ready.dispose?.();
  }
}

/** Billions a second: GMAC/s, GB/s. */
export function giga(amount: number | undefined, ms: number): number | undefined {
  return amount === undefined ? undefined : amount / ms / 1e6;
}

export function tableOf(results: readonly Result[]): string {
  const has = (key: keyof Work) => results.some(({ work }) => work[key] !== undefined);
  const columns: [string, (result: Result) => string][] = [
    ['case', ({ name }) => name],
    ['median', ({ medianMs }) => shortTime(medianMs)],
    ['min', ({ minMs }) => shortTime(minMs)],
    ['±', ({ madMs, medianMs }) => `${((100 * madMs) / medianMs).toFixed(0)}%`],
    ['samples', ({ samples }) => `${samples}`],
  ];
  if (has('macs')) columns.push(['GMAC/s', ({ work, medianMs }) => digits(giga(work.macs, medianMs))]);
  // Weights and caches move by gigabytes, text by megabytes.
  const [unit, factor] = has('tokens') ? (['MB/s', 1000] as const) : (['GB/s', 1] as const);
  if (has('bytes')) columns.push([unit, ({ work, medianMs }) => digits(giga(work.bytes, medianMs / factor))]);
  if (has('tokens')) columns.push(['Mtok/s', ({ work, medianMs }) => digits(giga(work.tokens, medianMs / 1000))]);
  const rows = [columns.map(([title]) => title), ...results.map((result) => columns.map(([, cell]) => cell(result)))];
  return table(
    rows,
    columns.map((_, i) => i).filter((i) => i > 0),
  );
}

function digits(value: number | undefined): string {
  return value === undefined ? '' : value < 100 ? value.toPrecision(3) : value.toFixed(0);
}

function shortTime(ms: number): string {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms >= 1 ? `${ms.toFixed(2)} ms` : `${(ms * 1000).toFixed(2)} us`;
}

/** The folder of package.json, from bench/ and from bench/.build/bench/ alike. */
export const ROOT = new URL(import.meta.url.includes('/.build/') ? '../../../' : '../', import.meta.url);

/** Writes bench/results/SUITE.RUNTIME.json and returns its path. */
export function save(suite: string, results: readonly Result[], more: Readonly<Record<string, unknown>> = {}): string {
  const machine = describeMachine(ROOT);
  const folder = new URL('bench/results/', ROOT);
  mkdirSync(folder, { recursive: true });
  const runtime = machine.runtime.replace(' ', '-');
  const file = new URL(`${suite}.${runtime}.json`, folder);
  const date = new Date().toISOString();
  writeFileSync(file, `${JSON.stringify({ suite, date, machine, ...more, results }, null, 2)}\n`);
  return file.pathname;
}
