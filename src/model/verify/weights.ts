/**
 * Verdicts on the weights, by role: `blk.*.ffn_down` is one line for all layers.
 *
 * Bounds are wide on purpose. Weights ternarised by absmean (arXiv 2402.17764) have 31 % zeros where they were Gaussian and up to
 * half where training pushed them; +1 and -1 balance. What these bounds catch are not bad models but bytes that were read as
 * something they are not.
 * @module
 */

import type { GgufFile } from '../../formats/gguf/types.ts';
import { CLEARLY_TERNARY, FAR_FROM_TERNARY } from '../../tensors/ternariness.ts';
import { isTable } from '../tensors.ts';
import type { DenseCensus, TensorCensus, TernaryCensus, VectorCensus } from './census.ts';
import { bad, ok, type Verdict, warn } from './verdict.ts';

/** Shares of zeros outside of which no trained ternary matrix is known, and beyond which it cannot be one. */
const ZEROS = { least: 0.1, most: 0.8, impossiblyFew: 0.01, impossiblyMany: 0.995 };
/** |n+ - n-| / (n+ + n-). */
const IMBALANCE = { odd: 0.1, impossible: 0.5 };
/** A scale this many times the median of its role, or smaller by as much. */
const SCALE_OUTLIER = 30;
/** Mean |W| of trained models is far below; 1 / mean |W| is above. */
const INVERTED_SCALE = 8;
/** Scales that come from reading something else as one. */
const ABSURD_SCALE = 1e4;

const AGAIN = 'fetch the file again, or take another one';
const CONVERT = 'convert the original with "bitnet convert", which quantises by absmean';

/** `isTernaryOnly`: whether the architecture is one that exists only with ternary weights. */
export function weightVerdicts(gguf: GgufFile, census: readonly TensorCensus[], isTernaryOnly: boolean): Verdict[] {
  const factors = new Map<string, number>();
  for (const one of census) {
    if (one.kind === 'vector' && one.tensor.name.endsWith('.scale')) factors.set(one.tensor.name, one.greatest);
  }
  const scaled = census.map((one) => (one.kind === 'ternary' ? withFactor(one, factors) : one));
  const groups = new Map<string, TensorCensus[]>();
  for (const one of inFileOrder(gguf, scaled)) {
    const role = roleOf(one.tensor.name);
    const group = groups.get(role);
    if (group === undefined) groups.set(role, [one]);
    else group.push(one);
  }
  const verdicts = [...groups].flatMap(([role, group]) => groupVerdicts(role, group, isTernaryOnly));
  return [...verdicts, ...scaleVerdicts(scaled.filter((one) => one.kind === 'ternary'))];
}

/** A factor kept apart from its weight (`blk.0.attn_q.scale`) is part of the weight's scale. */
function withFactor(one: TernaryCensus, factors: ReadonlyMap<string, number>): TernaryCensus {
  const factor = factors.get(one.tensor.name.replace(/\.weight$/, '.scale')) ?? 1;
  return { ...one, scale: one.scale * factor };
}

function inFileOrder(gguf: GgufFile, census: readonly TensorCensus[]): TensorCensus[] {
  const place = new Map(gguf.tensors.map(({ name }, i) => [name, i]));
  return census.toSorted((a, b) => place.get(a.tensor.name)! - place.get(b.tensor.name)!);
}

/** `blk.7.ffn_down.weight` -> `blk.*.ffn_down`. */
function roleOf(name: string): string {
  return name.replace(/^blk\.\d+\./, 'blk.*.').replace(/\.weight$/, '');
}

