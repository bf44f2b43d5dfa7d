/** What `compare` finds, and what it calls it: bugs made on purpose, and none where there is none. */
import { afterAll, describe, expect, it } from 'vitest';
import type { LoadOptions } from '../../src/index.ts';
import { ARCHITECTURES } from '../../src/model/architectures.ts';
import { compareTraces, compareWithModel } from '../../src/oracle/compare/compare.ts';
import { liveSource } from '../../src/oracle/compare/live.ts';
import type { Comparison } from '../../src/oracle/compare/types.ts';
import type { TraceSource } from '../../src/oracle/source.ts';
import { changed, f32, type Loose } from '../cli/mutants.ts';
import { tinyModel } from '../model/models.ts';
import { recode } from '../model/recode.ts';
import { BUGS, sickBackend } from './bugs.ts';
import { ids, live, withModels } from './pairs.ts';
import { type KeptOptions, keptSource } from './sources.ts';

/** SHOW_BUGS=1 prints what each is called. */
const table: string[] = [];
const headline = ({ verdict, divergence: d }: Comparison) =>
  d === undefined
    ? verdict
    : `token ${d.position}, ${d.name}: ${d.findings[0]?.says ?? d.descriptions[0] ?? 'unknown'}`;
afterAll(() => {
  if (process.env.SHOW_BUGS !== undefined) console.log(table.join('\n'));
});

describe('bugs of a backend', () => {
  it.each(Object.entries(BUGS))('%s', async (name, { bug, id, at }) => {
    const file = await tinyModel({});
    const result = await live([file, file], [{ threads: 1 }, { backend: sickBackend(bug) }]);
    table.push(`${name} -> ${headline(result)}`);
    const { verdict, divergence } = result;
    expect(verdict).toBe('different');
    expect(divergence?.name).toMatch(at);
    expect(divergence?.findings[0]?.id ?? '', JSON.stringify(divergence?.findings)).toBe(id);
  });
});

describe('no false alarms', () => {
  it.each([...ARCHITECTURES.keys()])('%s: kernels, and traces with gaps', async (architecture) => {
    const file = await tinyModel({ architecture: architecture as 'llama' });
    await withModels([file, file], [{ threads: 1 }, { backend: 'ts' }], async (a, b) => {
      expect(await compareWithModel(a, liveSource(b, ids, 'B'), { exact: true })).toMatchObject({
        verdict: 'equal',
        variants: [],
        onlyA: [],
        onlyB: [],
      });
      const kept: Record<string, KeptOptions> = {
        everything: { select: () => true },
        'no codes': { select: ({ type }) => type === 'f32' },
        'ends of layers': { select: ({ name }) => /out$|logits/.test(name) },
        'logits alone': { select: ({ name }) => name === 'logits' },
        printed: { printed: true },
        'printed, without codes': { printed: true, select: ({ type }) => type === 'f32' },
      };
      for (const [what, options] of Object.entries(kept)) {
        const result = await compareWithModel(a, await keptSource(b, ids, options));
        expect(result.divergence, what).toBeUndefined();
        expect(result.variants, what).toEqual([]);
      }
    });
  });

  it.each(['simd', 'scalar'] as const)('the %s build', async (kernels) => {
    const file = await tinyModel({});
    const result = await live([file, file], [{ backend: 'ts' }, { backend: 'wasm', kernels, threads: 2 }], {
      exact: true,
    });
    expect(result.verdict).toBe('equal');
  });

  it.each(['arm64', 'rows4', 'TL2', 'TQ1_0', 'TQ2_0'] as const)('%s and I2_S of the same trits', async (container) => {
    const file = await tinyModel({ seed: 3 });
    const coarse = (scale: number) => Math.round(scale * 64) / 64 || 1 / 64;
    const [a, b] = await Promise.all([
      recode(file, 'x86', { scale: coarse }),
      recode(file, container, { scale: coarse }),
    ]);
    const i2sLayout = container === 'arm64' || container === 'rows4' ? container : 'x86';
    const result = await live(
      [a, b],
      [
        { threads: 1, i2sLayout: 'x86' },
        { threads: 1, i2sLayout },
      ],
      { exact: true },
    );
    expect(result.verdict).toBe('equal');
  });
});

describe('other ways of computing', () => {
  it.each(['f16', 'f32'] as const)('a cache in another type than %s', async (type) => {
    const file = await tinyModel({});
    const other = type === 'f16' ? 'f32' : 'f16';
    const session = { kType: type, vType: type };
    const options = [{ threads: 1 }, { threads: 1 }] as const;
    const result = await live([file, file], options, { session }, { kType: other, vType: other });
    expect(result).toMatchObject({ verdict: 'within-bounds', divergence: undefined });
    expect(result.variants.map(({ id }) => id)).toEqual([`kv-${other}`]);
    const exact = await live([file, file], options, { session, exact: true }, { kType: other, vType: other });
    expect(exact).toMatchObject({ verdict: 'different', divergence: { name: 'blk.0.attn', position: 0 } });
  });
});

