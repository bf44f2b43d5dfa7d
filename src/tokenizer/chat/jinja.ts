/**
 * Running a chat template: @huggingface/jinja, loaded when first needed, with limits.
 *
 * Templates come out of model files, so they are programs by strangers. The interpreter gives them no way out: no files,
 * no network, and attributes are looked up in maps of the package, never on objects of the host (`constructor` and
 * `__proto__` are undefined there). What is left is wasting time and memory, and everything that could is counted:
 *
 * - the template's length, and how deep its brackets and blocks nest;
 * - the evaluated nodes, how deep they nest, and the sizes of what they return: every loop and recursion ends;
 * - each string and list, lists with all that is in them: sixty lists of twice the one before print 2^60 elements;
 * - what repeats its argument (`replace`, `join`, `indent`, `tojson`, `range`), before it does.
 *
 * All limits are counts, not clocks: a template that runs somewhere runs everywhere.
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
/** Brackets, blocks. Published templates stay below 20. */
const MAX_NESTING = 200;
/** Nodes within nodes while running, macros included. A sum of n terms is n deep. */
const MAX_DEPTH = 1_000;

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
    /** Private by its declaration; a test sees to it that a new version still calls it. */
    applyFilter(operand: JinjaValue, filter: JinjaNode, scope: unknown): JinjaValue;
    run(program: unknown): JinjaValue;
  };
  readonly parse: (tokens: readonly JinjaToken[]) => unknown;
  readonly tokenize: (
    source: string,
    options: { lstrip_blocks: boolean; trim_blocks: boolean },
  ) => readonly JinjaToken[];
}
interface JinjaToken {
  readonly type: string;
  readonly value: string;
}
interface JinjaNode {
  readonly type: string;
  /** Of For. */
  readonly iterable?: JinjaNode;
  /** Of SelectExpression, `list if condition`. */
  readonly lhs?: JinjaNode;
  /** Of Identifier, its name. */
  readonly value?: unknown;
  /** Of CallExpression. */
  readonly callee?: JinjaNode;
}
interface JinjaValue {
  readonly value: unknown;
  readonly builtins: Map<string, JinjaValue>;
}
type JinjaFunction = (args: readonly JinjaValue[], scope: unknown) => JinjaValue;

