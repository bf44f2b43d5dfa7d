/**
 * `config.json` of a Hugging Face checkpoint: which model family it is, its hyper-parameters, and how its ternary
 * matrices are stored. A family is a row of the table below.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { isObject, type JsonObject } from '../formats/safetensors/json.ts';
import { architectureOf } from '../model/architectures.ts';
import type { ModelConfig, PoolingType } from '../model/config.ts';

export interface Family {
  /** `general.architecture`. */
  readonly architecture: string;
  /** The value of `hidden_act` (Gemma: `hidden_activation`) that this architecture computes. */
  readonly activation: string;
  /** Where `rope_theta` is not given. */
  readonly ropeBase: number;
  /** Modules of a layer by GGUF's name; those of `COMMON_MODULES` besides. */
  readonly modules: Readonly<Record<string, string>>;
  /** Rows of q and k are put in the order of NORM rope (pairs side by side) instead of NEOX (halves). */
  readonly permuted: boolean;
  /** An ordinary model of this class is not ternary: one that does not say that it is must show it. */
  readonly mustBeDeclared: boolean;
  /** How packed checkpoints of this family hold their scales; undefined where none are published. */
  readonly packedAs: 'packed, multiply' | 'packed, divide' | undefined;
  /** Of an embedding model: how rows become one where the folder does not say. It has no head. */
  readonly pooling?: PoolingType;
  /** Gemma's norms multiply by one more than is stored; those of projections do not. */
  readonly gainsLessOne?: boolean;
}

/** `blk.N.<key>` is `model.layers.N.<value>`. */
export const COMMON_MODULES: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

/** BitNet-embedding: a norm before every projection, and one of each head of queries and keys. */
const INPUT_NORMS: Readonly<Record<string, string>> = {
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  attn_q_norm_in: 'self_attn.q_proj.norm',
  attn_k_norm_in: 'self_attn.k_proj.norm',
  attn_v_norm_in: 'self_attn.v_proj.norm',
  attn_output_norm_in: 'self_attn.o_proj.norm',
  ffn_gate_norm_in: 'mlp.gate_proj.norm',
  ffn_up_norm_in: 'mlp.up_proj.norm',
  ffn_down_norm_in: 'mlp.down_proj.norm',
};

/** By the name of the class. The first two differ in one letter's case. */
export const families: Readonly<Record<string, Family>> = {
  // microsoft/bitnet-b1.58-2B-4T and its relatives.
  BitNetForCausalLM: {
    architecture: 'bitnet-b1.58',
    activation: 'relu2',
    ropeBase: 500000,
    modules: { attn_sub_norm: 'self_attn.attn_sub_norm', ffn_sub_norm: 'mlp.ffn_sub_norm' },
    permuted: false,
    mustBeDeclared: false,
    packedAs: 'packed, multiply',
  },
  // 1bitLLM/bitnet_b1_58-*.
  BitnetForCausalLM: {
    architecture: 'bitnet',
    activation: 'silu',
    ropeBase: 10000,
    modules: { attn_sub_norm: 'self_attn.inner_attn_ln', ffn_sub_norm: 'mlp.ffn_layernorm' },
    permuted: false,
    mustBeDeclared: false,
    packedAs: 'packed, multiply',
  },
  // HF1BitLLM/Llama3-8B-1.58-*, tiiuae/Falcon3-*-1.58bit, tiiuae/Falcon-E-*.
  LlamaForCausalLM: {
    architecture: 'llama',
    activation: 'silu',
    ropeBase: 10000,
    modules: {},
    permuted: true,
    mustBeDeclared: true,
    packedAs: 'packed, divide',
  },
};

/**
 * Embedding models, by `model_type`: their classes have several names. None says that it is ternary, but an ordinary model
 * lacks the norms before projections.
 */
const embeddingFamilies: Readonly<Record<string, Family>> = {
  // microsoft/bitnet-embedding-0.6b. Its folder says how it pools; the last token is what Qwen3's embeddings are made for.
  qwen3: {
    architecture: 'qwen3',
    activation: 'silu',
    ropeBase: 1000000,
    modules: INPUT_NORMS,
    permuted: false,
    mustBeDeclared: false,
    packedAs: undefined,
    pooling: 'last',
  },
  // microsoft/bitnet-embedding-270m. One rope base for all layers, as upstream's converter writes it.
  gemma3_text: {
    architecture: 'gemma3',
    activation: 'gelu_pytorch_tanh',
    ropeBase: 10000,
    modules: {
      ...INPUT_NORMS,
      post_attention_norm: 'post_attention_layernorm',
      ffn_norm: 'pre_feedforward_layernorm',
      post_ffw_norm: 'post_feedforward_layernorm',
    },
    permuted: false,
    mustBeDeclared: false,
    packedAs: undefined,
    pooling: 'mean',
    gainsLessOne: true,
  },
};

