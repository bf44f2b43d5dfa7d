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
    return `blk.${Number(layer)}.${ours}${op === 'ROPE' ? '_rope' : ''}`;
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

/** Tensors of a layer as they are computed, of all architectures. */
const LAYER_ORDER = (
  'attn_norm attn_q_norm_in attn_q attn_k_norm_in attn_k attn_v_norm_in attn_v attn_q_norm attn_k_norm attn_q_rope attn_k_rope ' +
  'attn_q_scaled attn_weights attn attn_sub_norm attn_output_norm_in attn_output post_attention_norm attn_residual ' +
  'ffn_norm ffn_gate_norm_in ffn_gate ffn_up_norm_in ffn_up ffn_act ffn_sub_norm ffn_down_norm_in ffn_down post_ffw_norm out'
).split(' ');
const OUTER_ORDER = ['embd', 'embd_scaled', '', 'output_norm', 'logits'];

/**
 * Sorts our names as the graph has them. Folders have files by the alphabet, where `blk.10` comes before `blk.2` and `attn` before
 * the norm it follows from: what differs first there is not where it began.
 */
export function inGraphOrder(a: string, b: string): number {
  const [left, right] = [placeOf(a), placeOf(b)];
  const at = left.findIndex((place, i) => place !== right[i]);
  if (at >= 0) return left[at] - right[at];
  return a < b ? -1 : a > b ? 1 : 0; // .codes, .scales
}

/** Part of the graph, layer, place in it; sums are made before their product, codes behind what they are of. */
function placeOf(name: string): readonly [number, number, number, number] {
  const [, layer, what, suffix = ''] = /^(?:blk\.(\d+)\.)?([^.]*)(.*)$/.exec(name) ?? [];
  const part = layer === undefined ? OUTER_ORDER.indexOf(what) : OUTER_ORDER.indexOf('');
  const place = LAYER_ORDER.indexOf(what);
  return [
    part < 0 ? OUTER_ORDER.length : part,
    Number(layer ?? 0),
    place < 0 ? LAYER_ORDER.length : place,
    suffix === '.acc' ? 0 : suffix === '' ? 1 : 2,
  ];
}
