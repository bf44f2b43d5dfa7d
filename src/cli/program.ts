/**
 * Arguments in, exit code out.
 *
 *     0 done    1 the library refused (BitnetError)    2 wrong command line    70 a bug    130 Ctrl-C    143 SIGTERM    129 SIGHUP
 * @module
 */

import { readFileSync } from 'node:fs';
import yargs, { type Argv, type Options } from 'yargs';
import { numericsVersion } from '../engine/numerics.ts';
import { BitnetError } from '../errors.ts';
import { fromEnvironment, normaliseArgs, suggest } from './args.ts';
import type { Command } from './command.ts';
import { commands, type Listed } from './commands.ts';
import { type Flag, type Flags, UsageError } from './flags.ts';
import { Interrupted, type Io } from './io.ts';

/** What a user gets who types no command. */
const DEFAULT_COMMAND = 'run';
const WIDTH = 110;

const globalFlags = {
  help: { type: 'boolean', also: ['-h'], describe: 'this text' },
  version: { type: 'boolean', describe: 'the version of bitnet-ts' },
} as const satisfies Flags;

/** Runs the program; never throws. */
export async function runProgram(argv: readonly string[], io: Io): Promise<number> {
  try {
    return await dispatch(argv, io);
  } catch (error) {
    return report(error, io);
  }
}

async function dispatch(argv: readonly string[], io: Io): Promise<number> {
  const [first] = argv;
  if (first === '--version') {
    await io.write(`${packageVersion()} (numerics ${numericsVersion})\n`);
    return 0;
  }
  if (first === '--help' || first === '-h' || first === 'help') {
    await io.write(`${await topLevelHelp()}\n`);
    return 0;
  }
  const group = argv[1] === '--help' || argv[1] === '-h' ? groupOf(first) : [];
  if (group.length > 0) {
    await io.write(`${groupHelp(group)}\n`);
    return 0;
  }
  const { listed, rest } = chooseCommand(argv);
  try {
    const command = await listed.load();
    const args = await parse({ ...listed, ...command }, rest, io);
    return args === undefined ? 0 : await command.run(args, io);
  } catch (error) {
    if (error instanceof UsageError) error.command ??= `bitnet ${listed.name}`;
    throw error;
  }
}

/** People who come from other tools put the model first, without a flag. */
function hintFor(word: string | undefined, flags: Flags): string {
  return 'model' in flags && /\.gguf(\.gz)?$/.test(word ?? '') ? ': give the model as -m FILE' : '';
}

/** The command of the first one or two words; flags alone mean the default one. */
function chooseCommand(argv: readonly string[]): { listed: Listed; rest: readonly string[] } {
  const [first, second] = argv;
  if (first === undefined || first.startsWith('-')) return { listed: named(DEFAULT_COMMAND)!, rest: argv };
  const listed = named(first);
  if (listed !== undefined) return { listed, rest: argv.slice(1) };
  const group = groupOf(first);
  if (group.length > 0) {
    const inGroup = named(`${first} ${second}`);
    if (inGroup !== undefined) return { listed: inGroup, rest: argv.slice(2) };
    const known = group.map(({ name }) => `bitnet ${name}`).join(', ');
    throw new UsageError(`${first} needs one of: ${known}`);
  }
  throw new UsageError(
    `unknown command ${JSON.stringify(first)}${suggest(
      first,
      commands.map(({ name }) => name),
    )}`,
  );
}

/** Commands of two words that begin with this one. */
function groupOf(first: string | undefined): readonly Listed[] {
  return named(`${first}`) === undefined ? commands.filter(({ name }) => name.startsWith(`${first} `)) : [];
}

/** `bitnet oracle --help`: a line a command, and where the rest is. */
function groupHelp(group: readonly Listed[]): string {
  const width = Math.max(...group.map(({ name }) => name.length));
  const lines = group.map(({ name, describe }) => `bitnet ${name.padEnd(width)}  ${describe}`);
  return `${lines.join('\n')}\n\nFlags and examples: bitnet ${group[0].name} --help`;
}

function named(name: string): Listed | undefined {
  return commands.find((listed) => listed.name === name);
}

/** The arguments of a command, or undefined if it was only asked for help. */
async function parse(
  command: Listed & Command,
  rest: readonly string[],
  io: Io,
): Promise<Record<string, unknown> | undefined> {
  const flags: Flags = { ...command.flags, ...globalFlags };
  const tidy = normaliseArgs(rest, flags);
  if (tidy.includes('--help=true')) {
    await io.write(`${await parserFor(command).getHelp()}\n`);
    return undefined;
  }
  const given = [...fromEnvironment(tidy, flags, io.env), ...tidy];
  const parsed = await parserFor(command).parseAsync(given);
  const words = parsed._.map(String);
  const { word } = command;
  const { min, max, shown } = command.words ?? { min: 0, max: word === undefined ? 0 : 1, shown: '' };
  if (words.length < min)
    throw new UsageError(`expected ${shown}, got ${words.length === 0 ? 'nothing' : words.join(' ')}`);
  if (words.length > max)
    throw new UsageError(`unexpected argument ${JSON.stringify(words.at(-1))}${hintFor(words.at(-1), flags)}`);
  if (word?.required === true && words.length === 0) throw new UsageError(`${word.name} is missing`);
  const args: Record<string, unknown> = { word: words[0], words };
  for (const [name, flag] of Object.entries(command.flags)) {
    // Lists from the arguments themselves: yargs takes one empty value for none.
    if (flag.type === 'list') args[name] = valuesOf(name, given);
    else args[name] = parsed[name] ?? (flag.type === 'boolean' ? false : undefined);
  }
  return args;
}

