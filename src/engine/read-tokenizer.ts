/**
 * The bridge between a container and the tokenizer, which knows nothing of each other.
 * @module
 */

import type { GgufFile, GgufValue } from '../formats/gguf/types.ts';
import { type TokenizerSpec, tokenizerSpecFromMetadata } from '../tokenizer/index.ts';

/** A GGUF value as plain data: what `tokenizerSpecFromMetadata` asks for. */
function plain(value: GgufValue | undefined): unknown {
  if (value === undefined) return undefined;
  if (value.type === 'string') return value.text;
  if (value.type === 'array') return value.values;
  return value.value;
}

/** Reads the tokenizer of a GGUF file. `pre` forces a pre-tokenizer by name. */
export function readTokenizerSpec(gguf: GgufFile, pre?: string): TokenizerSpec {
  const architecture = gguf.findString('general.architecture');
  return tokenizerSpecFromMetadata((key) => plain(gguf.metadata.get(key)), {
    ...(pre === undefined ? {} : { pre }),
    ...(architecture === undefined ? {} : { architecture }),
  });
}
