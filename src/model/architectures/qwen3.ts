/**
 * `qwen3` with the norms of BitNet-embedding-0.6B: every projection normalises its own input, on top of the norm that all
 * three (or both) share. Heads of queries and keys are normalised each by itself, before rope.
 *
 * Qwen3 Technical Report, arXiv 2505.09388; "BitNet Text Embeddings", arXiv 2606.25674; upstream: qwen3.cpp of the
 * llama.cpp that bitnet.cpp uses since July 2026, and its convert-bitnet-embedding-to-gguf.py for the names.
 * @module
 */

import {
  type Architecture,
  attend,
  attentionScale,
  type ModelWeights,
  normHeads,
  normProject,
  rotate,
  type Step,
} from '../graph.ts';
import { headNorms, inputNorms, layerTensors, outerTensors, ownHead, perLayer } from '../tensors.ts';

function forward(step: Step, weights: ModelWeights): void {
  const { backend, scratch: s, n } = step;
  const c = weights.config;
  const eps = c.rmsEps;
  backend.embed(s.x, weights.embedding, s.ids, n); // x (n, hidden)
  weights.layers.forEach((w, layer) => {
    // Attention
    backend.rmsNorm(s.h, s.x, w.attnNorm, eps, n); // h (n, hidden)
    normProject(step, s.q, w.q, s.h, w.gains.attn_q_norm_in, eps, s.p, s.hq); // q (n, nHeads * headDim)
    normProject(step, s.k, w.k, s.h, w.gains.attn_k_norm_in, eps, s.p, s.hq); // k (n, nKvHeads * headDim)
    normProject(step, s.v, w.v, s.h, w.gains.attn_v_norm_in, eps, s.p, s.hq); // v (n, nKvHeads * headDim)
    normHeads(step, c, w);
    rotate(step, c);
    attend(step, layer, attentionScale(c)); // a (n, nHeads * headDim)
    normProject(step, s.h, w.o, s.a, w.gains.attn_output_norm_in, eps, s.q, s.aq); // q is free again; h (n, hidden)
    backend.add(s.x, s.x, s.h, n);

    // Feed-forward
    backend.rmsNorm(s.h, s.x, w.ffnNorm, eps, n);
    normProject(step, s.gate, w.gate, s.h, w.gains.ffn_gate_norm_in, eps, s.p, s.hq); // gate (n, ffn)
    normProject(step, s.up, w.up, s.h, w.gains.ffn_up_norm_in, eps, s.p, s.hq); // up (n, ffn)
    backend.gatedSilu(s.gate, s.gate, s.up, n);
    normProject(step, s.h, w.down, s.gate, w.gains.ffn_down_norm_in, eps, s.up, s.fq); // h (n, hidden)
    backend.add(s.x, s.x, s.h, n);
  });
}

export const qwen3: Architecture = {
  activation: 'silu',
  activationReason: 'decided by the architecture: qwen3 uses SiLU',
  ropeStyle: 'neox',
  forward,
  tensors: (c) => [
    ...outerTensors(c),
    ownHead(c),
    ...perLayer(c, (layer) => [...layerTensors(c, layer), ...headNorms(c, layer), ...inputNorms(c, layer)]),
  ],
};
