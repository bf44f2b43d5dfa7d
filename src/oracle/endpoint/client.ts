/**
 * Asking an OpenAI-compatible server how a text goes on, and how likely it found each token.
 *
 * Servers are strangers: what they answer is limited in size and time, redirects are not followed (the key would travel with
 * them), and of a refusal only its first line is shown, without the key.
 * @module
 */

import { BitnetError, want } from '../../errors.ts';
import { type Completion, readCompletion } from './shapes.ts';

export interface Endpoint {
  /** `http://host:8080`, with or without `/v1` or `/v1/completions` behind it. */
  readonly url: string;
  /** Sent as a bearer token; never part of a message. */
  readonly apiKey?: string | undefined;
  /** For servers that have several. */
  readonly model?: string | undefined;
  /** Of one request, from sending to the last byte. Default two minutes. */
  readonly timeoutMs?: number | undefined;
  readonly fetch?: typeof fetch | undefined;
}

export interface Question {
  /** Text, of which the server makes tokens itself, or ids. */
  readonly prompt: string | readonly number[];
  readonly maxTokens: number;
  /** Likeliest tokens to tell of each position. OpenAI gives 5 at most, vLLM 20 unless told otherwise. */
  readonly top: number;
  /** The tokens of the prompt as well. */
  readonly echo?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Some 20 candidates for each of thousands of tokens. */
const MAX_BODY_BYTES = 16 << 20;
/** Of a refusal, whose first line is all that is shown. */
const MAX_REFUSAL_BYTES = 64 << 10;
const DEFAULT_TIMEOUT_MS = 120_000;

/** The address that is asked, and how it is called in messages: without a query, which may be a secret. */
export function endpointUrl(text: string): { readonly url: URL; readonly label: string } {
  const refuse = (expected: string): never => {
    // What was given is not repeated: it may have a password in it.
    throw new BitnetError('bad-argument', 'not an address of a server', { where: 'URL', expected });
  };
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return refuse('http://HOST[:PORT][/v1]');
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') refuse('http or https');
  if (url.username !== '' || url.password !== '') refuse('no user name or password in it; use --api-key');
  const path = url.pathname.replace(/\/+$/, '');
  if (!/\/completions?$/.test(path))
    url.pathname = path.endsWith('/v1') ? `${path}/completions` : `${path}/v1/completions`;
  url.hash = '';
  return { url, label: `${url.origin}${url.pathname}` };
}

/** The greedy continuation, with the likeliest tokens of each position. */
export async function complete(endpoint: Endpoint, question: Question): Promise<Completion> {
  const { url, label } = endpointUrl(endpoint.url);
  // What OpenAI's own API knows; then what llama.cpp and vLLM understand besides. OpenAI refuses what it does not know.
  const { prompt, maxTokens, top, echo = false } = question;
  const plain = {
    ...(endpoint.model === undefined ? {} : { model: endpoint.model }),
    prompt,
    max_tokens: maxTokens,
    temperature: 0,
    logprobs: top,
    ...(echo ? { echo } : {}),
  };
  const full = {
    ...plain,
    // llama-server
    n_predict: maxTokens,
    n_probs: top,
    cache_prompt: false,
    // vLLM: ids instead of texts, of which two tokens may have the same.
    return_tokens_as_token_ids: true,
  };
  const first = await post(endpoint, url, label, full, question.signal);
  const isChoosy = first.status === 400 || first.status === 422;
  const answer = isChoosy ? await post(endpoint, url, label, plain, question.signal) : first;
  if (answer.status < 200 || answer.status > 299) throw refusal(endpoint, label, answer);
  return readCompletion(parse(endpoint, answer.body, label), label);
}

/**
 * Position by position, led along `follow` whatever the server would choose: what it says after `prompt`, after `prompt` and the
 * first of `follow`, and so on.
 */
export async function* completeAlong(
  endpoint: Endpoint,
  prompt: readonly number[],
  follow: AsyncIterable<number> | Iterable<number>,
  { top, signal }: Pick<Question, 'top' | 'signal'>,
): AsyncGenerator<Completion> {
  const ids = prompt.slice();
  yield complete(endpoint, { prompt: ids, maxTokens: 1, top, signal });
  for await (const id of follow) {
    ids.push(id);
    yield complete(endpoint, { prompt: ids, maxTokens: 1, top, signal });
  }
}

interface Answer {
  readonly status: number;
  readonly body: string;
}

async function post(
  endpoint: Endpoint,
  url: URL,
  label: string,
  body: unknown,
  signal: AbortSignal | undefined,
): Promise<Answer> {
  const { apiKey, timeoutMs = DEFAULT_TIMEOUT_MS } = endpoint;
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), timeoutMs);
  try {
    const response = await (endpoint.fetch ?? fetch)(url.href, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/json',
        ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
      },
      body: JSON.stringify(body),
      redirect: 'manual',
      signal: signal === undefined ? limit.signal : AbortSignal.any([signal, limit.signal]),
    });
    const isGood = response.ok;
    // Browsers show a redirect as a status of 0.
    if (response.type === 'opaqueredirect' || (response.status >= 300 && response.status < 400)) {
      await response.body?.cancel().catch(() => {});
      throw new BitnetError('http', 'redirected, which is not followed', {
        where: label,
        got: `${response.status}`,
        hint: 'give the address that it redirects to',
      });
    }
    return {
      status: response.status,
      body: await bodyOf(response, label, isGood ? MAX_BODY_BYTES : MAX_REFUSAL_BYTES, isGood),
    };
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    if (limit.signal.aborted)
      throw new BitnetError('http', 'no whole answer', { where: label, expected: `one within ${timeoutMs / 1000} s` });
    if (error instanceof BitnetError) throw error;
    const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : '';
    throw new BitnetError('http', 'network failure', { where: label, got: tidy(endpoint, `${error}${cause}`) }, error);
  } finally {
    clearTimeout(timer);
  }
}

