import { describe, expect, it } from 'vitest';
import { type RequantizeOptions, requantize } from '../../src/convert/requantize.ts';
import { synthesize } from '../../src/convert/synth.ts';
import type { EmbeddingType, LinearType } from '../../src/convert/types.ts';
import {
  type ByteSource,
  type GgufFile,
  type GgufValue,
  memorySink,
  memorySource,
  openGguf,
  shardName,
  stringValue,
  type TensorToWrite,
  writeGguf,
} from '../../src/formats/index.ts';
import { decodeInto } from '../../src/tensors/decode.ts';
import { encodeBF16, encodeF16, encodeF32 } from '../../src/tensors/floats.ts';
import { encodeI2S } from '../../src/tensors/i2s.ts';
import { encodeQ6_K } from '../../src/tensors/q6_k.ts';
import { encodeQ8_0 } from '../../src/tensors/q8_0.ts';
import { encodeTQ2 } from '../../src/tensors/tq2.ts';
import { random, randomTrits, refuses } from '../hostile/builder.ts';

type Bytes = Uint8Array<ArrayBuffer>;

async function model(type: LinearType, embeddingType: EmbeddingType): Promise<Bytes> {
  const sink = memorySink();
  await synthesize(sink, { preset: 'tiny', architecture: 'llama', type, embeddingType });
  return sink.bytes();
}

async function requantized(bytes: Uint8Array, options: RequantizeOptions) {
  const sink = memorySink();
  const gguf = await openGguf(memorySource(bytes), { allowUnreadable: true });
  const { notes, byteLength } = await requantize(gguf, sink, options);
  expect(byteLength).toBe(sink.bytes().length);
  return { bytes: sink.bytes(), notes };
}

async function written(tensors: TensorToWrite[], metadata: [string, GgufValue][] = []): Promise<Bytes> {
  const sink = memorySink();
  await writeGguf(sink, { tensors, metadata: [['general.architecture', stringValue('llama')], ...metadata] });
  return sink.bytes();
}

async function raw(gguf: GgufFile, name: string): Promise<Uint8Array> {
  const { source, offsetBytes, byteLength } = gguf.tensor(name);
  const bytes = new Uint8Array(byteLength);
  await source.readInto(bytes, offsetBytes);
  return bytes;
}

async function valuesOf(bytes: Uint8Array, name: string): Promise<Float32Array> {
  const gguf = await openGguf(memorySource(bytes));
  const { dtype, elements } = gguf.tensor(name);
  const out = new Float32Array(elements);
  decodeInto(dtype, await raw(gguf, name), 0, elements, out);
  return out;
}

const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;
const Q = 'blk.0.attn_q.weight';
/** One projection of 256 x 4 trits, of a scale that half precision has. */
const TRITS = randomTrits(1024, 9);
const one = (dtype: TensorToWrite['dtype'], bytes: Uint8Array, shape = [256, 4]) =>
  written([{ name: Q, dtype, shape, data: () => [bytes] }]);
const timesScale = (scale: number) => Float32Array.from(TRITS, (trit) => trit * scale);

