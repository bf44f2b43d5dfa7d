/**
 * Tensors of a GGUF file as trits or floats, whatever type they have there.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { GgufTensor } from '../formats/gguf/types.ts';
import type { TernaryLayout } from '../model/forms.ts';
import { decodeInto } from '../tensors/decode.ts';
import { wantWeights } from '../tensors/dense-forms.ts';
import { isTernary, type TernaryDTypeName } from '../tensors/dtype.ts';
import { loadPacked, type ReadTensor } from '../tensors/load.ts';
import { packedBytes, unpackRow } from '../tensors/packed.ts';
import { rowsPerPiece, type TritMatrix } from './linear.ts';
import { type FloatPieces, type FloatSurvey, floatTrits, type RowOrder, surveyFloats } from './weights.ts';

/** Columns and rows: all dimensions but the first count as rows, as they lie in the file. */
export function matrixShape({ shape, elements }: GgufTensor): readonly [columns: number, rows: number] {
  const columns = shape[0] ?? 1;
  return [columns, elements / columns];
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

/** The first rows of a tensor of floats, for a look at what they are. */
export async function firstPiece(tensor: GgufTensor, where: string): Promise<Float32Array> {
  for await (const values of floatsOf(tensor, where)()) return values;
  return new Float32Array(0);
}
