/**
 * `gemma3` with the norms of BitNet-embedding-270M: as `qwen3`, and besides a scaled embedding, gelu, norms behind attention
 * and feed-forward, and queries scaled before they meet the keys.
 *
 * All layers see everything before them: files of the embedding model ask for no sliding window, and one that does is
 * refused. Gains are in the file as they multiply (Gemma's own checkpoints hold them less one).
 *
 * Gemma 3 Technical Report, arXiv 2503.19786; "BitNet Text Embeddings", arXiv 2606.25674; upstream: gemma3.cpp of the
 * llama.cpp that bitnet.cpp uses since July 2026, and its convert-bitnet-embedding-to-gguf.py for the names.
 * @module
 */

import { refuse } from '../config.ts';
import {
  type Architecture,
  attend,
  attentionScale,
  gain,
  type ModelWeights,
  normHeads,
  normProject,
  rotate,
  type Step,
} from '../graph.ts';
import { headNorms, inputNorms, layerGain, layerTensors, outerTensors, ownHead, perLayer } from '../tensors.ts';

function forward(step: Step, weights: ModelWeights): void {
  const { backend, scratch: s, n } = step;
  const c = weights.config;
  const eps = c.rmsEps;
  backend.embed(s.x, weights.embedding, s.ids, n); // x (n, hidden)
  backend.scale(s.x, s.x, Math.sqrt(c.hidden), n);
  weights.layers.forEach((w, layer) => {
    // Attention
    backend.rmsNorm(s.h, s.x, w.attnNorm, eps, n); // h (n, hidden)
    normProject(step, s.q, w.q, s.h, w.gains.attn_q_norm_in, eps, s.p, s.hq); // q (n, nHeads * headDim)
    normProject(step, s.k, w.k, s.h, w.gains.attn_k_norm_in, eps, s.p, s.hq); // k (n, nKvHeads * headDim)
    normProject(step, s.v, w.v, s.h, w.gains.attn_v_norm_in, eps, s.p, s.hq); // v (n, nKvHeads * headDim)
    normHeads(step, c, w);
    rotate(step, c);
    backend.scale(s.q, s.q, attentionScale(c), n);
    attend(step, layer, 1); // a (n, nHeads * headDim)
    normProject(step, s.h, w.o, s.a, w.gains.attn_output_norm_in, eps, s.q, s.aq); // q is free again; h (n, hidden)
    backend.rmsNorm(s.h, s.h, gain(w, 'post_attention_norm'), eps, n);
    backend.add(s.x, s.x, s.h, n);

    // Feed-forward
    backend.rmsNorm(s.h, s.x, w.ffnNorm, eps, n);
    normProject(step, s.gate, w.gate, s.h, w.gains.ffn_gate_norm_in, eps, s.p, s.hq); // gate (n, ffn)
    normProject(step, s.up, w.up, s.h, w.gains.ffn_up_norm_in, eps, s.p, s.hq); // up (n, ffn)
    backend.gatedGelu(s.gate, s.gate, s.up, n);
    normProject(step, s.h, w.down, s.gate, w.gains.ffn_down_norm_in, eps, s.up, s.fq); // h (n, hidden)
    backend.rmsNorm(s.h, s.h, gain(w, 'post_ffw_norm'), eps, n);
    backend.add(s.x, s.x, s.h, n);
  });
}

export const gemma3: Architecture = {
  activation: 'gelu',
  activationReason: 'decided by the architecture: gemma3 uses gelu by tanh',
  ropeStyle: 'neox',
  forward,
  check(gguf) {
    refuse(gguf, 'gemma3.attention.sliding_window', (window) => Number(window) > 0, 'attention in sliding windows');
    refuse(gguf, 'gemma3.final_logit_softcapping', (cap) => Number(cap) > 0, 'capping of logits');
    refuse(gguf, 'gemma3.attn_logit_softcapping', (cap) => Number(cap) > 0, 'capping of scores');
  },
  tensors: (c) => [
    ...outerTensors(c),
    ownHead(c),
    ...perLayer(c, (layer) => [
      ...layerTensors(c, layer),
      ...headNorms(c, layer),
      layerGain(layer, 'post_attention_norm', c.hidden),
      layerGain(layer, 'post_ffw_norm', c.hidden),
      ...inputNorms(c, layer),
    ]),
  ],
};