describe('requantising', () => {
  it('goes through all types and comes back to the same file', async () => {
    const first = await model('I2_S', 'F16');
    let bytes = first;
    for (const type of ['TQ2_0', 'TQ1_0', 'BF16', 'F16', 'F32', 'TQ1_0', 'F32', 'I2_S'] as const) {
      // Float tables follow float types, and BF16 would round them: they stay F16 until the end.
      const { bytes: next, notes } = await requantized(bytes, {
        type,
        tokenEmbeddingType: 'F16',
        outputTensorType: 'F16',
      });
      const gguf = await openGguf(memorySource(next));
      expect(gguf.tensor('blk.1.ffn_down.weight').dtype.name).toBe(type);
      // Most scales of synthetic models have eleven significant bits: BF16 rounds them, which is a dead end.
      if (type === 'BF16') expect(notes.join()).toMatch(/BF16 cannot hold 12 of 14 scales exactly/);
      else {
        expect(notes.join()).not.toMatch(/exactly/);
        bytes = next;
      }
    }
    expect(same(bytes, first)).toBe(true);
  });

  it.each([
    ['I2_S', 'TQ1_0'],
    ['I2_S', 'TQ2_0'],
    ['TQ2_0', 'I2_S'],
    ['F32', 'TQ1_0'],
  ] as const)('%s becomes the %s that is written directly', async (from, to) => {
    const { bytes } = await requantized(await model(from, 'F16'), {
      type: to,
      tokenEmbeddingType: 'F16',
      outputTensorType: 'F16',
    });
    expect(same(bytes, await model(to, 'F16'))).toBe(true);
  });

  it('says which scales were rounded, and keeps the trits', async () => {
    const file = await one('I2_S', encodeI2S(TRITS, 0.1));
    const { bytes, notes } = await requantized(file, { type: 'TQ2_0' });
    expect(notes).toEqual([
      'read as x86: assumed, the tensors are not those of a whole model',
      'TQ2_0 cannot hold 1 of 1 scales exactly; the worst is off by 0.024 %',
    ]);
    const back = await requantized(bytes, { type: 'I2_S' });
    expect(back.notes).toEqual([]);
    const gguf = await openGguf(memorySource(back.bytes));
    const [half, halfBytes] = [0.0999755859375, await raw(gguf, Q)];
    expect(same(halfBytes, encodeI2S(TRITS, half))).toBe(true);
    // And so for floats that are ternary.
    const floats = await one('F32', encodeF32(timesScale(Math.fround(0.1))));
    expect((await requantized(floats, { type: 'F16' })).notes.join()).toMatch(/F16 cannot hold 1 of 1 scales/);
  });

  it.each([
    ['F32', encodeF32],
    ['F16', encodeF16],
    ['BF16', encodeBF16],
    ['Q8_0', encodeQ8_0],
  ] as const)('finds the trits of %s', async (dtype, encode) => {
    // Q8_0 divides by 127: 1/8 of that is a half.
    const scale = 127 / 1024;
    const { bytes, notes } = await requantized(await one(dtype, encode(timesScale(scale))), { type: 'I2_S' });
    const gguf = await openGguf(memorySource(bytes));
    expect(same(await raw(gguf, Q), encodeI2S(TRITS, scale))).toBe(true);
    expect(notes).toEqual(['1 matrix was ternary already: trits and scales are kept']);
    expect(gguf.getUint('general.file_type')).toBe(40);
    expect(gguf.getUint('general.quantization_version')).toBe(2);
  });

  it('finds the trits under the noise of Q6_K', async () => {
    const { bytes, notes } = await requantized(await one('Q6_K', encodeQ6_K(timesScale(0.1))), { type: 'I2_S' });
    const got = await raw(await openGguf(memorySource(bytes)), Q);
    expect(same(got.subarray(0, 256), encodeI2S(TRITS, 1).subarray(0, 256))).toBe(true);
    expect(notes.join()).toMatch(/1 matrix was ternary but for rounding \(distance up to 0\.0/);
    const values = await valuesOf(bytes, Q);
    expect(Math.abs(Math.max(...values) / 0.1 - 1)).toBeLessThan(0.04);
  });

  it('makes master weights ternary only when told to, as training does', async () => {
    const next = random(4);
    const weights = Float32Array.from({ length: 1024 }, () => next() + next() + next() - 1.5);
    const file = await one('F32', encodeF32(weights));
    await refuses(
      requantized(file, { type: 'TQ1_0' }),
      'unsupported-type',
      /memory: projections that are not ternary.*at most 0\.1, got blk\.0\.attn_q\.weight 0\.4\d\d, of 1 .*--ternarize/,
    );
    const { bytes, notes } = await requantized(file, { type: 'I2_S', ternarize: true });
    const mean = Math.fround(weights.reduce((sum, w) => sum + Math.abs(w), 0) / 1024);
    const inverse = Math.fround(1 / mean);
    const trits = Int8Array.from(weights, (w) => Math.max(-1, Math.min(1, Math.round(Math.fround(w * inverse)))));
    expect(same(await raw(await openGguf(memorySource(bytes)), Q), encodeI2S(trits, Math.fround(1 / inverse)))).toBe(
      true,
    );
    expect(notes.join()).toMatch(/1 matrix was master weights/);
    // Between float types nobody has to be told.
    expect(await valuesOf((await requantized(file, { type: 'F32' })).bytes, Q)).toEqual(weights);
  });

  it('finds out late where the first rows were too kind', async () => {
    const rows = 2048;
    const next = random(8);
    const weights = Float32Array.from({ length: 256 * rows }, (_, i) =>
      i < 256 * 512 ? 0.5 * TRITS[i & 1023] : next() - 0.5,
    );
    const sink = memorySink();
    const gguf = await openGguf(memorySource(await one('F32', encodeF32(weights), [256, rows])));
    await refuses(requantize(gguf, sink, { type: 'I2_S' }), 'unsupported-type', /blk\.0\.attn_q\.weight 0\.[23]/);
    expect(sink.bytes().length).toBe(0);
  });

  it('re-cuts rows that begin inside blocks', async () => {
    const trits = randomTrits(192 * 4, 3);
    const file = await one('I2_S', encodeI2S(trits, 0.25), [192, 4]);
    const { bytes } = await requantized(file, { type: 'F32' });
    expect(await valuesOf(bytes, Q)).toEqual(Float32Array.from(trits, (trit) => trit * 0.25 + 0));
    expect(
      same(
        await raw(await openGguf(memorySource((await requantized(bytes, { type: 'I2_S' })).bytes)), Q),
        encodeI2S(trits, 0.25),
      ),
    ).toBe(true);
    await refuses(requantized(file, { type: 'TQ2_0' }), 'bad-argument', /cannot be written as TQ2_0.*I2_S takes every/);
  });

  it('gives tables their own type', async () => {
    const next = random(6);
    const table = Float32Array.from({ length: 1024 }, () => next() - 0.5);
    const floats = await written([
      { name: 'token_embd.weight', dtype: 'F32', shape: [256, 4], data: () => [encodeF32(table)] },
      { name: Q, dtype: 'I2_S', shape: [256, 4], data: () => [encodeI2S(TRITS, 0.5)] },
      { name: 'output_norm.weight', dtype: 'F32', shape: [256], data: () => [encodeF32(table.subarray(0, 256))] },
      { name: 'output.weight', dtype: 'F32', shape: [256, 4], data: () => [encodeF32(table)] },
    ]);
    // As llama-quantize: tables of a ternary file are F16.
    const types = async (bytes: Uint8Array) => {
      const gguf = await openGguf(memorySource(bytes));
      return ['token_embd.weight', 'output.weight', 'output_norm.weight'].map((name) => gguf.tensor(name).dtype.name);
    };
    expect(await types((await requantized(floats, { type: 'TQ1_0' })).bytes)).toEqual(['F16', 'F16', 'F32']);
    expect(await types((await requantized(floats, { type: 'F16' })).bytes)).toEqual(['F16', 'F16', 'F32']);
    const small = await requantized(floats, { type: 'I2_S', tokenEmbeddingType: 'Q6_K', outputTensorType: 'Q8_0' });
    expect(await types(small.bytes)).toEqual(['Q6_K', 'Q8_0', 'F32']);
    expect(same(small.bytes, (await requantized(small.bytes, { type: 'I2_S' })).bytes)).toBe(true);
    // What is quantised stays so, and says so where the rest does not.
    const wide = await requantized(small.bytes, { type: 'F32' });
    expect(await types(wide.bytes)).toEqual(['Q6_K', 'Q8_0', 'F32']);
    expect(wide.notes.join('\n')).toMatch(/token_embd\.weight stays Q6_K.*\noutput\.weight stays Q8_0/);
    await refuses(
      requantized(small.bytes, { type: 'I2_S', tokenEmbeddingType: 'Q8_0' }),
      'bad-argument',
      /token_embd\.weight: requantising Q6_K is off.*--allow-requantize/,
    );
    const twice = { type: 'I2_S', tokenEmbeddingType: 'Q8_0', allowRequantize: true } as const;
    expect(await types((await requantized(small.bytes, twice)).bytes)).toEqual(['Q8_0', 'Q8_0', 'F32']);
    // Decoding loses nothing.
    const decoded = await requantized(small.bytes, { type: 'I2_S', tokenEmbeddingType: 'F32' });
    expect(await valuesOf(decoded.bytes, 'token_embd.weight')).toEqual(
      await valuesOf(small.bytes, 'token_embd.weight'),
    );
  });

  it('takes another table type where rows are no whole blocks', async () => {
    const file = await written([
      {
        name: 'token_embd.weight',
        dtype: 'F32',
        shape: [96, 4],
        data: () => [encodeF32(new Float32Array(384).fill(1))],
      },
      { name: 'output.weight', dtype: 'F32', shape: [20, 4], data: () => [encodeF32(new Float32Array(80).fill(1))] },
    ]);
    const tables = { tokenEmbeddingType: 'Q6_K', outputTensorType: 'Q6_K' } as const;
    const { bytes, notes } = await requantized(file, { type: 'I2_S', ...tables });
    const gguf = await openGguf(memorySource(bytes));
    expect(gguf.tensors.map(({ dtype }) => dtype.name)).toEqual(['Q8_0', 'F16']);
    expect(notes).toEqual([
      'token_embd.weight: rows of 96 values are no whole Q6_K blocks: Q8_0',
      'output.weight: rows of 20 values are no whole Q6_K blocks: F16',
    ]);
  });

  it('decodes a ternary table', async () => {
    const file = await written([
      { name: 'token_embd.weight', dtype: 'TQ2_0', shape: [256, 4], data: () => [encodeTQ2(TRITS, 0.5)] },
    ]);
    const { bytes } = await requantized(file, { type: 'I2_S', tokenEmbeddingType: 'F16' });
    expect(await valuesOf(bytes, 'token_embd.weight')).toEqual(Float32Array.from(TRITS, (trit) => trit * 0.5 + 0));
  });

  it('copies everything else, metadata in order', async () => {
    const file = await model('I2_S', 'Q6_K');
    const before = await openGguf(memorySource(file));
    const after = await openGguf(memorySource((await requantized(file, { type: 'TQ2_0' })).bytes));
    expect([...after.metadata.keys()]).toEqual([...before.metadata.keys()]);
    for (const [key, value] of before.metadata) {
      if (key !== 'general.file_type') expect(after.metadata.get(key), key).toEqual(value);
    }
    expect(after.getUint('general.file_type')).toBe(37);
    for (const { name, dtype } of before.tensors) {
      if (dtype.name !== 'I2_S') expect(same(await raw(after, name), await raw(before, name)), name).toBe(true);
    }
    expect(same((await requantized(file, { type: 'COPY' })).bytes, file)).toBe(true);
  });

  it('joins split files', async () => {
    const tensors: TensorToWrite[] = [
      { name: 'token_embd.weight', dtype: 'F16', shape: [256, 4], data: () => [new Uint8Array(2048)] },
      { name: Q, dtype: 'I2_S', shape: [256, 4], data: () => [encodeI2S(TRITS, 0.5)] },
    ];
    const keys = (index: number): [string, GgufValue][] => [
      ['split.no', { type: 'u16', value: index }],
      ['split.count', { type: 'u16', value: 2 }],
      ['split.tensors.count', { type: 'i32', value: 2 }],
    ];
    const files = new Map([
      [shardName('m', 0, 2), await written([tensors[0]], keys(0))],
      [shardName('m', 1, 2), await written([tensors[1]], keys(1))],
    ]);
    const open = (name: string): ByteSource => ({
      ...memorySource(files.get(name)!, name),
      sibling: async (other) => open(other),
    });
    const sink = memorySink();
    await requantize(await openGguf(open(shardName('m', 0, 2))), sink, { type: 'TQ1_0' });
    const { bytes: whole } = await requantized(await written(tensors), { type: 'TQ1_0' });
    expect(same(sink.bytes(), whole)).toBe(true);
  });

  it('leaves nothing behind: code 3, different scales, an abort, a full disk', async () => {
    const code3 = encodeI2S(TRITS, 0.5);
    code3[7] = 0xff;
    const uneven = encodeTQ2(TRITS, 0.5);
    uneven.set([0, 0x3c], 64);
    const noScale = encodeI2S(TRITS, 0.5);
    noScale.fill(0, 256, 260);
    for (const [file, type, message] of [
      [await one('I2_S', code3), 'TQ1_0', /attn_q\.weight value \d+: code 3/],
      [await one('I2_S', noScale), 'TQ1_0', /attn_q\.weight: bad scale/],
      [await one('TQ2_0', uneven), 'I2_S', /attn_q\.weight: block scales differ, .* got 2 \(TQ1_0, TQ2_0,/],
    ] as const) {
      const sink = memorySink();
      const gguf = await openGguf(memorySource(file));
      await expect(requantize(gguf, sink, { type })).rejects.toThrow(message);
      expect(sink.bytes().length).toBe(0);
    }
    const gguf = await openGguf(memorySource(await model('I2_S', 'F16')));
    const stop = new AbortController();
    const sink = memorySink();
    const stopped = requantize(gguf, sink, {
      type: 'TQ1_0',
      signal: stop.signal,
      onProgress: ({ tensor }) => tensor.startsWith('blk.1.') && stop.abort(new Error('enough')),
    });
    await expect(stopped).rejects.toThrow('enough');
    expect(sink.bytes().length).toBe(0);
    let room = 100_000;
    const full = {
      ...memorySink(),
      aborted: 0,
      async write(chunk: Uint8Array) {
        room -= chunk.length;
        if (room < 0) throw new Error('no space left');
      },
      async abort() {
        full.aborted++;
      },
      close: async () => expect.fail('closed'),
    };
    await expect(requantize(gguf, full, { type: 'TQ1_0' })).rejects.toThrow('no space left');
    expect(full.aborted).toBeGreaterThan(0);
  });
});

/** What became of a sink. */
function watchedSink() {
  const sink = { ...memorySink(), aborted: 0, abort: async () => void sink.aborted++ };
  return sink;
}

describe('what nobody can hold', () => {
  /** A file of holes: the head says what it likes, the rest are zeros. */
  async function holes(dtype: 'F32' | 'F16' | 'I2_S', shape: [number, number]): Promise<ByteSource> {
    const length = { F32: 4, F16: 2, I2_S: 1 / 4 }[dtype] * shape[0] * shape[1] + (dtype === 'I2_S' ? 32 : 0);
    const head = new Uint8Array(await one(dtype, new Uint8Array({ F32: 4096, F16: 2048, I2_S: 288 }[dtype]), [256, 4]));
    const text = new TextDecoder('latin1').decode(head);
    const view = new DataView(head.buffer);
    const at = text.indexOf(Q) + Q.length + 4;
    for (const [i, extent] of shape.entries()) view.setBigUint64(at + 8 * i, BigInt(extent), true);
    return {
      ...memorySource(head),
      byteLength: 192 + length,
      async readInto(target, at) {
        target.fill(0);
        target.set(head.subarray(Math.min(at, 192), Math.min(at + target.length, 192)));
      },
    };
  }

  it.each([
    ['F32', [2 ** 31, 2], 'I2_S', undefined],
    ['F16', [2 ** 33, 2], 'TQ1_0', undefined],
    ['I2_S', [2 ** 36, 4], 'TQ1_0', undefined],
    ['I2_S', [64, 2 ** 27], 'I2_S', 'rows4'],
  ] as const)('%s of %j to %s is refused before memory is taken', async (dtype, shape, type, outputI2sLayout) => {
    const sink = watchedSink();
    const gguf = await openGguf(await holes(dtype, [...shape]));
    await refuses(requantize(gguf, sink, { type, outputI2sLayout }), 'limit-exceeded', /attn_q\.weight: a tensor of a/);
    expect(sink.aborted).toBeGreaterThan(0);
  });

  it('gives up its sink where the type of a tensor has no size', async () => {
    const file = new Uint8Array(await one('F32', encodeF32(timesScale(1))));
    const at = new TextDecoder('latin1').decode(file).indexOf(Q) + Q.length + 4 + 16;
    new DataView(file.buffer).setUint32(at, 99, true);
    const sink = watchedSink();
    const gguf = await openGguf(memorySource(file), { allowUnreadable: true });
    await refuses(requantize(gguf, sink, { type: 'COPY' }), 'unsupported-type', /size of type #99 is not known/);
    expect(sink.aborted).toBeGreaterThan(0);
  });
});

describe('projections with a scale for every block', () => {
  it('go through the types that have room for them, and come back', async () => {
    const blocks = encodeTQ2(TRITS, 0.5);
    for (let block = 1; block < 4; block++) blocks.set([block, 0x34 + block], 66 * block + 64);
    const first = await one('TQ2_0', blocks);
    let bytes = first;
    for (const type of ['TQ1_0', 'F16', 'TQ2_0', 'F32', 'TQ1_0', 'TQ2_0'] as const) {
      const isFloat = (await openGguf(memorySource(bytes))).tensor(Q).dtype.blockElements === 1;
      // Floats say nothing of blocks: from there only the encoder of tables leads back, so begin again.
      const next = await requantized(isFloat ? first : bytes, { type });
      expect(next.notes).toEqual([]);
      expect(await valuesOf(next.bytes, Q)).toEqual(await valuesOf(first, Q));
      bytes = next.bytes;
    }
    expect(same(await raw(await openGguf(memorySource(bytes)), Q), blocks)).toBe(true);
    const { notes } = await requantized(first, { type: 'BF16' });
    expect(notes.join()).toMatch(/BF16 cannot hold 3 of 4 scales exactly/);
  });
});

describe('tables with a step for every block', () => {
  it.each(['TQ1_0', 'TQ2_0', 'Q4_K', 'Q3_K', 'Q5_0'] as const)('%s keeps its values as F32', async (embeddingType) => {
    const source = await model('I2_S', embeddingType);
    const options = { type: 'TQ2_0', tokenEmbeddingType: 'F32' } as const;
    const { bytes } = await requantized(source, options);
    const [before, after] = [await valuesOf(source, 'token_embd.weight'), await valuesOf(bytes, 'token_embd.weight')];
    expect(new Set(before.map(Math.abs)).size).toBeGreaterThan(100);
    expect(after).toEqual(before);
  });

  it('of a ternary one every code is looked at', async () => {
    const source = await model('I2_S', 'TQ1_0');
    const { offsetBytes } = (await openGguf(memorySource(source))).tensor('token_embd.weight');
    source[offsetBytes + 54 * 300 + 7] = 1;
    await refuses(
      requantized(source, { type: 'I2_S', tokenEmbeddingType: 'F16' }),
      'bad-tensor',
      /token_embd\.weight block 300 byte 7/,
    );
  });
});
