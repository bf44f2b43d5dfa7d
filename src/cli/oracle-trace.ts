/**
 * `bitnet oracle trace`: every named intermediate of a run, as arrays that numpy reads.
 * @module
 */

import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { numericsVersion } from '../engine/numerics.ts';
import { want } from '../errors.ts';
import { openGguf } from '../formats/gguf/reader.ts';
import type { TraceTarget } from '../oracle/dump/files.ts';
import { writeTrace } from '../oracle/dump/write.ts';
import { createFolderSink, freeBytesAt } from '../platform/folder-node.ts';
import { createFileSink } from '../platform/source-node.ts';
import { command } from './command.ts';
import { fileHash } from './file-hash.ts';
import { UsageError, type Values } from './flags.ts';
import { quietFlag, runtimeFlags, sessionOptions } from './flags-common.ts';
import { bytes, plural } from './format.ts';
import type { Io } from './io.ts';
import { describeMachine } from './machine.ts';
import { openModel, openSource } from './open.ts';
import { inputFlags, inputOf } from './oracle-input.ts';

export const oracleTrace = command({
  flags: {
    ...runtimeFlags,
    ...inputFlags,
    layers: { type: 'string', value: 'A-B', group: 'Stages', describe: 'these layers only, from 0' },
    tensors: {
      type: 'string',
      value: 'NAME,...',
      group: 'Stages',
      describe: 'these only; * stands for any text, e.g. "blk.*.attn_q*,logits"',
    },
    'attention-weights': { type: 'boolean', group: 'Stages', describe: 'probabilities of attention as well' },
    output: {
      type: 'string',
      also: ['-o'],
      value: 'DIR|FILE.npz',
      group: 'Output',
      describe: 'where to; must not exist',
    },
    ...quietFlag,
  },
  examples: [
    ['bitnet oracle trace -m model.gguf -p "Hello" -o hello.npz', 'then in Python: numpy.load("hello.npz")'],
    ['bitnet oracle trace -m model.gguf --tokens 1,2,3 --layers 0-1 -o dump', 'the first two layers, in a folder'],
  ],
  async run(args, io) {
    const { output } = args;
    if (output === undefined) throw new UsageError('-o is missing');
    const layers = args.layers === undefined ? undefined : parseLayers(args.layers);
    const tensors = args.tensors?.split(',').map((name) => name.trim());
    const idsOf = await inputOf(args);
    await checkAbsent(output); // before minutes are spent on what cannot be written
    const modelSha256 = await modelHash(args, io);
    const model = await openModel(args, io);
    try {
      const ids = idsOf(model);
      const freeBytes = await freeBytesAt(output);
      const manifest = await writeTrace(model, ids, await targetOf(output), {
        stages: { layers, tensors, attentionWeights: args['attention-weights'] },
        session: sessionOptions(args, model.info.contextLength),
        sha256: () => createHash('sha256'),
        facts: { producer: `bitnet-ts ${describeMachine().version}`, numericsVersion, modelSha256 },
        freeBytes,
        signal: io.signal,
        onProgress: ({ tokens, of, bytes: written }) => {
          if (!args.quiet) io.status(`${tokens} of ${plural(of, 'token')}  ${bytes(written)}`);
        },
      });
      io.status('');
      const { notFinite } = manifest;
      if (notFinite !== undefined) {
        const { tensor, position, column, value } = notFinite;
        io.note(`note: ${value} first arises in ${tensor}, token ${position}, column ${column}`);
      }
      const count = plural(manifest.tensors.length, 'tensor');
      await io.write(`${output}: ${count} of ${plural(ids.length, 'token')}\n`);
      return 0;
    } finally {
      io.status('');
      await model.dispose();
    }
  },
});

/** SHA-256 of the file that `-m` names. */
async function modelHash(args: Values<typeof runtimeFlags & typeof quietFlag>, io: Io): Promise<string> {
  const source = await openSource(args, io);
  try {
    return await fileHash(await openGguf(source), io);
  } finally {
    await source.close();
  }
}

/** What exists already stays; only an empty folder is as good as none. */
async function checkAbsent(output: string): Promise<void> {
  const found = await stat(output).catch(() => undefined);
  const entries = found?.isDirectory() === true ? await readdir(output).catch(() => undefined) : undefined;
  const isFree = found === undefined || (entries?.length === 0 && !isArchive(output));
  want(isFree, 'io', entries === undefined ? 'exists already' : 'the folder exists already', () => ({
    where: output,
    hint: 'remove it, or write elsewhere',
  }));
}

function isArchive(output: string): boolean {
  return /\.npz$/i.test(output);
}

/** A folder; or, for `.npz`, the archive and beside it a folder for its parts, which never gets its name. */
async function targetOf(output: string): Promise<TraceTarget> {
  if (!isArchive(output)) return { folder: await createFolderSink(output) };
  const archive = await createFileSink(output);
  try {
    // Others may have written there meanwhile, which a rename would replace.
    const close = async () => {
      await checkAbsent(output);
      await archive.close();
    };
    return { folder: await createFolderSink(`${output}.parts`), archive: { ...archive, close } };
  } catch (error) {
    await archive.abort();
    throw error;
  }
}

/** `0-3`, `2`. */
function parseLayers(text: string): readonly [number, number] {
  const match = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(text.trim());
  if (match === null) throw new UsageError(`--layers takes A-B or A, e.g. 0-3, got ${JSON.stringify(text)}`);
  return [Number(match[1]), Number(match[2] ?? match[1])];
}