export async function runTemplate(source: string, input: TemplateInput): Promise<string> {
  if (source.length > MAX_TEMPLATE_CHARS) {
    throw failure('template too long', `${source.length} characters`, undefined, `at most ${MAX_TEMPLATE_CHARS}`);
  }
  const jinja: unknown = await import('@huggingface/jinja');
  const { Environment, Interpreter, parse, tokenize } = jinja as Jinja;

  let stepsLeft = MAX_STEPS + MAX_STEPS_PER_MESSAGE * input.messages.length;
  const inputChars = input.messages.reduce((sum, message) => sum + message.content.length, 0);
  const maxChars = 1_048_576 + 4 * inputChars;
  const sizes = new Sizes(maxChars);

  /** Expressions whose value a loop goes through. */
  const iterables = new Set<unknown>();

  class LimitedInterpreter extends Interpreter {
    #depth = 0;
    /** How often a filter that is being prepared will repeat its argument. */
    #repeats = 0;

    override evaluate(node: JinjaNode | undefined, scope: unknown): JinjaValue {
      if (node?.type === 'For') {
        const list = node.iterable;
        iterables.add(list?.type === 'SelectExpression' ? list.lhs : list);
      }
      const result = this.#deeper(() => super.evaluate(node, scope));
      const { value } = result;
      stepsLeft -= 1 + extraSteps(value, iterables.has(node));
      if (stepsLeft < 0) throw failure('template runs too long', 'more work than any chat needs');
      if (Array.isArray(value) && value.length > MAX_LIST) {
        throw failure('template makes too long a list', `${value.length} elements`, undefined, `at most ${MAX_LIST}`);
      }
      sizes.check(result);
      const width = typeof value === 'string' ? value.length : typeof value === 'number' ? value : 0;
      if (width * this.#repeats > maxChars) throw tooMuchText(width * this.#repeats, maxChars);
      return guarded(result, maxChars);
    }

    override applyFilter(operand: JinjaValue, filter: JinjaNode, scope: unknown): JinjaValue {
      const outer = this.#repeats;
      this.#repeats = repeatsOf(operand, filter);
      try {
        return super.applyFilter(guarded(operand, maxChars), filter, scope);
      } finally {
        this.#repeats = outer;
      }
    }

    /** `break` and `continue` leave by exceptions. */
    #deeper<T>(evaluate: () => T): T {
      if (++this.#depth > MAX_DEPTH) throw failure('template nested too deep', `more than ${MAX_DEPTH} levels`);
      try {
        return evaluate();
      } finally {
        this.#depth--;
      }
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
    const tokens = tokenize(source, { lstrip_blocks: true, trim_blocks: true });
    checkNesting(tokens);
    const program = parse(tokens);
    return String(new LimitedInterpreter(environment).run(program).value);
  } catch (error) {
    if (error instanceof BitnetError) throw error;
    throw failure('bad template', error instanceof Error ? error.message : String(error), error);
  }
}

/** Brackets of all kinds, and blocks: an `end...` closes one. */
function checkNesting(tokens: readonly JinjaToken[]): void {
  const BLOCKS = new Set(['if', 'for', 'macro', 'call', 'filter', 'generation']);
  let depth = 0;
  let blocks = 0;
  for (const [i, { type, value }] of tokens.entries()) {
    if (type.startsWith('Open') && type !== 'OpenStatement' && type !== 'OpenExpression') depth++;
    else if (type.startsWith('Close') && type !== 'CloseStatement' && type !== 'CloseExpression') depth--;
    else if (i > 0 && tokens[i - 1].type === 'OpenStatement') {
      if (BLOCKS.has(value)) blocks++;
      else if (value.startsWith('end')) blocks--;
    }
    if (depth > MAX_NESTING || blocks > MAX_NESTING) {
      throw failure('template nested too deep', `more than ${MAX_NESTING} brackets or blocks`);
    }
  }
}

/** Sizes of values as text, with all that is in them. Values do not change, so each is looked at once. */
class Sizes {
  readonly #known = new WeakMap<object, number>();
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  check(value: JinjaValue): void {
    const size = this.#of(value, 0);
    if (size > this.#max) throw tooMuchText(size, this.#max);
  }

  #of(value: JinjaValue, depth: number): number {
    const plain = value?.value;
    if (typeof plain === 'string') return plain.length;
    const inner = Array.isArray(plain) ? plain : plain instanceof Map ? [...plain.values()] : undefined;
    if (inner === undefined) return 1;
    const known = this.#known.get(value);
    if (known !== undefined) return known;
    if (depth > MAX_NESTING) throw failure('template nested too deep', `lists in lists, more than ${MAX_NESTING}`);
    let size = 1;
    for (const part of inner) size += 1 + this.#of(part, depth + 1);
    // A namespace is a map that can change.
    if (Array.isArray(plain)) this.#known.set(value, size);
    return size;
  }
}

/** How often a filter repeats what it is given: a width once a line, a separator once an element. */
function repeatsOf({ value }: JinjaValue, filter: JinjaNode): number {
  const name = (filter.type === 'CallExpression' ? filter.callee : filter)?.value;
  if (name === 'join') return Array.isArray(value) ? value.length : typeof value === 'string' ? value.length : 0;
  if (name === 'indent') return typeof value === 'string' ? value.split('\n').length : 0;
  // One line for each element, indented once a level.
  if (name === 'tojson') return 1 + (Array.isArray(value) ? value.length : value instanceof Map ? value.size : 0);
  return 0;
}

/** A string whose `replace` looks at what it would make before it makes it. */
function guarded(value: JinjaValue, maxChars: number): JinjaValue {
  const text = value.value;
  if (typeof text !== 'string' || Object.hasOwn(value, 'builtins')) return value;
  const inherited = Object.getPrototypeOf(value);
  Object.defineProperty(value, 'builtins', {
    configurable: true,
    get(): Map<string, JinjaValue> {
      const builtins: Map<string, JinjaValue> = Reflect.get(inherited, 'builtins', value);
      Object.defineProperty(value, 'builtins', { value: builtins });
      const original = builtins.get('replace');
      if (original === undefined) return builtins;
      const replace = original.value as JinjaFunction;
      const checked: JinjaFunction = (args, scope) => {
        const [from, to] = args.map((arg) => `${arg.value}`.length);
        const most = (Math.floor(text.length / Math.max(1, from)) + 1) * (to ?? 0);
        if (most > maxChars) throw tooMuchText(most, maxChars);
        return replace(args, scope);
      };
      builtins.set('replace', new (original.constructor as new (value: JinjaFunction) => JinjaValue)(checked));
      return builtins;
    },
  });
  return value;
}

function tooMuchText(size: number, max: number): BitnetError {
  return failure('template makes too much text', `${size} characters`, undefined, `at most ${max}`);
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
