/** Logs of llama-eval-callback: printed here by the rules of its source, and printed by a native bitnet.cpp. */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'fflate';
import { describe, expect, it } from 'vitest';
import { memorySource } from '../../src/formats/sources.ts';
import { loadModel } from '../../src/index.ts';
import { openEvalCallback, openTraceFile, type TraceSource, trace } from '../../src/oracle/index.ts';
import { tinyModel } from '../model/models.ts';

type Values = (column: number, row: number, layer: number) => number;

interface Print {
  /** Numbers at either end of a dimension. */
  readonly ends?: number;
  /** Whether those at the far end are printed, as they were not at first. */
  readonly far?: boolean;
  readonly sumOf?: 'printed' | 'all';
  readonly text?: (value: number) => string;
}

/** `ggml_print_tensor` and its descendants. */
function printed(
  header: string,
  ne: readonly number[],
  value: Values,
  { ends: n = 3, far = true, sumOf = 'printed', text = (x) => x.toFixed(4).padStart(12) }: Print = {},
): string {
  const lines = [`ggml_debug: ${header} = {${ne.join(', ')}}`];
  const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
  const ends = (length: number) =>
    length > 2 * n ? [...range(0, n), undefined, ...(far ? range(length - n, length) : [])] : range(0, length);
  let sum = 0;
  lines.push('                                     [');
  for (const i2 of ends(ne[2])) {
    if (i2 === undefined) lines.push('                                      ..., ');
    else {
      lines.push('                                      [');
      for (const i1 of ends(ne[1])) {
        if (i1 === undefined) lines.push('                                       ..., ');
        else {
          const row = ends(ne[0]).map((i0) => {
            if (i0 === undefined) return '...';
            sum += value(i0, i1, i2);
            return text(value(i0, i1, i2));
          });
          lines.push(`                                       [${row.join(', ')}],`);
        }
      }
      lines.push('                                      ],');
    }
  }
  if (sumOf === 'all') sum += 1000;
  lines.push('                                     ]', `                                     sum = ${sum.toFixed(6)}`);
  return `${lines.join('\n')}\n`;
}

const value: Values = (column, row, block) => Math.fround(Math.sin(column * 0.7 + row * 1.3 + block * 2.1) * 3);
const flat = (name: string, rows = 8, op = 'MUL', print: Print = {}, values = value) =>
  printed(`${name} = (f32) ${op}(a{64, ${rows}, 1, 1}, b{64, 1, 1, 1}})`, [64, rows, 1, 1], values, print);
const embd = flat('inp_embd', 8, 'GET_ROWS');
const product = flat('Qcur-0', 8, 'MUL_MAT');
const rope = printed('Qcur-0 = (f32) ROPE(Qcur-0 (reshaped){16, 4, 8, 1}, inp_pos{8, 1, 1, 1}})', [16, 4, 8, 1], value);
const last = flat('ffn_inp-1', 1, 'ADD');
const view = printed('v-0 = (f16) VIEW(cache_v_l0{2048, 1, 1, 1}, })', [32, 16, 2, 1], value);
const quantised = 'ggml_debug: x-0 = (q8_0) CPY(a{64, 8, 1, 1}, })  = {64, 8, 1, 1}\n';

const open = (log: string, architecture?: string): Promise<TraceSource> =>
  openEvalCallback(memorySource(new TextEncoder().encode(log), 'log'), architecture);
const namesIn = async (log: string, architecture?: string) => [...(await open(log, architecture)).tensors.keys()];

/** Values that are known, by row and column. */
async function knownOf(source: TraceSource, name: string): Promise<Map<string, number>> {
  const { position, rows, columns } = source.tensors.get(name)!;
  const { data, known } = await source.read(name, position, rows);
  const found = [...data].map((x, i): [string, number] => [`${position + Math.floor(i / columns)} ${i % columns}`, x]);
  return new Map(found.filter((_, i) => known?.[i] === 1));
}

