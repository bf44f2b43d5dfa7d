/**
 * The cases of the conformance suite, as data. `run.ts` gives each op's case a meaning; here are only sizes, kinds and
 * seeds, chosen for remainders (no vector width divides them), real shapes, and inputs on which kernels go wrong.
 * @module
 */

import type { BlockTernaryName } from '../../tensors/dtype.ts';
import type { SmallType } from '../../tensors/requantize.ts';
import type { DenseType, KvType, RopeStyle } from '../interface.ts';
import type { TritKind, ValueKind } from './values.ts';

interface Common {
  readonly seed: number;
  /** Tokens. */
  readonly n: number;
}

export type ConformanceCase = Common &
  (
    | { readonly op: 'rmsNorm'; readonly columns: number; readonly kind: ValueKind }
    | { readonly op: 'quantizeRows'; readonly columns: number; readonly kind: ValueKind }
    | { readonly op: 'rmsNormQuantize'; readonly columns: number; readonly kind: ValueKind }
    | {
        readonly op: 'ternaryMatmul';
        readonly rows: number;
        readonly columns: number;
        readonly kind: ValueKind;
        readonly trits: TritKind;
      }
    | {
        /** Several matrices with the same input, one after the other, which a backend may take together. */
        readonly op: 'ternaryGroup';
        readonly rows: readonly number[];
        readonly columns: number;
      }
    | {
        readonly op: 'denseMatmul';
        readonly rows: number;
        readonly columns: number;
        readonly dtype: DenseType;
        readonly kind: ValueKind;
      }
    | {
        readonly op: 'denseTopK';
        readonly rows: number;
        readonly columns: number;
        readonly dtype: DenseType;
        readonly kind: ValueKind;
        readonly k: number;
      }
    | { readonly op: 'embed'; readonly rows: number; readonly columns: number; readonly dtype: DenseType }
    | {
        /** A ternary matrix given as the file has it, which a backend may repack by itself. */
        readonly op: 'repack';
        readonly rows: number;
        readonly columns: number;
        readonly dtype: BlockTernaryName;
      }
    | {
        /** A table of floats, kept as another type. */
        readonly op: 'requantize';
        readonly rows: number;
        readonly columns: number;
        readonly from: 'F32' | 'F16' | 'BF16';
        readonly dtype: SmallType;
        readonly kind: ValueKind;
      }
    | { readonly op: 'rope'; readonly nHeads: number; readonly headDim: number; readonly style: RopeStyle }
    | {
        readonly op: 'attention';
        readonly nHeads: number;
        readonly nKvHeads: number;
        readonly headDim: number;
        /** Positions that are in the cache before. */
        readonly before: number;
        readonly kType: KvType;
        readonly vType: KvType;
        readonly kind: ValueKind;
      }
    | {
        /** Heads of a row normalised each by itself, in place. */
        readonly op: 'headNorm';
        readonly nHeads: number;
        readonly headDim: number;
        readonly kind: ValueKind;
      }
    | { readonly op: 'gatedRelu2'; readonly columns: number; readonly kind: ValueKind }
    | { readonly op: 'gatedSilu'; readonly columns: number; readonly kind: ValueKind }
    | { readonly op: 'gatedGelu'; readonly columns: number; readonly kind: ValueKind }
    | { readonly op: 'scale'; readonly columns: number; readonly kind: ValueKind; readonly factor: number }
    | { readonly op: 'add'; readonly columns: number; readonly kind: ValueKind }
    | { readonly op: 'copyRows'; readonly columns: number }
  );

/** A name that tells everything, to find a case again. */
export function caseName({ op, ...facts }: ConformanceCase): string {
  const parts = Object.entries(facts).map(([key, value]) => `${key}=${value}`);
  return `${op} ${parts.join(' ')}`;
}

type WithoutSeed<T> = T extends unknown ? Omit<T, 'seed'> : never;

const DENSE_TYPES: readonly DenseType[] = ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K', 'AFFINE'];

