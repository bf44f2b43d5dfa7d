/**
 * BitNet b1.58: `bitnet` (1bitLLM, SiLU) and `bitnet-b1.58`, once `bitnet-25` (BitNet-b1.58-2B-4T, squared ReLU). The
 * activation follows from the name alone: the model says nothing else about it, and the wrong one gives text that looks
 * half right.
 *
 * Ma et al., "The Era of 1-bit LLMs", arXiv 2402.17764; "BitNet b1.58 2B4T Technical Report", arXiv 2504.12285;
 * upstream: build_bitnet and build_bitnet_158 of bitnet.cpp.
 * @module
 */

import type { ModelConfig } from '../config.ts';
import {
  type Architecture,
  attend,
  attentionScale,
  gain,
  type ModelWeights,
  normFor,
  project,
  rotate,
  type Step,
} from '../graph.ts';
import {
  layerGain,
  layerTensors,
  outerTensors,
  perLayer,
  scaleTensors,
  type TensorRule,
  unusedHead,
} from '../tensors.ts';

function forward(step: Step, weights: ModelWeights): void {
  const { backend, scratch: s, n } = step;
  const c = weights.config;
  backend.embed(s.x, weights.embedding, s.ids, n); // x (n, hidden)
  weights.layers.forEach((w, layer) => {
    // Attention
    normFor(step, s.h, s.hq, s.x, w.attnNorm, c.rmsEps, [w.q, w.k, w.v]); // h, hq (n, hidden)
    project(step, s.q, w.q, s.h, s.hq); // q (n, nHeads * headDim)
    project(step, s.k, w.k, s.h, s.hq); // k (n, nKvHeads * headDim)
    project(step, s.v, w.v, s.h, s.hq); // v (n, nKvHeads * headDim)
    rotate(step, c);
    attend(step, layer, attentionScale(c)); // a (n, nHeads * headDim)
    normFor(step, s.q, s.aq, s.a, gain(w, 'attn_sub_norm'), c.rmsEps, [w.o]); // q is free again: it takes the normalised a
    project(step, s.h, w.o, s.q, s.aq); // h (n, hidden)
    backend.add(s.x, s.x, s.h, n);

    // Feed-forward
    normFor(step, s.h, s.hq, s.x, w.ffnNorm, c.rmsEps, [w.gate, w.up]);
    project(step, s.gate, w.gate, s.h, s.hq); // gate (n, ffn)
    project(step, s.up, w.up, s.h, s.hq); // up (n, ffn)
    if (c.activation === 'relu2') backend.gatedRelu2(s.gate, s.gate, s.up, n);
    else backend.gatedSilu(s.gate, s.gate, s.up, n);
    normFor(step, s.up, s.fq, s.gate, gain(w, 'ffn_sub_norm'), c.rmsEps, [w.down]);
    project(step, s.h, w.down, s.up, s.fq); // h (n, hidden)
    backend.add(s.x, s.x, s.h, n);
  });
}

/** The norms before the output and the down projection are what BitNet adds. */
function subNorms(c: ModelConfig, layer: number): TensorRule[] {
  return [layerGain(layer, 'attn_sub_norm', c.nHeads * c.headDim), layerGain(layer, 'ffn_sub_norm', c.ffn)];
}

export const bitnet158: Architecture = {
  activation: 'relu2',
  activationReason:
    'decided by the architecture: BitNet b1.58 2B4T uses squared ReLU (bitnet.cpp since July 2026 runs SiLU)',
  ropeStyle: 'neox',
  forward,
  tensors: (c) => [
    ...outerTensors(c),
    // The first official upload carries a copy of the embedding under this name; the head is always tied.
    unusedHead(c),
    ...perLayer(c, (layer) => [...layerTensors(c, layer), ...subNorms(c, layer)]),
  ],
};

export const bitnet: Architecture = {
  activation: 'silu',
  activationReason: 'decided by the architecture: 1bitLLM models use SiLU',
  ropeStyle: 'neox',
  forward,
  tensors: (c) => [
    ...outerTensors(c),
    unusedHead(c),
    ...perLayer(c, (layer) => [...layerTensors(c, layer), ...subNorms(c, layer), ...scaleTensors(layer)]),
  ],
};
