/** SIGKILL in the middle of a generation with threads: nothing of the program is left. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, expect, it } from 'vitest';
import { root, runtimes, wantRuntime } from './runtimes.ts';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-kill-'));
const script = join(folder, 'endless.mjs');
// Starts over and over; says its own number, because a runtime may be started by a script that is another process.
writeFileSync(
  script,
  `import { loadModel } from ${JSON.stringify(pathToFileURL(join(root, 'dist/index.js')).href)};
   const model = await loadModel(${JSON.stringify(join(root, 'fixtures/models/stories.gguf.gz'))}, { threads: 2 });
   for (let i = 0; ; i++) {
     await model.createSession().generate('Once', { maxTokens: 20, ignoreEos: true }).result;
     if (i === 0) console.log(process.pid + ' generates');
   }`,
);

let child: ChildProcess | undefined;

afterEach(() => {
  child?.kill('SIGKILL');
});

/** Numbers of the processes whose command line names the script. */
function survivors(): string[] {
  return readdirSync('/proc').filter((name) => {
    try {
      return /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(script);
    } catch {
      return false; // it ended just now
    }
  });
}

it.runIf(existsSync('/proc/self/task')).each(runtimes)(
  'SIGKILL leaves nothing of $name behind',
  async (runtime) => {
    wantRuntime(runtime);
    child = spawn(runtime.command, [...runtime.args, script], { stdio: ['ignore', 'pipe', 'inherit'] });
    const { stdout } = child;
    const pid = await new Promise<string>((resolve, reject) => {
      let text = '';
      stdout?.setEncoding('utf8').on('data', (piece) => {
        text += piece;
        const match = /^(\d+) generates/m.exec(text);
        if (match !== null) resolve(match[1]);
      });
      child?.on('exit', (code) => reject(new Error(`ended with ${code}`)));
    });
    expect(survivors()).toContain(pid);
    // The worker thread belongs to the process: two threads compute.
    expect(readdirSync(`/proc/${pid}/task`).length).toBeGreaterThan(2);
    process.kill(Number(pid), 'SIGKILL');
    const deadline = Date.now() + 5_000;
    while (survivors().length > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(survivors()).toEqual([]);
  },
  60_000,
);
