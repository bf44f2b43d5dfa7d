/** Whole models on a backend: passed by ours, and every kind of mistake is an outcome that says where. */
import { describe, expect, it } from 'vitest';
import type { Backend, Buf } from '../../src/index.ts';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { createWasmBackend } from '../../src/kernels/wasm/open.ts';
import { runModelConformance } from '../../src/oracle/conformance.ts';
import { createNodeHost } from '../../src/platform/host-node.ts';

const wasm = (threads: number) => async () => createWasmBackend({ threads }, await createNodeHost());

/** The `ts` backend with some of its methods replaced; `this` is the whole one. */
function changed(change: (real: Backend) => Partial<Backend>): () => Promise<Backend> {
  return async () => {
    const real = createTsBackend();
    const changes = change(real) as Record<string | symbol, unknown>;
    return new Proxy(real, {
      get: (_, key) => {
        const value = changes[key] ?? Reflect.get(real, key, real);
        return typeof value === 'function' ? value.bind(real) : value;
      },
    });
  };
}

const bad = (outcomes: readonly { name: string; ok: boolean; detail: string }[]) => outcomes.filter(({ ok }) => !ok);

describe('the models', () => {
  it('are the same on the wasm backend, with any number of threads', async () => {
    const seen: string[] = [];
    const outcomes = await runModelConformance(wasm(1), {
      same: [wasm(2), wasm(3)],
      onOutcome: ({ name }) => seen.push(name),
    });
    expect(bad(outcomes)).toEqual([]);
    expect(seen).toEqual(outcomes.map(({ name }) => name));
    expect(new Set(seen).size).toBe(seen.length);
    for (const one of [
      'gemma3: trace, keys and values as f16',
      'qwen3: splits',
      'bitnet-b1.58: types',
      'llama: same, opened as number 1',
    ]) {
      expect(seen).toContain(`model ${one}`);
    }
  }, 240_000);

  it('may sum otherwise within bounds, where a backend says so', async () => {
    // Off by a last place in every value. The ts backend computes at once, so this is behind the op.
    const nudge = (out: Buf) => {
      const { data } = out as Buf & { data: Float32Array };
      for (let i = 0; i < data.length; i++) data[i] *= 1 + 2 ** -23;
    };
    const open = (exact: boolean) =>
      changed((real) => ({
        info: { ...real.info, exact },
        rmsNorm(out, x, gain, eps, n) {
          real.rmsNorm(out, x, gain, eps, n);
          nudge(out);
        },
        gatedSilu(out, gate, up, n) {
          real.gatedSilu(out, gate, up, n);
          nudge(out);
        },
      }));
    const outcomes = await runModelConformance(open(false), { architectures: ['llama'] });
    expect(bad(outcomes.filter(({ name }) => name.includes('trace')))).toEqual([]);
    const exact = await runModelConformance(open(true), { architectures: ['llama'] });
    expect(exact[0].ok).toBe(false);
    expect(exact[0].detail).toMatch(/^blk\.0\.attn_norm, .*rmsNorm of embd: \[0, 0\]: expected .*, bound 0$/);
  }, 60_000);
});

describe('a mistake is named', () => {
  const cases: readonly (readonly [
    what: string,
    change: (real: Backend) => Partial<Backend>,
    found: Record<string, RegExp>,
  ])[] = [
    [
      'the wrong activation',
      (real) => ({ gatedRelu2: (...a) => real.gatedSilu(...a) }),
      { trace: /^blk\.0\.ffn_act, .* gatedRelu2 of blk\.0\.ffn_gate and blk\.0\.ffn_up/ },
    ],
    [
      'the wrong style of rope',
      (real) => ({ rope: (x, t, h, d, _, n) => real.rope(x, t, h, d, 'norm', n) }),
      { trace: /^blk\.0\.attn_q_rope, .* rope of blk\.0\.attn_q/ },
    ],
    [
      'one integer',
      (real) => ({
        ternaryMatmul: (out, w, x, n) => {
          real.ternaryMatmul(out, w, x, n);
          if (w.name === 'blk.1.ffn_up.weight') real.write(out, Float32Array.of(1.5));
        },
      }),
      { trace: /^blk\.1\.ffn_up\.acc, / },
    ],
    [
      'positions off by one',
      (real) => ({
        attention: (out, q, s, layer, scale) =>
          real.attention(out, q, { ...s, position: Math.max(0, s.position - 1) }, layer, scale),
      }),
      { splits: /tokens a pass: logit/, cache: /after a rewind: logit/ },
    ],
    [
      'memory that is kept',
      (real) => ({ free: () => undefined, memory: real.memory }),
      { memory: /leaves \d+ bytes behind/ },
    ],
    [
      'a top that leaves too many out',
      (real) => ({
        denseTopK: (out, w, x, _, n) => {
          real.denseMatmul(out, w, x, n);
          real.write(out, new Float32Array(500).fill(-Infinity));
        },
      }),
      { top: /the 7 greatest/ },
    ],
    [
      'an op that is missing',
      () => ({
        rope: () => {
          throw new Error('no rope here');
        },
      }),
      { trace: /^failed: no rope here/ },
    ],
  ];
  it.each(cases)(
    '%s',
    async (_, change, found) => {
      const outcomes = await runModelConformance(changed(change), { architectures: ['bitnet-b1.58'] });
      const failed = bad(outcomes);
      for (const [check, detail] of Object.entries(found)) {
        expect(failed.find(({ name }) => name.includes(check))?.detail, check).toMatch(detail);
      }
    },
    60_000,
  );

  it('threads that decide', async () => {
    const other = changed((real) => ({
      add: (out, a, b, n) => {
        real.add(out, a, b, n);
        real.scale(out, out, 1.0001, n);
      },
    }));
    const outcomes = await runModelConformance(async () => createTsBackend(), {
      architectures: ['llama'],
      same: [other],
    });
    expect(bad(outcomes).map(({ name }) => name)).toEqual(['model llama: same, opened as number 0']);
  }, 60_000);
});
