/**
 * `bitnet synth`: a model of random weights in the shape of a real one.
 * @module
 */

import { presets } from '../convert/presets.ts';
import { synthesize } from '../convert/synth.ts';
import { embeddingTypes, linearTypes } from '../convert/types.ts';
import { ARCHITECTURES } from '../model/architectures.ts';
import { createFileSink } from '../platform/source-node.ts';
import { command } from './command.ts';
import { UsageError } from './flags.ts';
import { quietFlag } from './flags-common.ts';
import {
  embeddingTypeFlag,
  i2sLayoutFlag,
  linearTypeFlag,
  typeNamed,
  writingProgress,
  writtenLine,
} from './written.ts';

export const synth = command({
  flags: {
    preset: { type: 'string', choices: Object.keys(presets), describe: 'whose shape [tiny]' },
    arch: {
      type: 'string',
      choices: [...ARCHITECTURES.keys()],
      describe: "architecture [the preset's own]",
    },
    type: linearTypeFlag,
    'i2s-layout': i2sLayoutFlag,
    'embd-type': embeddingTypeFlag,
    seed: { type: 'integer', also: ['-s'], min: 0, describe: 'same seed, same file [1]' },
    output: { type: 'string', also: ['-o'], value: 'PATH', describe: 'the file to write' },
    ...quietFlag,
  },
  examples: [
    ['bitnet synth --preset 2b -o 2b.gguf', 'as large and as fast as BitNet-b1.58-2B-4T; 1.1 GiB'],
    ['bitnet synth --arch llama --type tq1_0 -o tiny.gguf', 'less than a megabyte'],
  ],
  async run(args, io) {
    if (args.output === undefined) throw new UsageError('-o PATH is missing');
    const options = {
      preset: (args.preset ?? 'tiny') as keyof typeof presets,
      architecture: args.arch,
      type: typeNamed('--type', args.type, Object.keys(linearTypes) as (keyof typeof linearTypes)[]),
      i2sLayout: args['i2s-layout'],
      embeddingType: typeNamed('--embd-type', args['embd-type'], embeddingTypes),
      seed: args.seed,
      signal: io.signal,
      onProgress: writingProgress(io, args.quiet),
    };
    try {
      const written = await synthesize(await createFileSink(args.output), options);
      io.status('');
      await io.write(writtenLine(args.output, written));
      return 0;
    } finally {
      io.status('');
    }
  },
});
