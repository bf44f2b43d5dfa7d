/**
 * A second opinion: the graphs in float64, written from the formulas (BitNet b1.58, llama, Qwen3 and Gemma 3 with the norms
 * of BitNet-embedding) without looking at the kernels. Weights are decoded to doubles, sums run in plain order, `Math.*` does the rest.
 *
 * Two roundings are part of the models' meaning and are kept: activations to int8, and keys and values to the cache's type.
 */

import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { GgufFile } from '../../src/formats/gguf/types.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { f16ToNumber, numberToF16 } from '../../src/numeric/f16.ts';
import { decodeInto } from '../../src/tensors/decode.ts';

export interface Reference64Options {
  readonly kType: 'f32' | 'f16';
  readonly vType: 'f32' | 'f16';
}

type Vector = Float64Array<ArrayBuffer>;

/** Logits (ids, vocabulary) of the tokens, all at positions 0, 1, 2, ... */
export async function referenceLogits(
  file: Uint8Array,
  ids: readonly number[],
  options: Reference64Options,
): Promise<Float64Array> {
  return (await reference(file, ids, options)).logits;
}

/** Rows (ids, hidden) after the final norm: what embeddings are made of. */
export async function referenceHidden(
  file: Uint8Array,
  ids: readonly number[],
  options: Reference64Options,
): Promise<Float64Array> {
  return (await reference(file, ids, options)).hidden;
}

async function reference(
  file: Uint8Array,
  ids: readonly number[],
  { kType, vType }: Reference64Options,
): Promise<{ logits: Float64Array; hidden: Float64Array }> {
  const gguf = await openGguf(memorySource(file));
  const a = gguf.getString('general.architecture');
  const uint = (key: string) => gguf.getUint(`${a}.${key}`);
  const [hidden, nLayers, ffn] = [uint('embedding_length'), uint('block_count'), uint('feed_forward_length')];
  const [nHeads, nKv] = [uint('attention.head_count'), uint('attention.head_count_kv')];
  const headDim = gguf.findUint(`${a}.attention.key_length`) ?? hidden / nHeads;
  const eps = gguf.getFloat(`${a}.attention.layer_norm_rms_epsilon`);
  const theta = gguf.getFloat(`${a}.rope.freq_base`);
  const tensors = await readAll(gguf);
  const tensor = (name: string) => {
    const found = tensors.get(name);
    if (found === undefined) throw new Error(`no ${name}`);
    return found;
  };
  const table = tensor('token_embd.weight');
  const head = !a.startsWith('bitnet') && tensors.has('output.weight') ? tensor('output.weight') : table;
  const isLlama = a === 'llama';
  const activate = ACTIVATIONS[a] ?? silu;
  const toK = kType === 'f16' ? roundToHalf : Math.fround;
  const toV = vType === 'f16' ? roundToHalf : Math.fround;
  const keys: Vector[][] = Array.from({ length: nLayers }, () => []);
  const values: Vector[][] = Array.from({ length: nLayers }, () => []);
  const out: number[] = [];
  const rows: number[] = [];

  ids.forEach((id, position) => {
    let x = table.slice(id * hidden, (id + 1) * hidden);
    if (a === 'gemma3') x = x.map((value) => value * Math.sqrt(hidden));
    for (let layer = 0; layer < nLayers; layer++) {
      const t = (name: string) => tensor(`blk.${layer}.${name}.weight`);
      // Every norm below but the two that all models have is there if its tensor is.
      const normed = (v: Vector, name: string) => {
        const gains = tensors.get(`blk.${layer}.${name}.weight`);
        return gains === undefined ? v : norm(v, gains, eps);
      };
      const linear = (name: string, v: Vector) => bitLinear(t(name), normed(v, `${name}_norm_in`));
      const heads = (name: string, v: Vector) =>
        Float64Array.from(
          Array.from({ length: v.length / headDim }, (_, i) =>
            Array.from(normed(v.slice(i * headDim, (i + 1) * headDim), `${name}_norm`)),
          ).flat(),
        );
      let h = norm(x, t('attn_norm'), eps);
      const q = rotate(heads('attn_q', linear('attn_q', h)), headDim, position, theta, isLlama);
      const k = rotate(heads('attn_k', linear('attn_k', h)), headDim, position, theta, isLlama);
      keys[layer].push(k.map(toK));
      values[layer].push(linear('attn_v', h).map(toV));
      const attended = attention(q, keys[layer], values[layer], nHeads, nKv, headDim);
      const mixed = linear('attn_output', normed(attended, 'attn_sub_norm'));
      x = sum(x, normed(mixed, 'post_attention_norm'));
      h = norm(x, t('ffn_norm'), eps);
      const up = linear('ffn_up', h);
      const f = linear('ffn_gate', h).map((g, i) => activate(g) * up[i]);
      if (f.length !== ffn) throw new Error('ffn');
      x = sum(x, normed(linear('ffn_down', normed(f, 'ffn_sub_norm')), 'post_ffw_norm'));
    }
    const last = norm(x, tensor('output_norm.weight'), eps);
    rows.push(...last);
    for (let row = 0; row < head.length / hidden; row++) out.push(dot(head, row * hidden, last));
  });
  return { logits: Float64Array.from(out), hidden: Float64Array.from(rows) };
}

