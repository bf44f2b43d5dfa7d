/**
 * What a model takes of a GPU's memory, as a line on stderr: who shares a card wants to know before the second model.
 * @module
 */

import type { Model, PlannedMemory } from '../engine/types.ts';
import { bytes, grouped } from './format.ts';

/** `1.10 GiB = weights 690.1 MiB + keys and values ...`. */
export function planText({ weightBytes, kvBytes, contextSize, scratchBytes, totalBytes }: PlannedMemory): string {
  return [
    `${bytes(totalBytes)} = weights ${bytes(weightBytes)}`,
    `keys and values ${bytes(kvBytes)} for ${grouped(contextSize)} positions`,
    `scratch ${bytes(scratchBytes)}`,
  ].join(' + ');
}

/** Undefined where the memory is the machine's own, which nobody has to share out. */
export function planLine({ backend, memoryPlan: plan }: Model): string | undefined {
  if (backend.name !== 'cuda' || plan === undefined) return undefined;
  return `memory: ${planText(plan)}, of ${bytes(plan.capacityBytes)} free on ${backend.variant}`;
}
