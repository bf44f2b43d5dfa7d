/**
 * A server that speaks as OpenAI, vLLM and two ages of llama-server do, from a model of ours, and can be wrong in every way that the
 * client must survive or name. Shares no code with the client.
 */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Model } from '../../src/index.ts';

export type Shape = 'openai' | 'vllm' | 'content' | 'llama-old' | 'llama-new' | 'text';

export interface Behaviour {
  readonly shape: Shape;
  readonly bos?: 'missing' | 'double';
  /** Takes the second likeliest token at this position. */
  readonly samplesAt?: number;
  /** Tells ln p after this temperature. */
  readonly temperature?: number;
  /** Softmax over the tokens told only, as llama-server does when greedy. */
  readonly renormalise?: boolean;
  /** Added to every logit at this position, or at all, times a sign that goes with the id. */
  readonly wrongAt?: { readonly position: number | 'all'; readonly by: number };
  /** Does not tell the second likeliest token of this position, but one more of the others. */
  readonly hidesAt?: number;
  readonly rename?: (text: string) => string;
  /** Leaves its prompt reading to somebody else. */
  readonly prompt?: (text: string) => number[];
  /** Refuses what OpenAI's API does not have. */
  readonly strict?: boolean;
  readonly requireKey?: string;
  readonly requireModel?: string;
  /** Changes the answer before it is sent. */
  readonly answer?: (document: unknown) => unknown;
  /** Answers by itself; nothing else counts then. */
  readonly raw?: (request: IncomingMessage, response: ServerResponse) => void;
}

export interface FakeServer {
  readonly url: string;
  /** Bodies of all requests. */
  readonly seen: Record<string, unknown>[];
  close(): Promise<void>;
}

interface Told {
  readonly id: number;
  readonly lnp: number;
}

interface Step {
  readonly chosen: Told;
  readonly top: readonly Told[];
}

