/** Mistakes, and other ways, of attention. @module */

import { softmaxTerms } from '../../../kernels/ts/attention.ts';
import { f16ToNumber, numberToF16 } from '../../../numeric/f16.ts';
import { type Alternative, DEFINITION, mistake, type Question, variant } from './question.ts';

const f = Math.fround;
const half = (value: number) => f16ToNumber(numberToF16(value));

/** Attention on other queries, keys or values of this pass, as the contract has it. */
export async function attend(question: Question): Promise<Float32Array | undefined> {
  const made = await maker(question);
  return made?.by({ k: made.k, v: made.v })();
}

interface Way {
  readonly q?: (value: number) => number;
  readonly k?: Float32Array;
  readonly v?: Float32Array;
  /** Of the softmax's terms over their sum. */
  readonly p?: (value: number) => number;
  readonly kvHead?: (head: number) => number;
  /** Positions that the token at `position` sees: from, to. */
  readonly sees?: (position: number, context: number) => readonly [number, number];
  readonly scale?: number;
}

async function maker({ tensor, inputs, rows }: Question) {
  const [q, keyRows, valueRows] = inputs;
  if (q === undefined || tensor.cache === undefined) return undefined;
  const { columns, position, rows: count } = tensor;
  const fact = (name: string) => Number(tensor.facts[name]);
  const [nHeads, nKvHeads, headDim] = [fact('nHeads'), fact('nKvHeads'), fact('headDim')];
  const group = nHeads / nKvHeads;
  const context = position + count;
  const cached = await tensor.cache();
  // As they were before the cache rounded them, as far as they were seen: those of this pass.
  const [k32, v32] = [whole(cached.k, keyRows), whole(cached.v, valueRows)];
  const isProbability = tensor.op === 'attentionWeights';
  const positions = columns / nHeads;

  function whole(old: Float32Array, given: Float32Array | undefined): Float32Array {
    const all = Float32Array.from(old);
    for (let row = 0; given !== undefined && row < count; row++) {
      for (let head = 0; head < nKvHeads; head++) {
        const from = (row * nKvHeads + head) * headDim;
        all.set(given.subarray(from, from + headDim), (head * context + position + row) * headDim);
      }
    }
    return all;
  }

  const by =
    ({ q: roundQ, k = cached.k, v = cached.v, p = (value) => value, kvHead, sees, scale = fact('scale') }: Way) =>
    () => {
      const out = new Float32Array(count * columns);
      const queries = roundQ === undefined ? q : q.map(roundQ);
      const weights = new Float32Array(context);
      for (const row of rows) {
        const [from, to] = sees?.(position + row, context) ?? [0, position + row + 1];
        for (let head = 0; head < nHeads; head++) {
          const start = (kvHead?.(head) ?? Math.floor(head / group)) * context * headDim;
          const keys = k.subarray(start + from * headDim, start + to * headDim);
          const at = (row * nHeads + head) * headDim;
          if (to <= from) continue;
          const total = softmaxTerms(weights, queries, at, keys, to - from, headDim, scale);
          if (isProbability) {
            for (let j = from; j < Math.min(to, positions); j++) {
              out[(row * nHeads + head) * positions + j] = weights[j - from] / total;
            }
            continue;
          }
          for (let j = 0; j < to - from; j++) weights[j] = p(weights[j] / total);
          for (let d = 0; d < headDim; d++) {
            let sum = 0;
            for (let j = 0; j < to - from; j++) sum = f(sum + f(weights[j] * v[start + (from + j) * headDim + d]));
            out[at + d] = sum;
          }
        }
      }
      return out;
    };

  return { by, k: k32, v: v32, cached };
}

