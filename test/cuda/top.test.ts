/** Pairs that TOP_K leaves in no order, read from a device of three lines: the shim's threads may happen to leave them in one. */
import { expect, it } from 'vitest';
import type { Device } from '../../src/kernels/cuda/device.ts';
import { CudaBuf } from '../../src/kernels/cuda/memory.ts';
import { rowWords, Tops } from '../../src/kernels/cuda/top.ts';

const [rows, columns, room] = [3, 5000, 300];

/** Row 0: few pairs; row 1: so many that they did not fit; row 2: as many as fit. */
function topWords(): Int32Array {
  const words = new Int32Array(rows * rowWords(room));
  const floats = new Float32Array(words.buffer);
  for (const [row, count] of [3, room + 1, room].entries()) {
    const at = row * rowWords(room);
    words.set([count, count > room ? 2 : 0], at);
    for (let i = 0; i < Math.min(count, room); i++) {
      words[at + 2 + 2 * i] = idOf(i);
      floats[at + 3 + 2 * i] = idOf(i) / 4;
    }
  }
  return words;
}
/** From the last token of the vocabulary on, far apart. */
const idOf = (i: number) => (columns - 1 + i * 1009) % columns;

it('reads pairs in the order of their ids, whole rows where they did not fit, and nothing where nothing is asked', () => {
  const whole = Float32Array.from({ length: columns }, (_, id) => (id % 7 === 0 ? -Infinity : id));
  const reads: number[] = [];
  const device = {
    read: (handle: number, into: Int32Array | Float32Array, offset = 0) => {
      reads.push(offset);
      const from = handle === 2 ? topWords() : whole;
      if (handle === 1) expect(offset).toBe(columns * 4);
      into.set(from.subarray(0, into.length));
      return into;
    },
  };
  const tops = new Tops(device as unknown as Device);
  const of = new CudaBuf('f32', [rows, columns], device, 1);
  const at = new CudaBuf('i32', [rows * rowWords(room)], device, 2);
  expect(tops.read(rows)).toEqual([]);
  tops.keep({ of, at, rows, room });
  expect(tops.read(0)).toEqual([]);
  expect(reads).toEqual([]);
  const few = (count: number) => {
    const ids = Int32Array.from({ length: count }, (_, i) => idOf(i)).sort();
    return { ids, values: Float32Array.from(ids, (id) => id / 4) };
  };
  const finite = Int32Array.from(whole.keys()).filter((id) => id % 7 !== 0);
  expect(tops.read(1)).toEqual([few(3)]);
  expect(tops.read(rows)).toEqual([few(3), { ids: finite, values: Float32Array.from(finite) }, few(room)]);
  expect([tops.rowsOf(of), tops.rowsOf(at)]).toEqual([rows, 0]);
  tops.forget(at);
  expect(tops.rowsOf(of)).toBe(0);
});
