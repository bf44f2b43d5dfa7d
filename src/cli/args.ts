/**
 * From llama.cpp's way of writing flags to yargs's.
 *
 * llama.cpp has single-dash flags of several letters (`-ngl`, `-cnv`) and takes the argument after a flag as it is,
 * even if it begins with a dash (`-n -1`, `-p "- a list"`). yargs would read the first as a bundle of letters and the
 * second as another flag. So every flag becomes its one long name with the value tied to it, `--predict=-1`, which
 * leaves nothing to guess. Numbers are checked here too: yargs would turn `--temp warm` into NaN.
 * @module
 */

import { type Flag, type Flags, UsageError } from './flags.ts';

/** Rewrites the arguments of one command. A flag given twice counts the last time, as in llama.cpp. */
export function normaliseArgs(args: readonly string[], flags: Flags): string[] {
  const names = spellings(flags);
  const words: string[] = [];
  const single = new Map<string, string>();
  const lists: string[] = [];
  for (let at = 0; at < args.length; at++) {
    const arg = args[at];
    if (arg === '--') {
      words.push(...args.slice(at));
      break;
    }
    if (!arg.startsWith('-') || arg === '-') {
      words.push(arg);
      continue;
    }
    const equals = arg.indexOf('=');
    const spelled = equals < 0 ? arg : arg.slice(0, equals);
    const tied = equals < 0 ? undefined : arg.slice(equals + 1);
    // llama.cpp takes `--top_k` for `--top-k`.
    const name = names.get(spelled) ?? names.get(spelled.replaceAll('_', '-'));
    if (name === undefined) throw new UsageError(`unknown flag ${spelled}${suggest(spelled, shown(names, flags))}`);
    const flag = flags[name];
    if (flag.type === 'boolean') {
      if (tied !== undefined && tied !== 'true' && tied !== 'false') {
        throw new UsageError(`${spelled} takes no value, got ${quote(tied)}`);
      }
      single.set(name, `--${name}=${tied ?? 'true'}`);
      continue;
    }
    let value = tied;
    if (value === undefined) {
      at++;
      if (at >= args.length) throw new UsageError(`${spelled} needs a value`);
      value = args[at];
    }
    checkValue(spelled, flag, value);
    if (flag.type === 'list') lists.push(`--${name}=${value}`);
    else single.set(name, `--${name}=${value}`);
  }
  // Flags first: behind a bare `--` they would be words.
  return [...single.values(), ...lists, ...words];
}

/** `--name=value` for flags that are absent and have an environment variable. */
export function fromEnvironment(
  args: readonly string[],
  flags: Flags,
  env: Readonly<Record<string, string | undefined>>,
): string[] {
  const added: string[] = [];
  for (const [name, flag] of Object.entries(flags)) {
    const value = flag.env === undefined ? undefined : env[flag.env];
    if (value === undefined || value === '' || args.some((arg) => arg.startsWith(`--${name}=`))) continue;
    checkValue(flag.env!, flag, value);
    added.push(`--${name}=${value}`);
  }
  return added;
}

function spellings(flags: Flags): Map<string, string> {
  const names = new Map<string, string>();
  for (const [name, flag] of Object.entries(flags)) {
    names.set(`--${name}`, name);
    for (const other of flag.also ?? []) names.set(other, name);
  }
  return names;
}

/** Spellings that the help shows; the others are for command lines of other programs. */
function shown(names: ReadonlyMap<string, string>, flags: Flags): string[] {
  return [...names].flatMap(([spelled, name]) => (flags[name].hidden === true ? [] : [spelled]));
}

function checkValue(spelled: string, flag: Flag, value: string): void {
  if (flag.type === 'string' && flag.choices !== undefined && !flag.choices.includes(value)) {
    throw new UsageError(
      `${spelled} takes ${flag.choices.map((choice) => (choice === '' ? '""' : choice)).join(', ')}; got ${quote(value)}`,
    );
  }
  if (flag.type !== 'number' && flag.type !== 'integer') return;
  const number = Number(value);
  // Number() is generous: '' and ' ' are 0, 0x10 is 16. A plain decimal, possibly with an exponent, is enough.
  const isNumber = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value) && Number.isFinite(number);
  const { min = -Infinity, max = Infinity } = flag;
  if (isNumber && (flag.type === 'number' || Number.isSafeInteger(number)) && number >= min && number <= max) return;
  const what = flag.type === 'integer' ? 'an integer' : 'a number';
  throw new UsageError(`${spelled} takes ${what}${range(min, max)}, got ${quote(value)}`);
}

function range(min: number, max: number): string {
  if (min !== -Infinity && max !== Infinity) return ` from ${min} to ${max}`;
  if (min !== -Infinity) return ` of at least ${min}`;
  return max === Infinity ? '' : ` of at most ${max}`;
}

function quote(value: string): string {
  return JSON.stringify(value.length > 40 ? `${value.slice(0, 37)}...` : value);
}

/** `; did you mean --temp?`, if one spelling is close. */
export function suggest(wrong: string, known: readonly string[]): string {
  const bare = wrong.replace(/^-+/, '');
  // `--system` for `--system-prompt`: a beginning that fits one name means it, however long the rest.
  const longer = [...known].filter((candidate) => candidate.replace(/^-+/, '').startsWith(bare));
  if (bare.length > 2 && longer.length === 1) return `; did you mean ${longer[0]}?`;
  let best: string | undefined;
  let bestDistance = 1 + Math.floor(bare.length / 3);
  for (const candidate of known) {
    const other = candidate.replace(/^-+/, '');
    const distance = editDistance(bare, other);
    // `-m` is no help for `-i`: something of both has to stay.
    if (distance >= Math.min(bare.length, other.length)) continue;
    if (distance < bestDistance || (distance === bestDistance && best === undefined)) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best === undefined ? '' : `; did you mean ${best}?`;
}

/** Levenshtein's distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(swap, row[j] + 1, next[j - 1] + 1));
    }
    row = next;
  }
  return row[b.length];
}
