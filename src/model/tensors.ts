/**
 * Which tensors an architecture consists of, as data: role, name, shape. Loading looks names up here and reports all
 * that are missing and all that nobody knows in one error.
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
}

/** Rules of the tensors outside the layers. */
export function outerTensors(c: ModelConfig): TensorRule[] {
  return [
    { name: 'token_embd.weight', kind: 'matrix', shape: [c.hidden, c.vocabulary] },
    { name: 'output_norm.weight', kind: 'vector', shape: [c.hidden] },
    { name: 'rope_freqs.weight', kind: 'vector', shape: [c.headDim / 2], optional: true },
  ];
}

/** The seven projections and two norms that every architecture here has. */
export function layerTensors(c: ModelConfig, layer: number): TensorRule[] {
  const q = c.nHeads * c.headDim;
  const kv = c.nKvHeads * c.headDim;
  const at = (name: string) => `blk.${layer}.${name}.weight`;
  return [
    { name: at('attn_norm'), kind: 'vector', shape: [c.hidden] },
    { name: at('attn_q'), kind: 'matrix', shape: [c.hidden, q] },
    { name: at('attn_k'), kind: 'matrix', shape: [c.hidden, kv] },
    { name: at('attn_v'), kind: 'matrix', shape: [c.hidden, kv] },
    { name: at('attn_output'), kind: 'matrix', shape: [q, c.hidden] },
    { name: at('ffn_norm'), kind: 'vector', shape: [c.hidden] },
    { name: at('ffn_gate'), kind: 'matrix', shape: [c.hidden, c.ffn] },
    { name: at('ffn_up'), kind: 'matrix', shape: [c.hidden, c.ffn] },
    { name: at('ffn_down'), kind: 'matrix', shape: [c.ffn, c.hidden] },
  ];
}

/** BitNet's extra norms before the output and the down projection. */
export function subNormTensors(c: ModelConfig, layer: number): TensorRule[] {
  return [
    { name: `blk.${layer}.attn_sub_norm.weight`, kind: 'vector', shape: [c.nHeads * c.headDim] },
    { name: `blk.${layer}.ffn_sub_norm.weight`, kind: 'vector', shape: [c.ffn] },
  ];
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
  for (const rule of rules) {
    const tensor = gguf.findTensor(rule.name);
    if (tensor === undefined) {
      if (rule.optional !== true) missing.push(rule.name);
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