describe('bugs of a file', () => {
  const files: Record<
    string,
    { change: (loose: Loose) => void; id: string | undefined; at: RegExp; load?: LoadOptions; position?: number }
  > = {
    'gate and up swapped': {
      change: (loose) => {
        const [gate, up] = [loose.tensor('blk.0.ffn_gate.weight'), loose.tensor('blk.0.ffn_up.weight')];
        [gate.bytes, up.bytes] = [up.bytes, gate.bytes];
      },
      id: 'weights-swapped',
      at: /^blk\.0\.ffn_gate\.acc$/,
    },
    'keys and values swapped': {
      change: (loose) => {
        const [k, v] = [loose.tensor('blk.1.attn_k.weight'), loose.tensor('blk.1.attn_v.weight')];
        [k.bytes, v.bytes] = [v.bytes, k.bytes];
      },
      id: 'weights-swapped',
      at: /^blk\.1\.attn_k\.acc$/,
    },
    'layout arm64 read as x86': {
      change: () => {},
      id: 'layout-x86-as-arm64',
      at: /^blk\.0\.attn_q\.acc$/,
      load: { i2sLayout: 'arm64' },
    },
    'layout rows4 read as x86': {
      change: () => {},
      id: 'layout-x86-as-rows4',
      at: /^blk\.0\.attn_q\.acc$/,
      load: { i2sLayout: 'rows4' },
    },
    'a matrix transposed': {
      change: (loose) => loose.setTrits('blk.0.attn_q.weight', (i, old) => old[(i % 256) * 256 + Math.floor(i / 256)]),
      id: 'matrix-transposed',
      at: /^blk\.0\.attn_q\.acc$/,
    },
    'another scale': {
      change: (loose) => loose.setScale(loose.tensor('blk.1.ffn_down.weight'), (scale) => 1.5 * scale),
      id: 'constant-factor',
      at: /^blk\.1\.ffn_down$/,
    },
    'the inverse of a scale': {
      change: (loose) => loose.setScale(loose.tensor('blk.0.attn_v.weight'), (scale) => 1 / scale),
      id: 'weight-scale-divided',
      at: /^blk\.0\.attn_v$/,
    },
    'norms swapped': {
      change: (loose) => {
        const [a, b] = [loose.tensor('blk.0.attn_norm.weight'), loose.tensor('blk.0.ffn_norm.weight')];
        [a.bytes, b.bytes] = [b.bytes, a.bytes];
      },
      id: 'gain-of-other',
      at: /^blk\.0\.attn_norm$/,
    },
    'gains less one': {
      change: (loose) => {
        const { bytes } = loose.tensor('output_norm.weight');
        const old = new Float32Array(bytes.slice().buffer);
        loose.setFloats('output_norm.weight', (i) => old[i] - 1);
      },
      id: 'gain-minus-one',
      at: /^output_norm$/,
    },
    'another rope base': {
      change: (loose) => loose.metadata.set('bitnet-b1.58.rope.freq_base', f32(500000)),
      id: 'rope-base',
      at: /^blk\.0\.attn_q_rope$/,
      position: 1,
    },
    'another eps': {
      change: (loose) => loose.metadata.set('bitnet-b1.58.attention.layer_norm_rms_epsilon', f32(1e-3)),
      id: 'norm-eps',
      at: /^blk\.0\.attn_norm$/,
    },
    'another architecture': {
      change: (loose) => loose.relabel('bitnet'),
      id: 'activation-silu',
      at: /^blk\.0\.ffn_act$/,
    },
    'one row of the embedding': {
      change: (loose) => {
        const table = loose.tensor('token_embd.weight');
        const row = table.bytes.length / 512;
        table.bytes.copyWithin(ids[7] * row, 3 * row, 4 * row);
      },
      // The head is the same table: a column of it is wrong before the token is met.
      id: undefined,
      at: /^logits$/,
    },
  };

  it.each(Object.entries(files))('%s', async (name, { change, id, at, load = {}, position = 0 }) => {
    const file = await tinyModel({});
    const other = await changed(file, change);
    await withModels(
      [file, other],
      [
        { threads: 1, i2sLayout: 'x86' },
        { threads: 1, i2sLayout: 'x86', ...load },
      ],
      async (a, b) => {
        // A file that says of itself that it is of another architecture would be refused.
        const source = liveSource(b, ids, 'B');
        const result = await compareWithModel(a, Object.assign(source, { origin: { tokens: ids } }));
        table.push(`file: ${name} -> ${headline(result)}`);
        const { divergence } = result;
        expect(divergence?.name).toMatch(at);
        expect(divergence?.findings[0]?.id, JSON.stringify(divergence)).toBe(id);
        expect(divergence?.position).toBe(position);
      },
    );
  });
});

