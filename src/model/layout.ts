/**
 * In which layout the ternary tensors of a file are, where type and size do not tell: three orders of I2_S
 * (`tensors/i2s-layouts.ts`), two lists of tiles for TL1 of Llama3-8B (`tensors/tiles.ts`). A file read in the wrong one loads
 * without complaint and speaks nonsense.
 *
 * What tells are the norms. Column c of a projection meets component c of its input, which the norm before it has multiplied by
 * gain c; training fits weights and gains to each other, so the share of zeros in a column goes with its gain. Gains are floats
 * in plain order. Read in the wrong layout, zeros are counted for the wrong columns, and the correlation is gone:
 *
 *     for each sampled matrix      z = atanh(r) sqrt(n),  r the correlation of zeros and |gain| over its columns
 *     for each layout              score = sum of z^2: one per matrix by chance, far more where the layout is right
 *
 * Means of 128 columns are taken out of both first: x86 and arm64 differ only within such blocks, and what whole heads have in
 * common would speak for both. Random weights score like chance in every layout; then nothing can tell, and nothing needs to.
 *
 * The model of this package, 36 matrices, all rows: 619 in its own layout, 22 to 68 in the others. 128 rows of 24 of them:
 * 301 against 10 to 48. Without its sub-norms, which llama does not have, 512 rows: 173 against 27 to 53.
 * @module
 */

import { BitnetError, type ErrorCode, show, want } from '../errors.ts';
import type { GgufFile, GgufTensor } from '../formats/gguf/types.ts';
import { decodeInto } from '../tensors/decode.ts';
import { isReadable } from '../tensors/dtype.ts';
import { I2S_LAYOUTS, type I2sLayout } from '../tensors/i2s-layouts.ts';
import { type ReadTensor, readPackedRows } from '../tensors/load.ts';
import { PACK_BYTES, PACK_COLUMNS, packedRowBytes } from '../tensors/packed.ts';
import { hasTwoTilings, type TilesChoice } from '../tensors/tiles.ts';
import { createTranscoder } from '../tensors/transcode.ts';
import { allSettled, createTurns } from '../tensors/turns.ts';
import { projectionsOf, type TernaryLayout } from './forms.ts';
import { type ModelTensors, modelTensors } from './plan.ts';

export type { I2sLayout, TilesChoice };
export { I2S_LAYOUTS };

