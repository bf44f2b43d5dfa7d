/**
 * A trace in the place of a model. What an op was is read off its name; what else decides its result (which activation, what
 * style and base of rope, which gain) is found by trying on the trace itself: whatever makes its outputs of its inputs.
 * @module
 */

import type { TraceOp } from '../../engine/types.ts';
import type { RopeStyle } from '../../kernels/interface.ts';
import { gatedGelu, gatedRelu2, gatedSilu } from '../../kernels/ts/activation.ts';
import { rope } from '../../kernels/ts/rope.ts';
import { createRopeAngles } from '../../model/rope-angles.ts';
import type { SourceRows, SourceTensor, TraceSource } from '../source.ts';
import type { Reference, ReferenceTensor } from './lockstep.ts';

/** Tokens at a time. */
const ROWS = 16;
/** Relative RMS within which a trace is explained by an op. */
const CLOSE = 1e-4;
const HEAD_DIMS = [64, 128, 96, 80, 256, 100, 32];
const BASES = [10000, 500000, 1000000, 1000042, 100000, 50000, 160000];
/** Inputs of ops that do not have one. */
const INPUTS: Partial<Record<TraceOp, number>> = { embed: 0, attention: 3, attentionWeights: 2, gatedSilu: 2, add: 2 };
const EPS = [1e-5, 1e-6, 1e-8, 1e-12, 0];

/** Tensors that both have, in the order of `a`. */
export function traceReference(a: TraceSource, b: TraceSource, tokens: number): Reference {
  return {
    isFixed: true,
    async *trace(_session, select, signal) {
      const names = new Set([...a.tensors.keys()].filter((name) => b.tensors.has(name)));
      const facts = new Map<string, Partial<ReferenceTensor>>();
      for (let first = 0; first < tokens; first += ROWS) {
        const rows = new Map<string, Float32Array>();
        for (const name of names) {
          signal?.throwIfAborted();
          const held = a.tensors.get(name)!;
          const [from, to] = [
            Math.max(first, held.position),
            Math.min(first + ROWS, tokens, held.position + held.rows),
          ];
          if (from >= to) continue;
          const count = Math.min(ROWS, tokens - first);
          const { data, known, resolution } = padded(
            await a.read(name, from, to - from),
            (from - first) * held.columns,
            count * held.columns,
          );
          const isWhole = known === undefined && !resolution;
          if (isWhole && data instanceof Float32Array) rows.set(name, data);
          const site = siteOf(held, names);
          const tensor: ReferenceTensor = {
            ...site,
            position: first,
            rows: count,
            data,
            ...(known === undefined ? {} : { known }),
            ...(resolution === undefined ? {} : { resolution }),
          };
          if (!select(tensor)) continue;
          const more = facts.get(name) ?? learnt(tensor, rows);
          if (Object.keys(more).length > 0) facts.set(name, more);
          yield { ...tensor, ...more };
        }
      }
    },
  };
}

/** Rows of a pass, of which the trace may have some only. */
function padded(read: SourceRows, at: number, length: number): SourceRows {
  if (at === 0 && read.data.length === length) return read;
  const data = new Float32Array(length);
  const known = new Uint8Array(length);
  data.set(read.data, at);
  known.set(read.known ?? new Uint8Array(read.data.length).fill(1), at);
  return { ...read, data, known };
}

/** What the name tells. Inputs that the traces lack are looked for further back. */
function siteOf({ name, type, columns }: SourceTensor, names: ReadonlySet<string>) {
  const { op, inputs } = shapeOf(name, names);
  const found = inputs.filter((input) => names.has(input));
  const layer = /^blk\.(\d+)\./.exec(name)?.[1];
  return {
    name,
    type,
    columns,
    op,
    inputs: found,
    facts: {},
    hasGaps: found.length < (INPUTS[op] ?? 1),
    ...(layer === undefined ? {} : { layer: Number(layer) }),
  };
}

