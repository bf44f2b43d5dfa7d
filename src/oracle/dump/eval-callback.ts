/**
 * Reads what llama.cpp's `llama-eval-callback` prints, and what its tools print since `common_debug_cb_eval`: of every result the
 * name, the op, the shape, and the first and last three numbers of every dimension, with four decimals.
 *
 *     ggml_debug:  attn_norm-0 = (f32)  MUL(norm-0{256, 8, 1, 1}, blk.0.attn_norm.weight{256, 1, 1, 1}}) = {256, 8, 1, 1}
 *                                      [
 *                                       [
 *                                        [  0.1234,  -0.5678,  0.9012, ...,  0.3456, -0.7890,  0.1234],
 *                                        ...,
 *                                       ],
 *                                      ]
 *                                      sum = 12.345678
 *
 * Shapes are in ne order: (columns, tokens), or (headDim, heads, tokens) behind rope. The sum is that of the numbers printed, so
 * it tells a log that was damaged. In the last layer native keeps the rows only whose logits are wanted: the last ones.
 * @module
 */

import { BitnetError, show, want } from '../../errors.ts';
import type { ByteSource } from '../../formats/source.ts';
import type { SourceTensor, TraceSource } from '../source.ts';
import { ourName } from './names.ts';

/** How many of either end of a dimension are printed. */
const SHOWN = 3;
/** Half of the last decimal. */
const RESOLUTION = 0.00005;
const PIECE_BYTES = 1 << 20;
const MAX_LOG_BYTES = 2 ** 31;
const MAX_LINE_CHARS = 1 << 16;
const MAX_TENSORS = 1 << 16;
/** Elements of a dimension, and of a result. */
const MAX_ELEMENTS = 2 ** 40;

interface Header {
  readonly name: string;
  readonly op: string;
  readonly ne: readonly number[];
}

interface Printed extends Header {
  /** (i0, i1, i2) of each number, and the number. */
  readonly places: readonly (readonly [number, number, number, number])[];
}

interface Part {
  readonly tensor: SourceTensor;
  /** row -> (column, value)... */
  readonly rows: ReadonlyMap<number, readonly (readonly [column: number, value: number])[]>;
}

/** A log as a source of traces. Closing it closes `source`. `architecture` decides what some names mean; a log tells it, too. */
export async function openEvalCallback(source: ByteSource, architecture?: string): Promise<TraceSource> {
  const where = source.label;
  want(source.byteLength <= MAX_LOG_BYTES, 'limit-exceeded', 'the log is too long', () => ({
    where,
    expected: `at most ${MAX_LOG_BYTES} bytes`,
    got: `${source.byteLength}`,
  }));
  const printed = await readAll(source);
  const told = architecture ?? guessArchitecture(printed);
  const parts = collect(printed, told, where);
  return {
    label: where,
    origin: { architecture: told, producer: 'llama-eval-callback' },
    tensors: new Map([...parts].map(([name, { tensor }]) => [name, tensor])),
    async read(name, position, rows) {
      const part = parts.get(name);
      if (part === undefined) throw new BitnetError('bad-argument', 'no such tensor', { where: `${where}: ${name}` });
      const { tensor } = part;
      const first = position - tensor.position;
      want(first >= 0 && first + rows <= tensor.rows, 'bad-argument', 'rows that the log does not have', () => ({
        where: `${where}: ${name}`,
        expected: `positions ${tensor.position} to ${tensor.position + tensor.rows - 1}`,
        got: `${position} to ${position + rows - 1}`,
      }));
      const data = new Float32Array(rows * tensor.columns);
      const known = new Uint8Array(data.length);
      for (let row = 0; row < rows; row++) {
        for (const [column, value] of part.rows.get(first + row) ?? []) {
          data[row * tensor.columns + column] = value;
          known[row * tensor.columns + column] = 1;
        }
      }
      return { data, known, resolution: RESOLUTION };
    },
    close: () => source.close(),
  };
}

/** The architectures name their feed-forward differently. */
function guessArchitecture(printed: readonly Printed[]): string {
  const names = new Set(printed.map(({ name }) => name.replace(/-\d+$/, '')));
  if (names.has('ffn_sub_out')) return 'bitnet';
  return names.has('ffn_sub_norm') ? 'bitnet-b1.58' : 'llama';
}

