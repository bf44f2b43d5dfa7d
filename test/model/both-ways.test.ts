/**
 * Every architecture in every container that keeps a model: made there by `synth`, brought there and back by `quantize`. The
 * two ways meet in the same bytes, and all containers of an architecture in the same logits.
 */
import { createHash } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { requantize } from '../../src/convert/requantize.ts';
import { type SynthOptions, synthesize } from '../../src/convert/synth.ts';
import { type LinearType, linearTypes } from '../../src/convert/types.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { ARCHITECTURES } from '../../src/model/architectures.ts';
import { I2S_LAYOUTS, type I2sLayout } from '../../src/tensors/i2s-layouts.ts';
import { engineLogits } from './models.ts';

interface Container {
  readonly type: LinearType;
  readonly i2sLayout?: I2sLayout;
}

// BF16 has eight bits for a scale, and those of synthetic models have eleven.
const types = (Object.keys(linearTypes) as LinearType[]).filter((type) => type !== 'I2_S' && type !== 'BF16');
const containers: Container[] = [
  ...I2S_LAYOUTS.map((i2sLayout) => ({ type: 'I2_S', i2sLayout }) as const),
  ...types.map((type) => ({ type })),
];
const ids = Array.from({ length: 24 }, (_, i) => (i * 37 + 5) % 500);

async function synth(options: Omit<SynthOptions, 'preset'>): Promise<Uint8Array> {
  const sink = memorySink();
  await synthesize(sink, { preset: 'tiny', ...options });
  return sink.bytes();
}

async function quantized(file: Uint8Array, from: Container, to: Container): Promise<Uint8Array> {
  const sink = memorySink();
  await requantize(await openGguf(memorySource(file)), sink, {
    type: to.type,
    outputI2sLayout: to.i2sLayout,
    i2sLayout: from.i2sLayout ?? 'auto',
    // Tables keep their type: a float file would have them as its projections are.
    tokenEmbeddingType: 'F16',
    allowRequantize: true,
  });
  return sink.bytes();
}

async function digestOf(file: Uint8Array, container: Container, backend: 'ts' | 'wasm'): Promise<string> {
  const i2sLayout = container.i2sLayout ?? 'auto';
  const logits = await engineLogits(file, ids, { backend, threads: 1, i2sLayout }, {});
  return createHash('sha256')
    .update(new Uint8Array(logits.buffer, 0, logits.byteLength))
    .digest('hex');
}

describe.each([...ARCHITECTURES.keys()])('%s', (name) => {
  const architecture = name as NonNullable<SynthOptions['architecture']>;
  const original: Container = { type: 'I2_S', i2sLayout: 'x86' };
  let file: Uint8Array;
  let digest: string;
  beforeAll(async () => {
    file = await synth({ architecture });
    digest = await digestOf(file, original, 'ts');
  });

  it.each(containers)('$type $i2sLayout', async (container) => {
    const made = await synth({ architecture, ...container });
    const brought = await quantized(file, original, container);
    expect(Buffer.compare(brought, made)).toBe(0);
    const back = await quantized(made, container, original);
    expect(Buffer.compare(back, file)).toBe(0);
    expect(await digestOf(made, container, 'wasm')).toBe(digest);
  });
});