function shapeOf(name: string, names: ReadonlySet<string>): { op: TraceOp; inputs: readonly string[] } {
  const [, block = '', tail = name] = /^(blk\.\d+\.)?(.*)$/.exec(name) ?? [];
  const layer = Number(/\d+/.exec(block)?.[0] ?? 0);
  /** The first of these that the traces have. */
  const first = (...list: readonly string[]): readonly string[] => {
    const found = list.find((one) => names.has(one));
    return found === undefined ? [] : [found];
  };
  const here = (...list: readonly string[]) => first(...list.map((one) => block + one));
  const stream = layer === 0 ? first('embd_scaled', 'embd') : first(`blk.${layer - 1}.out`);
  const coded = (...list: readonly string[]) => {
    const [source] = here(...list);
    if (source === undefined) return [];
    return names.has(`${source}.codes`) ? [`${source}.codes`, `${source}.scales`] : [source];
  };
  if (tail.endsWith('.codes') || tail.endsWith('.scales')) {
    return { op: 'quantizeRows', inputs: first(name.replace(/\.(codes|scales)$/, '')) };
  }
  if (tail.endsWith('.acc')) {
    return { op: 'acc', inputs: shapeOf(name.replace(/\.acc$/, ''), names).inputs.slice(0, 1) };
  }
  switch (tail) {
    case 'embd':
      return { op: 'embed', inputs: [] };
    case 'embd_scaled':
      return { op: 'scale', inputs: first('embd') };
    case 'attn_norm':
      return { op: 'rmsNorm', inputs: stream };
    case 'attn_q':
    case 'attn_k':
    case 'attn_v':
      return { op: 'ternaryMatmul', inputs: coded(`${tail}_norm_in`, 'attn_norm') };
    case 'attn_q_norm':
    case 'attn_k_norm':
      return { op: 'rmsNorm', inputs: here(tail.replace(/_norm$/, '')) };
    case 'attn_q_rope':
    case 'attn_k_rope':
      return { op: 'rope', inputs: here(tail.replace('rope', 'norm'), tail.replace('_rope', '')) };
    case 'attn_q_scaled':
      return { op: 'scale', inputs: here('attn_q_rope') };
    case 'attn':
      return {
        op: 'attention',
        inputs: [...here('attn_q_scaled', 'attn_q_rope'), ...here('attn_k_rope'), ...here('attn_v')],
      };
    case 'attn_weights':
      return { op: 'attentionWeights', inputs: [...here('attn_q_scaled', 'attn_q_rope'), ...here('attn_k_rope')] };
    case 'attn_sub_norm':
    case 'attn_output_norm_in':
      return { op: 'rmsNorm', inputs: here('attn') };
    case 'attn_output':
      return { op: 'ternaryMatmul', inputs: coded('attn_sub_norm', 'attn_output_norm_in', 'attn') };
    case 'post_attention_norm':
      return { op: 'rmsNorm', inputs: here('attn_output') };
    case 'attn_residual':
      return { op: 'add', inputs: [...stream, ...here('post_attention_norm', 'attn_output')] };
    case 'ffn_norm':
      return { op: 'rmsNorm', inputs: here('attn_residual') };
    case 'ffn_gate':
    case 'ffn_up':
      return { op: 'ternaryMatmul', inputs: coded(`${tail}_norm_in`, 'ffn_norm') };
    case 'ffn_act':
      return { op: 'gatedSilu', inputs: [...here('ffn_gate'), ...here('ffn_up')] };
    case 'ffn_sub_norm':
    case 'ffn_down_norm_in':
      return { op: 'rmsNorm', inputs: here('ffn_act') };
    case 'ffn_down':
      return { op: 'ternaryMatmul', inputs: coded('ffn_sub_norm', 'ffn_down_norm_in', 'ffn_act') };
    case 'post_ffw_norm':
      return { op: 'rmsNorm', inputs: here('ffn_down') };
    case 'out':
      return { op: 'add', inputs: [...here('attn_residual'), ...here('post_ffw_norm', 'ffn_down')] };
    case 'output_norm': {
      const outs = [...names].filter((one) => /^blk\.\d+\.out$/.test(one));
      return { op: 'rmsNorm', inputs: outs.slice(-1) };
    }
    case 'logits':
      return { op: 'denseMatmul', inputs: first('output_norm') };
    default:
      if (/_norm_in$/.test(tail)) return { op: 'rmsNorm', inputs: here(/^ffn/.test(tail) ? 'ffn_norm' : 'attn_norm') };
      return { op: 'denseMatmul', inputs: [] };
  }
}

