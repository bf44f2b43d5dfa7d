/**
 * Lines from the keyboard or a pipe, one at a time, whatever is going on meanwhile.
 * @module
 */

import process from 'node:process';
import { createInterface } from 'node:readline';

export interface Lines {
  /** The next line; undefined at the end of input. `prompt` is shown on a terminal only. */
  next(prompt: string): Promise<string | undefined>;
  /** Ends waiting, gives the terminal back. */
  close(): void;
}

/** @param onInterrupt Ctrl-C on a terminal, which readline sees instead of the process. */
export function openLines(onInterrupt: () => void): Lines {
  const interactive = process.stdin.isTTY === true;
  // The prompt and the echo go to stderr: stdout has nothing but answers, and can be a file.
  const readline = createInterface({
    input: process.stdin,
    ...(interactive ? { output: process.stderr } : {}),
    terminal: interactive,
    historySize: 200,
  });
  // Lines that come while an answer is being written wait here; readline itself would drop them.
  const waiting: string[] = [];
  let wanted: ((line: string | undefined) => void) | undefined;
  let ended = false;

  const settle = (line: string | undefined): void => {
    const resolve = wanted;
    wanted = undefined;
    resolve?.(line);
  };
  readline.on('line', (line) => (wanted === undefined ? waiting.push(line) : settle(line)));
  readline.on('close', () => {
    ended = true;
    settle(undefined);
  });
  readline.on('SIGINT', onInterrupt);

  return {
    next(prompt) {
      if (waiting.length > 0) return Promise.resolve(waiting.shift());
      if (ended) return Promise.resolve(undefined);
      if (interactive) {
        readline.setPrompt(prompt);
        readline.prompt();
      }
      return new Promise((resolve) => {
        wanted = resolve;
      });
    },
    close() {
      readline.close();
      process.stdin.pause();
    },
  };
}