export interface LayoutOptions {
  readonly i2sLayout?: 'auto' | I2sLayout | undefined;
  readonly tiles?: 'auto' | TilesChoice | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What is known of the layout before loading. */
export interface LayoutGuess {
  /** The likeliest first. One where it is sure, or nothing more can be found out; of several the model must speak in one. */
  readonly candidates: readonly TernaryLayout[];
  /** What was found of the first, and how, for people; undefined where types tell everything. */
  readonly finding: string | undefined;
  /** Whether `finding` stands on a measurement. */
  readonly isMeasured: boolean;
  /** What nearly every file is. */
  readonly usual: TernaryLayout;
  /** Whether the user should be told: it is not what nearly every file is, or not known for certain. */
  readonly isNews: boolean;
}

/** A look at a few layers first, at many where that did not decide. */
const SAMPLES = [
  { layers: 4, rows: 128 },
  { layers: 16, rows: 512 },
] as const;
/** Samples read at a time. */
const AT_ONCE = 8;
/** Half of this is the difference of log-likelihoods at which a layout is taken for certain: e^25. */
const DECISIVE = 50;
/** In standard deviations: what is beyond this has been trained, whatever its layout. */
const NOT_CHANCE = 6;

/** Decides by statistics; `candidates` that remain are for whoever can make the model speak. */
export async function guessLayout(
  gguf: GgufFile,
  model: ModelTensors,
  { i2sLayout = 'auto', tiles = 'auto', signal }: LayoutOptions,
): Promise<LayoutGuess> {
  const isList = tiles === 'auto' || tiles === 'codegen' || tiles === 'preset';
  want(isList || (typeof tiles === 'object' && tiles !== null), 'bad-argument', 'no such tiles', () => ({
    where: 'tiles',
    expected: "auto, codegen, preset, or tiles by shape: { '4096x4096': '128/64/64' }",
    got: show(tiles),
  }));
  const projections = projectionsOf(model);
  const given: TernaryLayout = {
    ...(i2sLayout === 'auto' ? {} : { i2s: i2sLayout }),
    ...(tiles === 'auto' ? {} : { tiles }),
  };
  const open = openQuestion(projections, i2sLayout, tiles);
  if (open === undefined) {
    const isAsked = i2sLayout !== 'auto' || tiles !== 'auto';
    const named = isAsked ? nameOf(given, projections) : undefined;
    const finding = named === undefined ? undefined : `${named}: as asked`;
    return { candidates: [given], finding, isMeasured: false, usual: given, isNews: false };
  }
  const candidates = open.map((one) => ({ ...given, ...one }));
  const [usual] = candidates;
  const assumed = { candidates: [usual], isMeasured: false, usual, isNews: false };
  const name = (layout: TernaryLayout) => nameOf(layout, projections) ?? '';
  for (const sample of SAMPLES) {
    const measured = await measureLayouts(gguf, model, candidates, { ...sample, signal });
    if (measured === undefined) return { ...assumed, finding: undefined };
    const { matrices, scores, isTrained } = measured;
    const order = scores.map((_, i) => i).sort((i, j) => scores[j] - scores[i]);
    const [high, low] = order.map((i) => scores[i]);
    if (high - low > DECISIVE && high - matrices > 3 * (low - matrices)) {
      const numbers = `zeros go with the gains of norms, score ${high.toFixed(0)} against ${low.toFixed(0)}, ${matrices} by chance`;
      const isUsual = order[0] === 0;
      const ordered = order.map((i) => candidates[i]);
      return {
        // What is not the usual is worth one more look: whether the model speaks then.
        candidates: isUsual ? ordered.slice(0, 1) : ordered,
        finding: `${name(ordered[0])}: measured (${numbers})`,
        isMeasured: true,
        usual,
        isNews: !isUsual,
      };
    }
    if (!isTrained) {
      return { ...assumed, finding: `${name(usual)}: assumed, the weights look random and nothing decides` };
    }
  }
  return { ...assumed, candidates, finding: `${name(usual)}: not decided by the weights alone`, isNews: true };
}

/** The layouts that are possible, the commonest first; undefined where there is nothing to find out. */
function openQuestion(
  projections: readonly GgufTensor[],
  i2sLayout: 'auto' | I2sLayout,
  tiles: 'auto' | TilesChoice,
): TernaryLayout[] | undefined {
  const i2s = projections.filter(({ dtype }) => dtype.name === 'I2_S');
  if (i2s.length > 0 && i2sLayout === 'auto') {
    const inFours = i2s.every(({ shape }) => (shape[1] ?? 1) % 4 === 0);
    return I2S_LAYOUTS.filter((layout) => layout !== 'rows4' || inFours).map((layout) => ({ i2s: layout }));
  }
  const isOpen = projections.some(({ dtype, shape }) => {
    return dtype.name === 'TL1' && hasTwoTilings(shape[1] ?? 1, shape[0] ?? 1);
  });
  return isOpen && tiles === 'auto' ? [{ tiles: 'codegen' }, { tiles: 'preset' }] : undefined;
}

/** `I2_S as x86`; undefined where no tensor has a layout to name. */
export function nameOf(layout: TernaryLayout, projections: readonly GgufTensor[]): string | undefined {
  const has = (name: string) => projections.some(({ dtype }) => dtype.name === name);
  if (has('I2_S')) return `I2_S as ${layout.i2s ?? 'x86'}`;
  const type = has('TL1') ? 'TL1' : has('TL2') ? 'TL2' : undefined;
  if (type === undefined) return undefined;
  const { tiles = 'codegen' } = layout;
  return `${type} in tiles of ${typeof tiles === 'string' ? tiles : 'your choice'}`;
}

export interface Measured {
  /** As many as `score` has by chance. */
  readonly matrices: number;
  /** For each candidate. */
  readonly scores: readonly number[];
  /** Whether anything at all in the sample is not as random weights have it. */
  readonly isTrained: boolean;
}

/** A projection and the gain of the norm before it; the names of embedding models first. */
const GAINS: readonly (readonly [projection: string, gains: readonly string[]])[] = [
  ['attn_q', ['attn_q_norm_in', 'attn_norm']],
  ['attn_k', ['attn_k_norm_in', 'attn_norm']],
  ['attn_output', ['attn_output_norm_in', 'attn_sub_norm']],
  ['ffn_up', ['ffn_up_norm_in', 'ffn_norm']],
  ['ffn_gate', ['ffn_gate_norm_in', 'ffn_norm']],
  ['ffn_down', ['ffn_down_norm_in', 'ffn_sub_norm']],
];

/** The layout as far as the file itself tells, for whoever reads weights without running them. */
export interface FoundLayout {
  readonly layout: TernaryLayout;
  /** As in `LayoutGuess`, and what was assumed where only the running model could tell. */
  readonly finding: string | undefined;
  readonly isNews: boolean;
}

/** As `guessLayout`; of files that are no model the layout asked for, else the usual one. */
export async function findLayout(gguf: GgufFile, options: LayoutOptions): Promise<FoundLayout> {
  const { i2sLayout = 'auto', tiles = 'auto' } = options;
  const asked: TernaryLayout = {
    ...(i2sLayout === 'auto' ? {} : { i2s: i2sLayout }),
    ...(tiles === 'auto' ? {} : { tiles }),
  };
  let model: ModelTensors;
  try {
    model = modelTensors(gguf);
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    // What is wrong with it is told elsewhere; that nothing could be measured is told here.
    const isGuess = i2sLayout === 'auto' && gguf.tensors.some(({ dtype }) => dtype.name === 'I2_S');
    const finding = isGuess ? 'x86: assumed, the tensors are not those of a whole model' : undefined;
    return { layout: asked, finding, isNews: isGuess };
  }
  const { candidates, finding, isNews } = await guessLayout(gguf, model, options);
  const [layout] = candidates;
  if (candidates.length === 1) return { layout, finding, isNews };
  return { layout, finding: finding ?? `${nameOf(layout, projectionsOf(model)) ?? 'usual'}: assumed`, isNews: true };
}

/** Scores of the candidates; undefined where nothing can be measured, or something is wrong that loading will tell. */
export async function measureLayouts(
  gguf: GgufFile,
  model: ModelTensors,
  candidates: readonly TernaryLayout[],
  { layers, rows, signal }: { layers: number; rows: number; signal?: AbortSignal | undefined },
): Promise<Measured | undefined> {
  const { nLayers } = model.config;
  const count = Math.min(layers, nLayers);
  const chosen = new Set(Array.from({ length: count }, (_, i) => Math.floor(((i + 0.5) * nLayers) / count)));
  const pairs = [...chosen].flatMap((layer) => pairsOf(model, layer));
  const turn = createTurns(AT_ONCE);
  try {
    const looks: readonly Look[] = await allSettled(
      pairs.map((pair) =>
        turn(async () => {
          signal?.throwIfAborted();
          return lookAt(gguf, pair, candidates, rows);
        }),
      ),
    );
    if (looks.length === 0) return undefined;
    const scored = looks.filter((look) => look.zSquares !== undefined);
    const scores = candidates.map((_, i) => scored.reduce((sum, look) => sum + (look.zSquares?.[i] ?? 0), 0));
    const spread = looks.reduce((sum, look) => sum + look.excess ** 2, 0);
    // A sum of n squares of unit deviation has mean n and deviation sqrt(2n).
    const beyond = (sum: number, n: number) => n > 0 && (sum - n) / Math.sqrt(2 * n) > NOT_CHANCE;
    const isTrained = beyond(spread, looks.length) || beyond(Math.max(...scores), scored.length);
    return { matrices: scored.length, scores, isTrained };
  } catch (error) {
    // Not what is wrong with the source: one read that fails here and not while loading would leave the usual layout assumed.
    if (error instanceof BitnetError && LOADING_TELLS.includes(error.code)) return undefined;
    throw error;
  }
}

const LOADING_TELLS: readonly ErrorCode[] = ['bad-tensor', 'unsupported-type'];

interface Pair {
  readonly matrix: GgufTensor;
  /** Architectures without sub-norms have none before two of their projections. */
  readonly gain: GgufTensor | undefined;
}

interface Look {
  /** z^2 for each candidate, where there is a gain. */
  readonly zSquares: readonly number[] | undefined;
  /** See `spreadBeyondChance`. */
  readonly excess: number;
}

function pairsOf({ tensors }: ModelTensors, layer: number): Pair[] {
  const found: Pair[] = [];
  for (const [projection, gains] of GAINS) {
    const matrix = tensors.get(`blk.${layer}.${projection}.weight`);
    const gain = gains.map((name) => tensors.get(`blk.${layer}.${name}.weight`)).find((one) => one !== undefined);
    const hasLayout = matrix?.dtype.name === 'I2_S' || matrix?.dtype.name === 'TL1';
    if (matrix !== undefined && hasLayout) {
      found.push({ matrix, gain: gain?.elements === matrix.shape[0] ? gain : undefined });
    }
  }
  return found;
}

async function lookAt(
  gguf: GgufFile,
  { matrix, gain }: Pair,
  candidates: readonly TernaryLayout[],
  atMost: number,
): Promise<Look> {
  const gains = gain === undefined ? undefined : await readGain(gain);
  const read = readingOnce(matrix);
  const zSquares: number[] = [];
  let excess = 0;
  for (const [i, layout] of candidates.entries()) {
    if (i > 0 && gains === undefined) break;
    const { zeros, nRows } = await countZeros(gguf, matrix, layout, atMost, read);
    if (i === 0) excess = spreadBeyondChance(zeros, nRows);
    if (gains !== undefined) zSquares.push(zSquare(zeros, gains));
  }
  return { zSquares: gains === undefined ? undefined : zSquares, excess };
}

/** Reads of a tensor; what is read again, in another layout, comes from memory. */
function readingOnce({ source, offsetBytes }: GgufTensor): ReadTensor {
  const seen = new Map<string, Uint8Array>();
  return async (target, at) => {
    const range = `${at} ${target.length}`;
    const known = seen.get(range);
    if (known === undefined) {
      await source.readInto(target, offsetBytes + at);
      seen.set(range, target.slice());
    } else target.set(known);
  };
}

/** Zeros of each column in about `atMost` rows from the middle, read in that layout. */
async function countZeros(
  gguf: GgufFile,
  { name, dtype, shape }: GgufTensor,
  { i2s, tiles }: TernaryLayout,
  atMost: number,
  read: ReadTensor,
) {
  const [columns, rows] = [shape[0] ?? 1, shape[1] ?? 1];
  if (!isReadable(dtype)) throw new Error(`${name} cannot be read`);
  const where = `${gguf.label}: ${name}`;
  const transcoder = createTranscoder({ where, dtype: dtype.name, rows, columns, layout: i2s, tiles });
  const { rowsTogether } = transcoder;
  const nRows = Math.min(rows, Math.max(1, Math.round(atMost / rowsTogether)) * rowsTogether);
  const first = Math.floor((rows - nRows) / 2 / rowsTogether) * rowsTogether;
  return {
    zeros: zerosOfColumns(await readPackedRows(transcoder, columns, read, first, nRows), nRows, columns),
    nRows,
  };
}

async function readGain(tensor: GgufTensor): Promise<Float32Array> {
  const bytes = new Uint8Array(tensor.byteLength);
  await tensor.source.readInto(bytes, tensor.offsetBytes);
  const out = new Float32Array(tensor.elements);
  decodeInto(tensor.dtype, bytes, 0, tensor.elements, out);
  return out.map(Math.abs);
}

/** How many of the rows are zero, for each column. */
function zerosOfColumns(packed: Uint8Array, nRows: number, columns: number): Uint32Array {
  // One lane of a word for each field of a byte: a lane holds 255 rows.
  const lanes = new Uint32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    for (let plane = 0; plane < 4; plane++) {
      if (((byte >> (6 - 2 * plane)) & 3) === 1) lanes[byte] += 2 ** (8 * plane);
    }
  }
  const rowBytes = packedRowBytes(columns);
  const sums = new Uint32Array(rowBytes);
  const zeros = new Uint32Array(columns);
  for (let row = 0; row < nRows; row++) {
    const from = row * rowBytes;
    for (let i = 0; i < rowBytes; i++) sums[i] += lanes[packed[from + i]];
    if (row % 255 !== 254 && row !== nRows - 1) continue;
    for (let c = 0; c < columns; c++) {
      const word = sums[Math.floor(c / PACK_COLUMNS) * PACK_BYTES + (c & 31)];
      zeros[c] += (word >>> (8 * ((c >> 5) & 3))) & 0xff;
    }
    sums.fill(0);
  }
  return zeros;
}

