/** The same model in another container: every ternary matrix of a file written again in another type or layout. */

import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { GgufTensor } from '../../src/formats/gguf/types.ts';
import { copyOf, type TensorToWrite, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import type { DTypeName } from '../../src/tensors/dtype.ts';
import { encodeBF16, encodeF16, encodeF32 } from '../../src/tensors/floats.ts';
import { decodeTritsI2S, scaleOfI2S } from '../../src/tensors/i2s.ts';
import { encodeI2SAs, type I2sLayout } from '../../src/tensors/i2s-layouts.ts';
import { encodeQ8_0 } from '../../src/tensors/q8_0.ts';
import { type TilesChoice, tilesOf } from '../../src/tensors/tiles.ts';
import { encodeTL1 } from '../../src/tensors/tl1.ts';
import { encodeTL2 } from '../../src/tensors/tl2.ts';
import { encodeTQ1 } from '../../src/tensors/tq1.ts';
import { encodeTQ2 } from '../../src/tensors/tq2.ts';

export type Container = I2sLayout | 'TL1' | 'TL2' | 'TQ1_0' | 'TQ2_0' | 'F32' | 'F16' | 'BF16' | 'Q8_0';

export interface RecodeOptions {
  /** What becomes of a scale, so that types of few bits hold it exactly. */
  readonly scale?: (scale: number) => number;
  readonly tiles?: TilesChoice;
  /** What becomes of a tensor's values on the way, for damage. */
  readonly change?: (tensor: GgufTensor, values: Float32Array) => void;
}

/** Six significant bits: exact in every type. */
export function coarse(scale: number): number {
  let unit = 1;
  while (scale / unit < 32) unit /= 2;
  return Math.round(scale / unit) * unit;
}

interface Matrix {
  readonly trits: Int8Array;
  readonly columns: number;
  readonly scale: number;
  readonly tiles: TilesChoice | undefined;
}

type Encode = (matrix: Matrix) => Uint8Array;

const rowsOf = ({ trits, columns }: Matrix) => trits.length / columns;
const valuesOf = ({ trits, scale }: Matrix) => Float32Array.from(trits, (trit) => scale * trit);
const i2s =
  (layout: I2sLayout): Encode =>
  ({ trits, columns, scale }) =>
    encodeI2SAs(layout, trits, columns, scale);

const containers: Record<Container, { readonly dtype: DTypeName; readonly encode: Encode }> = {
  x86: { dtype: 'I2_S', encode: i2s('x86') },
  arm64: { dtype: 'I2_S', encode: i2s('arm64') },
  rows4: { dtype: 'I2_S', encode: i2s('rows4') },
  TL1: {
    dtype: 'TL1',
    encode: (m) => encodeTL1(m.trits, m.columns, m.scale, tilesOf('TL1', rowsOf(m), m.columns, m.tiles)),
  },
  TL2: {
    dtype: 'TL2',
    encode: (m) => encodeTL2(m.trits, m.columns, m.scale, tilesOf('TL2', rowsOf(m), m.columns, m.tiles)),
  },
  TQ1_0: { dtype: 'TQ1_0', encode: ({ trits, scale }) => encodeTQ1(trits, scale) },
  TQ2_0: { dtype: 'TQ2_0', encode: ({ trits, scale }) => encodeTQ2(trits, scale) },
  F32: { dtype: 'F32', encode: (m) => encodeF32(valuesOf(m)) },
  F16: { dtype: 'F16', encode: (m) => encodeF16(valuesOf(m)) },
  BF16: { dtype: 'BF16', encode: (m) => encodeBF16(valuesOf(m)) },
  Q8_0: { dtype: 'Q8_0', encode: (m) => encodeQ8_0(valuesOf(m)) },
};

/** `file` has its ternary matrices as I2_S of x86. */
export async function recode(file: Uint8Array, to: Container, options: RecodeOptions = {}): Promise<Uint8Array> {
  const { scale: scaled = (scale) => scale, tiles, change } = options;
  const gguf = await openGguf(memorySource(file));
  const tensors: TensorToWrite[] = [];
  for (const tensor of gguf.tensors) {
    if (tensor.dtype.name !== 'I2_S') {
      tensors.push(copyOf(tensor));
      continue;
    }
    const bytes = new Uint8Array(tensor.byteLength);
    await tensor.source.readInto(bytes, tensor.offsetBytes);
    const trits = new Int8Array(tensor.elements);
    decodeTritsI2S(bytes, 0, trits.length, trits);
    const matrix = { trits, columns: tensor.shape[0], scale: scaled(scaleOfI2S(bytes, trits.length / 4)), tiles };
    const { dtype, encode } = containers[to];
    let encoded = encode(matrix);
    if (change !== undefined) {
      const values = valuesOf(matrix);
      change(tensor, values);
      encoded = to === 'F16' ? encodeF16(values) : encodeF32(values);
    }
    tensors.push({ name: tensor.name, dtype, shape: tensor.shape, data: () => [encoded] });
  }
  const sink = memorySink();
  await writeGguf(sink, { metadata: gguf.metadata, tensors });
  return sink.bytes();
}