describe('a log', () => {
  it('gives what it printed, at its places, and nothing else', async () => {
    const source = await open(
      `build: 1 (abc)\n\n${embd}${view}${quantised}${product}${rope}0.01.234.567 I something else\n${last}`,
    );
    expect([...source.tensors.values()]).toEqual([
      { name: 'embd', type: 'f32', position: 0, rows: 8, columns: 64 },
      { name: 'blk.0.attn_q', type: 'f32', position: 0, rows: 8, columns: 64 },
      { name: 'blk.0.attn_q_rope', type: 'f32', position: 0, rows: 8, columns: 64 },
      // Only the last token passes the last layer.
      { name: 'blk.1.attn_residual', type: 'f32', position: 7, rows: 1, columns: 64 },
    ]);
    const ends = [0, 1, 2, 61, 62, 63];
    const rows = [0, 1, 2, 5, 6, 7];
    const matrix = await knownOf(source, 'blk.0.attn_q');
    expect([...matrix.keys()]).toEqual(rows.flatMap((row) => ends.map((column) => `${row} ${column}`)));
    for (const row of rows)
      for (const column of ends)
        expect(Math.abs(matrix.get(`${row} ${column}`)! - value(column, row, 0))).toBeLessThan(0.0000502);
    expect([...(await knownOf(source, 'blk.1.attn_residual')).keys()]).toEqual(ends.map((column) => `7 ${column}`));
    const heads = await knownOf(source, 'blk.0.attn_q_rope');
    expect(heads.size).toBe(6 * 4 * 6);
    for (const [key, x] of heads) {
      const [row, column] = key.split(' ').map(Number);
      expect(Math.abs(x - value(column % 16, Math.floor(column / 16), row)), key).toBeLessThan(0.0000502);
    }
    const { resolution } = await source.read('embd', 2, 1);
    expect(resolution).toBeGreaterThanOrEqual(0.00005);
    expect(resolution).toBeLessThan(0.000051);
    await expect(source.read('embd', 7, 2)).rejects.toThrow('rows that the trace does not have');
    await expect(source.read('logits', 0, 1)).rejects.toThrow('no such tensor');
  });

  it('says by its ops what a name means', async () => {
    expect(await namesIn(embd + flat('kqv_out-0', 8, 'CONT') + flat('ffn_out-0', 8, 'MUL'))).toEqual([
      'embd',
      'blk.0.attn',
      'blk.0.ffn_act',
    ]);
    expect(await namesIn(embd + flat('kqv_out-0', 8, 'MUL_MAT') + flat('ffn_out-0', 8, 'MUL_MAT'))).toEqual([
      'embd',
      'blk.0.attn_output',
      'blk.0.ffn_down',
    ]);
    expect(await namesIn(embd + flat('Qcur-0 (reshaped)') + flat('norm-0') + flat('__proto__-0'))).toEqual(['embd']);
  });

  it('tells a projection from that with its bias: the later one', async () => {
    const biased = flat('Qcur-0', 8, 'ADD', {}, (column) => column);
    const source = await open(embd + product + biased);
    expect((await knownOf(source, 'blk.0.attn_q')).get('3 63')).toBeUndefined();
    expect((await knownOf(source, 'blk.0.attn_q')).get('7 63')).toBe(63);
    expect((await knownOf(source, 'blk.0.attn_q')).size).toBe(36);
  });

  it('of several passes is one trace, whose last layer has rows of the last pass only', async () => {
    const none = printed('ffn_inp-1 = (f32) ADD(a{64, 0, 1, 1}, b{64, 0, 1, 1}})', [64, 0, 1, 1], value);
    const source = await open(
      embd + product + none + flat('inp_embd', 2, 'GET_ROWS') + flat('Qcur-0', 2, 'MUL_MAT') + last,
    );
    expect([...source.tensors.values()].map(({ name, position, rows }) => [name, position, rows])).toEqual([
      ['embd', 0, 10],
      ['blk.0.attn_q', 0, 10],
      ['blk.1.attn_residual', 9, 1],
    ]);
    const seen = await knownOf(source, 'blk.0.attn_q');
    expect(seen.size).toBe(8 * 6);
    expect(seen.get('9 2')).toBeCloseTo(value(2, 1, 0), 3);
    expect(seen.get('3 2')).toBeUndefined();
  });

  it('leaves rows out of which nobody says whose they are', async () => {
    expect(await namesIn(embd + flat('l_out-0', 3, 'ADD'))).toEqual(['embd']);
    const deep = printed('l_out-0 = (f32) ADD(a{64, 8, 1, 2}, )', [64, 8, 1, 2], value);
    expect(await namesIn(embd + deep)).toEqual(['embd']);
  });

  it('of a single token has all heads in its row', async () => {
    const source = await open(
      flat('inp_embd', 1, 'GET_ROWS') +
        printed('Qcur-0 = (f32) ROPE(Qcur-0 (reshaped){16, 4, 1, 1}, inp_pos{1, 1, 1, 1}})', [16, 4, 1, 1], value),
    );
    expect(source.tensors.get('blk.0.attn_q_rope')).toMatchObject({ position: 0, rows: 1, columns: 64 });
    expect((await knownOf(source, 'blk.0.attn_q_rope')).get('0 63')).toBeCloseTo(value(15, 3, 0), 3);
  });

  it('has attention weights as wide as the trace, not as the cache', async () => {
    const weights = printed(
      'kq_soft_max_ext-0 = (f32) SOFT_MAX(kq-0{32, 8, 4, 1}, KQ_mask{32, 32, 1, 1}})',
      [32, 8, 4, 1],
      (position, row, head) => (position <= row ? 0.1 * position + 0.01 * row + head : 0),
    );
    const source = await open(embd + weights);
    expect(source.tensors.get('blk.0.attn_weights')).toMatchObject({ rows: 8, columns: 4 * 8 });
    const seen = await knownOf(source, 'blk.0.attn_weights');
    expect(seen.size).toBe(6 * 4 * 3); // the last three positions of the cache are beyond the trace
    expect(seen.get('7 18')).toBeCloseTo(2.27, 4);
    expect(seen.get('1 2')).toBe(0);
    // Of two tokens even the third position that is printed is none.
    const pair = await open(
      flat('inp_embd', 2, 'GET_ROWS') +
        printed('kq_soft_max_ext-0 = (f32) SOFT_MAX(kq-0{32, 2, 2, 1}, )', [32, 2, 2, 1], (i, j, h) => i + j + 5 * h),
    );
    expect([...(await knownOf(pair, 'blk.0.attn_weights'))]).toEqual([
      ['0 0', 0],
      ['0 1', 1],
      ['0 2', 5],
      ['0 3', 6],
      ['1 0', 1],
      ['1 1', 2],
      ['1 2', 6],
      ['1 3', 7],
    ]);
  });

  it('may tell its model, its tokens and the types of its cache', async () => {
    const log = [
      'llm_load_print_meta: arch             = llama',
      '0.00.100.000 I print_info: general.name     = Tiny Llama',
      'main: number of input tokens = 8',
      ...[1, 22, 333, 4, 5, 6, 7].map((id) => `  ${id}`),
      '0.00.123.456 I   88',
      embd,
      view.replace('v-0 = ', 'v_cache_view-0 = '),
      view.replace('v-0 = ', 'cache_k_l0 (view) = '),
    ].join('\n');
    expect((await open(log)).origin).toEqual({
      architecture: 'llama',
      modelName: 'Tiny Llama',
      tokens: [1, 22, 333, 4, 5, 6, 7, 88],
      producer: 'llama.cpp',
      kv: { k: 'f16', v: 'f16' },
    });
    await expect(open(log.replace('tokens = 8', 'tokens = 7'))).rejects.toThrow(
      /other tokens than rows, expected 7 rows/,
    );
    await expect(open(`${embd}main: number of input tokens = 8\n  1\n`)).rejects.toThrow(
      /inside of its list of tokens/,
    );
  });

  it('may have Windows lines, another callback, prefixes, other numbers of digits and odd numbers', async () => {
    const odd = embd
      .replace('ggml_debug:', '0.12.345 D common_debug_cb_eval:')
      .replace(' inp_embd ', ' CUDA0#inp_embd#0 ')
      .replace(/\n/g, '\r\n')
      .replace(/\d\.\d{4},/, 'nan,')
      .replace(/sum = .*/, 'sum = nan');
    const { data, known } = await (await open(odd)).read('embd', 0, 1);
    expect([known?.[0], data[0]]).toEqual([1, Number.NaN]);
    const infinite = embd.replace(/-\d\.\d{4},/, '-inf,').replace(/sum = .*/, 'sum = -inf');
    expect([...(await (await open(infinite)).read('embd', 0, 8)).data]).toContain(-Infinity);
    const exact = await open(flat('inp_embd', 8, 'GET_ROWS', { text: (x) => `${Number(x.toPrecision(9))}` }));
    const { data: digits, resolution } = await exact.read('embd', 0, 1);
    expect(digits[2]).toBe(value(2, 0, 0));
    expect(resolution).toBeLessThan(2e-7);
    const whole = await open(flat('inp_embd', 8, 'GET_ROWS', { ends: 64 }));
    expect((await knownOf(whole, 'embd')).size).toBe(8 * 64);
    const oldest = await knownOf(await open(flat('inp_embd', 8, 'GET_ROWS', { far: false })), 'embd');
    expect([...oldest.keys()]).toEqual(['0 0', '0 1', '0 2', '1 0', '1 1', '1 2', '2 0', '2 1', '2 2']);
  });

  it('may sum all values', async () => {
    const all: Print = { sumOf: 'all' };
    const log = flat('inp_embd', 8, 'GET_ROWS', all) + flat('Qcur-0', 8, 'MUL_MAT', all);
    expect(await namesIn(log)).toEqual(['embd', 'blk.0.attn_q']);
    // But where everything is printed, both are the same.
    const short = printed('l_out-0 = (f32) ADD(a{6, 8, 1, 1}, })', [6, 6, 1, 1], value, all).replace('6, 6,', '6, 6,');
    await expect(open(log + short)).rejects.toThrow(/other values than were printed/);
  });

  const changed = product.replace(/-?\d\.\d{4},/, '77.0000,');
  it.each<[string, string, RegExp]>([
    ['nothing', '', /not a log of llama-eval-callback/],
    ['another text', 'Once upon a time\nggml_debug: nonsense\n', /not a log of llama-eval-callback/],
    ['no beginning', product, /does not begin with inp_embd/],
    [
      'a number more',
      embd.replace(', ...,', ', 1.0, ...,'),
      /other values than the shape has, expected 64, got 4 and 3/,
    ],
    ['a number less', embd.replace(/\[ +-?\d\.\d{4},/, '['), /got 2 and 3/],
    ['a number changed', embd + changed, /Qcur-0: other values than were printed, expected sum = /],
    ['no number', embd.replace(/-?\d\.\d{4},/, 'one,'), /log:4: no values here/],
    ['rows missing', embd.replace(/ +\[ .*\],\n/, ''), /other values than the shape has, expected 8, got 2 and 3/],
    ['the last row missing', embd.replace(/ +\[ .*\],\n( +\],)/, '$1'), /got 3 and 2/],
    ['another result inside', embd.split('\n').slice(0, 5).join('\n') + product, /log:5: no values here/],
    ['headers only', embd.split('\n')[0], /log:1: a tensor without its values/],
    ['headers only, twice', `${embd.split('\n')[0]}\n${product}`, /a tensor without its values/],
    ['too deep a list', embd.replace('[', '[[[[['), /lists in too many lists/],
    ['numbers in no row', embd.replace('[', '[ 1.0'), /no values here/],
    ['too many', embd.replace('{64, 8, 1, 1}\n', '{999999999, 999999999, 1, 1}\n'), /no shape of a tensor/],
    [
      'two widths',
      embd + product + embd + printed('Qcur-0 = (f32) MUL(a{6, 8, 1, 1}, })', [6, 8, 1, 1], value),
      /a tensor of two widths, expected 64, got 6/,
    ],
    ['a line without end', `x${'y'.repeat(6 << 20)}`, /a line without an end/],
  ])('with %s is refused', async (_, log, message) => {
    await expect(open(log)).rejects.toThrow(message);
  });

  it('of hostile lines is read in a time that grows with its length', async () => {
    const start = performance.now();
    for (const line of [
      `ggml_debug:${' '.repeat(1 << 20)}`,
      `ggml_debug: a = (f32) ${'('.repeat(1 << 20)}`,
      `cb_eval${'x'.repeat(1 << 20)}:`,
      `print_meta: general.name ${' '.repeat(1 << 20)}=`,
      `number of input tokens = 1\n${'1 '.repeat(1 << 19)}x`,
      `${embd}${'['.repeat(1 << 20)}`,
    ])
      await open(`${line}\n`).catch((error) => expect(error.name).toBe('BitnetError'));
    expect(performance.now() - start).toBeLessThan(5000);
  });

  it('cut off anywhere is refused, or has whole results only', async () => {
    const log = embd + rope;
    const text = new TextEncoder().encode(log);
    const whole = await open(log);
    for (let length = 0; length < text.length; length += 7) {
      try {
        const source = await openEvalCallback(memorySource(text.subarray(0, length)));
        expect(length).toBeGreaterThan(embd.indexOf(' sum') - 40);
        for (const [name, tensor] of source.tensors) expect(tensor).toEqual(whole.tensors.get(name));
      } catch (error) {
        expect((error as Error).name, `${length}: ${error}`).toBe('BitnetError');
      }
    }
  });

  it('of Deno, Bun and browsers alike is opened as any other file', async () => {
    const source = await openTraceFile(memorySource(new TextEncoder().encode(embd)));
    expect([...source.tensors.keys()]).toEqual(['embd']);
    const single = memorySource(Uint8Array.of(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0));
    await expect(openTraceFile(single)).rejects.toThrow(/a single array, not a trace/);
    await expect(openTraceFile(memorySource(new Uint8Array(0)))).rejects.toThrow(/not a log of llama-eval-callback/);
  });
});

