/**
 * Which tokens end a generation.
 *
 * Files name one end-of-sequence token, but chat models end a turn with another that the file may not mention. Like
 * llama.cpp we know them by their texts. Such a token is a control token whatever type the file gives it.
 * @module
 */

import { type ByteStrings, type TokenizerSpec, TokenType } from './spec.ts';

/** Ends a turn; the first that exists is "the" end of turn. llama.cpp takes any, depending on its hash order. */
const END_OF_TURN = [
  '<|eot_id|>',
  '<|im_end|>',
  '<|end|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '<EOT>',
  '<｜end▁of▁sentence｜>',
] as const;
/** Ends a message that calls a tool. */
const END_OF_MESSAGE = '<|eom_id|>';
/** Padding, repository and file marks of infilling models: nothing sensible follows them. */
const INFILL_ENDS = [
  '<|fim_pad|>',
  '<fim-pad>',
  '<PAD>',
  '<|fim_repo|>',
  '<|repo_name|>',
  '<fim-repo>',
  '<REPO>',
  '<|file_sep|>',
] as const;

export interface EndTokens {
  readonly eotId: number | undefined;
  readonly eomId: number | undefined;
  /** Every token that ends a generation, in ascending order. */
  readonly eogIds: readonly number[];
  /** The types of the vocabulary, with the ones above corrected to CONTROL. */
  readonly types: Int32Array;
}

type KnownIds = Pick<TokenizerSpec, 'eosId' | 'eotId' | 'eomId'>;

export function findEndTokens(tokens: ByteStrings, types: Int32Array, known: KnownIds): EndTokens {
  const byText = idsByText(tokens, [...END_OF_TURN, END_OF_MESSAGE, ...INFILL_ENDS]);
  const ends = new Set<number>();
  for (const ids of byText.values()) for (const id of ids) ends.add(id);
  const corrected = types.slice();
  for (const id of ends) corrected[id] = TokenType.CONTROL;
  const eotText = END_OF_TURN.find((text) => byText.has(text));
  const eotId = known.eotId ?? (eotText === undefined ? undefined : byText.get(eotText)?.[0]);
  const eomId = known.eomId ?? byText.get(END_OF_MESSAGE)?.[0];
  for (const id of [known.eosId, eotId, eomId]) if (id !== undefined) ends.add(id);
  return { eotId, eomId, eogIds: [...ends].sort((a, b) => a - b), types: corrected };
}

/** Ids of the tokens with one of these texts; several tokens can share a text. */
function idsByText(tokens: ByteStrings, texts: readonly string[]): Map<string, number[]> {
  const utf8 = new TextEncoder();
  // Keyed by length first: 128 thousand tokens are not worth a string each.
  const byLength = new Map<number, { readonly text: string; readonly bytes: Uint8Array }[]>();
  for (const text of texts) {
    const bytes = utf8.encode(text);
    byLength.set(bytes.length, [...(byLength.get(bytes.length) ?? []), { text, bytes }]);
  }
  const found = new Map<string, number[]>();
  for (let id = 0; id < tokens.length; id++) {
    const token = 'kind' in tokens ? tokens.bytes(id) : tokens[id];
    if (token[0] !== 0x3c) continue; // all of them begin with "<"
    for (const { text, bytes } of byLength.get(token.length) ?? []) {
      if (bytes.every((byte, i) => byte === token[i])) found.set(text, [...(found.get(text) ?? []), id]);
    }
  }
  return found;
}
