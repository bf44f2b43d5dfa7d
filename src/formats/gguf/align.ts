/**
 * Alignment of tensor data, for reader and writer.
 * @module
 */

/** Where `general.alignment` is missing. */
export const DEFAULT_ALIGNMENT = 32;

/** A power of two that fits the u32 it is stored in, as mainline demands. */
export function isAlignment(n: number): boolean {
  return Number.isInteger(n) && n > 0 && n <= 2 ** 31 && (n & (n - 1)) === 0;
}

/** The next multiple. By modulo: masks would wrap offsets at 2^31. */
export function roundUp(n: number, multiple: number): number {
  const rest = n % multiple;
  return rest === 0 ? n : n + multiple - rest;
}