/**
 * By how many standard deviations the counts of zeros are more unequal than those of independent trits: chi-squared of K - 1
 * degrees, taken as normal.
 */
function spreadBeyondChance(zeros: Uint32Array, nRows: number): number {
  const n = zeros.length;
  const share = zeros.reduce((sum, count) => sum + count, 0) / (n * nRows);
  const variance = nRows * share * (1 - share);
  if (variance === 0 || n < 2) return 0;
  const chi = zeros.reduce((sum, count) => sum + (count - nRows * share) ** 2, 0) / variance;
  return (chi - (n - 1)) / Math.sqrt(2 * (n - 1));
}

/** z^2 of the correlation of counts and gains, means of 128 columns taken out; 0 where either is constant. */
function zSquare(zeros: Uint32Array, gains: Float32Array): number {
  let [xx, yy, xy] = [0, 0, 0];
  for (let block = 0; block < zeros.length; block += PACK_COLUMNS) {
    const end = Math.min(block + PACK_COLUMNS, zeros.length);
    let [meanX, meanY] = [0, 0];
    for (let c = block; c < end; c++) {
      meanX += zeros[c] / (end - block);
      meanY += gains[c] / (end - block);
    }
    for (let c = block; c < end; c++) {
      const [x, y] = [zeros[c] - meanX, gains[c] - meanY];
      xx += x * x;
      yy += y * y;
      xy += x * y;
    }
  }
  const degrees = zeros.length - Math.ceil(zeros.length / PACK_COLUMNS) - 2;
  if (!(xx * yy > 0) || degrees < 2) return 0;
  // (atanh r)^2 grows like r^2 and needs no logarithm where it matters: what is beyond 0.9 decides anyway.
  const r2 = Math.min(0.81, (xy * xy) / (xx * yy));
  return degrees * r2 * (1 + (2 * r2) / 3);
}