function groupVerdicts(role: string, group: readonly TensorCensus[], isTernaryOnly: boolean): Verdict[] {
  const broken = group.filter((one) => one.kind === 'bad');
  const found: Verdict[] = [];
  if (broken.length > 0) {
    const of = group.length > 1 ? `${broken.length} of ${group.length}: ` : '';
    found.push(bad(role, `${of}${broken[0].why}`, AGAIN));
  }
  const vectors = group.filter((one) => one.kind === 'vector');
  if (vectors.length > 0) found.push(vectorVerdict(role, vectors));
  const ternary = group.filter((one) => one.kind === 'ternary');
  if (ternary.length > 0) found.push(ternaryVerdict(role, ternary));
  const floats = group.filter((one) => one.kind === 'dense');
  const dense = floats.filter(({ hasBlockScales }) => !hasBlockScales);
  const inBlocks = floats.filter(({ hasBlockScales }) => hasBlockScales);
  if (inBlocks.length > 0) found.push(blocksVerdict(role, inBlocks, ternary.length + dense.length));
  if (dense.length > 0) {
    found.push(isTable(dense[0].tensor.name) ? tableVerdict(role, dense) : denseVerdict(role, dense, isTernaryOnly));
  }
  return found;
}

function typesOf(group: readonly TensorCensus[]): string {
  return [...new Set(group.map(({ tensor }) => tensor.dtype.name))].join(' and ');
}

function vectorVerdict(role: string, group: readonly VectorCensus[]): Verdict {
  const [least] = ends(group.map((one) => one.least));
  const [, greatest] = ends(group.map((one) => one.greatest));
  const fact = `${group.length} ${typesOf(group)}, ${number(least)} to ${number(greatest)}`;
  // Scales, rope factors and biases may be anything.
  if (!role.includes('norm')) return ok(role, fact);
  const zero = group.find((one) => one.least === 0 && one.greatest === 0);
  if (zero !== undefined) return bad(role, `${zero.tensor.name} is all zeros: its layer is dead`, AGAIN);
  if (least === 1 && greatest === 1 && group[0].tensor.elements > 1) {
    const isSub = role.includes('sub_norm');
    const finding = 'all gains are exactly 1, which no training leaves: they were lost';
    return isSub ? bad(role, finding, CONVERT) : warn(role, finding, CONVERT);
  }
  return ok(role, fact);
}

function ternaryVerdict(role: string, group: readonly TernaryCensus[]): Verdict {
  const sum = (key: 'minus' | 'zero' | 'plus') => group.reduce((total, one) => total + one[key], 0);
  const [minus, zero, plus] = [sum('minus'), sum('zero'), sum('plus')];
  const all = minus + zero + plus;
  const zeros = group.map((one) => one.zero / (one.minus + one.zero + one.plus));
  const scales = group.map(({ scale }) => scale);
  const fact =
    `${group.length} ${typesOf(group)}: -1 ${percent(minus / all)}, 0 ${percent(zero / all)}, +1 ${percent(plus / all)}` +
    (group.length > 1 ? ` (zeros ${ends(zeros).map(percent).join(' to ')})` : '') +
    `, scale ${range(scales)}`;
  for (const one of group) {
    const problem = codesProblem(one);
    if (problem !== undefined) return { ...problem, what: role };
  }
  const middle = median(scales);
  const outlier = group.find(({ scale }) => scale > SCALE_OUTLIER * middle || scale * SCALE_OUTLIER < middle);
  if (outlier !== undefined) {
    const finding = `${outlier.tensor.name} has scale ${number(outlier.scale)}, the median of its role is ${number(middle)}`;
    return warn(role, finding, '"bitnet verify" tells whether the model still speaks');
  }
  return ok(role, fact);
}

/** What is wrong with the codes of one tensor. Small tensors may be off balance by chance. */
function codesProblem({ tensor, minus, zero, plus, scale }: TernaryCensus): Verdict | undefined {
  const { name } = tensor;
  const all = minus + zero + plus;
  const zeros = zero / all;
  const signs = minus + plus;
  if (scale > ABSURD_SCALE) return bad(name, `${name} has scale ${number(scale)}`, AGAIN);
  if (zeros > ZEROS.impossiblyMany) return bad(name, `${name} is ${percent(zeros)} zeros: nothing passes`, AGAIN);
  if (zeros < ZEROS.impossiblyFew) {
    const what = `${name} has ${zero === 0 ? 'no' : 'next to no'} zeros: real-valued weights of which only the signs were kept`;
    return bad(name, what, CONVERT);
  }
  const imbalance = Math.abs(plus - minus) / signs;
  const off = `${name} is off balance: -1 ${percent(minus / all)}, +1 ${percent(plus / all)}`;
  const chance = 6 / Math.sqrt(signs);
  if (imbalance > IMBALANCE.impossible + chance) return bad(name, `${off}: these are not trits of two bits`, AGAIN);
  if (imbalance > IMBALANCE.odd + chance)
    return warn(name, off, '"bitnet verify" tells whether the model still speaks');
  if (zeros < ZEROS.least || zeros > ZEROS.most) {
    return warn(name, `${name} has ${percent(zeros)} zeros`, '"bitnet verify" tells whether the model still speaks');
  }
  return undefined;
}