function* allCases(): Generator<WithoutSeed<ConformanceCase>> {
  const kinds: readonly ValueKind[] = ['normal', 'ties', 'zeros', 'extreme', 'special'];
  for (const columns of [1, 3, 4, 7, 8, 15, 16, 17, 100, 640]) {
    for (const n of [1, 3]) yield { op: 'rmsNorm', n, columns, kind: 'normal' };
  }
  for (const kind of kinds) yield { op: 'rmsNorm', n: 2, columns: 77, kind };
  yield { op: 'rmsNorm', n: 1, columns: 6912, kind: 'normal' };

  for (const columns of [1, 5, 15, 16, 17, 127, 128, 130, 640]) {
    for (const n of [1, 4]) yield { op: 'quantizeRows', n, columns, kind: 'normal' };
  }
  for (const kind of [...kinds, 'equal', 'negative'] as const) yield { op: 'quantizeRows', n: 3, columns: 203, kind };

  for (const columns of [1, 3, 7, 8, 15, 16, 17, 100, 127, 128, 130, 640]) {
    for (const n of [1, 4]) yield { op: 'rmsNormQuantize', n, columns, kind: 'normal' };
  }
  for (const kind of [...kinds, 'equal', 'negative'] as const) {
    yield { op: 'rmsNormQuantize', n: 3, columns: 203, kind };
  }
  yield { op: 'rmsNormQuantize', n: 2, columns: 6912, kind: 'normal' };

  for (const columns of [1, 16, 127, 128, 129, 256, 1024, 1152]) {
    for (const rows of [1, 3, 4, 9]) {
      for (const n of [1, 2, 7]) {
        yield { op: 'ternaryMatmul', n, rows, columns, kind: 'normal', trits: 'random' };
      }
    }
  }
  // Long rows of equal signs: where i16 sums overflow if they are widened too late (14336 = Llama-3's ffn).
  for (const columns of [2560, 6912, 8640, 14336]) {
    for (const trits of ['plus', 'minus', 'alternating', 'zero'] as const) {
      for (const kind of ['equal', 'negative'] as const) {
        for (const n of [1, 2]) yield { op: 'ternaryMatmul', n, rows: 5, columns, kind, trits };
      }
    }
    for (const kind of ['equal', 'negative'] as const) {
      for (const trits of ['plus', 'minus'] as const)
        yield { op: 'ternaryMatmul', n: 32, rows: 3, columns, kind, trits };
    }
    yield { op: 'ternaryMatmul', n: 33, rows: 13, columns, kind: 'normal', trits: 'random' };
  }
  // Every width of tile, full, not full and followed by a rest; more rows than one block of rows.
  for (const n of [8, 9, 11, 12, 16, 17, 24, 25, 31, 40, 50]) {
    yield { op: 'ternaryMatmul', n, rows: 11, columns: 300, kind: 'normal', trits: 'random' };
  }
  yield { op: 'ternaryMatmul', n: 18, rows: 4101, columns: 128, kind: 'normal', trits: 'random' };
  for (const kind of kinds) yield { op: 'ternaryMatmul', n: 11, rows: 7, columns: 300, kind, trits: 'random' };
  for (const kind of kinds) yield { op: 'ternaryMatmul', n: 3, rows: 7, columns: 300, kind, trits: 'random' };

  // Two and three of them, more than are taken at once, ones without rows for every thread, and ones across blocks of rows.
  for (const n of [1, 3, 8, 17, 41]) {
    for (const rows of [
      [12, 5],
      [9, 1, 6],
      [4, 3, 2, 1, 7, 8],
    ]) {
      yield { op: 'ternaryGroup', n, rows, columns: 300 };
    }
  }
  yield { op: 'ternaryGroup', n: 35, rows: [2561, 640, 643], columns: 128 };
  yield { op: 'ternaryGroup', n: 9, rows: [2047, 5, 4099], columns: 128 };

  for (const dtype of DENSE_TYPES) {
    const block = dtype === 'Q6_K' ? 256 : dtype === 'Q8_0' || dtype === 'AFFINE' ? 32 : 1;
    for (const columns of block === 1 ? [1, 7, 16, 19, 31, 45, 60, 640] : [block, 3 * block]) {
      for (const n of [1, 3]) yield { op: 'denseMatmul', n, rows: 21, columns, dtype, kind: 'normal' };
      yield { op: 'embed', n: 5, rows: 11, columns, dtype };
    }
    yield { op: 'denseMatmul', n: 1, rows: 40, columns: 2560, dtype, kind: 'normal' };
    for (const kind of kinds) yield { op: 'denseMatmul', n: 1, rows: 6, columns: 256, dtype, kind };
  }

  // Whole rows of blocks, rows that begin inside blocks (8640 = 67.5 * 128, and 160), and more than one read.
  for (const [rows, columns] of [
    [1, 128],
    [5, 640],
    [4, 160],
    [6, 8640],
    [128, 3],
  ]) {
    yield { op: 'repack', n: 2, rows, columns, dtype: 'I2_S' };
  }
  for (const dtype of ['TQ1_0', 'TQ2_0'] as const) {
    for (const [rows, columns] of [
      [1, 256],
      [7, 768],
      [2100, 2560],
    ]) {
      yield { op: 'repack', n: 2, rows, columns, dtype };
    }
  }
  for (const from of ['F32', 'F16', 'BF16'] as const) {
    for (const kind of ['normal', 'ties', 'zeros'] as const) {
      yield { op: 'requantize', n: 9, rows: 9, columns: 160, from, dtype: 'Q8_0', kind };
      yield { op: 'requantize', n: 9, rows: 9, columns: 512, from, dtype: 'Q6_K', kind };
    }
  }
  for (const dtype of DENSE_TYPES) {
    for (const k of [1, 40, 700]) yield { op: 'denseTopK', n: 2, rows: 1027, columns: 256, dtype, kind: 'normal', k };
    for (const kind of kinds) yield { op: 'denseTopK', n: 1, rows: 1031, columns: 256, dtype, kind, k: 7 };
    yield { op: 'denseTopK', n: 1, rows: 30, columns: 256, dtype, kind: 'normal', k: 5 };
    yield { op: 'denseTopK', n: 1, rows: 1100, columns: 2560, dtype, kind: 'normal', k: 40 };
  }

  for (const style of ['neox', 'norm'] as const) {
    for (const headDim of [2, 6, 8, 64, 100]) yield { op: 'rope', n: 3, nHeads: 3, headDim, style };
  }

  for (const [kType, vType] of [
    ['f32', 'f32'],
    ['f16', 'f16'],
    ['f32', 'f16'],
    ['f16', 'f32'],
  ] as const) {
    for (const [nHeads, nKvHeads, headDim] of [
      [4, 4, 16],
      [4, 2, 64],
      [5, 1, 100],
      [20, 5, 128],
      [3, 3, 6],
    ]) {
      for (const [before, n] of [
        [0, 1],
        [0, 5],
        [37, 1],
        [37, 3],
      ]) {
        yield { op: 'attention', n, nHeads, nKvHeads, headDim, before, kType, vType, kind: 'normal' };
      }
    }
    yield { op: 'attention', n: 2, nHeads: 2, nKvHeads: 1, headDim: 32, before: 9, kType, vType, kind: 'extreme' };
    yield { op: 'attention', n: 2, nHeads: 2, nKvHeads: 1, headDim: 32, before: 9, kType, vType, kind: 'special' };
  }
  // Rows on both sides of a block of positions, however long blocks are.
  for (const before of [14, 30, 61]) {
    for (const headDim of [32, 64, 128]) {
      const shape = { nHeads: 6, nKvHeads: 1, headDim, kType: 'f16', vType: 'f16' } as const;
      yield { op: 'attention', n: 7, ...shape, before, kind: 'normal' };
    }
  }
  yield {
    op: 'attention',
    n: 1,
    nHeads: 8,
    nKvHeads: 2,
    headDim: 64,
    before: 700,
    kType: 'f16',
    vType: 'f16',
    kind: 'normal',
  };

  for (const op of ['gatedRelu2', 'gatedSilu', 'add'] as const) {
    for (const columns of [1, 3, 16, 37]) yield { op, n: 2, columns, kind: 'normal' };
    for (const kind of kinds) yield { op, n: 3, columns: 45, kind };
  }
  for (const columns of [1, 30, 640]) yield { op: 'copyRows', n: 4, columns };

  // At the end: seeds follow the order, and the cases above keep theirs.
  for (const columns of [1, 3, 16, 37, 2048]) {
    yield { op: 'gatedGelu', n: 2, columns, kind: 'normal' };
    yield { op: 'scale', n: 2, columns, kind: 'normal', factor: 25.298221281347036 };
  }
  for (const kind of kinds) {
    yield { op: 'gatedGelu', n: 3, columns: 45, kind };
    yield { op: 'scale', n: 3, columns: 45, kind, factor: 0.1 };
    yield { op: 'headNorm', n: 3, nHeads: 3, headDim: 22, kind };
  }
  for (const headDim of [2, 18, 128, 256]) yield { op: 'headNorm', n: 5, nHeads: 4, headDim, kind: 'normal' };

  // The head of a batch, which a backend may take another way.
  for (const dtype of DENSE_TYPES)
    yield { op: 'denseTopK', n: 9, rows: 1027, columns: 256, dtype, kind: 'normal', k: 40 };
  yield { op: 'denseTopK', n: 9, rows: 1027, columns: 256, dtype: 'F16', kind: 'special', k: 40 };
}

/** All cases, each with a seed of its own. */
export function conformanceCases(): ConformanceCase[] {
  return Array.from(allCases(), (one, i) => ({ ...one, seed: 1000 + i }) as ConformanceCase);
}
