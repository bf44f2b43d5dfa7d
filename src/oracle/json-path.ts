/**
 * Reading JSON from strangers: every value is asked for by type and range, and a refusal names its JSON path.
 * @module
 */

import { BitnetError, type ErrorCode, show } from '../errors.ts';

/** A value and where it stands. */
export class JsonAt {
  readonly value: unknown;
  /** The file or URL. */
  readonly label: string;
  /** `$.output.tokens[3]`. */
  readonly path: string;

  constructor(value: unknown, label: string, path = '$') {
    this.value = value;
    this.label = label;
    this.path = path;
  }

  /** A property of an object; that it is missing is found out when it is read. */
  at(key: string): JsonAt {
    const own = this.#object();
    return new JsonAt(Object.hasOwn(own, key) ? own[key] : undefined, this.label, `${this.path}.${key}`);
  }

  has(key: string): boolean {
    return Object.hasOwn(this.#object(), key);
  }

  keys(): string[] {
    return Object.keys(this.#object());
  }

  get isNull(): boolean {
    return this.value === null;
  }

  /** Items of a list of at most `most`. */
  list(most: number): JsonAt[] {
    const { value } = this;
    if (!Array.isArray(value)) return this.refuse('a list');
    if (value.length > most) this.refuse(`at most ${most} items`, `${value.length}`, 'limit-exceeded');
    return value.map((item, i) => new JsonAt(item, this.label, `${this.path}[${i}]`));
  }

  text(most: number): string {
    const { value } = this;
    if (typeof value !== 'string') return this.refuse('text');
    if (value.length > most) this.refuse(`at most ${most} characters`, `${value.length}`, 'limit-exceeded');
    return value;
  }

  matching(pattern: RegExp, expected: string): string {
    const { value } = this;
    return typeof value === 'string' && pattern.test(value) ? value : this.refuse(expected);
  }

  oneOf<const T extends string>(choices: readonly T[]): T {
    const found = choices.find((choice) => choice === this.value);
    return found ?? this.refuse(choices.map((choice) => JSON.stringify(choice)).join(' or '));
  }

  boolean(): boolean {
    return typeof this.value === 'boolean' ? this.value : this.refuse('true or false');
  }

  number(): number {
    return typeof this.value === 'number' && Number.isFinite(this.value) ? this.value : this.refuse('a number');
  }

  integer(min: number, max: number): number {
    const { value } = this;
    const fits = typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max;
    return fits ? value : this.refuse(`an integer from ${min} to ${max}`);
  }

  refuse(expected: string, got: string = this.#shown(), code: ErrorCode = 'bad-metadata'): never {
    throw new BitnetError(code, 'not as it must be', { where: `${this.label}: ${this.path}`, expected, got });
  }

  #object(): Readonly<Record<string, unknown>> {
    const { value } = this;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return this.refuse('an object');
    return value as Readonly<Record<string, unknown>>;
  }

  #shown(): string {
    return this.value === undefined ? 'nothing' : show(this.value);
  }
}