/**
 * How the ternary matrices are stored.
 *
 *     packed, multiply   trits in bytes; value = trit * weight_scale     autobitlinear, offline: the scale is mean |W|
 *     packed, divide     trits in bytes; value = trit / weight_scale     bitlinear: the scale is 1 / mean |W|
 *     master             floats as trained; quantised here as the forward pass of training does
 */
export type StoredAs = 'packed, multiply' | 'packed, divide' | 'master';

export interface HfConfig {
  readonly family: Family;
  readonly model: ModelConfig;
  readonly storedAs: StoredAs;
  /** False where neither the class nor config.json says that the model is ternary. */
  readonly isDeclared: boolean;
  /** Undefined where the file leaves it to the presence of a head. */
  readonly tied: boolean | undefined;
  /** Modules that were left alone when the rest was made ternary. */
  readonly notConverted: readonly string[];
}

const FILE = 'config.json';

/** Ceilings as for GGUF files (`model/config.ts`): a lie must not become an allocation. */
const LIMITS: Readonly<Record<string, number>> = {
  num_hidden_layers: 1024,
  num_attention_heads: 1024,
  num_key_value_heads: 1024,
  head_dim: 1024,
  vocab_size: 1 << 22,
  max_position_embeddings: 1 << 24,
};
const MAX_WIDTH = 1 << 20;

/** @param pooling what the folder of an embedding model says of it */
export function readHfConfig(json: JsonObject, name: string, pooling?: PoolingType): HfConfig {
  const family = familyOf(json);
  const { architecture } = family;
  const count = (key: string, fallback?: number): number => {
    const value = json[key] ?? fallback;
    const limit = LIMITS[key] ?? MAX_WIDTH;
    const good = Number.isSafeInteger(value) && Number(value) > 0 && Number(value) <= limit;
    want(good, 'bad-metadata', 'bad value', () => ({
      where: `${FILE}: ${key}`,
      expected: `an integer of 1 to ${limit}`,
      got: show(value),
    }));
    return Number(value);
  };
  const hidden = count('hidden_size');
  const nHeads = count('num_attention_heads');
  const activation = json.hidden_act ?? json.hidden_activation ?? family.activation;
  want(activation === family.activation, 'unsupported-architecture', 'this activation is not what runs here', () => ({
    where: `${FILE}: hidden_act`,
    expected: `${family.activation} for architecture ${architecture}`,
    got: show(activation),
  }));
  const rope = ropeOf(json, family);
  const model: ModelConfig = {
    architecture,
    name,
    nLayers: count('num_hidden_layers'),
    hidden,
    ffn: count('intermediate_size'),
    nHeads,
    nKvHeads: count('num_key_value_heads', nHeads),
    headDim: count('head_dim', hidden / nHeads),
    vocabulary: count('vocab_size'),
    contextLength: count('max_position_embeddings'),
    rmsEps: positive(json.rms_norm_eps, 'rms_norm_eps'),
    ropeBase: rope.base,
    ropeFactor: rope.factor,
    activation: architectureOf(architecture).activation,
    ropeStyle: architectureOf(architecture).ropeStyle,
    ...(family.pooling === undefined ? {} : { pooling: pooling ?? family.pooling }),
  };
  want(model.headDim % 2 === 0 && nHeads % model.nKvHeads === 0, 'bad-metadata', 'bad shape', () => ({
    where: FILE,
    expected: 'heads of even size, a whole number of them for each key/value head',
    got: `${nHeads} heads of ${model.headDim} over ${model.nKvHeads}`,
  }));
  refuseOtherGraphs(json, model);
  // An embedding has no logits.
  const tied = family.pooling === undefined ? json.tie_word_embeddings : true;
  return {
    family,
    model,
    storedAs: storedAs(json),
    isDeclared: !family.mustBeDeclared || (json.quantization_config ?? undefined) !== undefined,
    tied: typeof tied === 'boolean' ? tied : undefined,
    notConverted: notConverted(json),
  };
}

