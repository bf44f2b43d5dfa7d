/**
 * The talking itself: user lines in, answers out, commands that begin with a slash.
 * @module
 */

import { readFile, writeFile } from 'node:fs/promises';
import type { ChatOptions, GenerateResult, Model, SessionOptions } from '../engine/types.ts';
import { BitnetError, show } from '../errors.ts';
import { ioError } from '../platform/source-node.ts';
import type { ChatMessage } from '../tokenizer/index.ts';
import type { Io } from './io.ts';
import { type Lines, openLines } from './lines.ts';
import { statistics, summary } from './report.ts';

export interface Conversation {
  readonly system: string | undefined;
  /** Replaces the model's own template. */
  readonly template: string | undefined;
  readonly session: SessionOptions;
  readonly options: ChatOptions;
  readonly quiet: boolean;
  readonly stats: boolean;
}

const HELP = `/help            this list
/clear           forget the conversation, keep the system prompt
/system [TEXT]   set the system prompt; without TEXT remove it
/regen           answer the last message again
/stats           timings and memory of the last answer
/save FILE       write the conversation as JSON
/load FILE       read it back
/exit            leave, as do Ctrl-D and Ctrl-C
A line that ends in \\ goes on in the next one.`;

/** Talks until the input ends or the user leaves; resolves to the exit code. */
export async function converse(model: Model, conversation: Conversation, io: Io): Promise<number> {
  if (conversation.template === undefined && model.tokenizer.spec.chatTemplate === undefined) {
    throw new BitnetError('no-template', 'the model has no chat template', {
      where: model.info.name,
      hint: 'give one with --chat-template or --chat-template-file, or use `bitnet run -p`',
    });
  }
  return new Repl(model, conversation, io).run();
}

class Repl {
  readonly #model: Model;
  readonly #conversation: Conversation;
  readonly #io: Io;
  readonly #session: ReturnType<Model['createSession']>;
  readonly #lines: Lines;
  #messages: ChatMessage[] = [];
  /** Aborts the answer being written, if there is one. */
  #answering: AbortController | undefined;
  /** The next Ctrl-C leaves. */
  #leaving = false;
  #left = false;
  /** Of the last answer, if it was not stopped. */
  #last: GenerateResult | undefined;
  #regenerations = 0;

  constructor(model: Model, conversation: Conversation, io: Io) {
    this.#model = model;
    this.#conversation = conversation;
    this.#io = io;
    this.#session = model.createSession(conversation.session);
    this.#setSystem(conversation.system);
    this.#lines = openLines(() => this.#interrupt());
  }

  async run(): Promise<number> {
    const release = this.#io.interceptInterrupt(() => this.#interrupt());
    try {
      if (this.#io.inIsTerminal && !this.#conversation.quiet) this.#io.note('/help lists commands, Ctrl-D leaves.');
      for (;;) {
        const line = await this.#read();
        if (line === undefined || this.#left) break;
        this.#leaving = false;
        if (line.startsWith('/')) {
          if (await this.#interactively(() => this.#command(line))) break;
        } else if (line.trim() !== '') {
          await this.#interactively(() => this.#ask(line));
        }
        if (this.#io.signal.aborted) throw this.#io.signal.reason;
      }
      return this.#left ? 130 : 0;
    } finally {
      release();
      this.#lines.close();
    }
  }

  async #read(): Promise<string | undefined> {
    let text = '';
    for (let prompt = '> '; ; prompt = '. ') {
      const line = await this.#lines.next(prompt);
      if (line === undefined) return text === '' ? undefined : text;
      if (!line.endsWith('\\')) return text + line;
      text += `${line.slice(0, -1)}\n`;
    }
  }

  /** At a keyboard a refusal is an answer; a script must notice it. */
  async #interactively<T>(act: () => Promise<T>): Promise<T | undefined> {
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof BitnetError) || !this.#io.inIsTerminal) throw error;
      this.#io.note(`${error.code}: ${error.message}`);
      return undefined;
    }
  }

