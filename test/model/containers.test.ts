/**
 * One model, eleven containers, one set of bits: whatever type or layout holds the trits, the logits are the same. And what is
 * not ternary is run as what it is, or refused.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { beforeAll, describe, expect, it } from 'vitest';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import { copyOf, type TensorToWrite, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { type LoadOptions, loadModel } from '../../src/index.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { refuses } from '../hostile/builder.ts';
import { engineLogits, tinyModel } from './models.ts';
import { type Container, coarse, recode } from './recode.ts';

const ids = Array.from({ length: 24 }, (_, i) => (i * 37 + 5) % 500);
const digest = (logits: Float32Array) =>
  createHash('sha256')
    .update(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength))
    .digest('hex');
const logitsOf = async (file: Uint8Array, options: LoadOptions) => digest(await engineLogits(file, ids, options, {}));

const EVERY: Container[] = ['x86', 'arm64', 'rows4', 'TL1', 'TL2', 'TQ1_0', 'TQ2_0', 'F32', 'F16', 'BF16'];
const layoutOf = (container: Container): LoadOptions =>
  container === 'x86' || container === 'arm64' || container === 'rows4' ? { i2sLayout: container } : {};

describe.each(['bitnet-b1.58', 'llama'] as const)('the tiny %s', (architecture) => {
  let file: Uint8Array;
  let want: string;
  beforeAll(async () => {
    file = await recode(await tinyModel({ architecture }), 'x86', { scale: coarse });
    want = await logitsOf(file, { backend: 'ts', i2sLayout: 'x86' });
  });

  it.each(EVERY)('as %s has the same logits, on both backends', async (container) => {
    const other = await recode(await tinyModel({ architecture }), container, { scale: coarse });
    if (container !== 'x86') expect(Buffer.compare(other, file)).not.toBe(0);
    expect(await logitsOf(other, { backend: 'ts', ...layoutOf(container) })).toBe(want);
    expect(await logitsOf(other, { backend: 'wasm', threads: 2, ...layoutOf(container) })).toBe(want);
  });
});

describe('the story model', () => {
  const stories = new Uint8Array(gunzipSync(readFileSync('fixtures/models/stories.gguf.gz')));
  let want: string;
  beforeAll(async () => {
    want = await logitsOf(stories, { threads: 1, i2sLayout: 'x86' });
  });

  it.each(['x86', 'arm64', 'rows4', 'TL1', 'TL2', 'F32'] as const)(
    'as %s has the same logits, and nobody says which it is',
    async (container) => {
      expect(await logitsOf(await recode(stories, container), { threads: 1 })).toBe(want);
    },
  );

  it.each(['TQ1_0', 'TQ2_0', 'F16', 'BF16'] as const)('as %s too, once its scales fit that type', async (container) => {
    const rounded = await logitsOf(await recode(stories, 'x86', { scale: coarse }), { threads: 1 });
    expect(await logitsOf(await recode(stories, container, { scale: coarse }), { threads: 1 })).toBe(rounded);
    // What the type rounds is no longer the same model.
    expect(await logitsOf(await recode(stories, container), { threads: 1 })).not.toBe(want);
  });

  it('differs when a layout is forced that it does not have', async () => {
    for (const i2sLayout of ['arm64', 'rows4'] as const) {
      expect(await logitsOf(stories, { threads: 1, i2sLayout })).not.toBe(want);
    }
  });
});

describe('floats that are ternary', () => {
  it('are told of', async () => {
    const model = await loadModel(await recode(await tinyModel({}), 'F16'), { threads: 1 });
    expect(model.notes).toEqual([
      '14 of 14 projections are F16 and hold nothing but -s, 0 and s: run as ternary, packed, with int8 activations',
    ]);
    await model.dispose();
  });

  it('of Q8_0 too', async () => {
    const model = await loadModel(await recode(await tinyModel({}), 'Q8_0'), { threads: 1 });
    expect(model.notes).toEqual([expect.stringMatching(/^14 of 14 projections are Q8_0 and hold nothing but/)]);
    await model.dispose();
  });

  it('but for one value that no sample met are refused while loading', async () => {
    const file = await recode(await tinyModel({}), 'F32', {
      change: ({ name, shape }, values) => {
        if (name === 'blk.1.ffn_up.weight') values[100 * shape[0] + 3] = 0.001;
      },
    });
    await refuses(
      loadModel(file, { threads: 1 }),
      'bad-tensor',
      /blk\.1\.ffn_up\.weight row 100 column 3: a value that is not ternary in a tensor that seemed to be, .*got 0\.001/,
    );
  });

  it('that are zeros in every sampled row are looked at further', async () => {
    const file = await recode(await tinyModel({}), 'F32', {
      change: (_, values) => void values.fill(0, 0, 256).fill(0, values.length - 768),
    });
    const model = await loadModel(file, { threads: 1 });
    expect(model.notes[0]).toMatch(/^14 of 14 projections are F32 and hold nothing but/);
    await model.dispose();
  });
});

describe('projections that are not ternary', () => {
  const gaussian = (_: unknown, values: Float32Array) => {
    const rng = Rng.fromSeed(5);
    for (let i = 0; i < values.length; i++) {
      values[i] = 0.02 * (rng.nextFloat() + rng.nextFloat() + rng.nextFloat() + rng.nextFloat() - 2);
    }
  };
  const master = async (architecture: 'bitnet' | 'bitnet-b1.58' | 'llama') =>
    recode(await tinyModel({ architecture }), 'F16', { change: gaussian });

  it.each(['bitnet', 'bitnet-b1.58', 'llama'] as const)('are refused in %s, with distances', async (architecture) => {
    const error = await refuses(
      loadModel(await master(architecture), { threads: 1 }),
      'not-ternary',
      /the projections of this model are not ternary, .*got blk\.0\.attn_q\.weight F16 0\.4\d\d, blk\.0\.attn_k.*, and 10 more of 14 .*--allow-dense/,
    );
    expect(error.facts.hint).toMatch(/bitnet convert/);
  });

  it('one of them is enough, and is named', async () => {
    const file = await recode(await tinyModel({}), 'F32', {
      change: (tensor, values) => {
        if (tensor.name === 'blk.1.ffn_down.weight') gaussian(tensor, values);
      },
    });
    await refuses(loadModel(file, { threads: 1 }), 'not-ternary', /got blk\.1\.ffn_down\.weight F32 0\.4\d\d \(/);
  });

  it('run when forced to, with a note', async () => {
    const model = await loadModel(await master('bitnet'), { threads: 1, allowDense: true });
    expect(model.notes).toEqual([
      '14 of 14 projections are F16 and not ternary: run dense as asked, with float activations',
    ]);
    const logits = await model.createSession().prefill(ids);
    expect(logits.every(Number.isFinite)).toBe(true);
    await model.dispose();
  });

  it('nothing is wrong with a NaN in a sampled row but the NaN', async () => {
    const file = await recode(await tinyModel({}), 'F32', {
      change: ({ name }, values) => {
        if (name === 'blk.0.attn_v.weight') values[5] = Number.NaN;
      },
    });
    await refuses(loadModel(file, { threads: 1 }), 'bad-tensor', /blk\.0\.attn_v\.weight element 5/);
  });
});

describe.each([
  ['TQ1_0', 54, 52],
  ['TQ2_0', 66, 64],
] as const)('%s whose blocks have scales of their own', (type, blockBytes, scaleAt) => {
  /** The scale of each block halved or not by its place. */
  async function scaled(halve: (name: string, block: number) => boolean): Promise<Uint8Array> {
    const gguf = await openGguf(memorySource(await recode(await tinyModel({}), type, { scale: coarse })));
    const tensors: TensorToWrite[] = [];
    for (const tensor of gguf.tensors) {
      if (tensor.dtype.name !== type) {
        tensors.push(copyOf(tensor));
        continue;
      }
      const bytes = new Uint8Array(tensor.byteLength);
      await tensor.source.readInto(bytes, tensor.offsetBytes);
      for (let block = 0; block * blockBytes < bytes.length; block++) {
        // One less in the exponent of a half.
        if (halve(tensor.name, block)) bytes[block * blockBytes + scaleAt + 1] -= 4;
      }
      tensors.push({ name: tensor.name, dtype: type, shape: tensor.shape, data: () => [bytes] });
    }
    const sink = memorySink();
    await writeGguf(sink, { metadata: gguf.metadata, tensors });
    return sink.bytes();
  }

  it('run dense, on the values that they have', async () => {
    const file = await scaled((name, block) => name.includes('attn_q') && block % 3 === 1);
    const model = await loadModel(file, { threads: 1 });
    expect(model.notes).toEqual([
      expect.stringMatching(
        new RegExp(`^2 of 14 projections are ${type} and have a scale for each block: run dense, kept as Q8_0`),
      ),
    ]);
    await model.dispose();
    const want = await logitsOf(file, { backend: 'ts' });
    expect(await logitsOf(file, { backend: 'wasm', threads: 2 })).toBe(want);
    expect(want).not.toBe(await logitsOf(await scaled(() => false), { backend: 'ts' }));
  });

  it('give the logits of the same values as F32', async () => {
    const halve = (name: string, block: number) => name.includes('ffn_up') && block % 2 === 1;
    const floats = await recode(await tinyModel({}), 'F32', {
      scale: coarse,
      change: ({ name }, values) => {
        for (let i = 0; i < values.length; i++) if (halve(name, i >> 8)) values[i] /= 2;
      },
    });
    // The same trits and scales, dense: half the values of one matrix make it anything but ternary.
    const asFloats = await logitsOf(floats, { backend: 'ts', allowDense: true });
    expect(await logitsOf(await scaled(halve), { backend: 'ts' })).toBe(asFloats);
  });

  it('in places that no sample met are refused while loading', async () => {
    const file = await scaled((name, block) => name === 'blk.0.ffn_gate.weight' && block === 100);
    await refuses(loadModel(file, { threads: 1 }), 'unsupported-type', /ffn_gate\.weight: block scales differ/);
  });
});

