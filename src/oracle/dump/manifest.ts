/**
 * The manifest of a trace: what is in the files beside it, in the order of the graph, and which run they come from.
 * @module
 */

import type { TraceOp } from '../../engine/types.ts';
import { BitnetError, show, want } from '../../errors.ts';
import type { NpyType } from '../npy.ts';

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

/** Reads and checks the text of a manifest; `where` is for messages. Nothing of it is believed that was not checked. */
export function parseManifest(text: string, where: string): Manifest {
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch (cause) {
    throw new BitnetError('bad-container', 'not JSON', { where }, cause);
  }
  const bad = (path: string, expected: string, got: unknown) =>
    new BitnetError('bad-metadata', 'not a manifest of a trace', {
      where: `${where}: ${path}`,
      expected,
      got: show(got),
    });
  const isRecord = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isRecord(root) || root.format !== TRACE_FORMAT) {
    throw bad('format', TRACE_FORMAT, isRecord(root) ? root.format : root);
  }
  want(root.formatVersion === TRACE_FORMAT_VERSION, 'unsupported-version', 'another version of the format', () => ({
    where: `${where}: formatVersion`,
    expected: `${TRACE_FORMAT_VERSION}`,
    got: show((root as Record<string, unknown>).formatVersion),
  }));
  const count = (value: unknown, path: string, limit = Number.MAX_SAFE_INTEGER): number => {
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > limit)
      throw bad(path, `an integer from 0 to ${limit}`, value);
    return value;
  };
  const optional = <T>(value: unknown, read: (value: unknown) => T): T | undefined =>
    value === undefined ? undefined : read(value);
  const text_ = (value: unknown, path: string, pattern = /^[^\0]{0,1000}$/u): string => {
    if (typeof value !== 'string' || !pattern.test(value)) throw bad(path, `text like ${pattern}`, value);
    return value;
  };
  const list = (value: unknown, path: string, limit: number): unknown[] => {
    if (!Array.isArray(value) || value.length > limit) throw bad(path, `a list of at most ${limit}`, value);
    return value;
  };
  const place = (value: unknown, path: string): NotFinite => {
    if (!isRecord(value)) throw bad(path, 'a place', value);
    const kind = text_(value.value, `${path}.value`, /^(NaN|-?Infinity)$/) as NotFinite['value'];
    return {
      position: count(value.position, `${path}.position`),
      column: count(value.column, `${path}.column`),
      value: kind,
    };
  };
  const tokens = list(root.tokens, 'tokens', MAX_TOKENS).map((id, i) => count(id, `tokens[${i}]`, 2 ** 31));
  const names = new Set<string>();
  const tensors = list(root.tensors, 'tensors', MAX_TENSORS).map((one, i): ManifestTensor => {
    const path = `tensors[${i}]`;
    if (!isRecord(one)) throw bad(path, 'a tensor', one);
    const name = text_(one.name, `${path}.name`, TENSOR_NAME);
    if (names.has(name)) throw bad(`${path}.name`, 'names that differ', name);
    names.add(name);
    const dtype = text_(one.dtype, `${path}.dtype`, /^(f32|i8|i32)$/) as NpyType;
    const shape = list(one.shape, `${path}.shape`, 2).map((dim, j) => count(dim, `${path}.shape[${j}]`));
    if (shape.length !== 2 || shape[0] !== tokens.length) throw bad(`${path}.shape`, `(${tokens.length}, n)`, shape);
    const facts = optional(one.facts, (value) => {
      if (!isRecord(value)) throw bad(`${path}.facts`, 'facts', value);
      for (const fact of Object.values(value))
        if (typeof fact !== 'number' && typeof fact !== 'string') throw bad(`${path}.facts`, 'numbers and texts', fact);
      return value as Record<string, number | string>;
    });
    return {
      name,
      file: text_(one.file, `${path}.file`, FILE_NAME),
      dtype,
      shape: [shape[0], shape[1]],
      op: optional(one.op, (value) => text_(value, `${path}.op`) as TraceOp),
      inputs: optional(one.inputs, (value) =>
        list(value, `${path}.inputs`, 8).map((input, j) => text_(input, `${path}.inputs[${j}]`, TENSOR_NAME)),
      ),
      weight: optional(one.weight, (value) => text_(value, `${path}.weight`)),
      facts,
      sha256: text_(one.sha256, `${path}.sha256`, SHA256),
      notFinite: optional(one.notFinite, (value) => {
        if (!isRecord(value)) throw bad(`${path}.notFinite`, 'a count and a place', value);
        return {
          count: count(value.count, `${path}.notFinite.count`),
          first: place(value.first, `${path}.notFinite.first`),
        };
      }),
    };
  });
  if (!isRecord(root.model)) throw bad('model', 'facts about the model', root.model);
  const { model } = root;
  return {
    format: TRACE_FORMAT,
    formatVersion: TRACE_FORMAT_VERSION,
    numericsVersion: optional(root.numericsVersion, (value) => count(value, 'numericsVersion')),
    producer: optional(root.producer, (value) => text_(value, 'producer')),
    model: {
      name: optional(model.name, (value) => text_(value, 'model.name')),
      architecture: optional(model.architecture, (value) => text_(value, 'model.architecture')),
      sha256: optional(model.sha256, (value) => text_(value, 'model.sha256', SHA256)),
      byteLength: optional(model.byteLength, (value) => count(value, 'model.byteLength')),
    },
    kv: optional(root.kv, (value) => {
      if (!isRecord(value)) throw bad('kv', 'types of keys and values', value);
      return { k: text_(value.k, 'kv.k', /^f(16|32)$/), v: text_(value.v, 'kv.v', /^f(16|32)$/) };
    }),
    tokens,
    notFinite: optional(root.notFinite, (value) => ({
      ...place(value, 'notFinite'),
      tensor: text_((value as Record<string, unknown>).tensor, 'notFinite.tensor', TENSOR_NAME),
    })),
    tensors,
  };
}

const SHA256 = /^[0-9a-f]{64}$/;
/** Letters, digits and dots: nothing that a file system or a path could take for something else. */
export const TENSOR_NAME = /^(?!\.)[A-Za-z0-9_.-]{1,120}$/;
const FILE_NAME = /^(?!\.)[A-Za-z0-9_.-]{1,124}\.npy$/;
