/**
 * `fetch` for whoever reads a file of the hub in place, by ranges: the token goes to the hub only, failures that may
 * pass are tried again, and a body that breaks off goes on with the rest of its range.
 * @module
 */

import { BitnetError } from '../errors.ts';
import { answered, askHub, type HubClient, networkFailure, readInTime, tryAgain, type Watch } from './http.ts';

/** A `fetch` that knows `Range: bytes=A-B`, headers and a signal, and answers with bodies that last. */
export function hubFetch(client: HubClient): typeof fetch {
  return async (input, init) => {
    const url = String(input);
    const headers = Object.fromEntries(new Headers(init?.headers));
    const signal = init?.signal ?? undefined;
    const ask = (more: Record<string, string>) =>
      askHub(client, url, { headers: { ...headers, ...more }, signal }).then(({ response }) => response);
    const response = await tryAgain(client, signal, () => ask({}));
    const asked = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '');
    if (response.status !== 206 || response.body === null || asked === null) return response;
    const range = { begin: Number(asked[1]), end: Number(asked[2]) + 1 };
    return new Response(lastingBody(client, url, response, range, ask, signal), {
      status: response.status,
      statusText: response.statusText,
      headers: response.headers,
    });
  };
}

/** The body of `first`; where it breaks off, another request brings the rest. */
function lastingBody(
  client: HubClient,
  url: string,
  first: Response,
  range: { readonly begin: number; readonly end: number },
  ask: (headers: Record<string, string>) => Promise<Response>,
  signal: AbortSignal | undefined,
): ReadableStream<Uint8Array> {
  const wantedRange = first.headers.get('content-range');
  const etag = first.headers.get('etag');
  const watch: Watch = { fail: undefined };
  const onAbort = (): void => watch.fail?.(signal!.reason);
  let at = range.begin;
  let current: Response | undefined = first;
  let reader = first.body!.getReader();

  /** The next piece, through as many connections as it takes. */
  const next = (): Promise<Uint8Array | undefined> =>
    tryAgain(client, signal, async () => {
      if (at >= range.end) return undefined;
      if (current === undefined) {
        current = await ask({ range: `bytes=${at}-${range.end - 1}` });
        const total = wantedRange?.replace(/^.*\//, '');
        const told = current.headers.get('content-range');
        const same =
          current.status === 206 &&
          told?.toLowerCase() === `bytes ${at}-${range.end - 1}/${total}` &&
          current.headers.get('etag') === etag;
        if (!same) {
          await current.body?.cancel().catch(() => {});
          throw new BitnetError('http', 'the file changed while it was read', { where: url });
        }
        reader = current.body!.getReader();
      }
      try {
        const piece = await readInTime(client.silenceMs, reader, answered(client, current), watch);
        if (piece.done) throw networkFailure(url, 'the body ended early');
        at += piece.value.length;
        return piece.value;
      } catch (error) {
        void reader.cancel().catch(() => {});
        current = undefined;
        throw signal?.aborted ? signal.reason : error;
      }
    });

  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      signal?.addEventListener('abort', onAbort);
      try {
        const piece = await next();
        if (piece === undefined) controller.close();
        else controller.enqueue(piece);
      } finally {
        signal?.removeEventListener('abort', onAbort);
      }
    },
    async cancel(reason) {
      await reader.cancel(reason).catch(() => {});
    },
  });
}
