/** Other ways of computing, mistakes that need a model made for them, and who of the two is wrong. */
import { describe, expect, it } from 'vitest';
import { quantizeRows } from '../../src/kernels/ts/quantize.ts';
import { compareTraces, compareWithModel } from '../../src/oracle/compare/compare.ts';
import { lanesOf } from '../../src/oracle/compare/hypotheses/ternary.ts';
import { reportText } from '../../src/oracle/compare/report.ts';
import type { TraceSource } from '../../src/oracle/source.ts';
import { changed } from '../cli/mutants.ts';
import { tinyModel } from '../model/models.ts';
import { BUGS, blockwise, sickBackend, sums, tiedHead } from './bugs.ts';
import { ids, live, withModels } from './pairs.ts';
import { keptSource } from './sources.ts';

const both = { threads: 1 } as const;

/** A trace of one norm and its codes. */
function codesSource(rows: readonly (readonly number[])[], round?: (value: number) => number): TraceSource {
  const columns = rows[0].length;
  const x = Float32Array.from(rows.flat());
  const [codes, scales] = [new Int8Array(x.length), new Float32Array(rows.length)];
  quantizeRows(codes, scales, x, columns, rows.length);
  if (round !== undefined)
    x.forEach((value, i) => {
      codes[i] = round(Math.fround(value * scales[Math.floor(i / columns)]));
    });
  const data: Record<string, Float32Array | Int8Array> = { 'blk.0.attn_norm': x, 'blk.0.attn_norm.codes': codes };
  const tensors = Object.keys(data).map((name) => {
    return [
      name,
      { name, type: name.endsWith('codes') ? 'i8' : 'f32', position: 0, rows: rows.length, columns },
    ] as const;
  });
  return {
    label: 'rows',
    origin: {},
    tensors: new Map(tensors),
    read: async (name, position, count) => ({
      data: data[name].slice(position * columns, (position + count) * columns),
    }),
    close: async () => {},
  };
}

describe('codes', () => {
  const halves = [[127, 0.5, 1.5, -2.5, 63.5, -0.5, 7, 1.25]];
  it.each([
    ['half away', (v: number) => Math.sign(v) * Math.floor(Math.abs(v) + 0.5), 'round-half-away'],
    ['half up', (v: number) => Math.floor(v + 0.5), 'round-half-up'],
    ['down', Math.floor, 'round-floor'],
  ])('rounded %s', async (_, round, id) => {
    const { divergence } = await compareTraces(codesSource(halves), codesSource(halves, round));
    expect(divergence).toMatchObject({ name: 'blk.0.attn_norm.codes', position: 0 });
    expect(divergence?.findings[0]).toMatchObject({ id, error: 0 });
  });

  it('in blocks of 256 as llama.cpp has them for TQ1_0 and TQ2_0 are a variant, found at every product', async () => {
    const file = await tinyModel({});
    const q8k = sickBackend(blockwise(256, (greatest) => -127 / greatest));
    const result = await live([file, file], [both, { backend: q8k }]);
    expect(result).toMatchObject({ verdict: 'within-bounds', divergence: undefined });
    expect(result.variants.map(({ id }) => id)).toEqual(['codes-q8_k']);
    expect(reportText(result)).toMatch(/B computes in another way, from blk\.0\.attn_norm\.codes of token 0 .*Q8_K/);
    await withModels([file, file], [both, { backend: q8k }], async (a, b) => {
      const kept = await keptSource(b, ids, { select: ({ op }) => op !== 'quantizeRows' && op !== 'acc' });
      const withoutCodes = await compareWithModel(a, kept);
      expect(withoutCodes).toMatchObject({ verdict: 'within-bounds', variants: [{ id: 'codes-q8_k' }] });
    });
  });

  it('are not all that is needed: a value that is a roundings away from a half may go either way', async () => {
    const near = [[127, 2.5 + 2 ** -21, 7.75, 9.6]];
    const { divergence, variants } = await compareTraces(
      codesSource(near),
      codesSource(near, (v) => (v < 3 ? 2 : Math.round(v))),
    );
    expect(divergence).toBeUndefined();
    expect(variants).toMatchObject([{ id: 'codes-near-half' }]);
    const far = [[127, 2.6, 7.75, 9.6]];
    const wrong = await compareTraces(
      codesSource(far),
      codesSource(far, (v) => (v < 3 ? 2 : Math.round(v))),
    );
    expect(wrong.divergence?.name).toBe('blk.0.attn_norm.codes');
  });
});