describe('two traces, without a model', () => {
  const layerNoise = (name: string, data: Float32Array) => {
    if (!/attn_norm$/.test(name)) return;
    for (let i = 0; i < data.length; i++) data[i] *= 1 + ((i % 3) - 1) * 1.2e-7;
  };

  it.each([...ARCHITECTURES.keys()])('%s: the same, nearly the same, and in print', async (architecture) => {
    const file = await tinyModel({ architecture: architecture as 'llama' });
    await withModels([file, file], [{ threads: 1 }, { threads: 1 }], async (a, b) => {
      const whole = await keptSource(a, ids, { select: () => true });
      expect(
        await compareTraces(whole, await keptSource(b, ids, { select: () => true }), { exact: true }),
      ).toMatchObject({ verdict: 'equal' });
      for (const options of [
        { printed: true },
        { change: layerNoise },
        { session: { kType: 'f32', vType: 'f32' } },
      ] as const) {
        const result = await compareTraces(whole, await keptSource(b, ids, options));
        expect(result.divergence, JSON.stringify(options)).toBeUndefined();
        expect(result.verdict, JSON.stringify(options)).toBe('within-bounds');
      }
    });
  });

  it('may be the other way round: what was printed first, and began late', async () => {
    const file = await tinyModel({});
    await withModels(
      [file, file],
      [{ threads: 1 }, { backend: sickBackend(BUGS['SiLU for the activation'].bug) }],
      async (a, b) => {
        const printed = await keptSource(a, ids, { printed: true });
        // As native has its last layer: rows of the last token only.
        const late = (source: TraceSource): TraceSource => ({
          ...source,
          tensors: new Map(
            [...source.tensors].map(([name, t]) => [name, /blk\.1/.test(name) ? { ...t, position: 18, rows: 1 } : t]),
          ),
        });
        expect(await compareTraces(late(printed), await keptSource(a, ids))).toMatchObject({
          verdict: 'within-bounds',
          divergence: undefined,
        });
        const { divergence } = await compareTraces(late(printed), await keptSource(b, ids));
        // Six values of a row that is mostly near zero may not tell; those behind the norm do.
        expect(divergence?.name).toMatch(/^blk\.0\.ffn_(act|sub_norm)$/);
        expect(divergence?.position).toBe(0);
      },
    );
  });

  it.each([
    'SiLU for the activation',
    'gate and up swapped',
    'rope of the other style',
    'gain + 1',
    'codes cut, not rounded',
    'residual left out',
  ])('%s', async (name) => {
    const { bug, id, at } = BUGS[name];
    const file = await tinyModel({});
    await withModels([file, file], [{ threads: 1 }, { backend: sickBackend(bug) }], async (a, b) => {
      const { divergence } = await compareTraces(await keptSource(a, ids), await keptSource(b, ids));
      expect(divergence?.name).toMatch(at);
      expect(divergence?.findings[0]?.id, JSON.stringify(divergence)).toBe(id);
    });
  });
});

describe('traces with gaps', () => {
  const f32Only: KeptOptions = { select: ({ op }) => op !== 'quantizeRows' && op !== 'acc' };
  const noNorms: KeptOptions = {
    select: ({ type, op }) => type === 'f32' && op !== 'rmsNorm' && op !== 'quantizeRows',
  };
  const printed: KeptOptions = { printed: true };
  const cases: [string, string, KeptOptions, string, RegExp][] = [
    ['SiLU for the activation', 'printed', printed, 'activation-silu', /ffn_act$/],
    ['gate and up swapped', 'printed', printed, 'gate-up-swapped', /ffn_act$/],
    ['rope of the other style', 'printed', printed, 'rope-style-norm', /q_rope$/],
    ['sub-norm left out', 'printed', printed, 'norm-missing', /ffn_sub_norm/],
    ['residual left out', 'printed', printed, 'residual-missing', /attn_residual$|out$/],
    ['not multiplied by the scale of the weights', 'printed', printed, 'weight-scale-missing', /attn_q$/],
    ['codes cut, not rounded', 'no codes', f32Only, 'round-truncate', /attn_q$/],
    ['activations quantised in blocks of 64', 'no codes', f32Only, 'codes-per-block-64', /attn_q$/],
    ['sub-norm left out', 'no norms', noNorms, 'norm-missing', /ffn_down$/],
    ['gain + 1', 'no norms', noNorms, 'gain-plus-one', /attn_q$/],
    ['SiLU for the activation', 'logits alone', { select: ({ name }) => name === 'logits' }, '', /^logits$/],
  ];
  it.each(cases)('%s, %s', async (name, _, options, id, at) => {
    const file = await tinyModel({});
    await withModels([file, file], [{ threads: 1 }, { backend: sickBackend(BUGS[name].bug) }], async (a, b) => {
      const { divergence } = await compareWithModel(a, await keptSource(b, ids, options));
      expect(divergence?.name).toMatch(at);
      expect(divergence?.findings[0]?.id ?? '', JSON.stringify(divergence)).toBe(id);
    });
  });
});
