/**
 * From a difference to what made it: the op is computed again with one mistake after the other made on purpose, and the one
 * that gives the candidate's numbers is it.
 *
 * Where the candidate does not show what went into an op, the mistake may lie further back: then those ops are computed with
 * mistakes, too, and what comes of them is carried forward.
 * @module
 */

import type { TraceData, TraceTensor } from '../../engine/types.ts';
import { quantizeRows } from '../../kernels/ts/quantize.ts';
import { bf16ToNumber, numberToBF16 } from '../../numeric/bf16.ts';
import { f16ToNumber, numberToF16 } from '../../numeric/f16.ts';
import { EXACT } from './bounds.ts';
import { activationAlternatives, addAlternatives, scaleAlternatives } from './hypotheses/activation.ts';
import { attend, attentionAlternatives } from './hypotheses/attention.ts';
import { denseAlternatives, embeddingAlternatives } from './hypotheses/dense.ts';
import { normAlternatives, withGainOf } from './hypotheses/norm.ts';
import { quantizeAlternatives } from './hypotheses/quantize.ts';
import { type Alternative, floats, mistake, type Prediction, type Question, variant } from './hypotheses/question.ts';
import { ropeAlternatives } from './hypotheses/rope.ts';
import { JUDGED_ROWS, ternaryAlternatives } from './hypotheses/ternary.ts';
import { measure } from './measure.ts';
import type { Scene, Seen } from './scene.ts';
import type { Finding } from './types.ts';

/** How well a hypothesis must fit where inputs were the same: what sums in another order may differ by. */
const FITS = 1e-5;
/** And how much better than no hypothesis. */
const BETTER = 10;
const BETTER_IN_NOISE = 2.5;
/** Ops back from the one that differs. */
const DEPTH = 3;

/** What explains the question's rows, best first. `noise`: see `bounds.ts`, with its margin. */
export async function explain(given: Question, noise: number): Promise<Finding[]> {
  const isProduct = given.tensor.op === 'ternaryMatmul' || given.tensor.op === 'acc';
  const question = isProduct ? { ...given, rows: given.rows.slice(0, JUDGED_ROWS) } : given;
  const own = await judged(question, await ownAlternatives(question), noise);
  if (own.length > 0) return own;
  const upstream = await judged(question, await upstreamAlternatives(question, DEPTH), noise);
  return upstream.length > 0 ? upstream : judged(question, generalAlternatives(question), noise);
}

/** Whether the tensor `later` is what the candidate has here: matrices or gains that were swapped. */
export async function explainByLater(
  question: Question,
  later: Seen,
  computed: TraceData,
  noise: number,
): Promise<Finding[]> {
  const list = await swapped(question, later.tensor, computed);
  return list.length === 0 ? [] : judged(question, list, noise);
}

/** How much of the candidate's rows each alternative accounts for; those that account for all. */
async function judged(question: Question, list: readonly Alternative[], noise: number): Promise<Finding[]> {
  const without = relativeError(question, question.expected);
  const most = Math.max(FITS, noise);
  const found: Finding[] = [];
  for (const { id, says, kind, rows } of list) {
    const prediction = await rows();
    if (prediction === undefined) continue;
    const error = relativeError(question, prediction);
    if (error > most || error * (noise > 0 ? BETTER_IN_NOISE : BETTER) > without) continue;
    found.push({ id, says, kind, error, errorWithout: without });
  }
  // Equally good ones in the order of the list, which has the likely ones first.
  return found.sort((a, b) =>
    Math.max(a.error, 1e-7) < Math.max(b.error, 1e-7) / 4
      ? -1
      : Math.max(b.error, 1e-7) < Math.max(a.error, 1e-7) / 4
        ? 1
        : 0,
  );
}

function relativeError({ tensor: { columns }, rows, got, known }: Question, prediction: Prediction): number {
  const [data, told] = 'known' in prediction ? [prediction.data, prediction.known] : [prediction, undefined];
  let worst = 0;
  let compared = 0;
  for (const row of rows) {
    const both = told === undefined ? known : known === undefined ? told : known.map((one, i) => one & told[i]);
    const of = { data, start: row * columns, columns };
    const m = measure(of, { data: got, start: row * columns, columns, known: both, resolution: 0 }, EXACT);
    compared += m.known;
    worst = Math.max(worst, m.relative);
  }
  return compared === 0 ? Infinity : worst;
}

async function ownAlternatives(question: Question): Promise<Alternative[]> {
  const list: Alternative[] = [];
  for (const seen of question.scene.all()) list.push(...(await swapped(question, seen.tensor, seen.rows)));
  return [...(await byOp(question)), ...list];
}

async function byOp(question: Question): Promise<Alternative[]> {
  switch (question.tensor.op) {
    case 'embed':
      return embeddingAlternatives(question);
    case 'rmsNorm':
      return normAlternatives(question);
    case 'quantizeRows':
      return quantizeAlternatives(question);
    case 'acc':
    case 'ternaryMatmul':
      return ternaryAlternatives(question);
    case 'denseMatmul':
      return denseAlternatives(question);
    case 'rope':
      return ropeAlternatives(question);
    case 'attentionWeights':
    case 'attention':
      return attentionAlternatives(question);
    case 'gatedRelu2':
    case 'gatedSilu':
    case 'gatedGelu':
      return activationAlternatives(question);
    case 'scale':
      return scaleAlternatives(question);
    case 'add':
      return addAlternatives(question);
  }
}

