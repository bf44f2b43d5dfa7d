/**
 * Requests to the hub: redirects, the token, time limits, and trying again.
 *
 * The hub answers a request for a large file with a redirect to another host. Redirects are followed here and not by
 * `fetch`, for two reasons: the hash and the length of the file stand in the headers of the redirecting answer, and
 * the token must not travel on. (`fetch` is meant to drop it when the origin changes; not every version of every
 * runtime has done so, e.g. CVE-2025-21620.)
 * @module
 */

import { BitnetError, type ErrorFacts } from '../errors.ts';

export interface HubClient {
  /** Without a slash at the end. */
  readonly endpoint: string;
  readonly token: string | undefined;
  /** So long a server may say nothing. */
  readonly silenceMs: number;
  /** First pause before trying again; doubles each time. */
  readonly backoffMs: number;
  /** Failures in a row that are one too many. */
  readonly maxTries: number;
  readonly fetch?: typeof fetch;
  /** Told before a pause. */
  readonly onRetry?: (failure: BitnetError, waitMs: number) => void;
}

export const ENDPOINT = 'https://huggingface.co';
export const clientDefaults = { endpoint: ENDPOINT, token: undefined, silenceMs: 30_000, backoffMs: 500, maxTries: 6 };

/** As many as fetch itself follows. */
const MAX_REDIRECTS = 20;
/** A server may ask to be left alone for so long; whoever asks for more is not waited for. */
const MAX_RETRY_AFTER_MS = 120_000;
const MAX_BACKOFF_MS = 15_000;

/** A failure that may pass by itself. */
export class TransientError extends BitnetError {
  readonly retryAfterMs: number | undefined;

  constructor(what: string, facts: ErrorFacts, retryAfterMs?: number, cause?: unknown) {
    super('http', what, facts, cause);
    this.retryAfterMs = retryAfterMs;
  }
}

export interface HubAnswer {
  /** The last answer: its body is the file. */
  readonly response: Response;
  /** A header of the last answer that the hub's own host gave, or of an earlier one. */
  readonly hubHeader: (name: string) => string | null;
}

export interface HubRequest {
  readonly method?: 'GET' | 'HEAD';
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** Stop at the redirect that leaves the hub: its headers are all that is wanted. */
  readonly stayOnHub?: boolean;
}

/** One request, with its redirects. Statuses other than 2xx (or a redirect where it stops) are errors. */
export async function askHub(client: HubClient, url: string, request: HubRequest = {}): Promise<HubAnswer> {
  const home = new URL(client.endpoint);
  const seen: Headers[] = [];
  const hubHeader = (name: string): string | null => {
    for (const headers of seen) {
      const value = headers.get(name);
      if (value !== null) return value;
    }
    return null;
  };
  let at = new URL(url);
  for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
    const atHome = at.origin === home.origin;
    const response = await oneHop(client, at, atHome, request);
    if (atHome) seen.unshift(response.headers);
    const location = response.headers.get('location');
    if (response.status < 300 || response.status >= 400 || location === null) {
      if (response.ok) return { response, hubHeader };
      await response.body?.cancel().catch(() => {});
      throw refusal(client, url, response, hubHeader);
    }
    await response.body?.cancel().catch(() => {});
    const next = redirectTarget(location, at, url);
    if (request.stayOnHub === true && next.origin !== home.origin) return { response, hubHeader };
    at = next;
  }
  throw new BitnetError('http', 'too many redirects', {
    where: url,
    expected: `at most ${MAX_REDIRECTS}`,
    got: shortUrl(at),
  });
}

function redirectTarget(location: string, from: URL, url: string): URL {
  let next: URL | undefined;
  try {
    next = new URL(location, from);
  } catch {}
  const fits =
    next !== undefined && (next.protocol === 'https:' || (next.protocol === 'http:' && from.protocol === 'http:'));
  if (fits) return next!;
  throw new BitnetError('http', 'redirected to where we do not follow', {
    where: url,
    expected: from.protocol === 'http:' ? 'an http(s) URL' : 'an https URL',
    got: visible(next === undefined ? location : shortUrl(next)),
  });
}

async function oneHop(client: HubClient, at: URL, atHome: boolean, request: HubRequest): Promise<Response> {
  const { method = 'GET', headers = {}, signal } = request;
  const { token, silenceMs } = client;
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), silenceMs);
  try {
    return await (client.fetch ?? fetch)(at.href, {
      method,
      headers: {
        ...headers,
        // Compressed transfer would make lengths and ranges count compressed bytes.
        'accept-encoding': 'identity',
        ...(token !== undefined && atHome ? { authorization: `Bearer ${token}` } : {}),
      },
      redirect: 'manual',
      // The time limit ends with the headers, the caller's signal holds for the body, too.
      signal: signal === undefined ? limit.signal : AbortSignal.any([signal, limit.signal]),
    });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    if (limit.signal.aborted) throw silence(shortUrl(at), silenceMs);
    throw networkFailure(shortUrl(at), error);
  } finally {
    clearTimeout(timer);
  }
}

function silence(where: string, silenceMs: number): TransientError {
  return new TransientError('no answer', { where, expected: `something within ${silenceMs / 1000} s` });
}

