/**
 * The package as it would be published: packed, unpacked beside nothing but the dependencies that it names, and used from there.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { root, runIn, runtimes, wantRuntime } from './runtimes.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  readonly name: string;
  readonly version: string;
  readonly bin: Record<string, string>;
  readonly exports: Record<string, unknown>;
  readonly dependencies: Record<string, string>;
};
/** Modules by the names that users import them by. */
const modules = Object.keys(manifest.exports)
  .filter((subpath) => typeof manifest.exports[subpath] === 'object')
  .map((subpath) => subpath.replace('.', manifest.name));

const folder = mkdtempSync(join(tmpdir(), 'bitnet-package-'));
const packed = join(folder, 'node_modules', manifest.name);
const user = join(folder, 'user.mjs');

beforeAll(() => {
  execFileSync('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder], { cwd: root });
  mkdirSync(packed, { recursive: true });
  execFileSync('tar', [
    '-xzf',
    join(folder, `${manifest.name}-${manifest.version}.tgz`),
    '--strip-components=1',
    '-C',
    packed,
  ]);
  for (const name of Object.keys(manifest.dependencies)) {
    mkdirSync(dirname(join(folder, 'node_modules', name)), { recursive: true });
    symlinkSync(join(root, 'node_modules', name), join(folder, 'node_modules', name));
  }
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  writeFileSync(
    user,
    `import { fileURLToPath } from 'node:url';
const modules = ${JSON.stringify(modules)};
const names = await Promise.all(modules.map(async (name) => Object.keys(await import(name)).sort()));
const { loadModel } = await import('${manifest.name}');
const model = await loadModel(fileURLToPath(import.meta.resolve('${manifest.name}/stories.gguf.gz')));
const { text } = await model.createSession().generate('Once', { maxTokens: 12, temperature: 0 }).result;
await model.dispose();
console.log(JSON.stringify({ names, text }));
`,
  );
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What the sources export, by module. */
async function exported(): Promise<string[][]> {
  return Promise.all(
    modules.map(async (name) => {
      const { default: file } = manifest.exports[name.replace(manifest.name, '.')] as { readonly default: string };
      const source = file.replace('./dist/', '../../src/').replace(/js$/, 'ts');
      return Object.keys((await import(source)) as object).sort();
    }),
  );
}

describe('the package', () => {
  it.each(runtimes)('is imported by its names and tells a story on $name', async (runtime) => {
    wantRuntime(runtime);
    const { names, text } = JSON.parse((await runIn(runtime, user)).stdout);
    expect(names).toEqual(await exported());
    expect(text).toMatch(/^ upon a time/);
  });

  it('brings its program', async () => {
    const program = join(packed, manifest.bin.bitnet);
    expect((await runIn(runtimes[0], program, ['--version'])).stdout).toMatch(new RegExp(`^${manifest.version} `));
    expect((await runIn(runtimes[0], program, ['run', '-n', '3', '--quiet'])).stdout.length).toBeGreaterThan(5);
  });

  it('has types that a strict program can use', () => {
    const names = modules.map((name, i) => `import * as m${i} from '${name}';`).join('\n');
    writeFileSync(
      join(folder, 'user.ts'),
      `${names}
import { type Backend, loadModel, type Model } from '${manifest.name}';
export const model: Promise<Model> = loadModel('x.gguf', { backend: async (): Promise<Backend> => m1.ts()() });
// @ts-expect-error: no such option
export const wrong = loadModel('x.gguf', { bakend: 'ts' });
export const all = [${modules.map((_, i) => `m${i}`)}];
`,
    );
    expect(modules[1]).toBe(`${manifest.name}/backends`);
    const options = ['--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2022,dom', '--types', ''];
    for (const resolution of [
      ['--module', 'nodenext'],
      ['--module', 'esnext', '--moduleResolution', 'bundler'],
    ]) {
      const tsc = join(root, 'node_modules/.bin/tsc');
      const { status, stdout } = spawnSync(tsc, [...options, ...resolution, 'user.ts'], {
        cwd: folder,
        encoding: 'utf8',
      });
      expect([status, stdout]).toEqual([0, '']);
    }
  });

  it('has no file that only its own project needs', () => {
    const top = readdirSync(packed).sort();
    expect(top).toEqual(['LICENSE', 'README.md', 'dist', 'docs', 'fixtures', 'package.json', 'src']);
    const unwanted = readdirSync(packed, { recursive: true, encoding: 'utf8' }).filter((path) =>
      /\.test\.|\.so$|tsbuildinfo/.test(path),
    );
    expect(unwanted).toEqual([]);
  });
});
