/**
 * All files of the kit, in a fixed order, the manifest last. The same bytes on every runtime, in every run.
 * @module
 */

import { numericsVersion } from '../../engine/numerics.ts';
import type { ModelInput } from '../../engine/types.ts';
import type { RunningHash } from '../dump/files.ts';
import { type KitArray, type KitData, npyFile } from './array.ts';
import { kernelVectors } from './kernels.ts';
import { hashOf, modelFiles } from './models.ts';
import { numericVectors } from './numeric.ts';
import { packedVectors } from './packed.ts';
import { samplerVectors } from './samplers.ts';
import { ascii, tokenizerFiles } from './tokenizers.ts';
import {
  KIT_FORMAT,
  KIT_VERSION,
  type KitFile,
  type KitManifest,
  type ListedFile,
  type ListedVector,
  type Vector,
} from './types.ts';

export const MANIFEST = 'manifest.json';

/** `stories`: the embedded model, whose vocabulary is one of the kit's. `pages`: what lies in `pages/`, beside this file. */
export async function* kitFiles(
  stories: ModelInput,
  pages: readonly KitFile[],
  sha256: () => RunningHash,
): AsyncGenerator<KitFile, void> {
  const files: ListedFile[] = [];
  const list = async (file: KitFile): Promise<KitFile> => {
    files.push({ path: file.path, bytes: file.bytes.length, sha256: hashOf(sha256, file.bytes) });
    return file;
  };
  const listAll = async function* <T>(
    all: AsyncIterable<KitFile, T> | Iterable<KitFile, T>,
  ): AsyncGenerator<KitFile, T> {
    const iterator = Symbol.asyncIterator in all ? all[Symbol.asyncIterator]() : all[Symbol.iterator]();
    for (;;) {
      const { value, done } = await iterator.next();
      if (done === true) return value;
      yield await list(value);
    }
  };
  yield* listAll(pages);
  const kernels = yield* listAll(vectorFiles('kernels', chain(kernelVectors(), packedVectors(), numericVectors())));
  const samplers = yield* listAll(vectorFiles('samplers', samplerVectors()));
  const tokenizers = yield* listAll(tokenizerFiles(stories));
  const models = yield* listAll(modelFiles(sha256));
  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  const head = { format: KIT_FORMAT, version: KIT_VERSION, numericsVersion } as const;
  const manifest: KitManifest = { ...head, kernels, samplers, tokenizers, models, files };
  yield { path: MANIFEST, bytes: new TextEncoder().encode(ascii(manifest)) };
}

function* chain<T>(...all: Iterable<T>[]): Generator<T> {
  for (const one of all) yield* one;
}

/** The arrays of vectors as files, each in the folder of its vector; one that several share is written once. */
function* vectorFiles(folder: string, vectors: Iterable<Vector>): Generator<KitFile, ListedVector[]> {
  const listed: ListedVector[] = [];
  const known = new Map<KitData, string>();
  for (const vector of vectors) {
    const paths: Record<'inputs' | 'outputs', Record<string, string>> = { inputs: {}, outputs: {} };
    for (const side of ['inputs', 'outputs'] as const) {
      for (const [name, values] of Object.entries<KitArray>(vector[side])) {
        const path = known.get(values.data) ?? `${folder}/${vector.name}/${name}.npy`;
        if (!known.has(values.data)) yield { path, bytes: npyFile(values) };
        known.set(values.data, path);
        paths[side][name] = path;
      }
    }
    const { name, op, parameters, bound } = vector;
    listed.push({ name, op, parameters, ...paths, ...(bound === undefined ? {} : { bound }) });
  }
  return listed;
}