  #interrupt(): void {
    if (this.#answering !== undefined && !this.#answering.signal.aborted) {
      this.#answering.abort();
      this.#leaving = true;
    } else if (this.#leaving) {
      this.#left = true;
      this.#lines.close();
    } else {
      this.#leaving = true;
      this.#io.note('\n(Ctrl-C again leaves)');
    }
  }

  /** True to leave. */
  async #command(line: string): Promise<boolean> {
    const [, name, rest] = /^\/(\S*)\s*([\s\S]*)$/.exec(line)!;
    switch (name) {
      case 'exit':
      case 'quit':
      case 'bye':
        return true;
      case 'help':
      case '?':
        this.#io.note(HELP);
        break;
      case 'clear':
        this.#messages = this.#messages.filter(({ role }) => role === 'system');
        break;
      case 'system':
        this.#setSystem(rest === '' ? undefined : rest);
        break;
      case 'regen':
        await this.#regenerate();
        break;
      case 'stats':
        this.#io.note(this.#last === undefined ? 'there is no finished answer' : statistics(this.#model, this.#last));
        break;
      case 'save':
        await this.#save(rest);
        break;
      case 'load':
        await this.#load(rest);
        break;
      default:
        this.#io.note(`unknown command /${name}; /help lists them`);
    }
    return false;
  }

  #setSystem(text: string | undefined): void {
    const others = this.#messages.filter(({ role }) => role !== 'system');
    this.#messages = text === undefined ? others : [{ role: 'system', content: text }, ...others];
  }

  async #ask(text: string): Promise<void> {
    this.#regenerations = 0;
    this.#messages.push({ role: 'user', content: text });
    try {
      await this.#answer();
    } catch (error) {
      this.#messages.pop();
      throw error;
    }
  }

  async #regenerate(): Promise<void> {
    if (this.#messages.at(-1)?.role === 'assistant') this.#messages.pop();
    if (this.#messages.at(-1)?.role !== 'user') {
      this.#io.note('there is nothing to answer again');
      return;
    }
    this.#regenerations++;
    await this.#answer();
  }

  /** Streams an answer to the last message and remembers it, whole or stopped. */
  async #answer(): Promise<void> {
    const { options, template, quiet, stats } = this.#conversation;
    const seed = options.seed === undefined || options.seed < 0 ? undefined : options.seed + this.#regenerations;
    this.#answering = new AbortController();
    const generation = this.#session.chat(this.#messages, {
      ...options,
      ...(seed === undefined ? {} : { seed }),
      ...(template === undefined ? {} : { template }),
      signal: AbortSignal.any([this.#answering.signal, this.#io.signal]),
    });
    let text = '';
    let result: GenerateResult | undefined;
    try {
      for await (const piece of generation) {
        text += piece.text;
        await this.#io.write(piece.text);
      }
      result = await generation.result;
    } catch (error) {
      if (!this.#answering.signal.aborted) throw error;
    } finally {
      const stopped = this.#answering.signal.aborted;
      this.#answering = undefined;
      if (text !== '' && !text.endsWith('\n')) await this.#io.write('\n');
      if (stopped && !quiet) this.#io.note('(stopped)');
    }
    this.#messages.push({ role: 'assistant', content: text });
    this.#last = result;
    if (result === undefined) return;
    if (stats) this.#io.note(statistics(this.#model, result));
    else if (!quiet && this.#io.errIsTerminal) this.#io.note(summary(result));
  }

  async #save(path: string): Promise<void> {
    const { name, architecture } = this.#model.info;
    const document = { model: { name, architecture }, messages: this.#messages };
    await file(path, () => writeFile(path, `${JSON.stringify(document, null, 2)}\n`));
    this.#io.note(`saved ${this.#messages.length} messages`);
  }

  async #load(path: string): Promise<void> {
    const text = await file(path, () => readFile(path, 'utf8'));
    this.#messages = messagesOf(path, text);
    this.#io.note(`loaded ${this.#messages.length} messages`);
  }
}

async function file<T>(path: string, act: () => Promise<T>): Promise<T> {
  if (path === '') throw new BitnetError('bad-argument', 'a file name is missing');
  try {
    return await act();
  } catch (error) {
    throw ioError(path, 'cannot be read or written', error);
  }
}

/** The messages of a saved conversation, or of a bare array of messages. */
export function messagesOf(path: string, text: string): ChatMessage[] {
  const refuse = (got: string): never => {
    throw new BitnetError('bad-argument', 'not a saved conversation', {
      where: path,
      expected: '{ "messages": [{ "role": ..., "content": ... }, ...] }',
      got,
    });
  };
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    refuse('text that is not JSON');
  }
  const messages: unknown = Array.isArray(document) ? document : (document as { messages?: unknown } | null)?.messages;
  if (!Array.isArray(messages)) return refuse(show(document));
  return messages.map((message: { role?: unknown; content?: unknown } | null) => {
    const { role, content } = message ?? {};
    if (typeof role !== 'string' || typeof content !== 'string') return refuse(show(message));
    return { role, content };
  });
}