function collect(printed: readonly Printed[], architecture: string, where: string): Map<string, Part> {
  // As many tokens as the first result of the graph has rows; later ones may have fewer, the last of them.
  const first = printed.find(({ name, op }) => ourName(name, architecture, op) !== undefined);
  const tokens = first === undefined ? 0 : first.ne[1];
  const parts = new Map<string, Part>();
  for (const { name: theirs, op, ne, places } of printed) {
    const name = ourName(theirs, architecture, op);
    if (name === undefined) continue;
    const heads = op === 'ROPE' ? ne[1] : 1;
    const [columns, rows] = op === 'ROPE' ? [ne[0] * ne[1], ne[2]] : [ne[0], ne[1]];
    want(rows <= tokens, 'bad-container', 'more rows than tokens', () => ({
      where: `${where}: ${theirs}`,
      expected: `at most ${tokens}`,
      got: `${rows}`,
    }));
    const byRow = new Map<number, [number, number][]>();
    for (const [i0, i1, i2, value] of places) {
      const [row, column] = heads > 1 || op === 'ROPE' ? [i2, i1 * ne[0] + i0] : [i1, i0];
      byRow.set(row, [...(byRow.get(row) ?? []), [column, value]]);
    }
    // A name that comes again is the result with what follows added to it, e.g. times a scale: the last one counts.
    parts.set(name, {
      tensor: { name, type: 'f32', position: tokens - rows, rows, columns },
      rows: byRow,
    });
  }
  want(parts.size > 0, 'bad-container', 'not a log of llama-eval-callback', () => ({
    where,
    expected: 'lines like "ggml_debug: attn_norm-0 = (f32) MUL(...) = {2560, 8, 1, 1}"',
  }));
  return parts;
}

/** All results of the log, in its order. */
async function readAll(source: ByteSource): Promise<Printed[]> {
  const printed: Printed[] = [];
  let open: Body | undefined;
  let number = 0;
  for await (const line of linesOf(source)) {
    number++;
    const header = headerOf(line, `${source.label}:${number}`);
    if (header !== undefined) {
      open?.refuse('another result begins inside of one');
      open = new Body(header, source.label);
      want(printed.length < MAX_TENSORS, 'limit-exceeded', 'too many results', () => ({
        where: source.label,
        expected: `at most ${MAX_TENSORS}`,
      }));
      continue;
    }
    if (open?.take(line) !== true) continue;
    printed.push(open.printed());
    open = undefined;
  }
  open?.refuse('the log ends inside of a result', 'truncated');
  return printed;
}

async function* linesOf(source: ByteSource): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for (let at = 0; at < source.byteLength; at += PIECE_BYTES) {
    const piece = new Uint8Array(Math.min(PIECE_BYTES, source.byteLength - at));
    await source.readInto(piece, at);
    const lines = (rest + decoder.decode(piece, { stream: true })).split(/\r?\n/);
    rest = lines.pop() ?? '';
    want(rest.length <= MAX_LINE_CHARS, 'limit-exceeded', 'a line of the log is too long', () => ({
      where: source.label,
      expected: `at most ${MAX_LINE_CHARS} characters`,
    }));
    yield* lines;
  }
  if (rest !== '') yield rest;
}

const HEADER = /(?:ggml_debug|common_debug_cb_eval):\s+(\S.*?)\s+=\s+\((\w+)\)\s+(\w+)\(.*\)\s+=\s+\{([\d, ]+)\}\s*$/;

/** Undefined for other lines; results in quantised types have no numbers behind them. */
function headerOf(line: string, where: string): Header | undefined {
  if (!line.includes('debug')) return undefined;
  const match = HEADER.exec(line);
  if (match === null || !/^(f32|f16|i32)$/.test(match[2])) return undefined;
  const ne = match[4].split(',').map(Number);
  const elements = ne.reduce((a, b) => a * b, 1);
  want(ne.length === 4 && elements > 0 && elements <= MAX_ELEMENTS, 'bad-container', 'not a shape', () => ({
    where,
    expected: 'four dimensions',
    got: show(match[4]),
  }));
  return { name: match[1], op: match[3], ne };
}

