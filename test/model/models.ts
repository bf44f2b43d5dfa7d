/** Tiny random models for tests, made on the spot; their bytes are the same everywhere and always. */

import { modelMetadata, planTensors } from '../../src/convert/layout.ts';
import { codeTable, fillCodes, gains, scaleOf, streamOf, valueTable } from '../../src/convert/noise.ts';
import { type PresetName, presets } from '../../src/convert/presets.ts';
import { type SynthOptions, synthesize } from '../../src/convert/synth.ts';
import { encodeFloats, tailOf } from '../../src/convert/types.ts';
import { inventedVocabulary } from '../../src/convert/vocabulary.ts';
import { writeModel } from '../../src/convert/write.ts';
import { memorySink } from '../../src/formats/sink.ts';
import type { LoadOptions, SessionOptions } from '../../src/index.ts';
import { loadModel } from '../../src/index.ts';
import { architectureOf } from '../../src/model/architectures.ts';
import { encodeF32 } from '../../src/tensors/floats.ts';

/** In the shape of the preset `tiny-ARCHITECTURE` where there is one, else of `tiny`. */
export async function tinyModel(options: Partial<SynthOptions>): Promise<Uint8Array> {
  const sink = memorySink();
  const own = `tiny-${options.architecture}`;
  await synthesize(sink, { preset: own in presets ? (own as PresetName) : 'tiny', ...options });
  return sink.bytes();
}

/**
 * As `tinyModel`, with a vocabulary large enough that the wasm backend leaves rows of the head out, and after its tokens
 * `padding` rows of the embedding that are no tokens and have the greatest logits, of both signs.
 */
export async function wideModel({ vocabulary, padding }: { vocabulary: number; padding: number }): Promise<Uint8Array> {
  const sink = memorySink();
  const { ownHead: _, ...shape } = presets.tiny;
  const { activation, ropeStyle } = architectureOf(shape.architecture);
  const facts = { name: 'wide', ropeFactor: 1, activation, ropeStyle, vocabulary: vocabulary + padding };
  const config = { ...shape, ...facts, nLayers: 1 };
  const bytesOf = { vector: gainBytes, linear: ternaryBytes, embedding: embeddingBytes };
  const types = { vector: 'F32', linear: 'I2_S', embedding: 'Q6_K' } as const;
  await writeModel(
    sink,
    [...modelMetadata(config, 'I2_S'), ...inventedVocabulary(vocabulary)],
    planTensors(config, false).map((tensor) => ({
      ...tensor,
      dtype: types[tensor.role],
      pieces: () => [bytesOf[tensor.role](tensor.name, tensor.elements, tensor.shape[0], vocabulary)],
    })),
    {},
  );
  return sink.bytes();
}

function gainBytes(name: string, elements: number): Uint8Array {
  return encodeF32(gains(streamOf(1, name), elements));
}

function ternaryBytes(name: string, elements: number, columns: number): Uint8Array {
  const tail = tailOf('I2_S', scaleOf(columns));
  const bytes = new Uint8Array(elements / 4 + tail.length);
  fillCodes(streamOf(1, name), codeTable(), bytes.subarray(0, elements / 4));
  bytes.set(tail, elements / 4);
  return bytes;
}

function embeddingBytes(name: string, elements: number, columns: number, vocabulary: number): Uint8Array {
  const [rng, table] = [streamOf(1, name), valueTable(1 / Math.sqrt(columns))];
  const values = Float32Array.from({ length: elements }, (_, i) => {
    return table[rng.nextUint32() & 0xffff] * (i < vocabulary * columns ? 1 : 8);
  });
  return encodeFloats('Q6_K', values, name);
}

/** Logits of all tokens, flattened. */
export async function engineLogits(
  file: Uint8Array,
  ids: readonly number[],
  load: LoadOptions,
  session: SessionOptions,
): Promise<Float32Array> {
  const model = await loadModel(file, load);
  try {
    const parts: Float32Array[] = [];
    for await (const part of model.createSession(session).logits(ids)) parts.push(part);
    const all = new Float32Array(parts.reduce((length, part) => length + part.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  } finally {
    await model.dispose();
  }
}
