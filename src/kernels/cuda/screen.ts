/**
 * When `denseTopK` estimates first (DENSE_TOP_K of `commands.md`), and what it keeps of a matrix for that.
 * @module
 */

import { DENSE_CODE } from './abi.ts';
import type { CudaWeight } from './memory.ts';

/**
 * From so many rows on. All products of up to four rows take what reading the matrix takes, so there is nothing to win; those of five
 * to eight take the arithmetic of eight, which is more than reading it (`bench/cuda/NOTES.md`).
 */
const LEAST_ROWS = 5;

/** MAX_ESTIMATED_COLUMNS of `native/head_bound.cuh`: of longer rows the estimates are worth nothing. */
const MOST_COLUMNS = 1 << 18;

/** Whether estimates pay, and the library can make them: F32 it has none for, and columns come by 32. */
export function screens({ dtype, columns }: CudaWeight, n: number): boolean {
  return n >= LEAST_ROWS && dtype !== DENSE_CODE.F32 && columns % 32 === 0 && columns <= MOST_COLUMNS;
}

/** Floats of the index that DENSE_INDEX makes. */
export function indexLength({ rows }: CudaWeight): number {
  return 3 * rows;
}
