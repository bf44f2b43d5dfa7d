/**
 * TQ1_0 and TQ2_0 tensors whose blocks have different scales, as Q8_0: a block of 256 becomes eight of 32, each with the same
 * half-precision scale and the trits as its codes. Every value is the same; 8.5 bits each instead of about 2.
 * @module
 */

import { want } from '../errors.ts';
import { readF16 } from './blocks.ts';
import { findCode3, wantNoCode3 } from './i2s.ts';
import { inPieces, type ReadTensor } from './load.ts';
import { decodeTritsTQ1, digitTableTQ1, TQ1_BLOCK_BYTES, TQ1_SCALE, wantBytesTQ1 } from './tq1.ts';
import { decodeTritsTQ2, TQ2_BLOCK_BYTES, TQ2_SCALE } from './tq2.ts';

export type ScaledBlocksName = 'TQ1_0' | 'TQ2_0';

const ELEMENTS = 256;
const Q8_BYTES = 34;
const BYTES_OUT = 8 * Q8_BYTES;
/** Blocks of one piece. */
const PIECE_BLOCKS = 1 << 13;

const formats = {
  TQ1_0: { bytes: TQ1_BLOCK_BYTES, scaleAt: TQ1_SCALE, decode: decodeTritsTQ1 },
  TQ2_0: { bytes: TQ2_BLOCK_BYTES, scaleAt: TQ2_SCALE, decode: decodeTritsTQ2 },
} as const;

/** The scales of whole blocks. */
export function blockScales(dtype: ScaledBlocksName, bytes: Uint8Array): Float32Array {
  const { bytes: blockBytes, scaleAt } = formats[dtype];
  return Float32Array.from({ length: bytes.length / blockBytes }, (_, b) => readF16(bytes, b * blockBytes + scaleAt));
}

/** Reads a tensor piece by piece into `out`, eight Q8_0 blocks for each of its own. Checks every code and every scale. */
export async function loadBlocksAsQ8_0(
  tensor: { readonly where: string; readonly dtype: ScaledBlocksName; readonly elements: number },
  read: ReadTensor,
  out: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  const { where, dtype, elements } = tensor;
  const { bytes: blockBytes, scaleAt, decode } = formats[dtype];
  const nBlocks = elements / ELEMENTS;
  want(Number.isInteger(nBlocks) && out.length === nBlocks * BYTES_OUT, 'bad-argument', 'wrong room', () => ({
    where,
    got: `${out.length} bytes for ${elements} values`,
  }));
  const longest = Math.min(nBlocks, PIECE_BLOCKS);
  const buffers = [0, 1].map(() => new Uint8Array(longest * blockBytes));
  const pieceOf = (at: number, n: number) => buffers[(at / PIECE_BLOCKS) & 1].subarray(0, n * blockBytes);
  const table = digitTableTQ1();
  const trits = new Int8Array(ELEMENTS);
  const scales = new Float32Array(1);
  await inPieces(nBlocks, PIECE_BLOCKS, signal, {
    read: (at, n) => read(pieceOf(at, n), at * blockBytes),
    use(at, n) {
      const bytes = pieceOf(at, n);
      if (dtype === 'TQ1_0') wantBytesTQ1(bytes, at, table, where);
      for (let b = 0; b < n; b++) {
        const block = bytes.subarray(b * blockBytes, (b + 1) * blockBytes);
        if (dtype === 'TQ2_0' && findCode3(block.subarray(0, TQ2_SCALE)) >= 0) wantNoCode3TQ2(block, at + b, where);
        decode(block, 0, ELEMENTS, trits, scales);
        want(Number.isFinite(scales[0]) && scales[0] >= 0, 'bad-tensor', 'bad block scale', () => ({
          where: `${where} block ${at + b}`,
          expected: 'a finite number >= 0',
          got: `${scales[0]}`,
        }));
        // A block of scale 0 is zeros whatever its codes.
        if (scales[0] === 0) trits.fill(0);
        for (let part = 0; part < 8; part++) {
          const to = (at + b) * BYTES_OUT + part * Q8_BYTES;
          out[to] = block[scaleAt];
          out[to + 1] = block[scaleAt + 1];
          for (let j = 0; j < 32; j++) out[to + 2 + j] = trits[32 * part + j];
        }
      }
    },
  });
}

/** The fields of a TQ2_0 byte are those of I2_S backwards: turned round, the check of I2_S names the right value. */
function wantNoCode3TQ2(block: Uint8Array, index: number, where: string): void {
  const turned = block.subarray(0, TQ2_SCALE).map((byte) => {
    return ((byte & 3) << 6) | ((byte & 12) << 2) | ((byte >> 2) & 12) | (byte >> 6);
  });
  wantNoCode3(turned, index * ELEMENTS, where);
}