/** The result of another matrix on the same input, or of another gain. */
async function swapped(question: Question, other: TraceTensor, rows: TraceData): Promise<Alternative[]> {
  const { tensor } = question;
  if (other.name === tensor.name || other.op !== tensor.op || other.columns !== tensor.columns) return [];
  const isProduct = tensor.op === 'acc' || tensor.op === 'ternaryMatmul' || tensor.op === 'denseMatmul';
  if (isProduct && sameSource(question.scene, tensor, other)) {
    return [mistake('weights-swapped', `${other.weight} in place of ${tensor.weight}`, () => rows)];
  }
  const [x] = question.inputs;
  const rerun = other.rerun;
  const width = question.scene.get(question.scene.sources(other)[0])?.tensor.columns ?? 0;
  if (isProduct && rerun !== undefined && x !== undefined && width * tensor.rows === x.length) {
    return [mistake('weights-swapped', `${other.weight} in place of ${tensor.weight}`, () => rerun([x]))];
  }
  const gain = other.gain;
  if (tensor.op !== 'rmsNorm' || gain === undefined) return [];
  return [
    mistake('gain-of-other', `the gain ${other.weight} in place of ${tensor.weight}`, () => withGainOf(question, gain)),
  ];
}

/** The same rows went in; of an architecture with a norm for every projection, the same rows before those. */
function sameSource(scene: Scene, a: TraceTensor, b: TraceTensor): boolean {
  return scene.sources(a)[0] === scene.sources(b)[0];
}

/** Mistakes in what went in, where the candidate does not show it. */
async function upstreamAlternatives(question: Question, depth: number): Promise<Alternative[]> {
  const { tensor, scene, inputs } = question;
  if (depth === 0) return [];
  const list: Alternative[] = [];
  for (const [i, name] of scene.sources(tensor).entries()) {
    const seen = scene.get(name);
    // What was printed in part may still hide a mistake.
    if (seen === undefined || (seen.isKnown && seen.noise === 0) || !(seen.rows instanceof Float32Array)) continue;
    const all = Array.from({ length: tensor.rows }, (_, row) => row);
    const before = {
      ...question,
      tensor: seen.tensor,
      expected: seen.rows,
      rows: all,
      inputs: sourcesOf(scene, seen.tensor),
    };
    const alternatives = [
      ...(seen.tensor.op === 'ternaryMatmul' ? [] : await byOp(before)),
      ...(await upstreamAlternatives(before, depth - 1)),
    ];
    for (const { id, says, kind, rows } of alternatives) {
      list.push({
        id,
        says: `${says}, in ${name}`,
        kind,
        rows: async () => {
          const other = await rows();
          if (!(other instanceof Float32Array)) return undefined;
          return forward(
            question,
            inputs.map((input, j) => (j === i ? other : input)),
          );
        },
      });
    }
  }
  return list;
}

/** The op on other inputs. */
async function forward(question: Question, inputs: Question['inputs']): Promise<Float32Array | undefined> {
  const { tensor } = question;
  if (tensor.op === 'attention') return attend({ ...question, inputs });
  if (!inputs.every((input) => input !== undefined)) return undefined;
  if (tensor.op === 'quantizeRows') {
    const columns = inputs[0].length / tensor.rows;
    const [codes, scales] = [new Int8Array(inputs[0].length), new Float32Array(tensor.rows)];
    quantizeRows(codes, scales, inputs[0], columns, tensor.rows);
    return tensor.type === 'i8' ? Float32Array.from(codes) : scales;
  }
  return tensor.op === 'acc' ? undefined : tensor.rerun?.(inputs);
}

export function sourcesOf(scene: Scene, tensor: TraceTensor): (Float32Array | undefined)[] {
  return scene.sources(tensor).map((name) => scene.floats(name));
}

/** What any op may have gone through. */
function generalAlternatives({ tensor, expected, got, known, rows }: Question): Alternative[] {
  if (tensor.type !== 'f32') return [];
  const each = (of: (value: number) => number) => () => floats(expected.length, (i) => of(expected[i]));
  const shifted = (by: number) => () => {
    const data = new Float32Array(expected.length);
    const told = new Uint8Array(expected.length);
    for (const row of rows) {
      const from = row + by;
      if (from < 0 || from >= tensor.rows) continue;
      const { columns } = tensor;
      data.set(expected.subarray(from * columns, (from + 1) * columns), row * columns);
      told.fill(1, row * columns, (row + 1) * columns);
    }
    return { data, known: told };
  };
  let [product, square] = [0, 0];
  for (const row of rows) {
    for (let i = row * tensor.columns; i < (row + 1) * tensor.columns; i++) {
      if (known?.[i] === 0 || !Number.isFinite(got[i])) continue;
      product += expected[i] * got[i];
      square += expected[i] * expected[i];
    }
  }
  const factor = square === 0 ? 0 : product / square;
  const ours =
    tensor.op === 'ternaryMatmul'
      ? `; the scale of the weights, ${tensor.facts.weightScale}, would be ${Number((Number(tensor.facts.weightScale) * factor).toPrecision(6))}`
      : '';
  return [
    variant(
      'rounded-f16',
      'values rounded to f16',
      each((value) => f16ToNumber(numberToF16(value))),
    ),
    variant(
      'rounded-bf16',
      'values rounded to bf16',
      each((value) => bf16ToNumber(numberToBF16(value))),
    ),
    mistake(
      'negated',
      'values with the other sign',
      each((value) => -value),
    ),
    mistake('zero', 'nothing: all values are 0', () => new Float32Array(expected.length)),
    mistake('rows-of-token-before', 'the rows of the token before', shifted(-1)),
    mistake('rows-of-token-behind', 'the rows of the token behind', shifted(1)),
    ...(factor === 0
      ? []
      : [
          mistake(
            'constant-factor',
            `${Number(factor.toPrecision(6))} times ours${ours}`,
            each((value) => value * factor),
          ),
        ]),
  ];
}
