/**
 * A part of `npm run matrix` that is small enough for every run of the tests: one digest a model on every runtime, under every
 * group of settings. What may be left out where is listed here; whatever else is left out fails.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { root } from './runtimes.ts';

interface Cell {
  readonly model: string;
  readonly column: string;
  readonly variants: readonly string[];
  readonly digests: Readonly<Record<string, readonly string[]>>;
  readonly missing: readonly { readonly setting: string; readonly reason: string }[];
}

interface Report {
  readonly models: readonly { readonly name: string; readonly sha256: string }[];
  readonly rows: readonly { readonly name: string; readonly absent?: string; readonly cells: readonly Cell[] }[];
  readonly faults: readonly string[];
}

const WIDE = { wide: /^no switch for wide vectors$/ };
const ONE_THREAD = /^\d threads asked for, 1 used: this runtime offers no threads$/;
const PLAIN_PAGE = Object.fromEntries(
  ['threads', 'decode', 'cache', 'dot', 'relaxed', 'simd', 'scalar', 'wide'].map((column) => [column, ONE_THREAD]),
);
const FEW_THREADS = { threads: /^no more than 2 threads are tried here$/ };
const x86 = process.arch === 'x64';

/** Row, what it leaves out and why, and the part of the matrix. */
const ROWS: readonly { name: string; missing: Readonly<Record<string, RegExp>>; part?: readonly string[] }[] = [
  {
    name: 'node 20',
    missing: { dot: /^self-test failed: ternaryMatmul/, wide: /^self-test failed: ternaryMatmul|^no switch for wide/ },
  },
  { name: 'node 22', missing: x86 ? {} : WIDE, part: ['--models', 'stories,bitnet-b1.58,gemma3'] },
  { name: 'node 24', missing: WIDE, part: ['--models', 'stories,bitnet-b1.58,gemma3'] },
  { name: 'node 26', missing: x86 ? {} : WIDE },
  { name: 'deno', missing: WIDE },
  { name: 'bun', missing: WIDE },
  { name: 'chromium isolated', missing: WIDE },
  { name: 'chromium plain', missing: PLAIN_PAGE, part: ['--models', 'stories'] },
  { name: 'firefox isolated', missing: WIDE },
  { name: 'firefox plain', missing: PLAIN_PAGE, part: ['--models', 'stories'] },
  // Some fifty times slower than the machine.
  {
    name: 'aarch64',
    missing: FEW_THREADS,
    part: ['--models', 'bitnet-b1.58', '--columns', 'ts,threads,dot,relaxed,simd,scalar'],
  },
];

describe('one digest for each model', () => {
  it.for(ROWS)('$name', { timeout: 600_000 }, async ({ name, missing, part = [] }, { skip }) => {
    const args = ['test/runtime/matrix/run.mjs', '--gate', '--json', '--rows', name, ...part];
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root, maxBuffer: 64 << 20 }).catch(
      (error) => error as { stdout: string },
    );
    const { rows, models, faults } = JSON.parse(stdout) as Report;
    expect(faults, 'see test/engine/numerics.test.ts for what to do about a changed digest').toEqual([]);
    expect(rows.length).toBe(1);
    const [{ absent, cells }] = rows;
    if (absent !== undefined) {
      // npm brings what it says; browsers, qemu and another Node than the one that runs this are the machine's.
      expect(absent).not.toMatch(/^npm ci/);
      skip(absent);
    }
    expect(cells.length).toBeGreaterThanOrEqual(models.length * 6);
    for (const { model, column, variants, digests, missing: left } of cells) {
      const { sha256 } = models.find((one) => one.name === model)!;
      const where = `${model}, ${column}`;
      // What is taken when nothing is asked for is never the slowest.
      if (column === 'threads') for (const one of variants) expect(one, where).toMatch(/^(dot|relaxed|simd)/);
      for (const { reason } of left) expect(reason, where).toMatch(missing[column] ?? /^nothing may be missing$/);
      if (left.length === 0) expect(missing[column], where).toBeUndefined();
      expect(
        Object.keys(digests).filter((digest) => digest !== sha256),
        where,
      ).toEqual([]);
      if (column !== 'wide' && !(name === 'node 20' && column === 'dot'))
        expect(Object.keys(digests), where).toEqual([sha256]);
    }
  });
});

describe('what the matrix says', () => {
  it('refuses a row that there is not', async () => {
    const args = [join(root, 'test/runtime/matrix/run.mjs'), '--rows', 'node 19'];
    await expect(promisify(execFile)(process.execPath, args)).rejects.toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^no "node 19" among: node 20; /),
    });
  });
});
