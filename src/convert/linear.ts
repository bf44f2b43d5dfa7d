/**
 * A matrix of trits as the bytes of any type that a projection can have. Everything that writes projections goes through
 * here, wherever its trits come from.
 * @module
 */

import {
  encodeTrits,
  type LinearType,
  RUN,
  storedScale,
  tailOf,
  tritBlockColumns,
  type WholeEncoder,
  wholeEncoders,
} from './types.ts';

/** Trits of a matrix times one scale. */
export interface TritMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly scale: number;
  /**
   * All trits in whole rows; each piece but the last is a multiple of `RUN` values, so that blocks end with pieces. The
   * buffer of a piece is used again for the next.
   */
  readonly pieces: () => AsyncIterable<Int8Array> | Iterable<Int8Array>;
  /** The matrix as packed rows (`tensors/packed.ts`), where that is how it is held anyway. */
  readonly packed?: Uint8Array;
}

/** The bytes of the matrix as `type`, piece by piece; a piece is valid until the next is asked for. */
export async function* encodeMatrix(type: LinearType, matrix: TritMatrix): AsyncGenerator<Uint8Array> {
  const { columns, scale, packed } = matrix;
  const whole = wholeEncoders[type];
  if (whole !== undefined) {
    yield await encodeWhole(whole, matrix);
    return;
  }
  // Packed rows without padding are the blocks of I2_S.
  if (type === 'I2_S' && packed !== undefined && columns % tritBlockColumns === 0) yield packed;
  else for await (const trits of matrix.pieces()) yield encodeTrits(type, trits, scale);
  yield tailOf(type, scale);
}

async function encodeWhole(encode: WholeEncoder, { rows, columns, scale, pieces }: TritMatrix): Promise<Uint8Array> {
  const trits = new Int8Array(rows * columns);
  let at = 0;
  for await (const piece of pieces()) {
    trits.set(piece, at);
    at += piece.length;
  }
  return encode(trits, rows, columns, scale);
}

/** Values handed out at a time, as long as a row is not longer. */
const PIECE_VALUES = 1 << 16;

/** As many rows as make a good piece, and together a multiple of `RUN` values. */
export function rowsPerPiece(columns: number): number {
  let step = 1;
  while ((step * columns) % RUN !== 0) step *= 2; // RUN is a power of two
  return Math.max(step, Math.floor(PIECE_VALUES / columns / step) * step);
}

/** Counts the scales that a type cannot hold exactly, so that it can be said. */
export class RoundedScales {
  readonly #type: LinearType;
  #count = 0;
  #rounded = 0;
  #worst = 0;

  constructor(type: LinearType) {
    this.#type = type;
  }

  /** Takes the scale of a matrix; refuses one that the type would turn into zero or infinity. */
  add(scale: number, where: string): void {
    const stored = storedScale(this.#type, scale, where);
    this.#count++;
    if (stored !== scale) this.#rounded++;
    this.#worst = Math.max(this.#worst, Math.abs(stored - scale) / scale);
  }

  notes(): string[] {
    if (this.#rounded === 0) return [];
    const percent = (100 * this.#worst).toFixed(3);
    return [
      `${this.#type} cannot hold ${this.#rounded} of ${this.#count} scales exactly; the worst is off by ${percent} %`,
    ];
  }
}
