/**
 * Lists of numbers as llama-bench reads them: `64,512`, ranges `1-4`, `128-512+128`, `64-1024*2`.
 * @module
 */

import { UsageError } from './flags.ts';

/** More than anybody means to wait for. */
const MAX_VALUES = 1000;

/** The numbers of a list, in the order written. `flag` is what the user typed, for messages. */
export function numberList(flag: string, text: string, min: number): number[] {
  const values = text.split(',').flatMap((part) => range(flag, text, part.trim()));
  const tooSmall = values.find((value) => value < min);
  if (tooSmall !== undefined) throw new UsageError(`${flag} takes numbers of at least ${min}, got ${tooSmall}`);
  if (values.length > MAX_VALUES) throw new UsageError(`${flag} takes at most ${MAX_VALUES} numbers`);
  return values;
}

function range(flag: string, text: string, part: string): number[] {
  const match = /^(\d{1,9})(?:-(\d{1,9})(?:([+*])(\d{1,9}))?)?$/.exec(part);
  if (match === null) {
    throw new UsageError(`${flag} takes numbers and ranges, e.g. 64,512 or 128-512+128; got ${JSON.stringify(text)}`);
  }
  const first = Number(match[1]);
  if (match[2] === undefined) return [first];
  const last = Number(match[2]);
  const step = Number(match[4] ?? 1);
  const multiplies = match[3] === '*';
  if (last < first) throw new UsageError(`${flag}: the range ${part} is empty`);
  if (multiplies ? step < 2 || first === 0 : step < 1) throw new UsageError(`${flag}: the range ${part} never ends`);
  const values: number[] = [];
  for (let value = first; value <= last; value = multiplies ? value * step : value + step) {
    values.push(value);
    if (values.length > MAX_VALUES) break;
  }
  return values;
}

/** `512,128`: a prompt and the tokens generated after it. */
export function promptAndGeneration(flag: string, text: string): { nPrompt: number; nGenerate: number } {
  const match = /^(\d{1,9}),(\d{1,9})$/.exec(text);
  const [nPrompt, nGenerate] = match === null ? [0, 0] : [Number(match[1]), Number(match[2])];
  if (nPrompt + nGenerate === 0) {
    throw new UsageError(`${flag} takes PROMPT,GENERATED, e.g. 512,128; got ${JSON.stringify(text)}`);
  }
  return { nPrompt, nGenerate };
}

/** Words of a list, each one of `known`. */
export function wordList<T extends string>(flag: string, text: string, known: readonly T[]): T[] {
  return text.split(',').map((part) => {
    const word = known.find((one) => one === part.trim());
    if (word !== undefined) return word;
    throw new UsageError(`${flag} takes ${known.join(', ')}; got ${JSON.stringify(part)}`);
  });
}
