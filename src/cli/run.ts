/**
 * `bitnet run`: continues a text; with `-cnv` talks, one line of input at a time.
 * @module
 */

import type { GenerateOptions, Model, Run, SessionOptions } from '../engine/types.ts';
import { makeReceipt } from '../oracle/receipt/receipt.ts';
import { resolveSampling } from '../sampling/chain.ts';
import { command } from './command.ts';
import { type Conversation, converse } from './conversation.ts';
import { UsageError, type Values } from './flags.ts';
import {
  chatFlags,
  jsonFlag,
  quietFlag,
  runtimeFlags,
  samplingFlags,
  samplingOptions,
  sessionOptions,
  stopFlags,
} from './flags-common.ts';
import type { Io } from './io.ts';
import { namesModel, openModel } from './open.ts';
import { openingFor, promptOf, readEscapes, templateOf } from './prompt.ts';
import { loadOf, machineOf, ReceiptWriter, receiptFlags, receiptOptions } from './receipt.ts';
import { statistics, summary } from './report.ts';

/** Stories by a small model are better a little less daring than llama.cpp's default. */
const STORY_TEMPERATURE = 0.7;

const flags = {
  ...runtimeFlags,
  prompt: {
    type: 'string',
    also: ['-p'],
    value: 'TEXT',
    group: 'Prompt',
    describe: 'text to continue; with -cnv the system prompt',
  },
  file: { type: 'string', also: ['-f'], value: 'PATH', group: 'Prompt', describe: 'the prompt, from a file' },
  'no-parse-special': {
    type: 'boolean',
    group: 'Prompt',
    describe: 'special tokens such as <|eot_id|> written out in the prompt stay plain text',
  },
  'no-escape': { type: 'boolean', group: 'Prompt', describe: 'leave \\n, \\t, \\xHH in -p, -sys and -r as they are' },
  escape: {
    type: 'boolean',
    also: ['-e'],
    hidden: true,
    group: 'Prompt',
    describe: 'the default; kept for old command lines',
  },
  conversation: {
    type: 'boolean',
    also: ['-cnv'],
    group: 'Chat',
    describe: 'chat; without a terminal, one message a line',
  },
  ...chatFlags,
  ...samplingFlags,
  ...stopFlags,
  'no-display-prompt': { type: 'boolean', group: 'Output', describe: 'print only what is generated' },
  ...jsonFlag,
  ...receiptFlags,
  stats: { type: 'boolean', also: ['--log-timings'], group: 'Output', describe: 'all timings and memory at the end' },
  ...quietFlag,
} as const;

type Args = Values<typeof flags>;

export const run = command({
  flags,
  examples: [
    ['bitnet run', 'a story by the built-in model'],
    ['bitnet run -p "One day, a cat" --seed 7', 'the same story every time'],
    ['bitnet run -m model.gguf -p "The capital of France is" -n 16 --temp 0', 'most likely continuation'],
    ['bitnet run -m model.gguf -cnv -p "You are a helpful assistant"', 'chat, as with bitnet.cpp'],
    ['bitnet run -m model.gguf -f prompt.txt --json -q', 'one JSON result'],
    [
      'bitnet run -m model.gguf -p "Once" -n 32 --receipt run.json',
      'and what anybody can check: bitnet replay run.json',
    ],
  ],
  async run(args, io) {
    const request = await plan(args);
    const receipt = await ReceiptWriter.open(args, io);
    try {
      const model = await openModel(args, io);
      try {
        if (args.conversation) return await talk(model, args, io);
        return await complete(model, args, request, receipt, io);
      } finally {
        await model.dispose();
      }
    } finally {
      await receipt?.abort(); // does nothing once written
    }
  },
});

interface Request {
  readonly prompt: string;
  readonly options: GenerateOptions;
}

