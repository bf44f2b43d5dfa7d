/**
 * Typed access to GGUF metadata: every mismatch says which key of which file, what was expected and what stands there.
 * @module
 */

import { BitnetError, show } from '../../errors.ts';
import type { GgufArrays, GgufElementType, GgufValue, StringArray } from './types.ts';

/** The getters of `GgufFile`, over a plain map. */
export class MetadataReader {
  readonly #label: string;
  readonly #values: ReadonlyMap<string, GgufValue>;

  constructor(label: string, values: ReadonlyMap<string, GgufValue>) {
    this.#label = label;
    this.#values = values;
  }

  string(key: string): string | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    if (value.type !== 'string') throw this.#wrong(key, 'a string', describeValue(value));
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(value.bytes);
    } catch {
      throw this.#wrong(key, 'UTF-8', `bytes that are not: ${show(value.text)}`);
    }
  }

  uint(key: string): number | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    const number = scalarNumber(value);
    // An f32 that happens to be whole is still no integer type: files that do this mean something else.
    const isInteger = number !== undefined && value.type !== 'f32' && value.type !== 'f64';
    if (!isInteger || !Number.isSafeInteger(number) || number < 0) {
      throw this.#wrong(key, 'an integer of 0 to 2^53-1', describeValue(value));
    }
    return number;
  }

  float(key: string): number | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    const number = scalarNumber(value);
    if (number === undefined || !Number.isFinite(number)) {
      throw this.#wrong(key, 'a finite number', describeValue(value));
    }
    return number;
  }

  bool(key: string): boolean | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    if (value.type !== 'bool') throw this.#wrong(key, 'a bool', describeValue(value));
    return value.value;
  }

  strings(key: string): StringArray | undefined {
    return this.array(key, 'string');
  }

  array<T extends GgufElementType>(key: string, of: T): GgufArrays[T] | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    if (value.type !== 'array' || value.of !== of) throw this.#wrong(key, `an array of ${of}`, describeValue(value));
    return value.values as GgufArrays[T];
  }

  /** For the `get*` half: turns undefined into the error about a missing key. */
  required<T>(key: string, expected: string, found: T | undefined): T {
    if (found === undefined) throw this.#wrong(key, expected, 'no such key');
    return found;
  }

  #wrong(key: string, expected: string, got: string): BitnetError {
    return new BitnetError('bad-metadata', 'bad metadata', { where: `${this.#label}: ${key}`, expected, got });
  }
}

function scalarNumber(value: GgufValue): number | undefined {
  switch (value.type) {
    case 'string':
    case 'bool':
    case 'array':
      return undefined;
    case 'u64':
    case 'i64':
      return Number(value.value);
    default:
      return value.value;
  }
}

/** One line about a value: `u32 5`, `string "llama"`, `array of 3 i32`. */
export function describeValue(value: GgufValue): string {
  switch (value.type) {
    case 'array':
      return `array of ${value.values.length} ${value.of}`;
    case 'string':
      // Long enough for show() to shorten, short enough never to decode megabytes for a message.
      return `string ${show(new TextDecoder().decode(value.bytes.subarray(0, 400)))}`;
    default:
      return `${value.type} ${show(value.value)}`;
  }
}
