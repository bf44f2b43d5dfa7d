/**
 * The text that llama.cpp's `llama-eval-callback` prints (examples/eval-callback/eval-callback.cpp; later common/debug.cpp), as a
 * stream of headers and of the values that follow them:
 *
 *     ggml_debug:   Qcur-0 = (f32)    ROPE(Qcur-0 (reshaped){64, 4, 9, 1}, inp_pos{9, 1, 1, 1}}) = {64, 4, 9, 1}
 *        [                                                      one list for each index of the last dimension
 *         [
 *          [   1.5451,   0.4825,   0.7616, ...,   1.6248,   1.1124,   -1.5251],
 *          ...,
 *         ],
 *        ]
 *        sum = 8.107841
 *
 * Dimensions come with the fastest first, as ggml has them. Of each only the first and the last three indices are printed (the
 * oldest versions: the first three only). Quantised results have no values.
 *
 * `sum` is of the printed values, and in later versions of all: which, the first sum of a result that was not printed whole tells.
 * Where it is of the printed ones, it is checked.
 * @module
 */

import { BitnetError, show, want } from '../../errors.ts';
import type { ByteSource } from '../../formats/source.ts';

/** What was computed, before its values. */
export interface LogHeader {
  readonly name: string;
  readonly type: string;
  readonly op: string;
  readonly dims: readonly [number, number, number, number];
  /** Line of the log, from 1 on. */
  readonly line: number;
}

/** A printed value and where it lies: indices of the three fastest dimensions. */
export interface LogValue {
  readonly at: readonly [number, number, number];
  readonly value: number;
}

export interface LogBlock extends LogHeader {
  readonly values: readonly LogValue[];
  /** How far a value may be from the computed one, by the digits that are printed. */
  readonly resolution: number;
}

/** What a log tells besides, in the lines of the loader. */
export interface LogFacts {
  architecture?: string;
  modelName?: string;
  tokens?: number[];
}

const CHUNK_BYTES = 1 << 20;
const MAX_LOG_BYTES = 2 ** 31;
/** Six indices in each of three dimensions are usual; some have changed that number. */
const MAX_LINE = 1 << 22;
const MAX_VALUES = 1 << 20;
const MAX_DIMENSION = 2 ** 26;
const MAX_HEADER = 2000;
const MAX_TOKENS = 1 << 24;
/** Printed sums are of f32, added one by one. */
const SUM_ERROR = 1e-4;

/** Callbacks that print: `ggml_debug`, `common_debug_cb_eval`, behind a time stamp or not. */
const CALLBACK = /(?:ggml_debug|cb_eval[^:]{0,20}):/;
const PIECE = /\[|\]|\.\.\.|[-+]?(?:nan(?:\([^)]*\))?|inf(?:inity)?|\d+(?:\.\d*)?(?:e[-+]?\d+)?)|\S/gi;

type List = { readonly before: Item[]; readonly after: Item[]; cut: boolean };
type Item = List | string;

