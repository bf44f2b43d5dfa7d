/**
 * `llama` with ternary projections (Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E): no sub-norms, SiLU, rope on neighbouring
 * pairs, and an output matrix of its own where the file has one.
 *
 * Upstream: build_llama of llama.cpp.
 * @module
 */

import {
  type Architecture,
  attend,
  attentionScale,
  type ModelWeights,
  normFor,
  project,
  quantizeFor,
  rotate,
  type Step,
} from '../graph.ts';
import { layerTensors, outerTensors, ownHead, perLayer } from '../tensors.ts';

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
    quantizeFor(step, s.aq, s.a, [w.o]);
    project(step, s.h, w.o, s.a, s.aq); // h (n, hidden)
    backend.add(s.x, s.x, s.h, n);

    // Feed-forward
    normFor(step, s.h, s.hq, s.x, w.ffnNorm, c.rmsEps, [w.gate, w.up]);
    project(step, s.gate, w.gate, s.h, s.hq); // gate (n, ffn)
    project(step, s.up, w.up, s.h, s.hq); // up (n, ffn)
    backend.gatedSilu(s.gate, s.gate, s.up, n);
    quantizeFor(step, s.fq, s.gate, [w.down]);
    project(step, s.h, w.down, s.gate, s.fq); // h (n, hidden)
    backend.add(s.x, s.x, s.h, n);
  });
}

export const llama: Architecture = {
  activation: 'silu',
  activationReason: 'decided by the architecture: llama uses SiLU',
  ropeStyle: 'norm',
  forward,
  tensors: (c) => [...outerTensors(c), ownHead(c), ...perLayer(c, (layer) => layerTensors(c, layer))],
};
