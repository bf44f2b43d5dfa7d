/**
 * Running a chat template: @huggingface/jinja, loaded when first needed, with limits.
 *
 * Templates come out of model files, so they are programs by strangers. The interpreter gives them no way out (no
 * files, no network, no host objects); what is left is wasting time and memory:
 *
 * - guarded: the template's length, the number of evaluated nodes and the sizes of what they return (so every loop and
 *   recursion ends), the length of every single string and list, the length of `range`;
 * - not guarded: one single filter or method call that makes something huge out of values below the limits
 *   (`x.replace('', x)`); the engine's own limit on strings is what stops that.
 *
 * The package reports neither line nor column for mistakes in a template, so our errors cannot either.
 * @module
 */

import { BitnetError } from '../../errors.ts';

/** The longest published chat templates (with tools) have about 20 KB. */
const MAX_TEMPLATE_CHARS = 64 * 1024;
/** A conversation of one message takes a few hundred evaluations in the longest templates. */
const MAX_STEPS = 500_000;
const MAX_STEPS_PER_MESSAGE = 2_000;
const MAX_RANGE = 65_536;
const MAX_LIST = 1_048_576;

/** What a template may see. */
export interface TemplateInput {
  readonly messages: readonly { readonly role: string; readonly content: string }[];
  readonly variables: Readonly<Record<string, unknown>>;
  /** What `strftime_now` tells. */
  readonly now: Date;
}

/** What we use of the package. Its own declarations import files without extensions, which TypeScript reads as `any`. */
interface Jinja {
  readonly Environment: new () => { set(name: string, value: unknown): unknown };
  readonly Interpreter: new (
    environment: unknown,
  ) => {
    /** Every node goes through here, also from inside the package. */
    evaluate(node: JinjaNode | undefined, scope: unknown): JinjaValue;
    run(program: unknown): JinjaValue;
  };
  readonly parse: (tokens: unknown) => unknown;
  readonly tokenize: (source: string, options: { lstrip_blocks: boolean; trim_blocks: boolean }) => unknown;
}
interface JinjaNode {
  readonly type: string;
  /** Of For. */
  readonly iterable?: JinjaNode;
  /** Of SelectExpression, `list if condition`. */
  readonly lhs?: JinjaNode;
}
interface JinjaValue {
  readonly value: unknown;
}

export async function runTemplate(source: string, input: TemplateInput): Promise<string> {
  if (source.length > MAX_TEMPLATE_CHARS) {
    throw failure('template too long', `${source.length} characters`, undefined, `at most ${MAX_TEMPLATE_CHARS}`);
  }
  const jinja: unknown = await import('@huggingface/jinja');
  const { Environment, Interpreter, parse, tokenize } = jinja as Jinja;

  let stepsLeft = MAX_STEPS + MAX_STEPS_PER_MESSAGE * input.messages.length;
  const inputChars = input.messages.reduce((sum, message) => sum + message.content.length, 0);
  const maxChars = 1_048_576 + 4 * inputChars;

  /** Expressions whose value a loop goes through. */
  const iterables = new Set<unknown>();

  class LimitedInterpreter extends Interpreter {
    override evaluate(node: JinjaNode | undefined, scope: unknown): JinjaValue {
      if (node?.type === 'For') {
        const list = node.iterable;
        iterables.add(list?.type === 'SelectExpression' ? list.lhs : list);
      }
      const result = super.evaluate(node, scope);
      const { value } = result;
      stepsLeft -= 1 + extraSteps(value, iterables.has(node));
      if (stepsLeft < 0) throw failure('template runs too long', 'more work than any chat needs');
      if (typeof value === 'string' && value.length > maxChars) {
        throw failure('template makes too much text', `${value.length} characters`, undefined, `at most ${maxChars}`);
      }
      if (Array.isArray(value) && value.length > MAX_LIST) {
        throw failure('template makes too long a list', `${value.length} elements`, undefined, `at most ${MAX_LIST}`);
      }
      return result;
    }
  }

  const environment = new Environment();
  const globals: Record<string, unknown> = {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    range: limitedRange,
    strftime_now: (format: unknown) => formatDate(input.now, String(format)),
    raise_exception: (message: unknown) => {
      throw failure('the template refuses these messages', JSON.stringify(String(message).slice(0, 500)));
    },
    ...input.variables,
    messages: input.messages.map(({ role, content }) => ({ role, content })),
  };
  try {
    for (const [name, value] of Object.entries(globals)) environment.set(name, value);
    // Both options are how Hugging Face sets up Jinja for chat templates.
    const program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    return String(new LimitedInterpreter(environment).run(program).value);
  } catch (error) {
    if (error instanceof BitnetError) throw error;
    throw failure('bad template', error instanceof Error ? error.message : String(error), error);
  }
}

/** A large value is work for whoever gets it. A loop sets up a scope for each element, even when its body is empty. */
function extraSteps(value: unknown, isIterated: boolean): number {
  if (typeof value === 'string') return value.length >> 6;
  const length = Array.isArray(value) ? value.length : value instanceof Map ? value.size : 0;
  return isIterated ? 2 * length : length >> 4;
}

function failure(what: string, got: string, cause?: unknown, expected?: string): BitnetError {
  return new BitnetError('bad-template', what, { where: 'chat template', expected, got }, cause);
}

/** Python's range(stop), range(start, stop), range(start, stop, step). */
function limitedRange(...args: unknown[]): number[] {
  const [start, stop, step] = args.length === 1 ? [0, args[0], 1] : [args[0], args[1], args[2] ?? 1];
  if (![start, stop, step].every(Number.isSafeInteger)) throw failure('bad template', 'range() of something not whole');
  const [from, to, by] = [start as number, stop as number, step as number];
  if (by === 0) throw failure('bad template', 'range() with step 0');
  const length = Math.max(0, Math.ceil((to - from) / by));
  if (length > MAX_RANGE) throw failure('bad template', `range() of ${length}`, undefined, `at most ${MAX_RANGE}`);
  return Array.from({ length }, (_, i) => from + i * by);
}

const MONTHS = 'January February March April May June July August September October November December';
const DAYS = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday';

/** The part of strftime that templates use, in English and UTC wherever it runs. */
function formatDate(date: Date, format: string): string {
  const month = MONTHS.split(' ')[date.getUTCMonth()];
  const day = DAYS.split(' ')[date.getUTCDay()];
  const fields: Record<string, string> = {
    '%Y': `${date.getUTCFullYear()}`,
    '%y': twoDigits(date.getUTCFullYear() % 100),
    '%m': twoDigits(date.getUTCMonth() + 1),
    '%d': twoDigits(date.getUTCDate()),
    '%H': twoDigits(date.getUTCHours()),
    '%M': twoDigits(date.getUTCMinutes()),
    '%S': twoDigits(date.getUTCSeconds()),
    '%B': month,
    '%b': month.slice(0, 3),
    '%A': day,
    '%a': day.slice(0, 3),
    '%%': '%',
  };
  return format.replace(/%./g, (field) => fields[field] ?? field);
}

function twoDigits(number: number): string {
  return `${number}`.padStart(2, '0');
}
