/**
 * `bitnet oracle endpoint`: a model here against an OpenAI-compatible server that claims to run the same.
 * @module
 */

import { endpointUrl } from '../oracle/endpoint/client.ts';
import { compareEndpoint } from '../oracle/endpoint/compare.ts';
import { endpointText } from '../oracle/endpoint/text.ts';
import { command } from './command.ts';
import { UsageError } from './flags.ts';
import { jsonFlag, quietFlag, runtimeFlags } from './flags-common.ts';
import { openModel } from './open.ts';
import { inputFlags, parseIds } from './oracle-input.ts';
import { promptOf } from './prompt.ts';

const SERVER = 'Server';

export const oracleEndpoint = command({
  word: { name: 'URL', describe: 'http://host:8080, /v1 and /v1/completions are added', required: true },
  flags: {
    ...runtimeFlags,
    ...inputFlags,
    predict: {
      type: 'integer',
      also: ['-n', '--n-predict'],
      min: 1,
      max: 4096,
      group: 'Input',
      describe: 'tokens to compare [16]',
    },
    top: {
      type: 'integer',
      min: 1,
      max: 1 << 18,
      group: SERVER,
      describe: 'likeliest tokens to ask for: OpenAI gives 5, vLLM 20 [5]',
    },
    step: {
      type: 'boolean',
      group: SERVER,
      describe: 'lead the server along the tokens that are greedy here, one request each',
    },
    echo: { type: 'boolean', group: SERVER, describe: 'compare the tokens of the prompt as well (vLLM)' },
    'server-model': { type: 'string', value: 'NAME', group: SERVER, describe: 'which of its models' },
    'api-key': { type: 'string', value: 'KEY', env: 'OPENAI_API_KEY', group: SERVER, describe: 'sent, never shown' },
    timeout: { type: 'number', min: 0.001, group: SERVER, describe: 'seconds for each request [120]' },
    tolerance: {
      type: 'number',
      min: 0,
      group: SERVER,
      describe: 'largest difference of log-probabilities [measured: what caches of f16 and f32 differ by here]',
    },
    ...jsonFlag,
    ...quietFlag,
  },
  examples: [
    ['bitnet oracle endpoint http://localhost:8080 -m model.gguf -p "Once upon a time"', 'llama-server, vLLM, ...'],
    ['bitnet oracle endpoint http://localhost:8080 -m model.gguf -p "Once" --step -n 32', 'token by token'],
  ],
  async run({ word, ...args }, io) {
    endpointUrl(word!); // before a model is loaded
    const given = await promptOf(args);
    if ((args.tokens === undefined) === (given === undefined)) throw new UsageError('give one of --tokens, -p and -f');
    const prompt = args.tokens === undefined ? given! : parseIds(args.tokens);
    const model = await openModel(args, io);
    try {
      const endpoint = {
        url: word!,
        apiKey: args['api-key'],
        model: args['server-model'],
        timeoutMs: args.timeout === undefined ? undefined : args.timeout * 1000,
      };
      const report = await compareEndpoint(model, endpoint, {
        prompt,
        maxTokens: args.predict,
        top: args.top,
        step: args.step,
        echo: args.echo,
        tolerance: args.tolerance,
        signal: io.signal,
        onProgress: (what) => {
          if (!args.quiet) io.status(what);
        },
      });
      io.status('');
      await io.write(`${args.json ? JSON.stringify(report, null, 2) : endpointText(report)}\n`);
      return report.verdict === 'same' ? 0 : 1;
    } finally {
      io.status('');
      await model.dispose();
    }
  },
});
