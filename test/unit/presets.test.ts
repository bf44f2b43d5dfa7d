/** Shapes of published models against what is known of their files: parameters, counts of tensors, bytes. */
import { describe, expect, it } from 'vitest';
import { planTensors } from '../../src/convert/layout.ts';
import { type PresetName, presets, type Shape } from '../../src/convert/presets.ts';
import { architectureOf } from '../../src/model/architectures.ts';

function countsOf(preset: PresetName) {
  const shape: Shape = presets[preset];
  const { activation, ropeStyle } = architectureOf(shape.architecture);
  const config = { ...shape, name: preset, ropeFactor: 1, activation, ropeStyle };
  const tensors = planTensors(config, shape.ownHead);
  const of = (role: string) => tensors.filter((tensor) => tensor.role === role);
  const elements = (role: string) => of(role).reduce((sum, tensor) => sum + tensor.elements, 0);
  return {
    parameters: elements('linear') + elements('embedding') + elements('vector'),
    ternary: of('linear').length,
    others: of('embedding').length + of('vector').length,
    // I2_S with a tail of 32 bytes each, tables in halves, gains in f32.
    bytes: elements('linear') / 4 + of('linear').length * 32 + elements('embedding') * 2 + elements('vector') * 4,
  };
}

describe('presets', () => {
  it.each([
    ['700m', { parameters: 728_842_752, ternary: 168, others: 98 }],
    ['2b', { parameters: 2_412_820_480, ternary: 210, others: 122 }],
    ['llama3-8b', { ternary: 224, others: 67 }],
    ['embedding-0.6b', { parameters: 596_336_640, ternary: 196, others: 310 }],
    ['embedding-270m', { ternary: 126, others: 236 }],
    ['falcon-e-1b', { ternary: 168, others: 51 }],
    ['falcon-e-3b', { ternary: 224 }],
  ] as const)('%s is what was published', (preset, published) => {
    expect(countsOf(preset)).toMatchObject(published);
  });

  it('the assumed shapes of Falcon-E give their sizes, but for the vocabulary', () => {
    const rest = 666_324_256 - countsOf('falcon-e-1b').bytes;
    expect(rest).toBeGreaterThan(0.5e6);
    expect(rest).toBeLessThan(2e6);
    expect(countsOf('falcon-e-3b').bytes / 1e9).toBeCloseTo(1, 1);
  });

  it('are made of whole heads, and no two dimensions of the tiny ones are equal', () => {
    for (const [name, shape] of Object.entries(presets)) {
      expect(shape.nHeads % shape.nKvHeads, name).toBe(0);
      if (!name.startsWith('tiny-')) continue;
      const { hidden, ffn, nHeads, nKvHeads, headDim, vocabulary } = shape;
      const all = [hidden, ffn, nHeads * headDim, nKvHeads * headDim, headDim, vocabulary];
      expect(new Set(all).size, name).toBe(all.length);
    }
  });
});
