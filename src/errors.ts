/**
 * The one error type of the library.
 *
 * Every refusal names where it happened, what was expected and what was found, and carries a stable
 * `code` that programs may match on. Codes are part of the public API: adding one is a minor change,
 * renaming one is a breaking change.
 * @module
 */

/** Stable machine-readable causes. */
export type ErrorCode =
  // containers
  | 'bad-container' // the bytes are not the format they claim to be, or contradict themselves
  | 'truncated' // the file ends before its own tables say it should
  | 'limit-exceeded' // a count or length beyond what the file can hold or what we accept
  | 'unsupported-version'
  | 'unsupported-type' // a tensor or value type that is known, or unknown, but not readable here
  | 'bad-metadata' // a key is missing, of the wrong type or out of range
  | 'bad-tensor' // wrong shape, wrong bytes, code 3, scale not finite
  | 'not-ternary' // projections that must be ternary are not: a file converted as if it were an ordinary model
  | 'missing-tensor'
  | 'unused-tensor'
  // models and tokenizers
  | 'unsupported-architecture'
  | 'unsupported-tokenizer'
  | 'bad-tokenizer'
  | 'bad-token'
  | 'bad-template'
  | 'no-template'
  // running
  | 'bad-argument'
  | 'context-full'
  | 'session-busy'
  | 'disposed'
  | 'out-of-memory'
  | 'not-finite' // NaN or infinity where the graph must produce numbers
  | 'backend-unavailable'
  | 'backend-failed' // a kernel self-test failed or a worker died
  | 'not-comparable' // traces of different models, tokens or shapes
  // outside world
  | 'io'
  | 'http';

/** Extra facts about a failure; everything is plain data so that it survives `postMessage` and JSON. */
export interface ErrorFacts {
  /** Where: a file, tensor, key, flag or argument. */
  readonly where?: string;
  readonly expected?: string | undefined;
  readonly got?: string | undefined;
  /** The command or option that helps. */
  readonly hint?: string | undefined;
}

/** An expected failure: bad input, bad file, impossible request. Bugs throw other errors. */
export class BitnetError extends Error {
  override readonly name = 'BitnetError';
  readonly code: ErrorCode;
  readonly facts: ErrorFacts;

  constructor(code: ErrorCode, what: string, facts: ErrorFacts = {}, cause?: unknown) {
    super(describe(what, facts), cause === undefined ? undefined : { cause });
    this.code = code;
    this.facts = facts;
  }
}

/** "where: what, expected X, got Y (hint)" */
function describe(what: string, { where, expected, got, hint }: ErrorFacts): string {
  let text = where === undefined ? what : `${where}: ${what}`;
  if (expected !== undefined) text += `, expected ${expected}`;
  if (got !== undefined) text += `, got ${got}`;
  if (hint !== undefined) text += ` (${hint})`;
  return text;
}

/**
 * Throws unless `condition` holds. The facts are built by a function, so that the success path
 * formats nothing.
 */
export function want(
  condition: boolean,
  code: ErrorCode,
  what: string,
  facts: () => ErrorFacts = () => ({}),
): asserts condition {
  if (!condition) throw new BitnetError(code, what, facts());
}

/** Lists in lists are shown so deep: strangers' JSON may be nested deeper than a stack is. */
const SHOWN_DEPTH = 3;

/** A short printable form of any value for the `got` part of a message. */
export function show(value: unknown, depth: number = SHOWN_DEPTH): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 77)}...` : value);
  if (typeof value === 'bigint') return `${value}`;
  if (value === null || typeof value !== 'object') return String(value);
  if (Array.isArray(value)) {
    if (depth === 0) return '(...)';
    const items = value.slice(0, 8).map((item) => show(item, depth - 1));
    return `(${items.join(', ')}${value.length > 8 ? ', ...' : ''})`;
  }
  return Object.prototype.toString.call(value);
}