/** Everything that can be wrong with the flags is found before a model is loaded. */
async function plan(args: Args): Promise<Request> {
  if (args.conversation && args.json) throw new UsageError('--json and -cnv exclude each other');
  if (args.conversation && args.receipt !== undefined)
    throw new UsageError('--receipt and -cnv exclude each other: a receipt is of one prompt and one answer');
  if (args['receipt-time'] && args.receipt === undefined) throw new UsageError('--receipt-time needs --receipt');
  const systemPrompt = args['system-prompt'] !== undefined;
  if (systemPrompt && !args.conversation) throw new UsageError('-sys needs -cnv');
  if (systemPrompt && args.prompt !== undefined)
    throw new UsageError('with -cnv, -p is the system prompt: -p and -sys exclude each other');
  const given = await promptOf(args);
  const tellsStory = given === undefined && !namesModel(args) && !args.conversation;
  const sampling = samplingOptions(args);
  // Resolved here, so that the opening and the story come from one seed.
  const { seed } = resolveSampling(sampling);
  const prompt = given === undefined ? (tellsStory ? openingFor(seed) : '') : textOf(given, args);
  return {
    prompt,
    options: {
      ...(tellsStory ? { temperature: STORY_TEMPERATURE } : {}),
      ...sampling,
      seed,
      ...stopOptions(args),
      // Whoever types a prompt is trusted with special tokens, as in llama-cli; chat messages never are.
      special: !args['no-parse-special'],
    },
  };
}

/** Escapes are for what is typed on a command line; files are taken as they are. */
function textOf(given: string, args: Args): string {
  return args.file !== undefined || args['no-escape'] ? given : readEscapes(given);
}

function stopOptions(args: Args): GenerateOptions {
  const { predict } = args;
  return {
    ...(predict === undefined || predict < 0 ? {} : { maxTokens: predict }),
    ...(args.stop.length === 0 ? {} : { stop: args['no-escape'] ? args.stop : args.stop.map(readEscapes) }),
    ignoreEos: args['ignore-eos'],
  };
}

async function complete(
  model: Model,
  args: Args,
  { prompt, options }: Request,
  receipt: ReceiptWriter | undefined,
  io: Io,
): Promise<number> {
  const session = model.createSession(sessionOptions(args, model.info.contextLength));
  const generation = session.generate(prompt, { ...options, signal: io.signal });
  if (args.json) {
    const result = await generation.result;
    const { name, architecture } = model.info;
    const document = {
      model: { name, architecture, backend: model.backend, memoryPlan: model.memoryPlan },
      prompt,
      ...result,
    };
    await io.write(`${JSON.stringify(document, null, 2)}\n`);
  } else {
    const echo = args['no-display-prompt'] ? '' : prompt;
    await io.write(echo);
    await print(generation, io, !endsLine(echo));
  }
  const result = await generation.result;
  if (args.stats) io.note(statistics(model, result));
  else if (!args.quiet) io.note(summary(result));
  if (receipt !== undefined) {
    if (!args.quiet) io.status('computing the logits behind every token for the receipt');
    const { kType = 'f16', vType = 'f16' } = sessionOptions(args, model.info.contextLength);
    await receipt.write(
      await makeReceipt({
        ...machineOf(),
        model,
        within: session,
        file: receipt.file,
        load: loadOf(args, args['batch-size']),
        session: { contextSize: session.contextSize, kType, vType },
        prompt: { text: prompt, special: options.special ?? false },
        options: receiptOptions(options),
        result,
        time: receipt.time,
        signal: io.signal,
      }),
    );
    io.status('');
  }
  return 0;
}

/** Streams the pieces, and a newline at the end if the text has none of its own. */
export async function print(generation: Run, io: Io, lineOpen: boolean): Promise<void> {
  let open = lineOpen;
  try {
    for await (const piece of generation) {
      if (piece.text === '') continue;
      await io.write(piece.text);
      open = !endsLine(piece.text);
    }
  } finally {
    // Also after Ctrl-C: the shell's prompt should not stick to half a sentence.
    if (open) await io.write('\n');
  }
}

function endsLine(text: string): boolean {
  return text === '' || text.endsWith('\n');
}

async function talk(model: Model, args: Args, io: Io): Promise<number> {
  const system = args['system-prompt'] ?? (await promptOf(args));
  const conversation: Conversation = {
    system: system === undefined ? undefined : textOf(system, args),
    template: await templateOf(args),
    session: sessionOptions(args, model.info.contextLength) satisfies SessionOptions,
    options: { ...samplingOptions(args), ...stopOptions(args) },
    quiet: args.quiet,
    stats: args.stats,
  };
  return converse(model, conversation, io);
}