/** All values of `--name=value` in front of a bare `--`. */
function valuesOf(name: string, given: readonly string[]): string[] {
  const end = given.indexOf('--');
  const prefix = `--${name}=`;
  const flags = end < 0 ? given : given.slice(0, end);
  return flags.filter((arg) => arg.startsWith(prefix)).map((arg) => arg.slice(prefix.length));
}

function bareParser(): Argv {
  return yargs()
    .scriptName('bitnet')
    .locale('en')
    .parserConfiguration({
      // args.ts has left nothing but `--name=value`; anything clever on top could only misread a value.
      'boolean-negation': false,
      'camel-case-expansion': false,
      'dot-notation': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'short-option-groups': false,
      'greedy-arrays': false,
    })
    .version(false)
    .help(false)
    .exitProcess(false)
    .wrap(WIDTH)
    .strictOptions()
    .fail((message, error) => {
      throw error ?? new UsageError(message);
    });
}

function parserFor(command: Listed & Command): Argv {
  const word =
    command.words !== undefined
      ? ` ${command.words.shown}`
      : command.word === undefined
        ? ''
        : command.word.required === true
          ? ` ${command.word.name}`
          : ` [${command.word.name}]`;
  let parser = bareParser().usage(`bitnet ${command.name}${word} [flags]\n\n${command.describe}`);
  for (const [name, flag] of Object.entries({ ...command.flags, ...globalFlags })) {
    parser = parser.option(name, yargsOption(flag));
  }
  for (const [example, does] of command.examples) parser = parser.example(example, does);
  return parser;
}

function yargsOption(flag: Flag): Options {
  const multiLetter = (flag.also ?? []).filter((spelling) => /^-[^-]./.test(spelling));
  const hint = multiLetter.length === 0 ? '' : ` (also ${multiLetter.join(', ')})`;
  const env = flag.env === undefined ? '' : ` (${flag.env})`;
  return {
    type: flag.type === 'boolean' ? 'boolean' : flag.type === 'number' || flag.type === 'integer' ? 'number' : 'string',
    array: flag.type === 'list',
    describe: flag.describe + hint + env,
    // yargs would print and accept `-ngl` as bundled letters: only real letters and long names are aliases to it.
    alias: (flag.also ?? []).filter((spelling) => !multiLetter.includes(spelling)).map((s) => s.replace(/^-+/, '')),
    ...(flag.group === undefined ? {} : { group: `${flag.group}:` }),
    ...(flag.hidden === true ? { hidden: true } : {}),
    ...('choices' in flag && flag.choices !== undefined ? { choices: flag.choices } : {}),
  };
}

async function topLevelHelp(): Promise<string> {
  let parser = bareParser().usage(
    'bitnet [command] [flags]\n\nRuns ternary (1.58-bit) language models. Without a command: run; without a model: a story.',
  );
  const groups = new Set<string>();
  for (const { name, describe } of commands) {
    // yargs shows only the first word of a command as its name; the rest are its arguments, which is how it looks.
    parser = parser.command(name, describe);
    groups.add(name);
  }
  parser = parser
    .example('bitnet', 'tells a story')
    .example('bitnet run -m model.gguf -p "Once upon a time" -n 64', 'continues a text')
    .example('bitnet chat -m model.gguf', 'talks')
    .epilogue(
      'bitnet COMMAND --help tells more. Environment: BITNET_MODEL, BITNET_THREADS, BITNET_BACKEND,\nBITNET_KERNELS.',
    );
  return parser.getHelp();
}

function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** Tells what went wrong, in one line if it is nobody's bug, and picks the exit code. */
function report(error: unknown, io: Io): number {
  // An aborted signal explains everything that follows from it, whatever it was wrapped in on the way.
  const reason: unknown = io.signal.aborted ? io.signal.reason : error;
  if (reason instanceof Interrupted) {
    io.status('');
    return reason.exitCode;
  }
  if (error instanceof UsageError) {
    io.note(`bitnet: ${error.message}; see ${error.command ?? 'bitnet'} --help`);
    return 2;
  }
  if (error instanceof BitnetError) {
    io.note(`bitnet: ${error.code}: ${error.message}`);
    return 1;
  }
  io.note(error instanceof Error ? (error.stack ?? error.message) : `bitnet: ${String(error)}`);
  return 70;
}
