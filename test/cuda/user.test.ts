/**
 * What the first hours with the cuda backend turn up: libraries that cannot be read, options of the wrong type, permissions that are
 * missing, a compiler that is ended or is another, and sessions until the card is full.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { cuda } from '../../src/engine/backends.ts';
import { BitnetError } from '../../src/errors.ts';
import { loadModel, type Session } from '../../src/index.ts';
import { synthesized } from '../../src/oracle/kit/models.ts';
import { root, runIn, runtimes, wantRuntime } from '../runtime/runtimes.ts';
import { onShim, SHIM_MEMORY, shim, shimPath } from './shim.ts';

vi.setConfig({ testTimeout: 120_000 });

const scratch = mkdtempSync(join(tmpdir(), 'bitnet-cuda-'));
afterAll(() => rmSync(scratch, { recursive: true }));

async function refusal(act: () => unknown): Promise<[code: string, message: string]> {
  try {
    await act();
  } catch (error) {
    if (error instanceof BitnetError) return [error.code, error.message];
    throw error;
  }
  throw new Error('nothing was refused');
}

describe('a library or a device that cannot be', () => {
  const isRoot = process.getuid?.() === 0;
  const unreadable = join(scratch, 'unreadable.so');
  writeFileSync(unreadable, 'whatever');
  chmodSync(unreadable, 0);

  // Who may read everything still cannot read this: a file whose first byte is not there.
  it.skipIf(process.platform !== 'linux').each(['/proc/self/mem', ...(isRoot ? [] : [unreadable])])(
    'is said to be unreadable: %s',
    async (library) => {
      expect(await refusal(cuda({ library }))).toEqual([
        'backend-unavailable',
        expect.stringMatching(
          /^backend cuda: .+ cannot be read, got E(IO|ACCES): .+ \(who runs this has to read it\)$/,
        ),
      ]);
    },
  );

  it.each([5, new URL('file:///x.so'), {}])('is named by a text, not by %s', async (library) => {
    const [code, message] = await refusal(cuda({ library: library as unknown as string }));
    expect([code, message]).toEqual(['bad-argument', expect.stringMatching(/^backend cuda: library: not the path/)]);
  });

  it.each([
    [99_999, '99999'],
    ['0', '"0"'],
  ])('is a number that some device could have, not %j', async (device, shown) => {
    const got = await refusal(cuda({ device: device as number }));
    const expected = `backend cuda: device: not the number of a device, expected an integer from 0 to 1023, got ${shown}`;
    expect(got).toEqual(['bad-argument', expected]);
  });

  it('may be named where Deno does not look', async () => {
    const deno = runtimes.find(({ name }) => name === 'deno')!;
    wantRuntime(deno);
    const elsewhere = join(scratch, 'package');
    cpSync(join(root, 'dist'), join(elsewhere, 'dist'), { recursive: true, filter: (path) => !path.endsWith('.so') });
    const script = join(elsewhere, 'open.mjs');
    writeFileSync(
      script,
      `import { cuda } from './dist/engine/backends.js';\nawait cuda()().catch((error) => console.log(error.message));\n`,
    );
    const allowing = (...flags: string[]) =>
      runIn({ ...deno, args: ['run', '--no-lock', '--no-prompt', '--allow-read', '--allow-ffi', ...flags] }, script);
    expect((await allowing()).stdout).toMatch(
      /needs nvcc, not a GPU; BITNET_CUDA_LIBRARY is read with --allow-env\)$/m,
    );
    expect((await allowing('--allow-env')).stdout).toMatch(/needs nvcc, not a GPU\)$/m);
  });
});

describe.skipIf(shimPath === undefined)('sessions until the card is full', () => {
  afterEach(() => shim('memory', SHIM_MEMORY));

  it('leave room for what each of them does next', async () => {
    const file = await synthesized({ preset: 'tiny', architecture: 'bitnet-b1.58' });
    shim('memory', 24 << 20);
    const model = await loadModel(file, { backend: onShim, batchSize: 8, planFor: { contextSize: 64 } });
    const sessions: Session[] = [];
    let last: [string, string] | undefined;
    // Long ones, then ever shorter ones, down to a position: up to the last byte that a session can have.
    for (let contextSize = 2048; contextSize >= 1; ) {
      try {
        sessions.push(model.createSession({ contextSize }));
      } catch (error) {
        if (!(error instanceof BitnetError)) throw error;
        last = [error.code, error.message];
        contextSize >>= 1;
      }
    }
    expect(last).toEqual([
      'out-of-memory',
      expect.stringMatching(
        /^context: no room for the keys and values of 1 positions, .*, some of which the driver needs \(/,
      ),
    ]);
    const texts = [sessions[0], sessions.at(-2)].map(
      (session) => session?.generate([3], { maxTokens: 1, topK: 5 }).result,
    );
    for (const { tokens } of (await Promise.all(texts)).filter((text) => text !== undefined))
      expect(tokens.length).toBe(1);
    await model.dispose();
  });
});

/** In place of nvcc: takes a minute, or fails at one file, or makes kernels that keep registers in memory. */
const COMPILER = `#!/bin/bash
[ "$1" = --version ] && { echo 'Cuda compilation tools, release 12.4, V12.4.1'; exit; }
while [ $# -gt 0 ]; do
  case "$1" in
    --keep-dir) kept=$2 ;;
    -o) out=$2 ;;
    *attention.cu) [ "$WHAT" = fails ] && { sleep 1; echo 'attention.cu(1): error'; exit 1; } ;;
  esac
  shift
done
if [ "$WHAT" != spills ]; then
  sleep 60 > /dev/null 2>&1 &
  echo $! >> "$PIDS"
  wait
fi
touch "$out"
[ -z "$kept" ] && exit
echo '.visible .entry ropeKernel()' > "$kept/k.ptx"
echo "ptxas info : Compiling entry function '_ZN2bn10ropeKernelE' for 'sm_90'
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info : Used 255 registers, 0 bytes smem"
`;

