/**
 * Floats that are about to become trits: what is said about them, and when they are refused.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { NEARLY_TERNARY, ternarinessOf } from '../tensors/ternariness.ts';
import type { FloatKind, FloatSurvey } from './weights.ts';

/** Tensors named in a refusal. */
const LISTED = 4;

/** A tensor and how far from ternary it is. */
export type Distance = readonly [name: string, distance: number];

/** `a.weight 0.431, b.weight 0.430 and 5 more`: the worst first. */
export function worstOf(distances: readonly Distance[]): string {
  const far = distances.filter(([, distance]) => distance > NEARLY_TERNARY).sort(([, a], [, b]) => b - a);
  const named = far.slice(0, LISTED).map(([name, distance]) => `${name} ${distance.toFixed(3)}`);
  const more = far.length > LISTED ? ` and ${far.length - LISTED} more` : '';
  return `${named.join(', ')}${more}, of ${distances.length}`;
}

/** Refuses projections that are not ternary, by samples of them. */
export function wantTernaryMaster(where: string, samples: readonly (readonly [string, Float32Array])[]): void {
  const distances = samples.map(([name, values]): Distance => [name, ternarinessOf(values).distance]);
  if (distances.every(([, distance]) => distance <= NEARLY_TERNARY)) return;
  throw new BitnetError('unsupported-type', 'this model does not say that it is ternary, and its weights are not', {
    where,
    expected: `projections whose distance from ternary is at most ${NEARLY_TERNARY}`,
    got: worstOf(distances),
    hint:
      'an ordinary model is destroyed by making it ternary; master weights of a ternary model that does not say so ' +
      'are converted with --force',
  });
}

/** What the floats of a model turned out to be, for the notes. */
export class FloatKinds {
  readonly #distances: Record<FloatKind, number[]> = { ternary: [], rounded: [], master: [] };

  add({ kind, ternariness }: FloatSurvey): void {
    this.#distances[kind].push(ternariness.distance);
  }

  notes(): string[] {
    const { ternary, rounded, master } = this.#distances;
    const notes: string[] = [];
    if (ternary.length > 0) notes.push(`${matrices(ternary)} ternary already: trits and scales are kept`);
    if (rounded.length > 0) {
      const worst = Math.max(...rounded).toFixed(4);
      notes.push(`${matrices(rounded)} ternary but for rounding (distance up to ${worst}): scales are fitted`);
    }
    if (master.length > 0) {
      const [least, most] = [Math.min(...master), Math.max(...master)].map((distance) => distance.toFixed(2));
      notes.push(
        `${matrices(master)} master weights, made ternary by their mean magnitude as in training; ` +
          `distance from ternary ${least === most ? least : `${least} to ${most}`}`,
      );
    }
    return notes;
  }
}

function matrices({ length }: readonly number[]): string {
  return length === 1 ? '1 matrix was' : `${length} matrices were`;
}
