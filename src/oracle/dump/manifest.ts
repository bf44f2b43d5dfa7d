/**
 * The manifest of a trace: what is in the files beside it, in the order of the graph, and which run they come from.
 * @module
 */

import type { TraceOp } from '../../engine/types.ts';
import { BitnetError, show, want } from '../../errors.ts';
import { JsonAt } from '../json-path.ts';
import { NPY_TYPES, type NpyType } from '../npy.ts';

export const TRACE_FORMAT = 'bitnet-trace';
export const TRACE_FORMAT_VERSION = 1;
export const MANIFEST = 'manifest.json';

/** A place where a number is NaN or infinite. */
export interface NotFinite {
  readonly position: number;
  readonly column: number;
  readonly value: 'NaN' | 'Infinity' | '-Infinity';
}

export interface ManifestTensor {
  readonly name: string;
  readonly file: string;
  readonly dtype: NpyType;
  /** (tokens, values a token) */
  readonly shape: readonly [number, number];
  readonly op?: TraceOp | undefined;
  readonly inputs?: readonly string[] | undefined;
  readonly weight?: string | undefined;
  readonly facts?: Readonly<Record<string, number | string>> | undefined;
  /** Of the numbers' bytes, every NaN as 7fc00000. */
  readonly sha256: string;
  /** How many values are NaN or infinite, and the first of them; absent where all are numbers. */
  readonly notFinite?: { readonly count: number; readonly first: NotFinite } | undefined;
}

export interface Manifest {
  readonly format: typeof TRACE_FORMAT;
  readonly formatVersion: number;
  readonly numericsVersion?: number | undefined;
  /** E.g. `bitnet-ts 0.1.0`, and the backend where it does not give the bits of the definition. */
  readonly producer?: string | undefined;
  readonly model: {
    readonly name?: string | undefined;
    readonly architecture?: string | undefined;
    readonly sha256?: string | undefined;
    readonly byteLength?: number | undefined;
  };
  /** Types of cached keys and values. */
  readonly kv?: { readonly k: string; readonly v: string } | undefined;
  /** From position 0 on. */
  readonly tokens: readonly number[];
  /** Where the first NaN or infinity arose: at the earliest token, and there in the first tensor of the graph. */
  readonly notFinite?: (NotFinite & { readonly tensor: string }) | undefined;
  readonly tensors: readonly ManifestTensor[];
}

export function manifestText(manifest: Manifest): string {
  return `${JSON.stringify(manifest, null, 1)}\n`;
}

/** Ceilings: a thousand layers of forty tensors; tokens of the longest contexts there are. */
const MAX_TENSORS = 1 << 16;
const MAX_TOKENS = 1 << 24;
export const MAX_MANIFEST_BYTES = 256 << 20;

/** Reads and checks the text of a manifest; `label` is for messages. Nothing of it is believed that was not checked. */
export function parseManifest(text: string, label: string): Manifest {
  const root = new JsonAt(parseJson(text, label), label);
  const isTrace =
    !Array.isArray(root.value) && root.value instanceof Object && root.at('format').value === TRACE_FORMAT;
  want(isTrace, 'bad-container', 'not a manifest of a trace', () => ({
    where: label,
    expected: `"format": "${TRACE_FORMAT}"`,
  }));
  const version = root.at('formatVersion').integer(1, Number.MAX_SAFE_INTEGER);
  want(version === TRACE_FORMAT_VERSION, 'unsupported-version', 'another version of the format', () => ({
    where: `${label}: $.formatVersion`,
    expected: `${TRACE_FORMAT_VERSION}`,
    got: `${version}`,
  }));
  const tokens = root
    .at('tokens')
    .list(MAX_TOKENS)
    .map((id) => id.integer(0, 2 ** 31 - 1));
  const names = new Set<string>();
  const files = new Set<string>();
  const tensors = root
    .at('tensors')
    .list(MAX_TENSORS)
    .map((at) => {
      const tensor = tensorAt(at, tokens.length);
      if (names.has(tensor.name)) at.at('name').refuse('names that differ');
      if (files.has(tensor.file)) at.at('file').refuse('files that differ');
      names.add(tensor.name);
      files.add(tensor.file);
      return tensor;
    });
  const model = root.at('model');
  return {
    format: TRACE_FORMAT,
    formatVersion: TRACE_FORMAT_VERSION,
    numericsVersion: optional(root, 'numericsVersion', (at) => at.integer(1, Number.MAX_SAFE_INTEGER)),
    producer: optional(root, 'producer', lineAt),
    model: {
      name: optional(model, 'name', lineAt),
      architecture: optional(model, 'architecture', lineAt),
      sha256: optional(model, 'sha256', sha256At),
      byteLength: optional(model, 'byteLength', (at) => at.integer(0, Number.MAX_SAFE_INTEGER)),
    },
    kv: optional(root, 'kv', (at) => ({ k: at.at('k').oneOf(KV_TYPES), v: at.at('v').oneOf(KV_TYPES) })),
    tokens,
    notFinite: optional(root, 'notFinite', (at) => ({ ...placeAt(at), tensor: nameAt(at.at('tensor')) })),
    tensors,
  };
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new BitnetError('bad-container', 'not JSON', { where }, cause);
  }
}

