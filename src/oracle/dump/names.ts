/**
 * Names of intermediates, ours and llama.cpp's. There every result gets a name, and `-N` for the layer (`cb(cur, "attn_norm", il)` of
 * build_bitnet, build_bitnet_158 and build_llama); what is dumped from there has these names.
 *
 * Traps: a result is renamed by whoever takes it up, so one name means two things. `kqv_out` is what attention gives where a sub-norm
 * follows, and is behind the output projection in llama; `ffn_out` is the product of gate and up in bitnet-b1.58, and is behind the
 * down projection in llama. `Qcur` is the projection and, once more, what rope made of it.
 * @module
 */

import { TENSOR_NAME } from './manifest.ts';

/** Inside of a layer, with the same meaning everywhere. */
const LAYER_NAMES: Readonly<Record<string, string>> = {
  attn_norm: 'attn_norm',
  Qcur: 'attn_q',
  Kcur: 'attn_k',
  Vcur: 'attn_v',
  Qcur_normed: 'attn_q_norm',
  Kcur_normed: 'attn_k_norm',
  kqv_merged_cont: 'attn',
  attn_sub_norm: 'attn_sub_norm',
  attn_o_out: 'attn_output',
  ffn_inp: 'attn_residual',
  ffn_norm: 'ffn_norm',
  ffn_gate: 'ffn_gate',
  ffn_up: 'ffn_up',
  ffn_gate_par: 'ffn_act',
  ffn_sub_out: 'ffn_act',
  ffn_sub_norm: 'ffn_sub_norm',
  ffn_down: 'ffn_down',
  l_out: 'out',
};

/** Names whose meaning the architecture decides: with sub-norms, and without. */
const BY_ARCHITECTURE: Readonly<Record<string, readonly [bitnet: string, others: string]>> = {
  kqv_out: ['attn', 'attn_output'],
  ffn_out: ['ffn_act', 'ffn_down'],
};

const OUTER_NAMES: Readonly<Record<string, string>> = {
  inp_embd: 'embd',
  result_norm: 'output_norm',
  result_output: 'logits',
};

/** Our name for one of ours or theirs; undefined for what is neither. `op` is what llama.cpp says made it, `ROPE`. */
export function ourName(name: string, architecture = 'bitnet-b1.58', op = ''): string | undefined {
  if (Object.hasOwn(OUTER_NAMES, name)) return OUTER_NAMES[name];
  const theirs = /^([A-Za-z_]+)-(\d{1,4})$/.exec(name);
  if (theirs !== null) {
    const [, what, layer] = theirs;
    const ours = Object.hasOwn(BY_ARCHITECTURE, what)
      ? BY_ARCHITECTURE[what][architecture.startsWith('bitnet') ? 0 : 1]
      : Object.hasOwn(LAYER_NAMES, what)
        ? LAYER_NAMES[what]
        : undefined;
    if (ours === undefined) return undefined;
    return `blk.${Number(layer)}.${ours}${op === 'ROPE' ? '_rope' : ''}`;
  }
  const isOurs =
    /^blk\.\d{1,4}\.[a-z_]+(\.[a-z0-9.]+)?$/.test(name) ||
    /^(embd|output_norm|logits)(_scaled)?(\.[a-z]+)?$/.test(name);
  return isOurs && TENSOR_NAME.test(name) ? name : undefined;
}
