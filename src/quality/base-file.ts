/**
 * llama-perplexity's file of log-probabilities, `--kl-divergence-base`: what a model predicted for every scored token of a
 * text, to compare other models with. All little-endian; V is the size of the vocabulary, C tokens make a window.
 *
 *      0  u8[8]            "_logits_"
 *      8  i32              C
 *     12  i32              V
 *     16  i32              number of windows
 *     20  i32[windows, C]  token ids as tokenized; the begin token of each window is not written
 *         then for each window, and in it for each of the C - 1 - floor(C/2) scored tokens, a row of u16[nv]:
 *      0  f32              scale
 *      4  f32              least log-probability
 *      8  u16[V]           codes: ln p = scale * code + least
 *         u16              0, where V is odd: nv = 4 + V rounded up to an even number
 *
 * A row reaches at most 16 nats down from its most likely token; whatever is less likely has code 0 and stands as if it were
 * there. The scale is a 65535th of the reach: codes are exact to 0.00012 nats. The file does not say which text it is
 * of, nor how much of a window is scored or that windows are evaluated with a begin token: those are conventions.
 *
 * Source: llama.cpp, examples/perplexity/perplexity.cpp.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { ByteSource } from '../formats/source.ts';
import { roundHalfEven } from '../numeric/exp.ts';
import type { Normaliser } from '../sampling/softmax.ts';
import { sha256 } from './measurement.ts';
import type { Windows } from './perplexity.ts';

const MAGIC = '_logits_';
const HEADER_BYTES = 20;
/** How far below the most likely token a row reaches, in nats. */
const REACH = 16;
const CODES = 65535;
/** Tokens are held in memory; a text of this many bytes of ids would take weeks to measure. */
const MAX_TOKEN_BYTES = 1 << 30;

const f = Math.fround;

/** u16 of a row, for a vocabulary of that size. */
export function rowWords(vocabularySize: number): number {
  return 2 * Math.ceil(vocabularySize / 2) + 4;
}

/** Scored tokens of a window. */
function scoredRows(size: number): number {
  return size - 1 - Math.floor(size / 2);
}

/** Bytes of the rows of a window. */
export function baseWindowBytes(size: number, vocabularySize: number): number {
  return scoredRows(size) * rowWords(vocabularySize) * 2;
}

/** Everything before the rows. */
export function encodeBaseHeader({ size, count, ids }: Windows, vocabularySize: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES + 4 * ids.length);
  bytes.set(new TextEncoder().encode(MAGIC));
  const view = new DataView(bytes.buffer);
  for (const [i, value] of [size, vocabularySize, count, ...ids].entries()) view.setInt32(8 + 4 * i, value, true);
  return bytes;
}

/** Writes one row of logits; float for float what llama.cpp computes, up to the last bit of the sum of exponentials. */
export function encodeLogProbs(row: Float32Array, { max, logSum }: Normaliser, out: DataView): void {
  let least = max;
  for (const logit of row) if (logit < least) least = logit;
  least = Math.max(least, f(max - REACH));
  const scale = f(f(max - least) / CODES);
  out.setFloat32(0, scale, true);
  out.setFloat32(4, f(f(least - max) - f(logSum)), true);
  const inverse = f(1 / scale);
  for (let id = 0; id < row.length; id++) {
    const code = scale > 0 && row[id] > least ? roundHalfEven(f(inverse * f(row[id] - least))) : 0;
    out.setUint16(8 + 2 * id, Math.min(code, CODES), true);
  }
  if (row.length % 2 === 1) out.setUint16(8 + 2 * row.length, 0, true);
}

/** A base file that has been found sound, except for its rows, which are checked as they are read. */
export class BaseFile {
  readonly label: string;
  readonly vocabularySize: number;
  readonly windows: Windows;
  readonly #source: ByteSource;
  readonly #rowsAt: number;

  private constructor(source: ByteSource, windows: Windows, vocabularySize: number) {
    this.label = source.label;
    this.windows = windows;
    this.vocabularySize = vocabularySize;
    this.#source = source;
    this.#rowsAt = HEADER_BYTES + 4 * windows.ids.length;
  }

