/**
 * Pairs the tensors of a GGUF file with those of a Hugging Face checkpoint. Whatever is missing, has the wrong shape or
 * type, or is left over, is reported in one error: a checkpoint is wrong as a whole more often than in one place.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { SafetensorsDType, SafetensorsFile, SafetensorsTensor } from '../formats/safetensors/types.ts';
import { COMMON_MODULES, type HfConfig } from './hf-config.ts';
import { mayHaveHead, type PlannedTensor, planTensors } from './layout.ts';

/** A planned tensor and where its numbers are. */
export interface PairedTensor extends PlannedTensor {
  readonly source: SafetensorsTensor;
  /** Of a packed matrix. */
  readonly scale: SafetensorsTensor | undefined;
}

export interface Pairing {
  readonly tensors: readonly PairedTensor[];
  readonly notes: readonly string[];
}

const HEAD = 'lm_head.weight';
const FLOATS: readonly SafetensorsDType[] = ['F32', 'F16', 'BF16'];

export function pairTensors(file: SafetensorsFile, config: HfConfig): Pairing {
  const { model, family, storedAs } = config;
  const ownHead = !(config.tied ?? file.findTensor(HEAD) === undefined);
  if (ownHead && !mayHaveHead(model)) {
    throw new BitnetError('unsupported-architecture', 'this architecture always shares the embedding with the head', {
      where: 'config.json: tie_word_embeddings',
      expected: 'true',
      got: config.tied === false ? 'false' : `no such key, and a tensor ${HEAD}`,
    });
  }
  const problems = new Problems();
  const used = new Set<string>();
  const find = (name: string): SafetensorsTensor | undefined => {
    used.add(name);
    const tensor = file.findTensor(name);
    if (tensor === undefined) problems.missing.push(name);
    return tensor;
  };
  const tensors: PairedTensor[] = [];
  // A model saved without its head lacks the prefix.
  const prefix = file.findTensor('embed_tokens.weight') === undefined ? 'model.' : '';
  for (const planned of planTensors(model, ownHead)) {
    const name = hfName(planned.name, { ...COMMON_MODULES, ...family.modules }, prefix);
    const source = find(name);
    const rowMajor = [...planned.shape].reverse();
    if (planned.role !== 'linear' || storedAs === 'master') {
      if (source === undefined) continue;
      problems.check(source, rowMajor, FLOATS);
      tensors.push({ ...planned, source, scale: undefined });
      continue;
    }
    const scale = find(`${name}_scale`);
    if (scale !== undefined) problems.check(scale, [1], FLOATS);
    if (source === undefined) continue;
    problems.check(source, [rowMajor[0] / 4, rowMajor[1]], ['U8']);
    tensors.push({ ...planned, source, scale });
  }
  wantConverted(tensors, config.notConverted);
  const dropped = (name: string) => name.endsWith('.rotary_emb.inv_freq') || (!ownHead && name === HEAD);
  for (const { name } of file.tensors) if (!used.has(name) && !dropped(name)) problems.unknown.push(name);
  problems.throwIfAny(file.label);
  const notes =
    !ownHead && file.findTensor(HEAD) !== undefined ? [`${HEAD} is left out: the head shares the embedding`] : [];
  return { tensors, notes };
}

/** `blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`. */
export function hfName(name: string, modules: Readonly<Record<string, string>>, prefix = 'model.'): string {
  const inLayer = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name);
  if (inLayer !== null) return `${prefix}layers.${inLayer[1]}.${modules[inLayer[2]]}.weight`;
  if (name === 'token_embd.weight') return `${prefix}embed_tokens.weight`;
  return name === 'output.weight' ? HEAD : `${prefix}norm.weight`;
}

/** A projection that training left in floats would be destroyed by making it ternary. */
function wantConverted(tensors: readonly PairedTensor[], notConverted: readonly string[]): void {
  for (const { role, source } of tensors) {
    const module = source.name.slice(0, -'.weight'.length);
    const listed = (entry: string) =>
      module === entry || module.endsWith(`.${entry}`) || module.startsWith(`${entry}.`);
    if (role !== 'linear' || !notConverted.some(listed)) continue;
    throw new BitnetError('unsupported-type', 'a projection that is not ternary', {
      where: `config.json: quantization_config.modules_to_not_convert: ${module}`,
    });
  }
}

const LISTED = 12;

class Problems {
  readonly missing: string[] = [];
  readonly misshapen: string[] = [];
  readonly unknown: string[] = [];

  check(tensor: SafetensorsTensor, shape: readonly number[], dtypes: readonly SafetensorsDType[]): void {
    // A scale may be a scalar: trailing ones carry no meaning.
    const values = (extents: readonly number[]) => extents.join() || '1';
    if (dtypes.includes(tensor.dtype) && values(tensor.shape) === values(shape)) return;
    const expected = `${dtypes.join('/')} (${shape.join(', ')})`;
    this.misshapen.push(`${tensor.name} expected ${expected}, got ${tensor.dtype} (${tensor.shape.join(', ')})`);
  }

  throwIfAny(where: string): void {
    const { missing, misshapen, unknown } = this;
    const texts = [list('missing', missing), list('wrong', misshapen), list('unknown', unknown)].filter(
      (text) => text !== '',
    );
    if (texts.length === 0) return;
    const code = missing.length > 0 ? 'missing-tensor' : misshapen.length > 0 ? 'bad-tensor' : 'unused-tensor';
    throw new BitnetError(code, `tensors do not fit config.json: ${texts.join('; ')}`, { where });
  }
}

function list(what: string, names: readonly string[]): string {
  if (names.length === 0) return '';
  const more = names.length > LISTED ? `, and ${names.length - LISTED} more` : '';
  return `${what}: ${names.slice(0, LISTED).join(', ')}${more}`;
}
