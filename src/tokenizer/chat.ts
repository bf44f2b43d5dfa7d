/**
 * Conversations: messages -> the text, or the tokens, a chat model was trained to continue.
 *
 * Only the model's own template (Jinja, in the file) decides how turns are marked. What users write stays what they
 * wrote: see chat/mask.ts. Two limits of that promise:
 * - a role is a name that templates paste into control tokens (`<|user|>`), so it is checked to be a plain word, and
 *   a server should accept only the roles it means;
 * - a template that cuts messages up and puts its own half of a control token right beside a cut is not seen through.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import { runTemplate } from './chat/jinja.ts';
import { maskTexts } from './chat/mask.ts';
import type { Fragment } from './special.ts';
import type { Tokenizer } from './tokenizer.ts';
import { Utf8Stream, wellFormed } from './utf8.ts';

export interface ChatMessage {
  /** `system`, `user`, `assistant`, or whatever else the template knows. */
  readonly role: string;
  readonly content: string;
}

export interface RenderChatOptions {
  /** Text of the begin-of-sequence token, for templates that print it. Default empty. */
  readonly bosToken?: string | undefined;
  /** Text of the end-of-sequence token. Default empty. */
  readonly eosToken?: string | undefined;
  /** End with the beginning of the assistant's turn. Default true. */
  readonly addGenerationPrompt?: boolean | undefined;
  /** More variables for the template (`tools`, `enable_thinking`, ...). Trusted: may contain control tokens. */
  readonly extra?: Readonly<Record<string, unknown>> | undefined;
  /** The date for templates that mention it. Default: now. */
  readonly now?: Date | undefined;
}

export type EncodeChatOptions = Omit<RenderChatOptions, 'bosToken' | 'eosToken'>;

/** Renders messages as text. To feed a model use `encodeChat`: in the text, forged control tokens look like real ones. */
export async function renderChat(
  template: string | undefined,
  messages: readonly ChatMessage[],
  options: RenderChatOptions = {},
): Promise<string> {
  if (template === undefined || template === '') {
    throw new BitnetError('no-template', 'the model has no chat template', {
      hint: 'pass one, or prompt with plain text',
    });
  }
  checkMessages(messages);
  const { bosToken = '', eosToken = '', addGenerationPrompt = true, extra = {}, now = new Date() } = options;
  return runTemplate(template, {
    messages,
    variables: { ...extra, bos_token: bosToken, eos_token: eosToken, add_generation_prompt: addGenerationPrompt },
    now,
  });
}

/**
 * Renders messages and encodes them. Control tokens come from the template only; otherwise the ids are those of the
 * rendered text. The begin-of-sequence token is added if the model wants it and the template did not print it.
 * `template` undefined means the model's own.
 */
export async function encodeChat(
  tokenizer: Tokenizer,
  template: string | undefined,
  messages: readonly ChatMessage[],
  options: EncodeChatOptions = {},
): Promise<number[]> {
  const { spec, special } = tokenizer;
  const source = template ?? spec.chatTemplate?.source;
  checkMessages(messages);
  const bosToken = tokenText(tokenizer, spec.bosId);
  const eosToken = tokenText(tokenizer, spec.eosId);
  // One clock for both renderings.
  const rendering: RenderChatOptions = { ...options, bosToken, eosToken, now: options.now ?? new Date() };
  const render = (contents: readonly string[]) =>
    renderChat(
      source,
      messages.map(({ role }, i) => ({ role, content: contents[i] })),
      rendering,
    );

  const contents = messages.map((message) => wellFormed(message.content));
  const plain = wellFormed(await render(contents));
  // Masks must be foreign to everything else in the rendering, and what else is in it shows in the plain one.
  const masked = maskTexts(contents, special, [plain, source ?? '']);
  const text = masked.anyMasked ? wellFormed(await render(masked.texts)) : plain;
  if (masked.unmask(text) !== plain) {
    // The template looked at a masked character. Encoding the plain rendering would turn the user's words into
    // control tokens, so this is the end.
    throw new BitnetError('bad-template', 'control tokens in a message cannot be told from those of the template', {
      where: 'chat template',
      expected: 'message text to be passed on unchanged',
      got: 'a rendering that depends on single characters of it',
      hint: 'remove control tokens such as <|eot_id|> from the messages',
    });
  }

  const fragments: Fragment[] = [];
  for (const fragment of tokenizer.partition(text, true)) {
    const restored = typeof fragment === 'string' ? masked.unmask(fragment) : fragment;
    if (typeof restored === 'number' || restored === fragment) fragments.push(restored);
    else fragments.push(...tokenizer.partition(restored, false));
  }
  const ids: number[] = [];
  if (spec.addBos && spec.bosId !== undefined && fragments[0] !== spec.bosId) ids.push(spec.bosId);
  tokenizer.encodeFragments(fragments, ids);
  return ids;
}

function checkMessages(messages: readonly ChatMessage[]): void {
  for (const [i, message] of messages.entries()) {
    want(typeof message?.content === 'string', 'bad-argument', 'content is not text', () => ({
      where: `messages[${i}].content`,
      expected: 'a string',
      got: show(message?.content),
    }));
    want(
      typeof message.role === 'string' && /^[A-Za-z][\w.-]{0,63}$/.test(message.role),
      'bad-argument',
      'not a role',
      () => ({
        where: `messages[${i}].role`,
        expected: 'a word such as system, user or assistant',
        got: show(message.role),
      }),
    );
  }
}

function tokenText(tokenizer: Tokenizer, id: number | undefined): string {
  if (id === undefined) return '';
  const utf8 = new Utf8Stream();
  return utf8.push(tokenizer.tokenBytes(id, true)) + utf8.flush();
}
