/** Folders of arrays that others have dumped: names, shapes and types of all kinds. */
import { describe, expect, it } from 'vitest';
import { memorySource } from '../../src/formats/sources.ts';
import { type FileSet, openTrace } from '../../src/oracle/index.ts';

/** numpy.save with a header text as given. */
function npy(descr: string, shape: readonly number[], data: ArrayBufferView, { version = 1, fortran = 'False' } = {}) {
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const fields = `'descr': '${descr}', 'fortran_order': ${fortran}, 'shape': ${tuple}, `;
  const text = `${`{${fields}}`.padEnd(117)}\n`;
  const start = version === 1 ? 10 : 12;
  const out = new Uint8Array(start + text.length + data.byteLength);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, version, 0, text.length]);
  out.set(new TextEncoder().encode(text), start);
  out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), start + text.length);
  return out;
}

const f32 = (...shape: number[]) => {
  const count = shape.reduce((a, b) => a * b, 1);
  return npy(
    '<f4',
    shape,
    Float32Array.from({ length: count }, (_, i) => i),
  );
};

const folder = (files: Readonly<Record<string, Uint8Array>>): FileSet => ({
  label: 'folder',
  names: Object.keys(files),
  open: async (name) => memorySource(files[name], name),
  close: async () => undefined,
});

const shapes = async (files: Readonly<Record<string, Uint8Array>>, architecture?: string) =>
  Object.fromEntries(
    [...(await openTrace(folder(files), architecture)).tensors].map(([name, { position, rows, columns }]) => [
      name,
      [position, rows, columns],
    ]),
  );

