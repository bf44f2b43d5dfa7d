/**
 * The engine against the float64 reference, and the reference against its own golden files.
 *
 * Rounding differences of 1e-7 can flip a code at the int8 rounding, which then spreads: that is the format's own noise.
 * Seeds here are ones without a flip, so the bound can be tight; a wrong graph is off by far more than 1e-4.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type PresetName, presets } from '../../src/convert/presets.ts';
import { engineLogits, tinyModel } from './models.ts';
import { referenceLogits, relativeRms } from './reference64.ts';

const ids = [1, 300, 310, 320, 77, 99, 300, 41];
const golden = (name: string) => new URL(`../../fixtures/golden/${name}.logits.f32`, import.meta.url);

describe.each([
  { architecture: 'bitnet-b1.58', type: 'I2_S', embeddingType: 'F16', seed: 1 },
  { architecture: 'bitnet-b1.58', type: 'TQ1_0', embeddingType: 'Q6_K', seed: 2 },
  { architecture: 'bitnet', type: 'I2_S', embeddingType: 'F32', seed: 1 },
  { architecture: 'bitnet', type: 'TQ2_0', embeddingType: 'Q8_0', seed: 2 },
  { architecture: 'llama', type: 'I2_S', embeddingType: 'BF16', seed: 1 },
  { architecture: 'qwen3', type: 'I2_S', embeddingType: 'F16', seed: 1 },
  { architecture: 'qwen3', type: 'TQ2_0', embeddingType: 'Q6_K', seed: 2 },
  { architecture: 'gemma3', type: 'I2_S', embeddingType: 'F16', seed: 1 },
  { architecture: 'gemma3', type: 'TQ1_0', embeddingType: 'Q8_0', seed: 2 },
] as const)('$architecture $type $embeddingType seed $seed', (options) => {
  const name = `${options.architecture}-${options.type}-${options.embeddingType}-${options.seed}`.toLowerCase();

  it('agrees with the float64 reference, f32 K and f16 V', async () => {
    const file = await tinyModel(options);
    const want = await referenceLogits(file, ids, { kType: 'f32', vType: 'f16' });
    for (const backend of ['ts', 'wasm'] as const) {
      const got = await engineLogits(file, ids, { backend, threads: 1 }, { kType: 'f32', vType: 'f16' });
      expect(got.length).toBe(want.length);
      expect(relativeRms(got, want), backend).toBeLessThan(1e-5);
    }
  });

  it('agrees with the golden file', async () => {
    const file = await tinyModel(options);
    const logits = await referenceLogits(file, ids, { kType: 'f32', vType: 'f16' });
    if (!existsSync(golden(name)) && process.env.BITNET_WRITE_GOLDEN === '1') {
      writeFileSync(golden(name), new Uint8Array(Float32Array.from(logits).buffer));
    }
    const bytes = readFileSync(golden(name));
    const want = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const got = await engineLogits(file, ids, { backend: 'wasm', threads: 2 }, { kType: 'f32', vType: 'f16' });
    expect(relativeRms(got, want)).toBeLessThan(1e-5);
  });

  it('is far off under another architecture: wrong activation, sub-norms or rope', async () => {
    const file = await tinyModel(options);
    const want = await referenceLogits(file, ids, { kType: 'f32', vType: 'f16' });
    const other = options.architecture === 'bitnet-b1.58' ? 'bitnet' : 'bitnet-b1.58';
    const own = `tiny-${options.architecture}`;
    const preset = own in presets ? (own as PresetName) : 'tiny';
    const wrong = await referenceLogits(await tinyModel({ ...options, preset, architecture: other }), ids, {
      kType: 'f32',
      vType: 'f16',
    });
    expect(relativeRms(wrong, want)).toBeGreaterThan(0.01);
  });
});
