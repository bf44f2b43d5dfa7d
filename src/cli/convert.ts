/**
 * `bitnet convert`: a Hugging Face checkpoint becomes a GGUF file, or the other way round.
 * @module
 */

import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { convertHf, type HfReader } from '../convert/hf.ts';
import { convertToHf } from '../convert/to-hf.ts';
import { embeddingTypes, linearTypes } from '../convert/types.ts';
import { openGguf, openModelSource } from '../formats/index.ts';
import { isHubReference, parseHubReference } from '../hub/reference.ts';
import { createFolderSink } from '../platform/folder-node.ts';
import { createFileSink, openFileSource } from '../platform/source-node.ts';
import { command } from './command.ts';
import { type Flags, UsageError, type Values } from './flags.ts';
import { hubFlags, layoutFlags, layoutOptions, quietFlag } from './flags-common.ts';
import { isOffline, pullCheckpoint } from './hub.ts';
import type { Io } from './io.ts';
import {
  embeddingTypeFlag,
  i2sLayoutFlag,
  linearTypeFlag,
  typeNamed,
  writingProgress,
  writtenLine,
} from './written.ts';

const flags = {
  outtype: linearTypeFlag,
  'i2s-layout': {
    ...i2sLayoutFlag,
    describe: 'order of the values of I2_S to write [x86]; with --to-hf that of FILE [found out]',
  },
  'tl-tiles': {
    type: 'string',
    value: layoutFlags['tl-tiles'].value,
    describe: 'with --to-hf: how TL1 and TL2 tensors of FILE are cut [auto]',
  },
  'embd-type': embeddingTypeFlag,
  pre: { type: 'string', value: 'NAME', describe: 'pre-tokenizer, where it is not recognised' },
  name: { type: 'string', also: ['--model-name'], describe: "name to write into the file [the folder's]" },
  output: { type: 'string', also: ['-o', '--outfile'], value: 'PATH', describe: 'the file to write' },
  offline: hubFlags.offline,
  'to-hf': { type: 'string', value: 'DIR', describe: 'write a folder with packed safetensors from a GGUF file' },
  force: {
    type: 'boolean',
    describe: 'make a model ternary that neither says nor shows that it is one; ordinary models are destroyed by it',
  },
  ...quietFlag,
} as const satisfies Flags;

type Args = Values<typeof flags> & { readonly word?: string };

export const convert = command({
  word: {
    name: 'DIR|FILE',
    describe: 'folder with config.json, tokenizer and model.safetensors, or hf:USER/REPO',
    required: true,
  },
  flags,
  examples: [
    ['bitnet convert bitnet-b1.58-2B-4T -o model.gguf', 'I2_S, embeddings in F16, as the official file'],
    ['bitnet convert DIR -o model.gguf --outtype tq1_0 --embd-type q8_0', 'smaller'],
    ['bitnet convert model.gguf --to-hf DIR', 'packed safetensors, config.json and tokenizer.json'],
  ],
  async run(args, io) {
    try {
      return await (args['to-hf'] === undefined ? toGguf(args, io) : toFolder(args, args['to-hf'], io));
    } finally {
      io.status('');
    }
  },
});

async function toGguf(args: Args, io: Io): Promise<number> {
  if (args.output === undefined) throw new UsageError('-o PATH is missing');
  if (/\.gguf(\.gz)?$/.test(args.word!)) {
    throw new UsageError('a GGUF file is converted with --to-hf DIR; bitnet quantize writes it with other types');
  }
  if (args['tl-tiles'] !== undefined) throw new UsageError('--tl-tiles has no meaning without --to-hf');
  const outType = typeNamed('--outtype', args.outtype, Object.keys(linearTypes) as (keyof typeof linearTypes)[]);
  const embeddingType = typeNamed('--embd-type', args['embd-type'], embeddingTypes);
  const { dir, name } = await checkpointFolder(args.word!, args, io);
  const converted = await convertHf(folder(dir), await createFileSink(args.output), {
    outType,
    i2sLayout: args['i2s-layout'],
    embeddingType,
    pre: args.pre,
    name: args.name ?? name,
    force: args.force,
    signal: io.signal,
    onProgress: writingProgress(io, args.quiet),
  });
  if (!args.quiet) note(io, converted.notes);
  await io.write(writtenLine(args.output, converted));
  return 0;
}

async function toFolder(args: Args, target: string, io: Io): Promise<number> {
  if (args.output !== undefined) throw new UsageError('--to-hf and -o exclude each other');
  for (const name of ['outtype', 'name'] as const) {
    if (args[name] !== undefined) throw new UsageError(`--${name} has no meaning with --to-hf`);
  }
  const embeddingType = typeNamed('--embd-type', args['embd-type'], ['F32', 'F16', 'BF16']);
  const layout = layoutOptions(args);
  const source = await openModelSource(args.word!, { openPath: openFileSource, signal: io.signal });
  try {
    const gguf = await openGguf(source);
    try {
      const written = await convertToHf(gguf, await createFolderSink(target), {
        embeddingType,
        pre: args.pre,
        force: args.force,
        ...layout,
        signal: io.signal,
        onProgress: writingProgress(io, args.quiet),
      });
      io.status('');
      if (!args.quiet) note(io, written.notes);
      await io.write(writtenLine(`${target}: ${written.files.join(', ')}`, written));
      return 0;
    } finally {
      await gguf.close();
    }
  } finally {
    await source.close();
  }
}

function note(io: Io, notes: readonly string[]): void {
  for (const text of notes) io.note(`note: ${text}`);
}

/** The folder itself, or that of a checkpoint on the hub, whose name says less than the repository's. */
async function checkpointFolder(
  word: string,
  { quiet, offline }: Pick<Args, 'quiet' | 'offline'>,
  io: Io,
): Promise<{ dir: string; name?: string }> {
  if (!isHubReference(word)) return { dir: word };
  const reference = parseHubReference(word);
  const { folder } = await pullCheckpoint(reference, { quiet, offline: isOffline(io, offline) }, io);
  return { dir: folder, name: reference.repo.split('/')[1] };
}

/** A folder of the file system. */
function folder(path: string): HfReader {
  return {
    label: path,
    async open(name) {
      const file = join(path, name);
      const exists = await access(file).then(
        () => true,
        () => false,
      );
      return exists ? openFileSource(file) : undefined;
    },
  };
}