/** The blocks of a log in their order; `wanted` says which headers' values are read. Fills `facts` on the way. */
export async function* logBlocks(
  source: ByteSource,
  wanted: (header: LogHeader) => boolean,
  facts: LogFacts,
): AsyncGenerator<LogBlock> {
  const where = source.label;
  want(source.byteLength <= MAX_LOG_BYTES, 'limit-exceeded', 'the log is too long', () => ({
    where,
    expected: `at most ${MAX_LOG_BYTES} bytes`,
    got: `${source.byteLength}`,
  }));
  let header: LogHeader | undefined;
  let lists: ListReader | undefined;
  let last: (LogBlock & { readonly isCut: boolean }) | undefined;
  let sumsPrinted: boolean | undefined;
  let tokensLeft = 0;
  let line = 0;
  const withoutValues = ({ line: at, name }: LogHeader) =>
    new BitnetError('truncated', 'a tensor without its values', { where: `${where}:${at}`, got: name });
  for await (const text of linesOf(source)) {
    line++;
    if (lists !== undefined && header !== undefined) {
      if (!lists.take(text, `${where}:${line}`)) continue;
      const { values, ...rest } = lists.values(header.dims, `${where}:${header.line}`);
      last = { ...header, values, ...rest };
      if (wanted(header)) yield last;
      [lists, header] = [undefined, undefined];
      continue;
    }
    const found = headerOf(text, line, where);
    if (found !== undefined) {
      if (header !== undefined && hasValues(header)) throw withoutValues(header);
      [header, last] = [found, undefined];
    } else if (header !== undefined && /^\s*\[/.test(text)) {
      lists = new ListReader();
      lists.take(text, `${where}:${line}`);
    } else if (last !== undefined && /^\s*sum = /.test(text)) {
      const isPrinted = isSumOf(last, text.trim().slice(6));
      if (last.isCut) sumsPrinted ??= isPrinted;
      const { name, isCut } = last;
      want(isPrinted || (isCut && sumsPrinted !== true), 'bad-container', 'other values than were printed', () => ({
        where: `${where}:${line}: ${name}`,
        expected: text.trim(),
      }));
      last = undefined;
    } else tokensLeft = readFacts(text, facts, tokensLeft);
  }
  want(lists === undefined, 'truncated', 'the log ends inside of a tensor', () => ({
    where: `${where}:${line}`,
    got: header?.name,
  }));
  if (header !== undefined && hasValues(header)) throw withoutValues(header);
  want(tokensLeft === 0, 'truncated', 'the log ends inside of its list of tokens', () => ({
    where: `${where}:${line}`,
  }));
}

/** Of other types, values are not printed. */
function hasValues({ type }: LogHeader): boolean {
  return /^(f|bf|i)(8|16|32)$/.test(type);
}

function isSumOf({ values, resolution }: LogBlock, text: string): boolean {
  const sum = values.reduce((all, { value }) => all + value, 0);
  const size = values.reduce((all, { value }) => all + Math.abs(value), 0);
  const printed = numberOf(text);
  if (!Number.isFinite(sum) || !Number.isFinite(printed)) return Object.is(sum, printed) || Number.isNaN(printed);
  return Math.abs(sum - printed) <= (values.length + 1) * resolution + SUM_ERROR * size;
}

async function* linesOf(source: ByteSource): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const bytes = new Uint8Array(CHUNK_BYTES);
  let rest = '';
  for (let at = 0; at < source.byteLength; at += CHUNK_BYTES) {
    const chunk = bytes.subarray(0, Math.min(CHUNK_BYTES, source.byteLength - at));
    await source.readInto(chunk, at);
    const lines = (rest + decoder.decode(chunk, { stream: true })).split(/\r?\n/);
    rest = lines.pop() ?? '';
    want(rest.length <= MAX_LINE, 'bad-container', 'not a log: a line without an end', () => ({ where: source.label }));
    yield* lines;
  }
  if (rest !== '') yield rest;
}