function tensorAt(at: JsonAt, tokens: number): ManifestTensor {
  const shape = at
    .at('shape')
    .list(2)
    .map((dim) => dim.integer(0, Number.MAX_SAFE_INTEGER));
  if (shape.length !== 2 || shape[0] !== tokens || shape[1] === 0)
    at.at('shape').refuse(`(${tokens}, n), n at least 1`);
  return {
    name: nameAt(at.at('name')),
    file: at.at('file').matching(FILE_NAME, 'the name of a .npy file beside the manifest'),
    dtype: at.at('dtype').oneOf(Object.keys(NPY_TYPES) as NpyType[]),
    shape: [shape[0], shape[1]],
    op: optional(at, 'op', (op) => lineAt(op) as TraceOp),
    inputs: optional(at, 'inputs', (inputs) => inputs.list(8).map(nameAt)),
    weight: optional(at, 'weight', lineAt),
    facts: optional(at, 'facts', (facts) =>
      Object.fromEntries(
        facts.keys().map((key) => {
          const fact = facts.at(key);
          if (!FACT_NAME.test(key)) facts.refuse('names of facts', show(key));
          return [key, typeof fact.value === 'string' ? lineAt(fact) : fact.number()];
        }),
      ),
    ),
    sha256: sha256At(at.at('sha256')),
    notFinite: optional(at, 'notFinite', (found) => ({
      count: found.at('count').integer(1, Number.MAX_SAFE_INTEGER),
      first: placeAt(found.at('first')),
    })),
  };
}

function optional<T>(at: JsonAt, key: string, read: (at: JsonAt) => T): T | undefined {
  return at.has(key) ? read(at.at(key)) : undefined;
}

const nameAt = (at: JsonAt) => at.matching(TENSOR_NAME, 'a name of letters, digits, dots, dashes and underscores');
const sha256At = (at: JsonAt) => at.matching(SHA256, '64 hexadecimal digits');
const lineAt = (at: JsonAt) => at.text(1000);

function placeAt(at: JsonAt): NotFinite {
  return {
    position: at.at('position').integer(0, MAX_TOKENS),
    column: at.at('column').integer(0, Number.MAX_SAFE_INTEGER),
    value: at.at('value').oneOf(['NaN', 'Infinity', '-Infinity']),
  };
}

const KV_TYPES = ['f16', 'f32'] as const;
const FACT_NAME = /^[A-Za-z]\w{0,40}$/;
const SHA256 = /^[0-9a-f]{64}$/;
/** Letters, digits and dots: nothing that a file system or a path could take for something else. */
export const TENSOR_NAME = /^(?!\.)[A-Za-z0-9_.-]{1,120}$/;
const FILE_NAME = /^(?!\.)[A-Za-z0-9_.-]{1,124}\.npy$/;
