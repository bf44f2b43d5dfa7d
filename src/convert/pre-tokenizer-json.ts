/**
 * The name of a pre-tokenizer from the `pre_tokenizer` of tokenizer.json.
 *
 * GGUF files carry a name where tokenizer.json has a list of steps; llama.cpp looks the name up by hashing the ids of a
 * test text. Here the steps are written as short words, and the words are looked up.
 *
 *     {"type": "Split", "pattern": {"Regex": R}, ...}   R                  (isolated, not inverted)
 *     {"type": "ByteLevel", "use_regex": true}          GPT2's expression  (without use_regex: nothing)
 *     {"type": "Digits", "individual_digits": true}     `digit`, else `digits`
 *     {"type": "Punctuation", ...}                      `punctuation`
 * @module
 */

import { BitnetError, show } from '../errors.ts';
import { isObject } from '../formats/safetensors/json.ts';

const WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|";
/** llama.cpp spells the same without the flag group, which C++ lacks. */
const WORDS_SPELLED = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|";
const REST = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const LLAMA3 = `[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|${REST}`;
const QWEN2 = `[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|${REST}`;
const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Steps, joined by line breaks, and their name. */
const known: ReadonlyMap<string, string> = new Map(
  [
    [[WORDS + LLAMA3], 'llama-bpe'],
    [[WORDS_SPELLED + LLAMA3], 'llama-bpe'],
    [[WORDS + QWEN2], 'qwen2'],
    [[WORDS_SPELLED + QWEN2], 'qwen2'],
    [[GPT2], 'gpt-2'],
    [['digit', GPT2], 'smollm'],
    [['punctuation', GPT2, 'digits', '[0-9][0-9][0-9]'], 'falcon'],
    [['punctuation', GPT2, '[0-9][0-9][0-9]'], 'falcon'],
    [['punctuation', GPT2, 'digit'], 'falcon3'],
    [['punctuation', GPT2, '[0-9]'], 'falcon3'],
    [['punctuation', GPT2, 'digits', '[0-9]'], 'falcon3'],
  ].map(([steps, name]) => [(steps as string[]).join('\n'), name as string]),
);

/**
 * The name for `tokenizer.ggml.pre`. `ignoreMerges` is the flag of the model: a Llama 3 expression with the flag off is
 * what llama.cpp calls smaug-bpe.
 */
export function preTokenizerName(preTokenizer: unknown, ignoreMerges: boolean | undefined): string {
  const steps = stepsOf(preTokenizer);
  const name = known.get(steps.join('\n'));
  if (name !== undefined) return name === 'llama-bpe' && ignoreMerges === false ? 'smaug-bpe' : name;
  throw new BitnetError('unsupported-tokenizer', 'pre-tokenizer not recognised', {
    where: 'tokenizer.json: pre_tokenizer',
    got: steps.length === 0 ? 'none' : steps.map(show).join(', '),
    hint: 'name it with --pre NAME',
  });
}

/** Whether bytes are turned into printable characters anywhere, which is what makes a vocabulary byte-level. */
export function isByteLevel(preTokenizer: unknown): boolean {
  return flat(preTokenizer).some(({ type }) => type === 'ByteLevel');
}

type Step = { readonly type?: unknown; readonly [key: string]: unknown };

/** A sequence's steps, sequences within it opened. */
function flat(step: unknown): Step[] {
  if (!isObject(step)) return [];
  if (step.type !== 'Sequence') return [step];
  return Array.isArray(step.pretokenizers) ? step.pretokenizers.flatMap(flat) : [];
}

function stepsOf(preTokenizer: unknown): string[] {
  return flat(preTokenizer).flatMap((step) => {
    switch (step.type) {
      case 'ByteLevel':
        return step.use_regex === false ? [] : [GPT2];
      case 'Digits':
        return [step.individual_digits === true ? 'digit' : 'digits'];
      case 'Punctuation':
        return ['punctuation'];
      case 'Split': {
        const { pattern, behavior, invert } = step;
        const regex = isObject(pattern) ? pattern.Regex : undefined;
        const plain = typeof regex === 'string' && behavior === 'Isolated' && invert !== true;
        return [plain ? regex : `Split ${JSON.stringify(step)}`];
      }
      default:
        return [String(step.type)];
    }
  });
}