describe('sums in 16 bits', () => {
  /** Constant activations, and a matrix of ones: the largest sums there can be. */
  const loud = async () =>
    changed(await tinyModel({}), (loose) => {
      for (const name of ['gate', 'up']) loose.setTrits(`blk.0.ffn_${name}.weight`, (i, old) => old[i % 256]);
      loose.setTrits('blk.0.ffn_down.weight', () => 1);
      loose.setFloats('blk.0.ffn_sub_norm.weight', () => 1);
    });

  it.each([
    ['wrapped', (sum: number) => (sum << 16) >> 16, 'sums-i16-wrapped'],
    ['cut off', (sum: number) => Math.max(-32768, Math.min(32767, sum)), 'sums-i16-saturated'],
  ])('%s', async (_, narrow, id) => {
    const file = await loud();
    const { divergence } = await live([file, file], [both, { backend: sickBackend(sums(narrow)) }]);
    expect(divergence?.name).toBe('blk.0.ffn_down.acc');
    expect(divergence?.findings[0]).toMatchObject({ id, error: 0 });
  });

  it('as the AVX2 kernels of bitnet.cpp add them, by the number that one printed', () => {
    const [trits, codes] = [new Int8Array(4096).fill(1), new Int8Array(4096).fill(127)];
    const wrapped = lanesOf(trits, 0, codes, 0, 4096, (sum) => (sum << 16) >> 16);
    // Native gave -4160.48 for a scale of 127 (formats.md 3.4), right is 4096.
    expect(wrapped).toBe(16 * -512 - 127 * 4096);
    expect(lanesOf(trits, 0, codes, 0, 4096, (sum) => sum)).toBe(127 * 4096);
  });
});

it('names the embedding in the place of a head of its own', async () => {
  const file = await tinyModel({ architecture: 'llama' });
  const own = await changed(file, (loose) => {
    const table = loose.tensor('token_embd.weight');
    if (loose.tensors.some(({ name }) => name === 'output.weight')) return;
    // Rows in the other order; values of two bytes each.
    const bytes = new Uint8Array(new Uint16Array(table.bytes.slice().buffer).reverse().buffer);
    loose.tensors.push({ ...table, name: 'output.weight', bytes });
  });
  const { divergence } = await live([own, own], [both, { backend: sickBackend(tiedHead) }]);
  expect(divergence).toMatchObject({ name: 'logits', position: 0, findings: [{ id: 'head-tied' }] });
});

it.each(['SiLU for the activation', 'gain + 1', 'codes cut, not rounded', 'scores not scaled'])(
  'tells that it is A that is wrong: %s',
  async (name) => {
    const file = await tinyModel({});
    const { divergence } = await live([file, file], [{ backend: sickBackend(BUGS[name].bug) }, both]);
    expect(divergence?.name).toMatch(BUGS[name].at);
    expect(divergence?.findings[0]?.id).toBe('reference-differs');
  },
);

it.each(['causal mask: sees the next token', 'scores not scaled'])(
  '%s, with keys and values in f32 besides',
  async (name) => {
    const file = await tinyModel({});
    await withModels([file, file], [both, { backend: sickBackend(BUGS[name].bug) }], async (a, b) => {
      const dump = await keptSource(b, ids, { session: { kType: 'f32', vType: 'f32' } });
      const { divergence } = await compareWithModel(a, dump);
      expect(divergence?.name).toMatch(BUGS[name].at);
      expect(divergence?.findings[0]?.id).toBe(BUGS[name].id);
      expect(divergence?.findings[0]?.says).toContain('f32');
    });
  },
);