/** Keys with which Gemma and Qwen compute something else than the graphs here. */
function refuseOtherGraphs(json: JsonObject, { headDim }: ModelConfig): void {
  const refuse = (key: string, holds: boolean, expected: string) =>
    want(holds, 'unsupported-architecture', 'this model computes something that does not run here', () => ({
      where: `${FILE}: ${key}`,
      expected,
      got: show(json[key]),
    }));
  for (const key of ['attn_logit_softcapping', 'final_logit_softcapping']) {
    refuse(key, (json[key] ?? 0) === 0, 'none: scores and logits are not capped');
  }
  const scale = json.query_pre_attn_scalar ?? headDim;
  refuse('query_pre_attn_scalar', scale === headDim, `${headDim}, the size of a head`);
}

/** What config.json asks for and no GGUF file of these models says. */
export function windowNote(json: JsonObject, { contextLength }: ModelConfig): string | undefined {
  const window = json.sliding_window;
  if (typeof window !== 'number' || window >= contextLength || json.use_sliding_window === false) return undefined;
  return `attention in windows of ${window} is left out, as bitnet.cpp's converter does: longer texts come out otherwise`;
}

function familyOf(json: JsonObject): Family {
  const name = Array.isArray(json.architectures) ? json.architectures[0] : undefined;
  if (typeof name === 'string' && Object.hasOwn(families, name)) return families[name];
  const type = json.model_type;
  if (typeof type === 'string' && Object.hasOwn(embeddingFamilies, type)) return embeddingFamilies[type];
  throw new BitnetError('unsupported-architecture', 'this model class cannot be converted', {
    where: `${FILE}: architectures`,
    expected: `${Object.keys(families).join(', ')}, or model_type ${Object.keys(embeddingFamilies).join(', ')}`,
    got: show(name),
  });
}

function positive(value: unknown, key: string): number {
  // As it will be stored: 1e300 is infinite, and 1e-300 zero, as a float32.
  const stored = typeof value === 'number' ? Math.fround(value) : 0;
  want(typeof value === 'number' && Number.isFinite(stored) && stored > 0, 'bad-metadata', 'bad value', () => ({
    where: `${FILE}: ${key}`,
    expected: 'a positive number',
    got: show(value),
  }));
  return value;
}

/** `rope_theta` beside `rope_scaling`, or both in `rope_parameters`, as newer versions of transformers write it. */
function ropeOf(json: JsonObject, family: Family): { base: number; factor: number } {
  const parameters = isObject(json.rope_parameters) ? json.rope_parameters : {};
  const base = positive(json.rope_theta ?? parameters.rope_theta ?? family.ropeBase, 'rope_theta');
  const scaling = isObject(json.rope_scaling) ? json.rope_scaling : parameters;
  const type = scaling.rope_type ?? scaling.type ?? 'default';
  if (type === 'default') return { base, factor: 1 };
  if (type === 'linear') return { base, factor: positive(scaling.factor, 'rope_scaling.factor') };
  throw new BitnetError('unsupported-architecture', 'rope scaling is not supported', {
    where: `${FILE}: rope_scaling`,
    expected: 'none or linear',
    got: show(type),
  });
}

function storedAs(json: JsonObject): StoredAs {
  const where = `${FILE}: quantization_config`;
  const declared = json.quantization_config ?? undefined;
  if (declared === undefined) return 'master';
  const quantization = isObject(declared) ? declared : {};
  const choice = (key: string, fallback: string | undefined, choices: readonly string[]): string => {
    const value = quantization[key] ?? fallback;
    if (typeof value === 'string' && choices.includes(value)) return value;
    throw new BitnetError('unsupported-type', 'this kind of quantisation cannot be converted', {
      where: `${where}.${key}`,
      expected: choices.join(' or '),
      got: show(value),
    });
  };
  choice('quant_method', undefined, ['bitnet']);
  want(
    quantization.use_rms_norm !== true,
    'unsupported-architecture',
    'norms inside linear layers are not supported',
    () => ({
      where: `${where}.use_rms_norm`,
    }),
  );
  if (choice('linear_class', 'bitlinear', ['bitlinear', 'autobitlinear']) === 'bitlinear') return 'packed, divide';
  return choice('quantization_mode', 'offline', ['offline', 'online']) === 'offline' ? 'packed, multiply' : 'master';
}

function notConverted(json: JsonObject): readonly string[] {
  const list = isObject(json.quantization_config) ? json.quantization_config.modules_to_not_convert : undefined;
  return Array.isArray(list) ? list.filter((name) => typeof name === 'string') : [];
}
