/**
 * Stands where a graph expects its backend, computes nothing, and remembers what was asked, with a name for every result. So a
 * graph is written once, without a word about traces, and a new architecture is traced as it is. The calls are made later, one
 * by one, with a look at each result.
 *
 * Names come from the data flow: of a product from its matrix, of a norm from its gain, of the rest from what went in.
 * @module
 */

import type { Backend, Buf, QuantizedBuf, RopeStyle, Segment, Weight } from '../../kernels/interface.ts';
import { softmaxTerms } from '../../kernels/ts/attention.ts';
import type { GraphOps, ModelWeights } from '../../model/graph.ts';
import { accumulators } from './accumulators.ts';
import type { TraceData, TraceOp, TraceSite, TraceTensor } from './types.ts';

/** What can be seen after a call. */
export interface Shown {
  readonly site: TraceSite;
  /** Reads it, and what else there is to say. */
  readonly read: () => Promise<Pick<TraceTensor, 'data' | 'unexplained'>>;
  readonly extras: Pick<TraceTensor, 'replace' | 'rerun' | 'cache' | 'gain'>;
}

export interface Call {
  readonly run: () => void;
  readonly shown: readonly Shown[];
}

/** What the recorder needs to know besides the calls. */
export interface Recording {
  readonly backend: Backend;
  readonly weights: ModelWeights;
  /** Rows of the pass, tokens. */
  readonly n: number;
  /** Positions that attention may look at, as wide as rows of its weights are. */
  readonly positions: number;
  /** Memory for rows in f32 where the graph asks for codes only. */
  readonly rowsOf: (columns: number) => Buf;
}

type Facts = Pick<TraceSite, 'op' | 'inputs'> & Partial<Pick<TraceSite, 'weight' | 'facts' | 'type'>>;

export class Recorder implements GraphOps {
  readonly calls: Call[] = [];
  readonly #r: Recording;
  /** What each buffer holds just now. */
  readonly #holds = new Map<Buf | QuantizedBuf, string>();
  readonly #gains: ReadonlyMap<Buf, string>;
  readonly #taken = new Set<string>();
  /** Codes that share a scale, where that is not a whole row. */
  readonly #block: number | undefined;
  #cached: readonly string[] = [];

  constructor(recording: Recording) {
    this.#r = recording;
    this.#gains = gainNames(recording.weights);
    this.#block = recording.backend.info.activationBlock;
  }

  embed(out: Buf, table: Weight, ids: Buf, n: number): void {
    const facts = { op: 'embed', inputs: [], weight: table.name } as const;
    this.#call(() => this.#r.backend.embed(out, table, ids, n), [this.#floats('embd', out, facts)]);
  }

  rmsNorm(out: Buf, x: Buf, gain: Buf, eps: number, n: number): void {
    const { backend } = this.#r;
    const weight = this.#gains.get(gain) ?? 'gain';
    const facts = { op: 'rmsNorm', inputs: [this.#name(x)], weight, facts: { eps } } as const;
    const run = () => backend.rmsNorm(out, x, gain, eps, n);
    const rerun = this.#rerun(out, (to, [given]) => backend.rmsNorm(to, given, gain, eps, n));
    const extras = { rerun, gain: () => backend.read(gain, lengthOf(gain)) };
    this.#call(run, [this.#floats(plain(weight), out, facts, extras)]);
  }

  quantizeRows(out: QuantizedBuf, x: Buf, n: number): void {
    const { backend } = this.#r;
    const source = this.#name(x);
    this.#holds.set(out, source);
    const read = () => backend.readQuantized(out, n);
    const codes: Shown = {
      site: this.#site(`${source}.codes`, out.columns, { op: 'quantizeRows', inputs: [source], type: 'i8' }),
      read: async () => ({ data: (await read()).codes }),
      extras: this.#block === undefined ? { replace: (data) => this.#setCodes(out, read, data) } : {},
    };
    const scales: Shown = {
      site: this.#site(`${source}.scales`, out.columns / (this.#block ?? out.columns), {
        op: 'quantizeRows',
        inputs: [source],
      }),
      read: async () => ({ data: (await read()).scales }),
      extras: {},
    };
    this.#call(() => backend.quantizeRows(out, x, n), [codes, scales]);
  }

