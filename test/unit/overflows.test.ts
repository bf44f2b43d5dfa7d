/** What `--saturate-i16` tells at the end of a command. */
import { expect, it } from 'vitest';
import { overflowLines, tellOverflowsAtEnd } from '../../src/cli/overflows.ts';
import type { Model, OverflowReport } from '../../src/engine/types.ts';

const output = (token: number, exact: number, native: number) => ({ token, row: 3, exact, native });
const one = output(7, 4096, -4160.5);

it('tells that nothing happened, and whether it nearly did', () => {
  const nothing: OverflowReport = { kernel: 'avx2', outputs: 12000, suspects: 0, tensors: [] };
  expect(overflowLines(nothing)).toEqual([
    '16-bit sums (avx2): nothing overflows, of 12,000 outputs of ternary products none would be another',
  ]);
  expect(overflowLines({ ...nothing, suspects: 2 })[0]).toMatch(/; 2 inputs large enough to, and the trits do not$/);
});

it('tells tensors, the first token and row, and the worst', () => {
  const tensors = [
    { tensor: 'a', outputs: 1, first: one, worst: one },
    { tensor: 'b', outputs: 2000, first: one, worst: output(9, 1, 100) },
  ];
  expect(overflowLines({ kernel: 'neon', outputs: 5000, suspects: 3, tensors })).toEqual([
    '16-bit sums (neon): 2,001 of 5,000 outputs of ternary products are another in native kernels, in 2 tensors',
    '  a: 1 output, first at token 7, row 3: -4160.5 instead of 4096',
    '  b: 2,000 outputs, first at token 7, row 3: -4160.5 instead of 4096; worst at token 9, row 3: 100 instead of 1',
  ]);
});

it('does not fill the screen', () => {
  const tensors = Array.from({ length: 210 }, (_, i) => ({ tensor: `t${i}`, outputs: 1, first: one, worst: one }));
  const lines = overflowLines({ kernel: 'avx2', outputs: 500, suspects: 3, tensors });
  expect([lines.length, lines.at(-1)]).toEqual([14, '  and 198 more tensors']);
});

it('tells it once, when the model is put away', async () => {
  const notes: string[] = [];
  let disposed = 0;
  const model = {
    overflows: { kernel: 'avx2', outputs: 1, suspects: 0, tensors: [] },
    dispose: async () => void disposed++,
  } as unknown as Model;
  tellOverflowsAtEnd(model, { note: (line: string) => notes.push(line) } as never);
  expect(notes).toEqual([]);
  await model.dispose();
  await model.dispose();
  expect([notes.length, disposed]).toEqual([1, 2]);
});
