/**
 * `bitnet oracle logits`: the logits after every token, as a file to compare with and a digest to quote.
 * @module
 */

import { createHash } from 'node:crypto';
import type { ByteSink } from '../formats/sink.ts';
import { littleEndianBytes, npyHeader } from '../oracle/npy.ts';
import { createFileSink } from '../platform/source-node.ts';
import { command } from './command.ts';
import { quietFlag, runtimeFlags, sessionOptions } from './flags-common.ts';
import { plural } from './format.ts';
import { openModel } from './open.ts';
import { inputFlags, inputOf } from './oracle-input.ts';

export const oracleLogits = command({
  flags: {
    ...runtimeFlags,
    ...inputFlags,
    output: { type: 'string', also: ['-o'], value: 'PATH', group: 'Output', describe: '.npy file to write' },
    ...quietFlag,
  },
  examples: [
    ['bitnet oracle logits -m model.gguf --tokens 1,300,310 -o out.npy', 'write logits, print the digest'],
    ['bitnet oracle logits -p "Once upon a time" --backend ts', 'the digest alone, by the definition'],
  ],
  async run(args, io) {
    const idsOf = await inputOf(args);
    const model = await openModel(args, io);
    let file: ByteSink | undefined;
    try {
      const ids = idsOf(model);
      const vocabulary = model.info.vocabularySize;
      const session = model.createSession({
        contextSize: ids.length,
        ...sessionOptions(args, model.info.contextLength),
      });
      if (args.output !== undefined) {
        file = await createFileSink(args.output);
        await file.write(npyHeader([ids.length, vocabulary]));
      }
      const hash = createHash('sha256');
      let rows = 0;
      for await (const chunk of session.logits(ids, { signal: io.signal })) {
        const raw = littleEndianBytes(chunk);
        hash.update(raw);
        await file?.write(raw);
        rows += chunk.length / vocabulary;
        if (!args.quiet) io.status(`${rows} of ${plural(ids.length, 'token')}`);
      }
      io.status('');
      await file?.close();
      await io.write(`sha256 ${hash.digest('hex')}  (${ids.length}, ${vocabulary})\n`);
      return 0;
    } finally {
      await file?.abort(); // does nothing once closed; otherwise no half of a file stays behind
      await model.dispose();
    }
  },
});
