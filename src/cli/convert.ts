/**
 * `bitnet convert`: a Hugging Face checkpoint becomes a GGUF file.
 * @module
 */

import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { convertHf, type HfReader } from '../convert/hf.ts';
import { embeddingTypes, linearTypes } from '../convert/types.ts';
import { isHubReference, parseHubReference } from '../hub/reference.ts';
import { createFileSink, openFileSource } from '../platform/source-node.ts';
import { command } from './command.ts';
import { UsageError } from './flags.ts';
import { quietFlag } from './flags-common.ts';
import { isOffline, pullCheckpoint } from './hub.ts';
import type { Io } from './io.ts';
import { embeddingTypeFlag, linearTypeFlag, typeNamed, writingProgress, writtenLine } from './written.ts';

export const convert = command({
  name: 'convert',
  describe: 'Converts a Hugging Face checkpoint of a ternary model (safetensors, packed or master weights) to GGUF.',
  word: {
    name: 'DIR',
    describe: 'folder with config.json, tokenizer.json and model.safetensors, or hf:USER/REPO',
    required: true,
  },
  flags: {
    outtype: linearTypeFlag,
    'embd-type': embeddingTypeFlag,
    pre: { type: 'string', value: 'NAME', describe: 'pre-tokenizer, where it is not recognised' },
    name: { type: 'string', also: ['--model-name'], describe: "name to write into the file [the folder's]" },
    output: { type: 'string', also: ['-o', '--outfile'], value: 'PATH', describe: 'the file to write' },
    ...quietFlag,
  },
  examples: [
    ['bitnet convert bitnet-b1.58-2B-4T -o model.gguf', 'I2_S, embeddings in F16, as the official file'],
    ['bitnet convert DIR -o model.gguf --outtype tq1_0 --embd-type q8_0', 'smaller'],
  ],
  async run(args, io) {
    if (args.output === undefined) throw new UsageError('-o PATH is missing');
    const outType = typeNamed('--outtype', args.outtype, Object.keys(linearTypes) as (keyof typeof linearTypes)[]);
    const embeddingType = typeNamed('--embd-type', args['embd-type'], embeddingTypes);
    const { dir, name } = await checkpointFolder(args.word!, args.quiet, io);
    try {
      const converted = await convertHf(folder(dir), await createFileSink(args.output), {
        outType,
        embeddingType,
        pre: args.pre,
        name: args.name ?? name,
        signal: io.signal,
        onProgress: writingProgress(io, args.quiet),
      });
      if (!args.quiet) note(io, converted.notes);
      await io.write(writtenLine(args.output, converted));
      return 0;
    } finally {
      io.status('');
    }
  },
});

function note(io: Io, notes: readonly string[]): void {
  for (const text of notes) io.note(`note: ${text}`);
}

/** The folder itself, or that of a checkpoint on the hub, whose name says less than the repository's. */
async function checkpointFolder(word: string, quiet: boolean, io: Io): Promise<{ dir: string; name?: string }> {
  if (!isHubReference(word)) return { dir: word };
  const reference = parseHubReference(word);
  const { folder } = await pullCheckpoint(reference, { quiet, offline: isOffline(io, false) }, io);
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