/** A scale for each block is how some models are; that of one layer and not of the others is damage. */
function blocksVerdict(role: string, group: readonly TensorCensus[], nOthers: number): Verdict {
  const fact = `${group.length} ${typesOf(group)}`;
  if (nOthers === 0) return ok(role, `${fact}, a scale for each block: run dense, kept as Q8_0`);
  return bad(role, `${fact}: block scales differ (${group[0].tensor.name}), and not in the other layers`, AGAIN);
}

function denseVerdict(role: string, group: readonly DenseCensus[], isTernaryOnly: boolean): Verdict {
  const worst = group.reduce((a, b) => (b.distance > a.distance ? b : a));
  const fact = `${group.length} ${typesOf(group)}, distance from ternary ${worst.distance.toFixed(4)}`;
  if (worst.distance <= CLEARLY_TERNARY) return ok(role, `${fact}: ternary in truth`);
  const finding = `${fact} (${worst.tensor.name})`;
  if (worst.distance <= FAR_FROM_TERNARY) {
    return warn(role, `${finding}: near ternary, a copy in few bits; it runs as it is, slower and larger`, CONVERT);
  }
  const saved = isTernaryOnly ? ', saved as if it were an ordinary model' : '';
  return bad(role, `${finding}: not ternary${saved}; loading refuses it without --allow-dense`, CONVERT);
}

function tableVerdict(role: string, group: readonly DenseCensus[]): Verdict {
  const { tensor, zeroRows } = group[0];
  const rows = tensor.elements / tensor.shape[0];
  const fact = `${tensor.dtype.name}, ${rows} rows of ${tensor.shape[0]}, all finite`;
  if (zeroRows === rows) return bad(role, `${fact}: all zeros`, AGAIN);
  // A few unused tokens are common; holes of this size are a file that was written in part.
  if (zeroRows > rows / 4) return warn(role, `${zeroRows} of ${rows} rows are zeros`, AGAIN);
  return ok(role, zeroRows === 0 ? `${fact}, none zero` : `${fact}, ${zeroRows} zero (unused tokens)`);
}

/** What all scales of a file say together. */
function scaleVerdicts(ternary: readonly TernaryCensus[]): Verdict[] {
  if (ternary.length === 0) return [];
  const scales = ternary.map(({ scale }) => scale);
  const middle = median(scales);
  const fact = `${scales.length} scales, ${range(scales)}, median ${number(middle)}`;
  if (scales.every((scale) => scale === 1)) {
    return [bad('scales', 'every scale is exactly 1: the converter lost them (known of TL1 and TL2 files)', CONVERT)];
  }
  if (middle > INVERTED_SCALE) {
    const todo =
      'if it does not speak: the converter multiplied where it should have divided; convert again with "bitnet convert"';
    return [warn('scales', `${fact}: as large as 1 / mean |W|, so probably upside down`, todo)];
  }
  return [ok('scales', `${fact}; all finite and positive`)];
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

function range(values: readonly number[]): string {
  const [least, greatest] = ends(values);
  return least === greatest ? number(least) : `${number(least)} to ${number(greatest)}`;
}

/** Least and greatest; not by spreading, as a file may have more tensors than a call takes arguments. */
function ends(values: readonly number[]): [least: number, greatest: number] {
  return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
}

function number(value: number): string {
  return `${Number(value.toPrecision(3))}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.01 && share > 0 ? 2 : 0)} %`;
}
