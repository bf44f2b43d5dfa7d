/**
 * What published files leave out, known from what they contain.
 *
 * The official BitNet-b1.58-2B-4T file has the Llama 3 vocabulary but names no pre-tokenizer, and carries a chat
 * template that is only a mark for bitnet.cpp to find. bitnet.cpp then splits text in a way the model was not trained
 * with, and says so ("GENERATION QUALITY WILL BE DEGRADED"). We recognise the vocabulary and do what the training did.
 * @module
 */

import { fnv1a } from './byte-index.ts';
import { type ByteStrings, TokenType } from './spec.ts';

interface Fingerprint {
  readonly pre: string;
  readonly nTokens: number;
  readonly nMerges: number;
  /** Ids of the sample: 0, step, 2 * step ... below `end`. Special tokens at the end are renamed freely: leave out. */
  readonly step: number;
  readonly end: number;
  /** FNV-1a over the sampled tokens, each closed by a zero byte. */
  readonly hash: number;
}

const FINGERPRINTS: readonly Fingerprint[] = [
  // Llama 3, from which BitNet-b1.58-2B-4T has its tokenizer.
  { pre: 'llama-bpe', nTokens: 128256, nMerges: 280147, step: 509, end: 128000, hash: 633431634 },
];

/** The pre-tokenizer of a known vocabulary. Reads a few hundred tokens. */
export function recognisePreTokenizer(tokens: ByteStrings, nMerges: number): string | undefined {
  for (const known of FINGERPRINTS) {
    if (tokens.length !== known.nTokens || nMerges !== known.nMerges) continue;
    if (sampleHash(tokens, known.step, known.end) === known.hash) return known.pre;
  }
  return undefined;
}

/** The hash in a fingerprint. */
export function sampleHash(tokens: ByteStrings, step: number, end: number): number {
  const zero = new Uint8Array(1);
  let hash: number | undefined;
  for (let id = 0; id < end; id += step) {
    const token = 'kind' in tokens ? tokens.bytes(id) : tokens[id];
    hash = fnv1a(zero, 0, 1, fnv1a(token, 0, token.length, hash));
  }
  return (hash ?? 0) >>> 0;
}

/** Stands in the template that microsoft/BitNet's converter writes; nothing else has it. */
const MARKER = 'BITNETAssistant';

/** The template published with BitNet-b1.58-2B-4T on Hugging Face (tokenizer_config.json). */
export const BITNET_2B4T_TEMPLATE =
  "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = message['role'] | capitalize " +
  "+ ': '+ message['content'] | trim + '<|eot_id|>' %}{{ content }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

/** The real template behind one that is known to be only a mark. */
export function recogniseTemplate(source: string): string | undefined {
  return source.includes(MARKER) ? BITNET_2B4T_TEMPLATE : undefined;
}

/**
 * The texts of special tokens without the begin token that bitnet.cpp's converter put before each of them.
 *
 * Until mid 2026 it wrote an added token as decode(encode(text)), with a tokenizer that begins everything with its begin
 * token (convert-hf-to-gguf-bitnet.py, get_vocab_base). A Llama 3 vocabulary then has
 *
 *     128000 <|begin_of_text|><|begin_of_text|>      128009 <|begin_of_text|><|eot_id|>
 *
 * and no template contains its special tokens: they are read as plain text, and a turn ends only at what the keys name.
 * A begin token that is some text twice has no other explanation. Undefined if it is not.
 */
export function withoutBosPrefix(
  tokens: readonly Uint8Array[],
  types: Int32Array,
  bosId: number | undefined,
): Uint8Array[] | undefined {
  if (bosId === undefined || !isAdded(types[bosId])) return undefined;
  const doubled = tokens[bosId];
  const bos = doubled.subarray(doubled.length / 2);
  if (bos.length === 0 || bos.length * 2 !== doubled.length || !startsWith(doubled, bos)) return undefined;
  return tokens.map((token, id) =>
    isAdded(types[id]) && token.length > bos.length && startsWith(token, bos) ? token.subarray(bos.length) : token,
  );
}

function isAdded(type: number): boolean {
  return type === TokenType.CONTROL || type === TokenType.USER_DEFINED;
}

function startsWith(bytes: Uint8Array, start: Uint8Array): boolean {
  return start.every((byte, i) => bytes[i] === byte);
}
