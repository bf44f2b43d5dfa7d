/**
 * `bitnet chat`: a conversation in the terminal, or over a pipe.
 * @module
 */

import { command } from './command.ts';
import { converse } from './conversation.ts';
import {
  chatFlags,
  quietFlag,
  runtimeFlags,
  samplingFlags,
  samplingOptions,
  sessionOptions,
  stopFlags,
} from './flags-common.ts';
import { openModel } from './open.ts';
import { templateOf } from './prompt.ts';

export const chat = command({
  flags: {
    ...runtimeFlags,
    ...chatFlags,
    ...samplingFlags,
    ...stopFlags,
    stats: { type: 'boolean', also: ['--log-timings'], group: 'Output', describe: 'timings after every answer' },
    ...quietFlag,
  },
  examples: [
    ['bitnet chat -m model.gguf', 'talk; Ctrl-C stops an answer, twice leaves'],
    ['bitnet chat -m model.gguf -sys "Answer in one sentence."', 'with a system prompt'],
    ['echo "Who are you?" | bitnet chat -m model.gguf -q', 'one question a line, answers on stdout'],
  ],
  async run(args, io) {
    const template = await templateOf(args);
    const options = {
      ...samplingOptions(args),
      ...(args.predict === undefined || args.predict < 0 ? {} : { maxTokens: args.predict }),
      ...(args.stop.length === 0 ? {} : { stop: args.stop }),
      ignoreEos: args['ignore-eos'],
    };
    const model = await openModel(args, io);
    try {
      const session = sessionOptions(args, model.info.contextLength);
      const { quiet, stats } = args;
      return await converse(model, { system: args['system-prompt'], template, session, options, quiet, stats }, io);
    } finally {
      await model.dispose();
    }
  },
});
