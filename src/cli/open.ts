/**
 * From `-m` to bytes and models.
 * @module
 */

import { readFile } from 'node:fs/promises';
import type { LoadOptions, Model } from '../engine/types.ts';
import { type ByteSource, openModelSource } from '../formats/index.ts';
import { checkRelativePath, isHubReference } from '../hub/reference.ts';
import { ioError, openFileSource } from '../platform/source-node.ts';
import { UsageError, type Values } from './flags.ts';
import { layoutOptions, type modelFlag, type quietFlag, type runtimeFlags, sessionOptions } from './flags-common.ts';
import { bytes, percent } from './format.ts';
import { isOffline, openHubModel, referenceOf } from './hub.ts';
import type { Io } from './io.ts';
import { planLine } from './memory-plan.ts';
import { tellOverflowsAtEnd } from './overflows.ts';

/** The story model inside the package; at the same place seen from src/cli and dist/cli. */
export const EMBEDDED = new URL('../../fixtures/models/stories.gguf.gz', import.meta.url);

/** A text file named on the command line. */
export async function readTextFile(path: string): Promise<string> {
  return (await readBytesFile(path)).toString('utf8');
}

/** The same, as bytes. */
export async function readBytesFile(path: string): Promise<Buffer<ArrayBuffer>> {
  try {
    return await readFile(path);
  } catch (error) {
    throw ioError(path, 'cannot read', error);
  }
}

/** Whether a model was asked for; otherwise it is the built-in one. */
export function namesModel(args: Values<typeof modelFlag>): boolean {
  return (args.model ?? args['model-url'] ?? args['hf-repo']) !== undefined;
}

/**
 * The bytes of the model that the flags name. Gzipped files are unpacked in memory. `inPlace` is for commands that read
 * little: a model of the hub that is not in its cache is then read by ranges, not downloaded.
 */
export async function openSource(
  args: Values<typeof modelFlag> & Partial<Values<typeof quietFlag>>,
  io: Io,
  inPlace = false,
): Promise<ByteSource> {
  const { model, 'model-url': url, 'hf-repo': repo, 'hf-file': file } = args;
  // These two come before -m, which may stem from the environment.
  if (repo !== undefined && url !== undefined) throw new UsageError('-hf and -mu exclude each other');
  const onHub = repo ?? (url === undefined && model !== undefined && isHubReference(model) ? model : undefined);
  if (file !== undefined && onHub === undefined) throw new UsageError('-hff needs -hf');
  if (onHub !== undefined) {
    const reference = referenceOf(repo === undefined ? '-m' : '-hf', onHub);
    if (file !== undefined) checkRelativePath(file, '-hff');
    const choices = {
      quiet: args.quiet ?? false,
      offline: isOffline(io, args.offline),
      ignoreCache: args['no-cache'],
      inPlace,
    };
    return openHubModel({ ...reference, file: file ?? reference.file }, choices, io);
  }
  return openModelSource(url ?? model ?? EMBEDDED, { openPath: openFileSource, signal: io.signal });
}

/** The library's names of what `--embd-type` takes. */
export const TABLE_TYPES = { auto: 'auto', file: 'file', q8_0: 'Q8_0', q6_k: 'Q6_K' } as const;

/** Loads the model that the flags name, with progress on a terminal. */
export async function openModel(
  args: Values<typeof runtimeFlags> & Partial<Values<typeof quietFlag>>,
  io: Io,
): Promise<Model> {
  if (args.activations === 'q8_k' && args['saturate-i16'])
    throw new UsageError(
      '--activations q8_k and --saturate-i16 exclude each other: its blocks cannot overflow 16 bits',
    );
  const options: LoadOptions = {
    signal: io.signal,
    ...(args.backend === undefined ? {} : { backend: args.backend }),
    ...(args.device === undefined ? {} : { device: args.device }),
    ...(args.threads === undefined ? {} : { threads: args.threads }),
    ...(args.kernels === undefined ? {} : { kernels: args.kernels }),
    // The process is ours: its switches are, too.
    wideVectors: !args['no-wide-vectors'],
    ...(args.pre === undefined ? {} : { pre: args.pre }),
    ...layoutOptions(args),
    allowDense: args['allow-dense'],
    ...(args.activations === undefined ? {} : { activations: args.activations }),
    saturateI16: args['saturate-i16'],
    embeddingType: TABLE_TYPES[args['embd-type'] ?? 'auto'],
    // 0 is the model's own length, and longer ones count as that.
    planFor: sessionOptions(args, Number.MAX_SAFE_INTEGER),
    ...(args['batch-size'] === undefined ? {} : { batchSize: args['batch-size'] }),
    ...(args.quiet !== true && io.errIsTerminal
      ? {
          onProgress: ({ loadedBytes, totalBytes, tensor }) => {
            io.status(
              `loading ${percent(loadedBytes, totalBytes)}  ${bytes(loadedBytes)} of ${bytes(totalBytes)}  ${tensor}`,
            );
          },
        }
      : {}),
  };
  const source = await openSource(args, io);
  try {
    // Here and not above: help and tokenize need no engine, and start at once.
    const { loadModel } = await import('../index.ts');
    const model = await loadModel(source, options);
    io.status('');
    if (args.quiet !== true) {
      const plan = planLine(model);
      if (plan !== undefined) io.note(plan);
      for (const note of model.notes) io.note(`note: ${note}`);
      if ((args['gpu-layers'] ?? 0) > 0 && model.backend.name !== 'cuda')
        io.note('note: -ngl is ignored: --backend cuda runs all layers on a GPU');
      tellOverflowsAtEnd(model, io);
    }
    return model;
  } finally {
    io.status('');
    // Everything needed is in memory; a source that was passed in stays ours to close.
    await source.close();
  }
}
