/**
 * From a file to a model that is ready, and from a command to its first word. Files are read from the page cache: the
 * warm-up has put them there. That is what a second start costs; a first one costs what the disk costs.
 */

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { type PresetName, presets } from '../src/convert/presets.ts';
import { synthesize } from '../src/convert/synth.ts';
import { openModelFile } from '../src/engine/model.ts';
import { readTokenizerSpec } from '../src/engine/read-tokenizer.ts';
import { loadModel } from '../src/index.ts';
import { createFileSink } from '../src/platform/source-node.ts';
import { createTokenizer } from '../src/tokenizer/index.ts';
import { type Case, type Options, ROOT, type Suite } from './harness.ts';

const MAIN = fileURLToPath(new URL('dist/cli/main.js', ROOT));

export const load: Suite = {
  name: 'load',
  async *cases(options) {
    // Only a process knows what a process costs, so the built program is run as a user would.
    if (existsSync(MAIN)) yield firstWord();
    const file = new ModelFile(options);
    const onFile = (what: string, run: (path: string) => Promise<void>, readsAll = false): Case => ({
      name: `load/${what}`,
      work: () => (readsAll ? { bytes: file.bytes } : {}),
      slow: true,
      async prepare() {
        const path = await file.path();
        return { run: () => run(path) };
      },
    });
    try {
      yield onFile('open', async (path) => (await openModelFile(path)).close());
      yield onFile('open, and make the tokenizer', async (path) => {
        const gguf = await openModelFile(path);
        createTokenizer(readTokenizerSpec(gguf));
        await gguf.close();
      });
      for (const threads of options.threads) {
        const ready = async (path: string) => {
          const model = await loadModel(path, { backend: options.backend, threads });
          await model.dispose();
        };
        yield onFile(`ready t=${threads}`, ready, true);
      }
    } finally {
      file.remove();
    }
  },
};

/** The file of `--model`, or one of random weights that is made when first asked for. */
class ModelFile {
  readonly #options: Options;
  #made: { readonly folder: string; readonly path: string } | undefined;
  bytes = 0;

  constructor(options: Options) {
    this.#options = options;
  }

  async path(): Promise<string> {
    const path = this.#options.model ?? this.#made?.path ?? (await this.#make());
    this.bytes = statSync(path).size;
    return path;
  }

  async #make(): Promise<string> {
    const { preset } = this.#options;
    if (!Object.hasOwn(presets, preset)) throw new Error(`--preset takes ${Object.keys(presets).join(', ')}`);
    const folder = mkdtempSync(join(tmpdir(), 'bitnet-bench-'));
    const path = join(folder, `${preset}.gguf`);
    this.#made = { folder, path };
    await synthesize(await createFileSink(path), { preset: preset as PresetName });
    return path;
  }

  remove(): void {
    if (this.#made !== undefined) rmSync(this.#made.folder, { recursive: true, force: true });
  }
}

function firstWord(): Case {
  return {
    name: 'load/first word of the built-in model, by a new process',
    slow: true,
    prepare: () => ({ run: () => new Promise<void>(startAndWait) }),
  };
}

function startAndWait(resolve: () => void, reject: (error: Error) => void): void {
  const args = [MAIN, 'run', '-p', 'Once', '-n', '8', '--no-display-prompt', '-q', '--seed', '1'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  // What it would do after the first word is not waited for, and must not run beside the next one's start.
  child.stdout.once('data', () => {
    resolve();
    child.kill('SIGKILL');
  });
  child.once('error', reject);
  child.once('close', (code) => reject(new Error(`ended without a word, exit code ${code}`)));
}
