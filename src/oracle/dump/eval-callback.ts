/**
 * Logs of llama.cpp's `llama-eval-callback` as a trace, of which only some values are known.
 *
 * A prompt longer than a batch is computed in several passes, each of which begins with `inp_embd`; their rows follow one another.
 * Behind the attention of the last layer only rows remain whose logits were asked for: here the last of a pass.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import type { ByteSource } from '../../formats/source.ts';
import type { SourceTensor, TraceSource } from '../source.ts';
import { type LogBlock, type LogFacts, logBlocks } from './eval-callback-text.ts';
import { ourName } from './names.ts';

/** Farther than any position: attention weights are kept as head * this + position until the number of positions is known. */
const HEAD = 2 ** 31;
const ATTENTION_WEIGHTS = /\.attn_weights$/;

/** Corners are printed, and whole rows laid out to compare them, sixteen at a time. Vocabularies have 2^18 entries. */
const MAX_COLUMNS = 2 ** 22;
const MAX_POSITIONS = 2 ** 20;

/** The printed values of a tensor. */
interface Series {
  columns: number;
  resolution: number;
  readonly rows: number[];
  readonly at: number[];
  readonly values: number[];
}

/**
 * A log as a source of traces, read as a whole here. Closing it closes `source`. `architecture` is that of the model where the
 * log does not begin with what the loader prints.
 */
export async function openEvalCallback(source: ByteSource, architecture?: string): Promise<TraceSource> {
  const { label } = source;
  const facts: LogFacts = {};
  const kv: { k?: string; v?: string } = {};
  const all = new Map<string, Series>();
  let passes = { first: 0, tokens: 0 };
  const nameOf = ({ name, op }: Pick<LogBlock, 'name' | 'op'>) => ourName(name, facts.architecture ?? architecture, op);
  const wanted = (header: Pick<LogBlock, 'name' | 'op' | 'type'>) => {
    const cache = /^(?:cache_([kv])_l\d+ \(view\)|([kv])_cache_view-\d+)$/.exec(header.name);
    if (cache !== null) kv[(cache[1] ?? cache[2]) as 'k' | 'v'] = header.type;
    return header.type === 'f32' && nameOf(header) !== undefined;
  };
  for await (const block of logBlocks(source, wanted, facts)) {
    const name = nameOf(block) ?? '';
    if (name === 'embd') passes = { first: passes.first + passes.tokens, tokens: block.dims[1] };
    want(passes.tokens > 0, 'bad-container', 'the log does not begin with inp_embd', () => ({
      where: `${label}:${block.line}`,
      got: block.name,
      hint: 'give the whole output of llama-eval-callback',
    }));
    addBlock(all, name, block, passes, label);
  }
  want(all.size > 0, 'bad-container', 'not a log of llama-eval-callback', () => ({
    where: label,
    expected: 'lines such as ggml_debug: inp_embd = (f32) GET_ROWS(...) = {256, 5, 1, 1}',
  }));
  const positions = passes.first + passes.tokens;
  const { tokens } = facts;
  want(tokens === undefined || tokens.length === positions, 'bad-container', 'other tokens than rows', () => ({
    where: label,
    expected: `${tokens?.length} rows`,
    got: `${positions}`,
  }));
  const tensors = new Map([...all].map(([name, series]) => [name, tensorOf(name, series, positions)]));
  const { k, v } = kv;
  const types = k !== undefined && v !== undefined ? { k, v } : undefined;
  return {
    label,
    origin: {
      architecture: facts.architecture ?? architecture,
      modelName: facts.modelName,
      tokens,
      producer: 'llama.cpp',
      kv: types,
    },
    tensors,
    read: async (name, position, rows) => {
      const [tensor, series] = [tensors.get(name), all.get(name)];
      if (tensor === undefined || series === undefined)
        throw new BitnetError('bad-argument', 'no such tensor', { where: `${label}: ${name}` });
      const isInside = position >= tensor.position && position + rows <= tensor.position + tensor.rows;
      want(isInside, 'bad-argument', 'rows that the trace does not have', () => ({
        where: `${label}: ${name}`,
        expected: `positions ${tensor.position} to ${tensor.position + tensor.rows - 1}`,
        got: `${position} to ${position + rows - 1}`,
      }));
      return rowsOf(series, tensor, position, rows);
    },
    close: () => source.close(),
  };
}

