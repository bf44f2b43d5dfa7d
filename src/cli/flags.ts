/**
 * What a flag is. Commands describe their flags as plain tables; args.ts reads arguments with them, program.ts
 * turns them into help, and `Values` into the type a command receives.
 * @module
 */

interface FlagBase {
  /** Other spellings, dashes included: `-m`, `-temp`, `--temperature`. */
  readonly also?: readonly string[];
  readonly describe: string;
  /** Heading in the help. */
  readonly group?: string;
  /** Accepted, but not shown. */
  readonly hidden?: boolean;
  /** Environment variable that stands in where the flag is not given. */
  readonly env?: string;
}

export type Flag =
  | (FlagBase & { readonly type: 'boolean' })
  | (FlagBase & { readonly type: 'string'; readonly value?: string; readonly choices?: readonly string[] })
  /** May be given several times. */
  | (FlagBase & { readonly type: 'list'; readonly value?: string })
  | (FlagBase & { readonly type: 'number' | 'integer'; readonly min?: number; readonly max?: number });

/** Flags by long name, without the dashes. */
export type Flags = Readonly<Record<string, Flag>>;

/** What a command gets: undefined where neither the flag nor its environment variable is there. */
export type Values<F extends Flags> = {
  readonly [K in keyof F]: F[K] extends { readonly type: 'boolean' }
    ? boolean
    : F[K] extends { readonly type: 'list' }
      ? readonly string[]
      : F[K] extends { readonly choices: readonly (infer Choice)[] }
        ? Choice | undefined
        : F[K] extends { readonly type: 'string' }
          ? string | undefined
          : number | undefined;
};

/** A wrong command line: exit code 2 and a pointer to the help. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  /** The help to look at, e.g. `bitnet run --help`; program.ts fills it in. */
  command: string | undefined;
}