/** A body of at most so many bytes; of a refusal what lies beyond is let go, of an answer it is refused. */
async function bodyOf(response: Response, label: string, most: number, isGood: boolean): Promise<string> {
  const decoder = new TextDecoder();
  const reader = response.body?.getReader();
  let text = '';
  let length = 0;
  while (reader !== undefined) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > most) {
      await reader.cancel().catch(() => {});
      want(!isGood, 'limit-exceeded', 'the answer is too long', () => ({
        where: label,
        expected: `at most ${most} bytes`,
      }));
      break;
    }
    text += decoder.decode(value, { stream: true });
  }
  return text + decoder.decode();
}

function parse(endpoint: Endpoint, body: string, label: string): unknown {
  try {
    return JSON.parse(body);
  } catch (error) {
    // Python's JSON writes them, and nobody else reads them.
    const bare = /[[:,]\s*(-?(?:NaN|Infinity))\s*[,\]}]/.exec(body)?.[1];
    if (bare !== undefined)
      throw new BitnetError('not-finite', 'the answer has numbers that are none', { where: label, got: bare }, error);
    throw new BitnetError(
      'bad-container',
      'the answer is not JSON',
      { where: label, got: tidy(endpoint, firstLine(body)) },
      error,
    );
  }
}

function refusal(endpoint: Endpoint, where: string, { status, body }: Answer): BitnetError {
  let said = firstLine(body);
  try {
    const { error } = JSON.parse(body) as { error?: { message?: unknown } };
    if (typeof error?.message === 'string') said = firstLine(error.message);
  } catch {}
  const isAccess = status === 401 || status === 403;
  return new BitnetError('http', isAccess ? 'no access' : 'the server refuses', {
    where,
    got: `${status} ${tidy(endpoint, said)}`.trim(),
    hint: isAccess && endpoint.apiKey === undefined ? 'give a key by --api-key or OPENAI_API_KEY' : undefined,
  });
}

function firstLine(text: string): string {
  return text.trimStart().split(/[\r\n]/, 1)[0];
}

/** What a server said, fit for a terminal and without the key, should it have repeated it. */
function tidy({ apiKey }: Endpoint, text: string): string {
  return visible(apiKey === undefined || apiKey === '' ? text : text.replaceAll(apiKey, '***'));
}

function visible(text: string): string {
  return text.slice(0, 200).replace(/[^\x20-\x7e]/g, '?');
}