/** Adds the values of a block at their places. A name that comes again in a pass is a bias or a scale later: it takes them over. */
function addBlock(
  all: Map<string, Series>,
  name: string,
  { dims: [d0, d1, d2, d3], values, resolution, line }: LogBlock,
  { first, tokens }: { readonly first: number; readonly tokens: number },
  label: string,
): void {
  // (columns, tokens); (head, heads, tokens); and of the weights of attention (positions, tokens, heads).
  const isWeights = ATTENTION_WEIGHTS.test(name);
  const isHeads = !isWeights && (d2 > 1 || (tokens === 1 && d1 > 1));
  const rows = isHeads ? d2 : d1;
  const columns = isWeights ? d2 : isHeads ? d0 * d1 : d0;
  if (d3 !== 1 || values.length === 0 || (rows !== tokens && rows !== 1)) return; // rows of which nobody says whose they are
  want(columns <= MAX_COLUMNS && first + tokens <= MAX_POSITIONS, 'limit-exceeded', 'too large a tensor', () => ({
    where: `${label}:${line}: ${name}`,
    expected: `at most ${MAX_COLUMNS} columns and ${MAX_POSITIONS} rows`,
    got: `${columns} and ${first + tokens}`,
  }));
  const series = all.get(name) ?? { columns, resolution: 0, rows: [], at: [], values: [] };
  want(series.columns === columns, 'bad-container', 'a tensor of two widths', () => ({
    where: `${label}:${line}: ${name}`,
    expected: `${series.columns}`,
    got: `${columns}`,
  }));
  all.set(name, series);
  series.resolution = Math.max(series.resolution, resolution);
  for (const { at, value } of values) {
    const [i0, i1, i2] = at;
    series.rows.push(first + (rows === 1 ? tokens - 1 : isHeads ? i2 : i1));
    series.at.push(isWeights ? i2 * HEAD + i0 : isHeads ? i1 * d0 + i0 : i0);
    series.values.push(value);
  }
}

function tensorOf(name: string, series: Series, positions: number): SourceTensor {
  if (ATTENTION_WEIGHTS.test(name)) {
    // Rows are as wide as the cache there, in steps of 32; here as wide as the trace.
    series.at.forEach((at, i) => {
      const position = at % HEAD;
      series.at[i] = position < positions ? Math.floor(at / HEAD) * positions + position : -1;
    });
    series.columns *= positions;
    want(series.columns <= MAX_COLUMNS, 'limit-exceeded', 'too large a tensor', () => ({
      where: name,
      expected: `at most ${MAX_COLUMNS} columns`,
      got: `${series.columns}`,
    }));
  }
  const first = series.rows.reduce((a, b) => Math.min(a, b), Infinity);
  const last = series.rows.reduce((a, b) => Math.max(a, b), 0);
  return { name, type: 'f32', position: first, rows: last - first + 1, columns: series.columns };
}

function rowsOf(
  { rows: at, at: columnOf, values, resolution }: Series,
  { columns }: SourceTensor,
  position: number,
  rows: number,
): { data: Float32Array; known: Uint8Array; resolution: number } {
  const data = new Float32Array(rows * columns);
  const known = new Uint8Array(rows * columns);
  for (let i = 0; i < at.length; i++) {
    const row = at[i] - position;
    if (row < 0 || row >= rows || columnOf[i] < 0) continue;
    data[row * columns + columnOf[i]] = values[i];
    known[row * columns + columnOf[i]] = 1;
  }
  return { data, known, resolution };
}
