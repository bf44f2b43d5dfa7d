/**
 * What a command is: flags, and something to do. `commands.ts` has its name.
 * @module
 */

import type { Flags, Values } from './flags.ts';
import type { Io } from './io.ts';

export interface Command {
  readonly flags: Flags;
  /** A word that may follow the command, e.g. the file to inspect. */
  readonly word?: { readonly name: string; readonly describe: string; readonly required?: boolean };
  /** Several words instead: as shown in the help, and how many there must be. */
  readonly words?: { readonly shown: string; readonly min: number; readonly max: number };
  readonly examples: readonly (readonly [command: string, does: string])[];
  readonly run: (args: Record<string, unknown>, io: Io) => Promise<number>;
}

/** Ties the type of `run`'s arguments to the flags; the result forgets it, so that commands fit in one list. */
export function command<const F extends Flags>(
  definition: Omit<Command, 'flags' | 'run'> & {
    readonly flags: F;
    /** Resolves to the exit code. `word` is the word behind the command, `words` are all. */
    readonly run: (
      args: Values<F> & { readonly word?: string; readonly words: readonly string[] },
      io: Io,
    ) => Promise<number>;
  },
): Command {
  return definition as unknown as Command;
}
