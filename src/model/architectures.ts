/**
 * The list of architectures: adding one is a graph, a row here and its tensors.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { bitnetForward } from './bitnet.ts';
import type { ArchitectureFacts, ModelConfig } from './config.ts';
import type { Forward } from './graph.ts';
import { llamaForward } from './llama.ts';
import { layerTensors, outerTensors, scaleTensors, subNormTensors, type TensorRule } from './tensors.ts';

export interface Architecture extends ArchitectureFacts {
  /** Why the activation is what it is, for `inspect`. */
  readonly activationReason: string;
  readonly forward: Forward;
  tensors(config: ModelConfig): TensorRule[];
}

function perLayer(c: ModelConfig, rules: (layer: number) => TensorRule[]): TensorRule[] {
  return Array.from({ length: c.nLayers }, (_, layer) => rules(layer)).flat();
}

const BITNET_158: Architecture = {
  activation: 'relu2',
  activationReason:
    'decided by the architecture: BitNet b1.58 2B4T uses squared ReLU (bitnet.cpp since July 2026 runs SiLU)',
  ropeStyle: 'neox',
  forward: bitnetForward,
  tensors: (c) => [
    ...outerTensors(c),
    // The first official upload carries a copy of the embedding under this name; the head is always tied.
    { name: 'output.weight', kind: 'ignored', shape: [c.hidden, c.vocabulary], optional: true },
    ...perLayer(c, (layer) => [...layerTensors(c, layer), ...subNormTensors(c, layer)]),
  ],
};

const BITNET: Architecture = {
  activation: 'silu',
  activationReason: 'decided by the architecture: 1bitLLM models use SiLU',
  ropeStyle: 'neox',
  forward: bitnetForward,
  tensors: (c) => [
    ...outerTensors(c),
    { name: 'output.weight', kind: 'ignored', shape: [c.hidden, c.vocabulary], optional: true },
    ...perLayer(c, (layer) => [...layerTensors(c, layer), ...subNormTensors(c, layer), ...scaleTensors(layer)]),
  ],
};

const LLAMA: Architecture = {
  activation: 'silu',
  activationReason: 'decided by the architecture: llama uses SiLU',
  ropeStyle: 'norm',
  forward: llamaForward,
  tensors: (c) => [
    ...outerTensors(c),
    { name: 'output.weight', kind: 'matrix', shape: [c.hidden, c.vocabulary], optional: true },
    ...perLayer(c, (layer) => layerTensors(c, layer)),
  ],
};

export const ARCHITECTURES: ReadonlyMap<string, Architecture> = new Map([
  ['bitnet-b1.58', BITNET_158],
  ['bitnet-25', BITNET_158],
  ['bitnet', BITNET],
  ['llama', LLAMA],
]);

export function architectureOf(name: string): Architecture {
  const found = ARCHITECTURES.get(name);
  if (found !== undefined) return found;
  throw new BitnetError('unsupported-architecture', 'this architecture is not supported', {
    where: 'general.architecture',
    expected: `one of ${[...ARCHITECTURES.keys()].join(', ')}`,
    got: name,
  });
}
