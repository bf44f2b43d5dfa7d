/**
 * Which token ends a turn, read off the template: what it puts behind the words of the assistant is what the model was
 * trained to say when it is done. Files often name another end token, of the pre-training, and know nothing of this one.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import type { Tokenizer } from '../tokenizer.ts';
import { runTemplate } from './jinja.ts';

/** Words that no template adds of its own, without anything that trimming or changing case would touch. */
const ANSWER = 'qzxvjkw';

/**
 * The special token behind an answer, spaces and line breaks between them aside; undefined where the template puts none
 * there, or cannot render a question with its answer.
 */
export async function turnEnd(
  tokenizer: Tokenizer,
  template: string | undefined = tokenizer.spec.chatTemplate?.source,
): Promise<number | undefined> {
  if (template === undefined || template === '') return undefined;
  const { bosId, eosId } = tokenizer.spec;
  const text = (id: number | undefined) =>
    id === undefined ? '' : new TextDecoder().decode(tokenizer.tokenBytes(id, true));
  let rendered: string;
  try {
    rendered = await runTemplate(template, {
      messages: [
        { role: 'user', content: 'q' },
        { role: 'assistant', content: ANSWER },
      ],
      variables: { bos_token: text(bosId), eos_token: text(eosId), add_generation_prompt: false },
      now: new Date(0),
    });
  } catch (error) {
    if (error instanceof BitnetError) return undefined;
    throw error;
  }
  const at = rendered.lastIndexOf(ANSWER);
  if (at < 0) return undefined;
  const [first, second] = tokenizer.partition(rendered.slice(at + ANSWER.length), true);
  const end = typeof first === 'string' && first.trim() === '' ? second : first;
  return typeof end === 'number' ? end : undefined;
}