  /** The source stays the caller's to close. */
  static async open(source: ByteSource): Promise<BaseFile> {
    const { label: where, byteLength } = source;
    const header = await read(source, 0, Math.min(byteLength, HEADER_BYTES));
    const magic = new TextDecoder('latin1').decode(header.subarray(0, MAGIC.length));
    want(magic === MAGIC, 'bad-container', 'not a file of log-probabilities', () => ({
      where,
      expected: `"${MAGIC}" at its beginning`,
      got: JSON.stringify(magic),
    }));
    want(byteLength >= HEADER_BYTES, 'truncated', 'the header is cut off', () => ({
      where,
      expected: `${HEADER_BYTES} bytes`,
      got: `${byteLength}`,
    }));
    const view = new DataView(header.buffer);
    const [size, vocabularySize, count] = [8, 12, 16].map((at) => view.getInt32(at, true));
    want(size >= 3 && vocabularySize >= 1 && count >= 1, 'bad-container', 'impossible header', () => ({
      where,
      expected: 'a window of 3 tokens or more, a vocabulary, and a window at least',
      got: `${size}, ${vocabularySize}, ${count}`,
    }));
    const tokenBytes = 4 * size * count;
    const windowBytes = baseWindowBytes(size, vocabularySize);
    const expected = HEADER_BYTES + tokenBytes + windowBytes * count;
    const sane = expected <= Number.MAX_SAFE_INTEGER && tokenBytes <= MAX_TOKEN_BYTES;
    want(sane, 'limit-exceeded', 'the header promises more than such a file can hold', () => ({
      where,
      expected: `at most ${MAX_TOKEN_BYTES} bytes of tokens`,
      got: `${count} windows of ${size} tokens, vocabulary ${vocabularySize}`,
    }));
    if (byteLength !== expected) {
      const whole = Math.max(0, Math.floor((byteLength - HEADER_BYTES - tokenBytes) / windowBytes));
      throw new BitnetError(
        byteLength < expected ? 'truncated' : 'bad-container',
        byteLength < expected ? 'the file is cut off' : 'there is more than the header says',
        {
          where,
          expected: `${expected} bytes for ${count} windows`,
          got: byteLength < expected ? `${byteLength}, ${whole} whole windows` : `${byteLength}`,
        },
      );
    }
    const bytes = await read(source, HEADER_BYTES, tokenBytes);
    const tokens = new DataView(bytes.buffer);
    const ids = Array.from({ length: size * count }, (_, i) => tokens.getInt32(4 * i, true));
    const bad = ids.findIndex((id) => id < 0 || id >= vocabularySize);
    want(bad < 0, 'bad-container', 'token id out of range', () => ({
      where: `${where}, token ${bad}`,
      expected: `0 to ${vocabularySize - 1}`,
      got: `${ids[bad]}`,
    }));
    return new BaseFile(source, { size, count, ids }, vocabularySize);
  }

  /** Rows of a window, one behind the other. */
  async rows(window: number): Promise<LogProbs[]> {
    const { size } = this.windows;
    const rowBytes = 2 * rowWords(this.vocabularySize);
    const windowBytes = baseWindowBytes(size, this.vocabularySize);
    const bytes = await read(this.#source, this.#rowsAt + window * windowBytes, windowBytes);
    return Array.from({ length: scoredRows(size) }, (_, row) => {
      const view = new DataView(bytes.buffer, row * rowBytes, rowBytes);
      const scale = view.getFloat32(0, true);
      const least = view.getFloat32(4, true);
      want(
        scale >= 0 && scale <= 1 && least <= 0 && least > -Infinity,
        'bad-container',
        'not log-probabilities',
        () => ({
          where: `${this.label}, window ${window + 1}, row ${row + 1}`,
          expected: 'a scale of 0 to 1 and a least value of at most 0',
          got: `${scale}, ${least}`,
        }),
      );
      return { scale, least, code: (id) => view.getUint16(8 + 2 * id, true) };
    });
  }

  /** SHA-256 over the header, the tokens and the first of the rows: enough to tell files apart without reading gigabytes. */
  async digest(): Promise<string> {
    return sha256(await read(this.#source, 0, Math.min(this.#source.byteLength, this.#rowsAt + (1 << 20))));
  }
}

/** A row of a base file: ln p(id) = scale * code(id) + least. */
export interface LogProbs {
  readonly scale: number;
  readonly least: number;
  code(id: number): number;
}

async function read(source: ByteSource, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  await source.readInto(bytes, offset);
  return bytes;
}
