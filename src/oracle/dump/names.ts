/**
 * Names of intermediates, ours and llama.cpp's. There every result gets a name, and `-N` for the layer (`cb(cur, "attn_norm", il)` of
 * build_bitnet, build_bitnet_158 and build_llama in bitnet.cpp's src/llama.cpp, and src/models/ in later ones); what is dumped from
 * there has these names.
 *
 * Traps: a result is renamed by whoever takes it up, so one name means several things, which the op tells apart. `kqv_out` is what
 * attention gives where a sub-norm follows, and is behind the output projection in llama; `ffn_out` is the product of gate and up
 * in bitnet-b1.58, and is behind the down projection in llama. `Qcur` is the projection, that with its bias or scale, and once
 * more what rope made of it.
 *
 * Rows of q and k are in the order of the file's matrices on both sides: converters have permuted those of llama for its style of
 * rope before either reads them.
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
  Qcur_scaled: 'attn_q_scaled',
  kq_soft_max: 'attn_weights',
  kq_soft_max_ext: 'attn_weights',
  kqv_merged_cont: 'attn',
  attn_sub_norm: 'attn_sub_norm',
  attn_o_out: 'attn_output',
  attn_out: 'attn_output',
  attn_post_norm: 'post_attention_norm',
  ffn_inp: 'attn_residual',
  sa_out: 'attn_residual',
  ffn_norm: 'ffn_norm',
  ffn_gate: 'ffn_gate',
  ffn_gate_s: 'ffn_gate',
  ffn_up: 'ffn_up',
  ffn_up_s: 'ffn_up',
  ffn_gate_par: 'ffn_act',
  ffn_swiglu: 'ffn_act',
  ffn_geglu: 'ffn_act',
  ffn_sub_out: 'ffn_act',
  ffn_sub_norm: 'ffn_sub_norm',
  ffn_down: 'ffn_down',
  ffn_down_s: 'ffn_down',
  ffn_post_norm: 'post_ffw_norm',
  l_out: 'out',
};

/** Names whose meaning the op decides; where it is not known, the architecture: with sub-norms, and without. */
const BY_OP: Readonly<Record<string, { ops: Readonly<Record<string, string>>; bitnet: string; others: string }>> = {
  kqv_out: {
    ops: { CONT: 'attn', RESHAPE: 'attn', MUL_MAT: 'attn_output', ADD: 'attn_output' },
    bitnet: 'attn',
    others: 'attn_output',
  },
  ffn_out: { ops: { MUL: 'ffn_act', GLU: 'ffn_act', MUL_MAT: 'ffn_down' }, bitnet: 'ffn_act', others: 'ffn_down' },
};

const OUTER_NAMES: Readonly<Record<string, string>> = {
  inp_embd: 'embd',
  inp_scaled: 'embd_scaled',
  result_norm: 'output_norm',
  result_output: 'logits',
};

/**
 * Our name for one of ours or theirs; undefined for what is neither. `op` is what llama.cpp says made it, e.g. `ROPE`; a dump that
 * does not say leaves the choice to the architecture.
 */
export function ourName(name: string, architecture = 'bitnet-b1.58', op?: string): string | undefined {
  if (Object.hasOwn(OUTER_NAMES, name)) return OUTER_NAMES[name];
  const theirs = /^([A-Za-z_]+)-(\d{1,4})$/.exec(name);
  if (theirs !== null) {
    const [, what, layer] = theirs;
    const ours = layerName(what, architecture, op);
    if (ours === undefined) return undefined;
    // Of what rope takes, a norm of heads leaves no trace in our name.
    return `blk.${Number(layer)}.${op === 'ROPE' ? `${ours.replace(/_norm$/, '')}_rope` : ours}`;
  }
  const isOurs =
    /^blk\.\d{1,4}\.[a-z_]+(\.[a-z0-9.]+)?$/.test(name) ||
    /^(embd|output_norm|logits)(_scaled)?(\.[a-z]+)?$/.test(name);
  return isOurs && TENSOR_NAME.test(name) ? name : undefined;
}

function layerName(what: string, architecture: string, op: string | undefined): string | undefined {
  if (Object.hasOwn(BY_OP, what)) {
    const { ops, bitnet, others } = BY_OP[what];
    if (op !== undefined) return Object.hasOwn(ops, op) ? ops[op] : undefined;
    return architecture.startsWith('bitnet') ? bitnet : others;
  }
  return Object.hasOwn(LAYER_NAMES, what) ? LAYER_NAMES[what] : undefined;
}
