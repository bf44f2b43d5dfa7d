/**
 * Text to token ids and back, and chat templates.
 * @module
 */

export { turnEnd } from './chat/turns.ts';
export { type ChatMessage, type EncodeChatOptions, encodeChat, type RenderChatOptions, renderChat } from './chat.ts';
export { type EndTokens, findEndTokens } from './end-tokens.ts';
export { type FromMetadataOptions, type MetadataGetter, tokenizerSpecFromMetadata } from './from-metadata.ts';
export { preTokenizers } from './pretokenize.ts';
export { BITNET_2B4T_TEMPLATE } from './recognise.ts';
export {
  type ByteStrings,
  type PreTokenizerChoice,
  type TokenBytes,
  type TokenizerSpec,
  TokenType,
} from './spec.ts';
export {
  createTokenizer,
  type DecodeOptions,
  type EncodeOptions,
  Tokenizer,
  type TokenStream,
} from './tokenizer.ts';
export { Utf8Stream } from './utf8.ts';
