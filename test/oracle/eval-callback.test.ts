/** Logs of llama-eval-callback, printed here by the rules of its source and read back. */
import { describe, expect, it } from 'vitest';
import { memorySource } from '../../src/formats/sources.ts';
import { openEvalCallback, type TraceSource } from '../../src/oracle/index.ts';

type Values = (column: number, row: number, layer: number) => number;

/** `ggml_print_tensor` with n = 3. */
function printed(header: string, ne: readonly number[], value: Values): string {
  const lines = [`ggml_debug: ${header} = {${ne.join(', ')}}`];
  const ends = (length: number) =>
    length > 6 ? [0, 1, 2, undefined, length - 3, length - 2, length - 1] : Array.from({ length }, (_, i) => i);
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
            return value(i0, i1, i2).toFixed(4).padStart(12);
          });
          lines.push(`                                       [${row.join(', ')}],`);
        }
      }
      lines.push('                                      ],');
    }
  }
  lines.push('                                     ]', `                                     sum = ${sum.toFixed(6)}`);
  return `${lines.join('\n')}\n`;
}

const value: Values = (column, row, block) => Math.fround(Math.sin(column * 0.7 + row * 1.3 + block * 2.1) * 3);
const embd = printed(
  'inp_embd = (f32) GET_ROWS(token_embd.weight{64, 9, 1, 1}, inp_tokens{8, 1, 1, 1}})',
  [64, 8, 1, 1],
  value,
);
const product = printed(
  'Qcur-0 = (f32) MUL_MAT(blk.0.attn_q.weight{64, 64, 1, 1}, attn_norm-0{64, 8, 1, 1}})',
  [64, 8, 1, 1],
  value,
);
const rope = printed('Qcur-0 = (f32) ROPE(Qcur-0 (reshaped){16, 4, 8, 1}, inp_pos{8, 1, 1, 1}})', [16, 4, 8, 1], value);
const last = printed('ffn_inp-1 = (f32) ADD(attn_o_out-1{64, 2, 1, 1}, l_out-0{64, 2, 1, 1}})', [64, 2, 1, 1], value);
const view = printed('v-0 = (f16) VIEW(cache_v_l0{2048, 1, 1, 1}, })', [32, 16, 2, 1], value);
const outer = ['kqv_out-0', 'ffn_out-0', 'ffn_sub_norm-0'].map((name) =>
  printed(`${name} = (f32) MUL(a{64, 8, 1, 1}, b{64, 1, 1, 1}})`, [64, 8, 1, 1], value),
);

const open = (log: string, architecture?: string): Promise<TraceSource> =>
  openEvalCallback(memorySource(new TextEncoder().encode(log), 'log'), architecture);

