/**
 * Tensors of a GGUF file as trits or floats, whatever type they have there.
 * @module
 */

import { BitnetError, want } from '../errors.ts';
import type { GgufTensor } from '../formats/gguf/types.ts';
import type { TernaryLayout } from '../model/forms.ts';
import { decodeInto } from '../tensors/decode.ts';
import { wantWeights } from '../tensors/dense-forms.ts';
import { isTernary, type TernaryDTypeName } from '../tensors/dtype.ts';
import { loadPacked, type ReadTensor } from '../tensors/load.ts';
import { packedBytes, unpackRow } from '../tensors/packed.ts';
import { blockScales } from '../tensors/tq.ts';
import { TQ1_0 } from '../tensors/tq1.ts';
import { TQ2_0 } from '../tensors/tq2.ts';
import { rowsPerPiece, type TritMatrix } from './linear.ts';
import { type FloatPieces, type FloatSurvey, floatTrits, type RowOrder, surveyFloats } from './weights.ts';

/** Columns and rows: all dimensions but the first count as rows, as they lie in the file. */
export function matrixShape({ shape, elements }: GgufTensor): readonly [columns: number, rows: number] {
  const columns = shape[0] ?? 1;
  return [columns, elements / columns];
}

/** Ceiling for what is held of one matrix: the largest published one has 18 MB packed, its row of floats 100 KB. */
const MAX_HELD_BYTES = 1 << 28;

/** Before memory is taken: a file of holes may say anything of its shapes. */
export function wantHoldable({ shape }: GgufTensor, heldBytes: number, where: string): void {
  want(heldBytes <= MAX_HELD_BYTES, 'limit-exceeded', 'a tensor of a shape that no model has', () => ({
    where,
    expected: `at most ${MAX_HELD_BYTES} bytes to hold`,
    got: `(${shape.join(', ')}), ${heldBytes} bytes`,
  }));
}

/** Reads from the tensor's own bytes. */
function reading({ source, offsetBytes }: GgufTensor): ReadTensor {
  return (target, at) => source.readInto(target, offsetBytes + at);
}