  /** As two ops, which by the contract give the same bits: the rows in between are to be seen. */
  rmsNormQuantize(out: QuantizedBuf, x: Buf, gain: Buf, eps: number, n: number): void {
    const rows = this.#r.rowsOf(out.columns);
    this.rmsNorm(rows, x, gain, eps, n);
    this.quantizeRows(out, rows, n);
  }

  ternaryMatmul(out: Buf, weight: Weight, x: QuantizedBuf, n: number): void {
    const { backend } = this.#r;
    const source = this.#name(x);
    const name = plain(weight.name);
    const facts = { weightScale: weight.scale };
    const read = async () => {
      const outputs = await backend.read(out, n * weight.rows);
      return accumulators(outputs, (await backend.readQuantized(x, n)).scales, weight.scale, weight.rows);
    };
    const sums: Shown = {
      site: this.#site(`${name}.acc`, weight.rows, {
        op: 'acc',
        inputs: [`${source}.codes`],
        weight: weight.name,
        type: 'i32',
        facts,
      }),
      read: async () => {
        const { sums: data, unexplained } = await read();
        return { data, unexplained };
      },
      extras: {},
    };
    const rerun = async ([given]: readonly Float32Array[]) => {
      const [rows, to] = [backend.alloc('f32', [n, weight.columns]), backend.alloc('f32', [n, weight.rows])];
      const codes = backend.allocQuantized(n, weight.columns);
      backend.write(rows, given);
      backend.quantizeRows(codes, rows, n);
      backend.ternaryMatmul(to, weight, codes, n);
      const result = await backend.read(to, n * weight.rows);
      for (const memory of [rows, to, codes]) backend.free(memory);
      return result;
    };
    const inputs = [`${source}.codes`, `${source}.scales`];
    const product = this.#floats(
      name,
      out,
      { op: 'ternaryMatmul', inputs, weight: weight.name, facts },
      { rerun },
      weight.rows,
    );
    // Foreign arithmetic adds floats: there is no one integer.
    const shown = this.#block === undefined ? [sums, product] : [product];
    this.#call(() => backend.ternaryMatmul(out, weight, x, n), shown);
  }

  denseMatmul(out: Buf, weight: Weight, x: Buf, n: number): void {
    const { backend, weights } = this.#r;
    const name = weight === weights.head ? 'logits' : plain(weight.name);
    const run = () => backend.denseMatmul(out, weight, x, n);
    const rerun = this.#rerun(out, (to, [given]) => backend.denseMatmul(to, weight, given, n), [weight.columns]);
    const facts = { op: 'denseMatmul', inputs: [this.#name(x)], weight: weight.name } as const;
    this.#call(run, [this.#floats(name, out, facts, { rerun }, weight.rows)]);
  }

  rope(x: Buf, angles: Buf, nHeads: number, headDim: number, style: RopeStyle, n: number): void {
    const { backend } = this.#r;
    const source = this.#name(x);
    const run = () => backend.rope(x, angles, nHeads, headDim, style, n);
    const rerun = this.#rerun(x, (to, [given]) => {
      backend.copyRows(to, 0, given, 0, n);
      backend.rope(to, angles, nHeads, headDim, style, n);
    });
    const facts = { op: 'rope', inputs: [source], facts: { style, nHeads, headDim } } as const;
    this.#call(run, [this.#floats(`${source.replace(/_norm$/, '')}_rope`, x, facts, { rerun })]);
  }

  kvAppend(segment: Segment, layer: number, k: Buf, v: Buf): void {
    this.#cached = [this.#name(k), this.#name(v)];
    this.#call(() => this.#r.backend.kvAppend(segment, layer, k, v), []);
  }

  attention(out: Buf, q: Buf, segment: Segment, layer: number, scale: number): void {
    const { backend } = this.#r;
    const { nHeads, nKvHeads, headDim } = segment.kv.shape;
    const facts = { scale, nHeads, nKvHeads, headDim };
    const inputs = [this.#name(q), ...this.#cached];
    const context = segment.position + segment.count;
    const cache = () => backend.readKv(segment.kv, layer, 0, context);
    const weights: Shown = {
      site: this.#site(`blk.${layer}.attn_weights`, nHeads * this.#r.positions, {
        op: 'attentionWeights',
        inputs: inputs.slice(0, 2),
        facts,
      }),
      read: async () => ({ data: await this.#probabilities(q, segment, layer, scale) }),
      extras: { cache },
    };
    this.#call(
      () => backend.attention(out, q, segment, layer, scale),
      [weights, this.#floats(`blk.${layer}.attn`, out, { op: 'attention', inputs, facts }, { cache })],
    );
  }

  gatedRelu2(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#gated('gatedRelu2', out, gate, up, n);
  }

  gatedSilu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#gated('gatedSilu', out, gate, up, n);
  }

  gatedGelu(out: Buf, gate: Buf, up: Buf, n: number): void {
    this.#gated('gatedGelu', out, gate, up, n);
  }

  scale(out: Buf, x: Buf, factor: number, n: number): void {
    const { backend } = this.#r;
    const source = this.#name(x);
    const rerun = this.#rerun(out, (to, [given]) => backend.scale(to, given, factor, n));
    const facts = { op: 'scale', inputs: [source], facts: { factor } } as const;
    this.#call(
      () => backend.scale(out, x, factor, n),
      [this.#floats(`${source.replace(/_rope$/, '')}_scaled`, out, facts, { rerun })],
    );
  }

  /** Only the residual stream is added to: behind attention, and behind the layer. */
  add(out: Buf, a: Buf, b: Buf, n: number): void {
    const { backend } = this.#r;
    const inputs = [this.#name(a), this.#name(b)];
    const block = /^blk\.\d+\./.exec(inputs[1])?.[0] ?? '';
    const isAttention = /^(attn|post_attention)/.test(inputs[1].slice(block.length));
    const rerun = this.#rerun(out, (to, [x, y]) => backend.add(to, x, y, n));
    const name = `${block}${isAttention ? 'attn_residual' : 'out'}`;
    this.#call(() => backend.add(out, a, b, n), [this.#floats(name, out, { op: 'add', inputs }, { rerun })]);
  }

  #gated(op: 'gatedRelu2' | 'gatedSilu' | 'gatedGelu', out: Buf, gate: Buf, up: Buf, n: number): void {
    const { backend } = this.#r;
    const inputs = [this.#name(gate), this.#name(up)];
    const name = inputs[0].replace(/[^.]*$/, 'ffn_act');
    const rerun = this.#rerun(out, (to, [x, y]) => backend[op](to, x, y, n));
    this.#call(() => backend[op](out, gate, up, n), [this.#floats(name, out, { op, inputs }, { rerun })]);
  }

  #call(run: () => void, shown: readonly Shown[]): void {
    this.calls.push({ run, shown });
  }

  #name(buf: Buf | QuantizedBuf): string {
    const name = this.#holds.get(buf);
    if (name === undefined) throw new Error('a graph reads what nothing has written');
    return name;
  }

  /** The rows that `out` now holds, seen and set as they are. */
  #floats(
    wanted: string,
    out: Buf,
    facts: Facts,
    extras: Shown['extras'] = {},
    columns: number = out.shape[1] ?? 1,
  ): Shown {
    const { backend, n } = this.#r;
    const site = this.#site(wanted, columns, facts);
    this.#holds.set(out, site.name);
    return {
      site,
      read: async () => ({ data: await backend.read(out, n * columns) }),
      extras: { ...extras, replace: async (data) => backend.write(out, data) },
    };
  }

  #site(wanted: string, columns: number, { op, inputs, weight, facts = {}, type = 'f32' }: Facts): TraceSite {
    let name = wanted;
    for (let again = 2; this.#taken.has(name); again++) name = `${wanted}.${again}`;
    this.#taken.add(name);
    const layer = /^blk\.(\d+)\./.exec(name)?.[1];
    return {
      name,
      op,
      inputs,
      ...(weight === undefined ? {} : { weight }),
      ...(layer === undefined ? {} : { layer: Number(layer) }),
      type,
      columns,
      facts,
    };
  }

  /** `act` on buffers of its own: the first takes the result, shaped as `out`; the others hold what is given. */
  #rerun(
    out: Buf,
    act: (to: Buf, given: readonly Buf[]) => void,
    inputColumns: readonly number[] = [],
  ): NonNullable<TraceTensor['rerun']> {
    const { backend, n } = this.#r;
    const columns = out.shape[1] ?? 1;
    return async (inputs) => {
      const to = backend.alloc('f32', [n, columns]);
      const given = inputs.map((data, i) => {
        const buf = backend.alloc('f32', [n, inputColumns[i] ?? columns]);
        backend.write(buf, data);
        return buf;
      });
      act(to, given);
      const result = await backend.read(to, n * columns);
      for (const buf of [to, ...given]) backend.free(buf);
      return result;
    };
  }

  /** Quantising code / scale gives the code back, since every row has its largest at +-127, and the scale to its last bit. */
  async #setCodes(
    out: QuantizedBuf,
    read: () => Promise<{ scales: Float32Array }>,
    codes: Float32Array,
  ): Promise<void> {
    const { backend, n } = this.#r;
    const { scales } = await read();
    const rows = backend.alloc('f32', [n, out.columns]);
    backend.write(
      rows,
      codes.map((code, i) => code / scales[Math.floor(i / out.columns)]),
    );
    backend.quantizeRows(out, rows, n);
    await backend.read(rows, 0);
    backend.free(rows);
  }

  /** By the definition of the op, from the queries and the keys as they are cached. */
  async #probabilities(q: Buf, segment: Segment, layer: number, scale: number): Promise<TraceData> {
    const { backend, n, positions } = this.#r;
    const { nHeads, nKvHeads, headDim } = segment.kv.shape;
    const context = segment.position + segment.count;
    const queries = await backend.read(q, n * nHeads * headDim);
    const { k } = await backend.readKv(segment.kv, layer, 0, context);
    const out = new Float32Array(n * nHeads * positions);
    for (let row = 0; row < n; row++) {
      const visible = segment.position + row + 1;
      for (let head = 0; head < nHeads; head++) {
        const first = Math.floor((head * nKvHeads) / nHeads) * context * headDim;
        const keys = k.subarray(first, first + visible * headDim);
        const at = (row * nHeads + head) * positions;
        const weights = out.subarray(at, at + visible);
        const total = softmaxTerms(weights, queries, (row * nHeads + head) * headDim, keys, visible, headDim, scale);
        for (let j = 0; j < visible; j++) weights[j] /= total;
      }
    }
    return out;
  }
}

/** Ops that are shown only when asked for: they are computed for it. */
export const ON_REQUEST: readonly TraceOp[] = ['attentionWeights'];

/** A tensor's name without `.weight`. */
function plain(tensor: string): string {
  return tensor.replace(/\.weight$/, '');
}

function lengthOf(buf: Buf): number {
  return buf.shape.reduce((a, b) => a * b, 1);
}

/** The tensors that gains come from. */
function gainNames(weights: ModelWeights): Map<Buf, string> {
  const names = new Map<Buf, string>([[weights.outputNorm, 'output_norm.weight']]);
  weights.layers.forEach(({ gains }, layer) => {
    for (const [name, gain] of Object.entries(gains)) if (gain) names.set(gain, `blk.${layer}.${name}.weight`);
  });
  return names;
}