describe.skipIf(!existsSync('/bin/bash'))('bitnet build-cuda', () => {
  const bin = join(scratch, 'bin');
  const pids = join(scratch, 'pids');
  const temporary = join(scratch, 'tmp');
  mkdirSync(bin);
  mkdirSync(temporary);
  writeFileSync(join(bin, 'nvcc'), COMPILER, { mode: 0o755 });
  writeFileSync(join(bin, 'cuobjdump'), '#!/bin/bash\n', { mode: 0o755 });

  /** Runs it, or the script that is behind it, with that compiler; `during` is called once two files are being compiled. */
  async function build(what: string, script: string, args: readonly string[], during?: (pid: number) => void) {
    rmSync(pids, { force: true });
    const env = { ...process.env, NVCC: join(bin, 'nvcc'), WHAT: what, PIDS: pids, TMPDIR: temporary };
    const out = join(scratch, 'out', `${what}.so`);
    const child = spawn(
      process.execPath,
      [join(root, script), ...args, '--jobs', '2', script.endsWith('mjs') ? '--out' : '-o', out],
      { env },
    );
    let log = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (log += text));
    const closed = once(child, 'close');
    if (during !== undefined) {
      await vi.waitUntil(() => existsSync(pids) && readFileSync(pids, 'utf8').trim().split('\n').length === 2, 20_000);
      during(child.pid ?? 0);
    }
    const [status] = await closed;
    const started = existsSync(pids) ? readFileSync(pids, 'utf8').trim().split('\n').map(Number) : [];
    return { status, log, made: existsSync(out), alive: started.filter(isAlive), left: readdirSync(temporary) };
  }

  it.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)('ends with its compilers at %s', async (signal, code) => {
    const ended = await build('waits', 'dist/cli/main.js', ['build-cuda'], (pid) => process.kill(pid, signal));
    expect(ended).toMatchObject({ status: code, made: false, alive: [], left: [] });
    expect(ended.log).not.toContain('does not compile');
  });

  it('ends with its compilers when one of them fails', async () => {
    const failed = await build('fails', 'dist/cli/main.js', ['build-cuda']);
    expect(failed).toMatchObject({ status: 1, made: false, alive: [], left: [] });
    expect(failed.log).toContain('build:cuda: attention.cu does not compile:\nattention.cu(1): error');
  });

  it('takes kernels of another nvcc that keep registers in memory, which the script of the clone does not', async () => {
    const [strict, kind] = [
      await build('spills', 'src/kernels/cuda/build.mjs', []),
      await build('spills', 'dist/cli/main.js', ['build-cuda']),
    ];
    expect(strict).toMatchObject({ status: 1, made: false, left: [] });
    expect(strict.log).toContain('build:cuda: registers in memory: ropeKernel (sm_90)');
    expect(kind).toMatchObject({ status: 0, made: true, left: [] });
    expect(kind.log).toContain('registers in memory: ropeKernel (sm_90)');
  });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1][0] !== 'Z';
  } catch {
    return false;
  }
}