/** fetch says only that it failed; the reason (ENOTFOUND, ECONNREFUSED) is in its cause. */
export function networkFailure(where: string, error: unknown): TransientError {
  const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : '';
  return new TransientError('network failure', { where, got: `${error}${cause}` }, undefined, error);
}

/** Without the query: download links carry their access in it. */
function shortUrl(url: URL): string {
  return `${url.origin}${url.pathname}${url.search === '' ? '' : '?...'}`;
}

/** Where an answer came from, for messages. */
export function answered(client: HubClient, response: Response): string {
  return shortUrl(new URL(response.url === '' ? client.endpoint : response.url));
}

/** What a server said, fit for a terminal: a header may hold what would command it. */
export function visible(text: string): string {
  return text.slice(0, 200).replace(/[^\x20-\x7e]/g, '?');
}

/** What a status means, in words that help. */
function refusal(
  client: HubClient,
  where: string,
  response: Response,
  hubHeader: (name: string) => string | null,
): BitnetError {
  const { status } = response;
  const got = `${status} ${visible(hubHeader('x-error-message') ?? response.statusText)}`.trim();
  if (status === 429 || status === 408 || status >= 500) {
    return new TransientError('the server is busy', { where, got }, retryAfterMs(response));
  }
  const code = hubHeader('x-error-code');
  if (status === 401 || status === 403) {
    const gated = code === 'GatedRepo' || status === 403;
    return new BitnetError('http', gated ? 'access is restricted' : 'no access, or no such repository', {
      where,
      got,
      hint:
        client.token === undefined
          ? 'set HF_TOKEN to a token of an account that may read it'
          : 'accept the conditions on its page, with the account that HF_TOKEN belongs to',
    });
  }
  const missing: Readonly<Record<string, string>> = {
    RepoNotFound: 'no such repository',
    RevisionNotFound: 'no such revision',
    EntryNotFound: 'no such file',
  };
  return new BitnetError('http', (status === 404 && missing[code ?? '']) || 'request failed', { where, got });
}

/** Seconds or a date. */
function retryAfterMs(response: Response): number | undefined {
  const text = response.headers.get('retry-after');
  if (text === null) return undefined;
  const ms = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

/**
 * Does `attempt` until it succeeds, fails for good, or has failed too often in a row. `attempt` calls `progress` when
 * it got so far that failing again would be a new failure.
 */
export async function tryAgain<T>(
  client: HubClient,
  signal: AbortSignal | undefined,
  attempt: (progress: () => void) => Promise<T>,
): Promise<T> {
  let failures = 0;
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await attempt(() => {
        failures = 0;
      });
    } catch (error) {
      if (!(error instanceof TransientError)) throw error;
      failures++;
      const asked = error.retryAfterMs ?? 0;
      if (failures >= client.maxTries || asked > MAX_RETRY_AFTER_MS) throw error;
      const waitMs = Math.max(asked, Math.min(client.backoffMs * 2 ** (failures - 1), MAX_BACKOFF_MS));
      client.onRetry?.(error, waitMs);
      await pause(waitMs, signal);
    }
  }
}

/** Waits; rejects with the signal's reason. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop, { once: true });
  });
}

/**
 * Feeds a body to `take` as it comes. A body that stays silent for too long or breaks off is a transient failure; one
 * that merely ends early looks complete on some runtimes, so whoever knows the length must count.
 */
export async function eachChunk(
  client: HubClient,
  response: Response,
  signal: AbortSignal | undefined,
  take: (chunk: Uint8Array) => Promise<void> | void,
): Promise<void> {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  const where = answered(client, response);
  const watch: Watch = { fail: undefined };
  const onAbort = (): void => watch.fail?.(signal!.reason);
  signal?.addEventListener('abort', onAbort);
  try {
    for (;;) {
      signal?.throwIfAborted();
      const { done, value } = await readInTime(client.silenceMs, reader, where, watch);
      if (done) return;
      await take(value);
    }
  } catch (error) {
    // Not awaited: a runtime may wait for the silent server here.
    void reader.cancel().catch(() => {});
    // Whichever came first, the abort or the broken body it causes.
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

/** Ends the read that is waiting. */
export interface Watch {
  fail: ((reason: unknown) => void) | undefined;
}

type Piece = { readonly done: boolean; readonly value?: Uint8Array | undefined };

/** One listener and one timer a read: `AbortSignal.any` for each of a million chunks would be kept by the signal. */
export function readInTime(
  silenceMs: number,
  reader: { read(): Promise<Piece> },
  where: string,
  watch: Watch,
): Promise<{ readonly done: true; readonly value?: undefined } | { readonly done: false; readonly value: Uint8Array }> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(silence(where, silenceMs)), silenceMs);
    watch.fail = (reason) => {
      clearTimeout(timer);
      reject(reason);
    };
    reader.read().then(
      ({ done, value }) => {
        clearTimeout(timer);
        if (done || value === undefined) resolve({ done: true });
        else resolve({ done: false, value });
      },
      (error) => {
        clearTimeout(timer);
        reject(networkFailure(where, error));
      },
    );
  });
}
