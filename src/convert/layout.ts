/**
 * A GGUF file of a model, before its numbers: hyper-parameters as metadata and the list of tensors, as the official
 * files have them. Shared by everything that writes models.
 * @module
 */

import type { GgufValue } from '../formats/gguf/types.ts';
import { stringValue } from '../formats/gguf/writer.ts';
import { architectureOf } from '../model/architectures.ts';
import { type ModelConfig, POOLINGS } from '../model/config.ts';
import { EMBEDDING, HEAD, isTable } from '../model/tensors.ts';
import { type LinearType, linearTypes } from './types.ts';

export type Metadata = [key: string, value: GgufValue][];

export function u32(value: number): GgufValue {
  return { type: 'u32', value };
}

export function f32(value: number): GgufValue {
  return { type: 'f32', value: Math.fround(value) };
}

export function bool(value: boolean): GgufValue {
  return { type: 'bool', value };
}

/** Hyper-parameters under llama.cpp's keys, in the order of the official 2B-4T file. */
export function modelMetadata(c: ModelConfig, linearType: LinearType): Metadata {
  const a = c.architecture;
  const metadata: Metadata = [
    ['general.architecture', stringValue(a)],
    ['general.name', stringValue(c.name)],
    [`${a}.vocab_size`, u32(c.vocabulary)],
    [`${a}.context_length`, u32(c.contextLength)],
    [`${a}.embedding_length`, u32(c.hidden)],
    [`${a}.block_count`, u32(c.nLayers)],
    [`${a}.feed_forward_length`, u32(c.ffn)],
    [`${a}.rope.dimension_count`, u32(c.headDim)],
    [`${a}.attention.head_count`, u32(c.nHeads)],
    [`${a}.attention.head_count_kv`, u32(c.nKvHeads)],
    [`${a}.attention.layer_norm_rms_epsilon`, f32(c.rmsEps)],
    [`${a}.rope.freq_base`, f32(c.ropeBase)],
  ];
  // Only where they do not follow from the rest: bitnet.cpp's older loaders ignore them.
  if (c.headDim * c.nHeads !== c.hidden) {
    metadata.push([`${a}.attention.key_length`, u32(c.headDim)], [`${a}.attention.value_length`, u32(c.headDim)]);
  }
  if (c.pooling !== undefined) metadata.push([`${a}.pooling_type`, u32(POOLINGS.indexOf(c.pooling))]);
  if (c.ropeFactor !== 1) {
    metadata.push([`${a}.rope.scaling.type`, stringValue('linear')], [`${a}.rope.scaling.factor`, f32(c.ropeFactor)]);
  }
  metadata.push(['general.file_type', u32(linearTypes[linearType])]);
  return metadata;
}

/** What becomes of a tensor: `linear` matrices are ternary, `embedding` ones (and the head) are not. */
export type Role = 'embedding' | 'linear' | 'vector';

export interface PlannedTensor {
  readonly name: string;
  readonly role: Role;
  /** In ne order. */
  readonly shape: readonly number[];
  readonly elements: number;
}

/** All tensors of a model in file order: embedding, layers, final norm, and the head if it has one. */
export function planTensors(c: ModelConfig, ownHead: boolean): PlannedTensor[] {
  const wanted = architectureOf(c.architecture)
    .tensors(c)
    // Norms before projections are optional because an ordinary model of the architecture has none; a ternary one has them.
    .filter((rule) => rule.optional !== true || rule.together !== undefined || (ownHead && rule.name === HEAD));
  const place = ({ name }: { name: string }) =>
    name === EMBEDDING ? 0 : name.startsWith('blk.') ? 1 : name === 'output_norm.weight' ? 2 : 3;
  return wanted
    .sort((a, b) => place(a) - place(b))
    .map(({ name, kind, shape }) => ({
      name,
      role: kind === 'vector' ? 'vector' : isTable(name) ? 'embedding' : 'linear',
      shape,
      elements: shape.reduce((product, extent) => product * extent, 1),
    }));
}

/** The type of a model's gains: the converter of embedding models writes halves, all others write F32. */
export function vectorType({ pooling }: ModelConfig): 'F32' | 'F16' {
  return pooling === undefined ? 'F32' : 'F16';
}

/** Whether a model of this architecture may have a head of its own at all. */
export function mayHaveHead(c: ModelConfig): boolean {
  return architectureOf(c.architecture)
    .tensors(c)
    .some(({ name, kind }) => name === HEAD && kind === 'matrix');
}