describe('a folder of arrays', () => {
  it('has names of ours and of llama.cpp, and shapes with heads, batches and single rows', async () => {
    expect(
      await shapes({
        'blk.0.attn_norm.npy': f32(5, 8),
        'Qcur-0.npy': f32(5, 8),
        'Kcur-0.npy': f32(5, 2, 4), // behind rope
        'Qcur_normed-1.npy': f32(1, 5, 2, 4),
        'attn_sub_norm-0.npy': f32(1, 5, 8),
        'l_out-1.npy': f32(1, 8),
        'result_norm.npy': f32(8),
        'result_output.npy': f32(1, 1, 30),
        'blk.0.attn_norm.scales.npy': f32(5),
        'notes.txt': new Uint8Array(3),
        'weights.npy': f32(9, 9),
      }),
    ).toEqual({
      'blk.0.attn_norm': [0, 5, 8],
      'blk.0.attn_q': [0, 5, 8],
      'blk.0.attn_k_rope': [0, 5, 8],
      'blk.1.attn_q_norm': [0, 5, 8],
      'blk.0.attn_sub_norm': [0, 5, 8],
      'blk.1.out': [4, 1, 8],
      output_norm: [4, 1, 8],
      logits: [4, 1, 30],
      'blk.0.attn_norm.scales': [0, 5, 1],
    });
  });

  it('says which arrays it did not look at', async () => {
    const files = {
      'embd.npy': f32(2, 4),
      'tokens.npy': npy('<i4', [2], Int32Array.of(1, 2)),
      'notes.txt': new Uint8Array(3),
    };
    expect((await openTrace(folder({ ...files, 'blk.0.attn_Q.npy': f32(2, 4) }))).unread).toEqual(['blk.0.attn_Q.npy']);
    expect((await openTrace(folder(files))).unread).toEqual([]);
  });

  it('is read from the row that was asked for', async () => {
    const source = await openTrace(folder({ 'logits.npy': f32(1, 4), 'embd.npy': f32(3, 4) }));
    expect([...(await source.read('logits', 2, 1)).data]).toEqual([0, 1, 2, 3]);
    expect([...(await source.read('embd', 1, 2)).data]).toEqual([4, 5, 6, 7, 8, 9, 10, 11]);
    await expect(source.read('logits', 0, 1)).rejects.toThrow(/positions 2 to 2, got 0 to 0/);
    await expect(source.read('nothing', 0, 1)).rejects.toThrow(/no such tensor/);
  });

  it.each<[string, Uint8Array, number[]]>([
    ['<f4', npy('<f4', [2, 2], Float32Array.of(1.5, -2, 3, 4)), [1.5, -2, 3, 4]],
    ['<f8', npy('<f8', [2, 2], Float64Array.of(0.1, -2, 3, 4)), [Math.fround(0.1), -2, 3, 4]],
    ['<f2', npy('<f2', [2, 2], Uint16Array.of(0x3c00, 0xc000, 0x7c00, 0x0001)), [1, -2, Infinity, 2 ** -24]],
    ['|i1', npy('|i1', [2, 2], Int8Array.of(-128, 1, 2, 127)), [-128, 1, 2, 127]],
    ['|u1', npy('|u1', [2, 2], Uint8Array.of(0, 1, 2, 255)), [0, 1, 2, 255]],
    ['<i4', npy('<i4', [2, 2], Int32Array.of(-(2 ** 31), 1, 2, 2 ** 31 - 1)), [-(2 ** 31), 1, 2, 2 ** 31 - 1]],
    ['<i8', npy('<i8', [2, 2], BigInt64Array.of(-5n, 1n, 2n, 2n ** 31n - 1n)), [-5, 1, 2, 2 ** 31 - 1]],
    ['version 2', npy('<f4', [2, 2], Float32Array.of(1, 2, 3, 4), { version: 2 }), [1, 2, 3, 4]],
    ['version 3', npy('<f4', [2, 2], Float32Array.of(1, 2, 3, 4), { version: 3 }), [1, 2, 3, 4]],
  ])('%s is read', async (_, file, values) => {
    const source = await openTrace(folder({ 'embd.npy': file }));
    expect([...(await source.read('embd', 0, 2)).data]).toEqual(values);
  });

  it('may have its tokens beside it', async () => {
    const rows = { 'embd.npy': f32(3, 4) };
    const ids = npy('<i8', [3], BigInt64Array.of(1n, 2n, 300n));
    expect((await openTrace(folder({ ...rows, 'tokens.npy': ids }))).origin.tokens).toEqual([1, 2, 300]);
    expect((await openTrace(folder({ ...rows, 'inp_tokens.npy': ids }))).origin.tokens).toEqual([1, 2, 300]);
    expect((await openTrace(folder(rows))).origin.tokens).toBeUndefined();
  });

  it.each<[string, Readonly<Record<string, Uint8Array>>, string, RegExp]>([
    ['nothing', {}, 'bad-container', /neither a manifest nor files of a known name.*got nothing/],
    [
      'other numbers of tokens',
      { 'embd.npy': f32(5, 4), 'logits.npy': f32(4, 9) },
      'bad-container',
      /different numbers of tokens, expected 5 rows, or 1, got \(4, 9\)/,
    ],
    [
      'one tensor twice',
      { 'embd.npy': f32(5, 4), 'inp_embd.npy': f32(5, 4) },
      'bad-container',
      /two files of one tensor/,
    ],
    [
      'other tokens',
      { 'embd.npy': f32(5, 4), 'tokens.npy': npy('<i4', [2], Int32Array.of(1, 2)) },
      'bad-container',
      /no ids of these rows, expected \(5\) of integers, got \(2\) <i4/,
    ],
    ['tokens in floats', { 'embd.npy': f32(5, 4), 'tokens.npy': f32(5) }, 'bad-container', /no ids of these rows/],
    [
      'a negative token',
      { 'embd.npy': f32(1, 4), 'tokens.npy': npy('<i4', [1], Int32Array.of(-1)) },
      'bad-token',
      /a negative id/,
    ],
    ['big-endian', { 'embd.npy': npy('>f4', [1, 1], Float32Array.of(1)) }, 'unsupported-type', /<f4.*got ">f4"/],
    [
      'Fortran order',
      { 'embd.npy': npy('<f4', [2, 2], Float32Array.of(1, 2, 3, 4), { fortran: 'True' }) },
      'unsupported-type',
      /Fortran order.*ascontiguousarray/,
    ],
    ['text', { 'embd.npy': npy('<U4', [1, 1], Uint32Array.of(1, 2, 3, 4)) }, 'unsupported-type', /another type/],
    [
      'version 4',
      { 'embd.npy': npy('<f4', [1, 1], Float32Array.of(1), { version: 4 }) },
      'unsupported-version',
      /1 to 3/,
    ],
    ['too few numbers', { 'embd.npy': f32(2, 4).subarray(0, -1) }, 'truncated', /ends before its numbers/],
    [
      'a huge shape',
      { 'embd.npy': npy('<f4', [2 ** 40, 2 ** 40], new Uint8Array(4)) },
      'limit-exceeded',
      /shape of a .npy file is too large/,
    ],
    [
      'a huge header',
      { 'embd.npy': f32(1, 1).map((byte, i) => (i === 6 ? 2 : i === 10 ? 1 : byte)) },
      'limit-exceeded',
      /header of a .npy file is too long/,
    ],
  ])('with %s is refused', async (_, files, code, message) => {
    const refused = openTrace(folder(files));
    await expect(refused).rejects.toThrow(message);
    await expect(refused).rejects.toMatchObject({ code });
  });

  it('with integers of more than 32 bits is refused where they are read', async () => {
    const source = await openTrace(folder({ 'embd.npy': npy('<i8', [1, 1], BigInt64Array.of(2n ** 40n)) }));
    await expect(source.read('embd', 0, 1)).rejects.toMatchObject({ code: 'unsupported-type' });
  });
});
