/**
 * Where prompts come from, and what is done to them before they reach the model.
 * @module
 */

import { Rng } from '../numeric/rng.ts';
import { UsageError, type Values } from './flags.ts';
import type { chatFlags } from './flags-common.ts';
import { readTextFile } from './open.ts';

/** What the built-in model begins with when it is asked for nothing in particular. */
const OPENINGS = [
  'Once upon a time',
  'One day, a little girl named Lily',
  'There was once a small dragon who',
  'Tom and his dog Max were',
  'In a little house by the sea',
  'One sunny morning, a tiny mouse',
] as const;

/** The opening that belongs to a seed. */
export function openingFor(seed: number): string {
  // A stream of its own: taking a number from the sampler's would change the text of every seeded prompt.
  return OPENINGS[Math.floor(Rng.fromSeed(seed).nextFloat() * OPENINGS.length)];
}

/** `-p` or the text of `-f`, of which llama.cpp drops one final newline. */
export async function promptOf(args: {
  readonly prompt?: string | undefined;
  readonly file?: string | undefined;
}): Promise<string | undefined> {
  if (args.prompt !== undefined && args.file !== undefined) throw new UsageError('-p and -f exclude each other');
  if (args.file === undefined) return args.prompt;
  return (await readTextFile(args.file)).replace(/\r?\n$/, '');
}

/** `\n`, `\t`, `\"`, `\'`, `\\`, `\r` and `\xHH`, as llama.cpp reads them in prompts; anything else stays. */
export function readEscapes(text: string): string {
  const letters: Readonly<Record<string, string>> = { n: '\n', t: '\t', r: '\r', "'": "'", '"': '"', '\\': '\\' };
  return text.replace(/\\(?:x([0-9a-fA-F]{2})|([ntr'"\\]))/g, (_, hex: string | undefined, letter: string) =>
    hex === undefined ? letters[letter] : String.fromCharCode(Number.parseInt(hex, 16)),
  );
}

/** The template that replaces the model's own, if any. */
export async function templateOf(args: Values<typeof chatFlags>): Promise<string | undefined> {
  const { 'chat-template': text, 'chat-template-file': file } = args;
  if (text !== undefined && file !== undefined) {
    throw new UsageError('--chat-template and --chat-template-file exclude each other');
  }
  return file === undefined ? text : readTextFile(file);
}
