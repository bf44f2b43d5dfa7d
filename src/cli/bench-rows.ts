/**
 * What `bitnet bench` measured, as data, and as llama-bench prints it.
 *
 * Fields that llama-bench has keep its names, so that scripts made for its JSON and CSV find them; the rest are ours.
 * @module
 */

import type { GgufFile, GgufTensor } from '../formats/index.ts';
import { formOfType } from '../model/forms.ts';
import { loadedBytes } from '../model/plan.ts';
import { bytes, count, plural } from './format.ts';

/** One line of the table. */
export interface BenchRow {
  readonly build_commit: string | null;
  readonly build_version: string;
  readonly runtime: string;
  readonly os: string;
  readonly cpu_info: string;
  readonly model_filename: string;
  readonly model_type: string;
  /** Bytes of all tensors in the file. */
  readonly model_size: number;
  readonly model_n_params: number;
  readonly backends: string;
  /** Which build of the backend, e.g. `relaxed+threads`. */
  readonly variant: string;
  readonly n_batch: number;
  readonly n_threads: number;
  readonly type_k: string;
  readonly type_v: string;
  readonly n_prompt: number;
  readonly n_gen: number;
  readonly n_depth: number;
  /** Logits computed for each generated token. */
  readonly n_top: number;
  /** `pp512`, `tg128 @ d512`. */
  readonly test: string;
  readonly test_time: string;
  readonly avg_ns: number;
  readonly stddev_ns: number;
  readonly avg_ts: number;
  readonly stddev_ts: number;
  readonly median_ts: number;
  readonly samples_ns: readonly number[];
  readonly samples_ts: readonly number[];
  readonly load_ms: number;
  /** Weights, caches and scratch at their largest, by the backend's own account. */
  readonly backend_peak_bytes: number;
  /** Of the whole process, after the test. */
  readonly rss_bytes: number;
  /** Of the whole process since it began, earlier rows included. */
  readonly rss_peak_bytes: number | null;
  /** What one generated token reads of the weights, as they lie in memory. */
  readonly weight_bytes_per_token: number;
  /** That times the tokens of a second, 1e9 bytes; null for tests with a prompt. */
  readonly weight_gb_per_s: number | null;
  /** What this many threads read at most, measured after the tests; null where it was not measured. */
  readonly memory_gb_per_s: number | null;
}

export const formats = ['md', 'json', 'jsonl', 'csv'] as const;
export type BenchFormat = (typeof formats)[number];

/** What a file is called in the table: `bitnet-b1.58 2.41 B I2_S/F16`, the ternary type and that of the head. */
export function modelType(gguf: GgufFile): string {
  const ternary = gguf.tensors.find((tensor) => formOfType(tensor) === 'packed');
  const types = [ternary, headOf(gguf)].flatMap((tensor) => (tensor === undefined ? [] : [tensor.dtype.name]));
  const parameters = gguf.tensors.reduce((sum, { elements }) => sum + elements, 0);
  return `${gguf.getString('general.architecture')} ${count(parameters)} ${types.join('/')}`;
}

/** Bytes of all tensors in the file. */
export function tensorBytes(gguf: GgufFile): number {
  return gguf.tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/**
 * Bytes of weights that one token reads: every tensor once as it lies in memory, ternary ones packed to two bits a
 * weight. Of an embedding that is not the head as well, a token reads one row, which does not count.
 */
export function weightBytesPerToken(gguf: GgufFile): number {
  const head = headOf(gguf);
  return gguf.tensors
    .filter((tensor) => tensor.name !== 'token_embd.weight' || tensor === head)
    .reduce((sum, tensor) => sum + loadedBytes(tensor), 0);
}

function headOf(gguf: GgufFile): GgufTensor | undefined {
  const named = (name: string) => gguf.tensors.find((tensor) => tensor.name === name);
  return named('output.weight') ?? named('token_embd.weight');
}

interface Column {
  readonly title: string;
  readonly width: number;
  readonly right?: boolean;
  readonly cell: (row: BenchRow) => string;
}

/** llama-bench's columns; those in `extra` only where a command asks for something that is not the default. */
function columns(extra: readonly ('n_batch' | 'type_k' | 'type_v')[]): Column[] {
  return [
    { title: 'model', width: 30, cell: (row) => row.model_type },
    { title: 'size', width: 10, right: true, cell: (row) => bytes(row.model_size) },
    { title: 'params', width: 10, right: true, cell: (row) => count(row.model_n_params) },
    { title: 'backend', width: 20, cell: (row) => `${row.backends} ${row.variant}`.trim() },
    { title: 'threads', width: 7, right: true, cell: (row) => `${row.n_threads}` },
    ...extra.map((name) => ({ title: name, width: 7, right: true, cell: (row: BenchRow) => `${row[name]}` })),
    { title: 'test', width: 15, right: true, cell: (row) => row.test },
    {
      title: 't/s',
      width: 20,
      right: true,
      cell: (row) => `${row.avg_ts.toFixed(2)} ± ${row.stddev_ts.toFixed(2)}`,
    },
  ];
}

export type ExtraColumns = Parameters<typeof columns>[0];

/** The head of the markdown table: titles and alignment. */
export function markdownHead(extra: ExtraColumns): string {
  const all = columns(extra);
  const titles = all.map((column) => pad(column.title, column));
  const rules = all.map(({ width, right }) => (right === true ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  return `| ${titles.join(' | ')} |\n| ${rules.join(' | ')} |\n`;
}

export function markdownRow(row: BenchRow, extra: ExtraColumns): string {
  return `| ${columns(extra)
    .map((column) => pad(column.cell(row), column))
    .join(' | ')} |\n`;
}

function pad(text: string, { width, right }: Column): string {
  return right === true ? text.padStart(width) : text.padEnd(width);
}

/** What stands below the table: where it was measured, and what generation asks of memory. */
export function markdownFoot(rows: readonly BenchRow[]): string {
  const [first] = rows;
  if (first === undefined) return '';
  const lines = [
    `build: ${[first.build_commit, first.build_version].filter(Boolean).join(' ')}, ${first.runtime}, ${first.cpu_info}`,
    `weights read per token: ${bytes(first.weight_bytes_per_token)}; logits of a generated token: the ${first.n_top} greatest, exactly`,
  ];
  for (const row of rows) {
    if (row.weight_gb_per_s === null) continue;
    const ceiling = row.memory_gb_per_s;
    const share =
      ceiling === null ? '' : `, ${percent(row.weight_gb_per_s / ceiling)} of the ${gb(ceiling)} memory gives`;
    lines.push(`${row.test}, ${plural(row.n_threads, 'thread')}: ${gb(row.weight_gb_per_s)} of weights${share}`);
  }
  return `\n${lines.join('\n')}\n`;
}

const gb = (value: number): string => `${value.toFixed(1)} GB/s`;
const percent = (share: number): string => `${(100 * share).toFixed(0)}%`;

const listFields: readonly string[] = ['samples_ns', 'samples_ts'];

/** Everything quoted, as llama-bench does; the samples are for JSON. */
export function csvHead(row: BenchRow): string {
  return `${fieldsOf(row).join(',')}\n`;
}

export function csvRow(row: BenchRow): string {
  const cells = fieldsOf(row).map((field) => `"${String(row[field] ?? '').replaceAll('"', '""')}"`);
  return `${cells.join(',')}\n`;
}

function fieldsOf(row: BenchRow): (keyof BenchRow)[] {
  return (Object.keys(row) as (keyof BenchRow)[]).filter((field) => !listFields.includes(field));
}