export async function serve(model: Model, behaviour: Behaviour): Promise<FakeServer> {
  const seen: Record<string, unknown>[] = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    const body = JSON.parse(text) as Record<string, unknown>;
    seen.push(body);
    const send = (status: number, document: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(document));
    };
    try {
      if (behaviour.raw !== undefined) return behaviour.raw(request, response);
      const { authorization } = request.headers;
      if (behaviour.requireKey !== undefined && authorization !== `Bearer ${behaviour.requireKey}`)
        return send(401, { error: { message: `wrong key: ${authorization}\nsecond line` } });
      if (behaviour.requireModel !== undefined && body.model !== behaviour.requireModel)
        return send(404, { error: { message: `no model ${body.model}` } });
      if (behaviour.strict === true && 'n_probs' in body)
        return send(400, { error: { message: 'Unrecognized request argument supplied: n_probs' } });
      const document = await answerTo(model, behaviour, body);
      send(200, behaviour.answer === undefined ? document : behaviour.answer(document));
    } catch (error) {
      send(500, { error: { message: String(error) } });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answerTo(model: Model, behaviour: Behaviour, body: Record<string, unknown>): Promise<unknown> {
  const { shape } = behaviour;
  const top = Number(body.logprobs);
  const ids = readPrompt(model, behaviour, body.prompt as string | number[]);
  const session = model.createSession({ contextSize: 256 });
  const steps: Step[] = [];
  const echoed: Step[] = [];
  let row: Float32Array = new Float32Array(0);
  for (const [i, id] of ids.entries()) {
    if (body.echo === true)
      echoed.push(i === 0 ? { chosen: { id, lnp: Number.NaN }, top: [] } : stepOf(behaviour, row, top, -1, id));
    row = (await session.step(id)).slice();
  }
  for (let i = 0; i < Number(body.max_tokens); i++) {
    const step = stepOf(behaviour, row, top, i);
    steps.push(step);
    if (model.tokenizer.isEog(step.chosen.id)) break;
    row = (await session.step(step.chosen.id)).slice();
  }
  await session.dispose();
  const stream = model.tokenizer.stream();
  const text = steps.map(({ chosen }) => stream.push(chosen.id)).join('') + stream.flush();
  const textOf = ({ id }: Told): string => {
    if (shape === 'vllm' && body.return_tokens_as_token_ids === true) return `token_id:${id}`;
    const bytes = model.tokenizer.tokenBytes(id, true);
    const plain = new TextDecoder().decode(bytes);
    const isPart = plain.includes('\ufffd');
    const escaped = Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('');
    if (isPart && shape === 'openai') return `bytes:${escaped}`;
    if (isPart && shape === 'llama-old') return `byte: ${escaped}`;
    return behaviour.rename?.(plain) ?? plain;
  };
  const detailed = (told: Told) => ({
    ...(shape === 'llama-new' ? { id: told.id } : {}),
    token: textOf(told),
    bytes: [...model.tokenizer.tokenBytes(told.id, true)],
    logprob: told.lnp,
  });
  const content = steps.map(({ chosen, top }) => ({ ...detailed(chosen), top_logprobs: top.map(detailed) }));
  const usage = { prompt_tokens: ids.length, completion_tokens: steps.length };
  switch (shape) {
    case 'text':
      return { choices: [{ text, logprobs: null }], usage };
    case 'content':
      return { choices: [{ text, logprobs: { content } }], usage };
    case 'llama-new':
      return { content: text, tokens_evaluated: ids.length, completion_probabilities: content };
    case 'llama-old':
      return {
        content: text,
        tokens_evaluated: ids.length,
        completion_probabilities: steps.map(({ chosen, top }) => ({
          content: textOf(chosen),
          probs: top.map((told) => ({ tok_str: textOf(told), prob: Math.exp(told.lnp) })),
        })),
      };
    default: {
      const all = [...echoed, ...steps];
      const logprobs = {
        tokens: all.map(({ chosen }) => textOf(chosen)),
        token_logprobs: all.map(({ chosen }) => (Number.isNaN(chosen.lnp) ? null : chosen.lnp)),
        top_logprobs: all.map(({ top }) =>
          top.length === 0 ? null : Object.fromEntries(top.map((told) => [textOf(told), told.lnp])),
        ),
        text_offset: all.map(() => 0),
      };
      return { choices: [{ text, logprobs }], usage };
    }
  }
}

function readPrompt(model: Model, { bos, prompt }: Behaviour, given: string | number[]): number[] {
  const ids = typeof given === 'string' ? (prompt?.(given) ?? model.tokenizer.encodePrompt(given)) : given;
  if (typeof given !== 'string') return ids;
  return bos === 'missing' ? ids.slice(1) : bos === 'double' ? [ids[0], ...ids] : ids;
}

/** By Math.exp and a sort of everything: slow and plain. */
function stepOf(behaviour: Behaviour, row: Float32Array, top: number, position: number, forced?: number): Step {
  const { temperature = 1, wrongAt, samplesAt, hidesAt, renormalise } = behaviour;
  const logits = Array.from(row, (logit, id) => {
    const wrong =
      wrongAt?.position === position || wrongAt?.position === 'all' ? wrongAt.by * (id % 2 === 0 ? 1 : -1) : 0;
    return (logit + wrong) / temperature;
  });
  const order = logits.map((_, id) => id).sort((a, b) => logits[b] - logits[a] || a - b);
  const counted = renormalise === true ? order.slice(0, top) : order;
  const total = Math.log(counted.reduce((sum, id) => sum + Math.exp(logits[id]), 0));
  const shown = hidesAt === position ? order.filter((_, rank) => rank !== 1) : order;
  const told = shown.slice(0, top).map((id) => ({ id, lnp: logits[id] - total }));
  const id = forced ?? order[samplesAt === position ? 1 : 0];
  return { chosen: { id, lnp: logits[id] - total }, top: told };
}
