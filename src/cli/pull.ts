/**
 * `bitnet pull`: a model of the Hugging Face hub into the cache that all clients of the hub share.
 * @module
 */

import { checkRelativePath } from '../hub/reference.ts';
import { command } from './command.ts';
import { UsageError } from './flags.ts';
import { hubFlags, jsonFlag, quietFlag } from './flags-common.ts';
import { bytes, plural } from './format.ts';
import { isOffline, type Pulled, pullCheckpoint, pullModel, referenceOf } from './hub.ts';

export const pull = command({
  word: {
    name: 'USER/REPO[:QUANT]',
    describe: 'or USER/REPO/FILE, USER/REPO@REVISION; hf: may stand before it',
    required: true,
  },
  flags: {
    revision: { type: 'string', value: 'NAME', describe: 'branch, tag or commit [main]' },
    'hf-file': { type: 'string', also: ['-hff'], value: 'FILE', describe: 'which file of the repository' },
    checkpoint: { type: 'boolean', describe: 'config, tokenizer and safetensors, for bitnet convert' },
    offline: hubFlags.offline,
    ...jsonFlag,
    ...quietFlag,
  },
  examples: [
    ['bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf', 'the GGUF file; a broken download goes on where it stopped'],
    ['bitnet pull hf:user/repo:tq1_0', 'the one with tq1_0 in its name'],
    ['bitnet pull microsoft/bitnet-b1.58-2B-4T-bf16 --checkpoint', 'a folder for bitnet convert'],
  ],
  async run(args, io) {
    const named = referenceOf('pull', args.word!);
    const file = args['hf-file'] ?? named.file;
    if (args.checkpoint && (file ?? named.quant) !== undefined) {
      throw new UsageError('--checkpoint takes USER/REPO, without a file or quant');
    }
    const revision = args.revision ?? named.revision;
    for (const path of [revision, ...(file === undefined ? [] : [file])]) checkRelativePath(path, named.repo);
    const reference = { ...named, revision, file };
    const choices = { quiet: args.quiet, offline: isOffline(io, args.offline) };
    const pulled = await (args.checkpoint ? pullCheckpoint : pullModel)(reference, choices, io);
    if (!args.quiet) io.note(summary(pulled));
    const result = args.checkpoint ? pulled.folder : pulled.files[0].file;
    const json = { repo: reference.repo, revision: reference.revision, path: result, ...pulled };
    await io.write(args.json ? `${JSON.stringify(json, null, 2)}\n` : `${result}\n`);
    return 0;
  },
});

function summary({ commit, files }: Pulled): string {
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  const fresh = files.filter(({ cached }) => !cached);
  const how = fresh.length === 0 ? 'all in the cache already' : `${fresh.length} downloaded and verified`;
  return `${plural(files.length, 'file')}, ${bytes(total)}, ${how}, commit ${commit.slice(0, 12)}`;
}
