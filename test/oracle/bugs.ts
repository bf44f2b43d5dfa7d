/**
 * Backends with one bug each: everything is done by a real backend, but for one op that goes wrong in one way. For oracles, which
 * have to find it.
 * @module
 */

import type { Backend, Buf, KvCache, QuantizedBuf, RopeStyle, Segment, Weight } from '../../src/kernels/interface.ts';
import { attention } from '../../src/kernels/ts/attention.ts';
import { createTsBackend } from '../../src/kernels/ts/backend.ts';
import { createRopeAngles } from '../../src/model/rope-angles.ts';
import { roundHalfEven } from '../../src/numeric/exp.ts';

/** What a bug may use: the real backend, and the arrays behind its buffers. */
export interface Sick {
  readonly real: Backend;
  readonly data: (buf: Buf) => Float32Array;
  readonly codes: (buf: QuantizedBuf) => { codes: Int8Array; scales: Float32Array };
  readonly kv: (kv: KvCache) => {
    keys(layer: number, head: number, position: number, count: number): Float32Array;
    values(layer: number, head: number, position: number, count: number): Float32Array;
  };
}

export type Bug = (sick: Sick) => Partial<Backend>;

/** The `ts` backend with this bug; it is synchronous, so a bug can do as it likes with what is in memory. */
export function sickBackend(bug: Bug): () => Promise<Backend> {
  return async () => {
    const real = createTsBackend();
    const sick: Sick = {
      real,
      data: (buf) => (buf as unknown as { data: Float32Array }).data,
      codes: (buf) => buf as unknown as { codes: Int8Array; scales: Float32Array },
      kv: (kv) => kv as unknown as ReturnType<Sick['kv']>,
    };
    const changes = bug(sick);
    return new Proxy(real, {
      get(target, name) {
        if (name in changes) return changes[name as keyof Backend];
        const value: unknown = Reflect.get(target, name);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  };
}

const f = Math.fround;

/** Every value of the result of an elementwise op anew. */
export function gated(of: (gate: number, up: number, real: number) => number): Bug {
  return ({ real, data }) => {
    const change = (op: 'gatedRelu2' | 'gatedSilu' | 'gatedGelu') => (out: Buf, gate: Buf, up: Buf, n: number) => {
      const [g, u] = [data(gate).slice(), data(up).slice()];
      real[op](out, gate, up, n);
      const to = data(out);
      for (let i = 0; i < n * (out.shape[1] ?? 1); i++) to[i] = of(g[i], u[i], to[i]);
    };
    return { gatedRelu2: change('gatedRelu2'), gatedSilu: change('gatedSilu'), gatedGelu: change('gatedGelu') };
  };
}

/** The product, then something done to it. */
export function product(
  change: (out: Float32Array, weight: Weight, x: { codes: Int8Array; scales: Float32Array }, n: number) => void,
  only = '',
): Bug {
  return ({ real, data, codes }) => ({
    ternaryMatmul(out, weight, x, n) {
      real.ternaryMatmul(out, weight, x, n);
      if (weight.name.includes(only)) change(data(out), weight, codes(x), n);
    },
  });
}

export function norm(
  change: (out: Float32Array, x: Float32Array, gain: Float32Array, eps: number) => void,
  where: (columns: number) => boolean = () => true,
): Bug {
  return ({ real, data }) => ({
    rmsNorm(out, x, gain, eps, n) {
      const gains = data(gain);
      const before = data(x).slice();
      real.rmsNorm(out, x, gain, eps, n);
      if (!where(gains.length)) return;
      for (let row = 0; row < n; row++) {
        const [from, to] = [row * gains.length, (row + 1) * gains.length];
        change(data(out).subarray(from, to), before.subarray(from, to), gains, eps);
      }
    },
  });
}

/** Attention with something other about it: its own scale, head map, or reach. */
export function attentive(options: {
  scale?: (scale: number) => number;
  head?: (head: number, nKvHeads: number) => number;
  reach?: number;
}): Bug {
  return ({ data, kv }) => ({
    attention(out: Buf, q: Buf, segment: Segment, layer: number, scale: number) {
      const { nHeads, nKvHeads, headDim } = segment.kv.shape;
      const {
        scale: other = (value) => value,
        head = (h, kvHeads) => Math.floor((h * kvHeads) / nHeads),
        reach = 0,
      } = options;
      const cache = kv(segment.kv);
      const end = segment.position + segment.count;
      const [from, to] = [data(q), data(out)];
      for (let row = 0; row < segment.count; row++) {
        // One query head at a time, as a model with one head has it.
        for (let h = 0; h < nHeads; h++) {
          const at = ((segment.row + row) * nHeads + h) * headDim;
          const seen = Math.max(1, Math.min(end, segment.position + row + 1 + reach));
          const reader = {
            keys: (_: number, count: number) => cache.keys(layer, head(h, nKvHeads), 0, count),
            values: (_: number, count: number) => cache.values(layer, head(h, nKvHeads), 0, count),
          };
          const one = new Float32Array(headDim);
          attention(
            one,
            from.slice(at, at + headDim),
            reader,
            { row: 0, count: 1, position: seen - 1 },
            1,
            1,
            headDim,
            other(scale),
          );
          to.set(one, at);
        }
      }
    },
  });
}

export const quantised = (round: (value: number) => number, scaleOf = (absmax: number) => f(127 / absmax)): Bug => {
  return ({ data, codes }) => ({
    quantizeRows(out, x, n) {
      const [{ codes: to, scales }, from] = [codes(out), data(x)];
      for (let row = 0; row < n; row++) {
        const at = row * out.columns;
        const absmax = Math.max(f(1e-5), ...from.subarray(at, at + out.columns).map(Math.abs));
        scales[row] = scaleOf(absmax);
        for (let i = at; i < at + out.columns; i++)
          to[i] = Math.max(-128, Math.min(127, round(f(from[i] * scales[row]))));
      }
    },
  });
};

/** Codes in blocks, each with its own scale, as quants of llama.cpp have them; `scaleOf` the value of largest magnitude. */
export function blockwise(block: number, scaleOf: (greatest: number) => number): Bug {
  return ({ data, codes, real }) => {
    const steps = new Map<QuantizedBuf, Float32Array>();
    return {
      quantizeRows(out, x, n) {
        real.quantizeRows(out, x, n);
        const [{ codes: to }, from] = [codes(out), data(x)];
        const own = new Float32Array((n * out.columns) / block);
        for (let b = 0; b < own.length; b++) {
          const values = from.subarray(b * block, (b + 1) * block);
          const greatest = values.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
          const scale = f(scaleOf(greatest));
          own[b] = 1 / scale;
          values.forEach((value, i) => {
            to[b * block + i] = Math.min(127, roundHalfEven(f(value * scale)));
          });
        }
        steps.set(out, own);
      },
      ternaryMatmul(out, weight, x, n) {
        const { bytes } = weight as unknown as { bytes: Uint8Array };
        const [to, { codes: from }, own] = [data(out), codes(x), steps.get(x)!];
        const { rows, columns } = weight;
        const trit = (row: number, i: number) => {
          const at = (row * Math.ceil(columns / 128) + (i >> 7)) * 32 + (i & 31);
          return ((bytes[at] >> (6 - 2 * ((i >> 5) & 3))) & 3) - 1;
        };
        for (let token = 0; token < n; token++) {
          for (let row = 0; row < rows; row++) {
            let sum = 0;
            for (let i = 0; i < columns; i++) {
              const at = token * columns + i;
              sum += trit(row, i) * from[at] * own[Math.floor(at / block)];
            }
            to[token * rows + row] = sum * weight.scale;
          }
        }
      },
    };
  };
}

/** The product made again of sums that went through `change`. */
export function sums(change: (sum: number) => number): Bug {
  return product((out, weight, { scales }, n) => {
    for (let i = 0; i < n * weight.rows; i++) {
      const scale = scales[Math.floor(i / weight.rows)];
      const sum = Math.round((out[i] * scale) / weight.scale);
      out[i] = f(f(change(sum) / scale) * weight.scale);
    }
  });
}

/** The embedding in place of a head of its own. */
export const tiedHead: Bug = ({ real }) => {
  let table: Weight | undefined;
  return {
    async upload(source) {
      const weight = await real.upload(source);
      if (source.name === 'token_embd.weight') table = weight;
      return weight;
    },
    denseMatmul(out, weight, x, n) {
      real.denseMatmul(out, weight.name === 'output.weight' ? table! : weight, x, n);
    },
  };
};

/** Name of the bug, what `compare` must call it, and the op at which it must be found (as in the names of tensors). */
export const BUGS: Readonly<Record<string, { readonly bug: Bug; readonly id: string; readonly at: RegExp }>> = {
  'SiLU for the activation': {
    bug: ({ real }) => ({ gatedRelu2: (out, gate, up, n) => real.gatedSilu(out, gate, up, n) }),
    id: 'activation-silu',
    at: /^blk\.0\.ffn_act$/,
  },
  'gelu for the activation': {
    bug: ({ real }) => ({ gatedRelu2: (out, gate, up, n) => real.gatedGelu(out, gate, up, n) }),
    id: 'activation-gelu',
    at: /^blk\.0\.ffn_act$/,
  },
  'ReLU that is not squared': {
    bug: gated((g, u) => Math.max(0, g) * u),
    id: 'activation-relu',
    at: /^blk\.0\.ffn_act$/,
  },
  'gate and up swapped': {
    bug: ({ real }) => ({ gatedRelu2: (out, gate, up, n) => real.gatedRelu2(out, up, gate, n) }),
    id: 'gate-up-swapped',
    at: /^blk\.0\.ffn_act$/,
  },
  'rope of the other style': {
    bug: ({ real }) => ({
      rope: (x, angles, heads, dim, style, n) =>
        real.rope(x, angles, heads, dim, style === 'neox' ? 'norm' : 'neox', n),
    }),
    id: 'rope-style-norm',
    at: /^blk\.0\.attn_q_rope$/,
  },
  'rope of keys left out': {
    bug: ({ real }) => ({
      rope: (x, angles, heads, dim, style, n) => {
        if (heads === 4) real.rope(x, angles, heads, dim, style, n);
      },
    }),
    id: 'rope-missing',
    at: /^blk\.0\.attn_k_rope$/,
  },
  'rope turned backwards': {
    bug: ({ real, data }) => ({
      rope: (x, angles, heads, dim, style, n) => {
        const turn = () => {
          const values = data(angles);
          for (let i = 0; i < n * dim; i++) if (i % dim >= dim / 2) values[i] = -values[i];
        };
        turn();
        real.rope(x, angles, heads, dim, style, n);
        turn();
      },
    }),
    id: 'rope-backwards',
    at: /^blk\.0\.attn_q_rope$/,
  },
  ...Object.fromEntries(
    [1, -1].map((by) => [
      `positions of rope off by ${by}`,
      {
        bug: ({ real, data }: Sick) => ({
          // Rows of the angles are rewritten for the position beside; the first pair turns by one radian a position.
          rope: (x: Buf, angles: Buf, heads: number, dim: number, style: RopeStyle, n: number) => {
            const kept = data(angles).slice();
            const write = createRopeAngles({ headDim: dim, ropeBase: 10000, ropeFactor: 1 }, undefined);
            const first = Math.round(Math.atan2(kept[dim / 2], kept[0]) + 2 * Math.PI * turns(kept, dim));
            for (let row = 0; row < n; row++) write(data(angles), row, first + row + by);
            real.rope(x, angles, heads, dim, style, n);
            data(angles).set(kept);
          },
        }),
        id: 'rope-position',
        at: /^blk\.0\.attn_q_rope$/,
      },
    ]),
  ),
  'gain of a norm left out': {
    bug: norm((out, x, _, eps) => rms(out, x, eps, () => 1)),
    id: 'gain-missing',
    at: /^blk\.0\.attn_norm$/,
  },
  'gain + 1': {
    bug: norm((out, x, gain, eps) => rms(out, x, eps, (i) => gain[i] + 1)),
    id: 'gain-plus-one',
    at: /^blk\.0\.attn_norm$/,
  },
  'sub-norm left out': {
    bug: norm(
      (out, x) => out.set(x),
      (columns) => columns === 768,
    ),
    id: 'norm-missing',
    at: /^blk\.0\.ffn_sub_norm$/,
  },
  'another eps': {
    bug: norm((out, x, gain) => rms(out, x, 1e-3, (i) => gain[i])),
    id: 'norm-eps',
    at: /^blk\.0\.attn_norm$/,
  },
  'an eps of its own': {
    bug: norm((out, x, gain) => rms(out, x, 0.03, (i) => gain[i])),
    id: 'norm-eps-solved',
    at: /^blk\.0\.attn_norm$/,
  },
  'mean subtracted': {
    bug: norm((out, x, gain, eps) => {
      const mean = x.reduce((a, b) => a + b, 0) / x.length;
      rms(
        out,
        x.map((value) => value - mean),
        eps,
        (i) => gain[i],
      );
    }),
    id: 'layer-norm',
    at: /^blk\.0\.attn_norm$/,
  },
  'not multiplied by the scale of the weights': {
    bug: product((out, w) =>
      out.forEach((v, i) => {
        out[i] = v / w.scale;
      }),
    ),
    id: 'weight-scale-missing',
    at: /^blk\.0\.attn_q$/,
  },
  'divided by the scale of the weights': {
    bug: product((out, w) =>
      out.forEach((v, i) => {
        out[i] = v / w.scale / w.scale;
      }),
    ),
    id: 'weight-scale-divided',
    at: /^blk\.0\.attn_q$/,
  },
  'multiplied by the scale of the activations': {
    bug: product((out, w, { scales }, n) => {
      for (let i = 0; i < n * w.rows; i++) out[i] *= scales[Math.floor(i / w.rows)] ** 2;
    }),
    id: 'activation-scale-multiplied',
    at: /^blk\.0\.attn_q$/,
  },
  'not multiplied by the absmax of the activations': {
    bug: product((out, w, { scales }, n) => {
      for (let i = 0; i < n * w.rows; i++) out[i] *= scales[Math.floor(i / w.rows)] / 127;
    }),
    id: 'activation-absmax-missing',
    at: /^blk\.0\.attn_q$/,
  },
  'codes cut, not rounded': { bug: quantised(Math.trunc), id: 'round-truncate', at: /^blk\.0\.attn_norm\.codes$/ },
  'codes scaled to 128': {
    bug: quantised(
      (v) => Math.min(127, Math.round(v)),
      (a) => f(128 / a),
    ),
    id: 'codes-128',
    at: /codes$/,
  },
  'activations quantised in blocks of 64': {
    bug: blockwise(64, (greatest) => 127 / Math.abs(greatest)),
    id: 'codes-per-block-64',
    at: /^blk\.0\.attn_norm\.codes$/,
  },
  'causal mask: sees the next token': { bug: attentive({ reach: 1 }), id: 'mask-ahead', at: /^blk\.0\.attn$/ },
  'causal mask: does not see itself': { bug: attentive({ reach: -1 }), id: 'mask-behind', at: /^blk\.0\.attn$/ },
  'scores not scaled': { bug: attentive({ scale: () => 1 }), id: 'attention-scale-missing', at: /^blk\.0\.attn$/ },
  'key heads taken in turn': {
    bug: attentive({ head: (h, kv) => h % kv }),
    id: 'gqa-interleaved',
    at: /^blk\.0\.attn$/,
  },
  'residual left out': {
    bug: ({ data }) => ({ add: (out, _a, b, n) => data(out).set(data(b).subarray(0, n * (out.shape[1] ?? 1))) }),
    id: 'residual-missing',
    at: /^blk\.0\.attn_residual$/,
  },
  'embedding of the next id': {
    bug: ({ real, data }) => ({
      embed: (out, table, ids, n) => {
        const list = data(ids);
        const change = (by: number) => {
          for (let i = 0; i < n; i++) list[i] += by;
        };
        change(1);
        real.embed(out, table, ids, n);
        change(-1);
      },
    }),
    id: 'embedding-id',
    at: /^embd$/,
  },
  'embedding of the token before': {
    bug: ({ real, data }) => ({
      embed: (out, table, ids, n) => {
        real.embed(out, table, ids, n);
        data(out).copyWithin(256, 0, (n - 1) * 256);
      },
    }),
    id: 'embedding-shifted',
    at: /^embd$/,
  },
  'rows of the last quarter from the row before': {
    bug: product((out, w, _, n) => {
      for (let row = 0; row < n; row++) {
        const from = row * w.rows;
        out.copyWithin(from + 0.75 * w.rows, from + 0.75 * w.rows - 1, from + w.rows - 1);
      }
    }, 'ffn_up'),
    id: '',
    at: /^blk\.0\.ffn_up(\.acc)?$/,
  },
  'NaN from a log of zero': {
    bug: product((out) => {
      out[5] = Number.NaN;
    }, 'blk.1.ffn_gate'),
    id: '',
    at: /^blk\.1\.ffn_gate(\.acc)?$/,
  },
};

/** Whole turns of the first pair, by the last one, which hardly turns at all. */
function turns(angles: Float32Array, dim: number): number {
  const slow = Math.atan2(angles[dim - 1], angles[dim / 2 - 1]) * 10000 ** (1 - 2 / dim);
  return Math.round((slow - Math.atan2(angles[dim / 2], angles[0])) / (2 * Math.PI));
}

export function rms(out: Float32Array, x: Float32Array, eps: number, gain: (i: number) => number): void {
  const mean = x.reduce((sum, value) => sum + value * value, 0) / x.length;
  for (let i = 0; i < x.length; i++) out[i] = (x[i] / Math.sqrt(mean + eps)) * gain(i);
}