/**
 * Of a native bitnet.cpp. Up to attention both compute the same; there native rounds queries and weights to f16 and sums in another
 * order, and what follows differs by the codes that this moves.
 */
describe.each([
  ['bitnet-b1.58', 'bitnet-b1.58', 'a bc def ghi'],
  ['bitnet', 'bitnet', 'a bc def ghi'],
  ['llama-passes', 'llama', 'a bc d'],
] as const)('the native log %s', (file, architecture, prompt) => {
  it('is the trace of the model, as far as it is printed', async () => {
    const bytes = gunzipSync(readFileSync(new URL(`../../fixtures/native/logs/${file}.log.gz`, import.meta.url)));
    const source = await openTraceFile(memorySource(bytes));
    const model = await loadModel(await tinyModel({ architecture }), { threads: 1 });
    const tokens = model.tokenizer.encodePrompt(prompt);
    expect(source.origin).toMatchObject({ architecture, modelName: 'synthetic tiny', kv: { k: 'f16', v: 'f16' } });
    const seen = new Set<string>();
    let compared = 0;
    for await (const site of trace(model, tokens, { stages: { attentionWeights: true } })) {
      const tensor = source.tensors.get(site.name);
      if (tensor === undefined) {
        expect(site.name).toMatch(/codes|scales|acc$/);
        continue;
      }
      seen.add(site.name);
      expect(tensor.columns, site.name).toBe(site.columns);
      expect(tensor.position + tensor.rows, site.name).toBe(tokens.length);
      const first = Math.max(site.position, tensor.position);
      const rows = site.position + site.rows - first;
      if (rows <= 0) continue;
      const { data, known, resolution = 0 } = await source.read(site.name, first, rows);
      const isExact = /^(embd|blk\.0\.attn_(norm|[qkv]|[qk]_rope))$/.test(site.name);
      const size = Float32Array.from(site.data).reduce((most, x) => Math.max(most, Math.abs(x)), 0);
      for (let i = 0; i < data.length; i++) {
        if (known?.[i] !== 1) continue;
        const difference = Math.abs(data[i] - site.data[(first - site.position) * site.columns + i]);
        expect(difference, `${site.name} ${i}`).toBeLessThanOrEqual(isExact ? resolution : resolution + 0.02 * size);
        compared++;
      }
    }
    expect([...source.tensors.keys()].sort()).toEqual([...seen].sort());
    expect(compared).toBeGreaterThan(1000);
    await model.dispose();
  });
});