/** The numbers of one result, line by line. */
class Body {
  readonly #header: Header;
  readonly #label: string;
  readonly #places: [number, number, number, number][] = [];
  #depth = 0;
  #i1 = 0;
  #i2 = 0;
  #i3 = 0;
  #sum = 0;

  constructor(header: Header, label: string) {
    this.#header = header;
    this.#label = label;
  }

  /** True when this was the last line. */
  take(line: string): boolean {
    const text = line.trim();
    const { ne } = this.#header;
    if (text === '[') this.#depth++;
    else if (text === ']' || text === '],') {
      this.#depth--;
      if (this.#depth === 1) {
        if (this.#i1 !== ne[1]) this.refuse(`${this.#i1} of ${ne[1]} rows`);
        this.#i2++;
        this.#i1 = 0;
      }
    } else if (text === '...,') {
      if ((this.#depth === 2 ? this.#i1 : this.#i2) !== SHOWN) this.refuse('a gap at another place');
      if (this.#depth === 2) this.#i1 = ne[1] - SHOWN;
      else if (this.#depth === 1) this.#i2 = ne[2] - SHOWN;
    } else if (text.startsWith('[') && this.#depth === 2) this.#row(text);
    else if (text.startsWith('sum = ')) return this.#end(Number(text.slice(6)), text);
    return false;
  }

  #row(text: string): void {
    const { ne } = this.#header;
    let i0 = 0;
    for (const part of text.replace(/^\[|\],?$/g, '').split(',')) {
      const word = part.trim();
      if (word === '') continue;
      if (word === '...') {
        if (i0 !== SHOWN) this.refuse(`${i0} numbers before the gap of a row`);
        i0 = ne[0] - SHOWN;
        continue;
      }
      const value = numberOf(word);
      if (value === undefined || i0 >= ne[0] || this.#i1 >= ne[1] || this.#i2 >= ne[2])
        this.refuse(`not a row of {${ne.join(', ')}}: ${show(text)}`);
      else if (this.#i3 === 0) this.#places.push([i0, this.#i1, this.#i2, value]);
      this.#sum += value ?? 0;
      i0++;
    }
    if (i0 !== ne[0]) this.refuse(`a row of ${i0} of ${ne[0]} numbers`);
    this.#i1++;
  }

  /** With one sum for each of the outermost dimension. */
  #end(sum: number, text: string): boolean {
    const { ne } = this.#header;
    if (this.#depth !== 0 || this.#i2 !== ne[2]) this.refuse(`${this.#i2} of ${ne[2]} blocks`);
    // Theirs is in f32, over all outer dimensions; ours of numbers that were rounded.
    const magnitude = this.#places.reduce((all, [, , , value]) => all + Math.abs(value), 0);
    const slack = (this.#places.length + 1) * (this.#i3 + 1) * 2 * RESOLUTION + magnitude * 1e-4;
    if (!/nan|inf/i.test(text) && Number.isFinite(this.#sum) && !(Math.abs(sum - this.#sum) <= slack))
      this.refuse(`the numbers sum to ${this.#sum.toFixed(4)}, the log says ${show(text)}`);
    this.#i3++;
    this.#i2 = 0;
    return this.#i3 === ne[3];
  }

  printed(): Printed {
    return { ...this.#header, places: this.#places };
  }

  refuse(what: string, code: 'bad-container' | 'truncated' = 'bad-container'): never {
    throw new BitnetError(code, 'the log is damaged', { where: `${this.#label}: ${this.#header.name}`, got: what });
  }
}

/** As C prints numbers; undefined for what is none. */
function numberOf(word: string): number | undefined {
  const odd = /^([+-]?)(nan|inf)(?:\([^)]*\))?$/i.exec(word);
  if (odd !== null) return odd[2].toLowerCase() === 'nan' ? Number.NaN : odd[1] === '-' ? -Infinity : Infinity;
  return /^[+-]?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(word) ? Number(word) : undefined;
}
