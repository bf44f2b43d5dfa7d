/**
 * A second opinion: the three graphs in float64, written from the formulas (BitNet b1.58, llama) without looking at the
 * kernels. Weights are decoded to doubles, sums run in plain order, `Math.*` does the rest.
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
  { kType, vType }: Reference64Options,
): Promise<Float64Array> {
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
  const head = a === 'llama' && tensors.has('output.weight') ? tensor('output.weight') : table;
  const isLlama = a === 'llama';
  const activate = a === 'bitnet-b1.58' ? (x: number) => Math.max(x, 0) ** 2 : (x: number) => x / (1 + Math.exp(-x));
  const toK = kType === 'f16' ? roundToHalf : Math.fround;
  const toV = vType === 'f16' ? roundToHalf : Math.fround;
  const keys: Vector[][] = Array.from({ length: nLayers }, () => []);
  const values: Vector[][] = Array.from({ length: nLayers }, () => []);
  const out: number[] = [];

  ids.forEach((id, position) => {
    let x = table.slice(id * hidden, (id + 1) * hidden);
    for (let layer = 0; layer < nLayers; layer++) {
      const t = (name: string) => tensor(`blk.${layer}.${name}.weight`);
      let h = norm(x, t('attn_norm'), eps);
      const q = rotate(bitLinear(t('attn_q'), h), headDim, position, theta, isLlama);
      const k = rotate(bitLinear(t('attn_k'), h), headDim, position, theta, isLlama);
      keys[layer].push(k.map(toK));
      values[layer].push(bitLinear(t('attn_v'), h).map(toV));
      let attended = attention(q, keys[layer], values[layer], nHeads, nKv, headDim);
      if (!isLlama) attended = norm(attended, t('attn_sub_norm'), eps);
      x = sum(x, bitLinear(t('attn_output'), attended));
      h = norm(x, t('ffn_norm'), eps);
      const up = bitLinear(t('ffn_up'), h);
      let f = bitLinear(t('ffn_gate'), h).map((g, i) => activate(g) * up[i]);
      if (f.length !== ffn) throw new Error('ffn');
      if (!isLlama) f = norm(f, t('ffn_sub_norm'), eps);
      x = sum(x, bitLinear(t('ffn_down'), f));
    }
    const last = norm(x, tensor('output_norm.weight'), eps);
    for (let row = 0; row < head.length / hidden; row++) out.push(dot(head, row * hidden, last));
  });
  return Float64Array.from(out);
}

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
