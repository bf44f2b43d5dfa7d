/**
 * Which tensors an architecture consists of, as data: role, name, shape. Loading follows the table of the architecture
 * (`architectures/`) and reports all that are missing and all that nobody knows in one error.
 *
 * Shapes are in ne order: (K input features, M output features).
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { GgufFile, GgufTensor } from '../formats/gguf/types.ts';
import type { ModelConfig } from './config.ts';

/** A matrix multiplies, a vector is a gain; `ignored` tensors are known, checked for shape and not loaded. */
export type TensorKind = 'matrix' | 'vector' | 'ignored';

export interface TensorRule {
  readonly name: string;
  readonly kind: TensorKind;
  readonly shape: readonly number[];
  readonly optional?: boolean;
  /** Optional ones of one name come together: a file that has one of them without the others is damaged. */
  readonly together?: string;
  /** Of a part of a layer: which layer, and its name there, `attn_q`. */
  readonly part?: { readonly layer: number; readonly name: string };
}

export const EMBEDDING = 'token_embd.weight';
/** Absent where the head is the embedding. */
export const HEAD = 'output.weight';

/** Embedding and head: their rows meet float activations, whatever their type. */
export function isTable(name: string): boolean {
  return name === EMBEDDING || name === HEAD;
}

/** Rules of the tensors outside the layers; the head besides. */
export function outerTensors(c: ModelConfig): TensorRule[] {
  return [
    { name: EMBEDDING, kind: 'matrix', shape: [c.hidden, c.vocabulary] },
    { name: 'output_norm.weight', kind: 'vector', shape: [c.hidden] },
    { name: 'rope_freqs.weight', kind: 'vector', shape: [c.headDim / 2], optional: true },
  ];
}

/** A head that is the embedding where the file has none. */
export function ownHead(c: ModelConfig): TensorRule {
  return { name: HEAD, kind: 'matrix', shape: [c.hidden, c.vocabulary], optional: true };
}

/** A head that some files have and nothing reads. */
export function unusedHead(c: ModelConfig): TensorRule {
  return { ...ownHead(c), kind: 'ignored' };
}

export function perLayer(c: ModelConfig, rules: (layer: number) => TensorRule[]): TensorRule[] {
  return Array.from({ length: c.nLayers }, (_, layer) => rules(layer)).flat();
}

/** A projection: `blk.N.<name>.weight` with K inputs and M outputs. */
export function layerMatrix(layer: number, name: string, columns: number, rows: number): TensorRule {
  return { name: `blk.${layer}.${name}.weight`, kind: 'matrix', shape: [columns, rows], part: { layer, name } };
}

/** A gain: `blk.N.<name>.weight`. */
export function layerGain(layer: number, name: string, length: number): TensorRule {
  return { name: `blk.${layer}.${name}.weight`, kind: 'vector', shape: [length], part: { layer, name } };
}

/** The seven projections and two norms that every architecture here has. */
export function layerTensors(c: ModelConfig, layer: number): TensorRule[] {
  const q = c.nHeads * c.headDim;
  const kv = c.nKvHeads * c.headDim;
  return [
    layerGain(layer, 'attn_norm', c.hidden),
    layerMatrix(layer, 'attn_q', c.hidden, q),
    layerMatrix(layer, 'attn_k', c.hidden, kv),
    layerMatrix(layer, 'attn_v', c.hidden, kv),
    layerMatrix(layer, 'attn_output', q, c.hidden),
    layerGain(layer, 'ffn_norm', c.hidden),
    layerMatrix(layer, 'ffn_gate', c.hidden, c.ffn),
    layerMatrix(layer, 'ffn_up', c.hidden, c.ffn),
    layerMatrix(layer, 'ffn_down', c.ffn, c.hidden),
  ];
}

/** BitNet-embedding's norms: every projection has one of its own before it, and a file has all of them or none. */
export function inputNorms(c: ModelConfig, layer: number): TensorRule[] {
  const q = c.nHeads * c.headDim;
  const gains = [
    layerGain(layer, 'attn_q_norm_in', c.hidden),
    layerGain(layer, 'attn_k_norm_in', c.hidden),
    layerGain(layer, 'attn_v_norm_in', c.hidden),
    layerGain(layer, 'attn_output_norm_in', q),
    layerGain(layer, 'ffn_gate_norm_in', c.hidden),
    layerGain(layer, 'ffn_up_norm_in', c.hidden),
    layerGain(layer, 'ffn_down_norm_in', c.ffn),
  ];
  return gains.map((rule) => ({ ...rule, optional: true, together: 'norms before projections' }));
}

/** Norms of the heads of queries and keys. */
export function headNorms(c: ModelConfig, layer: number): TensorRule[] {
  return [layerGain(layer, 'attn_q_norm', c.headDim), layerGain(layer, 'attn_k_norm', c.headDim)];
}

/** Scales kept apart from the weights, which some conversions of `bitnet` have: one factor a projection. */
export function scaleTensors(layer: number): TensorRule[] {
  const projections = ['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'];
  return projections.map((name) => ({
    name: `blk.${layer}.${name}.scale`,
    kind: 'vector',
    shape: [1],
    optional: true,
  }));
}

/** Pairs every rule with its tensor. Throws one error that lists everything missing, misshapen and unknown. */
export function matchTensors(gguf: GgufFile, rules: readonly TensorRule[]): Map<string, GgufTensor> {
  const known = new Set(rules.map((rule) => rule.name));
  const missing: string[] = [];
  const misshapen: string[] = [];
  const found = new Map<string, GgufTensor>();
  const begun = new Set(rules.map((rule) => (gguf.findTensor(rule.name) === undefined ? undefined : rule.together)));
  for (const rule of rules) {
    const tensor = gguf.findTensor(rule.name);
    if (tensor === undefined) {
      const isNeeded = rule.together === undefined ? rule.optional !== true : begun.has(rule.together);
      if (isNeeded) missing.push(rule.name);
    } else if (!sameShape(tensor.shape, rule.shape)) {
      misshapen.push(`${rule.name} expected (${rule.shape.join(', ')}), got (${tensor.shape.join(', ')})`);
    } else found.set(rule.name, tensor);
  }
  const unknown = gguf.tensors.filter((tensor) => !known.has(tensor.name)).map((tensor) => tensor.name);
  const problems = [
    list('missing', missing),
    list('wrong shape', misshapen),
    list('unknown to this architecture', unknown),
  ].filter((text) => text !== '');
  if (problems.length > 0) {
    const code = missing.length > 0 ? 'missing-tensor' : misshapen.length > 0 ? 'bad-tensor' : 'unused-tensor';
    throw new BitnetError(code, `tensors do not fit the architecture: ${problems.join('; ')}`, { where: gguf.label });
  }
  return found;
}

function sameShape(shape: readonly number[], expected: readonly number[]): boolean {
  // Trailing ones carry no meaning: (K) and (K, 1) are the same list of numbers.
  for (let i = 0; i < Math.max(shape.length, expected.length); i++) {
    if ((shape[i] ?? 1) !== (expected[i] ?? 1)) return false;
  }
  return true;
}

const LISTED = 12;

function list(what: string, names: readonly string[]): string {
  if (names.length === 0) return '';
  const more = names.length > LISTED ? `, and ${names.length - LISTED} more` : '';
  return `${what}: ${names.slice(0, LISTED).join(', ')}${more}`;
}
