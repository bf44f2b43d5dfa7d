/** Tiny random models for tests, made on the spot; their bytes are the same everywhere and always. */

import { type SynthOptions, synthesize } from '../../src/convert/synth.ts';
import { memorySink } from '../../src/formats/sink.ts';
import type { LoadOptions, SessionOptions } from '../../src/index.ts';
import { loadModel } from '../../src/index.ts';

export async function tinyModel(options: Omit<SynthOptions, 'preset'>): Promise<Uint8Array> {
  const sink = memorySink();
  await synthesize(sink, { preset: 'tiny', ...options });
  return sink.bytes();
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
