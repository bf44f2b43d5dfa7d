/**
 * From `-m` to bytes and models.
 * @module
 */

import { readFile } from 'node:fs/promises';
import type { LoadOptions, Model } from '../engine/types.ts';
import { BitnetError } from '../errors.ts';
import { type ByteSource, openModelSource } from '../formats/index.ts';
import { openFileSource } from '../platform/source-node.ts';
import type { Values } from './flags.ts';
import type { quietFlag, runtimeFlags } from './flags-common.ts';
import { bytes } from './format.ts';
import type { Io } from './io.ts';

/** The story model inside the package; the same place seen from src/cli and dist/cli. */
const EMBEDDED = new URL('../../fixtures/models/stories.gguf.gz', import.meta.url);

/** A text file named on the command line. */
export async function readTextFile(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new BitnetError('io', error instanceof Error ? error.message : String(error), { where: path }, error);
  }
}

/** The bytes of a model file; undefined stands for the built-in one. Gzipped files are unpacked in memory. */
export function openSource(model: string | undefined): Promise<ByteSource> {
  return openModelSource(model ?? EMBEDDED, { openPath: openFileSource });
}

/** Loads the model that the flags name, with progress on a terminal. */
export async function openModel(
  args: Values<typeof runtimeFlags> & Partial<Values<typeof quietFlag>>,
  io: Io,
): Promise<Model> {
  const options: LoadOptions = {
    signal: io.signal,
    ...(args.backend === undefined ? {} : { backend: args.backend }),
    ...(args.threads === undefined ? {} : { threads: args.threads }),
    ...(args.pre === undefined ? {} : { pre: args.pre }),
    ...(args['batch-size'] === undefined ? {} : { batchSize: args['batch-size'] }),
    ...(args.quiet !== true && io.errIsTerminal
      ? {
          onProgress: ({ loadedBytes, totalBytes, tensor }) => {
            const percent = ((100 * loadedBytes) / totalBytes).toFixed(0);
            io.status(`loading ${percent.padStart(3)}%  ${bytes(loadedBytes)} of ${bytes(totalBytes)}  ${tensor}`);
          },
        }
      : {}),
  };
  const source = await openSource(args.model);
  try {
    // Here and not above: help and tokenize need no engine, and start at once.
    const { loadModel } = await import('../index.ts');
    const model = await loadModel(source, options);
    if (args.quiet !== true) {
      io.status('');
      for (const note of model.backend.notes) io.note(`note: ${note}`);
      if (args['gpu-layers'] !== undefined && args['gpu-layers'] > 0)
        io.note('note: -ngl is ignored, there is no GPU backend');
    }
    return model;
  } catch (error) {
    io.status('');
    await source.close();
    throw error;
  }
}