/** What the trace's own numbers tell of the op. */
function learnt(tensor: ReferenceTensor, rows: ReadonlyMap<string, Float32Array>): Partial<ReferenceTensor> {
  const { op, data, columns, inputs } = tensor;
  const [x, y] = inputs.map((name) => rows.get(name));
  if (!(data instanceof Float32Array) || x === undefined || tensor.known !== undefined) return {};
  if (op === 'gatedSilu' && y !== undefined) {
    const acts = [
      ['gatedSilu', gatedSilu],
      ['gatedRelu2', gatedRelu2],
      ['gatedGelu', gatedGelu],
    ] as const;
    const made = new Float32Array(x.length);
    const found = acts.find(([, act]) => {
      act(made, x, y, x.length);
      return isClose(made, data);
    });
    return found === undefined ? {} : { op: found[0] };
  }
  if (op === 'rope' && x.length === data.length) return ropeFacts(tensor, x, data);
  if (op === 'rmsNorm' && x.length === data.length) return gainOf(x, data, columns);
  return {};
}

function ropeFacts(tensor: ReferenceTensor, x: Float32Array, data: Float32Array): Partial<ReferenceTensor> {
  const { columns, rows, position } = tensor;
  // Position 0 turns nothing: any guess would do.
  if (position + rows < 2) return {};
  for (const headDim of HEAD_DIMS.filter((dim) => columns % dim === 0)) {
    for (const ropeBase of BASES) {
      const angles = new Float32Array(rows * headDim);
      const write = createRopeAngles({ headDim, ropeBase, ropeFactor: 1 }, undefined);
      for (let row = 0; row < rows; row++) write(angles, row, position + row);
      for (const style of ['neox', 'norm'] as readonly RopeStyle[]) {
        const made = Float32Array.from(x);
        rope(made, angles, columns / headDim, headDim, style, rows);
        if (isClose(made, data)) return { facts: { style, headDim, nHeads: columns / headDim, ropeBase } };
      }
    }
  }
  return {};
}

/** The gain that makes the rows of `data` of those of `x`, and the eps for which it is the same in all of them. */
function gainOf(x: Float32Array, data: Float32Array, columns: number): Partial<ReferenceTensor> {
  let best: { eps: number; gain: Float32Array; error: number } | undefined;
  for (const eps of EPS) {
    const gain = new Float32Array(columns);
    const made = new Float32Array(x.length);
    for (let at = 0; at < x.length; at += columns) {
      const row = x.subarray(at, at + columns);
      const r = 1 / Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / columns + eps);
      for (let i = 0; i < columns; i++) {
        if (at === 0) gain[i] = row[i] === 0 ? 1 : data[i] / (row[i] * r);
        made[at + i] = row[i] * r * gain[i];
      }
    }
    const error = apart(made, data);
    if (best === undefined || error < best.error) best = { eps, gain, error };
  }
  if (best === undefined || best.error > CLOSE) return {};
  const { gain, eps } = best;
  return { gain: async () => gain, facts: { eps } };
}

function isClose(a: Float32Array, b: Float32Array): boolean {
  return apart(a, b) <= CLOSE;
}

function apart(a: Float32Array, b: Float32Array): number {
  let [error, size] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    error += (a[i] - b[i]) ** 2;
    size += b[i] * b[i];
  }
  return size === 0 ? 0 : Math.sqrt(error / size);
}
