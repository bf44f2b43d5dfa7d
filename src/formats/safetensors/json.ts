/**
 * JSON headers of hostile files: strict UTF-8, plain objects, no key twice.
 *
 * `JSON.parse` keeps the last of two equal keys without a word, so two readers of one file could see different tensors;
 * the text is walked once more to find them.
 * @module
 */

import { BitnetError, show, want } from '../../errors.ts';

export type JsonObject = { readonly [key: string]: unknown };

/** Parses one JSON object. */
export function parseJsonObject(bytes: Uint8Array, where: string): JsonObject {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (error) {
    throw new BitnetError('bad-container', 'bad JSON', { where, got: String(error) }, error);
  }
  want(isObject(value), 'bad-container', 'bad JSON', () => ({ where, expected: 'an object', got: show(value) }));
  const twice = findDuplicateKey(text);
  want(twice === undefined, 'bad-container', 'key occurs twice', () => ({ where, got: show(twice) }));
  return value;
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The first key that occurs twice in one object of valid JSON text. */
function findDuplicateKey(text: string): string | undefined {
  const open: Set<string>[] = [];
  const tokens = /[{}]|"(?:[^"\\]|\\.)*"(\s*:)?/gs;
  for (let match = tokens.exec(text); match !== null; match = tokens.exec(text)) {
    const token = match[0];
    if (token === '{') open.push(new Set());
    else if (token === '}') open.pop();
    else if (match[1] !== undefined) {
      // Compared as strings, not as written: "a" and "\u0061" are one key.
      const key: string = JSON.parse(token.slice(0, token.length - match[1].length));
      const keys = open[open.length - 1];
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}
