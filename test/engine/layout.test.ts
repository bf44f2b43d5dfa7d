/**
 * Finding the layout of a file that does not tell it: by the statistics of a trained model, by its speech where those are taken
 * away, and neither for random weights. The story model is a genuine BitNet b1.58, written again in each layout.
 */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { wasm } from '../../src/engine/backends.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import type { GgufFile, GgufTensor } from '../../src/formats/gguf/types.ts';
import { copyOf, type TensorToWrite, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { BitnetError, type LoadOptions, loadModel } from '../../src/index.ts';
import { guessLayout, I2S_LAYOUTS, measureLayouts } from '../../src/model/layout.ts';
import { type ModelTensors, modelTensors } from '../../src/model/plan.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { type DTypeName, dtypeByName } from '../../src/tensors/dtype.ts';
import { decodeF32, encodeF32 } from '../../src/tensors/floats.ts';
import { tilesOf } from '../../src/tensors/tiles.ts';
import { encodeTL1 } from '../../src/tensors/tl1.ts';
import { refuses } from '../hostile/builder.ts';
import { tinyModel } from '../model/models.ts';
import { recode } from '../model/recode.ts';

const stories = new Uint8Array(gunzipSync(readFileSync('fixtures/models/stories.gguf.gz')));
const candidates = I2S_LAYOUTS.map((i2s) => ({ i2s }));

/** The file with some of its F32 tensors changed. */
async function withFloats(
  file: Uint8Array,
  names: RegExp,
  change: (values: Float32Array) => void,
): Promise<Uint8Array> {
  const gguf = await openGguf(memorySource(file));
  const tensors: TensorToWrite[] = [];
  for (const tensor of gguf.tensors) {
    if (!names.test(tensor.name)) {
      tensors.push(copyOf(tensor));
      continue;
    }
    const bytes = new Uint8Array(tensor.byteLength);
    await tensor.source.readInto(bytes, tensor.offsetBytes);
    const values = new Float32Array(tensor.elements);
    decodeF32(bytes, 0, values.length, values);
    change(values);
    tensors.push({ name: tensor.name, dtype: 'F32', shape: tensor.shape, data: () => [encodeF32(values)] });
  }
  const sink = memorySink();
  await writeGguf(sink, { metadata: gguf.metadata, tensors });
  return sink.bytes();
}

/** Gains all equal: the model still speaks, and no statistics tell its layout. */
function withFlatGains(file: Uint8Array): Promise<Uint8Array> {
  return withFloats(file, /^blk\..*norm/, (values) => {
    values.fill(values.reduce((sum, x) => sum + x, 0) / values.length);
  });
}

async function toldBy(file: Uint8Array, options: LoadOptions = {}) {
  const model = await loadModel(file, { threads: 1, ...options });
  const { info, notes } = model;
  await model.dispose();
  return { layout: info.layout, notes };
}

/** Counts the backends that are opened: a model is loaded into one each time. */
function counting() {
  const seen = { opened: 0, disposed: 0 };
  const backend = async () => {
    const one = await wasm({ threads: 1 })();
    seen.opened++;
    const dispose = one.dispose.bind(one);
    one.dispose = async () => {
      seen.disposed++;
      await dispose();
    };
    return one;
  };
  return { seen, backend };
}

describe.each(I2S_LAYOUTS)('the story model as %s', (layout) => {
  it('is found by the gains of its norms, far from chance', async () => {
    const gguf = await openGguf(memorySource(await recode(stories, layout)));
    const model = modelTensors(gguf);
    const measured = await measureLayouts(gguf, model, candidates, { layers: 6, rows: 1000 });
    const right = measured!.scores[I2S_LAYOUTS.indexOf(layout)];
    expect(measured!.matrices).toBe(36);
    // 619 on this model; the others have 22 to 68.
    expect(right).toBeGreaterThan(500);
    for (const score of measured!.scores) if (score !== right) expect(score).toBeLessThan(100);
    const { candidates: guessed } = await guessLayout(gguf, model, {});
    expect(guessed[0]).toEqual({ i2s: layout });
    // Others than the usual are still to be heard.
    expect(guessed.length).toBe(layout === 'x86' ? 1 : 3);
  });

  it('is found by the gains before q, k, gate and up alone, as in models without sub-norms', async () => {
    const file = await withFloats(await recode(stories, layout), /sub_norm/, (values) => values.fill(1));
    const gguf = await openGguf(memorySource(file));
    const { candidates: guessed, isMeasured } = await guessLayout(gguf, modelTensors(gguf), {});
    expect([guessed[0], isMeasured]).toEqual([{ i2s: layout }, true]);
  });

  it('is loaded as what it is, once, and told where it is not the usual', async () => {
    const { seen, backend } = counting();
    const { layout: told, notes } = await toldBy(await recode(stories, layout), { backend });
    expect(told).toMatch(
      new RegExp(`^I2_S as ${layout}: measured \\(zeros go with the gains of norms, score 301 against \\d\\d, 24`),
    );
    if (layout !== 'x86') expect(told).toMatch(/, and speaks \(1\.4 bits a token/);
    expect(notes).toEqual(layout === 'x86' ? [] : [told]);
    expect(seen).toEqual({ opened: 1, disposed: 1 });
  });

  it('is found by its speech where its gains tell nothing', async () => {
    const { seen, backend } = counting();
    const { layout: told, notes } = await toldBy(await withFlatGains(await recode(stories, layout)), { backend });
    expect(told).toBe(`I2_S as ${layout}: speaks (1.6 bits a token of plain English, guessing takes 12.0)`);
    expect(notes).toEqual(layout === 'x86' ? [] : [told]);
    const loads = I2S_LAYOUTS.indexOf(layout) + 1;
    expect(seen).toEqual({ opened: loads, disposed: loads });
  });
});

it('a model that speaks in no layout is taken for x86, and this is said', async () => {
  const file = await withFloats(await withFlatGains(stories), /^output_norm/, (values) => {
    const rng = Rng.fromSeed(1);
    for (let i = 0; i < values.length; i++) values[i] = rng.nextFloat() - 0.5;
  });
  const { layout, notes } = await toldBy(file);
  expect(layout).toMatch(
    /^I2_S as x86: assumed, the model speaks in no layout \(\d+\.\d, \d+\.\d, \d+\.\d bits a token, guessing 12\.0\)$/,
  );
  expect(notes).toEqual([layout]);
});

it('a measurement that speech does not bear out is told with both', async () => {
  const file = await withFloats(await recode(stories, 'rows4'), /^output_norm/, (values) => {
    const rng = Rng.fromSeed(1);
    for (let i = 0; i < values.length; i++) values[i] = rng.nextFloat() - 0.5;
  });
  const { layout, notes } = await toldBy(file);
  expect(layout).toMatch(/^I2_S as rows4: measured \(.*\), but the model speaks in no layout \(/);
  expect(notes).toEqual([layout]);
});

it('speech is heard in passes of any size', async () => {
  const file = await withFlatGains(await recode(stories, 'arm64'));
  for (const batchSize of [1, 5])
    expect((await toldBy(file, { batchSize })).layout).toMatch(/^I2_S as arm64: speaks \(1\.6/);
});

it('random weights are loaded once, as x86', async () => {
  for (const architecture of ['bitnet', 'bitnet-b1.58', 'llama'] as const) {
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      const gguf = await openGguf(memorySource(await tinyModel({ architecture, seed })));
      const guess = await guessLayout(gguf, modelTensors(gguf), {});
      expect(guess).toMatchObject({
        candidates: [{ i2s: 'x86' }],
        finding: 'I2_S as x86: assumed, the weights look random and nothing decides',
        isNews: false,
      });
    }
  }
  const { seen, backend } = counting();
  await toldBy(await tinyModel({}), { backend });
  expect(seen).toEqual({ opened: 1, disposed: 1 });
});

it('a layout that is asked for is taken without a look', async () => {
  const { layout, notes } = await toldBy(stories, { i2sLayout: 'rows4' });
  expect({ layout, notes }).toEqual({ layout: 'I2_S as rows4: as asked', notes: [] });
  await refuses(
    loadModel(stories, { i2sLayout: 'mips' as 'x86' }),
    'bad-argument',
    /i2sLayout.*x86, arm64, rows4.*mips/,
  );
});

it('other types have no layout to find, and damage is left to loading', async () => {
  expect((await toldBy(await recode(stories, 'TL2'))).layout).toBeUndefined();
  expect((await toldBy(await recode(stories, 'TQ1_0'))).layout).toBeUndefined();
  const gguf = await openGguf(memorySource(stories));
  const tensor = gguf.tensor('blk.0.ffn_up.weight');
  for (const layout of ['auto', 'arm64', 'rows4'] as const) {
    const damaged = stories.slice();
    damaged.fill(0xff, tensor.offsetBytes, tensor.offsetBytes + tensor.byteLength - 32);
    await refuses(
      loadModel(damaged, { threads: 1, i2sLayout: layout }),
      'bad-tensor',
      /blk\.0\.ffn_up\.weight value 0: code 3/,
    );
  }
});

/** A model of single tensors, as far as measuring needs one. */
function partsOf(parts: readonly { name: string; dtype: DTypeName; shape: number[]; bytes: Uint8Array }[]) {
  const tensors = new Map<string, GgufTensor>();
  for (const { name, dtype, shape, bytes } of parts) {
    const [elements, byteLength] = [shape.reduce((n, extent) => n * extent, 1), bytes.length];
    const source = memorySource(bytes);
    const place = { source, offsetBytes: 0, byteLength, spanBytes: byteLength };
    tensors.set(name, { name, dtype: dtypeByName(dtype), shape, elements, ...place });
  }
  const model = { config: { nLayers: 1 }, tensors, matrices: new Set(tensors.keys()) } as unknown as ModelTensors;
  return { gguf: { label: 'f' } as GgufFile, model };
}

it('a read that fails while the layout is measured fails loading, and does not leave the usual layout assumed', async () => {
  const source = memorySource(await recode(stories, 'arm64'));
  let reads = 0;
  const load = (failing: number) => {
    reads = 0;
    const readInto = async (target: Uint8Array, at: number) => {
      if (++reads === failing) throw new BitnetError('io', 'gone for a moment');
      return source.readInto(target, at);
    };
    return loadModel({ ...source, readInto }, { backend: 'ts' });
  };
  const { info, dispose } = await load(0).then((model) => ({ info: model.info, dispose: () => model.dispose() }));
  await dispose();
  expect(info.layout).toMatch(/^I2_S as arm64: measured/);
  // Header, gains and matrices of the sample, and weights; a few of each.
  const all = reads;
  for (let failing = 1; failing <= all; failing += 23) await refuses(load(failing), 'io', /gone for a moment/);
});

describe('the two lists of tiles for TL1 of Llama3-8B', () => {
  const [rows, columns] = [1024, 4096];
  const rng = Rng.fromSeed(9);
  const gains = Float32Array.from({ length: columns }, () => 0.5 + rng.nextFloat());

  /** A column has more zeros the smaller its gain, by `much`. */
  function matrix(list: 'codegen' | 'preset', much: number) {
    const trits = new Int8Array(rows * columns);
    for (let e = 0; e < trits.length; e++) {
      const zeros = 0.4 - much * (gains[e % columns] - 1);
      const u = rng.nextFloat();
      trits[e] = u < zeros ? 0 : u < (1 + zeros) / 2 ? 1 : -1;
    }
    const bytes = encodeTL1(trits, columns, 1, tilesOf('TL1', rows, columns, list));
    return partsOf([
      { name: 'blk.0.attn_k.weight', dtype: 'TL1', shape: [columns, rows], bytes },
      { name: 'blk.0.attn_norm.weight', dtype: 'F32', shape: [columns], bytes: encodeF32(gains) },
    ]);
  }

  it.each(['codegen', 'preset'] as const)('%s is found', async (list) => {
    const { gguf, model } = matrix(list, 0.1);
    const guess = await guessLayout(gguf, model, {});
    expect(guess.candidates[0]).toEqual({ tiles: list });
    expect(guess.finding).toMatch(new RegExp(`^TL1 in tiles of ${list}: measured`));
    expect(guess.isNews).toBe(list === 'preset');
  });

  it('remain two where the weights tell nothing, and one for random weights', async () => {
    const { gguf, model } = matrix('preset', 0.1);
    model.tensors.get('blk.0.attn_norm.weight')!.source.readInto = async (target) => {
      target.set(encodeF32(new Float32Array(target.length / 4).fill(1)));
    };
    expect((await guessLayout(gguf, model, {})).candidates).toEqual([{ tiles: 'codegen' }, { tiles: 'preset' }]);
    const random = matrix('preset', 0);
    expect((await guessLayout(random.gguf, random.model, {})).candidates).toEqual([{ tiles: 'codegen' }]);
    expect((await guessLayout(gguf, model, { tiles: 'preset' })).candidates).toEqual([{ tiles: 'preset' }]);
  });
});
