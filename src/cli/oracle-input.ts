/**
 * What oracles compute: token ids, or a text whose special tokens are read.
 * @module
 */

import type { Model } from '../engine/types.ts';
import { want } from '../errors.ts';
import { type Flags, UsageError, type Values } from './flags.ts';
import { promptOf } from './prompt.ts';

export const inputFlags = {
  tokens: { type: 'string', value: 'ID,ID,...', group: 'Input', describe: 'token ids, taken as they are' },
  prompt: {
    type: 'string',
    also: ['-p'],
    value: 'TEXT',
    group: 'Input',
    describe: 'text instead; special tokens are read',
  },
  file: { type: 'string', also: ['-f'], value: 'PATH', group: 'Input', describe: 'text from a file' },
} as const satisfies Flags;

/** Checks the flags, before a model is loaded, and gives what makes ids of them. */
export async function inputOf(args: Values<typeof inputFlags>): Promise<(model: Model) => readonly number[]> {
  const given = await promptOf(args);
  if ((args.tokens === undefined) === (given === undefined)) throw new UsageError('give one of --tokens, -p and -f');
  const listed = args.tokens === undefined ? undefined : parseIds(args.tokens);
  return ({ tokenizer }) => {
    const ids = listed ?? tokenizer.encodePrompt(given!);
    want(ids.length > 0, 'bad-argument', 'there are no tokens to evaluate', () => ({ where: '-p' }));
    return ids;
  };
}

/** `1,300,310`. */
export function parseIds(text: string): number[] {
  return text.split(',').map((part) => {
    const id = part.trim();
    if (!/^\d{1,9}$/.test(id))
      throw new UsageError(`--tokens takes ids with commas between them, got ${JSON.stringify(part)}`);
    return Number(id);
  });
}