it('names no mistake that explains most of a difference and not all', async () => {
  const file = await tinyModel({});
  const silu = { backend: sickBackend(BUGS['SiLU for the activation'].bug) };
  await withModels([file, file], [both, silu], async (a, b) => {
    const change = (name: string, data: Float32Array) => {
      if (name !== 'blk.0.ffn_act') return;
      for (let i = 0; i < data.length; i += 2) data[i] *= 1.01;
    };
    const { divergence } = await compareWithModel(a, await keptSource(b, ids, { change }));
    expect(divergence).toMatchObject({ name: 'blk.0.ffn_act', position: 0, findings: [] });
  });
});

describe('NaN', () => {
  it('is equal to NaN, and is told where it arises', async () => {
    const file = await tinyModel({});
    await withModels([file, file], [both, both], async (a, b) => {
      const change = (name: string, data: Float32Array, columns: number) => {
        if (name === 'blk.1.attn_norm') data[5 * columns + 7] = Number.NaN;
      };
      const sick = await keptSource(b, ids, { change });
      const { divergence } = await compareWithModel(a, sick);
      expect(divergence).toMatchObject({ name: 'blk.1.attn_norm', position: 5, column: 7, ratio: Infinity });
      expect(divergence?.descriptions).toEqual(['NaN arises here, in column 7: what went in is finite']);
      expect(await compareTraces(sick, await keptSource(b, ids, { change }))).toMatchObject({ verdict: 'equal' });
    });
  });
});

describe('what is said of numbers that nothing explains', () => {
  const cases: [string, (data: Float32Array, columns: number) => void, RegExp][] = [
    ['zeros', (data) => data.fill(0), /nothing: all values are 0/],
    [
      'a factor',
      (data) =>
        data.forEach((v, i) => {
          data[i] = 3 * v;
        }),
      /3 times ours/,
    ],
    [
      'a summand',
      (data) =>
        data.forEach((v, i) => {
          data[i] = v + 0.5;
        }),
      /ours and 0\.5 throughout/,
    ],
    [
      'the last columns',
      (data, columns) =>
        data.forEach((v, i) => {
          if (i % columns >= 200) data[i] = v * Math.sin(i);
        }),
      /only the last 5[56] columns/,
    ],
    [
      'one head',
      (data, columns) =>
        data.forEach((v, i) => {
          if (i % columns >= 64 && i % columns < 128) data[i] = v * Math.sin(i);
        }),
      /only in head 1 of 4/,
    ],
    [
      'a shift',
      (data, columns) => {
        for (let row = 0; row < data.length; row += columns)
          data
            .subarray(row, row + columns)
            .set([...data.subarray(row + 3, row + columns), ...data.subarray(row, row + 3)]);
      },
      /shifted by 3 columns/,
    ],
    [
      'another order',
      (data, columns) => {
        for (let row = 0; row < data.length; row += columns) data.subarray(row, row + columns).sort();
      },
      /the same values in another order/,
    ],
    [
      'a ceiling',
      (data) =>
        data.forEach((v, i) => {
          data[i] = Math.min(v, 0.1);
        }),
      /cut off at 0\.1/,
    ],
    ['rows of the token before', (data, columns) => data.copyWithin(columns, 0), /the rows of the token before/],
    [
      'f16',
      (data) =>
        data.forEach((v, i) => {
          data[i] = Number(v.toPrecision(3));
        }),
      /cosine 1\.0000/,
    ],
  ];
  it.each(cases)('%s', async (_, spoil, said) => {
    const file = await tinyModel({});
    await withModels([file, file], [both, both], async (a, b) => {
      const change = (name: string, data: Float32Array, columns: number) => {
        if (name === 'blk.0.attn') spoil(data, columns);
      };
      const result = await compareWithModel(a, await keptSource(b, ids, { change }));
      expect(result.divergence?.name).toBe('blk.0.attn');
      expect(reportText(result)).toMatch(said);
    });
  });
});