describe('TL files', () => {
  it('of shapes that no list has need their tiles named', async () => {
    const own = {
      '256x256': '64/128/32',
      '128x256': '64/64/64',
      '768x256': '384/128/32',
      '256x768': '128/192/32',
    };
    const file = await recode(await tinyModel({}), 'TL1', { tiles: own });
    const want = await logitsOf(await tinyModel({}), { backend: 'ts' });
    expect(await logitsOf(file, { backend: 'ts', tiles: own })).toBe(want);
    // Nothing in the file tells: other tiles are other weights.
    expect(await logitsOf(file, { backend: 'ts' })).not.toBe(want);
    await refuses(
      loadModel(file, { tiles: { '256x256': '96/96/32' } }),
      'bad-tensor',
      /tiles do not fit this TL1 matrix/,
    );
  });

  it('whose scales are all 1 come with a warning', async () => {
    const model = await loadModel(await recode(await tinyModel({}), 'TL2', { scale: () => 1 }), { threads: 1 });
    expect(model.notes).toEqual([expect.stringMatching(/^every projection has scale 1: .* take the I2_S file/)]);
    await model.dispose();
  });
});

describe.each(['TL1', 'TL2', 'arm64'] as const)('a damaged %s file', (container) => {
  it('that ends early is refused before anything is loaded', async () => {
    const file = await recode(await tinyModel({}), container);
    for (const missing of [1, 33, 5000]) {
      await refuses(loadModel(file.slice(0, -missing), { threads: 1 }), 'truncated', /./);
    }
  });

  it('whose tensors have less room than their shape takes is refused', async () => {
    const file = await recode(await tinyModel({}), container);
    const gguf = await openGguf(memorySource(file));
    const tensor = gguf.tensor('blk.0.ffn_up.weight');
    const next = gguf.tensors
      .filter(({ offsetBytes }) => offsetBytes > tensor.offsetBytes)
      .reduce((a, b) => (a.offsetBytes < b.offsetBytes ? a : b));
    // The record of the next tensor ends with its offset, relative to the data.
    const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
    const name = new TextEncoder().encode(next.name);
    const at = Buffer.from(file).indexOf(name) + name.length + 4 + 8 * next.shape.length + 4;
    const offset = Number(view.getBigUint64(at, true));
    expect(offset).toBe(next.offsetBytes - gguf.headerBytes);
    view.setBigUint64(at, BigInt(offset - 64), true);
    await refuses(loadModel(file, { threads: 1 }), 'bad-container', /ffn_up\.weight: tensor overlaps the next one/);
  });
});