const silu = (x: number) => x / (1 + Math.exp(-x));
const ACTIVATIONS: Record<string, (x: number) => number> = {
  'bitnet-b1.58': (x) => Math.max(x, 0) ** 2,
  gemma3: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

async function readAll(gguf: GgufFile): Promise<Map<string, Vector>> {
  const tensors = new Map<string, Vector>();
  for (const tensor of gguf.tensors) {
    const bytes = new Uint8Array(tensor.byteLength);
    await tensor.source.readInto(bytes, tensor.offsetBytes);
    const decoded = new Float32Array(tensor.elements);
    decodeInto(tensor.dtype, bytes, 0, tensor.elements, decoded);
    tensors.set(tensor.name, Float64Array.from(decoded));
  }
  return tensors;
}

function roundToHalf(x: number): number {
  return f16ToNumber(numberToF16(x));
}

function dot(weights: Vector, at: number, x: Vector): number {
  let total = 0;
  for (let i = 0; i < x.length; i++) total += weights[at + i] * x[i];
  return total;
}

function sum(a: Vector, b: Vector): Vector {
  return a.map((value, i) => value + b[i]);
}

function norm(x: Vector, gain: Vector, eps: number): Vector {
  const mean = x.reduce((total, value) => total + value * value, 0) / x.length;
  return x.map((value, i) => (value / Math.sqrt(mean + eps)) * gain[i]);
}

/** y = W x with x rounded to 127 steps of its largest magnitude on either side. */
function bitLinear(weights: Vector, x: Vector): Vector {
  const scale = 127 / Math.max(1e-5, ...x.map(Math.abs));
  const codes = x.map((value) => {
    const scaled = value * scale;
    const rounded = Math.round(scaled);
    return Math.abs(scaled - Math.trunc(scaled)) === 0.5 ? 2 * Math.round(scaled / 2) : rounded;
  });
  return Float64Array.from(
    { length: weights.length / x.length },
    (_, row) => dot(weights, row * x.length, codes) / scale,
  );
}

function rotate(x: Vector, headDim: number, position: number, theta: number, neighbours: boolean): Vector {
  const y = x.slice();
  const half = headDim / 2;
  for (let head = 0; head < x.length; head += headDim) {
    for (let i = 0; i < half; i++) {
      const angle = position * theta ** ((-2 * i) / headDim);
      const first = head + (neighbours ? 2 * i : i);
      const second = neighbours ? first + 1 : first + half;
      y[first] = x[first] * Math.cos(angle) - x[second] * Math.sin(angle);
      y[second] = x[first] * Math.sin(angle) + x[second] * Math.cos(angle);
    }
  }
  return y;
}

function attention(q: Vector, keys: Vector[], values: Vector[], nHeads: number, nKv: number, headDim: number): Vector {
  const out = new Float64Array(nHeads * headDim);
  for (let head = 0; head < nHeads; head++) {
    const kv = Math.floor(head / (nHeads / nKv)) * headDim;
    const query = q.subarray(head * headDim, (head + 1) * headDim);
    const scores = keys.map((key) => dot(key, kv, query) / Math.sqrt(headDim));
    const max = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - max));
    const total = weights.reduce((s, w) => s + w, 0);
    for (let d = 0; d < headDim; d++) {
      out[head * headDim + d] = weights.reduce((s, w, j) => s + w * values[j][kv + d], 0) / total;
    }
  }
  return out;
}

/** Root mean square of the difference over that of the reference. */
export function relativeRms(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < want.length; i++) {
    difference += (got[i] - want[i]) ** 2;
    size += want[i] ** 2;
  }
  return Math.sqrt(difference / size);
}
