/**
 * The list of architectures: adding one is a file of `architectures/`, which holds its graph, its table of tensors and its
 * facts, and a row here.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { bitnet, bitnet158 } from './architectures/bitnet.ts';
import { gemma3 } from './architectures/gemma3.ts';
import { llama } from './architectures/llama.ts';
import { qwen3 } from './architectures/qwen3.ts';
import type { Architecture } from './graph.ts';

export type { Architecture } from './graph.ts';

export const ARCHITECTURES: ReadonlyMap<string, Architecture> = new Map([
  ['bitnet-b1.58', bitnet158],
  ['bitnet-25', bitnet158],
  ['bitnet', bitnet],
  ['llama', llama],
  ['qwen3', qwen3],
  ['gemma3', gemma3],
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
