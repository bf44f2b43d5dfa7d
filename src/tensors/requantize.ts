/**
 * Weights into blocks of fewer bits than they would take in memory, for tables that would not fit otherwise.
 * @module
 */

import { want } from '../errors.ts';
import { decodeInto, findNotFinite } from './decode.ts';
import { memoryTypeOf } from './dense-forms.ts';
import { type DType, dtypeByName } from './dtype.ts';
import { inPieces, type ReadTensor } from './load.ts';
import { encodeQ6_K } from './q6_k.ts';
import { encodeQ8_0 } from './q8_0.ts';

/** Types that weights can be turned into here. */
export type SmallType = 'Q8_0' | 'Q6_K';

const ENCODERS: Record<SmallType, (values: Float32Array) => Uint8Array> = { Q8_0: encodeQ8_0, Q6_K: encodeQ6_K };

/** Values of one piece; a multiple of every block. */
const PIECE_VALUES = 1 << 20;

/**
 * Whether a matrix of `columns` can be turned from `dtype` into `to`: rows must be whole blocks, and it must be one that takes more
 * room in memory as it is. Ternary ones stay.
 */
export function canRequantize(dtype: DType, columns: number, to: SmallType): boolean {
  const memory = memoryTypeOf(dtype, columns);
  const isLarger = memory !== undefined && memory !== 'Q8_0' && memory !== 'Q6_K' && dtype.name !== 'I2_S';
  return isLarger && columns % dtypeByName(to).blockElements === 0;
}

export interface Requantized {
  /** For error messages: file and tensor. */
  readonly where: string;
  /** One that `canRequantize` takes. */
  readonly dtype: DType;
  /** Values of the tensor. */
  readonly elements: number;
  readonly to: SmallType;
}

/**
 * Reads a tensor piece by piece, decodes it to f32 and encodes it into `out`. Each value is rounded to a multiple of its
 * block's step; see the encoders for how far it may be off. Values must be finite.
 */
export async function loadRequantized(
  { where, dtype, elements, to }: Requantized,
  read: ReadTensor,
  out: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  const target = dtypeByName(to);
  want(out.length === (elements / target.blockElements) * target.blockBytes, 'bad-argument', 'wrong room', () => ({
    where,
    got: `${out.length} bytes`,
  }));
  const longest = Math.min(elements, PIECE_VALUES);
  const bytesOf = (nValues: number) => (nValues / dtype.blockElements) * dtype.blockBytes;
  const buffers = [0, 1].map(() => new Uint8Array(bytesOf(longest)));
  const pieceOf = (at: number, n: number) => buffers[(at / PIECE_VALUES) & 1].subarray(0, bytesOf(n));
  const values = new Float32Array(longest);
  await inPieces(elements, PIECE_VALUES, signal, {
    read: (at, n) => read(pieceOf(at, n), bytesOf(at)),
    use: (at, n) => {
      const bytes = pieceOf(at, n);
      const bad = findNotFinite(dtype, bytes);
      want(bad < 0, 'bad-tensor', 'a weight is not a finite number', () => ({ where: `${where} element ${at + bad}` }));
      decodeInto(dtype, bytes, 0, n, values);
      out.set(ENCODERS[to](values.subarray(0, n)), (at / target.blockElements) * target.blockBytes);
    },
  });
}
