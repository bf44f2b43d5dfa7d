/**
 * `bitnet tokenize`: text to ids, with the flags and the output of llama-tokenize.
 * @module
 */

import { openGguf } from '../formats/index.ts';
import { command } from './command.ts';
import { tokenizerOf } from './describe.ts';
import { UsageError } from './flags.ts';
import { modelFlag, preFlag } from './flags-common.ts';
import { openSource, readTextFile } from './open.ts';

export const tokenize = command({
  flags: {
    ...modelFlag,
    ...preFlag,
    prompt: { type: 'string', also: ['-p'], value: 'TEXT', group: 'Text', describe: 'the text' },
    file: { type: 'string', also: ['-f'], value: 'PATH', group: 'Text', describe: 'the text, from a file' },
    stdin: { type: 'boolean', group: 'Text', describe: 'the text, from standard input' },
    'no-bos': { type: 'boolean', group: 'Tokens', describe: 'no begin-of-sequence token, even if the model wants one' },
    'no-parse-special': {
      type: 'boolean',
      group: 'Tokens',
      describe: 'special tokens written out in the text stay plain text',
    },
    ids: { type: 'boolean', group: 'Output', describe: 'ids only, as [1, 2, 3]' },
    'show-count': { type: 'boolean', group: 'Output', describe: 'the number of tokens at the end' },
  },
  examples: [
    ['bitnet tokenize -p "Hello world"', 'with the built-in vocabulary'],
    ['bitnet tokenize -m model.gguf -f text.txt --ids --no-bos', 'ids as a list'],
  ],
  async run(args, io) {
    const sources = [args.prompt !== undefined, args.file !== undefined, args.stdin].filter(Boolean).length;
    if (sources !== 1) throw new UsageError('give one of -p, -f and --stdin');
    const text = args.prompt ?? (args.file !== undefined ? await readTextFile(args.file) : await io.readAll());
    const source = await openSource(args, io, true);
    try {
      const tokenizer = tokenizerOf(await openGguf(source, { allowUnreadable: true }), args.pre);
      const { addBos, addEos } = tokenizer.spec;
      const ids = tokenizer.encode(text, {
        bos: addBos && !args['no-bos'],
        eos: addEos && !args['no-bos'],
        special: !args['no-parse-special'],
      });
      if (args.ids) {
        await io.write(`[${ids.join(', ')}]\n`);
      } else {
        const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
        const lines = ids.map(
          (id) => `${String(id).padStart(6)} -> '${decoder.decode(tokenizer.tokenBytes(id, true))}'\n`,
        );
        await io.write(lines.join(''));
      }
      if (args['show-count']) await io.write(`Total number of tokens: ${ids.length}\n`);
      return 0;
    } finally {
      await source.close();
    }
  },
});
