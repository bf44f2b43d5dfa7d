/**
 * Vectors of the sampler chain: rows of logits in, tokens out, for fixed options and seeds.
 * @module
 */

import { values } from '../../kernels/conformance/values.ts';
import { createSampler, resolveSampling, type SamplingOptions } from '../../sampling/chain.ts';
import { array } from './array.ts';
import type { Vector } from './types.ts';

const STEPS = 48;
const VOCABULARY = 200;
const NEWLINE = 13;

/** Options by name; a bias is given as pairs, so that the manifest keeps their order. */
const CASES: Readonly<Record<string, Omit<SamplingOptions, 'logitBias'> & { readonly logitBias?: number[][] }>> = {
  defaults: { seed: 1 },
  greedy: { seed: 1, temperature: 0 },
  'open-ended': { seed: 2, temperature: 1, topK: 0, topP: 1, minP: 0 },
  'top-k': { seed: 3, temperature: 1, topK: 5, topP: 1, minP: 0 },
  'top-p': { seed: 4, temperature: 1, topK: 0, topP: 0.7, minP: 0 },
  'min-p': { seed: 5, temperature: 1.3, topK: 0, topP: 1, minP: 0.2 },
  'all-three': { seed: 6, temperature: 0.6, topK: 30, topP: 0.9, minP: 0.02 },
  hot: { seed: 7, temperature: 5, topK: 0, topP: 1, minP: 0 },
  'large-seed': { seed: 1234567890123, temperature: 1 },
  'repeat-penalty': { seed: 8, temperature: 0.9, repeatPenalty: 1.3, repeatLastN: 16 },
  'greedy-penalties': { seed: 9, temperature: 0, repeatPenalty: 1.2, presencePenalty: 0.4, frequencyPenalty: 0.3 },
  'penalize-newline': { seed: 10, temperature: 0, repeatPenalty: 1.5, repeatLastN: -1, penalizeNewline: true },
  bias: {
    seed: 11,
    temperature: 1,
    logitBias: [
      [0, 3],
      [5, -2.5],
      [17, Number.NEGATIVE_INFINITY],
    ],
  },
};

export function* samplerVectors(): Generator<Vector> {
  const logits = rows();
  for (const [name, { logitBias = [], ...rest }] of Object.entries(CASES)) {
    const options = { ...rest, logitBias: new Map(logitBias.map(([id, bias]) => [id, bias])) };
    const resolved = resolveSampling(options);
    const sampler = createSampler(resolved, { vocabularySize: VOCABULARY, newlineId: NEWLINE });
    const tokens = new Int32Array(STEPS);
    const logprobs = new Float64Array(STEPS);
    for (let step = 0; step < STEPS; step++) {
      const row = logits.subarray(step * VOCABULARY, (step + 1) * VOCABULARY);
      tokens[step] = sampler.sample(row);
      logprobs[step] = sampler.logprob(row, tokens[step]);
      sampler.accept(tokens[step]);
    }
    const { penalizeNewline, logitBias: pairs, ...numbers } = resolved;
    yield {
      name: `sample/${name}`,
      op: 'sample',
      parameters: { ...numbers, penalizeNewline: penalizeNewline ? 1 : 0, newlineId: NEWLINE },
      inputs: {
        logits: array(logits, STEPS, VOCABULARY),
        biasIds: array(
          Int32Array.from(pairs, ([id]) => id),
          pairs.length,
        ),
        bias: array(
          Float32Array.from(pairs, ([, bias]) => bias),
          pairs.length,
        ),
      },
      outputs: { tokens: array(tokens, STEPS), logprobs: array(logprobs, STEPS) },
    };
  }
}

/**
 * Rows as models give them, a few tokens far above the rest. Every fourth row is a copy of the one before, so that penalties
 * show; the newline is often the greatest; and every eighth is rounded to halves, so that many are equal.
 */
function rows(): Float32Array {
  const all = values('normal', STEPS * VOCABULARY, 1000);
  for (let step = 0; step < STEPS; step++) {
    const row = all.subarray(step * VOCABULARY, (step + 1) * VOCABULARY);
    if (step % 4 === 3) row.set(all.subarray((step - 1) * VOCABULARY, step * VOCABULARY));
    else if (step % 8 === 4) for (let i = 0; i < row.length; i++) row[i] = Math.round(2 * row[i]) / 2;
    else for (let i = 0; i < row.length; i += 19) row[i] += 3;
    if (step % 5 === 0) row[NEWLINE] = 8;
  }
  return all;
}