/** `CALLBACK: NAME = (TYPE) OP(...) = {a, b, c, d}`; names may contain spaces and brackets. */
function headerOf(text: string, line: number, where: string): LogHeader | undefined {
  const start = text.length <= MAX_HEADER ? CALLBACK.exec(text) : null;
  if (start === null) return undefined;
  const rest = text.slice(start.index + start[0].length);
  const [made, shaped] = [rest.indexOf(' = ('), rest.lastIndexOf(' = {')];
  const op = /^(\w{1,40})\)\s{1,40}(\w{1,40})\(/.exec(rest.slice(made + 4));
  const shape = /^(\d{1,10}), (\d{1,10}), (\d{1,10}), (\d{1,10})\}/.exec(rest.slice(shaped + 4));
  if (made < 0 || shaped < made || op === null || shape === null) return undefined;
  const dims = shape.slice(1).map(Number) as [number, number, number, number];
  const isFine = dims.reduce((a, b) => a * b) <= MAX_DIMENSION ** 2;
  want(isFine && dims.every((dim) => dim <= MAX_DIMENSION), 'limit-exceeded', 'no shape of a tensor', () => ({
    where: `${where}:${line}`,
    got: dims.join(', '),
  }));
  const given = rest.slice(0, made).trim();
  // A copy for another device is called `CUDA0#NAME#0`.
  return { name: /^[^#]+#(.+)#\d+$/.exec(given)?.[1] ?? given, type: op[1], op: op[2], dims, line };
}

/** Reads a line of the loader; returns how many token ids are still to come. */
function readFacts(text: string, facts: LogFacts, tokensLeft: number): number {
  if (tokensLeft > 0) {
    const id = /(?:^|\s)(\d{1,9})\s*$/.exec(text)?.[1];
    if (id === undefined) return tokensLeft;
    facts.tokens?.push(Number(id));
    return tokensLeft - 1;
  }
  const count = /number of input tokens = (\d{1,8})\s*$/.exec(text)?.[1];
  if (count !== undefined && Number(count) <= MAX_TOKENS) {
    facts.tokens = [];
    return Number(count);
  }
  const architecture = /print_(?:meta|info): arch\s+=\s+([\w.-]{1,60})\s*$/.exec(text)?.[1];
  if (architecture !== undefined) facts.architecture = architecture;
  const modelName = /print_(?:meta|info): general\.name\s+=\s+(.{1,200})$/.exec(text)?.[1];
  if (modelName !== undefined) facts.modelName = modelName.trim();
  return 0;
}

/** Nested lists, line by line. */
class ListReader {
  readonly #open: List[] = [];
  #done: List | undefined;
  #count = 0;

  /** Whether the lists are complete. */
  take(text: string, where: string): boolean {
    for (const [piece] of text.matchAll(PIECE)) {
      if (piece === ',') continue;
      const list = this.#open.at(-1);
      want(
        this.#done === undefined && (list !== undefined || piece === '['),
        'bad-container',
        'no values here',
        () => ({
          where,
          expected: 'lists of numbers',
          got: show(text.trim()),
        }),
      );
      if (piece === '[') {
        const inner: List = { before: [], after: [], cut: false };
        add(list, inner);
        this.#open.push(inner);
      } else if (piece === ']') {
        this.#done = this.#open.length === 1 ? list : undefined;
        this.#open.pop();
      } else if (piece === '...' && list !== undefined) {
        list.cut = true;
      } else {
        const isNumber = !Number.isNaN(numberOf(piece)) || /nan/i.test(piece);
        want(isNumber && this.#open.length === 3, 'bad-container', 'no values here', () => ({
          where,
          expected: 'numbers in three lists',
          got: show(text.trim()),
        }));
        add(list, piece);
        want(++this.#count <= MAX_VALUES, 'limit-exceeded', 'more values than such a log prints', () => ({ where }));
      }
      want(this.#open.length <= 3, 'bad-container', 'lists in too many lists', () => ({ where }));
    }
    return this.#done !== undefined;
  }

  values(
    [d0, d1, d2]: LogHeader['dims'],
    where: string,
  ): Pick<LogBlock, 'values' | 'resolution'> & { readonly isCut: boolean } {
    const values: LogValue[] = [];
    const texts: string[] = [];
    for (const [i2, outer] of indexed(this.#done, d2, where)) {
      for (const [i1, row] of indexed(outer, d1, where)) {
        for (const [i0, text] of indexed(row, d0, where)) {
          texts.push(text as string);
          values.push({ at: [i0, i1, i2], value: numberOf(text as string) });
        }
      }
    }
    return { values, resolution: resolutionOf(texts), isCut: values.length < d0 * d1 * d2 };
  }
}

function add(list: List | undefined, item: Item): void {
  if (list !== undefined) (list.cut ? list.after : list.before).push(item);
}

/** The items of a list with their indices: what stands behind the dots, as many as before or none, is counted from the end. */
function* indexed(list: Item | undefined, dim: number, where: string): Generator<[number, Item]> {
  if (typeof list !== 'object') throw new BitnetError('bad-container', 'a number in place of a list', { where });
  const { before, after, cut } = list;
  const count = before.length + after.length;
  const isEven = after.length === 0 || after.length === before.length;
  want(cut ? count < dim && isEven : count === dim, 'bad-container', 'other values than the shape has', () => ({
    where,
    expected: `${dim}`,
    got: cut ? `${before.length} and ${after.length}` : `${count}`,
  }));
  for (let i = 0; i < before.length; i++) yield [i, before[i]];
  for (let i = 0; i < after.length; i++) yield [dim - after.length + i, after[i]];
}

function numberOf(text: string): number {
  if (/nan/i.test(text)) return Number.NaN;
  if (/inf/i.test(text)) return text.startsWith('-') ? -Infinity : Infinity;
  return Number(text);
}

/**
 * Half of the last digit. Where all have as many (`%12.4f`), that is a constant; else (a build that prints `%g`) digits count from
 * the first, and the largest value decides. What is read becomes f32, which adds half of its own last bit.
 */
function resolutionOf(texts: readonly string[]): number {
  const numbers = texts.filter((text) => Number.isFinite(numberOf(text)));
  if (numbers.length === 0) return 0;
  const largest = numbers.reduce((max, text) => Math.max(max, Math.abs(Number(text))), 0);
  const decimals = numbers.map((text) => (/e/i.test(text) ? -1 : (text.split('.')[1]?.length ?? 0)));
  const isFixed = decimals[0] > 0 && decimals.every((count) => count === decimals[0]);
  const lengths = numbers.map((text) => text.replace(/e.*$/i, '').replace(/^[-+0.]+|\D/g, '').length);
  const digits = lengths.reduce((most, length) => Math.max(most, length), 1);
  const printed = isFixed ? Number(`5e-${decimals[0] + 1}`) : largest * Number(`5e-${digits}`);
  return printed + largest * 2 ** -24;
}