export async function attentionAlternatives(question: Question): Promise<Alternative[]> {
  const { tensor, inputs } = question;
  const made = await maker(question);
  if (made === undefined) return [];
  const { by, k: k32, v: v32, cached } = made;
  const [k16, v16] = [k32.map(half), v32.map(half)];
  const fact = (name: string) => Number(tensor.facts[name]);
  const [nHeads, nKvHeads, headDim] = [fact('nHeads'), fact('nKvHeads'), fact('headDim')];
  const group = nHeads / nKvHeads;
  const scale = fact('scale');
  const scales = [
    { id: 'attention-scale-missing', says: 'scores not multiplied by 1 / sqrt(headDim)', scale: 1 },
    { id: 'attention-scale', says: 'scores divided by headDim, not by its root', scale: 1 / headDim },
    {
      id: 'attention-scale',
      says: 'scores divided by the root of the width, not of headDim',
      scale: 1 / Math.sqrt(nHeads * headDim),
    },
    {
      id: 'attention-scale',
      says: 'scores divided by the root of the width of the keys',
      scale: 1 / Math.sqrt(nKvHeads * headDim),
    },
    { id: 'attention-scale', says: 'scores multiplied by sqrt(headDim), not divided', scale: Math.sqrt(headDim) },
    {
      id: 'attention-scale-twice',
      says: 'scores scaled by 1 / sqrt(headDim) twice',
      scale: scale / Math.sqrt(headDim),
    },
  ].filter((other) => f(other.scale) !== f(scale));

  return [
    mistake('reference-differs', DEFINITION, by({})),
    variant('kv-f32', 'keys and values kept in f32', by({ k: k32, v: v32 })),
    variant('kv-f16', 'keys and values rounded to f16', by({ k: k16, v: v16 })),
    variant('k-f16', 'keys rounded to f16, values not', by({ k: k16, v: v32 })),
    variant('v-f16', 'values rounded to f16, keys not', by({ k: k32, v: v16 })),
    variant(
      'attention-f16',
      'queries, keys, values and probabilities rounded to f16, as llama.cpp multiplies them',
      by({ q: half, k: k16, v: v16, p: half }),
    ),
    variant('attention-q-f16', 'queries, keys and values rounded to f16', by({ q: half, k: k16, v: v16 })),
    ...mistakes(by, {}, ''),
    // Whoever errs may keep keys and values otherwise than the reference does, besides.
    ...(same(cached.k, k32) && same(cached.v, v32) ? [] : mistakes(by, { k: k32, v: v32 }, ', keys and values in f32')),
    ...(same(cached.k, k16) && same(cached.v, v16) ? [] : mistakes(by, { k: k16, v: v16 }, ', keys and values in f16')),
    ...(inputs[2] === undefined
      ? []
      : [mistake('attention-k-v-swapped', 'keys and values swapped', by({ k: v32, v: k32 }))]),
  ];

  function same(a: Float32Array, b: Float32Array): boolean {
    return a.every((value, i) => Object.is(value, b[i]));
  }

  function mistakes(of: typeof by, kept: Way, besides: string): Alternative[] {
    const wrong = (id: string, says: string, way: Way) => mistake(id, says + besides, of({ ...kept, ...way }));
    return [
      wrong('mask-ahead', 'causal mask off by one: a token sees the next one', {
        sees: (p, all) => [0, Math.min(p + 2, all)],
      }),
      wrong('mask-behind', 'causal mask off by one: a token does not see itself', { sees: (p) => [0, p] }),
      wrong('mask-missing', 'no causal mask: a token sees all of its batch', { sees: (_, all) => [0, all] }),
      wrong('mask-first', 'the first token of the sequence is not seen', { sees: (p) => [1, p + 1] }),
      wrong('attention-own-value', 'each token sees itself only', { sees: (p) => [p, p + 1] }),
      ...(group === 1
        ? []
        : [
            wrong('gqa-interleaved', `query head h reads key head h mod ${nKvHeads} in place of floor(h / ${group})`, {
              kvHead: (head) => head % nKvHeads,
            }),
            wrong('gqa-first', 'all query heads read key head 0', { kvHead: () => 0 }),
            wrong('gqa-reversed', 'key heads in reverse order', {
              kvHead: (head) => nKvHeads - 1 - Math.floor(head / group),
            }),
          ]),
      ...scales.map(({ id, says, scale: other }) => wrong(id, says, { scale: other })),
    ];
  }
}