describe('a log', () => {
  it('gives what it printed, at its places, and nothing else', async () => {
    const source = await open(
      `build: 1 (abc)\n\n${embd}${view}${product}${rope}0.01.234.567 I something else\n${last}`,
    );
    expect([...source.tensors.values()]).toEqual([
      { name: 'embd', type: 'f32', position: 0, rows: 8, columns: 64 },
      { name: 'blk.0.attn_q', type: 'f32', position: 0, rows: 8, columns: 64 },
      { name: 'blk.0.attn_q_rope', type: 'f32', position: 0, rows: 8, columns: 64 },
      // Only the last two tokens pass the last layer.
      { name: 'blk.1.attn_residual', type: 'f32', position: 6, rows: 2, columns: 64 },
    ]);
    for (const [name, first] of [
      ['blk.0.attn_q', 0],
      ['blk.1.attn_residual', 6],
    ] as const) {
      const { position, rows } = source.tensors.get(name)!;
      const { data, known, resolution } = await source.read(name, position, rows);
      expect(resolution).toBe(0.00005);
      let count = 0;
      for (let i = 0; i < data.length; i++) {
        const [row, column] = [Math.floor(i / 64), i % 64];
        const isShown = (row < 3 || row >= rows - 3) && (column < 3 || column >= 61);
        expect(known?.[i], `${name} ${row} ${column}`).toBe(isShown ? 1 : 0);
        if (isShown) expect(Math.abs(data[i] - value(column, row, 0))).toBeLessThanOrEqual(0.0000501);
        count += known?.[i] ?? 0;
      }
      expect(count).toBe(6 * Math.min(6, rows));
      expect(first).toBe(position);
    }
    const heads = await source.read('blk.0.attn_q_rope', 7, 1);
    for (const [head, d] of [
      [0, 0],
      [1, 2],
      [3, 15],
      [2, 13],
    ]) {
      expect(heads.known?.[head * 16 + d]).toBe(1);
      expect(heads.data[head * 16 + d]).toBeCloseTo(value(d, head, 7), 3);
    }
    await expect(source.read('embd', 7, 2)).rejects.toThrow('rows that the log does not have');
  });

  it('tells its architecture by its names, and what they mean there', async () => {
    const names = async (log: string, architecture?: string) => [...(await open(log, architecture)).tensors.keys()];
    const [kqv, ffn, sub] = outer;
    expect(await names(kqv + ffn + sub)).toEqual(['blk.0.attn', 'blk.0.ffn_act', 'blk.0.ffn_sub_norm']);
    expect(await names(kqv + ffn)).toEqual(['blk.0.attn_output', 'blk.0.ffn_down']);
    expect(await names(kqv + ffn, 'bitnet')).toEqual(['blk.0.attn', 'blk.0.ffn_act']);
    expect((await open(kqv.replace('kqv_out-0', 'ffn_sub_out-0'))).origin.architecture).toBe('bitnet');
  });

  it('may have Windows lines, another callback, prefixes and odd numbers', async () => {
    const odd = embd
      .replace('ggml_debug:', '0.12.345 D common_debug_cb_eval:')
      .replace(/\n/g, '\r\n')
      .replace(/\d\.\d{4},/, 'nan,')
      .replace(/sum = .*/, 'sum = nan');
    const { data, known } = await (await open(odd)).read('embd', 0, 1);
    expect([known?.[0], data[0]]).toEqual([1, Number.NaN]);
    const infinite = embd.replace(/-\d\.\d{4},/, '-inf,').replace(/sum = .*/, 'sum = -inf');
    expect([...(await (await open(infinite)).read('embd', 0, 8)).data]).toContain(-Infinity);
  });

  it.each<[string, string, RegExp]>([
    ['nothing', '', /not a log of llama-eval-callback/],
    ['another text', 'Once upon a time\nggml_debug: nonsense\n', /not a log of llama-eval-callback/],
    ['a number more', embd.replace(', ...,', ', 1.0, ...,'), /4 numbers before the gap/],
    ['a number less', embd.replace(/\[ +-?\d\.\d{4},/, '['), /2 numbers before the gap of a row/],
    ['a number changed', embd.replace(/-?\d\.\d{4},/, '77.0000,'), /the numbers sum to .*, the log says "sum = /],
    ['no number', embd.replace(/-?\d\.\d{4},/, 'one,'), /not a row of \{64, 8, 1, 1\}/],
    ['rows missing', embd.replace(/ +\[ .*\],\n/, ''), /a gap at another place/],
    ['the last row missing', embd.replace(/ +\[ .*\],\n( +\],)/, '$1'), /7 of 8 rows|sum to/],
    ['another result inside', embd.replace(/sum = .*\n/, '') + product, /another result begins inside of one/],
    ['no elements', embd.replace('{64, 8, 1, 1}\n', '{0, 8, 1, 1}\n'), /not a shape/],
    ['too many', embd.replace('{64, 8, 1, 1}\n', '{999999999, 999999999, 1, 1}\n'), /not a shape/],
    [
      'more rows than tokens',
      embd + product.replaceAll('{64, 8, 1, 1}\n', '{64, 8, 1, 1}\n').replace('= {64, 8, 1, 1}', '= {64, 9, 1, 1}'),
      /more rows than tokens|blocks|sum to/,
    ],
    ['a line without end', `x${'y'.repeat(1 << 17)}`, /a line of the log is too long/],
  ])('with %s is refused', async (_, log, message) => {
    await expect(open(log)).rejects.toThrow(message);
  });

  it('cut off anywhere is refused, or has whole results only', async () => {
    const log = embd + rope;
    const text = new TextEncoder().encode(log);
    const whole = await open(log);
    for (let length = 0; length < text.length; length += 7) {
      try {
        const source = await openEvalCallback(memorySource(text.subarray(0, length)));
        expect(length).toBeGreaterThan(embd.length - 12);
        for (const [name, tensor] of source.tensors) expect(tensor).toEqual(whole.tensors.get(name));
      } catch (error) {
        expect((error as Error).name, `${length}: ${error}`).toBe('BitnetError');
      }
    }
  });
});