export interface ReadingOptions {
  /** Where a ternary type does not tell. */
  readonly layout?: TernaryLayout | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A ternary tensor. It is held as packed rows: at most a few ten MB. */
export async function ternaryTensor(
  tensor: GgufTensor,
  where: string,
  { layout, signal }: ReadingOptions = {},
): Promise<TritMatrix> {
  const [columns, rows] = matrixShape(tensor);
  wantHoldable(tensor, packedBytes(rows, columns), where);
  const packed = new Uint8Array(packedBytes(rows, columns));
  const dtype = tensor.dtype.name as TernaryDTypeName;
  const matrix = { where, dtype, rows, columns, layout: layout?.i2s, tiles: layout?.tiles };
  const scale = await loadPacked(matrix, reading(tensor), packed, signal === undefined ? {} : { signal });
  return packedMatrix(packed, rows, columns, scale);
}

/** Packed rows as trits, in their own order or another. */
export function packedMatrix(
  packed: Uint8Array,
  rows: number,
  columns: number,
  scale: number,
  order?: RowOrder,
): TritMatrix {
  return {
    rows,
    columns,
    scale,
    ...(order === undefined ? { packed } : {}),
    *pieces() {
      const perPiece = Math.min(rows, rowsPerPiece(columns));
      const trits = new Int8Array(perPiece * columns);
      for (let first = 0; first < rows; first += perPiece) {
        const count = Math.min(perPiece, rows - first);
        for (let r = 0; r < count; r++) unpackRow(packed, order?.(first + r) ?? first + r, columns, trits, r * columns);
        yield trits.subarray(0, count * columns);
      }
    },
  };
}

/** Values of any readable tensor in whole rows, checked to be finite. The buffer of a piece is used again for the next. */
export function floatsOf(tensor: GgufTensor, where: string): FloatPieces {
  // TQ types are decoded as any blocks are: in a table their scales may differ.
  if (isTernary(tensor.dtype) && tensor.dtype.size !== 'rows') return () => ternaryFloats(tensor, where);
  return async function* () {
    const { dtype } = tensor;
    if (!dtype.readable) throw new BitnetError('unsupported-type', `type ${dtype.name} ${dtype.why}`, { where });
    const [columns, rows] = matrixShape(tensor);
    const perPiece = Math.min(rows, rowsPerPiece(columns));
    wantHoldable(tensor, perPiece * columns * 4, where);
    const rowBytes = (columns / dtype.blockElements) * dtype.blockBytes;
    const buffer = new Uint8Array(perPiece * rowBytes);
    const values = new Float32Array(perPiece * columns);
    const read = reading(tensor);
    for (let first = 0; first < rows; first += perPiece) {
      const count = Math.min(perPiece, rows - first);
      const bytes = buffer.subarray(0, count * rowBytes);
      await read(bytes, first * rowBytes);
      wantWeights(dtype, bytes, first * columns, where);
      decodeInto(dtype, bytes, 0, count * columns, values);
      yield values.subarray(0, count * columns);
    }
  };
}

/** A ternary table: rare, but legal. */
async function* ternaryFloats(tensor: GgufTensor, where: string): AsyncGenerator<Float32Array> {
  const { scale, pieces } = await ternaryTensor(tensor, where);
  let values = new Float32Array(0);
  for await (const trits of pieces()) {
    if (values.length < trits.length) values = new Float32Array(trits.length);
    for (let i = 0; i < trits.length; i++) values[i] = scale * trits[i];
    yield values.subarray(0, trits.length);
  }
}

export interface TernarisedTensor {
  readonly matrix: TritMatrix;
  /** Of a tensor of floats. */
  readonly survey: FloatSurvey | undefined;
}

/** A projection as trits: those it has, or those that its floats stand for. */
export async function tritsOfTensor(
  tensor: GgufTensor,
  where: string,
  options: ReadingOptions = {},
): Promise<TernarisedTensor> {
  if (isTernary(tensor.dtype)) return { matrix: await ternaryTensor(tensor, where, options), survey: undefined };
  const pieces = floatsOf(tensor, where);
  const survey = await surveyFloats(pieces, options.signal);
  return { matrix: floatTrits(survey, matrixShape(tensor), pieces), survey };
}

/**
 * The scales of a TQ tensor that has more than one; undefined of any other. Types with one scale for a matrix cannot hold it; as
 * floats, or in the other TQ type, it stays what it is.
 */
export async function severalScales(
  tensor: GgufTensor,
  where: string,
  signal?: AbortSignal,
): Promise<ReadonlySet<number> | undefined> {
  const { name: type, blockBytes } = tensor.dtype;
  if (type !== 'TQ1_0' && type !== 'TQ2_0') return undefined;
  const found = new Set<number>();
  const blocks = tensor.byteLength / blockBytes;
  const perPiece = 1 << 15;
  const piece = new Uint8Array(Math.min(blocks, perPiece) * blockBytes);
  for (let at = 0; at < blocks; at += perPiece) {
    signal?.throwIfAborted();
    const bytes = piece.subarray(0, Math.min(perPiece, blocks - at) * blockBytes);
    await reading(tensor)(bytes, at * blockBytes);
    wantWeights(tensor.dtype, bytes, at * tensor.dtype.blockElements, where);
    for (const scale of blockScales(type === 'TQ1_0' ? TQ1_0 : TQ2_0, bytes))
      if (scale !== 0) found.add(Math.abs(scale));
  }
  return found.size > 1 ? found : undefined;
}

/** The first rows of a tensor of floats, for a look at what they are. */
export async function firstPiece(tensor: GgufTensor, where: string): Promise<Float32Array> {
  for await (const values of floatsOf(tensor, where)()) return values;
  return new Float32Array(0);
}
